"""Front door for users of the HYPER program."""
