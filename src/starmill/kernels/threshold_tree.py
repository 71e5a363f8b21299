"""Multi-threshold trees of footprints.

Pixels are joined from the brightest downwards, one level at a time. Where branches meet, those whose light above
the next higher level exceeds a part ``contrast`` of the whole object's stay separate objects (Bertin & Arnouts 1996,
A&AS 117, 393, section 6), provided that their peak stands out of the junction by more than noise does; all others are
absorbed. Every pixel links to the pixel it was joined to, so the links lead to the peak of its object.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit

WALK = 64  # pixels around a peak that are looked at before the tree is built


@njit
def _find(tree, i):
    """Root of a pixel's component, with path halving."""
    while tree[i] != i:
        tree[i] = tree[tree[i]]
        i = tree[i]
    return i


@njit
def _touching(place, pitch, number, tree, roots, ranks):
    """Components that touch a pixel and the highest pixel of each among its neighbours; returns their number.

    ``number`` is flat, with rows of ``pitch`` and a border of one pixel; pixels not joined yet have -1.
    """
    n = 0
    for row in (place - pitch - 1, place - 1, place + pitch - 1):
        for at in range(row, row + 3):
            k = number[at]
            if k < 0:
                continue
            root = tree[k]
            if n == 1 and root == roots[0]:  # most pixels touch one component
                ranks[0] = min(ranks[0], k)
                continue
            if tree[root] != root:
                root = _find(tree, k)
            c = 0
            while c < n and roots[c] != root:
                c += 1
            if c == n:
                roots[n], ranks[n] = root, k
                n += 1
            else:
                ranks[c] = min(ranks[c], k)
    return n


@njit
def _join_pixel(p, place, pitch, values, number, tree, link, top, total, count, noise, level, needed, min_pixels, min_drop,
                roots, ranks):  # fmt: skip
    """Join a pixel to the components of its eight neighbours.

    One that stands out, with most light, takes in the others: those that are strong stay objects.
    """
    n = _touching(place, pitch, number, tree, roots, ranks)
    number[place] = p
    tree[p], link[p], top[p] = p, p, p
    total[p], count[p] = 0.0, 0
    if n == 0:
        return
    main = 0
    floor = values[p]
    if n > 1:
        main_stands = values[top[roots[0]]] - floor >= min_drop * noise[top[roots[0]]]
        for c in range(1, n):
            root, best = roots[c], roots[main]
            stands = values[top[root]] - floor >= min_drop * noise[top[root]]
            if stands != main_stands:
                better = stands
            elif total[root] != total[best]:
                better = total[root] > total[best]
            else:
                better = values[top[root]] > values[top[best]]
            if better:
                main, main_stands = c, stands
    best = roots[main]
    link[p], tree[p] = ranks[main], best
    for c in range(n):
        other = roots[c]
        if c == main:
            continue
        strong = total[other] - level * count[other] > needed and count[other] >= min_pixels
        if not (strong and values[top[other]] - floor >= min_drop * noise[top[other]]):
            link[top[other]] = p  # absorbed: its light goes to the object it touches here
        elif values[top[other]] > values[top[best]]:
            top[best] = top[other]
        total[best] += total[other]
        count[best] += count[other]
        tree[other] = best


@njit
def _falling_order(values, order):
    """Order of positive values from the highest down, equal ones as they come.

    Positive float32 numbers are ordered as the integers of the same bits, of which four passes sort a byte each.

    Parameters
    ----------
    values : (n,) float32 array
        Positive.
    order : (n,) int64 array
        Written.
    """
    n = values.shape[0]
    bits = values.view(np.uint32)
    other = np.empty(n, np.int64)
    starts = np.empty(257, np.int64)
    for k in range(n):
        order[k] = k
    source, target = order, other
    for shift in (0, 8, 16, 24):
        starts[:] = 0
        for k in range(n):
            starts[256 - ((bits[k] >> np.uint32(shift)) & np.uint32(255))] += (
                1  # the highest byte comes first
            )
        for b in range(256):
            starts[b + 1] += starts[b]
        for k in range(n):
            place = source[k]
            bucket = 255 - ((bits[place] >> np.uint32(shift)) & np.uint32(255))
            target[starts[bucket]] = place
            starts[bucket] += 1
        source, target = target, source


