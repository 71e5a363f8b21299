"""Pieces of the background of a box: clipping, masks of sources, filling of gaps, polynomials of all orders.

The polynomial of total order ``n`` has the terms u^i v^j, i + j <= n, sorted by i + j, in scaled coordinates
u = (x - x0) / scale, v = (y - y0) / scale; a lower order is then the first part of a higher one.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.cholesky import cholesky, dot

NMSE, REDCHI, BIC = 0, 1, 2


@njit
def clip_sorted(values, n_sigma, n_iterations):
    """Clip sorted values around their median; returns the first one that is kept and the first after the last.

    Parameters
    ----------
    values : (n,) float64
        In ascending order, finite.
    n_sigma : float
        Half width of what is kept in standard deviations (about the mean) of what is left.
    n_iterations : int
    """
    n = values.size
    first, last = 0, n
    if n == 0:
        return first, last
    zero = values[n // 2]  # sums around the median keep their digits
    total, squares = np.empty(n + 1), np.empty(n + 1)
    total[0] = squares[0] = 0.0
    for i in range(n):
        v = values[i] - zero
        total[i + 1], squares[i + 1] = total[i] + v, squares[i] + v * v
    for _ in range(n_iterations):
        count = last - first
        mean = (total[last] - total[first]) / count
        variance = max((squares[last] - squares[first]) / count - mean * mean, 0.0)
        middle = 0.5 * (values[first + (count - 1) // 2] + values[first + count // 2])
        limit = n_sigma * math.sqrt(variance)
        a, b = first, last
        while a < b and abs(values[a] - middle) > limit:
            a += 1
        while b > a and abs(values[b - 1] - middle) > limit:
            b -= 1
        if b - a == count or a == b:
            break
        first, last = a, b
    return first, last


@njit
def count_above(shape, source, limit, room):
    """Pixels of an image in which a Gaussian exceeds exp(-limit / 2) of its peak.

    ``room`` (4,) takes the first and last row and column; returns the number.
    """
    ny, nx = shape
    reach = source[3] * math.sqrt(limit) + 1.0
    c, s = math.cos(source[5]), math.sin(source[5])
    n = 0
    room[0], room[1], room[2], room[3] = ny, -1, nx, -1
    for j in range(max(0, int(source[2] - reach)), min(ny, int(source[2] + reach) + 2)):
        for i in range(max(0, int(source[1] - reach)), min(nx, int(source[1] + reach) + 2)):
            dx, dy = i - source[1], j - source[2]
            u, v = (c * dx + s * dy) / source[3], (c * dy - s * dx) / source[4]
            if u * u + v * v < limit:
                n += 1
                room[0], room[1] = min(room[0], j), max(room[1], j)
                room[2], room[3] = min(room[2], i), max(room[3], i)
    return n


@njit
def cut_out(free, sources, status, level, most, longest):
    """Clear ``free`` where a fitted Gaussian exceeds ``level`` of its peak.

    Parameters
    ----------
    free : (ny, nx) bool, changed in place
    sources : (n, 6) float64
        See :mod:`starmill.kernels.gaussians`.
    status : (n,) int
        Sources of status 2 and more, and those without a positive peak, are left alone.
    level : float
        Doubled for a source until it masks at most the part ``most`` of the image and is at most ``longest``
        pixels long (diagonal of its bounding box); a level above one masks nothing.
    most, longest : float
    """
    ny, nx = free.shape
    room = np.empty(4, np.int64)
    for k in range(sources.shape[0]):
        if status[k] >= 2 or not sources[k, 0] > 0.0:
            continue
        mine = level
        while mine <= 1.0:
            limit = -2.0 * math.log(mine)
            n = count_above((ny, nx), sources[k], limit, room)
            length = math.hypot(room[1] - room[0] + 1.0, room[3] - room[2] + 1.0) if n > 0 else 0.0
            if n <= most * ny * nx and length <= longest:
                break
            mine *= 2.0
        if mine > 1.0:
            continue
        limit = -2.0 * math.log(mine)
        if count_above((ny, nx), sources[k], limit, room) == 0:
            continue
        c, s = math.cos(sources[k, 5]), math.sin(sources[k, 5])
        for j in range(room[0], room[1] + 1):
            for i in range(room[2], room[3] + 1):
                dx, dy = i - sources[k, 1], j - sources[k, 2]
                u, v = (c * dx + s * dy) / sources[k, 3], (c * dy - s * dx) / sources[k, 4]
                if u * u + v * v < limit:
                    free[j, i] = False


@njit
def fill_gaps(image, widths, filled):
    """Replace NaN by the Gaussian mean of what is around; outside of the image counts as zero.

    Parameters
    ----------
    image : (ny, nx) float64
    widths : (n,) float64
        Standard deviations to try; the first one that reaches every gap is used.
    filled : (ny, nx) float64
        Copy of ``image``; its gaps are filled, or stay when no width reaches all of them.
    """
    ny, nx = image.shape
    ys, xs = np.nonzero(np.isnan(image))
    found = np.empty(ys.size)
    for width in widths:
        half = int(8 * width) // 2
        profile = np.empty(2 * half + 1)
        for k in range(2 * half + 1):
            profile[k] = math.exp(-0.5 * ((k - half) / width) ** 2)
        complete = True
        for p in range(ys.size):
            total, weight = 0.0, 0.0
            for dj in range(-half, half + 1):
                j = ys[p] + dj
                inner, known = 0.0, 0.0
                for di in range(-half, half + 1):
                    i = xs[p] + di
                    if j < 0 or j >= ny or i < 0 or i >= nx:
                        known += profile[di + half]
                    elif not math.isnan(image[j, i]):
                        known += profile[di + half]
                        inner += profile[di + half] * image[j, i]
                total += profile[dj + half] * inner
                weight += profile[dj + half] * known
            if weight <= 1e-12:
                complete = False
                break
            found[p] = total / weight
        if complete:
            for p in range(ys.size):
                filled[ys[p], xs[p]] = found[p]
            return


@njit
def terms_of(order):
    """Return the number of terms up to a total order."""
    return (order + 1) * (order + 2) // 2


@njit
def fill_terms(u, v, order, out):
    """Values of all terms at one point."""
    out[0] = 1.0
    k = 1
    for total in range(1, order + 1):
        for _ in range(total):
            out[k] = u * out[k - total]
            k += 1
        out[k] = v * out[k - total - 1]
        k += 1


@fast_njit
def term_rows(x, y, order, frame, rows):
    """Fill one row for each term with its values at listed points."""
    x0, y0, unit = frame[0], frame[1], 1.0 / frame[2]
    for i in range(x.size):
        rows[0, i] = 1.0
    k = 1
    for total in range(1, order + 1):
        for j in range(total + 1):
            before = rows[k - total] if j < total else rows[k - total - 1]
            row = rows[k]
            if j < total:
                for i in range(x.size):
                    row[i] = (x[i] - x0) * unit * before[i]
            else:
                for i in range(x.size):
                    row[i] = (y[i] - y0) * unit * before[i]
            k += 1


@njit
def list_values(image, xs, ys, values):
    """List the finite pixels; returns how many."""
    n = 0
    for j in range(image.shape[0]):
        for i in range(image.shape[1]):
            if math.isfinite(image[j, i]):
                xs[n], ys[n], values[n] = i, j, image[j, i]
                n += 1
    return n


@njit
def list_shared(part, shared, out):
    """List x, y and value of the pixels of ``part`` that are finite in both pieces; returns how many."""
    n = 0
    for j in range(part.shape[0]):
        for i in range(part.shape[1]):
            if math.isfinite(part[j, i]) and math.isfinite(shared[j, i]):
                out[0, n], out[1, n], out[2, n] = i, j, part[j, i]
                n += 1
    return n


@fast_njit
def add_scaled(row, factor, other):
    """Add a multiple of one row to another."""
    for i in range(row.size):
        row[i] += factor * other[i]


@njit
def score(rest, n_terms, power, n, kind):
    """Score of the residuals ``rest`` of a fit of ``n_terms`` to ``n`` values of mean square ``power``."""
    if rest.size == 0:
        return np.inf
    total, squares = 0.0, 0.0
    for value in rest:
        total += value
        squares += value * value
    mean_square = squares / rest.size
    if kind == NMSE:
        return mean_square / (power + 1e-12)
    if kind == BIC:
        return n * math.log(max(mean_square, 1e-300)) + n_terms * math.log(n)
    variance = max(mean_square - (total / rest.size) ** 2, 0.0)
    spread = math.sqrt(variance) if variance > 0.0 else 1e-10
    return squares / spread**2 / max(n - n_terms, 1)


@njit
def fit_orders(x, y, values, low, high, orders, frame, part, shared, kind, coefficients, scores):
    """Least-squares polynomials of several total orders to the same values, and their scores.

    Parameters
    ----------
    x, y, values : (n,) float64
    low, high : float
        Values outside are left out.
    orders : (k,) int64
    frame : (3,) float64
        x0, y0 and scale of the coordinates.
    part, shared : (ny, nx) float64
        Data, and the piece that says with it which pixels are scored: both must be finite there. The polynomial is
        counted from their first pixel.
    kind : int
        ``NMSE``, ``REDCHI`` or ``BIC``.
    coefficients : (k, terms of the highest order) float64, filled
    scores : (k,) float64, filled
        Infinity for an order that the values do not fix.
    """
    highest = 0
    for order in orders:
        highest = max(highest, order)
    m = terms_of(highest)
    kept = np.empty((3, values.size))
    n = 0
    for i in range(values.size):
        if low <= values[i] <= high:
            kept[0, n], kept[1, n], kept[2, n] = x[i], y[i], values[i]
            n += 1
    rows = np.empty((m, max(n, part.size)))
    term_rows(kept[0, :n], kept[1, :n], highest, frame, rows)
    A, b = np.empty((m, m)), np.empty(m)
    for p in range(m):
        b[p] = dot(rows[p, :n], kept[2, :n])
        for q in range(p + 1):
            A[p, q] = dot(rows[p, :n], rows[q, :n])
    power = dot(kept[2, :n], kept[2, :n]) / max(n, 1)
    there = np.empty((3, part.size))
    n_there = list_shared(part, shared, there)
    term_rows(there[0, :n_there], there[1, :n_there], highest, frame, rows)
    rest = np.empty(n_there)
    for k in range(orders.size):
        t = terms_of(orders[k])
        scores[k] = np.inf
        if n < t:
            continue
        L = np.empty((t, t))
        for p in range(t):
            coefficients[k, p] = b[p]
            for q in range(p + 1):
                L[p, q] = A[p, q]
        if not cholesky(L):
            continue
        for p in range(t):
            for q in range(p):
                coefficients[k, p] -= L[p, q] * coefficients[k, q]
            coefficients[k, p] /= L[p, p]
        for p in range(t - 1, -1, -1):
            for q in range(p + 1, t):
                coefficients[k, p] -= L[q, p] * coefficients[k, q]
            coefficients[k, p] /= L[p, p]
        for i in range(n_there):
            rest[i] = -there[2, i]
        for p in range(t):
            add_scaled(rest, coefficients[k, p], rows[p, :n_there])
        scores[k] = score(rest, t, power, n, kind)


@njit
def add_polynomial(image, order, frame, coefficients):
    """Add a polynomial to an image."""
    term = np.empty(terms_of(order))
    for j in range(image.shape[0]):
        for i in range(image.shape[1]):
            fill_terms((i - frame[0]) / frame[2], (j - frame[1]) / frame[2], order, term)
            for p in range(term.size):
                image[j, i] += coefficients[p] * term[p]
