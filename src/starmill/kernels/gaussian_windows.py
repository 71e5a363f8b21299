"""Fits of Gaussians to pixels that the caller lists, or to square windows around positions."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.cholesky import padded_width
from starmill.kernels.gaussian_groups import MAX_ITERATIONS, TOO_FEW_PIXELS, descend, n_polynomial_terms
from starmill.kernels.gaussians import N_SHAPE


@njit
def fit_listed(x, y, data, weight, sources, bounds, free, order, options):
    """Fit Gaussians and a polynomial jointly to listed pixels.

    Parameters
    ----------
    x, y, data, weight : (n,) float64
        Residuals are multiplied by the weight.
    sources : (k, 6) float64
        Start values.
    bounds, free, order, options
        See :func:`starmill.kernels.gaussian_groups.descend`.

    Returns
    -------
    fitted : (k, 6) float64
    coefficients : (terms,) float64
        Of x^i y^j in scaled coordinates.
    status : int
    """
    fitted = sources.copy()
    nb = n_polynomial_terms(order)
    m = N_SHAPE * sources.shape[0] + nb
    if x.size < int(free.sum()) * sources.shape[0] + nb:
        return fitted, np.zeros(nb), TOO_FEW_PIXELS
    rows, coefficients, nothing = np.zeros((m + 1, padded_width(x.size))), np.empty(nb), np.empty(0)
    N, fixed = np.empty((m + 1, m + 1)), np.empty(m, np.bool_)
    _, status = descend(
        x, y, data, weight, nothing, nothing, fitted, bounds, free, order, options, rows, coefficients, N, fixed
    )  # fmt: skip
    return fitted, coefficients, status


@njit
def fit_windows(image, sources, bounds, half, order, options, fitted, status):
    """Fit one Gaussian in a square window around every position.

    Parameters
    ----------
    image : (ny, nx) float64
        NaN is left out.
    sources : (n, 6) float64
        Start values; the peak is taken from the largest value in the window.
    bounds : (n, 5) float64
        As in :func:`starmill.kernels.gaussians.move_source`.
    half : int
        Half size of the window.
    order : int
        Of a polynomial that is fitted with each Gaussian; -1 for none.
    options : (5,) float64
    fitted : (n, 6) float64, status : (n,) int64, filled
        Status ``TOO_FEW_PIXELS`` also for a window without positive values.
    """
    ny, nx = image.shape
    free = np.ones(N_SHAPE, np.bool_)
    room = (2 * half + 1) ** 2
    x, y, data = np.empty(room), np.empty(room), np.empty(room)
    for k in range(sources.shape[0]):
        for p in range(N_SHAPE):
            fitted[k, p] = sources[k, p]
        cx, cy = int(np.rint(sources[k, 1])), int(np.rint(sources[k, 2]))
        n, top = 0, 0.0
        for j in range(max(0, cy - half), min(ny, cy + half + 1)):
            for i in range(max(0, cx - half), min(nx, cx + half + 1)):
                value = image[j, i]
                if np.isfinite(value):
                    x[n], y[n], data[n] = i, j, value
                    top = max(top, value)
                    n += 1
        if n < 12 or top <= 0.0:
            status[k] = TOO_FEW_PIXELS
            continue
        start = sources[k : k + 1].copy()
        start[0, 0] = top
        result = fit_listed(
            x[:n], y[:n], data[:n], np.ones(n), start, bounds[k : k + 1], free, order, options
        )
        for p in range(N_SHAPE):
            fitted[k, p] = result[0][0, p]
        status[k] = result[2] if result[2] != MAX_ITERATIONS else 0
