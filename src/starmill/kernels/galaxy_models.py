r"""Sersic models of many galaxies, convolved with the PSF: both are sums of Gaussians.

A profile of half-light ellipse Theta (the matrix whose unit ellipse it is, pixels**2) is
sum_k a_k N(v_k Theta), the PSF sum_j b_j N(s_j M), so the image is
sum_jk a_k b_j N(v_k Theta + s_j M). All derivatives are analytic. The fit is
Levenberg-Marquardt on flux, position, ln Theta_xx, ln Theta_yy, atanh of the correlation, and
(for a free index) ln n, with equal weights.

References
----------
Hogg & Lang 2013, PASP 125, 719 (profiles as mixtures of Gaussians).
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source

N_PARAMETERS = 7  # flux, x, y, ln xx, ln yy, atanh correlation, ln n
MIN_LOG = np.log(1e-3)  # smallest half-light ellipse: 0.03 pixels
MAX_ATANH = 2.6  # largest correlation 0.989
REACH2 = 24.0  # Gaussians are cut at rho**2

MAX_DAMPING = 1e4
SIGNIFICANT = 9.0  # two profiles are mixed when chi2 falls by more: noise alone must not add light

FLAG_NOT_CONVERGED = 1
FLAG_NO_PIXELS = 2
FLAG_SMALL = 4
FLAG_BAD_START = 8


@njit
def _interpolate(table, log_indices, log_n, amplitudes, slopes):
    """Amplitudes of the mixture for an index and their derivatives by ln n."""
    last = log_indices.size - 1
    k = 0
    while k < last - 1 and log_n > log_indices[k + 1]:
        k += 1
    width = log_indices[k + 1] - log_indices[k]
    t = min(max((log_n - log_indices[k]) / width, 0.0), 1.0)
    for m in range(amplitudes.size):
        amplitudes[m] = (1.0 - t) * table[k, m] + t * table[k + 1, m]
        slopes[m] = (table[k + 1, m] - table[k, m]) / width


@njit
def _add_gaussian(rows, x0, y0, cx, cy, cxx, cyy, cxy, weight, slope, scale):
    """Add one Gaussian and its derivatives to ``rows`` (7, ny, nx): value, x, y, xx, yy, xy, ln n."""
    det = cxx * cyy - cxy * cxy
    ixx = cyy / det
    iyy = cxx / det
    ixy = -cxy / det
    norm = 1.0 / (2.0 * np.pi * np.sqrt(det))
    height, width = rows.shape[1], rows.shape[2]
    step = np.exp(-ixx)
    first_row = max(0, int(np.ceil(cy - np.sqrt(REACH2 * cyy))) - y0)
    last_row = min(height - 1, int(np.floor(cy + np.sqrt(REACH2 * cyy))) - y0)
    for j in range(first_row, last_row + 1):
        dy = y0 + j - cy
        disc = (ixy * dy) ** 2 - ixx * (iyy * dy * dy - REACH2)
        if disc <= 0.0:
            continue
        half = np.sqrt(disc) / ixx
        middle = cx - ixy * dy / ixx
        first = max(0, int(np.ceil(middle - half)) - x0)
        last = min(width - 1, int(np.floor(middle + half)) - x0)
        dx = x0 + first - cx
        g = norm * np.exp(-0.5 * (ixx * dx * dx + 2.0 * ixy * dx * dy + iyy * dy * dy))
        ratio = np.exp(-ixx * (dx + 0.5) - ixy * dy)
        for k in range(first, last + 1):
            u = ixx * dx + ixy * dy
            w = ixy * dx + iyy * dy
            a = weight * g
            rows[0, j, k] += a
            rows[1, j, k] += a * u
            rows[2, j, k] += a * w
            b = a * scale
            rows[3, j, k] += 0.5 * b * (u * u - ixx)
            rows[4, j, k] += 0.5 * b * (w * w - iyy)
            rows[5, j, k] += b * (u * w - ixy)
            rows[6, j, k] += slope * g
            dx += 1.0
            g *= ratio
            ratio *= step


@njit
def draw_model(p, log_n, table, log_indices, variances, psf, psf_scales, x0, y0, work, rows):
    """Draw a model of unit flux and its derivatives by the covariance elements.

    Parameters
    ----------
    p : (7,) float64 array
        Parameters; the flux is not used.
    log_n : float
        ln of the index.
    table : (n_indices, n_gaussians) float64 array
        Amplitudes of the mixture by index.
    log_indices : (n_indices,) float64 array
    variances : (n_gaussians,) float64 array
        Of the mixture, in units of the half-light ellipse.
    psf : (3 + n_psf,) float64 array
        xx, yy, xy of the PSF and the amplitudes of its Gaussians.
    psf_scales : (n_psf,) float64 array
    x0, y0 : int
        Array index of the first pixel of ``rows``.
    work : (2, n_gaussians) float64 array
        Scratch.
    rows : (7, ny, nx) float64 array
        Receives value and derivatives by x, y, xx, yy, xy, ln n.
    """
    rows[:] = 0.0
    _interpolate(table, log_indices, log_n, work[0], work[1])
    txx = np.exp(p[3])
    tyy = np.exp(p[4])
    txy = np.tanh(p[5]) * np.sqrt(txx * tyy)
    for k in range(variances.size):
        if work[0, k] == 0.0 and work[1, k] == 0.0:
            continue
        v = variances[k]
        for j in range(psf_scales.size):
            s = psf_scales[j]
            _add_gaussian(
                rows, x0, y0, p[1], p[2], v * txx + s * psf[0], v * tyy + s * psf[1], v * txy + s * psf[2],
                work[0, k] * psf[3 + j], work[1, k] * psf[3 + j], v,
            )  # fmt: skip


@njit
def _normal_equations(image, mask, bad_bits, p, rows, x0, y0, free, matrix, vector, jacobian):
    """Fill J'J and J'r; returns chi2 (unit weights) and the number of pixels."""
    txx = np.exp(p[3])
    tyy = np.exp(p[4])
    t = np.tanh(p[5])
    root = np.sqrt(txx * tyy)
    matrix[:] = 0.0
    vector[:] = 0.0
    chi2 = 0.0
    count = 0
    flux = p[0]
    for j in range(rows.shape[1]):
        for k in range(rows.shape[2]):
            if mask[y0 + j, x0 + k] & bad_bits:
                continue
            m = rows[0, j, k]
            r = image[y0 + j, x0 + k] - flux * m
            chi2 += r * r
            count += 1
            jacobian[0] = m
            jacobian[1] = flux * rows[1, j, k]
            jacobian[2] = flux * rows[2, j, k]
            jacobian[3] = flux * (txx * rows[3, j, k] + 0.5 * t * root * rows[5, j, k])
            jacobian[4] = flux * (tyy * rows[4, j, k] + 0.5 * t * root * rows[5, j, k])
            jacobian[5] = flux * (1.0 - t * t) * root * rows[5, j, k]
            jacobian[6] = flux * rows[6, j, k]
            for a in range(free):
                vector[a] += jacobian[a] * r
                for b in range(a + 1):
                    matrix[a, b] += jacobian[a] * jacobian[b]
    return chi2, count


@njit
def _damped_step(matrix, vector, free, damping, factor, step):
    """Solve (M + damping diag M) step = vector by Cholesky; False when it is not positive."""
    for a in range(free):
        for b in range(a + 1):
            total = matrix[a, b]
            if a == b:
                total *= 1.0 + damping
                total += 1e-300
            for c in range(b):
                total -= factor[a, c] * factor[b, c]
            if a == b:
                if not total > 0.0:
                    return False
                factor[a, a] = np.sqrt(total)
            else:
                factor[a, b] = total / factor[b, b]
    for a in range(free):
        total = vector[a]
        for c in range(a):
            total -= factor[a, c] * step[c]
        step[a] = total / factor[a, a]
    for a in range(free - 1, -1, -1):
        total = step[a]
        for c in range(a + 1, free):
            total -= factor[c, a] * step[c]
        step[a] = total / factor[a, a]
    return True


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
def _fit_one(image, mask, bad_bits, p, free, table, log_indices, variances, psf, psf_scales, x0, y0, limits,
             work, rows, scratch):  # fmt: skip
    """Fit one source from the start ``p``, in place; returns flags, chi2, pixels and iterations."""
    matrix, factor, best = scratch[0], scratch[1], scratch[2]
    vector, step, trial, jacobian = scratch[3, 0], scratch[3, 1], scratch[3, 2], scratch[3, 3]
    max_iterations = int(limits[0])
    draw_model(p, p[6], table, log_indices, variances, psf, psf_scales, x0, y0, work, rows)
    chi2, count = _normal_equations(image, mask, bad_bits, p, rows, x0, y0, free, matrix, vector, jacobian)
    if count <= free:
        return FLAG_NO_PIXELS, chi2, count, 0
    damping = 1e-3
    flags = FLAG_NOT_CONVERGED
    n_small = 0
    iteration = 0
    while iteration < max_iterations:
        iteration += 1
        if not _damped_step(matrix, vector, free, damping, factor, step):
            damping = max(damping * 10.0, 1e-3)
            if damping > MAX_DAMPING:
                break
            continue
        _bounded(p, step, free, log_indices, trial)
        draw_model(trial, trial[6], table, log_indices, variances, psf, psf_scales, x0, y0, work, rows)
        new_chi2, _ = _normal_equations(
            image, mask, bad_bits, trial, rows, x0, y0, free, best, scratch[3, 4], jacobian
        )
        if new_chi2 <= chi2:
            small = chi2 - new_chi2 < limits[1] * new_chi2
            steady = abs(trial[0] - p[0]) < 1e-3 * abs(trial[0])
            chi2 = new_chi2
            p[:] = trial
            matrix[:] = best
            vector[:] = scratch[3, 4]
            damping = max(damping * 0.2, 1e-7)
            n_small = n_small + 1 if small else 0
            if (small and steady) or n_small >= 3:
                flags = 0
                break
        else:
            damping *= 10.0
            if damping > MAX_DAMPING:  # no step makes it better: this is the minimum
                flags = 0
                break
    if flags == FLAG_NOT_CONVERGED and n_small > 0:
        flags = 0  # the last step no longer mattered
    return flags, chi2, count, iteration


@njit
def fit_profiles(pixels, start, half, free, table, log_indices, variances, psf, psf_scales, bad_bits, limits):
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
        As :func:`draw_model`.
    psf : (n, 3 + n_psf) float64 array
        PSF of each source.
    bad_bits : int
        Pixels with any of these mask bits are left out.
    limits : (2,) float64 array
        Largest number of iterations; relative change of chi2 to stop at.

    Returns
    -------
    best : (n, 7) float64 array
        Parameters; NaN where not fitted.
    numbers : (n, 4) float64 array
        Variance of the flux with all parameters free (propagated from the variance image),
        sum of squared residuals, pixels, iterations.
    flags : (n,) int32 array
        Sum of the ``FLAG_*`` values of this module.
    """
    n = start.shape[0]
    ny, nx = pixels.mask.shape
    best = np.full((n, N_PARAMETERS), np.nan)
    numbers = np.full((n, 4), np.nan)
    flags = np.zeros(n, np.int32)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    work = np.empty((2, variances.size))
    scratch = np.zeros((4, N_PARAMETERS, N_PARAMETERS))
    p = np.empty(N_PARAMETERS)
    for i in range(n):
        good = True
        for a in range(N_PARAMETERS):
            good = good and np.isfinite(start[i, a])
            p[a] = start[i, a]
        if not good or not (-0.5 <= p[1] < nx - 0.5 and -0.5 <= p[2] < ny - 0.5):
            flags[i] = FLAG_BAD_START
            continue
        x0 = max(int(np.floor(p[1] + 0.5)) - half[i], 0)
        y0 = max(int(np.floor(p[2] + 0.5)) - half[i], 0)
        x1 = min(int(np.floor(p[1] + 0.5)) + half[i] + 1, nx)
        y1 = min(int(np.floor(p[2] + 0.5)) + half[i] + 1, ny)
        rows = np.empty((N_PARAMETERS, y1 - y0, x1 - x0))
        show_source(pixels, i, saved)
        found, chi2, count, iterations = _fit_one(
            pixels.image, pixels.mask, bad_bits, p, free, table, log_indices, variances, psf[i], psf_scales,
            x0, y0, limits, work, rows, scratch,
        )  # fmt: skip
        if found & FLAG_NO_PIXELS == 0:
            best[i] = p
            numbers[i, 0] = _flux_variance(
                pixels.variance, pixels.mask, bad_bits, p, rows, x0, y0, free, scratch
            )
        hide_source(pixels, i, saved)
        numbers[i, 1] = chi2
        numbers[i, 2] = count
        numbers[i, 3] = iterations
        if p[3] <= MIN_LOG and p[4] <= MIN_LOG:
            found |= FLAG_SMALL
        flags[i] = found
    return best, numbers, flags


