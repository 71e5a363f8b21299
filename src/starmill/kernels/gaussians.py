"""Elliptical Gaussians: drawing them, and their derivatives on a list of pixels.

A source is one row ``(peak, x, y, sigma_major, sigma_minor, theta)``; theta is in
radians, counter-clockwise from +x to the major axis.  With ``(u, v)`` the offset along
the axes and ``a, b`` the variances along them, ``G = peak exp(-(u^2/a + v^2/b) / 2)``.

The derivatives are taken with respect to ``(peak, x, y, a, b, c)`` where ``c`` is the
covariance of the axes frame (zero by construction, so a step in ``c`` turns the
ellipse).  Unlike an angle, ``c`` stays well determined for a round source.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import fast_njit, njit

N_SHAPE = 6
"""Parameters of one source."""


@fast_njit
def exp_minus(t):
    """exp(-t) for t >= 0, relative error below 1e-11 up to t = 20; without a call, so that loops over it vectorise.

    Taylor series of the 256th root, squared eight times. Beyond 64 it stays exp(-64).
    """
    u = min(t, 64.0) * (-1.0 / 256.0)
    p = 1.0 + u * (1.0 + u * (1 / 2 + u * (1 / 6 + u * (1 / 24 + u * (1 / 120 + u * (1 / 720 + u / 5040))))))
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p * p


@fast_njit
def draw_row(row, x_first, dx_dx, dx_dy, dy_dy, peak, x, dy):
    """Add one Gaussian to one image row; ``dx_dx`` ... is the inverse covariance."""
    for i in range(row.size):
        dx = x_first + i - x
        row[i] += peak * exp_minus(0.5 * (dx_dx * dx * dx + 2.0 * dx_dy * dx * dy + dy_dy * dy * dy))


@njit
def inverse_covariance(sigma_major, sigma_minor, theta):
    """Return ``(ixx, ixy, iyy)`` of the inverse covariance of an ellipse."""
    c, s = math.cos(theta), math.sin(theta)
    ia, ib = 1.0 / (sigma_major * sigma_major), 1.0 / (sigma_minor * sigma_minor)
    return c * c * ia + s * s * ib, c * s * (ia - ib), s * s * ia + c * c * ib


@njit
def add_gaussians(image, sources, sign, reach):
    """Add ``sign`` times each source to ``image`` out to ``reach`` sigma (bounding box).

    Parameters
    ----------
    image : (ny, nx) float array, changed in place
    sources : (n, 6) float64
        peak (image unit), x, y, sigma_major, sigma_minor (pixels), theta (radians).
    sign : float
    reach : float
        Half size of the drawn box in units of the standard deviation along each axis.
    """
    ny, nx = image.shape
    for k in range(sources.shape[0]):
        peak, x, y = sources[k, 0] * sign, sources[k, 1], sources[k, 2]
        ixx, ixy, iyy = inverse_covariance(sources[k, 3], sources[k, 4], sources[k, 5])
        det = ixx * iyy - ixy * ixy
        half_x, half_y = reach * math.sqrt(iyy / det), reach * math.sqrt(ixx / det)
        x0, x1 = max(0, math.ceil(x - half_x)), min(nx, math.floor(x + half_x) + 1)
        y0, y1 = max(0, math.ceil(y - half_y)), min(ny, math.floor(y + half_y) + 1)
        if x0 >= x1:
            continue
        for j in range(y0, y1):
            draw_row(image[j, x0:x1], x0, ixx, ixy, iyy, peak, x, j - y)


@fast_njit
def _unit_and_offsets(x, y, xc, yc, cos, sin, a, b, unit, u, v):
    ia, ib = 1.0 / a, 1.0 / b
    for i in range(x.size):
        dx, dy = x[i] - xc, y[i] - yc
        du, dv = (cos * dx + sin * dy) * ia, (cos * dy - sin * dx) * ib
        unit[i], u[i], v[i] = exp_minus(0.5 * (du * du * a + dv * dv * b)), du, dv


@fast_njit
def _shape_rows(peak, cos, sin, unit, rows, model):
    n = unit.size
    for i in range(n):
        g, u, v = peak * unit[i], rows[1, i], rows[2, i]
        rows[3, i], rows[4, i], rows[5, i] = 0.5 * g * u * u, 0.5 * g * v * v, g * u * v
    for i in range(n):
        g, u, v = peak * unit[i], rows[1, i], rows[2, i]
        rows[1, i], rows[2, i] = g * (cos * u - sin * v), g * (sin * u + cos * v)
        model[i] += g


@njit
def derivative_rows(x, y, source, rows, model):
    """Fill six derivative rows of one source and add the source to ``model``.

    Parameters
    ----------
    x, y : (n,) float64
        Pixel positions.
    source : (6,) float64
    rows : (6, >= n) float64, the first n columns are overwritten
        d/d(peak, x, y, a, b, c), see the module text.
    model : (>= n,) float64, added to
    """
    a, b = source[3] * source[3], source[4] * source[4]
    cos, sin = math.cos(source[5]), math.sin(source[5])
    n = x.size
    unit = rows[0, :n]
    _unit_and_offsets(x, y, source[1], source[2], cos, sin, a, b, unit, rows[1, :n], rows[2, :n])
    _shape_rows(source[0], cos, sin, unit, rows, model)


@fast_njit
def add_source(x, y, source, out):
    """Add one source, without a cut, at listed pixels.

    Parameters
    ----------
    x, y, out : (n,) float64
    source : (6,) float64
    """
    ixx, ixy, iyy = inverse_covariance(source[3], source[4], source[5])
    peak, xc, yc = source[0], source[1], source[2]
    for i in range(x.size):
        dx, dy = x[i] - xc, y[i] - yc
        out[i] += peak * exp_minus(0.5 * (ixx * dx * dx + 2.0 * ixy * dx * dy + iyy * dy * dy))


@njit
def move_source(source, step, bounds, home, out):
    """Apply a step in (peak, x, y, a, b, c) and put the result back inside the bounds.

    Parameters
    ----------
    source, out : (6,) float64
        Row before and after.
    step : (6,) float64
    bounds : (5,) float64
        Lowest and highest peak, lowest and highest sigma (pixels), and the largest shift
        from ``home`` in x or y (pixels).
    home : (2,) float64
        Start position.
    """
    out[0] = min(max(source[0] + step[0], bounds[0]), bounds[1])
    max_shift = bounds[4]
    out[1] = min(max(source[1] + step[1], home[0] - max_shift), home[0] + max_shift)
    out[2] = min(max(source[2] + step[2], home[1] - max_shift), home[1] + max_shift)
    a0, b0 = source[3] * source[3], source[4] * source[4]
    # no step more than halves or doubles a size: a longer one leaves the range of the linear model
    a = min(max(a0 + step[3], 0.25 * a0), 4.0 * a0)
    b = min(max(b0 + step[4], 0.25 * b0), 4.0 * b0)
    limit = 0.9 * math.sqrt(a * b)
    c = min(max(step[5], -limit), limit)
    half, mean = 0.5 * (a - b), 0.5 * (a + b)
    root = math.sqrt(half * half + c * c)
    turn = 0.5 * math.atan2(c, half) if root > 0.0 else 0.0
    low, high = bounds[2] * bounds[2], bounds[3] * bounds[3]
    major = math.sqrt(min(max(mean + root, low), high))
    minor = math.sqrt(min(max(mean - root, low), high))
    theta = source[5] + turn
    theta -= math.pi * math.floor((theta + 0.5 * math.pi) / math.pi)
    out[3], out[4], out[5] = major, minor, theta


@njit
def blocked(source, gradient, bounds, home, free, fixed):
    """Mark in ``fixed`` the parameters that are not free or press against a bound.

    ``gradient`` is the descent direction (J^T r); a parameter at its bound whose descent
    points outwards is held in this iteration.
    """
    tiny = 1e-9
    a, b = source[3], source[4]
    low, high, max_shift = bounds[2], bounds[3], bounds[4]
    for j in range(N_SHAPE):
        fixed[j] = not free[j]
    fixed[0] |= (source[0] <= bounds[0] and gradient[0] < 0) or (source[0] >= bounds[1] and gradient[0] > 0)
    for j in range(2):
        offset = source[1 + j] - home[j]
        fixed[1 + j] |= (offset <= -max_shift + tiny and gradient[1 + j] < 0) or (
            offset >= max_shift - tiny and gradient[1 + j] > 0
        )
    for j in range(3, 5):
        size = a if j == 3 else b
        fixed[j] |= (size <= low * (1 + tiny) and gradient[j] < 0) or (
            size >= high * (1 - tiny) and gradient[j] > 0
        )
    # a circle pressed against a size bound from all sides cannot turn
    if fixed[3] and fixed[4] and a - b <= tiny * a:
        fixed[5] = True


def parameter_step_scale(sources):
    """Natural size of a parameter change, for convergence tests, (n, 6)."""
    a, b = sources[:, 3] ** 2, sources[:, 4] ** 2
    return np.stack([np.abs(sources[:, 0]), sources[:, 4], sources[:, 4], a, b, np.sqrt(a * b)], axis=1)
