"""Flags of an image kept as a list, and the pixels that flags exclude, without planes of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.kernels.pixel_limits import paste_flags

__all__ = ["FlagList", "FlaggedPixels", "bad_positions", "flag_plane"]

_MOST = (
    6  # a list of 5 bytes for each flagged pixel saves nothing when more than one pixel in so many has flags
)


class FlagList:
    """Flags of an image of which few pixels have any.

    Parameters
    ----------
    bands : iterable of (rows, nx) uint8 arrays
        The flags, from the first row to the last; not kept.
    n_columns : int
    """

    ndim = 2

    def __init__(self, bands: Iterable[np.ndarray], n_columns: int) -> None:
        counts, columns, values = [], [], []
        for flags in bands:
            y, x = np.divmod(np.flatnonzero(flags != 0), n_columns)
            counts.append(np.bincount(y, minlength=len(flags)))
            columns.append(x.astype(np.int32))
            values.append(flags[y, x])
        self._first = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        self._columns, self._values = np.concatenate(columns), np.concatenate(values)
        self.shape = (len(self._first) - 1, n_columns)

    @classmethod
    def joined(cls, parts: list[FlagList]) -> FlagList:
        """Return one list from those of consecutive bands."""
        out = cls.__new__(cls)
        starts = np.cumsum([0] + [part.count for part in parts])
        firsts = [part._first[:-1] + start for part, start in zip(parts, starts, strict=False)]
        out._first = np.concatenate([*firsts, starts[-1:]])
        out._columns = np.concatenate([part._columns for part in parts])
        out._values = np.concatenate([part._values for part in parts])
        out.shape = (len(out._first) - 1, parts[0].shape[1])
        return out

    @property
    def count(self) -> int:
        """Number of pixels with flags."""
        return len(self._values)

    def above(self, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns of the pixels whose flags are a number above a limit, ``(n,)`` int32 each."""
        y = np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self._first))
        where = self._values > limit
        return y[where], self._columns[where]

    def __getitem__(self, part: slice | tuple[slice, slice]) -> np.ndarray:
        """Return the flags of a part of the image as an array."""
        rows, columns = part if isinstance(part, tuple) else (part, slice(None))
        y0, y1, y_step = rows.indices(self.shape[0])
        x0, x1, x_step = columns.indices(self.shape[1])
        out = np.zeros((len(range(y0, y1, y_step)), len(range(x0, x1, x_step))), np.uint8)
        first = self._first[y0 : max(y0, y1) + 1]
        paste_flags(first, self._columns, self._values, x0, y_step, x_step, out)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.bool_]:
        """Return the flags of the whole image."""
        return np.asarray(self[:], dtype)


def flag_plane(parts: list[FlagList]) -> FlagList | np.ndarray:
    """Return the flags of an image from those of its bands: a list, or a plane when that is smaller."""
    joined = FlagList.joined(parts)
    return np.asarray(joined) if joined.count * _MOST > joined.shape[0] * joined.shape[1] else joined


class FlaggedPixels:
    """Bad pixels of an image from its flags, computed for the parts that are asked for.

    Parameters
    ----------
    flags : (ny, nx) int array or FlagList
        Kept, not copied.
    above : int
        Pixels with a larger value are bad.
    """

    ndim = 2

    def __init__(self, flags: NDArray[np.integer] | FlagList, above: int = 0) -> None:
        self.flags, self.above, self.shape = flags, above, flags.shape

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.bool_]:
        """Return the bad pixels of a part of the image, a bool array."""
        return self.flags[part] > self.above

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.bool_]:
        """Return the bad pixels of the whole image."""
        return np.asarray(self.flags[:] > self.above, dtype)


def bad_positions(bad: NDArray[np.bool_] | FlaggedPixels) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return rows and columns of bad pixels, ``(n,)`` int32 each, in the order of the rows.

    Parameters
    ----------
    bad : (ny, nx) bool array or FlaggedPixels
    """
    if isinstance(bad, FlaggedPixels) and isinstance(bad.flags, FlagList):
        return bad.flags.above(bad.above)
    y, x = np.divmod(np.flatnonzero(bad), bad.shape[1])
    return y.astype(np.int32), x.astype(np.int32)
