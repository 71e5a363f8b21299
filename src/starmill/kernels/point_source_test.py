"""Is a peak of a blend a point source? Weighted linear fits of PSFs and a plane around the peak.

    I(p) ~ f PSF(p - c) [+ f dx dPSF/dx + f dy dPSF/dy] + sky + sx x + sy y + sum_j f_j PSF_j(p - c_j)

with weights ``ramp(r) / variance``, ``ramp`` falling linearly from one at ``r0`` to zero at ``r1``. The
reduced chi squared uses the sum of the ramp as the number of pixels.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.cholesky import cholesky, solve_with_factor
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
def _fill_table(placed, i, peak_y, peak_x, near, n_near, ys, xs, table):
    """Values of the base functions at all pixels: PSF, 1, x, y, other PSFs, slopes of the PSF."""
    psf, cy, cx = placed[i], peak_y[i], peak_x[i]
    last = 4 + n_near
    for p in range(ys.shape[0]):
        dy, dx = ys[p] - cy, xs[p] - cx
        row = table[p]
        row[0] = _psf_value(psf, dy, dx)
        row[1] = 1.0
        row[2] = 0.1 * dx
        row[3] = 0.1 * dy
        row[last] = 0.5 * (_psf_value(psf, dy, dx - 1) - _psf_value(psf, dy, dx + 1))
        row[last + 1] = 0.5 * (_psf_value(psf, dy - 1, dx) - _psf_value(psf, dy + 1, dx))
    for k in range(n_near):
        j = near[k]
        other, oy, ox = placed[j], peak_y[j], peak_x[j]
        for p in range(ys.shape[0]):
            table[p, 4 + k] = _psf_value(other, ys[p] - oy, xs[p] - ox)


@njit
def _fill_first(psf, cy, cx, ys, xs, table):
    """Replace the PSF column of the table by another PSF."""
    for p in range(ys.shape[0]):
        table[p, 0] = _psf_value(psf, ys[p] - cy, xs[p] - cx)


@njit
def _accumulate(table, values, weights, n, matrix, right):
    """Fill the normal matrix (lower triangle) and right side; returns the weighted sum of squares."""
    for a in range(n):
        right[a] = 0.0
        for b in range(a + 1):
            matrix[a, b] = 0.0
    square = 0.0
    for p in range(values.shape[0]):
        row = table[p]
        w = weights[p]
        value = values[p]
        square += w * value * value
        for a in range(n):
            wa = w * row[a]
            right[a] += wa * value
            target = matrix[a]
            for b in range(a + 1):
                target[b] += wa * row[b]
    return square


@njit
def _accumulate_first(table, values, weights, n, matrix, right):
    """Renew what depends on the first column."""
    right[0] = 0.0
    for a in range(n):
        matrix[a, 0] = 0.0
    for p in range(values.shape[0]):
        row = table[p]
        w0 = weights[p] * row[0]
        right[0] += w0 * values[p]
        for a in range(n):
            matrix[a, 0] += w0 * row[a]


@njit
def _solve(matrix, right, square, n, dof, solution):
    """Solve the leading ``n`` equations; returns reduced chi squared, infinite when there is no solution."""
    if not dof > 0.0:
        return np.inf
    work, side = np.zeros((n, n)), np.zeros(n)
    for a in range(n):
        used = matrix[a, a] > 0.0
        side[a] = right[a] if used else 0.0
        for b in range(a):
            work[a, b] = matrix[a, b] if used and matrix[b, b] > 0.0 else 0.0
        work[a, a] = matrix[a, a] * (1.0 + 1e-12) if used else 1.0
    if not cholesky(work):
        return np.inf
    answer = solve_with_factor(work, side)
    explained = 0.0
    for a in range(n):
        solution[a] = answer[a]
        explained += answer[a] * side[a]
    return max(square - explained, 0.0) / dof


@njit
def _neighbours(i, peak_y, peak_x, reach, near):
    """Nearest other peaks within reach, at most as many as ``near`` holds."""
    n = 0
    distance = np.empty(near.shape[0])
    for j in range(peak_y.shape[0]):
        if j == i:
            continue
        if abs(peak_y[j] - peak_y[i]) >= reach or abs(peak_x[j] - peak_x[i]) >= reach:
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
    reach = math.floor(r1)
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
def fit_point_sources(
    pixels,
    variance,
    inside,
    peak_y,
    peak_x,
    psfs,
    fwhm,
    limits,
    n_sweeps,
    is_psf,
    images,
    fluxes,
    centres,
    chi2,
):
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
    n_sweeps : int
        Rounds over the peaks; from the second on everybody stands where the round before has moved him.
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
    room, most = (2 * r1 + 1) ** 2, 6 + MAX_NEIGHBOURS
    ys, xs, ramp = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room)
    values, weights, table = np.empty(room), np.empty(room), np.empty((room, most))
    matrix, right, solution = np.zeros((most, most)), np.zeros(most), np.zeros(most)
    near = np.empty(MAX_NEIGHBOURS, np.int64)
    shifted, step_x, step_y = np.empty((1, size, size)), np.empty(1), np.empty(1)
    placed, places = psfs.copy(), np.zeros((n_peaks, 2))
    better, better_places = psfs.copy(), np.zeros((n_peaks, 2))
    for sweep in range(n_sweeps):
        for i in range(n_peaks):
            is_psf[i] = False
            fluxes[i] = chi2[i] = np.nan
            centres[i, 0], centres[i, 1] = places[i, 0], places[i, 1]
            n_pix = _stamp_pixels(inside, variance, peak_y[i], peak_x[i], r0, r1, ys, xs, ramp)
            if n_pix == 0:
                continue
            n_near = _neighbours(i, peak_y, peak_x, r1 + size / 2, near)
            n = 4 + n_near
            total_ramp = 0.0
            for p in range(n_pix):
                total_ramp += ramp[p]
                weights[p] = ramp[p] / variance[ys[p], xs[p]]
                values[p] = pixels[ys[p], xs[p]]
            dof = total_ramp - n
            _fill_table(placed, i, peak_y, peak_x, near, n_near, ys[:n_pix], xs[:n_pix], table)
            square = _accumulate(table, values[:n_pix], weights, n + 2, matrix, right)
            chi2[i] = _solve(matrix, right, square, n, dof, solution)
            fluxes[i] = solution[0] if dof > 0 else np.nan
            unmoved = places[i, 0] == 0.0 and places[i, 1] == 0.0
            if chi2[i] < (limits[0] if unmoved else limits[2]) and solution[0] > 0:
                is_psf[i] = True
                _scaled(placed[i], solution[0], images[i])
            moved = _solve(matrix, right, square, n + 2, dof - 2, solution)
            if not (moved < np.inf and solution[0] > 0):
                continue
            dx = places[i, 0] + solution[n] / solution[0]
            dy = places[i, 1] + solution[n + 1] / solution[0]
            if abs(dx) >= 1 or abs(dy) >= 1 or (moved >= limits[1] and sweep == n_sweeps - 1):
                continue
            step_x[0], step_y[0] = dx, dy
            shift_stack(psfs[i : i + 1], step_x, step_y, shifted)
            _scaled(shifted[0], 1.0, better[i])
            better_places[i, 0], better_places[i, 1] = dx, dy
            if moved >= limits[1]:
                continue
            _fill_first(shifted[0], peak_y[i], peak_x[i], ys[:n_pix], xs[:n_pix], table)
            _accumulate_first(table, values[:n_pix], weights, n, matrix, right)
            refit = _solve(matrix, right, square, n, dof, solution)
            if refit < limits[2] and solution[0] > 0 and not (is_psf[i] and chi2[i] <= refit):
                is_psf[i] = True
                fluxes[i], chi2[i] = solution[0], refit
                centres[i, 0], centres[i, 1] = dx, dy
                _scaled(shifted[0], solution[0], images[i])
        for i in range(n_peaks):
            _scaled(better[i], 1.0, placed[i])
            places[i, 0], places[i, 1] = better_places[i, 0], better_places[i, 1]
