"""Cholesky factors A = L L^T of small dense matrices, and rows solved with them.

The inner products run over four rows at a time, so that every loaded value of L serves four sums.  For the
many solutions with one factor the rows are padded with zeros to a multiple of eight, which spares the
remainder loops that would otherwise cost more than the work.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import fast_njit, njit

PAD = 8
"""Padded rows have a multiple of this many values; the expression ``(n + 7) & -8`` below says the same to the compiler."""


@fast_njit
def dot(a, b):
    """Inner product of two contiguous rows."""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@fast_njit
def _four_rows(L, width, B, first, last, inverse):
    """Columns 0..last of four rows of the factor: x_j = (x_j - L_j . x) / L_jj."""
    r0, r1, r2, r3 = (
        np.uint64(first * width), np.uint64((first + 1) * width), np.uint64((first + 2) * width),
        np.uint64((first + 3) * width),
    )  # fmt: skip
    for j in range(last):
        row = np.uint64(j * width)
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for i in range(j):
            k = np.uint64(i)
            v = L[row + k]
            s0 += v * B[r0 + k]
            s1 += v * B[r1 + k]
            s2 += v * B[r2 + k]
            s3 += v * B[r3 + k]
        k, d = np.uint64(j), inverse[j]
        B[r0 + k] = (B[r0 + k] - s0) * d
        B[r1 + k] = (B[r1 + k] - s1) * d
        B[r2 + k] = (B[r2 + k] - s2) * d
        B[r3 + k] = (B[r3 + k] - s3) * d


@fast_njit
def _one_row(L, width, B, which, first, last, inverse):
    """Columns first..last of one row of the factor."""
    r = np.uint64(which * width)
    for j in range(first, last):
        row = np.uint64(j * width)
        s = 0.0
        for i in range(j):
            s += L[row + np.uint64(i)] * B[r + np.uint64(i)]
        B[r + np.uint64(j)] = (B[r + np.uint64(j)] - s) * inverse[j]


@fast_njit
def _square_of(B, start, n):
    total = 0.0
    for i in range(n):
        value = B[np.uint64(start + i)]
        total += value * value
    return total


@njit
def cholesky(A):
    """Lower Cholesky factor of a contiguous matrix in place; False when it is not positive definite.

    Only the lower triangle is read and written.
    """
    n = A.shape[0]
    B, inverse = A.reshape(n * n), np.empty(n)
    for first in range(0, n, 4):
        end = min(first + 4, n)
        if end - first == 4:
            _four_rows(B, n, B, first, first, inverse)
        else:
            for i in range(first, end):
                _one_row(B, n, B, i, 0, first, inverse)
        for i in range(first, end):
            _one_row(B, n, B, i, first, i, inverse)
            pivot = B[i * n + i] - _square_of(B, i * n, i)
            if not pivot > 0.0:
                return False
            B[i * n + i] = math.sqrt(pivot)
            inverse[i] = 1.0 / B[i * n + i]
    return True


@njit
def solve_with_factor(L, b):
    """Solve L L^T x = b."""
    x = b.copy()
    n = x.size
    for i in range(n):
        for j in range(i):
            x[i] -= L[i, j] * x[j]
        x[i] /= L[i, i]
    for i in range(n - 1, -1, -1):
        x[i] /= L[i, i]
        for j in range(i):
            x[j] -= L[i, j] * x[i]
    return x


@njit
def padded_width(n):
    """Values of a padded row."""
    return (n + PAD - 1) // PAD * PAD


@njit
def padded_factor(L):
    """Return (rows of L below its diagonal, padded with zeros, as one flat array; one over the diagonal)."""
    n = L.shape[0]
    width = padded_width(n)
    out, inverse = np.zeros(n * width), np.empty(n)
    for i in range(n):
        for j in range(i):
            out[i * width + j] = L[i, j]
        inverse[i] = 1.0 / L[i, i]
    return out, inverse


@fast_njit
def _substitute_four(L, width, rows, first, inverse):
    r0, r1, r2, r3 = (
        np.uint64(first * width), np.uint64((first + 1) * width), np.uint64((first + 2) * width),
        np.uint64((first + 3) * width),
    )  # fmt: skip
    for j in range(inverse.size):
        row = np.uint64(j * width)
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for i in range((j + 7) & -8):
            k = np.uint64(i)
            v = L[row + k]
            s0 += v * rows[r0 + k]
            s1 += v * rows[r1 + k]
            s2 += v * rows[r2 + k]
            s3 += v * rows[r3 + k]
        k, d = np.uint64(j), inverse[j]
        rows[r0 + k] = (rows[r0 + k] - s0) * d
        rows[r1 + k] = (rows[r1 + k] - s1) * d
        rows[r2 + k] = (rows[r2 + k] - s2) * d
        rows[r3 + k] = (rows[r3 + k] - s3) * d


@fast_njit
def _substitute_one(L, width, rows, which, inverse):
    r = np.uint64(which * width)
    for j in range(inverse.size):
        row = np.uint64(j * width)
        s = 0.0
        for i in range((j + 7) & -8):
            s += L[row + np.uint64(i)] * rows[r + np.uint64(i)]
        rows[r + np.uint64(j)] = (rows[r + np.uint64(j)] - s) * inverse[j]


@njit
def substitute_rows(L, inverse, rows, first, last):
    """Replace rows first..last by L^-1 row.

    Parameters
    ----------
    L, inverse
        Of :func:`padded_factor`.
    rows : flat float64 array, changed in place
        Padded rows, one after the other; what stands in the padding must be finite and stays.
    first, last : int
    """
    width = padded_width(inverse.size)
    while first + 4 <= last:
        _substitute_four(L, width, rows, first, inverse)
        first += 4
    for which in range(first, last):
        _substitute_one(L, width, rows, which, inverse)


@fast_njit
def _row_product(rows, a, b, n):
    total = 0.0
    for i in range((n + 7) & -8):
        total += rows[np.uint64(a + i)] * rows[np.uint64(b + i)]
    return total


@njit
def gram(rows, width, n_rows, N):
    """Fill the lower triangle of ``N`` with the inner products of padded rows whose padding is zero."""
    for p in range(n_rows):
        for q in range(p + 1):
            N[p, q] = _row_product(rows, p * width, q * width, width)


@njit
def solve_positive(matrix, vector, n, out):
    """Solve ``matrix out = vector`` for the first ``n`` unknowns; False when the matrix is not positive definite.

    The plain algorithm, for a few unknowns; the factor replaces the lower triangle of the matrix, all that is read.
    """
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                matrix[i, i] = np.sqrt(total)
            else:
                matrix[i, j] = total / matrix[j, j]
    for i in range(n):
        total = vector[i]
        for k in range(i):
            total -= matrix[i, k] * out[k]
        out[i] = total / matrix[i, i]
    for i in range(n - 1, -1, -1):
        total = out[i]
        for k in range(i + 1, n):
            total -= matrix[k, i] * out[k]
        out[i] = total / matrix[i, i]
    return True
