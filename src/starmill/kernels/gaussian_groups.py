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

from starmill.kernels._jit import njit
from starmill.kernels.cholesky import (
    cholesky,
    dot,
    gram,
    padded_factor,
    padded_width,
    solve_with_factor,
    substitute_rows,
)
from starmill.kernels.gaussians import N_SHAPE, add_source, blocked, derivative_rows, move_source

CONVERGED, MAX_ITERATIONS, SINGULAR, TOO_FEW_PIXELS = 0, 1, 2, 3
LINEAR, SOFT_L1, HUBER, CAUCHY = 0, 1, 2, 3
MANY_PIXELS = 160  # beyond this, neighbouring pixels of a sampled beam tell little more and cost n**3


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
def keep_every(xs, ys, n, step):
    """Keep those of the first ``n`` pixels whose row and column are multiples of ``step``; returns how many."""
    kept = 0
    for k in range(n):
        if int(xs[k]) % step or int(ys[k]) % step:
            continue
        xs[kept], ys[kept] = xs[k], ys[k]
        kept += 1
    return kept


@njit
def list_pixels(image, weight, sources, radius, stride, room):
    """Pixels within ``radius`` (per source, pixels) of any source of a group.

    ``stride`` 2 keeps a chequer-board (x + y even), 4 every second row and column; 0
    takes the first of 1, 2, 4 that lists at most ``MANY_PIXELS``, and for beams of very many pixels
    every fourth, eighth, ... row and column, until no more than that number are left for each source.  Pixels
    without a finite value and a finite, positive weight are left out.  At most ``room`` pixels are listed.
    """
    ny, nx = image.shape
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
            if n == room or not 0.0 < weight[j, i] < np.inf or not math.isfinite(image[j, i]):
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
        step = 4
        while n > MANY_PIXELS * sources.shape[0]:
            n = keep_every(xs, ys, n, step)
            step *= 2
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
def correlation_matrix(x, y, correlation, C):
    """Fill the lower triangle of ``C`` with the correlation of listed pixels; 0 at lags the table does not have."""
    n = x.size
    half_y, half_x = correlation.shape[0] // 2, correlation.shape[1] // 2
    wide = 2 * half_x + 1
    table = correlation.reshape(correlation.size)
    row, column = np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(n):
        row[i], column[i] = int(y[i]), int(x[i])
    inside = row.max() - row.min() <= half_y and column.max() - column.min() <= half_x
    for i in range(n):
        middle = (half_y + row[i]) * wide + half_x + column[i]
        if inside:
            for j in range(i + 1):
                C[i, j] = table[np.uint64(middle - row[j] * wide - column[j])]
            continue
        for j in range(i + 1):
            known = abs(row[i] - row[j]) <= half_y and abs(column[i] - column[j]) <= half_x
            C[i, j] = table[np.uint64(middle - row[j] * wide - column[j])] if known else 0.0


@njit
def correlation_factor(x, y, correlation, ridge):
    """Cholesky factor of rho(lag) (+ ridge on the diagonal), as :func:`padded_factor` gives it; empty when there is none."""
    n = x.size
    C = np.empty((n, n))
    extra = ridge
    for _ in range(6):
        correlation_matrix(x, y, correlation, C)
        for i in range(n):
            C[i, i] += extra
        if cholesky(C):
            return padded_factor(C)
        extra *= 4.0  # a correlation measured on few pixels is not always positive definite
    return np.empty(0), np.empty(0)


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
def evaluate(x, y, data, weight, L, inverse, sources, P, coefficients, rows):
    """Fill the whitened derivatives of sources and polynomial and, as the last row, the whitened residual.

    ``rows`` is (m + 1, padded n).
    """
    n, last, first = x.size, rows.shape[0] - 1, N_SHAPE * sources.shape[0]
    residual = rows[last]
    for i in range(n):
        residual[i] = 0.0
    for k in range(sources.shape[0]):
        derivative_rows(x, y, sources[k], rows[N_SHAPE * k : N_SHAPE * (k + 1)], residual)
    for i in range(n):
        residual[i] = data[i] - residual[i]
    for k in range(P.shape[0]):
        for i in range(n):
            residual[i] -= coefficients[k] * P[k, i]
            rows[first + k, i] = P[k, i]
    for p in range(last + 1):
        for i in range(n):
            rows[p, i] *= weight[i]
    if inverse.size == n:
        substitute_rows(L, inverse, rows.reshape(rows.size), 0, last + 1)