@njit
def _flux_variance(variance, mask, bad_bits, p, rows, x0, y0, free, scratch):
    """Variance of the flux: g' V g with g the response of the flux to each pixel."""
    matrix, factor = scratch[0], scratch[1]
    unit, response, jacobian = scratch[3, 0], scratch[3, 1], scratch[3, 3]
    unit[:] = 0.0
    unit[0] = 1.0
    if not _damped_step(matrix, unit, free, 1e-9, factor, response):
        return np.nan
    txx = np.exp(p[3])
    tyy = np.exp(p[4])
    t = np.tanh(p[5])
    root = np.sqrt(txx * tyy)
    total = 0.0
    for j in range(rows.shape[1]):
        for k in range(rows.shape[2]):
            if mask[y0 + j, x0 + k] & bad_bits:
                continue
            jacobian[0] = rows[0, j, k]
            jacobian[1] = p[0] * rows[1, j, k]
            jacobian[2] = p[0] * rows[2, j, k]
            jacobian[3] = p[0] * (txx * rows[3, j, k] + 0.5 * t * root * rows[5, j, k])
            jacobian[4] = p[0] * (tyy * rows[4, j, k] + 0.5 * t * root * rows[5, j, k])
            jacobian[5] = p[0] * (1.0 - t * t) * root * rows[5, j, k]
            jacobian[6] = p[0] * rows[6, j, k]
            g = 0.0
            for a in range(free):
                g += response[a] * jacobian[a]
            total += g * g * variance[y0 + j, x0 + k]
    return total


