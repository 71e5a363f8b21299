"""``python -m starmill``: the same as the command ``starmill``."""

from starmill.cli.main import main

if __name__ == "__main__":
    main()
