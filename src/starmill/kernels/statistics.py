"""Order statistics and sigma-clipped moments of pixel samples, one image cell at a time.

The clip window starts from the median and the interquartile range; each later pass uses the mean and
the standard deviation of what the last window held. Every pass looks at all pixels again, so a pixel can
come back.
"""

# ruff: noqa: FURB136 -- compare and select becomes one vector instruction, min() and max() do not
from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit

N_GOOD, MEDIAN, IQR, N_CLIPPED_SAMPLE, CLIPPED_MEAN, CLIPPED_VARIANCE, MEAN, VARIANCE = range(8)
"""Places of the eight numbers that :func:`summarize` writes."""

N_SUMMARY = 8

IQR_TO_SIGMA = 0.741301109  # 1 / (2 * 0.674489750), sigma of a Gaussian from its interquartile range
_SMALL_SAMPLE = 512  # below this a plain quickselect is as fast as a histogram
_RANGE_SAMPLE = 64
_BINS = 1024
_QUARTILES = np.array([0.25, 0.5, 0.75])
_HALF = np.array([0.5])


@njit
def quickselect(values, n, rank):
    """Value of the given rank of ``values[:n]``; the array is reordered around it."""
    left = 0
    right = n - 1
    while left < right:
        middle = (left + right) // 2
        first = values[left]
        centre = values[middle]
        last = values[right]
        pivot = max(min(first, centre), min(max(first, centre), last))
        i = left
        j = right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                swap = values[i]
                values[i] = values[j]
                values[j] = swap
                i += 1
                j -= 1
        if rank <= j:
            right = j
        elif rank >= i:
            left = i
        else:
            return values[rank]
    return values[rank]


@njit
def _interpolated_rank(values, n, position):
    """Order statistic at a fractional rank; linear between the two neighbours."""
    lower = int(position)
    weight = position - lower
    below = np.float64(quickselect(values, n, lower))
    if weight == 0.0:
        return below
    above = values[lower + 1]
    for i in range(lower + 2, n):
        if values[i] < above:
            above = values[i]
    return below + weight * (np.float64(above) - below)


@fast_njit
def _fill_bins(values, n, low, scale, bins):
    """Histogram bin of every value; monotonic in the value, everything outside goes to the end bins."""
    last = np.float32(_BINS - 1)
    for i in range(n):
        t = np.float32((values[i] - low) * scale)
        t = t if t > np.float32(0.0) else np.float32(0.0)
        t = t if t < last else last
        bins[i] = np.uint16(np.int32(t))


@njit
def _count_bins(bins, n, counts):
    """Histogram in two interleaved halves, so that equal neighbours do not wait for each other."""
    other = np.zeros(_BINS, np.int32)
    counts[:] = 0
    for i in range(0, n - 1, 2):
        counts[bins[i]] += 1
        other[bins[i + 1]] += 1
    if n % 2:
        counts[bins[n - 1]] += 1
    counts += other


@njit
def _gather_bins(values, bins, n, wanted, work):
    """Copy the values of the wanted bins to ``work``; returns how many."""
    kept = 0
    for i in range(n):
        if wanted[bins[i]]:
            work[kept] = values[i]
            kept += 1
    return kept


