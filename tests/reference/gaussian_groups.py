"""Slow, obvious joint fits: scipy's least squares on all parameters, with the full covariance."""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares
from tests.reference.gaussians import value


def pixel_covariance(x, y, noise, correlation, ridge):
    """Covariance matrix of listed pixels."""
    half = correlation.shape[0] // 2
    n = len(x)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            dy, dx = int(y[i] - y[j]), int(x[i] - x[j])
            if abs(dy) <= half and abs(dx) <= half:
                out[i, j] = noise[i] * noise[j] * correlation[half + dy, half + dx]
        out[i, i] += ridge * noise[i] ** 2
    return out


def fit(x, y, data, covariance, start, order=-1):
    """Minimise r^T C^-1 r over all sources and a polynomial; returns the sources."""
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    n_sources = len(start)
    x0, y0 = x.mean(), y.mean()
    terms = np.array([(x - x0) ** (t - j) * (y - y0) ** j for t in range(order + 1) for j in range(t + 1)])

    def residual(p):
        model = sum(value(p[6 * k : 6 * k + 6], x, y) for k in range(n_sources))
        for c, term in zip(p[6 * n_sources :], terms, strict=True):
            model = model + c * term
        return whiten @ (data - model)

    p0 = np.concatenate([np.ravel(start), np.zeros(len(terms))])
    return least_squares(residual, p0, xtol=1e-12, ftol=1e-12).x[: 6 * n_sources].reshape(n_sources, 6)
