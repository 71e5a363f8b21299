"""Cosmic rays by Laplacian edge detection (L.A.Cosmic), one tile of an image at a time.

Of a pixel doubled in both directions, the Laplacian at the corner towards neighbours h and v is 2 p - h - v; negative
values are dropped and the four corners averaged. Divided by twice the noise, less its own median, this is the
significance S'. A cosmic ray has S' above a limit, and above a multiple of the fine structure (a median of the image
less a wider median of it, over the noise), which stars have and cosmic rays do not.

All pixels that a tile needs lie within ``MARGIN`` of it, so results do not depend on the tiles.
"""

# ruff: noqa: FURB136 -- compare and select becomes one vector instruction, min() and max() do not
from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.medians import (
    separable_median_5,
    separable_median_7,
    separable_median_at,
    window_median,
    window_median_at,
)

MARGIN = 8  # 2 pixels of growth + 3 for the median of S + 3 for that of the variance

_LEAST_VARIANCE = np.float32(1e-5)
_LEAST_STRUCTURE = np.float32(0.01)


@njit
def _laplacian_row(below, row, above, noise, out):
    """Laplacian signal-to-noise ratio of one row; ``below``, ``row`` and ``above`` have one more pixel at each end.

    The order of the operations is that of a convolution of the doubled image, to the last bit.
    """
    four = np.float32(4.0)
    zero = np.float32(0.0)
    two = np.float32(2.0)
    n = out.size
    left, centre, right = row[:n], row[1 : n + 1], row[2:]
    down, up = below[1 : n + 1], above[1 : n + 1]
    for x in range(n):
        p = centre[x]
        towards_left = ((four * p - p) - left[x]) - p
        total = towards_left - down[x]
        total = total if total > zero else zero
        corner = ((four * p - p) - left[x]) - up[x] - p
        total += corner if corner > zero else zero
        corner = ((four * p - right[x]) - p) - up[x] - p
        total += corner if corner > zero else zero
        corner = ((four * p - right[x]) - p) - p - down[x]
        total += corner if corner > zero else zero
        out[x] = (total / four) / (two * noise[x])


@fast_njit
def _standard_deviation(variance, out):
    """Square root of a variance, which is kept positive."""
    for x in range(variance.size):
        v = variance[x]
        out[x] = np.sqrt(v if v > _LEAST_VARIANCE else _LEAST_VARIANCE)


@njit
def _padded(image, y0, y1, x0, x1):
    """Copy of part of an image with one more pixel on every side, zero outside the image."""
    ny, nx = image.shape
    out = np.zeros((y1 - y0 + 2, x1 - x0 + 2), np.float32)
    a, b = max(y0 - 1, 0), min(y1 + 1, ny)
    c, d = max(x0 - 1, 0), min(x1 + 1, nx)
    out[a - y0 + 1 : b - y0 + 1, c - x0 + 1 : d - x0 + 1] = image[a:b, c:d]
    return out


@njit
def _large_structure_at(ratio, y, x, separable, work):
    """Median of the Laplacian ratio around a pixel: 7 x 7 separable or 5 x 5."""
    if separable:
        return separable_median_at(ratio, y, x, 3, work)
    return window_median_at(ratio, y, x, 2, work)


@njit
def _is_compact(structure, noise, y, x, significance, contrast, separable, work):
    """Whether the significance exceeds the fine structure ``contrast`` times."""
    if separable:
        wide = separable_median_at(structure, y, x, 4, work)
    else:
        wide = window_median_at(structure, y, x, 3, work)
    fine = (structure[y, x] - wide) / noise[y, x]
    fine = fine if fine > _LEAST_STRUCTURE else _LEAST_STRUCTURE
    return significance / fine > contrast


@njit
def _grow(seeds, taken, ratio, significance, blocked, limit, separable, work, core):
    """Pixels inside ``core`` that are or touch a seed, are not blocked, and exceed ``limit``.

    ``seeds`` is a list of pixels (y, x); those that are kept are set in ``taken`` and returned as a list.
    """
    y0, y1, x0, x1 = core
    grown = np.empty((9 * seeds.shape[0], 2), np.int64)
    n = 0
    for k in range(seeds.shape[0]):
        for y in range(max(seeds[k, 0] - 1, y0), min(seeds[k, 0] + 2, y1)):
            for x in range(max(seeds[k, 1] - 1, x0), min(seeds[k, 1] + 2, x1)):
                if taken[y, x] or not (ratio[y, x] > limit) or blocked[y, x]:
                    continue
                if np.isnan(significance[y, x]):
                    significance[y, x] = ratio[y, x] - _large_structure_at(ratio, y, x, separable, work)
                if significance[y, x] > limit:
                    taken[y, x] = True
                    grown[n, 0] = y
                    grown[n, 1] = x
                    n += 1
    return grown[:n]


@fast_njit
def _count_above(row, limit):
    """Count the values above a limit."""
    count = 0
    for x in range(row.size):
        count += row[x] > limit
    return count


@njit
def _candidates(ratio, blocked, limit, region):
    """Pixels of the region above the limit that are not blocked, (n, 2)."""
    y0, y1, x0, x1 = region
    n = 0
    for y in range(y0, y1):
        n += _count_above(ratio[y, x0:x1], limit)
    pixels = np.empty((n, 2), np.int64)
    n = 0
    for y in range(y0, y1):
        if _count_above(ratio[y, x0:x1], limit) == 0:
            continue
        for x in range(x0, x1):
            if ratio[y, x] > limit and not blocked[y, x]:
                pixels[n, 0] = y
                pixels[n, 1] = x
                n += 1
    return pixels[:n]