@njit
def _sample_range(values, n):
    """Bounds that hold the middle of the sample, from a regular subsample of it."""
    sample = np.empty(_RANGE_SAMPLE, values.dtype)
    step = n // _RANGE_SAMPLE
    for i in range(_RANGE_SAMPLE):
        sample[i] = values[i * step]
    sample.sort()
    low = sample[_RANGE_SAMPLE // 16]
    high = sample[_RANGE_SAMPLE - 1 - _RANGE_SAMPLE // 16]
    margin = (high - low) * np.float32(0.25)
    return low - margin, high + margin


@njit
def _wanted_ranks(counts, fractions, n, wanted):
    """Mark the bins that hold the two neighbours of every fractional rank."""
    wanted[:] = False
    for fraction in fractions:
        lower = int(fraction * (n - 1))
        upper = min(lower + 1, n - 1)
        seen = 0
        for b in range(_BINS):
            seen += counts[b]
            if seen > lower:
                wanted[b] = True
            if seen > upper:
                break


@njit
def _rank_in_gathered(counts, wanted, rank):
    """Place of a rank among the gathered values: the rank less the values of unwanted bins below it."""
    seen = 0
    left_out = 0
    for b in range(_BINS):
        seen += counts[b]
        if seen > rank:
            break
        if not wanted[b]:
            left_out += counts[b]
    return rank - left_out


@njit
def quantiles_inplace(values, n, fractions, work, out):
    """Quantiles of ``values[:n]``, linear interpolation of order statistics; the order is not kept.

    One pass fills a histogram over the middle of the sample, a second gathers the few values of the bins
    that hold the wanted ranks; only those are sorted, so the result is exact. ``work`` holds at least
    ``n`` elements.
    """
    if n == 0:
        out[:] = np.nan
        return
    if n >= _SMALL_SAMPLE:
        low, high = _sample_range(values, n)
        scale = np.float32(_BINS) / (high - low) if high > low else np.inf
        if scale < np.inf:
            counts = np.empty(_BINS, np.int32)
            wanted = np.empty(_BINS, np.bool_)
            bins = np.empty(n, np.uint16)
            _fill_bins(values, n, low, scale, bins)
            _count_bins(bins, n, counts)
            _wanted_ranks(counts, fractions, n, wanted)
            kept = _gather_bins(values, bins, n, wanted, work)
            if kept < n // 4:
                work[:kept].sort()
                for i in range(fractions.size):
                    position = fractions[i] * (n - 1)
                    lower = int(position)
                    first = np.float64(work[_rank_in_gathered(counts, wanted, lower)])
                    last = np.float64(work[_rank_in_gathered(counts, wanted, min(lower + 1, n - 1))])
                    out[i] = first + (position - lower) * (last - first)
                return
    for i in range(fractions.size):
        out[i] = _interpolated_rank(values, n, fractions[i] * (n - 1))


@fast_njit
def _window_sums(values, n, centre, half_width):
    """Return number, sum and sum of squares of ``v - centre`` for ``|v - centre| <= half_width``."""
    count = 0
    total = 0.0
    squares = 0.0
    for i in range(n):
        d = np.float64(values[i]) - centre
        inside = abs(d) <= half_width
        d = d if inside else 0.0
        count += 1 if inside else 0
        total += d
        squares += d * d
    return count, total, squares


@njit
def _moments(count, total, squares, centre):
    """Mean and unbiased variance from sums about ``centre``; NaN where they do not exist."""
    if count == 0:
        return np.nan, np.nan
    mean = centre + total / count
    if count == 1:
        return mean, np.nan
    return mean, max((squares - total * total / count) / (count - 1), 0.0)


@njit
def summarize(values, n, n_sigma, n_iterations, work, out):
    """Write median, IQR, plain and clipped moments of the finite sample ``values[:n]`` to ``out``.

    ``out`` takes (n, median, IQR, n kept, clipped mean, clipped variance, mean, variance). The order of
    ``values`` is not kept. A sample whose IQR is zero (quantised data) starts from its standard deviation.
    """
    out[:] = np.nan
    out[N_GOOD] = n
    out[N_CLIPPED_SAMPLE] = 0
    if n == 0:
        return
    quartiles = np.empty(3)
    quantiles_inplace(values, n, _QUARTILES, work, quartiles)
    median = quartiles[1]
    iqr = quartiles[2] - quartiles[0]
    count, total, squares = _window_sums(values, n, median, np.inf)
    mean, variance = _moments(count, total, squares, median)
    out[MEDIAN] = median
    out[IQR] = iqr
    out[MEAN] = mean
    out[VARIANCE] = variance
    centre = median
    sigma = IQR_TO_SIGMA * iqr
    if iqr == 0.0 and n > 1:
        sigma = np.sqrt(variance)
    for _ in range(n_iterations):
        count, total, squares = _window_sums(values, n, centre, n_sigma * sigma)
        if count == 0:
            break
        mean, variance = _moments(count, total, squares, centre)
        centre = mean
        sigma = np.sqrt(variance) if count > 1 else 0.0
    out[N_CLIPPED_SAMPLE] = count
    out[CLIPPED_MEAN] = mean if count > 0 else np.nan
    out[CLIPPED_VARIANCE] = variance if count > 0 else np.nan


@fast_njit
def _row_is_good(row, flags, bits):
    """Whether no pixel of the row is masked, NaN or infinite."""
    any_bit = flags[0] & bits
    differences = row[0] - row[0]
    for x in range(row.size):
        any_bit |= flags[x] & bits
        differences += row[x] - row[x]  # 0, or NaN for a value that is not finite
    return any_bit == 0 and differences == 0


@njit
def compact_good(image, mask, bits, out, start):
    """Append the finite pixels with no bit of ``bits`` set, row by row, to ``out`` from ``start``."""
    n = start
    for y in range(image.shape[0]):
        row = image[y]
        flags = mask[y]
        if _row_is_good(row, flags, bits):
            out[n : n + row.size] = row
            n += row.size
            continue
        for x in range(row.size):
            v = row[x]
            out[n] = v
            n += ((flags[x] & bits) == 0) & (v - v == 0)
    return n


@njit
def compact_finite(values, out):
    """Copy the finite elements of a flat array to ``out``, which is one element longer; returns how many."""
    n = 0
    for i in range(values.size):
        v = values[i]
        out[n] = v
        n += v - v == 0  # false for NaN and infinity
    return n


@njit
def mesh_row_statistics(image, mask, bits, y0, y1, x_edges, n_sigma, n_iterations, out):
    """Summaries of one row of cells: pixels ``y0 <= y < y1``, columns cut at ``x_edges``.

    ``out`` has shape (number of cells, 8).
    """
    widest = 0
    for i in range(x_edges.size - 1):
        widest = max(widest, x_edges[i + 1] - x_edges[i])
    values = np.empty(widest * (y1 - y0) + 1, image.dtype)
    work = np.empty(widest * (y1 - y0) + 1, image.dtype)
    for i in range(x_edges.size - 1):
        a = x_edges[i]
        b = x_edges[i + 1]
        n = compact_good(image[y0:y1, a:b], mask[y0:y1, a:b], bits, values, 0)
        summarize(values, n, n_sigma, n_iterations, work, out[i])


@njit
def sample_statistics(values, n_sigma, n_iterations, out):
    """Summary of one flat array; elements that are not finite are left out."""
    good = np.empty(values.size + 1, values.dtype)
    work = np.empty(values.size + 1, values.dtype)
    n = compact_finite(values, good)
    summarize(good, n, n_sigma, n_iterations, work, out)


@njit
def row_quantiles(values, fractions, out):
    """Quantiles of the finite elements of every row of a 2-D array; NaN for a row without any.

    ``out`` has shape (rows, fractions).
    """
    good = np.empty(values.shape[1] + 1, values.dtype)
    work = np.empty(values.shape[1] + 1, values.dtype)
    for i in range(values.shape[0]):
        n = compact_finite(values[i], good)
        quantiles_inplace(good, n, fractions, work, out[i])


@njit
def row_median_mad(values, out):
    """Median and median absolute deviation of the finite elements of every row; ``out`` is (rows, 2)."""
    good = np.empty(values.shape[1] + 1, values.dtype)
    work = np.empty(values.shape[1] + 1, values.dtype)
    for i in range(values.shape[0]):
        n = compact_finite(values[i], good)
        quantiles_inplace(good, n, _HALF, work, out[i, :1])
        for j in range(n):
            good[j] = abs(good[j] - out[i, 0])
        quantiles_inplace(good, n, _HALF, work, out[i, 1:])
