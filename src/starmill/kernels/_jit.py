"""The one way a kernel is compiled.

Every compiled loop of the package uses :func:`njit` from here, so that the flags
(no GIL, on-disk cache) are the same everywhere and are chosen once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba

njit: Any = partial(numba.njit, nogil=True, cache=True)
"""Compile a loop: releases the GIL, caches the machine code beside the module."""

fast_njit: Any = partial(numba.njit, nogil=True, cache=True, fastmath={"contract", "reassoc"})
"""As :data:`njit`, but sums may be reordered; never for code that tests for NaN."""
