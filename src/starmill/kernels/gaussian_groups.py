"""Joint least-squares fit of elliptical Gaussians and a polynomial, group by group.

Levenberg-Marquardt on  chi2 = r^T C^-1 r,  r = data - sum of Gaussians - polynomial,
with the analytic derivatives of :mod:`starmill.kernels.gaussians`.  C is diagonal
(1 / weight^2) or, when a correlation table is given, the full covariance of the listed
pixels; its Cholesky factor is made once for a group and whitens residuals and
derivatives.  Robust losses act on the whitened residuals (iteratively re-weighted).
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.gaussians import N_SHAPE, blocked, derivative_rows, inverse_covariance, move_source

CONVERGED, MAX_ITERATIONS, SINGULAR, TOO_FEW_PIXELS = 0, 1, 2, 3
LINEAR, SOFT_L1, HUBER, CAUCHY = 0, 1, 2, 3
MANY_PIXELS = 160  # beyond this, neighbouring pixels of a sampled beam tell little more and cost n**3


@fast_njit
def dot(a, b):
    """Inner product of two contiguous rows."""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit
def cholesky(A):
    """Lower Cholesky factor in place; False when ``A`` is not positive definite."""
    for i in range(A.shape[0]):
        for j in range(i):
            A[i, j] = (A[i, j] - dot(A[i, :j], A[j, :j])) / A[j, j]
        pivot = A[i, i] - dot(A[i, :i], A[i, :i])
        if not pivot > 0.0:
            return False
        A[i, i] = math.sqrt(pivot)
    return True


@njit
def forward_substitution(L, row):
    """Replace ``row`` by L^-1 row."""
    for i in range(row.size):
        row[i] = (row[i] - dot(L[i, :i], row[:i])) / L[i, i]


@njit
def solve_with_factor(L, b):
    """Solve L L^T x = b."""
    x = b.copy()
    n = x.size
    for i in range(n):
        x[i] = (x[i] - dot(L[i, :i], x[:i])) / L[i, i]
    for i in range(n - 1, -1, -1):
        x[i] /= L[i, i]
        for j in range(i):
            x[j] -= L[i, j] * x[i]
    return x


@njit
def n_polynomial_terms(order):
    """Terms x^i y^j with i + j <= order; none for order -1."""
    return (order + 1) * (order + 2) // 2


@njit
def thin_out(xs, ys, n, every_second_row):
    """Keep a chequer-board of the first ``n`` pixels, or of it every second row; returns how many."""
    kept = 0
    for k in range(n):
        i, j = int(xs[k]), int(ys[k])
        if (i + j) % 2 or (every_second_row and j % 2):
            continue
        xs[kept], ys[kept] = xs[k], ys[k]
        kept += 1
    return kept


@njit
def list_pixels(shape, weight, sources, radius, stride, room):
    """Pixels within ``radius`` (per source, pixels) of any source of a group.

    ``stride`` 2 keeps a chequer-board (x + y even), 4 every second row and column; 0
    takes the first of 1, 2, 4 that lists at most ``MANY_PIXELS``.  Pixels of zero weight
    are left out.  At most ``room`` pixels are listed.
    """
    ny, nx = shape
    x0 = max(0, math.floor((sources[:, 1] - radius).min()))
    x1 = min(nx, math.ceil((sources[:, 1] + radius).max()) + 1)
    y0 = max(0, math.floor((sources[:, 2] - radius).min()))
    y1 = min(ny, math.ceil((sources[:, 2] + radius).max()) + 1)
    xs = np.empty(room)
    ys = np.empty(room)
    n = 0
    for j in range(y0, y1):
        for i in range(x0, x1):
            if n == room or not weight[j, i] > 0.0:
                continue
            if (stride == 2 and (i + j) % 2) or (stride == 4 and (i % 2 or j % 2)):
                continue
            for k in range(sources.shape[0]):
                dx, dy = i - sources[k, 1], j - sources[k, 2]
                if dx * dx + dy * dy <= radius[k] * radius[k]:
                    xs[n], ys[n] = i, j
                    n += 1
                    break
    if stride == 0 and n > MANY_PIXELS:
        n = thin_out(xs, ys, n, False)
        if n > MANY_PIXELS:
            n = thin_out(xs, ys, n, True)
    return xs[:n], ys[:n]


@njit
def polynomial_rows(x, y, order, rows):
    """Fill rows x^i y^j with coordinates scaled to about one; returns (x0, y0, scale)."""
    x0, y0 = 0.5 * (x.min() + x.max()), 0.5 * (y.min() + y.max())
    scale = max(1.0, 0.5 * max(x.max() - x.min(), y.max() - y.min()))
    k = 0
    for total in range(order + 1):
        for j in range(total + 1):
            for i in range(x.size):
                rows[k, i] = ((x[i] - x0) / scale) ** (total - j) * ((y[i] - y0) / scale) ** j
            k += 1
    return x0, y0, scale


@njit
def covariance_factor(x, y, noise, correlation, ridge):
    """Cholesky factor of noise_i noise_j rho(lag) (+ ridge on the diagonal)."""
    n = x.size
    half_y, half_x = correlation.shape[0] // 2, correlation.shape[1] // 2
    C = np.zeros((n, n))
    extra = ridge
    for _ in range(6):
        for i in range(n):
            for j in range(i + 1):
                dy, dx = int(y[i] - y[j]), int(x[i] - x[j])
                rho = 0.0
                if abs(dy) <= half_y and abs(dx) <= half_x:
                    rho = correlation[half_y + dy, half_x + dx]
                C[i, j] = noise[i] * noise[j] * rho
            C[i, i] += extra * noise[i] * noise[i]
        if cholesky(C):
            return C, True
        extra *= 4.0  # a correlation measured on few pixels is not always positive definite
    return C, False


@njit
def loss_terms(z, loss, f_scale):
    """Return (rho, rho') of (z / f_scale)^2, times f_scale^2."""
    s = (z / f_scale) ** 2
    if loss == SOFT_L1:
        t = math.sqrt(1.0 + s)
        return 2.0 * (t - 1.0) * f_scale * f_scale, 1.0 / t
    if loss == HUBER:
        if s <= 1.0:
            return s * f_scale * f_scale, 1.0
        return (2.0 * math.sqrt(s) - 1.0) * f_scale * f_scale, 1.0 / math.sqrt(s)
    if loss == CAUCHY:
        return math.log1p(s) * f_scale * f_scale, 1.0 / (1.0 + s)
    return z * z, 1.0


@njit
def evaluate(x, y, data, sources, P, coefficients, J):
    """Fill the derivative rows ``J`` of all sources and return data - model."""
    model = np.zeros(x.size)
    for k in range(sources.shape[0]):
        derivative_rows(x, y, sources[k], J[N_SHAPE * k : N_SHAPE * (k + 1)], model)
    residual = data - model
    for k in range(P.shape[0]):
        for i in range(x.size):
            residual[i] -= coefficients[k] * P[k, i]
    return residual


@njit
def whiten(rows, weight, L, correlated):
    """Whiten every row in place: by the factor ``L`` or by ``weight``."""
    for k in range(rows.shape[0]):
        if correlated:
            forward_substitution(L, rows[k])
        else:
            for i in range(weight.size):
                rows[k, i] *= weight[i]


@njit
def cost_of(residual, loss, f_scale, sources, prior):
    """Total loss, with the Gaussian prior on the two variances a, b of every source."""
    total = 0.0
    for i in range(residual.size):
        total += loss_terms(residual[i], loss, f_scale)[0]
    for k in range(sources.shape[0]):
        for j in range(2):
            total += ((sources[k, 3 + j] ** 2 - prior[0]) * prior[1]) ** 2
    return total


@njit
def normal_equations(J, residual, loss, f_scale, sources, prior, coefficients, ridge, N, g):
    """Fill the normal matrix ``N`` and the descent direction ``g`` at the present point."""
    m, n = J.shape
    slope = np.empty(n)
    for i in range(n):
        slope[i] = loss_terms(residual[i], loss, f_scale)[1]
    row = np.empty(n)
    for p in range(m):
        for i in range(n):
            row[i] = J[p, i] * slope[i]
        g[p] = dot(row, residual)
        for q in range(p + 1):
            N[p, q] = dot(row, J[q])
    for k in range(sources.shape[0]):
        for j in range(2):
            p = N_SHAPE * k + 3 + j
            N[p, p] += prior[1] * prior[1]
            g[p] -= (sources[k, 3 + j] ** 2 - prior[0]) * prior[1] * prior[1]
        p = N_SHAPE * k + 5
        N[p, p] += 2.0 * prior[1] * prior[1]
    first = N_SHAPE * sources.shape[0]
    for k in range(1, coefficients.size):
        N[first + k, first + k] += ridge * ridge
        g[first + k] -= coefficients[k] * ridge * ridge


@njit
def damped_step(N, g, damping, fixed):
    """Solve (N + damping diag N) step = g on the parameters that are not fixed."""
    m = g.size
    A = np.zeros((m, m))
    b = np.zeros(m)
    for p in range(m):
        if fixed[p]:
            A[p, p] = 1.0
            continue
        b[p] = g[p]
        for q in range(p):
            A[p, q] = 0.0 if fixed[q] else N[p, q]
        A[p, p] = N[p, p] * (1.0 + damping) + 1e-300
    if not cholesky(A):
        return b, False
    return solve_with_factor(A, b), True


@njit
def parameter_covariance(N, fixed):
    """Inverse of the normal matrix on the free parameters; zero elsewhere; NaN if singular."""
    m = fixed.size
    A = np.zeros((m, m))
    for p in range(m):
        for q in range(p + 1):
            A[p, q] = 0.0 if (fixed[p] or fixed[q]) else N[p, q]
        if fixed[p]:
            A[p, p] = 1.0
    out = np.zeros((m, m))
    if not cholesky(A):
        out[:] = np.nan
        return out
    unit = np.zeros(m)
    for p in range(m):
        if not fixed[p]:
            unit[:] = 0.0
            unit[p] = 1.0
            out[p] = solve_with_factor(A, unit)
    return out


@njit
def sandwich(covariance, J, x, y, noise, weight, correlation):
    """Covariance of an ordinary fit when the noise is correlated: V (J C J^T) V."""
    m, n = J.shape
    half_y, half_x = correlation.shape[0] // 2, correlation.shape[1] // 2
    CJ = np.zeros((m, n))
    for i in range(n):
        for j in range(n):
            dy, dx = int(y[i] - y[j]), int(x[i] - x[j])
            if abs(dy) <= half_y and abs(dx) <= half_x:
                rho = correlation[half_y + dy, half_x + dx] * noise[i] * noise[j] * weight[i] * weight[j]
                for p in range(m):
                    CJ[p, i] += rho * J[p, j]
    middle, half_way = np.empty((m, m)), np.empty((m, m))
    for p in range(m):
        for q in range(m):
            middle[p, q] = dot(J[p], CJ[q])
    for p in range(m):  # both matrices are symmetric, so rows stand for columns
        for q in range(m):
            half_way[p, q] = dot(covariance[p], middle[q])
    for p in range(m):
        for q in range(m):
            middle[p, q] = dot(half_way[p], covariance[q])
    return middle


@njit
def hold(sources, g, bounds, home, free, coefficients_free, fixed):
    """Mark held parameters of a whole group."""
    for k in range(sources.shape[0]):
        part = slice(N_SHAPE * k, N_SHAPE * (k + 1))
        blocked(sources[k], g[part], bounds[k], home[k], free, fixed[part])
    fixed[N_SHAPE * sources.shape[0] :] = not coefficients_free


@njit
def descend(x, y, data, weight, L, correlated, sources, bounds, free, order, options, J):
    """Levenberg-Marquardt descent of one group.

    Parameters
    ----------
    x, y, data, weight : (n,) float64
        Pixels of the group.
    L : (n, n) float64
        Whitening factor, used when ``correlated``.
    sources : (k, 6) float64, changed in place
    bounds : (k, 5) float64
        See :func:`starmill.kernels.gaussians.move_source`.
    free : (6,) bool
        Parameters (peak, x, y, a, b, c) that may change.
    order : int
        Of the polynomial; -1 for none.
    options : (8,) float64
        max iterations, tolerance, loss, f_scale, prior variance, 1 / prior width, ridge, unused.
    J : (m, n) float64
        Room for the whitened derivatives, filled at the solution.

    Returns
    -------
    coefficients, residual, N, fixed, iterations, status
    """
    ns, n = sources.shape[0], x.size
    nb, m = J.shape[0] - N_SHAPE * ns, J.shape[0]
    loss, f_scale, prior, ridge = int(options[2]), options[3], options[4:6], options[6]
    P = np.empty((nb, n))
    polynomial_rows(x, y, order, P)
    coefficients, trial_coefficients = np.zeros(nb), np.zeros(nb)
    white_P = P.copy()
    whiten(white_P, weight, L, correlated)
    home = sources[:, 1:3].copy()
    trial, fixed = sources.copy(), np.zeros(m, np.bool_)
    N, g, trial_J = np.zeros((m, m)), np.zeros(m), np.empty((m, n))
    J[m - nb :] = white_P
    trial_J[m - nb :] = white_P
    residual = np.empty((1, n))
    residual[0] = evaluate(x, y, data, sources, P, coefficients, J)
    whiten(residual, weight, L, correlated)
    whiten(J[: m - nb], weight, L, correlated)
    cost = cost_of(residual[0], loss, f_scale, sources, prior)
    damping, status, iterations = 1e-3, MAX_ITERATIONS, 0
    while iterations < int(options[0]):
        iterations += 1
        normal_equations(J, residual[0], loss, f_scale, sources, prior, coefficients, ridge, N, g)
        hold(sources, g, bounds, home, free, True, fixed)
        step, solved = damped_step(N, g, damping, fixed)
        accepted = False
        while solved and damping < 1e10:
            for k in range(ns):
                move_source(sources[k], step[N_SHAPE * k : N_SHAPE * (k + 1)], bounds[k], home[k], trial[k])
            trial_coefficients[:] = coefficients + step[m - nb :]
            new = np.empty((1, n))
            new[0] = evaluate(x, y, data, trial, P, trial_coefficients, trial_J)
            whiten(new, weight, L, correlated)
            trial_cost = cost_of(new[0], loss, f_scale, trial, prior)
            accepted = trial_cost <= cost
            if accepted:
                break
            damping *= 8.0
            step, solved = damped_step(N, g, damping, fixed)
        if not accepted:
            status = CONVERGED if solved else SINGULAR
            break
        whiten(trial_J[: m - nb], weight, L, correlated)
        gain = cost - trial_cost
        sources[:], coefficients[:], cost = trial, trial_coefficients, trial_cost
        residual, J[: m - nb] = new, trial_J[: m - nb]
        damping = max(damping * 0.2, 1e-7)
        if gain <= options[1] * cost:
            status = CONVERGED
            break
    normal_equations(J, residual[0], loss, f_scale, sources, prior, coefficients, ridge, N, g)
    hold(sources, g, bounds, home, free, True, fixed)
    return coefficients, residual[0], N, fixed, iterations, status


@njit
def fit_one_group(
    image, weight, model, sources, bounds, radius, free, order, stride, correlation, mode, ridge, options
):
    """Fit one group; see :func:`fit_groups`.  Returns sources, covariances, sky and numbers."""
    ns = sources.shape[0]
    nb = n_polynomial_terms(order)
    m = N_SHAPE * ns + nb
    area = 0.0
    for k in range(ns):
        area += (2.0 * radius[k] + 3.0) ** 2
    x, y = list_pixels(image.shape, weight, sources, radius, stride, int(area))
    n = x.size
    blocks = np.full((ns, N_SHAPE, N_SHAPE), np.nan)
    sky = np.zeros(ns)
    fitted = sources.copy()
    n_free = int(free.sum()) * ns + nb
    if n < n_free + 1:
        return fitted, blocks, sky, np.array([0.0, n, n - n_free, 0.0, TOO_FEW_PIXELS])
    data, w = np.empty(n), np.empty(n)
    for i in range(n):
        xi, yi = int(x[i]), int(y[i])
        w[i] = weight[yi, xi]
        data[i] = image[yi, xi] - model[yi, xi] + value_of(sources, x[i], y[i])
    noise = 1.0 / w
    correlated = mode == 1
    L = np.zeros((1, 1))
    if correlated:
        L, good = covariance_factor(x, y, noise, correlation, ridge)
        correlated = good
    J = np.empty((m, n))
    coefficients, residual, N, fixed, iterations, status = descend(
        x, y, data, w, L, correlated, fitted, bounds, free, order, options, J
    )
    covariance = parameter_covariance(N, fixed)
    if mode == 2:
        covariance = sandwich(covariance, J, x, y, noise, w, correlation)
    x0, y0 = 0.5 * (x.min() + x.max()), 0.5 * (y.min() + y.max())
    scale = max(1.0, 0.5 * max(x.max() - x.min(), y.max() - y.min()))
    for k in range(ns):
        part = slice(N_SHAPE * k, N_SHAPE * (k + 1))
        blocks[k] = covariance[part, part]
        term = 0
        for total in range(order + 1):
            for j in range(total + 1):
                u, v = (fitted[k, 1] - x0) / scale, (fitted[k, 2] - y0) / scale
                sky[k] += coefficients[term] * u ** (total - j) * v**j
                term += 1
    if not np.isfinite(blocks).all() and status == CONVERGED:
        status = SINGULAR
    chi2 = dot(residual, residual)
    return fitted, blocks, sky, np.array([chi2, n, n - n_free, iterations, status])


@njit
def value_of(sources, x, y):
    """Sum of all sources at one point, without a cut."""
    total = 0.0
    for k in range(sources.shape[0]):
        dx, dy = x - sources[k, 1], y - sources[k, 2]
        ixx, ixy, iyy = inverse_covariance(sources[k, 3], sources[k, 4], sources[k, 5])
        total += sources[k, 0] * math.exp(-0.5 * (ixx * dx * dx + 2.0 * ixy * dx * dy + iyy * dy * dy))
    return total


@njit
def fit_groups(
    image, weight, model, sources, bounds, radius, offsets, members,
    free, order, stride, correlation, mode, ridge, options, fitted, blocks, sky, numbers,
):  # fmt: skip
    """Fit every listed group of Gaussians; groups do not depend on each other.

    Parameters
    ----------
    image : (ny, nx) float
        Data; pixels of zero weight are ignored.
    weight : (ny, nx) float
        1 / noise.
    model : (ny, nx) float
        Sum of all sources as they are in ``sources``; the part of a group's own sources
        is taken out, so neighbours outside the group are subtracted.
    sources : (n, 6) float64
        Start values.
    bounds : (n, 5) float64
    radius : (n,) float64
        Pixels within this distance of the start position take part.
    offsets, members : int arrays
        Group g holds the rows ``members[offsets[g]:offsets[g + 1]]``.
    free : (6,) bool
    order, stride : int
        Of the polynomial (-1: none) and of the pixels (see :func:`list_pixels`).
    correlation : (2h + 1, 2h + 1) float64
        Noise correlation by lag; used when ``mode`` is 1 (generalised least squares) or
        2 (ordinary fit, errors from the correlated noise).
    ridge : float
        White part added to the covariance, in units of the noise variance.
    options : (8,) float64
        See :func:`descend`.
    fitted, blocks, sky, numbers : arrays, filled
        (n, 6) sources; (n, 6, 6) covariances; (n,) polynomial at the source;
        (n_groups, 5) chi2, pixels, degrees of freedom, iterations, status.
    """
    for g in range(offsets.size - 1):
        rows = members[offsets[g] : offsets[g + 1]]
        result = fit_one_group(
            image, weight, model, sources[rows], bounds[rows], radius[rows],
            free, order, stride, correlation, mode, ridge, options,
        )  # fmt: skip
        for k in range(rows.size):
            fitted[rows[k]] = result[0][k]
            blocks[rows[k]] = result[1][k]
            sky[rows[k]] = result[2][k]
        numbers[g] = result[3]
