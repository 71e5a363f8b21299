"""Fluxes of many overlapping point sources: one sparse linear system for all of them.

The model is sum_i f_i P_i. The normal matrix A_ij = sum W P_i P_j has an entry for each
pair of stamps that overlap; conjugate gradients with the diagonal as preconditioner solve it.
With equal weights the covariance of the fluxes is A^-1 M A^-1, M_ij = sum W**2 V P_i P_j;
it is taken from the block of a source and its closest neighbours.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit


@njit
def weigh_pixels(image, variance, mask, bad_bits, inverse_variance, out_image, out_weight):
    """Copy an image and set the weights; pixels that do not count get zero in both."""
    ny, nx = image.shape
    for y in range(ny):
        row = image[y]
        row_variance = variance[y]
        row_mask = mask[y]
        for x in range(nx):
            w = _weight(row[x], row_variance[x], row_mask[x], bad_bits, inverse_variance)
            out_image[y, x] = row[x] if w > 0.0 else np.float32(0.0)
            out_weight[y, x] = w


@njit
def _weight(value, variance, bits, bad_bits, inverse_variance):
    """Weight of a pixel: 1 or the inverse of its variance, 0 when it does not count."""
    good = (bits & bad_bits) == 0 and np.isfinite(value) and np.isfinite(variance) and variance >= 0.0
    if not good or (inverse_variance and variance <= 0.0):
        return np.float32(0.0)
    return np.float32(1.0) / variance if inverse_variance else np.float32(1.0)


@njit
def count_pairs(x0, y0, size, counts):
    """Count for every source the later ones whose stamps overlap; ``y0`` ascending.

    Parameters
    ----------
    x0, y0 : (n,) int64 array
        Lower left pixels of the stamps.
    size : int
    counts : (n,) int64 array
        Receives the counts.
    """
    n = x0.size
    for i in range(n):
        found = 0
        for j in range(i + 1, n):
            if y0[j] - y0[i] >= size:
                break
            if abs(x0[j] - x0[i]) < size:
                found += 1
        counts[i] = found


@njit
def fill_system(image, variance, mask, bad_bits, inverse_variance, stamps, x0, y0, offsets, columns, entries, spreads,
                diagonal, right):  # fmt: skip
    """Fill the upper triangle of the normal matrix.

    Parameters
    ----------
    image, variance : (ny, nx) float32 array, mask : (ny, nx) int32 array
    bad_bits : int
        Pixels with one of these bits, or that are not finite, do not count.
    inverse_variance : bool
        Weight pixels with the inverse of their variance, else equally.
    stamps : (n, size, size) float32 array
        PSF image of each source.
    x0, y0 : (n,) int64 array
        Array index of the lower left stamp pixels, ``y0`` ascending.
    offsets : (n + 1,) int64 array
        Running sum of the pair counts.
    columns : (n_pairs,) int64 array
        Receives the second source of each pair.
    entries, spreads : (n_pairs,) float64 array
        Receive A_ij and M_ij.
    diagonal : (n, 2) float64 array
        Receives A_ii and M_ii.
    right : (n,) float64 array
        Receives sum W P_i I.
    """
    n = x0.size
    size = stamps.shape[1]
    ny, nx = image.shape
    weighted, spread = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    clean = np.zeros(size, np.float32)
    for i in range(n):
        first = max(0, -x0[i])
        last = min(size, nx - x0[i])
        low, high = max(0, -y0[i]), min(size, ny - y0[i])
        aa = mm = bb = 0.0
        for r in range(low, high):
            if last <= first:
                break
            y, left, end = y0[i] + r, x0[i] + first, x0[i] + last
            own, own_weighted, own_spread = (
                stamps[i, r, first:last],
                weighted[r, first:last],
                spread[r, first:last],
            )
            _weigh_row(
                own, image[y, left:end], variance[y, left:end], mask[y, left:end], bad_bits, inverse_variance,
                own_weighted, own_spread, clean[first:last],
            )  # fmt: skip
            bb += _dot(own_weighted, clean[first:last])
            a, m = _pair_row(own_weighted, own_spread, own)
            aa += a
            mm += m
        diagonal[i, 0] = aa
        diagonal[i, 1] = mm
        right[i] = bb
        k = offsets[i]
        for j in range(i + 1, n):
            if y0[j] - y0[i] >= size:
                break
            if abs(x0[j] - x0[i]) >= size:
                continue
            left = max(x0[j] - x0[i], first)
            end = min(x0[j] - x0[i] + size, last)
            aa = mm = 0.0
            if end > left:
                dx, dy = x0[j] - x0[i], y0[j] - y0[i]
                for r in range(max(dy, low), high):
                    a, m = _pair_row(
                        weighted[r, left:end], spread[r, left:end], stamps[j, r - dy, left - dx : end - dx]
                    )
                    aa += a
                    mm += m
            columns[k] = j
            entries[k] = aa
            spreads[k] = mm
            k += 1


@njit
def _weigh_row(p, value, variance, bits, bad_bits, inverse_variance, weighted, spread, clean):
    """Fill W P, W**2 V P and the image without pixels that do not count, of one row."""
    zero = np.float32(0.0)
    if inverse_variance:
        for k in range(p.size):
            w = _weight(value[k], variance[k], bits[k], bad_bits, True)
            weighted[k] = w * p[k]
            spread[k] = weighted[k] if w > zero else zero
            clean[k] = value[k] if w > zero else zero
        return
    for k in range(
        p.size
    ):  # without calls and branches, so that it is vectorised; x - x is NaN unless x is finite
        v, x = variance[k], value[k]
        good = ((bits[k] & bad_bits) == 0) & (x - x == zero) & (v - v == zero) & (v >= zero)
        own = p[k] if good else zero
        weighted[k] = own
        spread[k] = own * (v if good else zero)
        clean[k] = x if good else zero


@fast_njit
def _dot(a, b):
    """Sum the products of two rows."""
    total = np.float32(0.0)
    for k in range(a.size):
        total += a[k] * b[k]
    return total


@fast_njit
def _pair_row(weighted, spread, q):
    """Sum W P Q and W**2 V P Q over a row."""
    a = np.float32(0.0)
    m = np.float32(0.0)
    for k in range(q.size):
        a += weighted[k] * q[k]
        m += spread[k] * q[k]
    return a, m


@njit
def multiply(offsets, columns, entries, diagonal, vector, out):
    """Multiply the symmetric matrix (upper triangle and diagonal) with a vector."""
    n = vector.size
    for i in range(n):
        out[i] = diagonal[i, 0] * vector[i]
    for i in range(n):
        total = 0.0
        own = vector[i]
        for k in range(offsets[i], offsets[i + 1]):
            j = columns[k]
            total += entries[k] * vector[j]
            out[j] += entries[k] * own
        out[i] += total


@njit
def solve(offsets, columns, entries, diagonal, right, tolerance, max_iterations):
    """Solve the system by conjugate gradients.

    Parameters
    ----------
    offsets, columns, entries, diagonal, right
        As filled by :func:`fill_system`; sources with a zero diagonal get zero.
    tolerance : float
        Of the residual relative to the right side, in the norm of the preconditioner.
    max_iterations : int

    Returns
    -------
    flux : (n,) float64 array
    iterations : int
    """
    n = right.size
    flux = np.zeros(n)
    inverse = np.zeros(n)
    residual = np.zeros(n)
    for i in range(n):
        if diagonal[i, 0] > 0.0:
            inverse[i] = 1.0 / diagonal[i, 0]
            residual[i] = right[i]
    direction = inverse * residual
    product = np.empty(n)
    norm = (residual * direction).sum()
    goal = norm * tolerance * tolerance
    for iteration in range(max_iterations):
        if not norm > goal:
            return flux, iteration
        multiply(offsets, columns, entries, diagonal, direction, product)
        curvature = (direction * product).sum()
        if not curvature > 0.0:
            return flux, iteration
        step = norm / curvature
        flux += step * direction
        residual -= step * product * (inverse > 0.0)
        scaled = inverse * residual
        new_norm = (residual * scaled).sum()
        direction = scaled + (new_norm / norm) * direction
        norm = new_norm
    return flux, max_iterations


@njit
def _find_entry(offsets, columns, values, i, j):
    if i > j:
        i, j = j, i
    for k in range(offsets[i], offsets[i + 1]):
        if columns[k] == j:
            return values[k]
    return 0.0


@njit
def block_errors(offsets, columns, entries, spreads, diagonal, max_block):
    """Variances of the fluxes from the block of each source and its closest neighbours.

    Parameters
    ----------
    offsets, columns, entries, spreads, diagonal
        As filled by :func:`fill_system`.
    max_block : int
        Largest number of sources in a block.

    Returns
    -------
    variance : (n,) float64 array
        NaN where the source has no pixel or its block is singular.
    overlap : (n,) float64 array
        Largest cosine between the PSF image of the source and another one; 1 for the same place.
    """
    n = diagonal.shape[0]
    variance = np.full(n, np.nan)
    overlap = np.zeros(n)
    best = np.full((n, max_block - 1), -1)
    cosines = np.zeros((n, max_block - 1))
    for i in range(n):
        for k in range(offsets[i], offsets[i + 1]):
            j = columns[k]
            scale = np.sqrt(diagonal[i, 0] * diagonal[j, 0])
            cosine = entries[k] / scale if scale > 0.0 else 0.0
            if cosine > 0.003:
                _insert(best[i], cosines[i], j, cosine)
                _insert(best[j], cosines[j], i, cosine)
    a = np.empty((max_block, max_block))
    m = np.empty((max_block, max_block))
    members = np.empty(max_block, np.int64)
    for i in range(n):
        if not diagonal[i, 0] > 0.0:
            continue
        overlap[i] = cosines[i, 0]
        size = 1
        members[0] = i
        for k in range(max_block - 1):
            if best[i, k] >= 0:
                members[size] = best[i, k]
                size += 1
        for p in range(size):
            a[p, p] = diagonal[members[p], 0]
            m[p, p] = diagonal[members[p], 1]
            for q in range(p):
                a[p, q] = _find_entry(offsets, columns, entries, members[p], members[q])
                m[p, q] = _find_entry(offsets, columns, spreads, members[p], members[q])
                a[q, p] = a[p, q]
                m[q, p] = m[p, q]
        variance[i] = _first_variance(a, m, size)
    return variance, overlap


@njit
def _insert(best, cosines, j, cosine):
    """Insert a neighbour in a list sorted by falling cosine, dropping the last."""
    n = best.size
    if cosine <= cosines[n - 1]:
        return
    k = n - 1
    while k > 0 and cosines[k - 1] < cosine:
        cosines[k] = cosines[k - 1]
        best[k] = best[k - 1]
        k -= 1
    cosines[k] = cosine
    best[k] = j


@njit
def _first_variance(a, m, n):
    """Element (0, 0) of A^-1 M A^-1 by elimination; NaN when A is singular."""
    work = a[:n, :n].copy()
    row = np.zeros(n)
    row[0] = 1.0
    for p in range(n):
        pivot = work[p, p]
        if not pivot > 1e-9 * a[p, p]:
            return np.nan
        for q in range(p + 1, n):
            factor = work[q, p] / pivot
            for k in range(p, n):
                work[q, k] -= factor * work[p, k]
            row[q] -= factor * row[p]
    for p in range(n - 1, -1, -1):
        total = row[p]
        for k in range(p + 1, n):
            total -= work[p, k] * row[k]
        row[p] = total / work[p, p]
    value = 0.0
    for p in range(n):
        for q in range(n):
            value += row[p] * m[p, q] * row[q]
    return value


@njit
def add_models(image, stamps, x0, y0, flux):
    """Add ``flux`` times the stamps to an image; what lies outside is left out."""
    ny, nx = image.shape
    size = stamps.shape[1]
    for i in range(x0.size):
        first = max(0, -x0[i])
        last = min(size, nx - x0[i])
        f = flux[i]
        if f == 0.0 or not np.isfinite(f):
            continue
        for r in range(max(0, -y0[i]), min(size, ny - y0[i])):
            for k in range(first, last):
                image[y0[i] + r, x0[i] + k] += f * stamps[i, r, k]


@njit
def position_steps(residual, weight, stamps, x0, y0, flux, out):
    """Shifts that reduce the residual of each source alone.

    Parameters
    ----------
    residual, weight : (ny, nx) float32 array
        Image less all models; zero weight for pixels that do not count.
    stamps, x0, y0, flux
        As :func:`add_models`.
    out : (n, 2) float64 array
        Receives the shifts in x and y, pixels; zero where they are not determined.
    """
    ny, nx = residual.shape
    n, size, _ = stamps.shape
    for i in range(n):
        out[i, 0] = 0.0
        out[i, 1] = 0.0
        sxx = 0.0
        syy = 0.0
        sxy = 0.0
        bx = 0.0
        by = 0.0
        for r in range(max(1, -y0[i]), min(size - 1, ny - y0[i])):
            y = y0[i] + r
            for k in range(max(1, -x0[i]), min(size - 1, nx - x0[i])):
                w = weight[y, x0[i] + k]
                gx = 0.5 * (stamps[i, r, k - 1] - stamps[i, r, k + 1])
                gy = 0.5 * (stamps[i, r - 1, k] - stamps[i, r + 1, k])
                value = residual[y, x0[i] + k]
                sxx += w * gx * gx
                syy += w * gy * gy
                sxy += w * gx * gy
                bx += w * gx * value
                by += w * gy * value
        det = sxx * syy - sxy * sxy
        if det > 1e-6 * sxx * syy and flux[i] > 0.0:
            out[i, 0] = (bx * syy - by * sxy) / (det * flux[i])
            out[i, 1] = (by * sxx - bx * sxy) / (det * flux[i])
