r"""Resampling of an image at positions that vary smoothly, with variance and mask.

.. math:: O = A \sum_{k,l} w_k(f_y)\, w_l(f_x)\, I(y_0 + k, x_0 + l), \qquad V = A^2 \sum w_k^2 w_l^2\, V(y_0 + k, x_0 + l)

with separable weights of unit sum, :math:`f` the fraction of a pixel and :math:`A` the relative pixel area.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def resample(
    image,
    variance,
    mask,
    source_x,
    source_y,
    area,
    table,
    edge_bit,
    no_data_bits,
    out,
    out_variance,
    out_mask,
):
    """Resample an image.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
        No NaN.
    mask : (ny, nx) int32 array
    source_x, source_y : (my, mx) float64 arrays
        Array positions in the image of every output pixel; NaN where there is none.
    area : (my, mx) float32 array
        Input pixels per output pixel.
    table : (n + 1, taps) float64 array
        Weights for the fractions ``0, 1/n, ..., 1``; linear in between. The tap ``taps // 2 - 1`` is the pixel at or
        left of the position.
    edge_bit : int
        A bit that is carried by every tap; the others only by the four pixels nearest to the position.
    no_data_bits : int
        Bits of output pixels whose kernel is not inside the image.
    out, out_variance : (my, mx) float32 arrays
        Overwritten; NaN without coverage.
    out_mask : (my, mx) int32 array
        Overwritten.
    """
    ny, nx = image.shape
    steps, taps = table.shape[0] - 1, table.shape[1]
    lead = taps // 2 - 1
    wx, wy = np.empty(taps, np.float64), np.empty(taps, np.float64)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            x, y = source_x[row, column], source_y[row, column]
            out[row, column], out_variance[row, column] = np.nan, np.nan
            out_mask[row, column] = no_data_bits
            if not (x > -1e9 and x < 1e9 and y > -1e9 and y < 1e9):
                continue
            ix, iy = int(np.floor(x)), int(np.floor(y))
            left, bottom = ix - lead, iy - lead
            if left < 0 or bottom < 0 or left + taps > nx or bottom + taps > ny:
                continue
            _weights(table, (x - ix) * steps, wx)
            _weights(table, (y - iy) * steps, wy)
            total, noise, touched = 0.0, 0.0, 0
            for k in range(taps):
                line, lines, flags = image[bottom + k], variance[bottom + k], mask[bottom + k]
                part, part_noise = 0.0, 0.0
                for l in range(taps):
                    part += wx[l] * line[left + l]
                    part_noise += wx[l] * wx[l] * lines[left + l]
                    touched |= flags[left + l] & edge_bit
                total += wy[k] * part
                noise += wy[k] * wy[k] * part_noise
            for k in range(lead, lead + 2):
                for l in range(lead, lead + 2):
                    if wy[k] != 0.0 and wx[l] != 0.0:
                        touched |= mask[bottom + k, left + l]
            a = area[row, column]
            out[row, column], out_variance[row, column] = a * total, a * a * noise
            out_mask[row, column] = touched


@njit
def _weights(table, at, weights):
    """Interpolate a row of the table and make its sum 1."""
    i = min(int(at), table.shape[0] - 2)
    f = at - i
    total = 0.0
    for k in range(weights.size):
        weights[k] = table[i, k] + f * (table[i + 1, k] - table[i, k])
        total += weights[k]
    for k in range(weights.size):
        weights[k] /= total
