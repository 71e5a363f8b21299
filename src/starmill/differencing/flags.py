"""Pixels that flags exclude, without a plane of booleans."""

from __future__ import annotations

import numpy as np

__all__ = ["FlaggedPixels"]


class FlaggedPixels:
    """Bad pixels of an image from its flags, computed for the parts that are asked for.

    Parameters
    ----------
    flags : (ny, nx) int array
        Kept, not copied.
    above : int
        Pixels with a larger value are bad.
    """

    ndim = 2

    def __init__(self, flags, above=0):
        self.flags, self.above, self.shape = flags, above, flags.shape

    def __getitem__(self, part):
        """Return the bad pixels of a part of the image, a bool array."""
        return self.flags[part] > self.above

    def __array__(self, dtype=None, copy=None):
        """Return the bad pixels of the whole image."""
        return np.asarray(self.flags > self.above, dtype)