@njit
def copy_rows(source, out, n):
    """Copy the first ``n`` rows of one array into another."""
    for k in range(n):
        for i in range(source.shape[1]):
            out[k, i] = source[k, i]


@njit
def cost_of(residual, loss, f_scale):
    """Total loss."""
    if loss == LINEAR:
        return dot(residual, residual)
    total = 0.0
    for i in range(residual.size):
        total += loss_terms(residual[i], loss, f_scale)[0]
    return total


@njit
def normal_equations(rows, n, loss, f_scale, n_shape, coefficients, ridge, N):
    """Fill the normal matrix ``N`` and, as its last row, the descent direction at the present point.

    The first ``n_shape`` rows belong to sources, the last one is the residual, the others to a polynomial whose slopes
    are held towards zero by ``ridge``. Robust losses weigh every pixel by the slope of the loss.
    """
    m, width = rows.shape[0] - 1, rows.shape[1]
    if loss == LINEAR:
        gram(rows.reshape(rows.size), width, m + 1, N)
    else:
        scaled = np.zeros(rows.shape)
        for i in range(n):
            root = math.sqrt(loss_terms(rows[m, i], loss, f_scale)[1])
            for p in range(m + 1):
                scaled[p, i] = rows[p, i] * root
        gram(scaled.reshape(scaled.size), width, m + 1, N)
    for k in range(1, coefficients.size):
        N[n_shape + k, n_shape + k] += ridge * ridge
        N[m, n_shape + k] -= coefficients[k] * ridge * ridge


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
    x, y, data, weight, L, inverse, sources, bounds, free, order, options, rows, coefficients, N, fixed
):
    """Levenberg-Marquardt descent of one group.

    Parameters
    ----------
    x, y, data, weight : (n,) float64
        Pixels of the group.
    L, inverse : float64
        Factor of the correlation, see :func:`starmill.kernels.cholesky.padded_factor`; of another size when the
        weights alone whiten.
    sources : (k, 6) float64, changed in place
    bounds : (k, 5) float64
        See :func:`starmill.kernels.gaussians.move_source`.
    free : (6,) bool
        Parameters (peak, x, y, a, b, c) that may change.
    order : int
        Of the polynomial; -1 for none.
    options : (5,) float64
        max iterations, tolerance, loss, f_scale, ridge on the slopes of the polynomial.
    rows : (m + 1, padded n) float64, zero, filled
        Whitened derivatives and, last, the whitened residual at the solution.
    coefficients : (m - 6 k,) float64, filled
    N : (m + 1, m + 1) float64, fixed : (m,) bool, filled
        Normal matrix (lower triangle; the last row is the descent direction) and held parameters at the solution.

    Returns
    -------
    iterations, status
    """
    ns, n, m = sources.shape[0], x.size, rows.shape[0] - 1
    first = N_SHAPE * ns
    nb, loss, f_scale, ridge = m - first, int(options[2]), options[3], options[4]
    P, trial_rows = np.empty((nb, n)), np.zeros(rows.shape)
    polynomial_rows(x, y, order, P)
    for k in range(nb):
        coefficients[k] = 0.0
    home, trial, trial_coefficients = np.empty((ns, 2)), np.empty((ns, N_SHAPE)), np.empty(nb)
    for k in range(ns):
        home[k, 0], home[k, 1] = sources[k, 1], sources[k, 2]
    for p in range(m):
        fixed[p] = False
    evaluate(x, y, data, weight, L, inverse, sources, P, coefficients, rows)
    cost = cost_of(rows[m, :n], loss, f_scale)
    damping, status, iterations = 1e-3, MAX_ITERATIONS, 0
    while iterations < int(options[0]):
        iterations += 1
        normal_equations(rows, n, loss, f_scale, first, coefficients, ridge, N)
        g = N[m, :m]
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
            evaluate(x, y, data, weight, L, inverse, trial, P, trial_coefficients, trial_rows)
            trial_cost = cost_of(trial_rows[m, :n], loss, f_scale)
            accepted = trial_cost <= cost
            if not accepted:
                damping *= 8.0
        if not accepted:
            status = CONVERGED if solved else SINGULAR
            break
        copy_rows(trial_rows, rows, m + 1)
        copy_rows(trial, sources, ns)
        for k in range(nb):
            coefficients[k] = trial_coefficients[k]
        gain, cost = cost - trial_cost, trial_cost
        damping = max(damping * 0.2, 1e-7)
        if gain <= options[1] * cost:
            status = CONVERGED
            break
    normal_equations(rows, n, loss, f_scale, first, coefficients, ridge, N)
    hold(sources, N[m, :m], bounds, home, free, fixed)
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
def fit_groups(
    image, weight, model, sources, bounds, radius, offsets, members,
    free, order, stride, correlation, mode, ridge, options, fitted, blocks, sky, numbers,
):  # fmt: skip
    """Fit every listed group of Gaussians; groups do not depend on each other.

    Parameters
    ----------
    image : (ny, nx) float
        Data; NaN is no data.
    weight : (ny, nx) float
        1 / noise; pixels whose weight is zero or not finite are ignored.
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
        x, y = list_pixels(image, weight, own, reach, stride, int(area))
        n, nb, n_free = x.size, n_polynomial_terms(order), 0
        for p in range(N_SHAPE):
            n_free += ns if free[p] else 0
        n_free += nb
        data, w, noise = np.empty(n), np.empty(n), np.empty(n)
        for i in range(n):
            xi, yi = int(x[i]), int(y[i])
            w[i] = weight[yi, xi]
            noise[i] = 1.0 / w[i]
            data[i] = image[yi, xi] - model[yi, xi]
        for k in range(ns):
            add_source(x, y, own[k], data)
        m = N_SHAPE * ns + nb
        covariance = np.empty((m, m))
        covariance.fill(np.nan)
        iterations, status, chi2 = 0, TOO_FEW_PIXELS, 0.0
        coefficients, frame = np.zeros(nb), np.ones(3)
        if n > n_free:
            frame[0], frame[1], frame[2] = polynomial_frame(x, y)
            L, inverse = np.empty(0), np.empty(0)
            if mode == 1:
                L, inverse = correlation_factor(x, y, correlation, ridge)
            rows_of_fit = np.zeros((m + 1, padded_width(n)))
            N, fixed = np.zeros((m + 1, m + 1)), np.zeros(m, np.bool_)
            iterations, status = descend(
                x,
                y,
                data,
                w,
                L,
                inverse,
                own,
                limits,
                free,
                order,
                options,
                rows_of_fit,
                coefficients,
                N,
                fixed,
            )
            covariance = parameter_covariance(N, fixed)
            if mode == 2:
                J = np.ascontiguousarray(rows_of_fit[:m, :n])
                covariance = sandwich(covariance, J, x, y, noise, w, correlation)
            if status == CONVERGED and not np.isfinite(covariance[0, 0]):
                status = SINGULAR
            chi2 = dot(rows_of_fit[m], rows_of_fit[m])
        for k in range(ns):
            for p in range(N_SHAPE):
                fitted[rows[k], p] = own[k, p]
                for q in range(N_SHAPE):
                    blocks[rows[k], p, q] = covariance[N_SHAPE * k + p, N_SHAPE * k + q]
            sky[rows[k]] = polynomial_at(own[k, 1], own[k, 2], frame, coefficients, order)
        numbers[g, 0], numbers[g, 1], numbers[g, 2] = chi2, n, n - n_free
        numbers[g, 3], numbers[g, 4] = iterations, status
