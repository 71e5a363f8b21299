"""The one way a kernel is compiled.

Every compiled loop of the package uses :func:`njit` from here, so that the flags
(no GIL, on-disk cache) are the same everywhere and are chosen once, and so that of several processes
that need the same kernel for the first time one compiles it and the others wait for the result.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock

try:
    import fcntl
except ImportError:  # not on Windows: every process compiles for itself
    fcntl = None  # type: ignore[assignment]

_LOCK_NAME = "compile.lock"
_files: dict[tuple[int, str], int] = {}
_held = threading.local()


@contextmanager
def _only_process(folder: str, name: str) -> Iterator[None]:
    """Hold the lock of one kernel among all processes that share a cache folder.

    The locks are single bytes of one file. Where the file system has no locks, nothing is held.
    """
    place = zlib.crc32(name.encode())
    mine: set[int] = _held.__dict__.setdefault("places", set())
    if fcntl is None or place in mine:
        yield
        return
    try:
        file = _lock_file(folder)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
    except OSError:  # a folder that cannot be written, a file system without locks
        yield
        return
    mine.add(place)
    try:
        yield
    finally:
        mine.discard(place)
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


def _lock_file(folder: str) -> int:
    """Return the descriptor of a cache folder's lock file; closing it would give up all locks of the process."""
    key = os.getpid(), folder
    if key not in _files:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _files[key] = os.open(Path(folder) / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    return _files[key]


def _compiled(flags: dict[str, Any], function: Callable[..., Any]) -> Any:
    dispatcher = numba.njit(function, **flags)
    if not hasattr(dispatcher, "compile"):  # compilation is switched off
        return dispatcher
    compile_alone = dispatcher.compile
    name = f"{function.__module__}.{function.__qualname__}"

    def compile_once(signature: Any) -> Any:
        folder = dispatcher._cache.cache_path
        if folder is None:
            return compile_alone(signature)
        with global_compiler_lock, _only_process(folder, name):
            return compile_alone(signature)

    dispatcher.compile = compile_once
    return dispatcher


njit: Any = partial(_compiled, {"nogil": True, "cache": True})
"""Compile a loop: releases the GIL, caches the machine code beside the module."""

fast_njit: Any = partial(_compiled, {"nogil": True, "cache": True, "fastmath": {"contract", "reassoc"}})
"""As :data:`njit`, but sums may be reordered; never for code that tests for NaN."""
