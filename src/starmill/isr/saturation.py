"""Saturated pixels and their trails."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starmill.kernels.isr import flagged_pixels

__all__ = ["fill_flagged", "grow_flag", "widen_saturation_trails"]


def grow_flag(mask: NDArray[Any], bit: int, pixels: int = 1) -> None:
    """Grow flagged regions by Manhattan distance, in place.

    Parameters
    ----------
    mask : (ny, nx) int32 array
        Changed.
    bit : int
        The flag that grows.
    pixels : int
        How far.

    Notes
    -----
    Works on the list of flagged pixels: the cost grows with their number, not with the image.
    """
    ny, nx = mask.shape
    y, x = flagged_pixels(mask, int(bit)).T
    for dy in range(-pixels, pixels + 1):
        reach = pixels - abs(dy)
        for dx in range(-reach, reach + 1):
            if dx or dy:
                row, column = np.clip(y + dy, 0, ny - 1), np.clip(x + dx, 0, nx - 1)
                mask[row, column] |= np.int32(bit)


def fill_flagged(image: NDArray[Any], mask: NDArray[Any], bits: int, value: float) -> int:
    """Set the pixels with any of the bits to a value, in place, and return their number.

    Parameters
    ----------
    image, mask : (ny, nx) arrays, float32 and int32
        The image is changed.
    bits : int
    value : float
    """
    positions = flagged_pixels(mask, int(bits))
    image[positions[:, 0], positions[:, 1]] = value
    return len(positions)


def widen_saturation_trails(
    saturated: NDArray[Any], *, half_width: int = 2, minimum_length: int = 10
) -> NDArray[np.bool_]:
    """Widen bleed trails: the charge beside a long trail is not trustworthy either.

    A saturated region that is at least ``minimum_length`` rows high and more than twice as high as
    wide is a trail. Its runs are widened by ``half_width`` columns at the core (the widest row) and
    by less away from it, in proportion to the distance from the nearer end.

    Parameters
    ----------
    saturated : (ny, nx) bool array
    half_width, minimum_length : int

    Returns
    -------
    widened : (ny, nx) bool array
    """
    widened = saturated.copy()
    labels, count = ndimage.label(saturated, np.ones((3, 3), int))
    if count == 0:
        return widened
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if height < minimum_length or height <= 2 * width:
            continue
        region = labels[rows, columns] == label
        core = int(region.sum(axis=1).argmax())
        for i in range(height):
            reach = core if i <= core else height - 1 - core
            fraction = 1.0 - abs(i - core) / (reach + 1)
            extra = int(np.ceil(half_width * fraction))
            x = np.flatnonzero(region[i])
            first = max(0, columns.start + x[0] - extra)
            widened[rows.start + i, first : columns.start + x[-1] + 1 + extra] = True
    return widened
