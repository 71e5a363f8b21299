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
    x0, x1, y0, y1 = nx, 0, ny, 0
    for k in range(sources.shape[0]):
        x0 = min(x0, max(0, math.floor(sources[k, 1] - radius[k])))
        x1 = max(x1, min(nx, math.ceil(sources[k, 1] + radius[k]) + 1))
        y0 = min(y0, max(0, math.floor(sources[k, 2] - radius[k])))
        y1 = max(y1, min(ny, math.ceil(sources[k, 2] + radius[k]) + 1))
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
def polynomial_frame(x, y):
    """Middle of the listed pixels and half their extent, at least one: coordinates for a polynomial."""
    x0, x1, y0, y1 = x[0], x[0], y[0], y[0]
    for i in range(x.size):
        x0, x1 = min(x0, x[i]), max(x1, x[i])
        y0, y1 = min(y0, y[i]), max(y1, y[i])
    return 0.5 * (x0 + x1), 0.5 * (y0 + y1), max(1.0, 0.5 * max(x1 - x0, y1 - y0))


@njit
def polynomial_rows(x, y, order, rows):
    """Fill rows x^i y^j, with coordinates of :func:`polynomial_frame`."""
    x0, y0, scale = polynomial_frame(x, y)
    k = 0
    for total in range(order + 1):
        for j in range(total + 1):
            for i in range(x.size):
                rows[k, i] = ((x[i] - x0) / scale) ** (total - j) * ((y[i] - y0) / scale) ** j
            k += 1


@njit
def covariance_factor(x, y, noise, correlation, ridge):
    """Cholesky factor of noise_i noise_j rho(lag) (+ ridge on the diagonal); empty when there is none."""
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
            return C
        extra *= 4.0  # a correlation measured on few pixels is not always positive definite
    return np.empty((0, 0))


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
def evaluate(x, y, data, sources, P, coefficients, J, residual):
    """Fill the derivative rows ``J`` of all sources and ``residual``, data - model."""
    for i in range(x.size):
        residual[i] = 0.0
    for k in range(sources.shape[0]):
        derivative_rows(x, y, sources[k], J[N_SHAPE * k : N_SHAPE * (k + 1)], residual)
    for i in range(x.size):
        residual[i] = data[i] - residual[i]
    for k in range(P.shape[0]):
        for i in range(x.size):
            residual[i] -= coefficients[k] * P[k, i]


@njit
def whiten(row, weight, L):
    """Whiten one row in place: by the factor ``L`` when it covers all pixels, else by ``weight``."""
    if L.shape[0] == row.size:
        forward_substitution(L, row)
    else:
        for i in range(row.size):
            row[i] *= weight[i]


@njit
def copy_rows(source, out, n):
    """Copy the first ``n`` rows of one array into another."""
    for k in range(n):
        for i in range(source.shape[1]):
            out[k, i] = source[k, i]


@njit
def cost_of(residual, loss, f_scale):
    """Total loss."""
    total = 0.0
    for i in range(residual.size):
        total += loss_terms(residual[i], loss, f_scale)[0]
    return total


@njit
def normal_equations(J, residual, loss, f_scale, n_shape, coefficients, ridge, N, g):
    """Fill the normal matrix ``N`` and the descent direction ``g`` at the present point.

    The first ``n_shape`` rows of ``J`` belong to sources, the others to a polynomial whose slopes are held towards
    zero by ``ridge``.
    """
    m, n = J.shape
    slope, row = np.empty(n), np.empty(n)
    for i in range(n):
        slope[i] = loss_terms(residual[i], loss, f_scale)[1]
    for p in range(m):
        for i in range(n):
            row[i] = J[p, i] * slope[i]
        g[p] = dot(row, residual)
        for q in range(p + 1):
            N[p, q] = dot(row, J[q])
    for k in range(1, coefficients.size):
        N[n_shape + k, n_shape + k] += ridge * ridge
        g[n_shape + k] -= coefficients[k] * ridge * ridge


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
    A, out = np.zeros((m, m)), np.zeros((m, m))
    for p in range(m):
        for q in range(p + 1):
            A[p, q] = 0.0 if (fixed[p] or fixed[q]) else N[p, q]
        if fixed[p]:
            A[p, p] = 1.0
    solved = cholesky(A)
    unit = np.zeros(m)
    for p in range(m):
        if solved and fixed[p]:
            continue
        if solved:
            for q in range(m):
                unit[q] = 0.0
            unit[p] = 1.0
            unit = solve_with_factor(A, unit)
        for q in range(m):
            out[p, q] = unit[q] if solved else np.nan
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
def hold(sources, g, bounds, home, free, fixed):
    """Mark held parameters of a whole group; those of the polynomial are never held."""
    for k in range(sources.shape[0]):
        first, last = N_SHAPE * k, N_SHAPE * (k + 1)
        blocked(sources[k], g[first:last], bounds[k], home[k], free, fixed[first:last])


