"""The order of steps: typed configuration and run()."""
