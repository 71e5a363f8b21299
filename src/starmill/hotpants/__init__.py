"""Front door for users of the HOTPANTS program."""
