"""Single passes over an image: which pixels are usable, the difference of a band, the finished difference."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit

__all__ = [
    "classify_pixels", "difference_sums", "finish_difference", "paste_flags", "poisson_variance", "subtract_rows",
]  # fmt: skip


@njit
def classify_pixels(data, upper, lower, fill, codes, bits):
    """Flag pixels outside limits.

    Parameters
    ----------
    data : (ny, nx) float32 array
        May hold NaN and infinity.
    upper, lower : float
        ``data >= upper`` and ``data <= lower`` are flagged; infinite for no limit.
    fill : float
        Pixels of this value are flagged.
    codes : (4,) uint8 array
        Values or-ed to the bits of pixels that are fill, too high, too low, not finite.
    bits : (ny, nx) uint8 array
        Changed.

    Returns
    -------
    n_bad, n_not_finite : int
        Pixels with any bit set, and those that are not finite.
    """
    ny, nx = data.shape
    n_bad, n_not_finite = 0, 0
    for y in range(ny):
        row, flags = data[y], bits[y]
        for x in range(nx):
            value = row[x]
            if not np.isfinite(value):
                flags[x] |= codes[3]
                n_not_finite += 1
            elif value == fill:
                flags[x] |= codes[0]
            elif value >= upper:
                flags[x] |= codes[1]
            elif value <= lower:
                flags[x] |= codes[2]
            n_bad += flags[x] != 0
    return n_bad, n_not_finite


@njit
def paste_flags(first, columns, values, x0, y_step, x_step, out):
    """Write flags that are kept as a list into a part of an image.

    Parameters
    ----------
    first : (rows + 1,) int64 array
        Where in the list each row of the part begins, and where the last one ends.
    columns : (n,) int32 array
        Column in the image of every pixel that has flags, in order within a row.
    values : (n,) uint8 array
        Its flags.
    x0 : int
        Column of the image at which the part begins.
    y_step, x_step : int
        Every so many rows and columns belong to the part.
    out : (-(-rows // y_step), nx) uint8 array
        Zero; changed where there are flags.
    """
    n_rows, width = out.shape[0], out.shape[1] * x_step
    for j in range(n_rows):
        y = j * y_step
        for k in range(first[y], first[y + 1]):
            x = columns[k] - x0
            if 0 <= x < width and x % x_step == 0:
                out[j, x // x_step] = values[k]


@njit
def poisson_variance(counts, gain, floor, out):
    """Write ``abs(counts) / gain + floor``, or ``floor`` where counts are not finite.

    Parameters
    ----------
    counts : (rows, n) float32 array
    gain, floor : float32
        Electrons per count; variance of a pixel without light.
    out : (rows, n) float32 array
        Overwritten.
    """
    rows, n = counts.shape
    factor, limit = np.float32(1.0) / gain, np.float32(np.inf)
    for y in range(rows):
        row, line = counts[y], out[y]
        for x in range(n):
            size = abs(row[x])
            line[x] = (size * factor if size < limit else np.float32(0.0)) + floor


@njit
def subtract_rows(
    target, target_variance, convolved, lost, bad_reference, bad_target, limit, difference, variance, status
):
    """Subtract a band of the convolved reference and add the variances.

    Parameters
    ----------
    target, target_variance, convolved, lost : (rows, nx) float32 arrays
        ``lost`` is the share of the kernel on bad pixels.
    bad_reference, bad_target : (rows, nx) bool arrays
    limit : float32
        Share above which a pixel is unusable.
    difference : (rows, nx) float32 array
        Overwritten.
    variance : (rows, nx) float32 array
        Of the convolved reference; that of the target is added.
    status : (rows, nx) uint16 array
        Overwritten: 0 clean, 1 touched by a bad pixel, plus 2 when too much is lost, plus 4 when bad itself.
    """
    rows, nx = target.shape
    for y in range(rows):
        for x in range(nx):
            difference[y, x] = target[y, x] - convolved[y, x]
            variance[y, x] += target_variance[y, x]
            code = np.uint16(lost[y, x] > 0) | (np.uint16(lost[y, x] > limit) << 1)
            status[y, x] = code | (np.uint16(bad_reference[y, x] or bad_target[y, x]) << 2)


@njit
def finish_difference(
    convolved,
    level,
    reference_bits,
    target_bits,
    factor,
    noise_factor,
    codes,
    difference,
    variance,
    bits,
):
    """Take the background off, scale and flag, in one pass over a band.

    Parameters
    ----------
    convolved : (rows, nx) float32 array
        The background is added to it and it is multiplied as the noise is; without rows when it is not wanted.
    level : (rows, nx) float32 array
        The background.
    reference_bits, target_bits : (rows, nx) uint8 arrays
        Bits of the inputs.
    factor, noise_factor : float32
        What difference and noise are multiplied by.
    codes : (3,) int32 array
        Bits for touched, too much lost, unusable.
    difference, variance : (rows, nx) float32 arrays
        Overwritten by the finished difference and the noise.
    bits : (rows, nx) uint16 array
        The status of :func:`subtract_rows`; overwritten by the bits of the output.
    """
    rows, nx = difference.shape
    kept = convolved.shape[0] > 0
    touched, lost, unusable = codes[0], codes[1], codes[2]
    for y in range(rows):
        for x in range(nx):
            if kept:
                convolved[y, x] = (convolved[y, x] + level[y, x]) * noise_factor
            difference[y, x] = (difference[y, x] - level[y, x]) * factor
            variance[y, x] = np.sqrt(max(variance[y, x], np.float32(0.0))) * noise_factor
            code = np.int32(bits[y, x])
            flag = np.int32(reference_bits[y, x] | target_bits[y, x])
            flag |= touched * (code & 1) | lost * ((code >> 1) & 1)
            bits[y, x] = flag | unusable * np.int32(code > 1)


@njit
def difference_sums(difference, noise, bits, refused, clip, out):
    """Add up what the statistics of a difference need.

    Parameters
    ----------
    difference, noise : (rows, nx) float32 arrays
    bits : (rows, nx) uint16 array
        Only pixels with none of the bits of ``refused`` count.
    refused : int
    clip : float32
        Pixels within so many times the noise count for the mean of the difference.
    out : (6,) float64 array
        Added to: number of pixels, their sum of noise and of (difference / noise) squared; number of pixels
        within the limit, their sum and sum of squares.
    """
    rows, nx = difference.shape
    for y in range(rows):
        n, near = 0, 0
        noise_sum, chi2, total, squares = 0.0, 0.0, 0.0, 0.0
        for x in range(nx):
            if bits[y, x] & refused == 0:
                value, sigma = np.float64(difference[y, x]), np.float64(max(noise[y, x], np.float32(1e-30)))
                n += 1
                noise_sum += sigma
                chi2 += (value / sigma) ** 2
                if abs(value) < clip * sigma:
                    near += 1
                    total += value
                    squares += value * value
        out[0] += n
        out[1] += noise_sum
        out[2] += chi2
        out[3] += near
        out[4] += total
        out[5] += squares
