"""Fits of Sersic models, convolved with the PSF, to many galaxies.

The images and their derivatives come from :mod:`starmill.kernels.gaussian_mixtures`. The fit is
Levenberg-Marquardt on flux, position, ln Theta_xx, ln Theta_yy, atanh of the correlation, and
(for a free index) ln n. The weights of a source are those of Poisson noise around a first, smooth model of it, so that
the light in the wings counts for what it is worth, and stay the same for every profile that is fitted.

References
----------
Hogg & Lang 2013, PASP 125, 719 (profiles as mixtures of Gaussians).
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.cholesky import dot, solve_positive
from starmill.kernels.gaussian_mixtures import N_ROWS, WIDTH, mixture, model_row
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source

N_PARAMETERS = 7  # flux, x, y, ln xx, ln yy, atanh correlation, ln n
MIN_LOG = np.log(4e-3)  # smallest half-light ellipse: 0.06 pixels
MAX_ATANH = 2.6  # largest correlation 0.989

MAX_DAMPING = 1e4

FLAG_NOT_CONVERGED = 1
FLAG_NO_PIXELS = 2
FLAG_SMALL = 4
FLAG_BAD_START = 8


@fast_njit
def _to_parameters(block, width, p, use, value, residual):
    """Turn a row of derivatives into those by the parameters, weighted, and fill the weighted residual."""
    txx, tyy, t = np.exp(p[3]), np.exp(p[4]), np.tanh(p[5])
    root = np.sqrt(txx * tyy)
    flux = p[0]
    share = 0.5 * t * root
    tilt = (1.0 - t * t) * root
    for k in range(width):
        u = use[k]
        m = block[k] * u
        residual[k] = value[k] - flux * m
        f = flux * u
        xy = block[5 * WIDTH + k]
        block[k] = m
        block[WIDTH + k] *= f
        block[2 * WIDTH + k] *= f
        block[3 * WIDTH + k] = f * (txx * block[3 * WIDTH + k] + share * xy)
        block[4 * WIDTH + k] = f * (tyy * block[4 * WIDTH + k] + share * xy)
        block[5 * WIDTH + k] = f * tilt * xy
        block[6 * WIDTH + k] *= f


@njit
def _fill_usable(image, variance, mask, bad_bits, box, weights, values):
    """Fill weights (1 or 0) and values of the pixels of a box; returns how many count."""
    x0, y0, x1, y1 = box
    count = 0
    for y in range(y0, y1):
        for x in range(x0, x1):
            v = variance[y, x]
            good = (mask[y, x] & bad_bits) == 0 and v > 0.0 and np.isfinite(v) and np.isfinite(image[y, x])
            weights[y - y0, x - x0] = 1.0 if good else 0.0
            values[y - y0, x - x0] = image[y, x] if good else 0.0
            count += 1 if good else 0
    return count


@njit
def _sky_variance(variance, box, weights):
    """Smallest mean variance of the four sides of a box; zero when none has a usable pixel."""
    x0, y0, x1, y1 = box
    lowest = 0.0
    for side in range(4):
        total, count = 0.0, 0
        for k in range(x1 - x0 if side < 2 else y1 - y0):
            y = (0 if side == 0 else y1 - y0 - 1) if side < 2 else k
            x = k if side < 2 else (0 if side == 2 else x1 - x0 - 1)
            if weights[y, x] > 0.0:
                total += variance[y0 + y, x0 + x]
                count += 1
        if count > 0 and (lowest == 0.0 or total / count < lowest):
            lowest = total / count
    return lowest


@njit
def _set_weights(variance, p, gaussians, n, box, rows, weights, values):
    """Turn weights into square roots of sky variance over expected variance, and scale the values with them.

    The expected variance is the sky's plus the light of the model ``p`` times a slope fitted to the variance image.
    """
    x0, y0, x1, y1 = box
    width = x1 - x0
    sky = _sky_variance(variance, box, weights)
    if sky == 0.0 or not p[0] > 0.0:
        return
    block = rows[:N_ROWS].reshape(N_ROWS * WIDTH)
    above = power = 0.0
    for y in range(y0, y1):
        model_row(gaussians, n, p[1], p[2], y, x0, width, rows[7], block)
        for k in range(width):
            m = block[k] * weights[y - y0, k]
            above += m * (variance[y, x0 + k] - sky) if m > 0.0 else 0.0
            power += m * m
    slope = max(above / power, 0.0) / sky if power > 0.0 else 0.0
    if slope == 0.0:
        return
    for y in range(y0, y1):
        model_row(gaussians, n, p[1], p[2], y, x0, width, rows[7], block)
        for k in range(width):
            root = weights[y - y0, k] / np.sqrt(1.0 + slope * max(block[k], 0.0))
            weights[y - y0, k] = root
            values[y - y0, k] *= root


@njit
def _normal_equations(weights, values, p, box, gaussians, n, rows, free, matrix, vector):
    """Fill J'J and J'r of the weighted residuals; returns chi2 in units of the sky variance.

    ``box`` is x0, y0, x1, y1; ``rows`` is (9, WIDTH) scratch: seven rows of the model, profile, residual.
    """
    x0, y0, x1, y1 = box
    width = x1 - x0
    block = rows[:N_ROWS].reshape(N_ROWS * WIDTH)
    residual = rows[8, :width]
    for a in range(free):
        vector[a] = 0.0
        for b in range(a + 1):
            matrix[a, b] = 0.0
    chi2 = 0.0
    for y in range(y0, y1):
        model_row(gaussians, n, p[1], p[2], y, x0, width, rows[7], block)
        _to_parameters(block, width, p, weights[y - y0], values[y - y0], residual)
        chi2 += dot(residual, residual)
        for a in range(free):
            own = rows[a, :width]
            vector[a] += dot(own, residual)
            for b in range(a + 1):
                matrix[a, b] += dot(own, rows[b, :width])
    return chi2


@njit
def _freeze_bounded(p, free, log_indices, matrix, vector):
    """Take parameters out that a bound keeps from falling further: the rest must not wait for them."""
    point = p[3] <= MIN_LOG and p[4] <= MIN_LOG and vector[3] <= 0.0 and vector[4] <= 0.0
    for a in range(3, free):
        stuck = point
        if a < 5:
            stuck = stuck or (p[a] <= MIN_LOG and vector[a] < 0.0)
        elif a == 5:
            stuck = stuck or (abs(p[5]) >= MAX_ATANH and vector[5] * p[5] > 0.0)
        else:
            stuck = (
                stuck
                or (p[6] <= log_indices[0] and vector[6] < 0.0)
                or (p[6] >= log_indices[-1] and vector[6] > 0.0)
            )
        if not stuck:
            continue
        vector[a] = 0.0
        for b in range(free):
            if b < a:
                matrix[a, b] = 0.0
            else:
                matrix[b, a] = 0.0
        matrix[a, a] = 1.0


@njit
def _damped_step(matrix, vector, free, damping, factor, step):
    """Solve (M + damping diag M) step = vector by Cholesky; False when it is not positive."""
    for a in range(free):
        for b in range(a):
            factor[a, b] = matrix[a, b]
        factor[a, a] = matrix[a, a] * (1.0 + damping) + 1e-300
    return solve_positive(factor, vector, free, step)


@njit
def _bounded(p, step, free, log_indices, trial):
    """Parameters after a step, inside their bounds and not too far."""
    for a in range(N_PARAMETERS):
        trial[a] = p[a]
    for a in range(free):
        d = step[a]
        if a > 0:  # the flux is linear, everything else moves by one at most
            d = min(max(d, -1.0), 1.0)
        trial[a] = p[a] + d
    trial[3] = min(max(trial[3], MIN_LOG), 9.0)
    trial[4] = min(max(trial[4], MIN_LOG), 9.0)
    trial[5] = min(max(trial[5], -MAX_ATANH), MAX_ATANH)
    trial[6] = min(max(trial[6], log_indices[0]), log_indices[-1])


@njit
def _fit_one(weights, values, p, free, profiles, psf, box, limits, gaussians, rows, work, scratch):
    """Fit one source from the start ``p``, in place; returns flags, chi2 and iterations."""
    matrix, factor, best = scratch[0], scratch[1], scratch[2]
    vector, step, trial, better = scratch[3, 0], scratch[3, 1], scratch[3, 2], scratch[3, 4]
    table, log_indices, variances, psf_scales = profiles
    n = mixture(p, table, log_indices, variances, psf, psf_scales, work, gaussians)
    chi2 = _normal_equations(weights, values, p, box, gaussians, n, rows, free, matrix, vector)
    damping = 1e-3
    n_small = 0
    for iteration in range(1, int(limits[0]) + 1):
        _freeze_bounded(p, free, log_indices, matrix, vector)
        if not _damped_step(matrix, vector, free, damping, factor, step):
            damping = max(damping * 10.0, 1e-3)
            if damping > MAX_DAMPING:
                return FLAG_NOT_CONVERGED, chi2, iteration
            continue
        _bounded(p, step, free, log_indices, trial)
        n = mixture(trial, table, log_indices, variances, psf, psf_scales, work, gaussians)
        new_chi2 = _normal_equations(weights, values, trial, box, gaussians, n, rows, free, best, better)
        if new_chi2 > chi2:
            damping *= 10.0
            if damping > MAX_DAMPING:  # no step makes it better: this is the minimum
                return 0, chi2, iteration
            continue
        small = chi2 - new_chi2 < limits[1] * new_chi2
        steady = abs(trial[0] - p[0]) < 1e-3 * abs(trial[0])
        chi2 = new_chi2
        for a in range(N_PARAMETERS):
            p[a] = trial[a]
            vector[a] = better[a]
            for b in range(a + 1):
                matrix[a, b] = best[a, b]
        damping = max(damping * 0.1, 1e-7)
        n_small = n_small + 1 if small else 0
        if (small and steady) or n_small >= 3:
            return 0, chi2, iteration
    return 0 if n_small > 0 else FLAG_NOT_CONVERGED, chi2, int(limits[0])


@njit
def fit_profiles(
    pixels, start, half, free, table, log_indices, variances, psf, psf_scales, bad_bits, limits, first
):
    """Fit one profile to every source.

    Parameters
    ----------
    pixels : SourcePixels
    start : (n, 7) float64 array
        flux, x, y (array index), ln xx, ln yy, atanh of the correlation, ln n; NaN is left out.
    half : (n,) int64 array
        Half width of the fitted box, pixels.
    free : int
        6 for a fixed index, 7 for a free one.
    table, log_indices, variances, psf_scales
        As :func:`mixture`.
    psf : (n, 3 + n_psf) float64 array
        PSF of each source.
    bad_bits : int
        Pixels with any of these mask bits are left out.
    limits : (2,) float64 array
        Largest number of iterations; relative change of chi2 to stop at.
    first : tuple
        What the weights are made of: parameters as ``start`` (finite where ``start`` is), and ``table``, ``log_indices``,
        ``variances`` of their profiles.

    Returns
    -------
    best : (n, 7) float64 array
        Parameters; NaN where not fitted.
    covariance : (n, 7, 7) float64 array
        Of the parameters, propagated from the variance image; zero for one at its bound, NaN where not fitted or free.
    numbers : (n, 3) float64 array
        Weighted sum of squared residuals in units where sky pixels have weight one, pixels, iterations.
    flags : (n,) int32 array
        Sum of the ``FLAG_*`` values of this module.
    """
    n = start.shape[0]
    ny, nx = pixels.mask.shape
    best = np.full((n, N_PARAMETERS), np.nan)
    numbers = np.full((n, 3), np.nan)
    covariance = np.full((n, N_PARAMETERS, N_PARAMETERS), np.nan)
    flags = np.zeros(n, np.int32)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    work, gaussians = np.empty((2, variances.size)), np.empty((variances.size * psf_scales.size, 8))
    scratch, rows = np.zeros((6, N_PARAMETERS, N_PARAMETERS)), np.zeros((9, WIDTH))
    weights, values = np.empty((WIDTH, WIDTH)), np.empty((WIDTH, WIDTH))
    profiles = (table, log_indices, variances, psf_scales)
    first_p, first_table, first_indices, first_variances = first
    first_work = np.empty((2, first_variances.size))
    first_gaussians = np.empty((first_variances.size * psf_scales.size, 8))
    p = np.empty(N_PARAMETERS)
    for i in range(n):
        good = True
        for a in range(N_PARAMETERS):
            good = good and np.isfinite(start[i, a])
            p[a] = start[i, a]
        if not good or not (-0.5 <= p[1] < nx - 0.5 and -0.5 <= p[2] < ny - 0.5):
            flags[i] = FLAG_BAD_START
            continue
        box = _box(p[1], p[2], half[i], ny, nx)
        show_source(pixels, i, saved)
        count = _fill_usable(pixels.image, pixels.variance, pixels.mask, bad_bits, box, weights, values)
        found, chi2, iterations = FLAG_NO_PIXELS, np.nan, 0
        if count > free:
            n_first = mixture(
                first_p[i], first_table, first_indices, first_variances, psf[i], psf_scales, first_work,
                first_gaussians,
            )  # fmt: skip
            _set_weights(pixels.variance, first_p[i], first_gaussians, n_first, box, rows, weights, values)
            found, chi2, iterations = _fit_one(
                weights, values, p, free, profiles, psf[i], box, limits, gaussians, rows, work, scratch
            )
            best[i] = p
            _fill_covariance(
                weights, values, pixels.variance, p, free, profiles, psf[i], box, gaussians, rows, work, scratch,
                covariance[i],
            )  # fmt: skip
        hide_source(pixels, i, saved)
        numbers[i, 0] = chi2
        numbers[i, 1] = count
        numbers[i, 2] = iterations
        if p[3] <= MIN_LOG and p[4] <= MIN_LOG:
            found |= FLAG_SMALL
        flags[i] = found
    return best, covariance, numbers, flags


@njit
def _box(x, y, half, ny, nx):
    """First and last (exclusive) column and row of the fitted box: x0, y0, x1, y1."""
    half = min(half, (WIDTH - 1) // 2)
    cx, cy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    return max(cx - half, 0), max(cy - half, 0), min(cx + half + 1, nx), min(cy + half + 1, ny)


@njit
def _fill_covariance(
    weights, values, variance, p, free, profiles, psf, box, gaussians, rows, work, scratch, out
):
    """Fill the covariance of the parameters, N G N with N = (J'J)^-1 and G = J'VJ of the weighted derivatives.

    Rows of parameters that a bound holds fixed are zero; all is NaN when the matrix is not positive.
    """
    matrix, factor, noise, inverse = scratch[0], scratch[1], scratch[4], scratch[5]
    vector, unit, response = scratch[3, 4], scratch[3, 0], scratch[3, 1]
    table, log_indices, variances, psf_scales = profiles
    n = mixture(p, table, log_indices, variances, psf, psf_scales, work, gaussians)
    _normal_equations(weights, values, p, box, gaussians, n, rows, free, matrix, vector)
    _freeze_bounded(p, free, log_indices, matrix, vector)
    for a in range(free):
        for b in range(free):
            noise[a, b] = 0.0
            unit[b] = 1.0 if a == b else 0.0
        if not _damped_step(matrix, unit, free, 1e-9, factor, response):
            out[:free, :free] = np.nan
            return
        for b in range(free):
            inverse[a, b] = response[b]
    _add_noise(weights, values, variance, p, free, box, gaussians, n, rows, noise)
    for a in range(3, free):
        frozen = matrix[a, a] == 1.0
        for b in range(free):
            frozen = frozen and (b == a or matrix[max(a, b), min(a, b)] == 0.0)
        if frozen:
            noise[a, :] = 0.0
            noise[:, a] = 0.0
    for a in range(free):
        for b in range(a + 1):
            total = 0.0
            for c in range(free):
                for d in range(free):
                    total += inverse[a, c] * noise[c, d] * inverse[d, b]
            out[a, b] = total
            out[b, a] = total


@njit
def _add_noise(weights, values, variance, p, free, box, gaussians, n, rows, noise):
    """Add J'VJ of the weighted derivatives to ``noise``; arguments as :func:`_normal_equations`."""
    x0, y0, x1, y1 = box
    width = x1 - x0
    block = rows[:N_ROWS].reshape(N_ROWS * WIDTH)
    residual = rows[8, :width]
    for y in range(y0, y1):
        model_row(gaussians, n, p[1], p[2], y, x0, width, rows[7], block)
        _to_parameters(block, width, p, weights[y - y0], values[y - y0], residual)
        for k in range(width):
            w = weights[y - y0, k]
            if w == 0.0:
                continue
            v = w * w * variance[y, x0 + k]
            for a in range(free):
                for b in range(a + 1):
                    noise[a, b] += v * rows[a, k] * rows[b, k]
    for a in range(free):
        for b in range(a):
            noise[b, a] = noise[a, b]
