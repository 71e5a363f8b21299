"""Cosmic rays by Laplacian edge detection (L.A.Cosmic).

The steps and the window sizes are those of the implementations in use (van Dokkum's own and astroscrappy), so that
the same pixels are found. The image is done in tiles; after the first pass only tiles that hold a pixel whose
neighbourhood has changed are looked at again.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.events import CosmicRays, collect, join_touching, no_cosmic_rays
from starmill.errors import InputError, TooManyCosmicRaysError
from starmill.kernels import laplacian as kernel
from starmill.kernels.medians import medians_at
from starmill.numerics.statistics import median
from starmill.numerics.tiles import map_tiles

_FIRST_TILE = (64, 512)  # long rows for the first pass over everything
_LATER_TILE = (64, 64)  # small ones for the surroundings of cosmic rays
_BACKGROUND_STEP = 8
_REACH = kernel.MARGIN + 2  # a new cosmic-ray pixel changes replaced pixels two away, and those the margin


def find_cosmic_rays_laplacian(
    image: NDArray[np.floating],
    variance: NDArray[np.floating] | None = None,
    mask: NDArray | None = None,
    *,
    reject_bits: int = -1,
    read_noise: float = 0.0,
    sky: float = 0.0,
    limit: float = 4.5,
    neighbour_fraction: float = 0.3,
    contrast: float = 5.0,
    n_iterations: int = 4,
    separable: bool = True,
    saturation_level: float | None = None,
    grow_mask: bool = True,
    max_pixels: int = 1_000_000,
    origin: tuple[int, int] = (0, 0),
) -> CosmicRays:
    """Find cosmic rays by their sharp edges and compute the values that replace them.

    Parameters
    ----------
    image : (ny, nx) array, electron
        Pixels that are not finite are never cosmic rays.
    variance : (ny, nx) array, electron**2, optional
        Variance of every pixel. From ``image + sky + read_noise**2`` when not given.
    mask : (ny, nx) int or bool array, optional
        Pixels with any plane of ``reject_bits`` are never taken and not used to replace others.
    reject_bits : int
        Mask planes (all by default).
    read_noise, sky : float, electron
        For the noise when no variance is given: read noise, and a level that was subtracted from the image.
    limit : float
        Least Laplacian significance of a cosmic-ray pixel.
    neighbour_fraction : float
        Least significance of a neighbour of a cosmic-ray pixel, in units of ``limit``.
    contrast : float
        Least ratio of significance to fine structure; raise it when cores of stars are taken.
    n_iterations : int
        Largest number of passes; each starts from the image with the cosmic rays found so far replaced.
    separable : bool
        Use separable medians (7 and 7 for noise and large structure, 5 and 9 for fine structure) instead of
        those of full windows (5, 5, 3 and 7).
    saturation_level : float, electron, optional
        Pixels at or above it in the middle of extended bright patches, and those around, are left out.
    grow_mask : bool
        Leave out the neighbours of masked pixels too.
    max_pixels : int
        Limit on the number of pixels.
    origin : (x0, y0)
        Parent-frame index of the first pixel.

    Returns
    -------
    cosmic_rays : CosmicRays

    Raises
    ------
    TooManyCosmicRaysError
        When more than ``max_pixels`` pixels are found.

    Notes
    -----
    While it iterates, found pixels hold the mean of the good pixels of the 5 x 5 around; the values returned are
    linear predictions, as for the other finder. Pixels within 3 (separable) or 2 pixels of the edge are not found.

    References
    ----------
    van Dokkum 2001, PASP 113, 1420.
    """
    work, noise, blocked = _prepare(image, variance, mask, reject_bits, read_noise**2 + sky)
    saturated = np.zeros((0, 2), np.int64)
    if saturation_level is not None:
        saturated = _saturated_cores(work, float(saturation_level), separable)
    if grow_mask and blocked.any():
        blocked = kernel.dilate_3(blocked)
    blocked[saturated[:, 0], saturated[:, 1]] = True
    limits = (np.float32(limit), np.float32(neighbour_fraction * limit), np.float32(contrast))
    networks = (selection_network(9), selection_network(25))

    def one_tile(tile: tuple[int, int, int, int]) -> NDArray[np.int64]:
        return kernel.find_in_tile(work, noise, blocked, tile, *limits, bool(separable), *networks)

    found = np.zeros(work.shape, bool)
    pixels = np.empty((0, 2), np.int64)
    tiles = _tiles(work.shape)
    for _ in range(n_iterations):
        here = np.concatenate([pixels[:0], *map_tiles(one_tile, tiles)])
        if len(here) == 0:
            break
        pixels = np.concatenate([pixels, here[~found[here[:, 0], here[:, 1]]]])
        if len(pixels) > max_pixels:
            raise TooManyCosmicRaysError(
                "too many pixels look like cosmic rays",
                numbers={"limit": int(max_pixels), "found": len(pixels), "pixels": int(work.size)},
            )
        found[here[:, 0], here[:, 1]] = True
        _replace_by_means(work, noise, blocked, found, pixels)
        tiles = _tiles(work.shape, here)
    if len(pixels) == 0:
        return no_cosmic_rays()
    spans, owners = join_touching(pixels)
    order = np.argsort(owners, kind="stable")
    background = median(work[::_BACKGROUND_STEP, ::_BACKGROUND_STEP])
    return collect(work, noise, blocked, spans[order], owners[order], background=background, origin=origin)


@lru_cache(maxsize=8)
def selection_network(n: int) -> NDArray[np.int64]:
    """Exchanges that bring the median of ``n`` values to place ``n // 2``.

    Returns
    -------
    pairs : (m, 2) int64 array
        For each pair the smaller value goes to the first place. Batcher's odd-even merge sort for the next power of
        two, without places beyond ``n`` (they would hold infinity) and without exchanges that the median does not
        depend on.

    References
    ----------
    Batcher 1968, AFIPS Spring Joint Computer Conf. 32, 307.
    """
    size = 1 << (n - 1).bit_length()
    pairs = []
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j, i in product(range(k % p, size - k, 2 * k), range(k)):
                if i + j + k < n and (i + j) // (2 * p) == (i + j + k) // (2 * p):
                    pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    needed = {n // 2}
    kept = []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            kept.append((low, high))
            needed |= {low, high}
    return np.array(kept[::-1], np.int64)


def _prepare(
    image: NDArray[np.floating],
    variance: NDArray[np.floating] | None,
    mask: NDArray[np.bool_] | None,
    reject_bits: int,
    constant_variance: float,
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]:
    """Finite float32 copies of image and variance, and the pixels to leave out."""
    if image.ndim != 2 or any(a is not None and np.shape(a) != image.shape for a in (variance, mask)):
        shapes = [None if a is None else np.shape(a) for a in (image, variance, mask)]
        raise InputError(f"image, variance and mask need one two-dimensional shape, they have {shapes}")
    work = np.array(image, dtype=np.float32)
    noise = work + np.float32(constant_variance) if variance is None else np.array(variance, dtype=np.float32)
    blocked = np.zeros(work.shape, bool)
    if mask is not None:
        planes = np.asarray(mask)
        blocked = planes.copy() if planes.dtype == bool else (planes & planes.dtype.type(reject_bits)) != 0
    missing = ~(np.isfinite(work) & np.isfinite(noise))
    if missing.any():
        blocked |= missing
        if missing.all():
            return np.zeros_like(work), np.ones_like(noise), blocked
        work[missing] = median(work[~missing])
        noise[missing] = median(noise[~missing])
    return work, noise, blocked


def _saturated_cores(work: NDArray[np.floating], level: float, separable: bool) -> NDArray[np.integer]:
    """Pixels in and around the saturated parts of extended bright patches, (n, 2)."""
    candidates = np.argwhere(work >= level)
    around = medians_at(work, candidates, 3 if separable else 2, bool(separable))
    cores = candidates[around > level / 10]
    # Two growths by a 5 x 5 square without its corners.
    step = [(j, i) for j, i in product(range(-2, 3), repeat=2) if abs(j) + abs(i) < 4]
    offsets = np.array(sorted({(a + c, b + d) for (a, b), (c, d) in product(step, repeat=2)}))
    grown = (cores[:, None, :] + offsets[None, :, :]).reshape(-1, 2)
    inside = np.all((grown >= 0) & (grown < work.shape), axis=1)
    return grown[inside]


def _replace_by_means(
    work: NDArray[np.floating],
    noise: NDArray[np.floating],
    blocked: NDArray[np.bool_],
    found: NDArray[np.bool_],
    pixels: NDArray[np.integer],
) -> None:
    """Put means of the pixels around into found pixels; the median of the image where there are none."""
    kernel.masked_means(work, noise, blocked, found, pixels, np.nan, np.nan)
    y, x = pixels.T
    alone = np.isnan(work[y, x])
    if alone.any():
        work[y[alone], x[alone]] = median(work[~blocked])
        noise[y[alone], x[alone]] = median(noise[~blocked])


def _tiles(
    shape: tuple[int, int], near: NDArray[np.integer] | None = None
) -> list[tuple[int, int, int, int]]:
    """Tiles (y0, y1, x0, x1) of an image; with ``near``, only those that one of these pixels has an influence on."""
    height, width = _FIRST_TILE if near is None else _LATER_TILE
    wanted = np.ones((-(-shape[0] // height), -(-shape[1] // width)), bool)
    if near is not None:
        wanted[:] = False
        for dy, dx in product((-_REACH, _REACH), repeat=2):
            y = np.clip(near[:, 0] + dy, 0, shape[0] - 1) // height
            x = np.clip(near[:, 1] + dx, 0, shape[1] - 1) // width
            wanted[y, x] = True
    corners = (np.argwhere(wanted) * (height, width)).tolist()
    return [(y, min(y + height, shape[0]), x, min(x + width, shape[1])) for y, x in corners]
