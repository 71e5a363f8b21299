"""Second moments of small images with a Gaussian weight that matches the object.

With the weight ``w(r) = exp(-r' W^-1 r / 2)`` the moments ``m`` of ``w I`` give those of a Gaussian object by
``m^-1 = W^-1 + object^-1``; the weight is replaced by the object until both agree (Bernstein & Jarvis 2002,
AJ 123, 583, section 3).
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def matched_moments(images, r, max_iterations, moments):
    """Fill in the moments of every image; NaN where the iteration does not converge.

    Parameters
    ----------
    images : (n, size, size) float64 array
        No background, no NaN.
    r : (size,) float64 array
        Where the samples lie along both axes, from the centre.
    max_iterations : int
    moments : (n, 3) float64 array
        Output: ``xx, yy, xy``, in units of ``r`` squared.
    """
    for i in range(images.shape[0]):
        xx, yy, xy = 2.0, 2.0, 0.0
        converged = False
        for _ in range(max_iterations):
            det = xx * yy - xy * xy
            total, sum_xx, sum_yy, sum_xy = _weighted_sums(images[i], r, yy / det, xx / det, xy / det)
            if not total > 0.0:
                break
            mxx, myy, mxy = sum_xx / total, sum_yy / total, sum_xy / total
            mdet = mxx * myy - mxy * mxy
            if mdet == 0.0:
                break
            a = myy / mdet - yy / det
            b = mxx / mdet - xx / det
            c = -mxy / mdet + xy / det
            d = a * b - c * c
            if not (np.isfinite(d) and d > 0.0 and a > 0.0):
                break
            new_xx, new_yy, new_xy = b / d, a / d, -c / d
            if not (np.isfinite(new_xx) and np.isfinite(new_yy) and np.isfinite(new_xy)):
                break
            change = max(abs(new_xx - xx), abs(new_yy - yy), abs(new_xy - xy))
            xx, yy, xy = new_xx, new_yy, new_xy
            if change <= 1e-9 * (xx + yy):
                converged = True
                break
        moments[i, 0] = xx if converged else np.nan
        moments[i, 1] = yy if converged else np.nan
        moments[i, 2] = xy if converged else np.nan


@njit
def _weighted_sums(image, r, inverse_xx, inverse_yy, inverse_xy):
    """Return the sums of ``w I``, and of it times x^2, y^2 and x y."""
    total, sum_xx, sum_yy, sum_xy = 0.0, 0.0, 0.0, 0.0
    for j in range(r.size):
        y = r[j]
        row = image[j]
        row_total, row_x, row_xx = 0.0, 0.0, 0.0
        for k in range(r.size):
            x = r[k]
            value = row[k] * np.exp(
                -0.5 * (inverse_xx * x * x - 2.0 * inverse_xy * x * y + inverse_yy * y * y)
            )
            row_total += value
            row_x += value * x
            row_xx += value * x * x
        total += row_total
        sum_xx += row_xx
        sum_yy += row_total * y * y
        sum_xy += row_x * y
    return total, sum_xx, sum_yy, sum_xy
