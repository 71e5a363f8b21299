"""Sub-pixel shifts and oversampled look-ups of small images by Lanczos interpolation.

``out(i) = sum_k w_k(i - d) in(i - d + k)`` with ``w(t) = sinc(t) sinc(t / a)``, taps within ``a`` pixels,
normalised to sum 1; pixels outside an image count as zero (Duchon 1979, J. Appl. Met. 18, 1016).
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit


@njit
def lanczos_weights(fraction, order, weights):
    """Fill ``weights`` (2 order,) for a point ``fraction`` in [0, 1) right of tap ``order - 1``."""
    total = 0.0
    for k in range(2 * order):
        t = fraction - (k - order + 1)
        if abs(t) < 1e-12:
            w = 1.0
        elif abs(t) >= order:
            w = 0.0
        else:
            a = math.pi * t
            w = order * math.sin(a) * math.sin(a / order) / (a * a)
        weights[k] = w
        total += w
    for k in range(2 * order):
        weights[k] /= total


@njit
def preserve_moments(fraction, order, weights):
    """Change Lanczos weights so that a quadratic is interpolated exactly: sum w = 1, sum w t = 0, sum w t^2 = 0.

    Plain Lanczos weights have a second moment of a few thousandths of a pixel squared, which changes the size of a
    well sampled star by a per mille. Each weight is multiplied by ``c0 + c1 t + c2 t^2``.
    """
    m = np.zeros(5)
    for k in range(2 * order):
        t = fraction - (k - order + 1)
        power = weights[k]
        for i in range(5):
            m[i] += power
            power *= t
    # first column of the inverse of [[m0 m1 m2] [m1 m2 m3] [m2 m3 m4]]
    c0 = m[2] * m[4] - m[3] * m[3]
    c1 = m[2] * m[3] - m[1] * m[4]
    c2 = m[1] * m[3] - m[2] * m[2]
    determinant = m[0] * c0 + m[1] * c1 + m[2] * c2
    if abs(determinant) < 1e-20:  # the point is on a tap, all other weights are zero
        return
    for k in range(2 * order):
        t = fraction - (k - order + 1)
        weights[k] *= (c0 + c1 * t + c2 * t * t) / determinant


@njit
def shift_stack(images, dx, dy, order, out, moments=False):
    """Shift each image of a stack by its own ``(dx, dy)``.

    images : (n, ny, nx); dx, dy : (n,) pixels, positive moves the light to larger x, y; out : as images;
    moments : interpolate quadratics exactly (see :func:`preserve_moments`).
    """
    n, ny, nx = images.shape
    weights = np.empty(2 * order)
    rows = np.empty((ny, nx))
    for i in range(n):
        px = -dx[i]
        base = math.floor(px)
        lanczos_weights(px - base, order, weights)
        if moments:
            preserve_moments(px - base, order, weights)
        first = int(base) - order + 1
        for y in range(ny):
            source = images[i, y]
            target = rows[y]
            for x in range(nx):
                target[x] = 0.0
            for k in range(2 * order):
                step = first + k
                w = weights[k]
                for x in range(max(0, -step), min(nx, nx - step)):
                    target[x] += w * source[x + step]
        py = -dy[i]
        base = math.floor(py)
        lanczos_weights(py - base, order, weights)
        if moments:
            preserve_moments(py - base, order, weights)
        first = int(base) - order + 1
        for y in range(ny):
            target = out[i, y]
            for x in range(nx):
                target[x] = 0.0
            for k in range(2 * order):
                row = y + first + k
                if 0 <= row < ny:
                    w = weights[k]
                    source = rows[row]
                    for x in range(nx):
                        target[x] += w * source[x]


@njit
def sample_stack(images, x, y, size, step, order, out, moments=False):
    """Sample each oversampled image on a grid of detector pixels.

    images : (n, m, m), odd m, sampled every ``1 / step`` pixels around its centre; x, y : (n,) position of
    the star relative to the centre of the (size, size) grid, pixels; out : (n, size, size). Each sample is
    the interpolated density times ``step**2``, so that the sum over the grid estimates the sum of the image.
    moments : interpolate quadratics exactly (see :func:`preserve_moments`).
    """
    n, m, _ = images.shape
    half, centre = size // 2, m // 2
    wx = np.empty((size, 2 * order))
    ix = np.empty(size, np.int64)
    wy = np.empty(2 * order)
    rows = np.empty((m, size))
    for i in range(n):
        for p in range(size):
            u = (p - half - x[i]) * step + centre
            base = math.floor(u)
            lanczos_weights(u - base, order, wx[p])
            if moments:
                preserve_moments(u - base, order, wx[p])
            ix[p] = int(base) - order + 1
        for r in range(m):
            source = images[i, r]
            for p in range(size):
                total = 0.0
                for k in range(2 * order):
                    c = ix[p] + k
                    if 0 <= c < m:
                        total += wx[p, k] * source[c]
                rows[r, p] = total
        for q in range(size):
            v = (q - half - y[i]) * step + centre
            base = math.floor(v)
            lanczos_weights(v - base, order, wy)
            if moments:
                preserve_moments(v - base, order, wy)
            first = int(base) - order + 1
            target = out[i, q]
            for p in range(size):
                target[p] = 0.0
            for k in range(2 * order):
                r = first + k
                if 0 <= r < m:
                    w = wy[k] * step * step
                    source = rows[r]
                    for p in range(size):
                        target[p] += w * source[p]