@njit
def split_by_levels(pixels, inside, noise, threshold, n_levels, contrast, min_pixels, min_drop):
    """Objects of a footprint.

    Parameters
    ----------
    pixels : (ny, nx) float32 array
        Usually smoothed.
    inside : (ny, nx) bool array
        The footprint.
    noise : (ny, nx) float32 array
        Error of ``pixels``.
    threshold : float
        Lowest level, positive; fainter pixels are joined at the end.
    n_levels : int
        Levels between threshold and highest pixel, at equal ratios.
    contrast : float
        Part of the light of the whole object that a branch must exceed.
    min_pixels : int
        Fewest pixels of a branch.
    min_drop : float
        Smallest height of the peak of a branch over the junction, in units of the noise at the peak.

    Returns
    -------
    labels : (ny, nx) int64 array
        0, 1, ... on the footprint in the order of decreasing peaks, -1 outside.
    n_objects : int
    """
    labels, n_objects = _branches(pixels, inside, noise, threshold, n_levels, contrast, min_pixels, min_drop)
    _spread_labels(labels, pixels, inside)
    return labels, n_objects


@njit
def _branches(pixels, inside, noise, threshold, n_levels, contrast, min_pixels, min_drop):
    """Objects as :func:`split_by_levels`, with the labels of the pixels above the threshold alone."""
    ny, nx = pixels.shape
    pitch = nx + 2
    number = np.full((ny + 2) * pitch, -1, np.int32)
    n = 0
    whole = 0.0
    for y in range(ny):
        for x in range(nx):
            if inside[y, x]:
                n += 1 if pixels[y, x] >= threshold else 0
                whole += max(pixels[y, x], np.float32(0.0))
    values, errors, places = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.int64)
    k = 0
    for y in range(ny):
        for x in range(nx):
            if inside[y, x] and pixels[y, x] >= threshold:
                values[k], errors[k], places[k] = pixels[y, x], noise[y, x], (y + 1) * pitch + x + 1
                k += 1
    order = np.empty(n, np.int64)
    _falling_order(values, order)
    sorted_values, sorted_noise = np.empty(n), np.empty(n)
    for k in range(n):
        sorted_values[k] = values[order[k]]
        sorted_noise[k] = errors[order[k]]
    tree = np.full(n, -1, np.int64)
    link, top = np.empty(n, np.int64), np.empty(n, np.int64)
    total, count = np.zeros(n), np.zeros(n, np.int64)
    roots, ranks = np.empty(9, np.int64), np.empty(9, np.int64)
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
            _join_pixel(
                stop, places[order[stop]], pitch, sorted_values, number, tree, link, top, total, count, sorted_noise,
                above, needed, min_pixels, min_drop, roots, ranks,
            )  # fmt: skip
            stop += 1
        for k in range(start, stop):
            root = _find(tree, k)
            total[root] += sorted_values[k]
            count[root] += 1
        start = stop
        index = max(index - 1, -1)
    stands = np.empty(n, np.bool_)
    for k in range(n):
        stands[k] = (
            sorted_values[k] - 0.5 * threshold >= min_drop * sorted_noise[k]
        )  # the valley is between 0 and it
    labels, n_objects = _label_links(
        number, ny, nx, link, total, count, tree, stands, threshold, needed, min_pixels
    )
    return labels, max(n_objects, 1)


@njit
def _label_links(number, ny, nx, link, total, count, tree, stands, threshold, needed, min_pixels):
    """Follow the links of all pixels to the peaks; regions of their own need enough light as well."""
    n = link.shape[0]
    object_of = np.full(n, -1, np.int64)
    n_objects = 0
    for k in range(n):
        if link[k] != k:
            continue
        root = _find(tree, k)
        weak = total[root] - threshold * count[root] <= needed or count[root] < min_pixels
        if n_objects == 0 or (stands[k] and not weak):
            object_of[k] = n_objects
            n_objects += 1
        else:
            object_of[k] = n  # left to the surroundings
    for k in range(n):
        end = k
        while object_of[end] < 0:
            end = link[end]
        found = object_of[end]
        walk = k
        while object_of[walk] < 0:
            object_of[walk] = found
            walk = link[walk]
    labels = np.full((ny, nx), -1, np.int64)
    for y in range(ny):
        for x in range(nx):
            k = number[(y + 1) * (nx + 2) + x + 1]
            if k >= 0 and object_of[k] < n:
                labels[y, x] = object_of[k]
    return labels, n_objects


