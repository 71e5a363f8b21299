"""Compiled loops of PSF modelling: elliptical profiles fitted to stamps, pixels that belong to neighbours.

Profile with ``t = q11 dx^2 + 2 q12 dx dy + q22 dy^2``::

    Moffat    a (1 + t)^(-beta) + b
    Gaussian  a exp(-t / 2)     + b

Levenberg-Marquardt on (a, x, y, q11, q12, q22, b[, ln beta]), weights 1/variance.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.cholesky import solve_positive

_N_MAX = 8


@fast_njit
def _accumulate(image, weight, p, gaussian, n_par, normal, right):
    """Fill the normal matrix and right side of one star; returns chi squared."""
    height, width = image.shape
    half_y, half_x = height // 2, width // 2
    for i in range(n_par):
        right[i] = 0.0
        for j in range(n_par):
            normal[i, j] = 0.0
    amplitude, q11, q12, q22, background, beta = p[0], p[3], p[4], p[5], p[6], np.exp(p[7])
    chi2 = 0.0
    g = np.empty(_N_MAX)
    for iy in range(height):
        row, weights = image[iy], weight[iy]
        dy = iy - half_y - p[2]
        for ix in range(width):
            w = weights[ix]
            if w <= 0.0:
                continue
            dx = ix - half_x - p[1]
            t = q11 * dx * dx + 2.0 * q12 * dx * dy + q22 * dy * dy
            if gaussian:
                profile = np.exp(-0.5 * t)
                slope = -0.5 * amplitude * profile
                log_t = 0.0
            else:
                log_t = np.log1p(t)
                profile = np.exp(-beta * log_t)
                slope = -beta * amplitude * profile / (1.0 + t)
            residual = row[ix] - amplitude * profile - background
            g[0] = profile
            g[1] = -2.0 * slope * (q11 * dx + q12 * dy)
            g[2] = -2.0 * slope * (q12 * dx + q22 * dy)
            g[3] = slope * dx * dx
            g[4] = 2.0 * slope * dx * dy
            g[5] = slope * dy * dy
            g[6] = 1.0
            g[7] = -amplitude * profile * beta * log_t
            chi2 += w * residual * residual
            for i in range(n_par):
                wg = w * g[i]
                right[i] += wg * residual
                for j in range(i + 1):
                    normal[i, j] += wg * g[j]
    return chi2


@njit
def fit_profiles(images, weights, parameters, gaussian, fit_beta, max_iterations, chi2, n_used, converged):
    """Fit one elliptical profile to each stamp, in place of ``parameters``.

    Parameters
    ----------
    images : (n, size, size) float32, electron
    weights : (n, size, size) float32, 1/electron**2
        Zero where a pixel must not be used.
    parameters : (n, 8) float64
        Start values and result: peak, x and y from the central pixel, q11, q12, q22, background, ln(beta).
    gaussian, fit_beta : bool
    max_iterations : int
    chi2, n_used, converged : (n,) float64, int64, bool
        Outputs.
    """
    n_par = 8 if fit_beta and not gaussian else 7
    normal = np.empty((_N_MAX, _N_MAX))
    right = np.empty(_N_MAX)
    trial_normal = np.empty((_N_MAX, _N_MAX))
    trial_right = np.empty(_N_MAX)
    damped = np.empty((_N_MAX, _N_MAX))
    step = np.zeros(_N_MAX)
    trial = np.empty(_N_MAX)
    for k in range(images.shape[0]):
        image, weight = images[k], weights[k]
        count = 0
        for iy in range(image.shape[0]):
            for ix in range(image.shape[1]):
                if weight[iy, ix] > 0.0:
                    count += 1
        n_used[k] = count
        converged[k] = False
        chi2[k] = np.nan
        if count <= n_par:
            continue
        p = parameters[k]
        best = _accumulate(image, weight, p, gaussian, n_par, normal, right)
        damping = 1e-3
        for _ in range(max_iterations):
            for i in range(n_par):
                for j in range(i + 1):
                    damped[i, j] = normal[i, j]
                damped[i, i] = normal[i, i] * (1.0 + damping) + 1e-30
            usable = solve_positive(damped, right, n_par, step)
            for i in range(_N_MAX):
                trial[i] = p[i] + (step[i] if i < n_par else 0.0)
            usable = usable and _allowed(trial, image.shape[0])
            value = np.inf
            if usable:
                value = _accumulate(image, weight, trial, gaussian, n_par, trial_normal, trial_right)
            if value <= best:
                done = best - value <= 1e-4 + 1e-6 * best
                best = value
                for i in range(n_par):
                    p[i] = trial[i]
                    right[i] = trial_right[i]
                    for j in range(i + 1):
                        normal[i, j] = trial_normal[i, j]
                damping = max(damping * 0.1, 1e-9)
                if done:
                    converged[k] = True
                    break
            else:
                damping *= 10.0
                if damping > 1e8:
                    break
        chi2[k] = best


@njit
def _allowed(p, size):
    """Return True when the quadratic form is positive, the centre in the stamp, and beta sensible."""
    positive = p[3] > 0.0 and p[5] > 0.0 and p[3] * p[5] - p[4] * p[4] > 0.0
    inside = abs(p[1]) < 0.5 * size and abs(p[2]) < 0.5 * size
    return positive and inside and 0.1 < p[7] < 3.5 and p[0] > 0.0


@njit
def mask_neighbours(good, x0, y0, star_x, star_y, offsets, neighbour_x, neighbour_y):
    """Clear the pixels of each stamp that lie nearer to a neighbour than to the star.

    Parameters
    ----------
    good : (n, size, size) bool
        Changed in place.
    x0, y0 : (n,) int64
        Parent pixel of ``good[k, 0, 0]``.
    star_x, star_y : (n,) float64, pixel
    offsets : (n + 1,) int64
        Neighbours of star k are ``offsets[k]:offsets[k + 1]``.
    neighbour_x, neighbour_y : (m,) float64, pixel
    """
    for k in range(good.shape[0]):
        for j in range(offsets[k], offsets[k + 1]):
            nx, ny = neighbour_x[j], neighbour_y[j]
            for iy in range(good.shape[1]):
                row = good[k, iy]
                py = y0[k] + iy
                star_dy2 = (py - star_y[k]) ** 2
                other_dy2 = (py - ny) ** 2
                for ix in range(good.shape[2]):
                    px = x0[k] + ix
                    if (px - nx) ** 2 + other_dy2 < (px - star_x[k]) ** 2 + star_dy2:
                        row[ix] = False


@fast_njit
def scale_normals(images, models, weights, dx, dy, n_terms, normal, right):
    """Fill the normal equations of the linear fit of a PSF model to each star.

    Terms: model, -dM/dx, -dM/dy, 1, and with ``n_terms == 7`` the size term -(2M + x.grad M) and the two shear
    terms -(x dM/dx - y dM/dy), -(x dM/dy + y dM/dx); slopes are central differences, zero on the border.

    Parameters
    ----------
    images, models, weights : (n, size, size) float32
    dx, dy : (n,) float64, pixel
        Star from the centre of the central pixel.
    n_terms : int
        4 or 7.
    normal : (n, 7, 7) float64
        Lower triangles are filled.
    right : (n, 7) float64
    """
    n, size, _ = images.shape
    half = size // 2
    t = np.zeros((7, size), dtype=np.float32)
    weighted = np.zeros(size, dtype=np.float32)
    t[3] = 1.0
    for k in range(n):
        a, b = normal[k], right[k]
        for i in range(7):
            b[i] = 0.0
            for j in range(7):
                a[i, j] = 0.0
        for iy in range(size):
            row, model, weight = images[k, iy], models[k, iy], weights[k, iy]
            below, above = models[k, max(iy - 1, 0)], models[k, min(iy + 1, size - 1)]
            _fill_terms(
                t, model, below, above, np.float32(dx[k] + half), np.float32(iy - half - dy[k]), n_terms
            )
            for i in range(n_terms):
                ti = t[i]
                for ix in range(size):
                    weighted[ix] = weight[ix] * ti[ix]
                total = np.float32(0.0)
                for ix in range(size):
                    total += weighted[ix] * row[ix]
                b[i] += total
                for j in range(i + 1):
                    tj = t[j]
                    total = np.float32(0.0)
                    for ix in range(size):
                        total += weighted[ix] * tj[ix]
                    a[i, j] += total


@fast_njit
def _fill_terms(t, model, below, above, center, v, n_terms):
    """Fill the terms of one row of pixels; ``center`` and ``v`` place the star, see :func:`scale_normals`."""
    size = len(model)
    half_step = np.float32(0.5)
    two = np.float32(2.0)
    t0, t1, t2, t4, t5, t6 = t[0], t[1], t[2], t[4], t[5], t[6]
    for ix in range(size):
        t0[ix] = model[ix]
        t2[ix] = half_step * (below[ix] - above[ix])
    t1[0] = np.float32(0.0)
    t1[size - 1] = np.float32(0.0)
    for ix in range(1, size - 1):
        t1[ix] = half_step * (model[ix - 1] - model[ix + 1])
    if n_terms == 7:
        for ix in range(size):
            u = np.float32(ix) - center
            t4[ix] = u * t1[ix] + v * t2[ix] - two * model[ix]
            t5[ix] = u * t1[ix] - v * t2[ix]
            t6[ix] = u * t2[ix] + v * t1[ix]


@fast_njit
def star_weights(models, good, flux, sky_variance, gain_slope, systematic, weights):
    """Fill ``weights`` with 1/variance of stars of given flux; zero where ``good`` is False.

    variance = sky + gain_slope S + (systematic S)^2 with S = max(flux x model, 0).
    """
    n, size, _ = models.shape
    for k in range(n):
        f, sky = flux[k], sky_variance[k]
        for iy in range(size):
            model, usable, out = models[k, iy], good[k, iy], weights[k, iy]
            for ix in range(size):
                signal = max(f * model[ix], 0.0)
                variance = sky + gain_slope * signal + (systematic * signal) ** 2
                out[ix] = 1.0 / variance if usable[ix] else 0.0


@fast_njit
def star_residuals(images, models, good, weights, flux, shift_x, shift_y, background, residual, chi2, n_used):
    """Fill ``residual`` with data minus the fitted star (zero where ``good`` is False), and its chi squared."""
    n, size, _ = images.shape
    for k in range(n):
        f, b = flux[k], background[k]
        fx, fy = f * shift_x[k], f * shift_y[k]
        total, count = 0.0, 0
        for iy in range(size):
            row, model, weight = images[k, iy], models[k, iy], weights[k, iy]
            below, above = models[k, max(iy - 1, 0)], models[k, min(iy + 1, size - 1)]
            usable, out = good[k, iy], residual[k, iy]
            for ix in range(size):
                if not usable[ix]:
                    out[ix] = 0.0
                    continue
                gx = 0.5 * (model[ix + 1] - model[ix - 1]) if 0 < ix < size - 1 else 0.0
                gy = 0.5 * (above[ix] - below[ix])
                out[ix] = row[ix] - f * model[ix] - b + fx * gx + fy * gy
                total += weight[ix] * out[ix] * out[ix]
                count += 1
        chi2[k] = total
        n_used[k] = count
