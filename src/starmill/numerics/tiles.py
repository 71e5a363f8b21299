"""Threads over tiles: the only parallelism inside one image.

Kernels are serial over a tile and release the interpreter's lock; threads run tiles. Every tile writes its
own pixels or returns its own result, and results come back in the order of the tiles, so that they do not
depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starmill.errors import InputError

__all__ = ["get_threads", "map_tiles", "row_bands", "set_threads"]

Tile = TypeVar("Tile")
Answer = TypeVar("Answer")

_state: dict[str, int] = {}


def get_threads() -> int:
    """Return the number of threads that tiles are spread over.

    The value of :func:`set_threads`, else of the environment variable ``STARMILL_THREADS``, else the number of
    processors this process may use.
    """
    if "threads" not in _state:
        wanted = os.environ.get("STARMILL_THREADS", "")
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        set_threads(int(wanted) if wanted.isdigit() and int(wanted) > 0 else available)
    return _state["threads"]


def set_threads(n: int) -> None:
    """Set the number of threads of this process.

    Parameters
    ----------
    n : int
        At least 1.
    """
    if n < 1:
        raise InputError(f"at least one thread is needed, not {n}")
    _state["threads"] = int(n)


def map_tiles(
    function: Callable[[Tile], Answer], tiles: Iterable[Tile], threads: int | None = None
) -> list[Answer]:
    """Call a function on every tile and return the answers in the order of the tiles.

    Parameters
    ----------
    function : callable
        Must not touch what belongs to another tile.
    tiles : iterable
    threads : int, optional
        As :func:`get_threads` says when not given.

    Returns
    -------
    answers : list
        An exception in a tile is raised here.
    """
    items: Sequence[Tile] = list(tiles)
    n = min(get_threads() if threads is None else threads, len(items))
    if n <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(function, items))


def row_bands(ny: int, rows: int = 256) -> list[tuple[int, int]]:
    """Return first and last (exclusive) rows of bands that cover ``ny`` rows.

    The bands depend on the image only, never on the number of threads.
    """
    return [(y, min(y + rows, ny)) for y in range(0, ny, rows)]
