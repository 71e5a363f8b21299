"""Finding cosmic rays and filling bad pixels."""
