"""Places on the sky where nothing was detected, to measure what noise alone gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.errors import InputError

__all__ = ["disc_offsets", "place_sky_objects", "sky_footprints"]


def disc_offsets(radius: int) -> NDArray[np.int64]:
    """Return the pixels with dx^2 + dy^2 <= radius^2 as (n, 2) offsets dy, dx, in reading order."""
    span = np.arange(-radius, radius + 1)
    dy, dx = np.meshgrid(span, span, indexing="ij")
    inside = dx**2 + dy**2 <= radius**2
    return np.stack([dy[inside], dx[inside]], axis=1)


def _disc_sum(radius: int) -> NDArray[np.int64]:
    """Offsets of a disc that was dilated by a disc of the same radius."""
    size = 4 * radius + 1
    image = np.zeros((size, size), bool)
    image[tuple((disc_offsets(radius) + 2 * radius).T)] = True
    disc = np.zeros((2 * radius + 1, 2 * radius + 1), bool)
    disc[tuple((disc_offsets(radius) + radius).T)] = True
    return np.argwhere(binary_dilation(image, disc)) - 2 * radius


def place_sky_objects(
    mask: NDArray[np.int32],
    avoid_bits: int,
    *,
    seed: int,
    n_objects: int = 100,
    radius: int = 8,
    n_trials: int | None = None,
    grow_mask: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.int64]:
    """Choose well spread positions whose surroundings are free of masked pixels.

    Trial positions follow a scrambled Halton sequence over the box shrunk by ``radius + 1``; a trial is
    taken when no pixel of its disc is masked or lies within ``radius`` of an earlier disc.

    Parameters
    ----------
    mask : (ny, nx) int32 array
    avoid_bits : int
        Bit values of the planes to stay clear of.
    seed : int
        Scrambles the sequence: the exposure id makes it reproducible.
    n_objects : int
        Most positions wanted; fewer come back in a crowded image.
    radius : int, pixel
    n_trials : int, optional
        Five times ``n_objects`` by default.
    grow_mask : int, pixel
        Stay this much further away from masked pixels.
    origin : (x0, y0)
        Parent-frame position of the first pixel.

    Returns
    -------
    positions : (n, 2) int array
        x, y in the parent frame, in the order of the sequence.
    """
    if radius < 0 or n_objects < 0:
        raise InputError(f"radius and number of sky objects must not be negative: {radius}, {n_objects}")
    ny, nx = mask.shape
    margin = radius + 1
    if min(ny, nx) < 2 * margin + 2 or n_objects == 0:
        return np.zeros((0, 2), np.int64)
    blocked = (mask & np.int32(avoid_bits)) != 0
    if grow_mask:
        disc = np.zeros((2 * grow_mask + 1, 2 * grow_mask + 1), bool)
        disc[tuple((disc_offsets(grow_mask) + grow_mask).T)] = True
        blocked = binary_dilation(blocked, disc)
    blocked = np.pad(blocked, margin + radius, constant_values=False)
    from scipy.stats import qmc  # takes a second to import, and few runs need it

    trials = qmc.Halton(d=2, scramble=True, seed=int(seed) % 2**63).random(n_trials or 5 * n_objects)
    low = np.array([origin[0] + margin, origin[1] + margin])
    high = np.array([origin[0] + nx - 1 - margin, origin[1] + ny - 1 - margin])
    points = qmc.scale(trials, low, high).astype(np.int64)
    disc_y, disc_x = disc_offsets(radius).T
    taken_y, taken_x = _disc_sum(radius).T
    chosen = []
    for x, y in points:
        row, column = y - origin[1] + margin + radius, x - origin[0] + margin + radius
        if blocked[row + disc_y, column + disc_x].any():
            continue
        blocked[row + taken_y, column + taken_x] = True
        chosen.append((x, y))
        if len(chosen) == n_objects:
            break
    return np.array(chosen, np.int64).reshape(-1, 2)


def sky_footprints(positions: NDArray[np.int64], radius: int = 8) -> FootprintSet:
    """Return circular footprints with one peak of value zero at each position.

    Parameters
    ----------
    positions : (n, 2) int array
        x, y.
    radius : int, pixel

    Returns
    -------
    footprints : FootprintSet
    """
    rows = np.arange(-radius, radius + 1)
    reach = np.floor(np.sqrt(radius**2 - rows**2 + 1e-9)).astype(np.int64)
    n, m = len(positions), len(rows)
    x, y = positions[:, :1], positions[:, 1:]
    spans = np.stack([y + rows, x - reach, x + reach], axis=-1).reshape(-1, 3)
    peaks = np.zeros(n, PEAK_DTYPE)
    peaks["x"], peaks["y"] = positions[:, 0], positions[:, 1]
    return FootprintSet(spans.astype(np.int32), np.arange(n + 1) * m, peaks, np.arange(n + 1))
