"""Sharing the pixels of a parent among its children in proportion to their templates.

``child_i(p) = parent(p) T_i(p) / sum_j T_j(p)``. The child with the largest share of a pixel takes what the
others leave, so that the children add up to the parent to the last bit of float32. Pixels that no template
covers are stray flux.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.templates import template_halves

TRIM, BY_DISTANCE_TO_PEAK, BY_DISTANCE_TO_FOOTPRINT, NEAREST_FOOTPRINT = 0, 1, 2, 3


@njit
def share_out(
    inside, peak_y, peak_x, offsets, flat, is_psf, limit, stray_rule, stray_to_psf, clip_fraction, stray
):
    """Turn templates into shares: ``flat`` becomes T_i / sum T on the footprint.

    Parameters
    ----------
    inside : (ny, nx) bool array
    peak_y, peak_x : (n,) int64 arrays
    offsets : (n + 1,) int64 array
    flat : float32 array
        Templates as :func:`starmill.kernels.templates.build_templates` makes them; changed.
    is_psf : (n,) bool array
    limit : int
        Largest half size of a template.
    stray_rule : int
        0 leaves stray pixels out, 1 shares them by 1 / (1 + r^2) from the peaks, 2 from the footprints,
        3 gives them to the nearest footprint. Rules 1-3 reach only as far as the box of each template.
    stray_to_psf : int
        Whether point sources take stray flux: 0 only when all are point sources, 1 always, 2 never.
    clip_fraction : float
        Smaller parts of stray flux are dropped.
    stray : (n,) bool array
        Written: the child got stray flux.
    """
    ny, nx = inside.shape
    n = peak_y.shape[0]
    total = np.zeros((ny, nx), np.float64)
    for i in range(n):
        ry, rx = template_halves(ny, nx, peak_y[i], peak_x[i], limit)
        template = flat[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
        for iy in range(2 * ry + 1):
            row, sums = template[iy], total[peak_y[i] - ry + iy, peak_x[i] - rx : peak_x[i] + rx + 1]
            for ix in range(2 * rx + 1):
                sums[ix] += row[ix]
    if stray_rule != TRIM:
        takes = np.ones(n, np.bool_)
        if stray_to_psf != 1:
            all_psf = True
            for i in range(n):
                takes[i] = not is_psf[i]
                all_psf = all_psf and is_psf[i]
            if all_psf and stray_to_psf == 0:
                takes[:] = True
        covered = total > 0
        _share_stray(
            inside,
            covered,
            peak_y,
            peak_x,
            offsets,
            flat,
            takes,
            limit,
            stray_rule,
            clip_fraction,
            total,
            stray,
        )
    for i in range(n):
        ry, rx = template_halves(ny, nx, peak_y[i], peak_x[i], limit)
        template = flat[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
        for iy in range(2 * ry + 1):
            row, sums = template[iy], total[peak_y[i] - ry + iy, peak_x[i] - rx : peak_x[i] + rx + 1]
            for ix in range(2 * rx + 1):
                if row[ix] > 0:
                    row[ix] = np.float32(row[ix] / sums[ix])


@njit
def _footprint_distance(template, peak_y, peak_x, y, x):
    """Squared distance of a pixel to the nearest pixel of a template."""
    ry, rx = template.shape[0] // 2, template.shape[1] // 2
    best = np.inf
    for iy in range(template.shape[0]):
        dy = peak_y - ry + iy - y
        if dy * dy >= best:
            continue
        for ix in range(template.shape[1]):
            if template[iy, ix] > 0:
                dx = peak_x - rx + ix - x
                best = min(best, dy * dy + dx * dx)
    return best


@njit
def _share_stray(
    inside, covered, peak_y, peak_x, offsets, flat, takes, limit, rule, clip_fraction, total, stray
):
    """Give every pixel without a template to children by distance."""
    ny, nx = inside.shape
    n = peak_y.shape[0]
    part = np.zeros(n)
    original = flat.copy() if rule != BY_DISTANCE_TO_PEAK else flat[:0].copy()
    for y in range(ny):
        for x in range(nx):
            if not inside[y, x] or covered[y, x]:
                continue
            largest = 0.0
            summed = 0.0
            for i in range(n):
                part[i] = 0.0
                ry, rx = template_halves(ny, nx, peak_y[i], peak_x[i], limit)
                if not takes[i] or abs(y - peak_y[i]) > ry or abs(x - peak_x[i]) > rx:
                    continue
                if rule == BY_DISTANCE_TO_PEAK:
                    r2 = float((y - peak_y[i]) ** 2 + (x - peak_x[i]) ** 2)
                else:
                    shape = original[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
                    r2 = _footprint_distance(shape, peak_y[i], peak_x[i], y, x)
                part[i] = 1.0 / (1.0 + r2)
                largest = max(largest, part[i])
                summed += part[i]
            if summed == 0.0:
                continue
            kept = 0.0
            for i in range(n):
                if rule == NEAREST_FOOTPRINT:
                    part[i] = part[i] if part[i] == largest else 0.0
                elif part[i] / summed < clip_fraction:
                    part[i] = 0.0
                kept += part[i]
            for i in range(n):
                if part[i] > 0.0:
                    ry, rx = template_halves(ny, nx, peak_y[i], peak_x[i], limit)
                    k = offsets[i] + (y - peak_y[i] + ry) * (2 * rx + 1) + x - peak_x[i] + rx
                    flat[k] = np.float32(part[i])
                    stray[i] = True
            total[y, x] = kept


@njit
def count_children(shape_y, shape_x, peak_y, peak_x, limit, offsets, flat, n_pixels, n_spans):
    """Count pixels and spans of every child (share above zero)."""
    for i in range(peak_y.shape[0]):
        ry, rx = template_halves(shape_y, shape_x, peak_y[i], peak_x[i], limit)
        share = flat[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
        n_pixels[i] = 0
        n_spans[i] = 0
        for iy in range(2 * ry + 1):
            before = False
            for ix in range(2 * rx + 1):
                here = share[iy, ix] > 0
                if here:
                    n_pixels[i] += 1
                    if not before:
                        n_spans[i] += 1
                before = here


@njit
def collect_children(
    pixels,
    variance,
    mask,
    keep_variance,
    peak_y,
    peak_x,
    limit,
    offsets,
    flat,
    spans,
    out_pixels,
    out_variance,
    out_mask,
):
    """Write spans and pixels of all children, one after the other.

    Parameters
    ----------
    pixels, variance : (ny, nx) float32 arrays, mask : (ny, nx) int32 array
        Stamp of the parent.
    keep_variance : bool
        Children get the whole variance of a pixel instead of their share of it.
    peak_y, peak_x, limit, offsets, flat
        Shares as made by :func:`share_out`.
    spans : (n_spans, 3) int32 array
        Written: y, x0, x1 in the stamp.
    out_pixels, out_variance : float32 arrays, out_mask : int32 array
        Written in span order.
    """
    ny, nx = pixels.shape
    given = np.zeros((ny, nx), np.float64)  # what children other than the largest got
    largest = np.zeros((ny, nx), np.float32)
    owner = np.full((ny, nx), -1, np.int64)
    n = peak_y.shape[0]
    for i in range(n):
        ry, rx = template_halves(ny, nx, peak_y[i], peak_x[i], limit)
        share = flat[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
        for iy in range(2 * ry + 1):
            y = peak_y[i] - ry + iy
            for ix in range(2 * rx + 1):
                x = peak_x[i] - rx + ix
                if share[iy, ix] > largest[y, x]:
                    largest[y, x] = share[iy, ix]
                    owner[y, x] = i
    for i in range(n):
        ry, rx = template_halves(ny, nx, peak_y[i], peak_x[i], limit)
        share = flat[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
        for iy in range(2 * ry + 1):
            y = peak_y[i] - ry + iy
            for ix in range(2 * rx + 1):
                x = peak_x[i] - rx + ix
                if share[iy, ix] > 0 and owner[y, x] != i:
                    given[y, x] += np.float64(np.float32(pixels[y, x] * share[iy, ix]))
    n_span = n_pixel = 0
    for i in range(n):
        ry, rx = template_halves(ny, nx, peak_y[i], peak_x[i], limit)
        share = flat[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
        for iy in range(2 * ry + 1):
            y = peak_y[i] - ry + iy
            before = False
            for ix in range(2 * rx + 1):
                x = peak_x[i] - rx + ix
                part = share[iy, ix]
                if not part > 0:
                    before = False
                    continue
                if not before:
                    spans[n_span, 0], spans[n_span, 1] = y, x
                    n_span += 1
                spans[n_span - 1, 2] = x
                before = True
                if owner[y, x] == i:
                    out_pixels[n_pixel] = np.float32(pixels[y, x] - given[y, x])
                else:
                    out_pixels[n_pixel] = np.float32(pixels[y, x] * part)
                out_variance[n_pixel] = variance[y, x] if keep_variance else np.float32(variance[y, x] * part)
                out_mask[n_pixel] = mask[y, x]
                n_pixel += 1


@njit
def largest_overlap(shape_y, shape_x, peak_y, peak_x, limit, offsets, flat, i, j):
    """Cosine between two templates: their normalised inner product."""
    ry, rx = template_halves(shape_y, shape_x, peak_y[i], peak_x[i], limit)
    sy, sx = template_halves(shape_y, shape_x, peak_y[j], peak_x[j], limit)
    a = flat[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
    b = flat[offsets[j] : offsets[j + 1]].reshape(2 * sy + 1, 2 * sx + 1)
    aa = bb = ab = 0.0
    for v in flat[offsets[i] : offsets[i + 1]]:
        aa += v * v
    for v in flat[offsets[j] : offsets[j + 1]]:
        bb += v * v
    for y in range(max(peak_y[i] - ry, peak_y[j] - sy), min(peak_y[i] + ry, peak_y[j] + sy) + 1):
        for x in range(max(peak_x[i] - rx, peak_x[j] - sx), min(peak_x[i] + rx, peak_x[j] + sx) + 1):
            ab += a[y - peak_y[i] + ry, x - peak_x[i] + rx] * b[y - peak_y[j] + sy, x - peak_x[j] + sx]
    return ab / math.sqrt(aa * bb) if aa > 0 and bb > 0 else 0.0
