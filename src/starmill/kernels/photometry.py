"""Weighted sums over stamps of many sources: PSF fluxes, band-limited apertures, mask bits."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source
from starmill.kernels.vector_sums import LANES, fit_stamp

FLAG_EDGE = 1
FLAG_NO_GOOD_PIXELS = 2


@njit
def _clip_stamp(shape, x0, y0, size):
    """Part of a stamp inside the image: first and last + 1 row and column of the stamp."""
    ny, nx = shape
    return max(0, -y0), min(size, ny - y0), max(0, -x0), min(size, nx - x0)


@njit
def _sums_by_pixel(model, pixels, x0, y0, bad_bits, sums):
    """Fill ``sums`` as :func:`stamp_fits` does, where vectors would reach over the end of an array."""
    j0, j1, k0, k1 = _clip_stamp(pixels.mask.shape, x0, y0, model.shape[0])
    for j in range(j0, j1):
        for k in range(k0, k1):
            if pixels.mask[y0 + j, x0 + k] & bad_bits:
                continue
            p = model[j, k]
            value = np.float64(pixels.image[y0 + j, x0 + k])
            spread = np.float64(pixels.variance[y0 + j, x0 + k])
            w = 1.0 / spread if spread > 0.0 else 0.0
            sums[0] += p
            sums[1] += p * p
            sums[2] += p * value
            sums[3] += p * p * spread
            sums[4] += w * p * p
            sums[5] += w * p * value
            sums[6] += w * value * value
            sums[7] += 1.0


@njit
def stamp_fits(pixels, models, x0, y0, bad_bits, first):
    """Least-squares amplitudes of a model image in every source of a block.

    Parameters
    ----------
    pixels : SourcePixels
    models : (n, size, size) float64 array
        Model of each source (its PSF image).
    x0, y0 : (n,) int64 array
        Array index of the lower left model pixel.
    bad_bits : int
        Pixels with any of these mask bits are left out.
    first : int
        Index in ``pixels`` of the first source.

    Returns
    -------
    sums : (n, 8) float64 array
        sum P, P**2, P I, P**2 V, and with weights 1/V: P**2, P I, I**2; number of pixels.
    flags : (n,) int32 array
        Sum of the ``FLAG_*`` values of this module.
    """
    n = x0.size
    size = models.shape[1]
    sums = np.zeros((n, 8))
    flags = np.zeros(n, np.int32)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    flat = models.ravel()
    image = pixels.image.ravel()
    variance = pixels.variance.ravel()
    mask = pixels.mask.ravel()
    pitch = pixels.image.shape[1]
    bits = np.int32(bad_bits)
    mask_pitch = pixels.mask.shape[1] if bits else 0  # without bits every row is tested with the first pixels
    strides = (size, pitch, mask_pitch)
    for i in range(n):
        j0, j1, k0, k1 = _clip_stamp(pixels.mask.shape, x0[i], y0[i], size)
        if j1 - j0 < size or k1 - k0 < size:
            flags[i] = FLAG_EDGE
        if j1 <= j0 or k1 <= k0:
            flags[i] |= FLAG_NO_GOOD_PIXELS
            continue
        masked = (y0[i] + j0) * mask_pitch + x0[i] + k0 if bits else 0
        places = ((i * size + j0) * size + k0, (y0[i] + j0) * pitch + x0[i] + k0, masked)
        last = j1 - j0 - 1
        reach = k1 - k0 + LANES
        fits = places[0] + last * size + reach <= flat.size and places[1] + last * pitch + reach <= image.size
        show_source(pixels, first + i, saved)
        if fits and places[2] + last * mask_pitch + reach <= mask.size:
            found = fit_stamp(flat, image, variance, mask, places, strides, bits, j1 - j0, k1 - k0)
            for k in range(8):
                sums[i, k] = found[k]
        else:
            _sums_by_pixel(models[i], pixels, x0[i], y0[i], bits, sums[i])
        hide_source(pixels, first + i, saved)
        if sums[i, 1] <= 0.0:
            flags[i] |= FLAG_NO_GOOD_PIXELS
    return sums, flags


@njit
def stamp_sums(pixels, weights, index, x0, y0, first):
    """Weighted sums of image and variance in every source of a block.

    Parameters
    ----------
    pixels : SourcePixels
    weights : (m, size, size) float64 array
    index : (n,) int64 array
        Which weight image each source uses.
    x0, y0 : (n,) int64 array
        Array index of the lower left weight pixel.
    first : int
        Index in ``pixels`` of the first source.

    Returns
    -------
    flux, variance : (n,) float64 array
        sum w I and sum w**2 V; NaN where the weight leaves the image.
    bits : (n,) int32 array
        OR of the mask over the stamp.
    """
    n = x0.size
    size = weights.shape[1]
    ny, nx = pixels.mask.shape
    flux = np.full(n, np.nan)
    variance = np.full(n, np.nan)
    bits = np.zeros(n, np.int32)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    for i in range(n):
        if x0[i] < 0 or y0[i] < 0 or x0[i] + size > nx or y0[i] + size > ny:
            continue
        show_source(pixels, first + i, saved)
        s = 0.0
        v = 0.0
        found = np.int32(0)
        for j in range(size):
            y = y0[i] + j
            a, b, c = _weighted_row(
                weights[index[i], j],
                pixels.image[y, x0[i] : x0[i] + size],
                pixels.variance[y, x0[i] : x0[i] + size],
                pixels.mask[y, x0[i] : x0[i] + size],
            )
            s += a
            v += b
            found |= c
        hide_source(pixels, first + i, saved)
        flux[i] = s
        variance[i] = v
        bits[i] = found
    return flux, variance, bits


@fast_njit
def _weighted_row(weights, row, row_variance, row_mask):
    s = 0.0
    v = 0.0
    found = np.int32(0)
    for k in range(row.size):
        w = weights[k]
        s += w * np.float64(row[k])
        v += w * w * np.float64(row_variance[k])
        found |= row_mask[k]
    return s, v, found


@njit
def footprint_bits(mask, spans, span_offsets, x, y):
    """Mask bits anywhere in the footprint and in the 3 x 3 pixels around the centre.

    Parameters
    ----------
    mask : (ny, nx) int32 array
    spans : (n_spans, 3) int32 array
        Rows y, x0, x1 (inclusive), array index, inside the image.
    span_offsets : (n + 1,) int64 array
    x, y : (n,) float64 array
        Array index.

    Returns
    -------
    anywhere, centre, centre_all : (n,) int32 array
        Bits of any pixel of the footprint, of any and of all of the nine central pixels.
    off_image : (n,) bool array
        The centre is not inside the image.
    """
    n = x.size
    ny, nx = mask.shape
    anywhere = np.zeros(n, np.int32)
    centre = np.zeros(n, np.int32)
    centre_all = np.zeros(n, np.int32)
    off_image = np.zeros(n, np.bool_)
    for i in range(n):
        found = np.int32(0)
        for s in range(span_offsets[i], span_offsets[i + 1]):
            row = mask[spans[s, 0], spans[s, 1] : spans[s, 2] + 1]
            for k in range(row.size):
                found |= row[k]
        anywhere[i] = found
        if not (-0.5 <= x[i] < nx - 0.5 and -0.5 <= y[i] < ny - 0.5):
            off_image[i] = True
            continue
        ix = int(np.floor(x[i] + 0.5))
        iy = int(np.floor(y[i] + 0.5))
        some = np.int32(0)
        every = np.int32(-1)
        for yy in range(max(iy - 1, 0), min(iy + 2, ny)):
            for xx in range(max(ix - 1, 0), min(ix + 2, nx)):
                some |= mask[yy, xx]
                every &= mask[yy, xx]
        centre[i] = some
        centre_all[i] = every
    return anywhere, centre, centre_all, off_image


@njit
def compensated_gaussians(pixels, x, y, width, outer_scale, half):
    """Difference of two Gaussian-weighted sums around every source, zero for a constant background.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Array index.
    width : float
        Sigma of the inner Gaussian, pixels.
    outer_scale : float
        Sigma of the outer one over that of the inner one.
    half : int
        Half width of the box, pixels.

    Returns
    -------
    flux, variance : (n,) float64 array
        Normalised for a Gaussian source of the width of the inner weight; NaN where the box
        leaves the image.
    bits : (n,) int32 array
        OR of the mask over the box.
    """
    n = x.size
    ny, nx = pixels.mask.shape
    flux = np.full(n, np.nan)
    variance = np.full(n, np.nan)
    bits = np.zeros(n, np.int32)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    size = 2 * half + 1
    inner = np.empty((2, size))
    outer = np.empty((2, size))
    t2 = outer_scale * outer_scale
    norm = 4.0 * np.pi * width * width * (t2 + 1.0) / (t2 - 1.0)
    for i in pixels.order:
        if not (-0.5 <= x[i] < nx - 0.5 and -0.5 <= y[i] < ny - 0.5):
            continue
        x0 = int(np.floor(x[i] + 0.5)) - half
        y0 = int(np.floor(y[i] + 0.5)) - half
        if x0 < 0 or y0 < 0 or x0 + size > nx or y0 + size > ny:
            continue
        for k in range(size):
            for axis in range(2):
                d = x0 + k - x[i] if axis == 0 else y0 + k - y[i]
                inner[axis, k] = np.exp(-0.5 * (d / width) ** 2) / np.sqrt(2.0 * np.pi) / width
                sigma = width * outer_scale
                outer[axis, k] = np.exp(-0.5 * (d / sigma) ** 2) / np.sqrt(2.0 * np.pi) / sigma
        show_source(pixels, i, saved)
        s = 0.0
        v = 0.0
        found = np.int32(0)
        for j in range(size):
            a, b, c = _difference_row(
                inner[0],
                outer[0],
                inner[1, j],
                outer[1, j],
                pixels.image[y0 + j, x0 : x0 + size],
                pixels.variance[y0 + j, x0 : x0 + size],
                pixels.mask[y0 + j, x0 : x0 + size],
            )
            s += a
            v += b
            found |= c
        hide_source(pixels, i, saved)
        flux[i] = s * norm
        variance[i] = v * norm * norm
        bits[i] = found
    return flux, variance, bits


@fast_njit
def _difference_row(inner, outer, inner_y, outer_y, row, row_variance, row_mask):
    s = 0.0
    v = 0.0
    found = np.int32(0)
    for k in range(row.size):
        w = inner_y * inner[k] - outer_y * outer[k]
        s += w * np.float64(row[k])
        v += w * w * np.float64(row_variance[k])
        found |= row_mask[k]
    return s, v, found


@njit
def concentration_sums(pixels, models, x0, y0, sigma, first):
    """Fluxes of every source under its PSF and under a wider window, both 1 for a unit point source.

    Parameters
    ----------
    pixels : SourcePixels
    models : (n, size, size) float64 array
        PSF images at the sources.
    x0, y0 : (n,) int64 array
        Array index of the lower left model pixel.
    sigma : (n,) float64 array
        Radius of the PSF, pixels; the window is the PSF times a growing parabola, cut at 4 sigma.
    first : int
        Index in ``pixels`` of the first source.

    Returns
    -------
    sums : (n, 5) float64 array
        Narrow and wide flux, their variances and covariance, of the pixels inside the image; NaN without any.
    """
    n = x0.size
    size = models.shape[1]
    out = np.full((n, 5), np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    half = size // 2
    for i in range(n):
        j0, j1, k0, k1 = _clip_stamp(pixels.mask.shape, x0[i], y0[i], size)
        if j1 <= j0 or k1 <= k0 or not sigma[i] > 0.0:
            continue
        show_source(pixels, first + i, saved)
        scale = 0.25 / (sigma[i] * sigma[i])
        limit = 16.0 * sigma[i] * sigma[i]
        reach = int(4.0 * sigma[i])
        j0, j1 = max(j0, half - reach), min(j1, half + reach + 1)
        k0, k1 = max(k0, half - reach), min(k1, half + reach + 1)
        pp = 0.0
        wp = 0.0
        pi = 0.0
        wi = 0.0
        ppv = 0.0
        wwv = 0.0
        pwv = 0.0
        for j in range(j0, j1):
            model = models[i, j]
            row = pixels.image[y0[i] + j]
            row_variance = pixels.variance[y0[i] + j]
            dy2 = (j - half) ** 2
            for k in range(k0, k1):
                r2 = dy2 + (k - half) ** 2
                if r2 > limit:
                    continue
                p = model[k]
                w = p * (1.0 + r2 * scale)
                value = row[x0[i] + k]
                v = row_variance[x0[i] + k]
                pp += p * p
                wp += w * p
                pi += p * value
                wi += w * value
                ppv += p * p * v
                wwv += w * w * v
                pwv += p * w * v
        hide_source(pixels, first + i, saved)
        if pp > 0.0 and wp > 0.0:
            out[i, 0] = pi / pp
            out[i, 1] = wi / wp
            out[i, 2] = ppv / (pp * pp)
            out[i, 3] = wwv / (wp * wp)
            out[i, 4] = pwv / (pp * wp)
    return out


@njit
def disk_bits(mask, x, y, radius):
    """OR of the mask over the pixels of a circle around every source.

    Parameters
    ----------
    mask : (ny, nx) int32 array
    x, y : (n,) float64 array
        Array index; NaN is left out.
    radius : float
        Pixels; a pixel counts when its centre lies within ``radius + 0.5``.

    Returns
    -------
    bits : (n,) int32 array
        Of the part of the circle inside the image.
    """
    ny, nx = mask.shape
    flat = mask.ravel()
    bits = np.zeros(x.size, np.int32)
    reach = radius + 0.5
    for i in range(x.size):
        if not (-reach <= x[i] < nx - 1 + reach and -reach <= y[i] < ny - 1 + reach):
            continue
        found = np.int32(0)
        for yy in range(max(int(np.ceil(y[i] - reach)), 0), min(int(np.floor(y[i] + reach)), ny - 1) + 1):
            half = np.sqrt(reach * reach - (yy - y[i]) ** 2)
            first = max(int(np.ceil(x[i] - half)), 0)
            last = min(int(np.floor(x[i] + half)), nx - 1)
            start = np.uint64(yy * nx + max(first, 0))
            for k in range(np.uint64(max(last - first + 1, 0))):
                found |= flat[start + k]
        bits[i] = found
    return bits
