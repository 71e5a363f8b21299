"""One thread in the linear algebra libraries while a quantum runs.

OpenBLAS and MKL sum in another order with another number of threads, so that the last bits of a fit would
depend on the machine. With one thread the same input gives the same bytes in a notebook, in a pool and on a
cluster; cores are used by running several quanta at once.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBRARY = re.compile(r"\S*(?:openblas|mkl_rt|libblis|libblas)\S*\.so\S*")
_PREFIXES = ("scipy_openblas", "openblas", "bli_thread", "MKL")
_SUFFIXES = ("64_", "")

Setter = Callable[[int], None]
Getter = Callable[[], int]


@functools.cache
def _controls() -> tuple[tuple[Getter, Setter], ...]:
    """Return functions that get and set the number of threads of every library that is loaded."""
    import numpy as np  # noqa: F401  loads its library
    import scipy.linalg  # noqa: F401  loads its own one

    maps = Path("/proc/self/maps")
    if not maps.exists():
        return ()
    found = []
    for path in sorted({match[0] for match in map(_LIBRARY.search, maps.read_text().splitlines()) if match}):
        try:
            library = ctypes.CDLL(path)
        except OSError:  # not a library of this process after all
            continue
        pair = _find_pair(library)
        if pair is not None:
            found.append(pair)
    return tuple(found)


def _find_pair(library: ctypes.CDLL) -> tuple[Getter, Setter] | None:
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            words = (
                ("Get_Max_Threads", "Set_Num_Threads")
                if prefix == "MKL"
                else ("get_num_threads", "set_num_threads")
            )
            getter = getattr(library, f"{prefix}_{words[0]}{suffix}", None)
            setter = getattr(library, f"{prefix}_{words[1]}{suffix}", None)
            if getter is not None and setter is not None:
                getter.restype, setter.argtypes = ctypes.c_int, [ctypes.c_int]
                return getter, setter
    return None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let linear algebra use one thread inside the block, in this process."""
    before = [(setter, getter()) for getter, setter in _controls()]
    for setter, _ in before:
        setter(1)
    try:
        yield
    finally:
        for setter, count in before:
            setter(count)