@njit
def descend(
    x, y, data, weight, L, sources, bounds, free, order, options, J, residual, coefficients, N, fixed
):
    """Levenberg-Marquardt descent of one group.

    Parameters
    ----------
    x, y, data, weight : (n,) float64
        Pixels of the group.
    L : (n, n) float64
        Whitening factor; of any other size when the weights alone whiten.
    sources : (k, 6) float64, changed in place
    bounds : (k, 5) float64
        See :func:`starmill.kernels.gaussians.move_source`.
    free : (6,) bool
        Parameters (peak, x, y, a, b, c) that may change.
    order : int
        Of the polynomial; -1 for none.
    options : (5,) float64
        max iterations, tolerance, loss, f_scale, ridge on the slopes of the polynomial.
    J : (m, n) float64, filled
        Whitened derivatives at the solution.
    residual : (n,) float64, filled
        Whitened.
    coefficients : (m - 6 k,) float64, filled
    N : (m, m) float64, fixed : (m,) bool, filled
        Normal matrix (lower triangle) and held parameters at the solution.

    Returns
    -------
    iterations, status
    """
    ns, n, m = sources.shape[0], x.size, J.shape[0]
    first = N_SHAPE * ns
    nb, loss, f_scale, ridge = m - first, int(options[2]), options[3], options[4]
    P, trial_J, new = np.empty((nb, n)), np.empty((m, n)), np.empty(n)
    polynomial_rows(x, y, order, P)
    for k in range(nb):
        coefficients[k] = 0.0
        for i in range(n):
            J[first + k, i] = P[k, i]
        whiten(J[first + k], weight, L)
    home, trial, trial_coefficients = np.empty((ns, 2)), np.empty((ns, N_SHAPE)), np.empty(nb)
    for k in range(ns):
        home[k, 0], home[k, 1] = sources[k, 1], sources[k, 2]
    g = np.zeros(m)
    for p in range(m):
        fixed[p] = False
    evaluate(x, y, data, sources, P, coefficients, J, residual)
    whiten(residual, weight, L)
    for p in range(first):
        whiten(J[p], weight, L)
    cost = cost_of(residual, loss, f_scale)
    damping, status, iterations = 1e-3, MAX_ITERATIONS, 0
    while iterations < int(options[0]):
        iterations += 1
        normal_equations(J, residual, loss, f_scale, first, coefficients, ridge, N, g)
        hold(sources, g, bounds, home, free, fixed)
        accepted, solved, trial_cost = False, True, cost
        while not accepted and solved and damping < 1e10:
            step, solved = damped_step(N, g, damping, fixed)
            if not solved:
                break
            for k in range(ns):
                move_source(sources[k], step[N_SHAPE * k : N_SHAPE * (k + 1)], bounds[k], home[k], trial[k])
            for k in range(nb):
                trial_coefficients[k] = coefficients[k] + step[first + k]
            evaluate(x, y, data, trial, P, trial_coefficients, trial_J, new)
            whiten(new, weight, L)
            trial_cost = cost_of(new, loss, f_scale)
            accepted = trial_cost <= cost
            if not accepted:
                damping *= 8.0
        if not accepted:
            status = CONVERGED if solved else SINGULAR
            break
        for p in range(first):
            whiten(trial_J[p], weight, L)
        copy_rows(trial_J, J, first)
        copy_rows(trial, sources, ns)
        for i in range(n):
            residual[i] = new[i]
        for k in range(nb):
            coefficients[k] = trial_coefficients[k]
        gain, cost = cost - trial_cost, trial_cost
        damping = max(damping * 0.2, 1e-7)
        if gain <= options[1] * cost:
            status = CONVERGED
            break
    normal_equations(J, residual, loss, f_scale, first, coefficients, ridge, N, g)
    hold(sources, g, bounds, home, free, fixed)
    return iterations, status


