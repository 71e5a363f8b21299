"""Multi-threshold tree of one footprint.

Pixels are joined from the brightest downwards, one level at a time. Where branches meet, those whose light above
the next higher level exceeds a part ``contrast`` of the whole object's stay separate objects (Bertin & Arnouts 1996,
A&AS 117, 393, section 6); all others are absorbed. Every pixel links to the pixel it was joined to, so the links
lead to the peak of its object.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def _find(tree, i):
    """Root of a pixel's component, with path halving."""
    while tree[i] != i:
        tree[i] = tree[tree[i]]
        i = tree[i]
    return i


@njit
def _joined(number, tree, y, x):
    """Rank of a pixel that is in the tree already; -1 for any other."""
    if not (0 <= y < number.shape[0] and 0 <= x < number.shape[1]):
        return -1
    k = number[y, x]
    return k if k >= 0 and tree[k] >= 0 else -1


@njit
def _main_component(y, x, values, number, tree, top, total):
    """Component with most light among those that touch a pixel; -1 for none."""
    best = -1
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            k = _joined(number, tree, y + dy, x + dx)
            if k < 0:
                continue
            root = _find(tree, k)
            more = best >= 0 and total[root] > total[best]
            tie = best >= 0 and total[root] == total[best] and values[top[root]] > values[top[best]]
            if best < 0 or more or tie:
                best = root
    return best


@njit
def _join_pixel(p, x, y, values, number, tree, link, top, total, count, level, needed, min_pixels):
    """Join a pixel to the components of its eight neighbours."""
    best = _main_component(y, x, values, number, tree, top, total)
    tree[p], link[p], top[p] = p, p, p
    total[p], count[p] = 0.0, 0
    if best < 0:
        return
    highest = -1
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            q = _joined(number, tree, y + dy, x + dx)
            if q >= 0 and q != p and _find(tree, q) == best and (highest < 0 or values[q] > values[highest]):
                highest = q
    link[p], tree[p] = highest, best
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            q = _joined(number, tree, y + dy, x + dx)
            if q < 0:
                continue
            other = _find(tree, q)
            if other == best:
                continue
            strong = total[other] - level * count[other] > needed and count[other] >= min_pixels
            if not strong:
                link[top[other]] = p  # absorbed: its light goes to the object it touches here
            elif values[top[other]] > values[top[best]]:
                top[best] = top[other]
            total[best] += total[other]
            count[best] += count[other]
            tree[other] = best


@njit
def split_by_levels(pixels, inside, threshold, n_levels, contrast, min_pixels):
    """Objects of a footprint.

    Parameters
    ----------
    pixels : (ny, nx) float32 array
        Usually smoothed.
    inside : (ny, nx) bool array
        The footprint.
    threshold : float
        Lowest level, positive; fainter pixels are joined at the end.
    n_levels : int
        Levels between threshold and highest pixel, at equal ratios.
    contrast : float
        Part of the light of the whole object that a branch must exceed.
    min_pixels : int
        Fewest pixels of a branch.

    Returns
    -------
    labels : (ny, nx) int64 array
        0, 1, ... on the footprint in the order of decreasing peaks, -1 outside.
    peaks : (n, 2) int64 array
        y, x of the peak of each object.
    """
    ny, nx = pixels.shape
    number = np.full((ny, nx), -1, np.int64)
    n = 0
    for y in range(ny):
        for x in range(nx):
            n += 1 if inside[y, x] else 0
    values, ys, xs = np.empty(n), np.empty(n, np.int64), np.empty(n, np.int64)
    k = 0
    whole = 0.0
    for y in range(ny):
        for x in range(nx):
            if inside[y, x]:
                values[k], ys[k], xs[k] = -pixels[y, x], y, x
                whole += max(pixels[y, x], np.float32(0.0))
                k += 1
    order = np.argsort(values, kind="mergesort")
    sorted_values = np.empty(n)
    for k in range(n):
        p = order[k]
        number[ys[p], xs[p]] = k
        sorted_values[k] = -values[p]
    tree = np.full(n, -1, np.int64)
    link, top = np.empty(n, np.int64), np.empty(n, np.int64)
    total, count = np.zeros(n), np.zeros(n, np.int64)
    needed = contrast * whole
    highest = sorted_values[0] if n else 0.0
    step = np.log(max(highest, threshold * 1.0001) / threshold) / max(n_levels, 1)
    start = 0
    index = n_levels - 1
    while start < n:
        above = threshold * np.exp(step * (index + 1))
        floor = threshold * np.exp(step * index) if index >= 0 else -np.inf
        stop = start
        while stop < n and sorted_values[stop] >= floor:
            p = order[stop]
            _join_pixel(
                stop,
                xs[p],
                ys[p],
                sorted_values,
                number,
                tree,
                link,
                top,
                total,
                count,
                above,
                needed,
                min_pixels,
            )
            stop += 1
        for k in range(start, stop):
            root = _find(tree, k)
            total[root] += sorted_values[k]
            count[root] += 1
        start = stop
        index = max(index - 1, -1)
    return _label_links(number, order, ys, xs, link)


@njit
def _label_links(number, order, ys, xs, link):
    """Follow the links of all pixels to the peaks."""
    n = link.shape[0]
    object_of = np.full(n, -1, np.int64)
    n_objects = 0
    for k in range(n):
        if link[k] == k:
            object_of[k] = n_objects
            n_objects += 1
    peaks = np.empty((n_objects, 2), np.int64)
    for k in range(n):
        if link[k] == k:
            peaks[object_of[k], 0], peaks[object_of[k], 1] = ys[order[k]], xs[order[k]]
    for k in range(n):
        end = k
        while object_of[end] < 0:
            end = link[end]
        found = object_of[end]
        walk = k
        while object_of[walk] < 0:
            object_of[walk] = found
            walk = link[walk]
    labels = np.full(number.shape, -1, np.int64)
    for y in range(number.shape[0]):
        for x in range(number.shape[1]):
            if number[y, x] >= 0:
                labels[y, x] = object_of[number[y, x]]
    return labels, peaks
