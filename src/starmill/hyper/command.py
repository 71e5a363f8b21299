"""The commands ``hyper``, ``hyper_py`` and ``hyper-py``."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run ``starmill hyper`` with the words of the command line."""
    from starmill.cli.main import main as starmill

    starmill(["hyper", *(sys.argv[1:] if arguments is None else arguments)])
