"""``python -m starmill.hyper config.yaml``."""

from starmill.hyper.command import main

if __name__ == "__main__":
    main()