@njit
def combine_profiles(pixels, first, second, half, table, log_indices, variances, psf, psf_scales, bad_bits):
    """Non-negative linear combination of two fitted profiles of every source.

    Parameters
    ----------
    first, second : (n, 7) float64 array
        Parameters of the two profiles, as :func:`fit_profiles` gives them.
    pixels, half, table, log_indices, variances, psf, psf_scales, bad_bits
        As :func:`fit_profiles`.

    Returns
    -------
    out : (n, 4) float64 array
        Flux of each profile, variance of their sum, sum of squared residuals; NaN where not fitted.
    """
    n = first.shape[0]
    ny, nx = pixels.mask.shape
    out = np.full((n, 4), np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    work = np.empty((2, variances.size))
    for i in range(n):
        if not (np.isfinite(first[i].sum()) and np.isfinite(second[i].sum())):
            continue
        cx = int(np.floor(first[i, 1] + 0.5))
        cy = int(np.floor(first[i, 2] + 0.5))
        x0 = max(cx - half[i], 0)
        y0 = max(cy - half[i], 0)
        width = min(cx + half[i] + 1, nx) - x0
        height = min(cy + half[i] + 1, ny) - y0
        if width < 1 or height < 1:
            continue
        a = np.empty((N_PARAMETERS, height, width))
        b = np.empty((N_PARAMETERS, height, width))
        draw_model(first[i], first[i, 6], table, log_indices, variances, psf[i], psf_scales, x0, y0, work, a)
        draw_model(
            second[i], second[i, 6], table, log_indices, variances, psf[i], psf_scales, x0, y0, work, b
        )
        show_source(pixels, i, saved)
        _combine_one(pixels, bad_bits, a[0], b[0], x0, y0, out[i])
        hide_source(pixels, i, saved)
    return out


@njit
def _combine_one(pixels, bad_bits, a, b, x0, y0, out):
    """Fit both profiles, or the better one alone; fills flux a, flux b, variance of the sum, residual."""
    aa = 0.0
    ab = 0.0
    bb = 0.0
    ai = 0.0
    bi = 0.0
    ii = 0.0
    count = 0
    for j in range(a.shape[0]):
        for k in range(a.shape[1]):
            if pixels.mask[y0 + j, x0 + k] & bad_bits:
                continue
            value = np.float64(pixels.image[y0 + j, x0 + k])
            aa += a[j, k] * a[j, k]
            ab += a[j, k] * b[j, k]
            bb += b[j, k] * b[j, k]
            ai += a[j, k] * value
            bi += b[j, k] * value
            ii += value * value
            count += 1
    if not (aa > 0.0 and bb > 0.0):
        return
    det = aa * bb - ab * ab
    fa = ai / aa
    fb = 0.0
    single = ii - ai * ai / aa
    if bi > 0.0 and ii - bi * bi / bb < single:
        fa = 0.0
        fb = bi / bb
        single = ii - bi * bi / bb
    if det > 1e-9 * aa * bb:
        ca = (ai * bb - bi * ab) / det
        cb = (bi * aa - ai * ab) / det
        both = ii - ca * ai - cb * bi
        if ca > 0.0 and cb > 0.0 and single - both > SIGNIFICANT * both / count:
            fa = ca
            fb = cb
    share = fb / (fa + fb) if fa + fb != 0.0 else 0.0
    share = min(max(share, 0.0), 1.0)
    mm = 0.0
    mmv = 0.0
    for j in range(a.shape[0]):
        for k in range(a.shape[1]):
            if pixels.mask[y0 + j, x0 + k] & bad_bits:
                continue
            m = (1.0 - share) * a[j, k] + share * b[j, k]
            mm += m * m
            mmv += m * m * pixels.variance[y0 + j, x0 + k]
    out[0] = fa
    out[1] = fb
    out[2] = mmv / (mm * mm)
    out[3] = ii - fa * ai - fb * bi
