"""Sigma-clipped mean of n frames, pixel by pixel, in row tiles.

Sorting runs as a network of min/max between whole row tiles, and clipping as
masked sums over row tiles, so every inner loop is vectorised; a tile of all
frames stays in the first-level cache.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit

TILE = 256  # columns; 2 x 10 frames of float32 then fill 20 kB of first-level cache


@njit
def combine_rows(stack, rejected, scale, variance, network, clip, mean, error, count):
    """Sigma-clipped mean, its variance, and the number of values used.

    The first clip is at median +- n_sigma * max(sigma, floor), where sigma is
    0.7413 IQR, or, when variances are given, the square root of the smallest one
    (the quartiles of three values do not stand one outlier). The later clips are
    at mean +- n_sigma * max(standard deviation, floor) of the survivors; every
    iteration looks at all valid values again.

    Parameters
    ----------
    stack : (n, ny, nx) float32 array
        Values of the frames; must be finite where not rejected.
    rejected : (n, ny, nx) bool array, or shape (0, 0, 0)
        True where a value must not be used.
    scale : (n,) float32 array
        Factor of each frame.
    variance : (n, ny, nx) float32 array, or shape (0, 0, 0)
        Variances of ``stack``; when given they are propagated, otherwise the
        scatter of the surviving values gives the variance of the mean.
    network : (m, 2) int array
        Comparators of a sorting network for n values.
    clip : tuple (float, int, float)
        n_sigma, number of iterations, smallest sigma (in scaled units).
    mean, error : (ny, nx) float32 arrays
        Written; zero where no value is valid. ``error`` is a variance.
    count : (ny, nx) integer array
        Written: how many values were averaged.
    """
    n, ny, nx = stack.shape
    n_sigma = np.float32(clip[0])
    iterations = clip[1]
    one = np.float32(1.0)
    floor = np.float32(clip[2])
    values = np.empty((n, TILE), np.float32)
    ordered = np.empty((n, TILE), np.float32)
    valid = np.empty(TILE, np.int32)
    used = np.empty(TILE, np.float32)
    low = np.empty(TILE, np.float32)
    high = np.empty(TILE, np.float32)
    centre = np.empty(TILE, np.float32)
    spread = np.empty(TILE, np.float32)
    for y in range(ny):
        for x0 in range(0, nx, TILE):
            width = min(TILE, nx - x0)
            complete = _load(stack, rejected, scale, y, x0, width, values, ordered, valid)
            _sort(ordered, network, width)
            _first_bounds(ordered, valid, complete, n_sigma, floor, width, low, high)
            if variance.size:
                _known_bounds(variance, scale, values, y, x0, width, n_sigma, floor, low, high, spread)
            for iteration in range(max(iterations, 1)):
                _clipped_moments(values, low, high, width, centre, spread, used)
                if iteration + 1 < iterations:
                    for x in range(width):
                        half = n_sigma * max(np.sqrt(spread[x]), floor)
                        half = max(half, abs(centre[x]) * np.float32(1e-6))
                        low[x] = centre[x] - half
                        high[x] = centre[x] + half
            out = mean[y, x0 : x0 + width]
            out_error = error[y, x0 : x0 + width]
            out_count = count[y, x0 : x0 + width]
            if variance.size:
                _propagate(variance, scale, values, low, high, y, x0, width, spread)
            for x in range(width):
                number = max(used[x], one)
                scatter = spread[x] if used[x] > 1 or variance.size else min(used[x], one) * floor * floor
                out[x] = centre[x]
                out_error[x] = scatter / (number * number) if variance.size else scatter / number
                out_count[x] = np.int16(used[x])


@njit
def _load(stack, rejected, scale, y, x0, width, values, ordered, valid):
    n = stack.shape[0]
    infinity = np.float32(np.inf)
    for k in range(n):
        row = stack[k, y, x0 : x0 + width]
        target = values[k]
        factor = scale[k]
        for x in range(width):
            target[x] = factor * row[x]
    complete = True
    if rejected.size:
        valid[:] = 0
        for k in range(n):
            bad = rejected[k, y, x0 : x0 + width]
            target = values[k]
            for x in range(width):
                target[x] = infinity if bad[x] else target[x]
                valid[x] += np.int32(0) if bad[x] else np.int32(1)
        for x in range(width):
            complete = complete and valid[x] == n
    for k in range(n):
        source = values[k]
        target = ordered[k]
        for x in range(width):
            target[x] = source[x]
    return complete


@njit
def _sort(ordered, network, width):
    for c in range(network.shape[0]):
        first = ordered[network[c, 0]]
        second = ordered[network[c, 1]]
        for x in range(width):
            a = first[x]
            b = second[x]
            first[x] = min(a, b)
            second[x] = max(a, b)


@njit
def _first_bounds(ordered, valid, complete, n_sigma, floor, width, low, high):
    n = ordered.shape[0]
    iqr_to_sigma = np.float32(0.741301109)  # of a Gaussian
    if complete:
        i1, f1 = _rank(n, 0.25)
        i2, f2 = _rank(n, 0.5)
        i3, f3 = _rank(n, 0.75)
        a1, b1 = ordered[i1], ordered[min(i1 + 1, n - 1)]
        a2, b2 = ordered[i2], ordered[min(i2 + 1, n - 1)]
        a3, b3 = ordered[i3], ordered[min(i3 + 1, n - 1)]
        for x in range(width):
            quartile1 = a1[x] + f1 * (b1[x] - a1[x])
            median = a2[x] + f2 * (b2[x] - a2[x])
            quartile3 = a3[x] + f3 * (b3[x] - a3[x])
            half = n_sigma * max(iqr_to_sigma * (quartile3 - quartile1), floor)
            low[x] = median - half
            high[x] = median + half
        return
    for x in range(width):
        m = valid[x]
        if m == 0:
            low[x] = np.float32(1.0)
            high[x] = np.float32(-1.0)
            continue
        i1, f1 = _rank(m, 0.25)
        i2, f2 = _rank(m, 0.5)
        i3, f3 = _rank(m, 0.75)
        j1, j2, j3 = min(i1 + 1, m - 1), min(i2 + 1, m - 1), min(i3 + 1, m - 1)
        quartile1 = ordered[i1, x] + f1 * (ordered[j1, x] - ordered[i1, x])
        median = ordered[i2, x] + f2 * (ordered[j2, x] - ordered[i2, x])
        quartile3 = ordered[i3, x] + f3 * (ordered[j3, x] - ordered[i3, x])
        half = n_sigma * max(iqr_to_sigma * (quartile3 - quartile1), floor)
        low[x] = median - half
        high[x] = median + half


@njit
def _known_bounds(variance, scale, values, y, x0, width, n_sigma, floor, low, high, smallest):
    infinity = np.float32(np.inf)
    smallest[:] = infinity
    for k in range(variance.shape[0]):
        row = variance[k, y, x0 : x0 + width]
        value = values[k]
        factor = scale[k] * scale[k]
        for x in range(width):
            known = factor * row[x] if value[x] < infinity else infinity
            smallest[x] = min(smallest[x], known)
    for x in range(width):
        median = np.float32(0.5) * (low[x] + high[x])
        half = n_sigma * max(np.sqrt(smallest[x]), floor)
        if low[x] <= high[x]:
            low[x] = median - half
            high[x] = median + half


@njit
def _rank(n, fraction):
    position = fraction * (n - 1)
    index = int(position)
    return index, np.float32(position - index)


@njit
def _clipped_moments(values, low, high, width, centre, spread, used):
    """Mean and unbiased variance of the values inside the bounds; sums run about the bounds' middle."""
    zero = np.float32(0.0)
    one = np.float32(1.0)
    half = np.float32(0.5)
    for x in range(width):
        centre[x] = zero
        spread[x] = zero
        used[x] = zero
    for k in range(values.shape[0]):
        row = values[k]
        for x in range(width):
            value = row[x]
            good = value >= low[x] and value <= high[x]
            deviation = value - half * (low[x] + high[x]) if good else zero
            centre[x] += deviation
            spread[x] += deviation * deviation
            used[x] += one if good else zero
    for x in range(width):
        number = max(used[x], one)
        offset = centre[x] / number
        spread[x] = max(spread[x] - offset * centre[x], zero) / max(number - one, one)
        centre[x] = half * (low[x] + high[x]) + offset if used[x] > 0 else zero


@njit
def _propagate(variance, scale, values, low, high, y, x0, width, total):
    zero = np.float32(0.0)
    total[:] = 0
    for k in range(values.shape[0]):
        row = values[k]
        source = variance[k, y, x0 : x0 + width]
        factor = scale[k] * scale[k]
        for x in range(width):
            good = row[x] >= low[x] and row[x] <= high[x]
            total[x] += factor * source[x] if good else zero
