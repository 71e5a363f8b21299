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
    """Correct Lanczos weights so that a quadratic is interpolated exactly: sum w = 1, sum w t = 0, sum w t^2 = 0.

    Plain Lanczos weights have a second moment of a few thousandths of a pixel squared, which changes the size of a
    well sampled star by a per mille. The correction is ``exp(-t^2 / 2) (c0 + c1 t + c2 t^2)``; it vanishes on a tap.
    """
    g = np.zeros(5)
    m = np.zeros(3)
    for k in range(2 * order):
        t = fraction - (k - order + 1)
        power = math.exp(-0.5 * t * t)
        for i in range(5):
            g[i] += power
            power *= t
        m[0] += weights[k]
        m[1] += weights[k] * t
        m[2] += weights[k] * t * t
    r0, r1, r2 = 1.0 - m[0], -m[1], -m[2]
    # c = inverse of [[g0 g1 g2] [g1 g2 g3] [g2 g3 g4]] times r
    a00, a01, a02 = g[2] * g[4] - g[3] * g[3], g[2] * g[3] - g[1] * g[4], g[1] * g[3] - g[2] * g[2]
    a11, a12, a22 = g[0] * g[4] - g[2] * g[2], g[1] * g[2] - g[0] * g[3], g[0] * g[2] - g[1] * g[1]
    determinant = g[0] * a00 + g[1] * a01 + g[2] * a02
    c0 = (a00 * r0 + a01 * r1 + a02 * r2) / determinant
    c1 = (a01 * r0 + a11 * r1 + a12 * r2) / determinant
    c2 = (a02 * r0 + a12 * r1 + a22 * r2) / determinant
    for k in range(2 * order):
        t = fraction - (k - order + 1)
        weights[k] += math.exp(-0.5 * t * t) * (c0 + c1 * t + c2 * t * t)


@njit
def shift_stack(images, dx, dy, order, out, moments=False):
    """Shift each image of a stack by its own ``(dx, dy)``.

    images : (n, ny, nx); dx, dy : (n,) pixels, positive moves the light to larger x, y; out : as images;
    moments : interpolate quadratics exactly (see :func:`preserve_moments`).
    """
    n, ny, nx = images.shape
    weights = np.empty(2 * order)
    reach = 0.0
    for i in range(n):
        reach = max(reach, max(abs(dx[i]), abs(dy[i])))
    margin = order + int(math.ceil(reach)) + 1
    line = np.zeros(nx + 2 * margin)
    rows = np.zeros((ny + 2 * margin, nx))
    for i in range(n):
        px = -dx[i]
        base = math.floor(px)
        lanczos_weights(px - base, order, weights)
        if moments:
            preserve_moments(px - base, order, weights)
        first = int(base) - order + 1 + margin
        for y in range(ny):
            line[margin : margin + nx] = images[i, y]
            target = rows[margin + y]
            target[:] = 0.0
            for k in range(2 * order):
                _add_scaled(target, weights[k], line[first + k : first + k + nx])
        py = -dy[i]
        base = math.floor(py)
        lanczos_weights(py - base, order, weights)
        if moments:
            preserve_moments(py - base, order, weights)
        first = int(base) - order + 1 + margin
        for y in range(ny):
            target = out[i, y]
            target[:] = 0.0
            for k in range(2 * order):
                _add_scaled(target, weights[k], rows[y + first + k])


@njit
def _add_scaled(target, weight, source):
    """Add ``weight * source`` to a row of the same length."""
    for x in range(target.size):
        target[x] += weight * source[x]


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
