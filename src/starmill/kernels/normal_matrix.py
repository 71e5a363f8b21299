r"""Weights of stamps and their convolution with a separable kernel basis, for the normal matrix of a kernel fit.

Every basis image is :math:`B_i(u, v) = g_i(u)\, h_{m(i)}(v)`: many share the horizontal factor, so a stamp is
filtered along x once per distinct factor and along y once per basis image. A stamp is worked as one long line,
because rows of some thirty pixels are too short for vector loops; sums that run over a row end are dropped.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit

TAPS = 7
"""Filters are padded with zeros to a multiple of this number of taps."""


@fast_njit
def _add_taps(line, taps, first, stride, out):
    """Add seven taps of a filter along a line whose steps are ``stride`` elements."""
    a0, a1, a2, a3 = taps[first], taps[first + 1], taps[first + 2], taps[first + 3]
    a4, a5, a6 = taps[first + 4], taps[first + 5], taps[first + 6]
    n = out.size
    f = first * stride
    r0, r1, r2 = line[f : f + n], line[f + stride : f + stride + n], line[f + 2 * stride : f + 2 * stride + n]
    r3, r4 = line[f + 3 * stride : f + 3 * stride + n], line[f + 4 * stride : f + 4 * stride + n]
    r5, r6 = line[f + 5 * stride : f + 5 * stride + n], line[f + 6 * stride : f + 6 * stride + n]
    for x in range(n):
        out[x] += a0 * r0[x] + a1 * r1[x] + a2 * r2[x] + a3 * r3[x] + a4 * r4[x] + a5 * r5[x] + a6 * r6[x]


@fast_njit
def convolve_stamp(stamp, width, horizontal, horizontal_index, vertical, out):
    """Convolve one stamp with every basis image.

    Parameters
    ----------
    stamp : (size + width - 1, size + width - 1) float32 array
        Pixels with a border of half a kernel; no NaN.
    width : int
        Width of the kernel in pixels.
    horizontal : (m, k) float32 array
        The distinct horizontal factors, in correlation order (flipped), padded to ``k``, a multiple of ``TAPS``.
    horizontal_index : (n,) int64 array
        Which one each basis image takes.
    vertical : (n, k) float32 array
        Vertical factors, in correlation order, padded.
    out : (n, size, size) float32 array
        Overwritten.
    """
    m, k = horizontal.shape
    n, size = out.shape[0], out.shape[1]
    tall = size + width - 1
    flat = np.zeros(tall * tall + k, np.float32)
    for y in range(tall):
        for x in range(tall):
            flat[y * tall + x] = stamp[y, x]
    line = np.empty(tall * tall, np.float32)
    filtered = np.zeros((m, (tall + k) * size), np.float32)
    for i in range(m):
        line[:] = np.float32(0.0)
        for v in range(0, k, TAPS):
            _add_taps(flat, horizontal[i], v, 1, line)
        for y in range(tall):
            for x in range(size):
                filtered[i, y * size + x] = line[y * tall + x]
    for i in range(n):
        image = out[i].reshape(size * size)
        image[:] = np.float32(0.0)
        for u in range(0, k, TAPS):
            _add_taps(filtered[horizontal_index[i]], vertical[i], u, size, image)


@njit
def stamp_weights(
    reference_variance, target_variance, bad_reference, bad_target, scale, profile, norm, reach, weights
):
    """Write the inverse variances of the pixels of a stamp, 0 for those that are not used.

    Parameters
    ----------
    reference_variance : (size + 2 b, size + 2 b) float32 array
        Of the image that is convolved, with a border of half a kernel.
    target_variance : (size, size) float32 array
    bad_reference : (size + 2 b, size + 2 b) bool array
    bad_target : (size, size) bool array
    scale : float
        Kernel sum.
    profile : (2 r + 1,) float64 array
        One-dimensional factor of the filter of the reference's variance, ``r`` at most ``b``; with a single value
        the mean of the eight neighbours is taken instead, as for the target.
    norm : float
        The filtered variance is multiplied by this.
    reach : int
        Half width of the square of pixels that a bad reference pixel spoils; at most ``b``.
    weights : (size, size) float64 array
        Overwritten.

    Returns
    -------
    n : int
        Pixels with a weight.

    Notes
    -----
    A variance made from the data goes up with the noise of its own pixel; used as a weight it would bias every
    mean low. The neighbours are as good an estimate and do not know that noise.
    """
    size, tall = target_variance.shape[0], reference_variance.shape[0]
    border, half = (tall - size) // 2, profile.size // 2
    along_x = np.zeros((tall, size))
    for y in range(tall):
        for x in range(size):
            for i in range(profile.size):
                u = x + border + i - half
                if not bad_reference[y, u]:
                    along_x[y, x] += profile[i] * reference_variance[y, u]
    n = 0
    for y in range(size):
        for x in range(size):
            weights[y, x] = 0.0
            if bad_target[y, x] or _any_near(bad_reference, y + border, x + border, reach):
                continue
            noise = 0.0
            if half > 0:
                for i in range(profile.size):
                    noise += profile[i] * along_x[y + border + i - half, x]
            else:
                noise = _mean_of_neighbours(reference_variance, y + border, x + border)
            variance = _mean_of_neighbours(target_variance, y, x) + scale * scale * norm * noise
            if variance > 0:
                weights[y, x] = 1 / variance
                n += 1
    return n


@njit
def _any_near(flags, y, x, reach):
    for v in range(y - reach, y + reach + 1):
        for u in range(x - reach, x + reach + 1):
            if flags[v, u]:
                return True
    return False


@njit
def _mean_of_neighbours(image, y, x):
    """Return the mean of the eight neighbours; those outside are the edge's."""
    ny, nx = image.shape
    total = 0.0
    for v in range(y - 1, y + 2):
        for u in range(x - 1, x + 2):
            if v != y or u != x:
                total += image[min(max(v, 0), ny - 1), min(max(u, 0), nx - 1)]
    return total / 8


@njit
def weigh_design(convolved, minus_first, target, roots, design):
    """Write the weighted columns of the least-squares problem of a stamp.

    Parameters
    ----------
    convolved : (n, pixels) float32 array
        The reference convolved with every basis image.
    minus_first : (n,) bool array
        Images from which the first was subtracted.
    target : (pixels,) float32 array
        Any finite value where the weight is 0.
    roots : (pixels,) float64 array
        Square roots of the weights.
    design : (n + 2, pixels) float64 array
        Overwritten: convolved images, target, constant, all times ``roots``.
    """
    n, pixels = convolved.shape
    for i in range(n):
        row, out = convolved[i], design[i]
        if minus_first[i]:
            first = convolved[0]
            for p in range(pixels):
                out[p] = roots[p] * (np.float64(row[p]) - np.float64(first[p]))
        else:
            for p in range(pixels):
                out[p] = roots[p] * row[p]
    for p in range(pixels):
        design[n, p] = roots[p] * target[p]
        design[n + 1, p] = roots[p]
