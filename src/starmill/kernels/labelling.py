"""Connected components of an image above a threshold, as run-length spans.

A pixel is set when ``sign * value >= threshold * sqrt(variance)`` (or ``>= threshold`` without a
variance); pixels touching at a side or a corner belong together. A pixel whose variance
is not positive is never set. The threshold map exists for one
row at a time only.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def _row_above(value, variance, use_variance, sign, threshold, out):
    """Flag the pixels of one row at or above the threshold."""
    if use_variance:
        for x in range(value.shape[0]):
            out[x] = (sign * value[x] >= threshold * np.sqrt(variance[x])) & (variance[x] > np.float32(0.0))
    else:
        for x in range(value.shape[0]):
            out[x] = sign * value[x] >= threshold


@njit
def _row_runs(flags, words, n, starts, stops):
    """Find the runs of set flags in a row; eight clear flags are skipped at a time."""
    count = 0
    x = 0
    while x < n:
        if flags[x] == 0:
            if (x & 7) == 0 and words[x >> 3] == 0:
                x += 8
            else:
                x += 1
            continue
        start = x
        while x < n and flags[x] != 0:
            x += 1
        starts[count] = start
        stops[count] = x - 1
        count += 1
    return count


@njit
def enlarged(rows, n, size):
    """Return a longer array that begins with the first ``n`` rows of a (m, 3) array."""
    more = np.empty((size, 3), rows.dtype)
    for i in range(n):
        for k in range(3):
            more[i, k] = rows[i, k]
    return more


@njit
def _find(parent, i):
    """Root of the tree of run ``i``, with path halving."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit
def _join(parent, i, j):
    """Join two trees; the earlier run becomes the root."""
    a, b = _find(parent, i), _find(parent, j)
    if a < b:
        parent[b] = a
    elif b < a:
        parent[a] = b


@njit
def join_touching_rows(spans, parent, p0, p1, c0, c1):
    """Join runs ``c0:c1`` of a row with the runs ``p0:p1`` of the row before that touch them."""
    i = p0
    for j in range(c0, c1):
        while i < p1 and spans[i, 2] < spans[j, 1] - 1:
            i += 1
        k = i
        while k < p1 and spans[k, 1] <= spans[j, 2] + 1:
            _join(parent, k, j)
            k += 1


@njit
def components_of_runs(spans):
    """Component number of every run; runs are sorted by row, then by column, and do not overlap.

    Parameters
    ----------
    spans : (n, 3) int32 array
        y, x0, x1 (inclusive).

    Returns
    -------
    labels : (n,) int64 array
        0, 1, ... in the order in which the components are met.
    n_labels : int
    """
    n = spans.shape[0]
    parent = np.arange(n)
    p0 = p1 = c0 = 0
    previous = np.int64(-10)
    while c0 < n:
        y = spans[c0, 0]
        c1 = c0
        while c1 < n and spans[c1, 0] == y:
            c1 += 1
        for j in range(c0 + 1, c1):
            if spans[j, 1] <= spans[j - 1, 2] + 1:
                _join(parent, j - 1, j)
        if previous == y - 1:
            join_touching_rows(spans, parent, p0, p1, c0, c1)
        p0, p1, c0, previous = c0, c1, c1, y
    labels = np.empty(n, np.int64)
    n_labels = 0
    for i in range(n):
        root = _find(parent, i)
        if root == i:
            labels[i] = n_labels
            n_labels += 1
        else:
            labels[i] = labels[root]
    return labels, n_labels


