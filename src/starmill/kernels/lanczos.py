"""Sub-pixel shifts and oversampled look-ups of small images by Lanczos interpolation.

``out(i) = sum_k w_k(i - d) in(i - d + k)`` with ``w(t) = sinc(t) sinc(t / a)``, taps within ``a`` pixels,
normalised to sum 1; pixels outside an image count as zero (Duchon 1979, J. Appl. Met. 18, 1016).
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.vector_sums import LANES, mix_runs


@njit
def lanczos_weights(fraction, order, weights):
    """Fill ``weights`` (2 order,) for a point ``fraction`` in [0, 1) right of tap ``order - 1``."""
    total = 0.0
    sine = math.sin(math.pi * fraction)  # of every tap, with alternating sign
    for k in range(2 * order):
        t = fraction - (k - order + 1)
        if abs(t) < 1e-12:
            w = 1.0
        elif abs(t) >= order:
            w = 0.0
        else:
            a = math.pi * t
            w = order * sine * math.sin(a / order) / (a * a)
            w = w if (k - order + 1) % 2 == 0 else -w
        weights[k] = w
        total += w
    for k in range(2 * order):
        weights[k] /= total


_KAISER_BETA = 6.8  # ripple below 1e-3 up to 0.3 cycles per sample for a half width of five
_BESSEL_TERMS = 1.0 / np.cumprod(np.concatenate([[1.0], np.arange(1.0, 23.0)])) ** 2  # enough up to 6.8
_BESSEL_TERMS.flags.writeable = False


@njit
def kaiser_weights(fraction, order, weights):
    """Fill ``weights`` as :func:`lanczos_weights` does, with a Kaiser window in place of the wide sinc.

    A well sampled star changes its size by 1e-4 when it is shifted by half a pixel, against 1.6e-3 with Lanczos
    weights of the same half width (Kaiser & Schafer 1980, IEEE Trans. ASSP 28, 105).
    """
    total = 0.0
    sine = math.sin(math.pi * fraction) / math.pi
    for k in range(2 * order):
        t = fraction - (k - order + 1)
        w = 0.0
        if abs(t) < 1e-12:
            w = 1.0
        elif abs(t) < order:
            w = sine / t
            w = w if (k - order + 1) % 2 == 0 else -w
        u = 1.0 - (t / order) ** 2
        w *= _bessel_i0(_KAISER_BETA**2 * max(u, 0.0))
        weights[k] = w
        total += w
    for k in range(2 * order):
        weights[k] /= total


@njit
def _bessel_i0(square):
    """Return the modified Bessel function of order zero of the root of ``square``, which is at most 6.8**2."""
    quarter = 0.25 * square
    total = 0.0
    for k in range(_BESSEL_TERMS.size - 1, -1, -1):
        total = total * quarter + _BESSEL_TERMS[k]
    return total


@njit
def interpolation_weights(fraction, order, kaiser, weights):
    """Fill ``weights`` with Kaiser or Lanczos weights."""
    if kaiser:
        kaiser_weights(fraction, order, weights)
    else:
        lanczos_weights(fraction, order, weights)


SHIFT_ORDER = 5  # half width of the interpolation by which images are shifted
_TAPS = 2 * SHIFT_ORDER


@njit
def shift_stack(images, dx, dy, out, kaiser=False):
    """Shift each image of a stack by its own ``(dx, dy)``.

    images : (n, ny, nx); dx, dy : (n,) pixels, positive moves the light to larger x, y; out : as images;
    kaiser : see :func:`kaiser_weights`.
    """
    n, ny, nx = images.shape
    plane, rows, gap, pitch = _shift_room(ny, nx, dx, dy)
    weights = np.empty(_TAPS)
    for i in range(n):
        for y in range(ny):
            place = gap + y * pitch
            source = images[i, y]
            for x in range(nx):
                plane[place + x] = source[x]
        _shift_plane(plane, gap, pitch, dx[i], dy[i], kaiser, rows, weights, out, i)


@njit
def spread_rows(images):
    """Return images laid out as :func:`combine_and_shift` needs them, with zeros between the rows: (k, ny * pitch)."""
    n, ny, nx = images.shape
    none = np.zeros(1)
    pitch = _shift_room(ny, nx, none, none)[3]
    out = np.zeros((n, ny * pitch))
    for i in range(n):
        for y in range(ny):
            for x in range(nx):
                out[i, y * pitch + x] = images[i, y, x]
    return out


@njit
def combine_and_shift(planes, coefficients, dx, dy, out, kaiser=False):
    """Shift the sum of images times the coefficients of each star by its own ``(dx, dy)``.

    Parameters
    ----------
    planes : (k, ny * pitch) float64
        Images of the shape of those of ``out``, from :func:`spread_rows`.
    coefficients : (n, k) float64
    dx, dy : (n,) float64, pixel
        Positive moves the light to larger x, y; within one pixel.
    out : (n, ny, nx) float64
        Output.
    kaiser : bool
        See :func:`kaiser_weights`.
    """
    _, ny, nx = out.shape
    none = np.zeros(1)
    plane, rows, gap, pitch = _shift_room(ny, nx, none, none)
    weights = np.empty(_TAPS)
    flat = planes.ravel()
    target = plane[gap : gap + planes.shape[1]]
    for i in range(dx.size):
        _combine(flat, coefficients[i], target)
        _shift_plane(plane, gap, pitch, dx[i], dy[i], kaiser, rows, weights, out, i)


@fast_njit
def _combine(planes, coefficients, target):
    """Fill ``target`` with the sum of planes of its size times ``coefficients``, two planes at a time."""
    size = np.uint64(target.size)
    k = np.uint64(coefficients.size % 2)
    a = coefficients[0]
    for t in range(size):
        target[t] = a * planes[t] if k else 0.0
    while k < np.uint64(coefficients.size):
        a, b = coefficients[k], coefficients[k + np.uint64(1)]
        first = k * size
        second = first + size
        for t in range(size):
            target[t] += a * planes[first + t] + b * planes[second + t]
        k += np.uint64(2)


@njit
def _shift_room(ny, nx, dx, dy):
    """Return zeroed scratch planes for :func:`_shift_plane`, the zeros before the first row and the length of a row.

    Rows are whole cache lines apart.
    """
    reach = 0.0
    for i in range(dx.size):
        reach = max(reach, abs(dx[i]), abs(dy[i]))
    gap = (SHIFT_ORDER + int(reach) + 8) // 8 * 8
    pitch = (nx + gap + 7) // 8 * 8
    room = (ny + 2 * gap) * pitch + LANES
    return np.zeros(room), np.zeros(room), gap, pitch


@njit
def _shift_plane(plane, gap, pitch, dx, dy, kaiser, rows, weights, out, i):
    """Shift one image, laid out in ``plane`` with zeros between the rows, before the first and behind the last one.

    With zeros between the rows one pass over the whole plane filters all rows. ``i`` is the place of the image in the
    stack ``out``, which must be filled in order.
    """
    _, ny, nx = out.shape
    base = math.floor(-dx)
    interpolation_weights(-dx - base, SHIFT_ORDER, kaiser, weights)
    mix_runs(plane, gap + int(base) - SHIFT_ORDER + 1, 1, weights, _TAPS, rows, gap * pitch, ny * pitch)
    base = math.floor(-dy)
    interpolation_weights(-dy - base, SHIFT_ORDER, kaiser, weights)
    first = (gap + int(base) - SHIFT_ORDER + 1) * pitch
    place = i * ny * nx
    flat = out.ravel()
    for y in range(ny):
        if place + nx + LANES <= out.size:  # what is written behind the row is overwritten by the next one
            mix_runs(rows, first, pitch, weights, _TAPS, flat, place, nx)
        else:
            line = np.empty(nx + LANES)
            mix_runs(rows, first, pitch, weights, _TAPS, line, 0, nx)
            for x in range(nx):
                out[i, y, x] = line[x]
        first += pitch
        place += nx


@njit
def sample_stack(images, x, y, size, step, order, out, kaiser=False):
    """Sample each oversampled image on a grid of detector pixels.

    images : (n, m, m), odd m, sampled every ``1 / step`` pixels around its centre; x, y : (n,) position of
    the star relative to the centre of the (size, size) grid, pixels; out : (n, size, size). Each sample is
    the interpolated density times ``step**2``, so that the sum over the grid estimates the sum of the image.
    kaiser : see :func:`kaiser_weights`.
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
            interpolation_weights(u - base, order, kaiser, wx[p])
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
            interpolation_weights(v - base, order, kaiser, wy)
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


@njit
def fill_sampling_matrices(offset, step, order, matrices):
    """Fill the matrices that sample a grid of ``step`` points per pixel at the pixels of each star.

    Parameters
    ----------
    offset : (n,) float64, pixel
        Star from the centre of the central pixel along this axis.
    step, order : int
        Grid points per pixel; half width of the Kaiser-windowed kernel.
    matrices : (n, size, grid) float32
        Output, zero where the kernel does not reach.
    """
    n, size, grid = matrices.shape
    weights = np.empty(2 * order)
    for k in range(n):
        base = math.floor(-offset[k] * step)
        kaiser_weights(-offset[k] * step - base, order, weights)
        first = int(base) - order + 1 + grid // 2 - (size // 2) * step
        for i in range(size):
            row = matrices[k, i]
            for g in range(grid):
                row[g] = 0.0
            for j in range(2 * order):
                g = first + i * step + j
                if 0 <= g < grid:
                    row[g] = weights[j] * step