@njit
def polynomial_at(x, y, frame, coefficients, order):
    """Value of a fitted polynomial at one point."""
    u, v = (x - frame[0]) / frame[2], (y - frame[1]) / frame[2]
    value, term = 0.0, 0
    for total in range(order + 1):
        for j in range(total + 1):
            value += coefficients[term] * u ** (total - j) * v**j
            term += 1
    return value


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
    options : (5,) float64
        See :func:`descend`.
    fitted, blocks, sky, numbers : arrays, filled
        (n, 6) sources; (n, 6, 6) covariances; (n,) polynomial at the source;
        (n_groups, 5) chi2, pixels, degrees of freedom, iterations, status.
    """
    for g in range(offsets.size - 1):
        rows = members[offsets[g] : offsets[g + 1]]
        ns = rows.size
        own, limits, reach, area = np.empty((ns, N_SHAPE)), np.empty((ns, 5)), np.empty(ns), 0.0
        for k in range(ns):
            copy_rows(sources[rows[k] : rows[k] + 1], own[k : k + 1], 1)
            copy_rows(bounds[rows[k] : rows[k] + 1], limits[k : k + 1], 1)
            reach[k] = radius[rows[k]]
            area += (2.0 * reach[k] + 3.0) ** 2
        x, y = list_pixels(image.shape, weight, own, reach, stride, int(area))
        n, nb, n_free = x.size, n_polynomial_terms(order), 0
        for p in range(N_SHAPE):
            n_free += ns if free[p] else 0
        n_free += nb
        data, w, noise = np.empty(n), np.empty(n), np.empty(n)
        for i in range(n):
            xi, yi = int(x[i]), int(y[i])
            w[i] = weight[yi, xi]
            noise[i] = 1.0 / w[i]
            data[i] = image[yi, xi] - model[yi, xi] + value_of(own, x[i], y[i])
        m = N_SHAPE * ns + nb
        covariance = np.empty((m, m))
        covariance.fill(np.nan)
        iterations, status, chi2 = 0, TOO_FEW_PIXELS, 0.0
        coefficients, frame = np.zeros(nb), np.ones(3)
        if n > n_free:
            frame[0], frame[1], frame[2] = polynomial_frame(x, y)
            L = np.empty((0, 0))
            if mode == 1:
                L = covariance_factor(x, y, noise, correlation, ridge)
            J, residual = np.empty((m, n)), np.empty(n)
            N, fixed = np.zeros((m, m)), np.zeros(m, np.bool_)
            iterations, status = descend(
                x, y, data, w, L, own, limits, free, order, options, J, residual, coefficients, N, fixed
            )
            covariance = parameter_covariance(N, fixed)
            if mode == 2:
                covariance = sandwich(covariance, J, x, y, noise, w, correlation)
            if status == CONVERGED and not np.isfinite(covariance[0, 0]):
                status = SINGULAR
            chi2 = dot(residual, residual)
        for k in range(ns):
            for p in range(N_SHAPE):
                fitted[rows[k], p] = own[k, p]
                for q in range(N_SHAPE):
                    blocks[rows[k], p, q] = covariance[N_SHAPE * k + p, N_SHAPE * k + q]
            sky[rows[k]] = polynomial_at(own[k, 1], own[k, 2], frame, coefficients, order)
        numbers[g, 0], numbers[g, 1], numbers[g, 2] = chi2, n, n - n_free
        numbers[g, 3], numbers[g, 4] = iterations, status