@njit
def _spread_labels(labels, pixels, inside):
    """Give the other pixels of the footprint, ring by ring, the label of their brightest labelled neighbour."""
    ny, nx = labels.shape
    waiting_y, waiting_x = np.empty(ny * nx, np.int64), np.empty(ny * nx, np.int64)
    found = np.empty(ny * nx, np.int64)
    n = 0
    any_label = False
    for y in range(ny):
        for x in range(nx):
            if inside[y, x]:
                any_label = any_label or labels[y, x] >= 0
                if labels[y, x] < 0:
                    waiting_y[n], waiting_x[n] = y, x
                    n += 1
    while n > 0:
        left = 0
        for k in range(n):
            y, x = waiting_y[k], waiting_x[k]
            best = -1
            highest = -np.inf
            for qy in range(max(y - 1, 0), min(y + 2, ny)):
                for qx in range(max(x - 1, 0), min(x + 2, nx)):
                    if labels[qy, qx] >= 0 and pixels[qy, qx] > highest:
                        best, highest = labels[qy, qx], pixels[qy, qx]
            found[k] = best
        for k in range(n):
            y, x = waiting_y[k], waiting_x[k]
            if found[k] >= 0:
                labels[y, x] = found[k]
            elif not any_label:
                labels[y, x] = 0
            else:
                waiting_y[left], waiting_x[left] = y, x
                left += 1
        if left == n:  # a part that touches no object: the first one takes it
            for k in range(n):
                labels[waiting_y[k], waiting_x[k]] = 0
            break
        n = left


@njit
def _smooth_inside(pixels, inside, ny, nx, half, taps, work):
    """Convolve a stamp with a separable kernel, in place; nothing outside the footprint counts.

    Parameters
    ----------
    pixels : float32 array, inside : uint8 array
        Flat stamp of ``ny`` x ``nx`` pixels with a border of ``half`` (at least one) all around, zero there.
    ny, nx, half : int
    taps : (2 half' + 1,) float64 array, half' <= half
    work : float64 array
        Scratch of the size of the stamp.
    """
    pitch = nx + 2 * half
    reach = taps.shape[0] // 2
    for y in range(ny + 2 * half):
        here = np.uint64(y * pitch + half)
        for x in range(np.uint64(nx)):
            work[here + x] = 0.0
        if half <= y < ny + half:
            for k in range(-reach, reach + 1):
                tap, there = taps[reach + k], np.uint64(y * pitch + half + k)
                for x in range(np.uint64(nx)):
                    work[here + x] += tap * np.float64(pixels[there + x])
    row = np.empty(nx)
    for y in range(half, ny + half):
        row[:] = 0.0
        for k in range(-reach, reach + 1):
            tap, there = taps[reach + k], np.uint64((y + k) * pitch + half)
            for x in range(np.uint64(nx)):
                row[x] += tap * work[there + x]
        here = np.uint64(y * pitch + half)
        for x in range(np.uint64(nx)):
            pixels[here + x] = np.float32(row[x]) if inside[here + x] else np.float32(0.0)


@njit
def _may_split(pixels, inside, ny, nx, half, variance, y0, x0, threshold, least_drop, stack):
    """Tell whether two peaks stand out of the threshold and of their surroundings.

    The stamp as in :func:`_smooth_inside`, its first pixel at (y0, x0) of the variance image; ``stack`` is scratch of
    :data:`WALK` + 8 numbers.
    """
    pitch = nx + 2 * half
    found = 0
    smallest = -1.0
    for y in range(ny):
        base = (y + half) * pitch + half
        for x in range(nx):
            at = base + x
            value = pixels[at]
            if not inside[at] or value < threshold:
                continue
            # what lies outside the footprint is zero, so below the threshold
            if pixels[at - 1] > value or pixels[at + 1] > value:
                continue
            if pixels[at - pitch] > value or pixels[at + pitch] > value:
                continue
            if pixels[at - pitch - 1] > value or pixels[at - pitch + 1] > value:
                continue
            if pixels[at + pitch - 1] > value or pixels[at + pitch + 1] > value:
                continue
            drop = least_drop * math.sqrt(max(variance[y0 + y, x0 + x], np.float32(0.0)))
            if value - 0.5 * threshold < drop:
                continue
            if smallest < 0.0:
                smallest = least_drop * math.sqrt(_least_variance(inside, ny, nx, half, variance, y0, x0))
            if not _is_shoulder(pixels, inside, at, pitch, smallest, threshold, stack):
                found += 1
                if found > 1:
                    return True
    return False