@njit
def threshold_runs(value, variance, sign, threshold, include, x_lo, x_hi, y_lo, y_hi, flags, words):
    """Find the runs of pixels at or above the threshold inside a box.

    Parameters
    ----------
    value : (ny, nx) float32 array
        NaN is never above.
    variance : (ny, nx) or (0, 0) float32 array
        When not empty the threshold is in units of its square root.
    sign : float
        +1 for bright, -1 for dark sources.
    threshold, include : float
        A pixel at or above ``include`` marks its run as one that keeps a footprint.
    x_lo, x_hi, y_lo, y_hi : int
        Box searched, upper bounds exclusive.
    flags : (8 k,) uint8 array, words : (k,) uint64 array
        Work space of at least ``x_hi - x_lo`` zero bytes, seen as bytes and as words.

    Returns
    -------
    spans : (n, 3) int32 array
        y, x0, x1 (inclusive), in reading order.
    strong : (n,) bool array
        The run has a pixel at or above ``include``.
    """
    nx = x_hi - x_lo
    use_variance = variance.shape[0] > 0
    sign32, threshold32 = np.float32(sign), np.float32(threshold)
    include32 = np.float32(include)
    starts, stops = np.empty(nx // 2 + 1, np.int64), np.empty(nx // 2 + 1, np.int64)
    spans = np.empty((4096, 3), np.int32)
    strong = np.empty(4096, np.bool_)
    n = 0
    for y in range(y_lo, y_hi):
        row = value[y, x_lo:x_hi]
        var_row = variance[y, x_lo:x_hi] if use_variance else row
        _row_above(row, var_row, use_variance, sign32, threshold32, flags[:nx])
        found = _row_runs(flags, words, nx, starts, stops)
        if n + found > spans.shape[0]:
            size = max(2 * spans.shape[0], n + found)
            more_strong = np.empty(size, np.bool_)
            for i in range(n):
                more_strong[i] = strong[i]
            spans, strong = enlarged(spans, n, size), more_strong
        for i in range(found):
            spans[n, 0], spans[n, 1], spans[n, 2] = y, x_lo + starts[i], x_lo + stops[i]
            hit = False
            for x in range(starts[i], stops[i] + 1):
                noise = np.sqrt(var_row[x]) if use_variance else np.float32(1.0)
                hit = hit or sign32 * row[x] >= include32 * noise
            strong[n] = hit
            n += 1
    return spans[:n].copy(), strong[:n].copy()


@njit
def painted_runs(painted, words):
    """Find the runs of non-zero pixels of a byte image whose row length is a multiple of eight.

    Parameters
    ----------
    painted : (ny, 8 k) uint8 array, words : (ny, k) uint64 array
        The same memory, seen as bytes and as words.

    Returns
    -------
    spans : (n, 3) int32 array
        y, x0, x1 (inclusive).
    """
    ny, nx = painted.shape
    starts, stops = np.empty(nx // 2 + 1, np.int64), np.empty(nx // 2 + 1, np.int64)
    spans = np.empty((4096, 3), np.int32)
    n = 0
    for y in range(ny):
        found = _row_runs(painted[y], words[y], nx, starts, stops)
        if n + found > spans.shape[0]:
            spans = enlarged(spans, n, max(2 * spans.shape[0], n + found))
        for i in range(found):
            spans[n, 0], spans[n, 1], spans[n, 2] = y, starts[i], stops[i]
            n += 1
    return spans[:n].copy()


@njit
def group_runs(spans, labels, n_labels, keep):
    """Sort runs by component, dropping components that are not kept.

    Parameters
    ----------
    spans : (n, 3) int32 array
    labels : (n,) int64 array
        Component of each run, below ``n_labels``.
    n_labels : int
    keep : (n_labels,) bool array

    Returns
    -------
    grouped : (m, 3) int32 array
        Runs of the kept components, component by component, in reading order within each.
    offsets : (n_kept + 1,) int64 array
        Runs of component i are ``grouped[offsets[i]:offsets[i + 1]]``.
    """
    new = np.full(n_labels, -1, np.int64)
    n_kept = 0
    for i in range(n_labels):
        if keep[i]:
            new[i] = n_kept
            n_kept += 1
    offsets = np.zeros(n_kept + 1, np.int64)
    for i in range(spans.shape[0]):
        if new[labels[i]] >= 0:
            offsets[new[labels[i]] + 1] += 1
    for i in range(n_kept):
        offsets[i + 1] += offsets[i]
    grouped = np.empty((offsets[n_kept], 3), np.int32)
    fill = offsets[:-1].copy()
    for i in range(spans.shape[0]):
        j = new[labels[i]]
        if j >= 0:
            for k in range(3):
                grouped[fill[j], k] = spans[i, k]
            fill[j] += 1
    return grouped, offsets


@njit
def component_totals(spans, strong, labels, n_labels):
    """Count the pixels, and tell whether any run is strong, for every component."""
    area = np.zeros(n_labels, np.int64)
    any_strong = np.zeros(n_labels, np.bool_)
    for i in range(spans.shape[0]):
        area[labels[i]] += spans[i, 2] - spans[i, 1] + 1
        if strong[i]:
            any_strong[labels[i]] = True
    return area, any_strong
