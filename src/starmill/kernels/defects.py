"""Repair of runs of bad pixels: weighted sums of their good neighbours.

``w = C^-1 (c + lambda 1)``: the weights that predict a Gaussian-correlated field with the least error, given
for every pattern of neighbours in a table; here the runs are found and the sums are done.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def _table_place(k, n, longest):
    """Place in a run of ``longest`` pixels that has the weights of pixel ``k`` of a run of ``n``."""
    if n <= longest:
        return n, k
    half = longest // 2
    if k < half:
        return longest, k
    if n - 1 - k < half:
        return longest, longest - 1 - (n - 1 - k)
    return longest, half


@njit
def _fill_run(row, variance, start, n, n_left, n_right, table):
    """Predict the pixels ``start .. start + n - 1`` of a row from up to two neighbours on each side."""
    longest = table.shape[2] - 1
    has_variance = variance.size > 0
    for k in range(n):
        length, place = _table_place(k, n, longest)
        weights = table[n_left, n_right, length, place]
        value = 0.0
        noise = 0.0
        for side in range(4):
            w = weights[side]
            if w == 0.0:
                continue
            x = start - 2 + side if side < 2 else start + n + side - 2
            value += w * row[x]
            if has_variance:
                noise += w * variance[x]
        row[start + k] = value
        if has_variance:
            variance[start + k] = noise


@njit
def _good_neighbours(bad, start, stop):
    """Count adjacent good pixels (at most two) left of ``start`` and right of ``stop - 1``."""
    n = bad.size
    left = 0
    if start >= 1 and not bad[start - 1]:
        left = 2 if start >= 2 and not bad[start - 2] else 1
    right = 0
    if stop < n and not bad[stop]:
        right = 2 if stop + 1 < n and not bad[stop + 1] else 1
    return left, right


@njit
def interpolate_rows(image, variance, bad, table, margin, fallback, filled):
    """Fill every run of bad pixels of every row in place.

    Parameters
    ----------
    image, variance : (ny, nx) float arrays
        Changed in place; an empty variance is left out.
    bad : (ny, nx) bool array
        Pixels to replace; all others are finite.
    table : (3, 3, longest + 1, longest, 4) float64 array
        Weights for (neighbours on the left, on the right, run length, place, [left 2, left 1, right 1, right 2]).
    margin : int
        Of a run that touches the edge and is longer, only this many pixels beside the data are predicted, the
        others take ``fallback``; 0 predicts all from the one side.
    fallback : float
        Value of pixels that cannot be predicted; where they lie beside predicted ones their variance is that of
        the nearest good pixel.
    filled : (ny, nx) bool array
        Set where a value was predicted or is the fallback of a run with data on one side.

    Returns
    -------
    n_runs : int
        Number of runs filled.
    """
    ny, nx = image.shape
    n_runs = 0
    for y in range(ny):
        row = image[y]
        noise = variance[y] if variance.size > 0 else variance[:0, 0]
        flags = bad[y]
        x = 0
        while x < nx:
            if not flags[x]:
                x += 1
                continue
            start = x
            while x < nx and flags[x]:
                x += 1
            left, right = _good_neighbours(flags, start, x)
            if left + right == 0:
                row[start:x] = fallback
                continue
            first = start
            stop = x
            if margin > 0 and x - start > margin:
                if start == 0:
                    first = x - margin
                    row[:first] = fallback
                    if noise.size > 0:
                        noise[:first] = noise[x]
                    left = min(2, first)
                elif x == nx:
                    stop = start + margin
                    row[stop:] = fallback
                    if noise.size > 0:
                        noise[stop:] = noise[start - 1]
                    right = min(2, nx - stop)
            _fill_run(row, noise, first, stop - first, left, right, table)
            filled[y, start:x] = True
            n_runs += 1
    return n_runs


@njit
def repair_flagged(image, variance, mask, bits, set_bits, table, fallback):
    """Fill every run of flagged pixels of every row in place, and flag what was filled.

    Parameters
    ----------
    image, variance : (ny, nx) float arrays
        Changed in place; pixels that are not finite are never used; an empty variance is left out.
    mask : (ny, nx) int32 array
        Pixels with any of ``bits`` are replaced and get ``set_bits``; changed in place.
    table : array
        As in :func:`interpolate_rows`.
    fallback : float
        Value of rows without any good pixel; they do not get ``set_bits``.

    Returns
    -------
    n_runs : int
    """
    ny, nx = mask.shape
    wanted = np.int32(bits)
    added = np.int32(set_bits)
    bad = np.empty(nx, np.bool_)
    unusable = np.empty(nx, np.bool_)
    n_runs = 0
    for y in range(ny):
        flags = mask[y]
        seen = np.int32(0)
        for x in range(nx):
            seen |= flags[x]
        if seen & wanted == 0:
            continue
        row = image[y]
        for x in range(nx):
            bad[x] = flags[x] & wanted != 0
            unusable[x] = bad[x] or row[x] - row[x] != 0  # NaN and infinity
        noise = variance[y] if variance.size > 0 else variance[:0, 0]
        x = 0
        while x < nx:
            if not bad[x]:
                x += 1
                continue
            start = x
            while x < nx and bad[x]:
                x += 1
            left, right = _good_neighbours(unusable, start, x)
            if left + right == 0:
                row[start:x] = fallback
                continue
            _fill_run(row, noise, start, x - start, left, right, table)
            for k in range(start, x):
                flags[k] |= added
                if noise.size > 0 and noise[k] <= 0.0:  # zero would mean unknown
                    noise[k] = noise[start - 1] if left > 0 else noise[x]
            n_runs += 1
    return n_runs