@njit
def _signal_to_noise(image, variance, a, b, c, d, separable, pairs_25):
    """Noise and Laplacian signal-to-noise ratio of the pixels ``a <= y < b``, ``c <= x < d``."""
    padded = _padded(image, a, b, c, d)
    noise = np.empty((b - a, d - c), np.float32)
    ratio = np.empty((b - a, d - c), np.float32)
    local_variance = variance[a:b, c:d].copy()
    if separable:
        separable_median_7(local_variance, ratio, noise)
    else:
        window_median(local_variance, 2, pairs_25, noise)
    for y in range(b - a):
        _standard_deviation(noise[y], noise[y])
        _laplacian_row(padded[y], padded[y + 1], padded[y + 2], noise[y], ratio[y])
    return noise, ratio


@njit
def _fine_structure(image, a, b, c, d, separable, pairs_9):
    """Narrow median of the pixels ``a <= y < b``, ``c <= x < d``."""
    here = image[a:b, c:d].copy()
    out = np.empty_like(here)
    if separable:
        separable_median_5(here, np.empty_like(here), out)
    else:
        window_median(here, 1, pairs_9, out)
    return out


@njit
def _inside(core, grow, shape):
    """Core of a tile, grown by some pixels inside the array of the tile."""
    return (
        max(core[0] - grow, 0),
        min(core[1] + grow, shape[0]),
        max(core[2] - grow, 0),
        min(core[3] + grow, shape[1]),
    )


@njit
def find_in_tile(image, variance, blocked, tile, limit, low_limit, contrast, separable, pairs_9, pairs_25):
    """One pass of the algorithm over one tile.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
        Finite everywhere; cosmic rays of earlier passes are replaced in both.
    blocked : (ny, nx) bool array
        Pixels that are never taken.
    tile : (y0, y1, x0, x1)
        Pixels that the call is about.
    limit, low_limit : float32
        Least significance of a cosmic-ray pixel, and of a neighbour of one.
    contrast : float32
        Least ratio of significance to fine structure.
    separable : bool
        Separable medians (noise 7, large structure 7, fine structure 5 and 9) or full ones (5, 5, 3 and 7).
    pairs_9, pairs_25 : (n, 2) int64 arrays
        Selection networks of the full medians.

    Returns
    -------
    pixels : (n, 2) int64 array
        y, x of the cosmic-ray pixels of the tile.
    """
    a, b = max(tile[0] - MARGIN, 0), min(tile[1] + MARGIN, image.shape[0])
    c, d = max(tile[2] - MARGIN, 0), min(tile[3] + MARGIN, image.shape[1])
    core = (tile[0] - a, tile[1] - a, tile[2] - c, tile[3] - c)
    noise, ratio = _signal_to_noise(image, variance, a, b, c, d, separable, pairs_25)
    local_blocked = blocked[a:b, c:d]
    candidates = _candidates(ratio, local_blocked, limit, _inside(core, 2, ratio.shape))
    n_seeds = 0
    if candidates.shape[0] > 0:
        work = np.empty(64, np.float32)
        significance = np.full(ratio.shape, np.float32(np.nan))
        structure = _fine_structure(image, a, b, c, d, separable, pairs_9)
        for k in range(candidates.shape[0]):
            y, x = candidates[k]
            s = ratio[y, x] - _large_structure_at(ratio, y, x, separable, work)
            significance[y, x] = s
            if s > limit and _is_compact(structure, noise, y, x, s, contrast, separable, work):
                candidates[n_seeds] = candidates[k]
                n_seeds += 1
    pixels = candidates[:n_seeds]
    if n_seeds > 0:
        taken = np.zeros(ratio.shape, np.bool_)
        near = _inside(core, 1, ratio.shape)
        pixels = _grow(pixels, taken, ratio, significance, local_blocked, limit, separable, work, near)
        taken[:] = False
        pixels = _grow(pixels, taken, ratio, significance, local_blocked, low_limit, separable, work, core)
    pixels[:, 0] += a
    pixels[:, 1] += c
    return pixels


@njit
def masked_means(image, variance, blocked, found, pixels, image_level, variance_level):
    """Replace pixels, in place, by the mean of the 5 x 5 pixels around that are neither blocked nor found.

    Pixels within two of the edge keep their values, as do none that are not listed.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
    blocked, found : (ny, nx) bool arrays
    pixels : (n, 2) int64 array
        y, x.
    image_level, variance_level : float
        Values where all 25 pixels are excluded.
    """
    ny, nx = image.shape
    for k in range(pixels.shape[0]):
        y, x = pixels[k, 0], pixels[k, 1]
        if y < 2 or x < 2 or y >= ny - 2 or x >= nx - 2:
            continue
        n = 0
        total = np.float32(0.0)
        noise = np.float32(0.0)
        for j in range(y - 2, y + 3):
            for i in range(x - 2, x + 3):
                if not (blocked[j, i] or found[j, i]):
                    total += image[j, i]
                    noise += variance[j, i]
                    n += 1
        image[y, x] = total / np.float32(n) if n > 0 else image_level
        variance[y, x] = noise / np.float32(n) if n > 0 else variance_level


@fast_njit
def _or_of_rows(a, b, c, out):
    """Whether any of three rows is set."""
    for x in range(out.size):
        out[x] = a[x] | b[x] | c[x]


@njit
def dilate_3(flags):
    """Copy of a boolean image with every set pixel grown to its 3 x 3 neighbourhood."""
    ny, nx = flags.shape
    wide = np.empty(nx + 2, np.bool_)
    out = np.empty_like(flags)
    for y in range(ny):
        wide[0] = False
        wide[nx + 1] = False
        _or_of_rows(flags[max(y - 1, 0)], flags[y], flags[min(y + 1, ny - 1)], wide[1 : nx + 1])
        _or_of_rows(wide[:nx], wide[1 : nx + 1], wide[2:], out[y])
    return out
