"""Noise beside the edge of the data, where single scans end and it rises faster than any cell can follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.numerics.statistics import MAD_TO_SIGMA

__all__ = ["BorderZones", "border_zones", "zone_factors"]

ZONES = (1, 1, 2, 4, 8)  # widths of the zones in quarters of a beam, outermost first
ENOUGH = 200  # pixels of a zone; a median absolute deviation of fewer is too uncertain to change anything


@dataclass(frozen=True, slots=True)
class BorderZones:
    """Zones along the edge of the data, and the list of their pixels.

    Attributes
    ----------
    zones : (ny, nx) uint8 array
        1 for the outermost zone, 0 far from all pixels without data and on these.
    y, x : (n,) int arrays
        Pixels of all zones.
    number : (n,) uint8 array
        Their zones.
    """

    zones: NDArray[np.uint8]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    number: NDArray[np.uint8]


def border_zones(valid: NDArray[np.bool_], fwhm: float) -> BorderZones | None:
    """Return numbered zones along the edge of the data by their distance from it.

    Parameters
    ----------
    valid : (ny, nx) bool array
        The edge of the array is no edge of the data.
    fwhm : float, pixel
        Of the beam.

    Returns
    -------
    border : BorderZones or None
        None when every pixel has data.
    """
    if valid.all():
        return None
    zones = np.zeros(valid.shape, np.uint8)
    inside, unit = valid, max(1, round(fwhm / 4))
    for number, width in enumerate(ZONES, start=1):
        smaller = _eroded(inside, width * unit)
        zones[inside & ~smaller] = number
        inside = smaller
    y, x = np.divmod(np.flatnonzero(zones), valid.shape[1])
    return BorderZones(zones, y, x, zones[y, x])


def _eroded(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Mark pixels around which a square of half size ``radius`` is all True; beyond the array everything is."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius, radius)
        rows = np.moveaxis(np.pad(mask, pad, constant_values=True), axis, 0)
        width, wanted = 1, 2 * radius + 1
        while width < wanted:
            step = min(width, wanted - width)
            rows = rows[:-step] & rows[step:]
            width += step
        mask = np.moveaxis(rows, 0, axis)
    return mask


def zone_factors(ratio: NDArray[Any], zone: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return by how much the noise of each zone exceeds what is known of it from farther away.

    Parameters
    ----------
    ratio : (n,) array
        Values over the noise that was assumed, pixels of the zones only; NaN does not count.
    zone : (n,) uint8 array
        Their zones, from 1 on.

    Returns
    -------
    factors : (zones + 1,) float32 array
        At least one; exactly one for zone 0.
    """
    factors = np.ones(len(ZONES) + 1, np.float32)
    for number in range(1, factors.size):
        values = np.abs(ratio[(zone == number) & np.isfinite(ratio)])
        if values.size >= ENOUGH:
            factors[number] = max(1.0, MAD_TO_SIGMA * float(np.median(values)))
    return factors
