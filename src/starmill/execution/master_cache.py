"""Master frames that were read last, kept because every frame of a night reads the same ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

LIMIT = 128 << 20
"""Bytes of pixels that a worker keeps; larger frames cost little to read beside what is done with them."""


class MasterCache:
    """Holds the masters that were used last, by the checksum of their files.

    Parameters
    ----------
    limit : int
        Bytes of pixels; what has not been used for longest goes first.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._total = 0

    def get(self, checksum: str, read: Callable[[], Any]) -> Any:
        """Return a master, which is not to be changed: the next frame gets the same one.

        Parameters
        ----------
        checksum : str
            Of the file.
        read : callable
            Reads it when it is not kept.
        """
        if checksum in self._kept:
            self._kept.move_to_end(checksum)
            return self._kept[checksum][0]
        master = read()
        arrays = (master.pixels.image, master.pixels.mask.array, master.pixels.variance)
        size = sum(array.nbytes for array in arrays)
        if size > self.limit // 3:
            return master
        self._kept[checksum] = (master, size)
        self._total += size
        while self._total > self.limit:
            _, (_, freed) = self._kept.popitem(last=False)
            self._total -= freed
        return master


MASTERS = MasterCache()
"""The masters of this process."""
