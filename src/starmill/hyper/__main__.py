"""``python -m starmill.hyper config.yaml``: the command ``hyper``.

The command line stands above this package and is run by its name.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("starmill.cli.hyper", run_name="__main__", alter_sys=True)
