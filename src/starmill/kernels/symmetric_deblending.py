"""Symmetric-template deblending of many parents in one compiled loop: stamp, point sources, templates, shares, children."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.apportion import collect_children, count_children, largest_overlap, share_out
from starmill.kernels.point_source_test import fit_point_sources
from starmill.kernels.spans import cut_stamp
from starmill.kernels.templates import build_templates, copy_image, template_halves

DONE, TOO_BIG, FAILED = 0, 1, 2
TRIM = 0


@njit
def _longer(buffer, needed):
    """Return a buffer of at least ``needed`` elements that starts with the old ones."""
    if needed <= buffer.shape[0]:
        return buffer
    out = np.empty(max(needed, 2 * buffer.shape[0]), buffer.dtype)
    for k in range(buffer.shape[0]):
        out[k] = buffer[k]
    return out


@njit
def _cut_parent(image, variance, mask, spans, margin):
    """Stamp of a parent with a margin of empty pixels: origin, pixels, variances, bits, inside."""
    y0, x0, y1, x1 = spans[0, 0], spans[0, 1], spans[0, 0], spans[0, 2]
    for s in range(spans.shape[0]):
        y0, y1 = min(y0, spans[s, 0]), max(y1, spans[s, 0])
        x0, x1 = min(x0, spans[s, 1]), max(x1, spans[s, 2])
    y0, x0 = y0 - margin, x0 - margin
    shape = (y1 + margin + 1 - y0, x1 + margin + 1 - x0)
    pixels, variances = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    bits, inside = np.zeros(shape, np.int32), np.zeros(shape, np.bool_)
    cut_stamp(image, variance, mask, spans, margin, y0, x0, pixels, variances, bits, inside)
    return y0, x0, pixels, variances, bits, inside


@njit
def _hold_peaks(peak_y, peak_x, y0, x0, inside, psfs, ramps, number, y, x):
    """Move the peaks that lie on usable pixels, and their PSFs, to the front; returns how many they are."""
    n = 0
    for p in range(peak_y.shape[0]):
        cy, cx = peak_y[p] - y0, peak_x[p] - x0
        if not (0 <= cy < inside.shape[0] and 0 <= cx < inside.shape[1] and inside[cy, cx]):
            continue
        number[n], y[n], x[n] = p, cy, cx
        if n < p:
            copy_image(psfs[p], psfs[n])
            copy_image(ramps[p], ramps[n])
        n += 1
    return n


@njit
def _template_places(shape_y, shape_x, y, x, limit):
    """Where the template of each peak starts in the flat array of all."""
    offsets = np.zeros(y.shape[0] + 1, np.int64)
    for i in range(y.shape[0]):
        ry, rx = template_halves(shape_y, shape_x, y[i], x[i], limit)
        offsets[i + 1] = offsets[i] + (2 * ry + 1) * (2 * rx + 1)
    return offsets


@njit
def _empty_degenerate(shape_y, shape_x, y, x, limit, offsets, flat, largest):
    """Empty the template of the fainter of two peaks with like templates (peaks come brightest first)."""
    for j in range(1, y.shape[0]):
        for i in range(j):
            if largest_overlap(shape_y, shape_x, y, x, limit, offsets, flat, i, j) > largest:
                for k in range(offsets[j], offsets[j + 1]):
                    flat[k] = np.float32(0.0)
                break


@njit
def deblend_parents(image, variance, mask, spans, span_offsets, peak_y, peak_x, peak_offsets, psfs, ramps, fwhm, sigma,
                    margin, chi2_limits, n_sweeps, edge_rule, network, stray_rule, stray_to_psf, clip_fraction,
                    max_overlap, keep_variance, limits, max_work,
                    status, number, is_psf, fluxes, centres, chi2, ramped, stray, n_spans, n_pixels):  # fmt: skip
    """Split parents into children.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays, mask : (ny, nx) int32 array
    spans : (n_spans, 3) int32 array, span_offsets : (m + 1,) int64 array
        Of the parents, array index, inside the image.
    peak_y, peak_x : (n,) int64 arrays, peak_offsets : (m + 1,) int64 array
        Distinct peaks, array index, brightest first.
    psfs : (n, size, size) float64 array
        Centred PSF at each peak, sum one; changed.
    ramps : (n, s, s) float64 array
        Its core, for the ramps at the edge of the footprint; changed.
    fwhm, sigma : float
        Of the PSF, and the noise of a pixel.
    margin : int
        Pixels around the box of a parent.
    chi2_limits, n_sweeps
        As :func:`starmill.kernels.point_source_test.fit_point_sources`.
    edge_rule, network
        As :func:`starmill.kernels.templates.build_templates`.
    stray_rule, stray_to_psf, clip_fraction
        As :func:`starmill.kernels.apportion.share_out`.
    max_overlap : float
        Cosine between templates above which the fainter is dropped; 0 keeps all.
    keep_variance : bool
    limits : (m,) int64 array
        Largest half size of the templates of each parent; 0 for no limit. Where there is one, stray flux is trimmed.
    max_work : (m,) int64 array
        Parents with more template pixels are left alone.
    status : (m,) int64 array
        Written: 0 done, 1 too much work, 2 no children.
    number : (n,) int64 array
        Peak of each child, counted in its parent. This and the following arrays start at ``peak_offsets`` for each
        parent and hold those of its peaks that lie on usable pixels; the rest stays as it is.
    is_psf, ramped, stray : (n,) bool arrays, fluxes, chi2 : (n,) arrays, centres : (n, 2) array
        Written: what is known of each child.
    n_spans, n_pixels : (n,) int64 arrays
        Zero on entry; size of each child.

    Returns
    -------
    child_spans : (k, 3) int32 array, pixels, variances : (l,) float32 arrays, bits : (l,) int32 array
        Of all children, one after the other.
    """
    ends, filled = np.empty(3 * 64, np.int32), 0
    out, out_variance, out_mask = (
        np.empty(4096, np.float32),
        np.empty(4096, np.float32),
        np.empty(4096, np.int32),
    )
    where = 0
    for m in range(span_offsets.shape[0] - 1):
        first, last = peak_offsets[m], peak_offsets[m + 1]
        y0, x0, pixels, variances, bits, inside = _cut_parent(
            image, variance, mask, spans[span_offsets[m] : span_offsets[m + 1]], margin
        )
        y, x = np.empty(last - first, np.int64), np.empty(last - first, np.int64)
        n = _hold_peaks(peak_y[first:last], peak_x[first:last], y0, x0, inside, psfs[first:last], ramps[first:last],
                        number[first:last], y, x)  # fmt: skip
        status[m] = FAILED
        if n < 2:
            continue
        ny, nx = inside.shape
        limit = limits[m] if limits[m] > 0 else max(ny, nx)
        y, x, end = y[:n], x[:n], first + n
        offsets = _template_places(ny, nx, y, x, limit)
        if offsets[n] > max_work[m]:
            status[m] = TOO_BIG
            continue
        flat, images = np.zeros(offsets[n], np.float32), np.zeros((n, psfs.shape[1], psfs.shape[2]))
        fit_point_sources(
            pixels, variances, inside, y, x, psfs[first:end], fwhm, chi2_limits, n_sweeps, is_psf[first:end], images,
            fluxes[first:end], centres[first:end], chi2[first:end],
        )  # fmt: skip
        build_templates(
            pixels, inside, y, x, ramps[first:end], is_psf[first:end], images, sigma, edge_rule, network, limit, offsets,
            flat, ramped[first:end],
        )  # fmt: skip
        if max_overlap > 0.0:
            _empty_degenerate(ny, nx, y, x, limit, offsets, flat, max_overlap)
        share_out(
            inside, y, x, offsets, flat, is_psf[first:end], limit, stray_rule if limits[m] == 0 else TRIM, stray_to_psf,
            clip_fraction, stray[first:end],
        )  # fmt: skip
        count_children(ny, nx, y, x, limit, offsets, flat, n_pixels[first:end], n_spans[first:end])
        more_spans, more = n_spans[first:end].sum(), n_pixels[first:end].sum()
        if more == 0:
            continue
        status[m] = DONE
        out, out_variance = _longer(out, filled + more), _longer(out_variance, filled + more)
        out_mask = _longer(out_mask, filled + more)
        ends = _longer(ends, 3 * (where + more_spans))
        found = ends[3 * where : 3 * (where + more_spans)].reshape(more_spans, 3)
        collect_children(
            pixels, variances, bits, keep_variance, y, x, limit, offsets, flat, found, out[filled : filled + more],
            out_variance[filled : filled + more], out_mask[filled : filled + more],
        )  # fmt: skip
        for s in range(more_spans):
            found[s, 0] += y0
            found[s, 1] += x0
            found[s, 2] += x0
        where += more_spans
        filled += more
    return (
        ends[: 3 * where].copy().reshape(where, 3),
        out[:filled].copy(),
        out_variance[:filled].copy(),
        out_mask[:filled].copy(),
    )
