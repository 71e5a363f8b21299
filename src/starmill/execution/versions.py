"""Versions of everything that numbers depend on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import starmill

__all__ = ["versions"]

_PACKAGES = ("numpy", "scipy", "astropy", "numba")


@cache
def versions() -> dict[str, str]:
    """Versions of the package and of the libraries that its numbers depend on."""
    found = {"starmill": starmill.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