@njit
def _least_variance(inside, ny, nx, half, variance, y0, x0):
    """Return the smallest variance of the pixels of a stamp, at least zero."""
    least = np.float32(np.inf)
    for y in range(ny):
        base = (y + half) * (nx + 2 * half) + half
        for x in range(nx):
            if inside[base + x]:
                least = min(least, variance[y0 + y, x0 + x])
    return max(least, np.float32(0.0))


@njit
def _is_shoulder(pixels, inside, top, pitch, drop, threshold, stack):
    """Tell whether few pixels, all less than ``drop`` below a peak and above the threshold, lead to a higher one.

    Such a peak never stands out of the pixel where the tree joins it to its neighbour, so it is no object. ``drop`` is that
    of the smallest noise of the footprint, for a lower peak with less noise may come to stand for its branch.
    """
    value = pixels[top]
    floor = max(value - 0.999 * drop, threshold)  # the tree rounds in single precision
    n, done = 1, 0
    stack[0] = top
    inside[top] |= np.uint8(2)
    higher = False
    while done < n and n < WALK and not higher:
        here = stack[done]
        done += 1
        for row in (here - pitch, here, here + pitch):
            for at in range(row - 1, row + 2):
                if inside[at] == 1 and pixels[at] > floor:
                    higher = higher or pixels[at] > value
                    inside[at] |= np.uint8(2)
                    stack[n] = at
                    n += 1
    for k in range(n):
        inside[stack[k]] &= np.uint8(1)
    return higher


@njit
def _stamp_area(spans, first, last, half):
    """Return first row, first column, rows and columns of the box of some spans, and its area with a border."""
    y0, y1, x0, x1 = spans[first, 0], spans[last - 1, 0], spans[first, 1], spans[first, 2]
    for s in range(first, last):
        x0, x1 = min(x0, spans[s, 1]), max(x1, spans[s, 2])
    ny, nx = y1 - y0 + 1, x1 - x0 + 1
    return y0, x0, ny, nx, (ny + 2 * half) * (nx + 2 * half)


@njit
def label_footprints(image, variance, spans, span_offsets, pixel_offsets, first, last, taps, threshold, n_levels, contrast,
                     min_pixels, min_drop, labels, smoothed, n_objects):  # fmt: skip
    """Find the objects of many footprints.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
    spans : (n_spans, 3) int32 array
        Inside the image.
    span_offsets, pixel_offsets : (n + 1,) int64 arrays
    first, last : int
        Footprints ``first`` to ``last - 1`` are done.
    taps : (2 half + 1,) float64 array
        Separable smoothing kernel, sum one.
    threshold, n_levels, contrast, min_pixels, min_drop
        As :func:`split_by_levels`.
    labels : (n_pixels,) int32 array, smoothed : (n_pixels,) float32 array
        Written in span order: object of every pixel, and the smoothed image.
    n_objects : (n,) int64 array
        Written; 1 leaves ``labels`` as they are.
    """
    power = 0.0
    for k in range(taps.shape[0]):
        power += taps[k] * taps[k]
    half = max(taps.shape[0] // 2, 1)
    largest = 0
    for i in range(first, last):
        if span_offsets[i + 1] > span_offsets[i]:
            largest = max(largest, _stamp_area(spans, span_offsets[i], span_offsets[i + 1], half)[4])
    pixels, inside = np.empty(largest, np.float32), np.empty(largest, np.uint8)
    work, stack = np.empty(largest), np.empty(WALK + 8, np.int64)
    for i in range(first, last):
        n_objects[i] = 1
        s0, s1 = span_offsets[i], span_offsets[i + 1]
        if s1 <= s0:
            continue
        y0, x0, ny, nx, area = _stamp_area(spans, s0, s1, half)
        pitch = nx + 2 * half
        for k in range(np.uint64(area)):
            pixels[k] = np.float32(0.0)
            inside[k] = np.uint8(0)
        for s in range(s0, s1):
            y, start = spans[s, 0], spans[s, 1]
            base = (y - y0 + half) * pitch + start - x0 + half
            for k in range(spans[s, 2] - start + 1):
                value = image[y, start + k]
                inside[base + k] = np.uint8(1)
                pixels[base + k] = value if math.isfinite(value) else np.float32(0.0)
        _smooth_inside(pixels, inside, ny, nx, half, taps, work)
        at = pixel_offsets[i]
        for s in range(s0, s1):
            base = (spans[s, 0] - y0 + half) * pitch + spans[s, 1] - x0 + half
            for k in range(spans[s, 2] - spans[s, 1] + 1):
                smoothed[at] = pixels[base + k]
                at += 1
        if _may_split(pixels, inside, ny, nx, half, variance, y0, x0, threshold, min_drop * power, stack):
            n_objects[i] = _label_one(
                pixels, inside, ny, nx, half, variance, y0, x0, spans, s0, s1, power, threshold, n_levels, contrast,
                min_pixels, min_drop, labels, pixel_offsets[i],
            )  # fmt: skip


@njit
def _label_one(pixels, inside, ny, nx, half, variance, y0, x0, spans, s0, s1, power, threshold, n_levels, contrast,
               min_pixels, min_drop, labels, place):  # fmt: skip
    """Write the labels of a stamp from ``place`` on when it has several objects; returns how many."""
    pitch = nx + 2 * half
    values, within = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.bool_)
    for y in range(ny):
        base = (y + half) * pitch + half
        for x in range(nx):
            values[y, x] = pixels[base + x]
            within[y, x] = inside[base + x] != 0
    noise = np.zeros((ny, nx), np.float32)
    for s in range(s0, s1):
        y = spans[s, 0]
        for x in range(spans[s, 1], spans[s, 2] + 1):
            noise[y - y0, x - x0] = power * math.sqrt(max(variance[y, x], np.float32(0.0)))
    found, n_objects = _branches(values, within, noise, threshold, n_levels, contrast, min_pixels, min_drop)
    if n_objects < 2:
        return n_objects
    _spread_labels(found, values, within)
    for s in range(s0, s1):
        for x in range(spans[s, 1], spans[s, 2] + 1):
            labels[place] = found[spans[s, 0] - y0, x - x0]
            place += 1
    return n_objects


