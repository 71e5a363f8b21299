"""Weighted sums over stamps of many sources: PSF fluxes, band-limited apertures, mask bits."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source

FLAG_EDGE = 1
FLAG_NO_GOOD_PIXELS = 2


@njit
def _clip_stamp(shape, x0, y0, size):
    """Part of a stamp inside the image: first and last + 1 row and column of the stamp."""
    ny, nx = shape
    return max(0, -y0), min(size, ny - y0), max(0, -x0), min(size, nx - x0)


@fast_njit
def _linear_sums(model, value, variance, sums):
    """Fill ``sums`` with those of a linear fit of ``model`` to ``value``; all three (n,) arrays."""
    sp = 0.0
    spp = 0.0
    spi = 0.0
    sppv = 0.0
    for k in range(value.size):
        p = model[k]
        sp += p
        spp += p * p
        spi += p * value[k]
        sppv += p * p * variance[k]
    wpp = 0.0
    wpi = 0.0
    wii = 0.0
    for k in range(value.size):
        v = variance[k]
        w = 1.0 / v if v > 0.0 else 0.0
        p = w * model[k]
        wpp += p * model[k]
        wpi += p * value[k]
        wii += w * value[k] * value[k]
    sums[0] = sp
    sums[1] = spp
    sums[2] = spi
    sums[3] = sppv
    sums[4] = wpp
    sums[5] = wpi
    sums[6] = wii


@njit
def _load_stamp(pixels, model, x0, y0, bad_bits, stamp):
    """Fill the rows of ``stamp`` with model, image and variance of the usable pixels under a model image.

    Returns
    -------
    n : int
        Usable pixels: inside the image and without any of ``bad_bits``.
    inside : bool
        No pixel of the model lies outside the image.
    """
    size = model.shape[0]
    j0, j1, k0, k1 = _clip_stamp(pixels.mask.shape, x0, y0, size)
    image = pixels.image.ravel()
    variance = pixels.variance.ravel()
    mask = pixels.mask.ravel()
    flat_model = model.ravel()
    into_model = stamp[0]
    into_image = stamp[1]
    into_variance = stamp[2]
    n = 0
    width = k1 - k0
    for j in range(j0, j1):
        first = (y0 + j) * pixels.image.shape[1] + x0 + k0
        first_mask = (y0 + j) * pixels.mask.shape[1] + x0 + k0
        first_model = j * size + k0
        if bad_bits and _any_bit(mask, first_mask, width, bad_bits):
            for k in range(width):
                if not mask[first_mask + k] & bad_bits:
                    into_model[n] = flat_model[first_model + k]
                    into_image[n] = image[first + k]
                    into_variance[n] = variance[first + k]
                    n += 1
            continue
        _copy_run(flat_model, first_model, width, into_model, n)
        _copy_run(image, first, width, into_image, n)
        _copy_run(variance, first, width, into_variance, n)
        n += width
    return n, j1 - j0 == size and width == size


@njit
def _copy_run(source, start, n, target, offset):
    """Copy ``n`` values; unsigned indices, so that the compiler has no negative ones to think of."""
    a = np.uint64(start)
    b = np.uint64(offset)
    for k in range(np.uint64(n)):
        target[b + k] = source[a + k]


@njit
def _any_bit(mask, start, n, bits):
    found = np.int32(0)
    a = np.uint64(start)
    for k in range(np.uint64(n)):
        found |= mask[a + k]
    return (found & bits) != 0


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
    stamp = np.empty((3, size * size))
    for i in range(n):
        show_source(pixels, first + i, saved)
        count, inside = _load_stamp(pixels, models[i], x0[i], y0[i], bad_bits, stamp)
        hide_source(pixels, first + i, saved)
        if not inside:
            flags[i] = FLAG_EDGE
        if count > 0:
            _linear_sums(stamp[0, :count], stamp[1, :count], stamp[2, :count], sums[i])
            sums[i, 7] = count
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
    for i in range(n):
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
