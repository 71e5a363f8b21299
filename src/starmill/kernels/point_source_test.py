"""Is a peak of a blend a point source? Weighted linear fits of PSFs and a plane around the peak.

    I(p) ~ f PSF(p - c) [+ f dx dPSF/dx + f dy dPSF/dy] + sky + sx x + sy y + sum_j f_j PSF_j(p - c_j)

with weights ``ramp(r) / variance``, ``ramp`` falling linearly from one at ``r0`` to zero at ``r1``. The
reduced chi squared uses the sum of the ramp as the number of pixels.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.gaussian_groups import cholesky, solve_with_factor
from starmill.kernels.lanczos import shift_stack

MAX_NEIGHBOURS = 24


@njit
def _psf_value(psf, dy, dx):
    """Return the PSF at an offset from its centre; zero outside."""
    half = psf.shape[0] // 2
    if abs(dy) > half or abs(dx) > half:
        return 0.0
    return psf[half + dy, half + dx]


@njit
def _scaled(psf, flux, out):
    """Write flux times PSF."""
    for y in range(psf.shape[0]):
        for x in range(psf.shape[1]):
            out[y, x] = flux * psf[y, x]


@njit
def _row(psfs, psf, cy, cx, y, x, peak_y, peak_x, near, n_near, derivatives, row):
    """Values of the base functions at one pixel."""
    dy, dx = y - cy, x - cx
    row[0] = _psf_value(psf, dy, dx)
    row[1] = 1.0
    row[2] = 0.1 * dx
    row[3] = 0.1 * dy
    for k in range(n_near):
        j = near[k]
        row[4 + k] = _psf_value(psfs[j], y - peak_y[j], x - peak_x[j])
    n = 4 + n_near
    if derivatives:
        row[n] = 0.5 * (_psf_value(psf, dy, dx - 1) - _psf_value(psf, dy, dx + 1))
        row[n + 1] = 0.5 * (_psf_value(psf, dy - 1, dx) - _psf_value(psf, dy + 1, dx))
        n += 2
    return n


@njit
def _fit(
    pixels, variance, inside, psfs, psf, i, peak_y, peak_x, near, n_near, r0, r1, derivatives, ys, xs, weights, solution
):
    """Solve one linear fit; returns reduced chi squared (infinite when there is no solution)."""
    n = 4 + n_near + (2 if derivatives else 0)
    row = np.zeros(n)
    matrix, right = np.zeros((n, n)), np.zeros(n)
    n_pix = ys.shape[0]
    table = np.empty((n_pix, n))
    total_ramp = 0.0
    square = 0.0
    for p in range(n_pix):
        _row(psfs, psf, peak_y[i], peak_x[i], ys[p], xs[p], peak_y, peak_x, near, n_near, derivatives, row)
        w = weights[p] / variance[ys[p], xs[p]]
        total_ramp += weights[p]
        value = pixels[ys[p], xs[p]]
        square += w * value * value
        for a in range(n):
            table[p, a] = row[a]
            wa = w * row[a]
            right[a] += wa * value
            for b in range(a + 1):
                matrix[a, b] += wa * row[b]
    for a in range(n):
        if not matrix[a, a] > 0.0:
            matrix[a, a] = 1.0
            for b in range(n):
                if b != a:
                    matrix[max(a, b), min(a, b)] = 0.0
            right[a] = 0.0
        matrix[a, a] *= 1.0 + 1e-12
    if not cholesky(matrix):
        return np.inf, total_ramp - n
    answer = solve_with_factor(matrix, right)
    for a in range(n):
        solution[a] = answer[a]
    chi2 = 0.0
    for p in range(n_pix):
        model = 0.0
        for a in range(n):
            model += table[p, a] * solution[a]
        residual = pixels[ys[p], xs[p]] - model
        chi2 += weights[p] / variance[ys[p], xs[p]] * residual * residual
    dof = total_ramp - n
    return (chi2 / dof if dof > 0 else np.inf), dof


@njit
def _neighbours(i, peak_y, peak_x, reach, near):
    """Nearest other peaks within reach, at most as many as ``near`` holds."""
    n = 0
    distance = np.empty(near.shape[0])
    for j in range(peak_y.shape[0]):
        if j == i:
            continue
        d = math.hypot(peak_y[j] - peak_y[i], peak_x[j] - peak_x[i])
        if d >= reach or (n == near.shape[0] and d >= distance[n - 1]):
            continue
        k = n if n < near.shape[0] else n - 1
        while k > 0 and distance[k - 1] > d:
            distance[k], near[k] = distance[k - 1], near[k - 1]
            k -= 1
        distance[k], near[k] = d, j
        n = min(n + 1, near.shape[0])
    return n


@njit
def _stamp_pixels(inside, variance, cy, cx, r0, r1, ys, xs, weights):
    """Usable pixels of the circle and their ramp weights."""
    ny, nx = inside.shape
    reach = int(math.floor(r1))
    n = 0
    for y in range(max(0, cy - reach), min(ny, cy + reach + 1)):
        for x in range(max(0, cx - reach), min(nx, cx + reach + 1)):
            r = math.hypot(y - cy, x - cx)
            if r >= r1 or not inside[y, x] or not variance[y, x] > 0:
                continue
            ys[n], xs[n] = y, x
            weights[n] = 1.0 if r <= r0 else (r1 - r) / (r1 - r0)
            n += 1
    return n


@njit
def fit_point_sources(pixels, variance, inside, peak_y, peak_x, psfs, fwhm, limits, is_psf, images, fluxes, centres, chi2):
    """Test every peak of a parent.

    Parameters
    ----------
    pixels, variance : (ny, nx) float32 arrays
    inside : (ny, nx) bool array
    peak_y, peak_x : (n,) int64 arrays
    psfs : (n, size, size) float64 array
        Centred PSF at each peak, sum one.
    fwhm : float, pixel
    limits : (3,) float64 array
        Largest reduced chi squared of the plain fit, the fit with shift, and the fit at the shifted place.
    is_psf : (n,) bool array
        Written.
    images : (n, size, size) float64 array
        Written for point sources: flux times PSF about the peak.
    fluxes : (n,) float64 array, centres : (n, 2) float64 array (x, y offsets from the peak), chi2 : (n,)
        Written: flux, position and reduced chi squared of the accepted (else the plain) fit.
    """
    n_peaks, size = psfs.shape[0], psfs.shape[1]
    r0, r1 = math.ceil(fwhm), math.ceil(1.5 * fwhm)
    if r1 <= r0:
        r1 = r0 + 1
    room = (2 * r1 + 1) ** 2
    ys, xs, weights = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room)
    near = np.empty(MAX_NEIGHBOURS, np.int64)
    plain, moved, refit = np.zeros(6 + MAX_NEIGHBOURS), np.zeros(6 + MAX_NEIGHBOURS), np.zeros(6 + MAX_NEIGHBOURS)
    shifted = np.empty((1, size, size))
    for i in range(n_peaks):
        is_psf[i] = False
        fluxes[i] = np.nan
        centres[i] = 0.0
        chi2[i] = np.nan
        n = _stamp_pixels(inside, variance, peak_y[i], peak_x[i], r0, r1, ys, xs, weights)
        if n == 0:
            continue
        n_near = _neighbours(i, peak_y, peak_x, r1 + size / 2, near)
        args = (ys[:n], xs[:n], weights[:n])
        q1, _ = _fit(
            pixels, variance, inside, psfs, psfs[i], i, peak_y, peak_x, near, n_near, r0, r1, False, *args, plain
        )
        q2, _ = _fit(
            pixels, variance, inside, psfs, psfs[i], i, peak_y, peak_x, near, n_near, r0, r1, True, *args, moved
        )
        chi2[i], fluxes[i] = q1, plain[0]
        good = q1 < limits[0] and plain[0] > 0
        dx = dy = 0.0
        q_best = q1
        if q2 < limits[1] and moved[0] > 0:
            dx, dy = moved[4 + n_near] / moved[0], moved[5 + n_near] / moved[0]
            if abs(dx) < 1 and abs(dy) < 1:
                shift_stack(psfs[i : i + 1], np.array([dx]), np.array([dy]), 5, shifted)
                q3, _ = _fit(
                    pixels, variance, inside, psfs, shifted[0], i, peak_y, peak_x, near, n_near, r0, r1, False,
                    *args, refit,
                )  # fmt: skip
                if q3 < limits[2] and refit[0] > 0 and not (good and q1 <= q3):
                    is_psf[i] = True
                    _scaled(shifted[0], refit[0], images[i])
                    fluxes[i], chi2[i] = refit[0], q3
                    centres[i, 0], centres[i, 1] = dx, dy
                    q_best = q3
        if good and not is_psf[i]:
            is_psf[i] = True
            _scaled(psfs[i], plain[0], images[i])
            chi2[i] = q_best
