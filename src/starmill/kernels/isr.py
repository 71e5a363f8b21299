"""Pixel loops of instrument signature removal: each is one pass over rows.

All loops take whole C-contiguous arrays and box limits, and work on row views,
so that the compiler vectorises them. Equations stand in the functions of
``starmill.isr`` that call them.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def read_amplifier(
    raw, raw_limits, row_level, column_level, gain, levels, flip_x, flip_y, image, mask, out_origin, bits
):
    """Copy one amplifier out of the raw frame: level off, gain on, flipped, flagged.

    ``image = gain * (raw - row_level[row] - column_level[column])``

    Parameters
    ----------
    raw : (ny, nx) array, adu
        uint16 or float32; what is not finite becomes 0 and is flagged.
    raw_limits : tuple of int
        ``y0, y1, x0, x1`` (ends exclusive) of the imaging pixels in ``raw``.
    row_level, column_level : (y1 - y0,), (x1 - x0,) float32 arrays, adu
        Overscan level by row and by column, in raw order.
    gain : float, electron/adu
    levels : tuple of float, adu
        Saturation and suspect level; raw pixels above them are flagged.
    flip_x, flip_y : bool
        Mirror the amplifier while copying.
    image, mask : (my, mx) float32 and int32 arrays
        Written in the amplifier's box.
    out_origin : tuple of int
        ``y, x`` of the amplifier's box in ``image``.
    bits : tuple of int
        Mask bits for saturated, suspect and missing pixels.
    """
    y0, y1, x0, x1 = raw_limits
    width = x1 - x0
    height = y1 - y0
    saturation = np.float32(levels[0])
    suspect = np.float32(levels[1])
    sat_bit = np.int32(bits[0])
    suspect_bit = np.int32(bits[1])
    missing_bit = np.int32(bits[2])
    zero_bit = np.int32(0)
    factor = np.float32(gain)
    largest = np.float32(3e38)
    values = np.empty(width, np.float32)
    flags = np.empty(width, np.int32)
    for i in range(height):
        row = raw[y0 + i, x0:x1]
        level = row_level[i]
        for x in range(width):
            value = np.float32(row[x])
            missing = not abs(value) <= largest  # NaN and infinities
            flag = sat_bit if value > saturation else zero_bit
            flag |= suspect_bit if value > suspect else zero_bit
            flag |= missing_bit if missing else zero_bit
            flags[x] = flag
            values[x] = np.float32(0.0) if missing else factor * (value - level - column_level[x])
        j = out_origin[0] + (height - 1 - i if flip_y else i)
        out = image[j, out_origin[1] : out_origin[1] + width]
        out_mask = mask[j, out_origin[1] : out_origin[1] + width]
        if flip_x:
            for x in range(width):
                out[x] = values[width - 1 - x]
                out_mask[x] = flags[width - 1 - x]
        else:
            for x in range(width):
                out[x] = values[x]
                out_mask[x] = flags[x]


@njit
def subtract_crosstalk(image, mask, origins, reversed_axes, shape, linear, quadratic, threshold, bit):
    """Subtract from every amplifier what the others leaked into it, in readout order.

    ``a_i -= sum_j (linear[i, j] + quadratic[i, j] a_j) a_j`` with all pixels read at the same time.

    Parameters
    ----------
    image, mask : (ny, nx) float32 and int32 arrays, electron
        Assembled image, changed in place.
    origins : (n, 2) int array
        ``y, x`` of each amplifier's box; all have the same ``shape``.
    reversed_axes : (n, 2) bool array
        True where the readout runs against the image axis (y, x).
    shape : tuple of int
        Height and width of an amplifier.
    linear : (n, n) float32 array, electron/electron
    quadratic : (n, n) float32 array, 1/electron
    threshold : float, electron
        A source pixel above it sets ``bit`` in the victims it leaks into.
    bit : int
    """
    n = origins.shape[0]
    height, width = shape
    rows = np.empty((n, width), np.float32)
    total = np.empty(width, np.float32)
    flags = np.empty(width, np.int32)
    zero_bit = np.int32(0)
    set_bit = np.int32(bit)
    limit = np.float32(threshold)
    for v in range(height):
        for i in range(n):
            y = origins[i, 0] + (height - 1 - v if reversed_axes[i, 0] else v)
            source = image[y, origins[i, 1] : origins[i, 1] + width]
            buffer = rows[i]
            if reversed_axes[i, 1]:
                for x in range(width):
                    buffer[x] = source[width - 1 - x]
            else:
                for x in range(width):
                    buffer[x] = source[x]
        for i in range(n):
            total[:] = 0
            flags[:] = 0
            for j in range(n):
                c1 = linear[i, j]
                c2 = quadratic[i, j]
                if c1 == 0 and c2 == 0:
                    continue
                buffer = rows[j]
                for x in range(width):
                    total[x] += (c1 + c2 * buffer[x]) * buffer[x]
                    flags[x] |= set_bit if buffer[x] > limit else zero_bit
            y = origins[i, 0] + (height - 1 - v if reversed_axes[i, 0] else v)
            out = image[y, origins[i, 1] : origins[i, 1] + width]
            out_mask = mask[y, origins[i, 1] : origins[i, 1] + width]
            if reversed_axes[i, 1]:
                for x in range(width):
                    out[width - 1 - x] -= total[x]
                    out_mask[width - 1 - x] |= flags[x]
            else:
                for x in range(width):
                    out[x] -= total[x]
                    out_mask[x] |= flags[x]


@njit
def add_polynomial(image, limits, coefficients, gain):
    """Add ``gain * sum_k coefficients[k] (image/gain)**(k + 2)`` inside ``limits``, in place."""
    y0, y1, x0, x1 = limits
    factor = np.float32(gain)
    inverse = np.float32(1.0 / gain)
    width = x1 - x0
    total = np.empty(width, np.float32)
    for y in range(y0, y1):
        row = image[y, x0:x1]
        total[:] = 0
        for k in range(coefficients.size - 1, -1, -1):
            coefficient = coefficients[k]
            for x in range(width):
                total[x] = total[x] * (row[x] * inverse) + coefficient
        for x in range(width):
            value = row[x] * inverse
            row[x] += factor * total[x] * value * value


@njit
def add_table(image, limits, table, start, step, gain):
    """Add ``gain * T(image/gain)`` inside ``limits``: T linear between even nodes, constant beyond.

    ``table[k]`` is the correction in adu at ``start + k step`` adu.
    """
    y0, y1, x0, x1 = limits
    factor = np.float32(gain)
    scale = np.float32(1.0 / (gain * step))
    offset = np.float32(start / step)
    last = table.size - 2
    top = np.float32(table.size - 1)
    for y in range(y0, y1):
        row = image[y, x0:x1]
        for x in range(x1 - x0):
            position = row[x] * scale - offset
            position = min(max(position, np.float32(0.0)), top)
            k = min(int(position), last)
            weight = position - np.float32(k)
            row[x] += factor * (table[k] + weight * (table[k + 1] - table[k]))


@njit
def apply_masters(image, mask, variance, limits, noise, masters, mask_planes, uncertainty, settings, bits):
    """Bias, shot and read noise, dark and flat in one pass over the rows of one amplifier.

    Parameters
    ----------
    image, mask, variance : (ny, nx) arrays, float32 electron, int32, float32 electron**2
        Changed in place. A variance of shape (0, 0) is not computed.
    limits : tuple of int
        ``y0, y1, x0, x1`` of the amplifier.
    noise : float, electron
        Read noise; negative: leave the variance as it came in instead of computing it.
    masters : tuple of three float32 arrays
        Bias (electron), dark (electron/s), flat (dimensionless); shape (0, 0) skips the step.
    mask_planes : tuple of three int32 arrays
        Their masks, OR-ed into ``mask``; shape (0, 0) skips.
    uncertainty : tuple of three float32 arrays
        Their variances, propagated; shape (0, 0) skips.
    settings : tuple of float
        Dark time in seconds, the smallest flat that is not flagged, and the factor of the bias's variance.
    bits : tuple of int
        Flag for pixels whose flat is below the minimum or not a number; bits taken over from the masters.
    """
    y0, y1, x0, x1 = limits
    width = x1 - x0
    bias, dark, flat = masters
    time = np.float32(settings[0])
    smallest = np.float32(settings[1])
    bias_share = np.float32(settings[2])
    divisible = np.float32(0.01)  # below one hundredth of the mean, division only makes noise
    set_bit = np.int32(bits[0])
    kept_bits = np.int32(bits[1])
    zero_bit = np.int32(0)
    zero = np.float32(0.0)
    one = np.float32(1.0)
    noise_variance = np.float32(noise * noise)
    unused = np.zeros(width, np.float32)
    for y in range(y0, y1):
        out = image[y, x0:x1]
        flags = mask[y, x0:x1]
        spread = variance[y, x0:x1] if variance.size else unused
        for plane in mask_planes:
            if plane.size:
                more = plane[y, x0:x1]
                for x in range(width):
                    flags[x] |= more[x] & kept_bits
        if bias.size:
            row = bias[y, x0:x1]
            for x in range(width):
                out[x] -= row[x]
        if noise >= 0:
            for x in range(width):
                spread[x] = max(out[x], zero) + noise_variance
        if uncertainty[0].size:
            row = uncertainty[0][y, x0:x1]
            for x in range(width):
                spread[x] += bias_share * row[x]
        if dark.size:
            row = dark[y, x0:x1]
            for x in range(width):
                out[x] -= time * row[x]
            if uncertainty[1].size:
                row = uncertainty[1][y, x0:x1]
                for x in range(width):
                    spread[x] += time * time * row[x]
        if flat.size:
            row = flat[y, x0:x1]
            for x in range(width):
                inverse = one / row[x] if row[x] > divisible else one
                out[x] *= inverse
                spread[x] *= inverse * inverse
                flags[x] |= zero_bit if row[x] >= smallest and row[x] > divisible else set_bit
            if uncertainty[2].size:
                row2 = uncertainty[2][y, x0:x1]
                for x in range(width):
                    inverse = one / row[x] if row[x] > divisible else one
                    relative = out[x] * inverse
                    spread[x] += relative * relative * row2[x]


@njit
def flagged_pixels(mask, bits):
    """Return the ``(n, 2)`` indices (y, x) of the pixels with any of the bits, row by row."""
    ny, nx = mask.shape
    wanted = np.int32(bits)
    counts = np.zeros(ny, np.int64)
    for y in range(ny):
        row = mask[y]
        seen = np.int32(0)
        for x in range(nx):
            seen |= row[x]
        if seen & wanted:
            for x in range(nx):
                counts[y] += 1 if row[x] & wanted else 0
    indices = np.empty((counts.sum(), 2), np.int64)
    k = 0
    for y in range(ny):
        if counts[y]:
            row = mask[y]
            for x in range(nx):
                if row[x] & wanted:
                    indices[k, 0] = y
                    indices[k, 1] = x
                    k += 1
    return indices
