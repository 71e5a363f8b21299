"""Slow twins of the loops in ``starmill.kernels.isr``, in float64."""

import numpy as np


def read_amplifier(raw, row_level, column_level, gain, levels, flip_x, flip_y, bits):
    """Image (electron) and mask of one amplifier; ``raw`` are its imaging pixels."""
    raw = raw.astype(np.float64)
    missing = ~np.isfinite(raw)
    image = gain * (np.where(missing, 0, raw) - row_level[:, None] - column_level[None, :])
    image[missing] = 0
    with np.errstate(invalid="ignore"):
        mask = np.where(raw > levels[0], bits[0], 0) | np.where(raw > levels[1], bits[1], 0)
    mask |= np.where(missing, bits[2], 0)
    step_y, step_x = (-1 if flip else 1 for flip in (flip_y, flip_x))
    return image[::step_y, ::step_x], mask[::step_y, ::step_x]


def subtract_crosstalk(image, boxes, reversed_axes, linear, quadratic):
    """Corrected copy; every amplifier is turned to readout order first."""
    result = image.astype(np.float64)

    def in_readout_order(array, k):
        part = array[boxes[k]]
        return part[:: -1 if reversed_axes[k][0] else 1, :: -1 if reversed_axes[k][1] else 1]

    sources = [in_readout_order(image.astype(np.float64), k) for k in range(len(boxes))]
    for i in range(len(boxes)):
        victim = in_readout_order(result, i)
        for j, source in enumerate(sources):
            victim -= linear[i][j] * source + quadratic[i][j] * source**2
    return result


def add_polynomial(image, coefficients, gain):
    """Image + gain * sum c_k (image / gain)^(k + 2)."""
    x = image.astype(np.float64) / gain
    return image + gain * sum(c * x ** (k + 2) for k, c in enumerate(coefficients))


def add_table(image, table, start, step, gain):
    """Image + gain * T(image / gain)."""
    nodes = start + step * np.arange(len(table))
    return image + gain * np.interp(image.astype(np.float64) / gain, nodes, table)


def apply_masters(image, noise, bias, dark, flat, time, variances, bias_share):
    """Image and variance after bias, dark and flat."""
    signal = image.astype(np.float64) - bias
    variance = np.maximum(signal, 0) + noise**2 + bias_share * variances[0] + time**2 * variances[1]
    result = (signal - time * dark) / flat
    return result, variance / flat**2 + (result / flat) ** 2 * variances[2]


def flagged_pixels(mask, bits):
    """Indices (y, x) of the flagged pixels."""
    return np.argwhere((mask & bits) != 0)
