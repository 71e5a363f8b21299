"""One pass over an image that says which pixels are usable and how noisy they are."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def classify_pixels(data, upper, lower, fill, gain, read_variance, codes, bits, variance, bad):
    """Flag pixels outside limits and give the others a Poisson variance.

    Parameters
    ----------
    data : (ny, nx) float32 array
        May hold NaN and infinity; these and pixels that are flagged become the value of ``fill``.
    upper, lower : float
        ``data >= upper`` and ``data <= lower`` are flagged; infinite for no limit.
    fill : float
        Pixels of this value are flagged.
    gain : float
        Electrons per unit.
    read_variance : float
        Variance of a pixel without light.
    codes : (4,) int32 array
        Values or-ed to the bits of pixels that are fill, too high, too low, not finite.
    bits : (ny, nx) int32 array
        Changed.
    variance : (ny, nx) float32 array
        Overwritten: ``abs(data) / gain + read_variance``.
    bad : (ny, nx) bool array
        Overwritten: pixels with any bit set.
    """
    ny, nx = data.shape
    scale = np.float32(1.0 / gain)
    base = np.float32(read_variance)
    for y in range(ny):
        row, flags, out, marks = data[y], bits[y], variance[y], bad[y]
        for x in range(nx):
            value = row[x]
            if not np.isfinite(value):
                flags[x] |= codes[3]
                value = np.float32(0.0)
            elif value == fill:
                flags[x] |= codes[0]
            elif value >= upper:
                flags[x] |= codes[1]
            elif value <= lower:
                flags[x] |= codes[2]
            out[x] = abs(value) * scale + base
            marks[x] = flags[x] != 0


@njit
def finish_difference(
    convolved, level, target, variance, lost, limit, factor, noise_factor, codes, bits, difference, noise
):
    """Subtract, scale and flag in one pass.

    Parameters
    ----------
    convolved : (ny, nx) float32 array
        The background is added to it.
    level, target, variance, lost : (ny, nx) float32 arrays
        Background, image to match, variance of the difference, share of the kernel on bad pixels.
    limit : float
        Share above which a pixel is unusable.
    factor, noise_factor : float
        What difference and noise are multiplied by.
    codes : (3,) int32 array
        Bits for touched, too much lost, unusable.
    bits : (ny, nx) int32 array
        Bits of both inputs; changed.
    difference, noise : (ny, nx) float32 arrays
        Overwritten.
    """
    ny, nx = convolved.shape
    scale, noise_scale = np.float32(factor), np.float32(noise_factor)
    for y in range(ny):
        model, flags = convolved[y], bits[y]
        for x in range(nx):
            model[x] += level[y, x]
            difference[y, x] = (target[y, x] - model[x]) * scale
            noise[y, x] = np.sqrt(max(variance[y, x], np.float32(0.0))) * noise_scale
            flag = codes[2] if flags[x] != 0 else 0
            if lost[y, x] > 0:
                flag |= codes[0]
                if lost[y, x] > limit:
                    flag |= codes[1] | codes[2]
            flags[x] |= flag