@njit
def count_objects(spans, span_offsets, pixel_offsets, labels, parents, child_offsets, n_spans, n_pixels):
    """Count spans and pixels of the objects of split footprints.

    Parameters
    ----------
    spans, span_offsets, pixel_offsets, labels
        As :func:`label_footprints`.
    parents : (m,) int64 array
        Footprints with several objects.
    child_offsets : (m + 1,) int64 array
        Number of the first object of each.
    n_spans, n_pixels : (n_children,) int64 arrays
        Zero on entry; filled.
    """
    for j in range(parents.shape[0]):
        i = parents[j]
        k = pixel_offsets[i]
        for s in range(span_offsets[i], span_offsets[i + 1]):
            before = -1
            for _ in range(spans[s, 1], spans[s, 2] + 1):
                child = child_offsets[j] + labels[k]
                n_pixels[child] += 1
                if child != before:
                    n_spans[child] += 1
                before = child
                k += 1


@njit
def collect_objects(image, variance, mask, spans, span_offsets, pixel_offsets, labels, smoothed, parents, child_offsets,
                    next_span, next_pixel, child_spans, child_image, child_variance, child_mask, tops):  # fmt: skip
    """Write spans, pixels and highest pixel of the objects of split footprints.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays, mask : (ny, nx) int32 array
    spans, span_offsets, pixel_offsets, labels, smoothed, parents, child_offsets
        As :func:`count_objects`.
    next_span, next_pixel : (n_children,) int64 arrays
        Where each object starts; changed.
    child_spans : (n_spans, 3) int32 array, child_image, child_variance : float32 arrays, child_mask : int32 array
        Written.
    tops : (n_children, 3) float64 array
        Filled with y, x and height of the highest smoothed pixel; heights are minus infinity on entry.
    """
    for j in range(parents.shape[0]):
        i = parents[j]
        k = pixel_offsets[i]
        for s in range(span_offsets[i], span_offsets[i + 1]):
            y = spans[s, 0]
            before = -1
            for x in range(spans[s, 1], spans[s, 2] + 1):
                child = child_offsets[j] + labels[k]
                if child != before:
                    child_spans[next_span[child], 0], child_spans[next_span[child], 1] = y, x
                    next_span[child] += 1
                child_spans[next_span[child] - 1, 2] = x
                before = child
                at = next_pixel[child]
                child_image[at], child_variance[at], child_mask[at] = image[y, x], variance[y, x], mask[y, x]
                next_pixel[child] += 1
                if smoothed[k] > tops[child, 2]:
                    tops[child, 0], tops[child, 1], tops[child, 2] = y, x, smoothed[k]
                k += 1
