r"""Exact area that a pixel shares with a circle or an ellipse.

In one quadrant a circle is a falling arc. A pixel that it crosses is covered by a
polygon under the chord between entry and exit, and by the circular segment between
chord and arc, whose area for a chord of length c = 2 r u is
r\ :sup:`2` (asin u - u sqrt(1 - u\ :sup:`2`)). Pixels on an axis are cut into
halves. An ellipse is mapped on the unit circle, where a pixel is a parallelogram.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source

SMALL_AXIS = 1.0  # pixels; an ellipse of larger semi-axes is wider than the diagonal of a pixel


@njit
def circle_segment(u, r):
    """Area between a chord of half length ``u * r`` and its (smaller) arc."""
    u2 = u * u
    if u2 < 0.02:  # series of asin u - u sqrt(1 - u**2): relative error below 1e-11
        tail = 5.0 / 72.0 + u2 * (35.0 / 704.0 + u2 * (63.0 / 1664.0))
        return r * r * u * u2 * (2.0 / 3.0 + u2 * (0.2 + u2 * (3.0 / 28.0 + u2 * tail)))
    u = min(u, 1.0)
    return r * r * (np.arcsin(u) - u * np.sqrt(max(1.0 - u2, 0.0)))


@njit
def quadrant_overlap(x0, x1, y0, y1, r):
    """Area of [x0, x1] x [y0, y1], all >= 0, inside the circle of radius r at the origin."""
    r2 = r * r
    if x0 * x0 + y0 * y0 >= r2:
        return 0.0
    if x1 * x1 + y1 * y1 <= r2:
        return (x1 - x0) * (y1 - y0)
    if x0 * x0 + y1 * y1 < r2:  # the arc comes in through the top
        ax = np.sqrt(r2 - y1 * y1)
        ay = y1
    else:  # through the left side
        ax = x0
        ay = np.sqrt(r2 - x0 * x0)
    if x1 * x1 + y0 * y0 < r2:  # it leaves through the right side
        bx = x1
        by = np.sqrt(r2 - x1 * x1)
    else:  # through the bottom
        bx = np.sqrt(r2 - y0 * y0)
        by = y0
    area = (ax - x0) * (y1 - y0) + 0.5 * (bx - ax) * (ay + by - 2.0 * y0)
    chord = np.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
    return area + circle_segment(0.5 * chord / r, r)


@njit
def _column_overlap(x0, x1, y0, y1, r):
    """As :func:`quadrant_overlap` for x >= 0 and any y."""
    if y0 >= 0.0:
        return quadrant_overlap(x0, x1, y0, y1, r)
    if y1 <= 0.0:
        return quadrant_overlap(x0, x1, -y1, -y0, r)
    return quadrant_overlap(x0, x1, 0.0, -y0, r) + quadrant_overlap(x0, x1, 0.0, y1, r)


@njit
def circle_overlap(dx, dy, r):
    """Area of the unit pixel centred at (dx, dy) inside the circle of radius r at the origin."""
    x0 = dx - 0.5
    x1 = dx + 0.5
    y0 = dy - 0.5
    y1 = dy + 0.5
    if x0 >= 0.0:
        return _column_overlap(x0, x1, y0, y1, r)
    if x1 <= 0.0:
        return _column_overlap(-x1, -x0, y0, y1, r)
    return _column_overlap(0.0, -x0, y0, y1, r) + _column_overlap(0.0, x1, y0, y1, r)


@njit
def _edge_term(px, py, qx, qy):
    """Signed area of the triangle (origin, p, q) inside the unit circle."""
    dx = qx - px
    dy = qy - py
    a = dx * dx + dy * dy
    if a == 0.0:
        return 0.0
    b = px * dx + py * dy
    c = px * px + py * py - 1.0
    disc = b * b - a * c
    if disc <= 0.0:
        return 0.5 * np.arctan2(px * qy - py * qx, px * qx + py * qy)
    root = np.sqrt(disc)
    t0 = (-b - root) / a
    t1 = (-b + root) / a
    if t1 <= 0.0 or t0 >= 1.0:
        return 0.5 * np.arctan2(px * qy - py * qx, px * qx + py * qy)
    t0 = max(t0, 0.0)
    t1 = min(t1, 1.0)
    ux = px + t0 * dx
    uy = py + t0 * dy
    vx = px + t1 * dx
    vy = py + t1 * dy
    area = 0.5 * (ux * vy - uy * vx)
    if t0 > 0.0:
        area += 0.5 * np.arctan2(px * uy - py * ux, px * ux + py * uy)
    if t1 < 1.0:
        area += 0.5 * np.arctan2(vx * qy - vy * qx, vx * qx + vy * qy)
    return area


@njit
def ellipse_overlap(dx, dy, a, b, cos_t, sin_t):
    """Area of the unit pixel centred at (dx, dy) inside an ellipse at the origin.

    Parameters
    ----------
    dx, dy : float
        Pixel minus ellipse centre.
    a, b : float
        Semi-axes, pixels.
    cos_t, sin_t : float
        Direction of the semi-axis ``a``, counter-clockwise from +x.
    """
    ux = cos_t / a
    uy = sin_t / a
    vx = -sin_t / b
    vy = cos_t / b
    x0 = (dx - 0.5) * ux + (dy - 0.5) * uy
    y0 = (dx - 0.5) * vx + (dy - 0.5) * vy
    x1 = x0 + ux
    y1 = y0 + vx
    x2 = x1 + uy
    y2 = y1 + vy
    x3 = x0 + uy
    y3 = y0 + vy
    in0 = x0 * x0 + y0 * y0 <= 1.0
    in1 = x1 * x1 + y1 * y1 <= 1.0
    in2 = x2 * x2 + y2 * y2 <= 1.0
    in3 = x3 * x3 + y3 * y3 <= 1.0
    if in0 and in1 and in2 and in3:
        return 1.0
    if min(a, b) >= SMALL_AXIS:
        area = _cut_parallelogram(x0, y0, in0, x1, y1, in1, x2, y2, in2, x3, y3, in3)
    else:
        area = _edge_term(x0, y0, x1, y1) + _edge_term(x1, y1, x2, y2)
        area += _edge_term(x2, y2, x3, y3) + _edge_term(x3, y3, x0, y0)
    return min(max(area * a * b, 0.0), 1.0)


@njit
def _inner_part(px, py, p_in, qx, qy, q_in):
    """Return whether the way from p to q meets the unit disc, and the two ends of the part inside."""
    if p_in and q_in:
        return True, px, py, qx, qy
    dx = qx - px
    dy = qy - py
    a = dx * dx + dy * dy
    b = px * dx + py * dy
    disc = b * b - a * (px * px + py * py - 1.0)
    if disc <= 0.0 or a == 0.0:
        return False, 0.0, 0.0, 0.0, 0.0
    root = np.sqrt(disc)
    t0 = 0.0 if p_in else (-b - root) / a
    t1 = 1.0 if q_in else (-b + root) / a
    if t1 <= 0.0 or t0 >= 1.0:
        return False, 0.0, 0.0, 0.0, 0.0
    t0 = max(t0, 0.0)
    t1 = min(t1, 1.0)
    return True, px + t0 * dx, py + t0 * dy, px + t1 * dx, py + t1 * dy


@njit
def _under_arc(px, py, qx, qy):
    """Signed area between the origin and the shorter arc of the unit circle from p to q."""
    half_chord = 0.5 * np.sqrt((qx - px) ** 2 + (qy - py) ** 2)
    return 0.5 * (px * qy - py * qx) + circle_segment(half_chord, 1.0)


@njit
def _cut_parallelogram(x0, y0, in0, x1, y1, in1, x2, y2, in2, x3, y3, in3):
    """Area of a parallelogram inside the unit circle, which holds no more than half of the circle's arc.

    Its sides are walked counter-clockwise; from where one leaves the circle to where the next comes in the boundary is
    an arc.
    """
    area = 0.0
    first_x = first_y = left_x = left_y = 0.0
    has_first = has_left = False
    px, py, p_in = x0, y0, in0
    for side in range(4):
        qx, qy, q_in = x0, y0, in0
        if side == 0:
            qx, qy, q_in = x1, y1, in1
        elif side == 1:
            qx, qy, q_in = x2, y2, in2
        elif side == 2:
            qx, qy, q_in = x3, y3, in3
        meets, ux, uy, vx, vy = _inner_part(px, py, p_in, qx, qy, q_in)
        if meets:
            area += 0.5 * (ux * vy - uy * vx)
            if not p_in:
                if has_left:
                    area += _under_arc(left_x, left_y, ux, uy)
                    has_left = False
                else:
                    first_x, first_y, has_first = ux, uy, True
            if not q_in:
                left_x, left_y, has_left = vx, vy, True
        px, py, p_in = qx, qy, q_in
    if has_left and has_first:
        area += _under_arc(left_x, left_y, first_x, first_y)
    return area


@njit
def circular_apertures(pixels, x, y, radii):
    """Sum in many circles around every source, in one pass over the pixels.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Centres, array index.
    radii : (n_radii,) float64 array
        Ascending, pixels.

    Returns
    -------
    flux, variance : (n, n_radii) float64 array
        Overlap-weighted sums of image and variance (weights squared for the variance);
        NaN where the circle leaves the image or the centre is not finite.
    """
    n = x.size
    n_radii = radii.size
    ny, nx = pixels.mask.shape
    flux = np.full((n, n_radii), np.nan)
    variance = np.full((n, n_radii), np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    flat = pixels.image.ravel()
    flat_variance = pixels.variance.ravel()
    stride = pixels.image.shape[1]
    n_rows = 2 * int(np.ceil(radii[-1])) + 5
    summed = np.empty((n_rows, 2), np.int64)
    limits = np.empty((4, n_rows), np.int64)
    chords = np.empty((2, n_rows))
    edge = np.empty((6, 8 * n_rows + 64))
    for i in pixels.order:
        cx = x[i]
        cy = y[i]
        if not (np.isfinite(cx) and np.isfinite(cy)):
            continue
        usable = 0
        for k in range(n_radii):
            r = radii[k]
            if cx - r < -0.5 or cy - r < -0.5 or cx + r > nx - 0.5 or cy + r > ny - 0.5:
                break
            usable = k + 1
        if usable == 0:
            continue
        show_source(pixels, i, saved)
        summed[:, 0] = 0
        summed[:, 1] = -1
        top = int(np.floor(cy - radii[usable - 1] + 0.5))
        core = 0.0
        core_variance = 0.0
        for k in range(usable):
            s, v, es, ev = _one_circle(
                flat, flat_variance, stride, cx, cy, radii[k], top, summed, limits, chords, edge
            )
            core += s
            core_variance += v
            flux[i, k] = core + es
            variance[i, k] = core_variance + ev
        hide_source(pixels, i, saved)
    return flux, variance


@fast_njit
def _one_circle(flat, flat_variance, stride, cx, cy, r, top, summed, limits, chords, edge):
    """Sum over the full pixels that no smaller circle had, and over the partly covered ones.

    Unsigned indices: the compiler then has no negative ones to think of.
    """
    y0 = int(np.floor(cy - r + 0.5))
    n_rows = int(np.ceil(cy + r - 0.5)) - y0 + 1
    _row_limits(cx, cy, r, y0, n_rows, limits, chords)
    core = 0.0
    core_variance = 0.0
    s = 0.0
    v = 0.0
    count = np.uint64(0)
    one = np.uint64(1)
    middle = int(np.floor(cx + 0.5))
    for j in range(n_rows):
        yy = y0 + j
        base = yy * stride
        left = limits[0, j]
        right = limits[1, j]
        full_left = limits[2, j]
        full_right = limits[3, j]
        dy = yy - cy
        if full_left <= full_right:
            i = yy - top
            old_left = summed[i, 0]
            old_right = summed[i, 1]
            if old_right < old_left:
                old_left = full_right + 1
                old_right = full_right
            for x in range(np.uint64(base + full_left), np.uint64(base + old_left)):
                core += np.float64(flat[x])
                core_variance += np.float64(flat_variance[x])
            for x in range(np.uint64(base + old_right + 1), np.uint64(base + full_right + 1)):
                core += np.float64(flat[x])
                core_variance += np.float64(flat_variance[x])
            summed[i, 0] = full_left
            summed[i, 1] = full_right
        if abs(dy) < 0.5 or r < 2.5:  # the row lies on an axis, or a coarse arc
            for x in range(left, right + 1):
                if not full_left <= x <= full_right:
                    w = circle_overlap(x - cx, dy, r)
                    s += w * flat[base + x]
                    v += w * w * flat_variance[base + x]
            continue
        if full_left > full_right:  # only the central column lies on an axis
            full_left = middle
            full_right = middle
            w = circle_overlap(middle - cx, dy, r)
            s += w * flat[base + middle]
            v += w * w * flat_variance[base + middle]
        near = abs(dy) - 0.5
        outer = chords[0, j]
        half = chords[1, j]
        across = cx - left - 0.5
        for x in range(np.uint64(base + left), np.uint64(base + full_left)):
            edge[0, count] = across
            edge[1, count] = near
            edge[2, count] = flat[x]
            edge[3, count] = flat_variance[x]
            edge[4, count] = outer
            edge[5, count] = half
            across -= 1.0
            count += one
        across = full_right - cx + 0.5
        for x in range(np.uint64(base + full_right + 1), np.uint64(base + right + 1)):
            edge[0, count] = across
            edge[1, count] = near
            edge[2, count] = flat[x]
            edge[3, count] = flat_variance[x]
            edge[4, count] = outer
            edge[5, count] = half
            across += 1.0
            count += one
    a, b = _edge_sums(edge[0], edge[1], edge[2], edge[3], edge[4], edge[5], count, r)
    return core, core_variance, s + a, v + b


@fast_njit
def _row_limits(cx, cy, r, y0, n_rows, limits, chords):
    """First and last touched and fully covered pixel of each row (none: first after last)."""
    r2 = r * r
    left = limits[0]
    right = limits[1]
    full_left = limits[2]
    full_right = limits[3]
    for j in range(n_rows):
        dy = abs(y0 + j - cy)
        near = dy - 0.5
        near = max(0.0, near)
        outer = r2 - near * near
        outer = np.sqrt(max(0.0, outer))
        half = r2 - (dy + 0.5) * (dy + 0.5)
        half = np.sqrt(max(0.0, half))
        chords[0, j] = outer
        chords[1, j] = half
        left[j] = int(np.floor(cx - outer + 0.5))
        right[j] = int(np.ceil(cx + outer - 0.5))
        full_left[j] = int(np.ceil(cx - half + 0.5))
        full_right[j] = int(np.floor(cx + half - 0.5))


@fast_njit
def _edge_sums(across, along, value, variance, outer, inner, count, r):
    """Sum over partly covered pixels away from the axes, as :func:`quadrant_overlap`, without branches.

    ``across`` and ``along`` are the distances of the pixel's inner sides from the two axes, ``outer``
    and ``inner`` the half chords at its near and its far side.
    """
    s = 0.0
    v = 0.0
    r2 = r * r
    inverse = 0.25 / r2
    for k in range(count):
        x0 = across[k]
        y0 = along[k]
        x1 = x0 + 1.0
        y1 = y0 + 1.0
        hx0 = r2 - x0 * x0
        hx1 = r2 - x1 * x1
        hx0 = np.sqrt(max(0.0, hx0))
        hx1 = np.sqrt(max(0.0, hx1))
        hy0 = outer[k]
        hy1 = inner[k]
        ax = max(x0, hy1)
        ay = min(y1, hx0)
        bx = min(x1, hy0)
        by = max(y0, hx1)
        dx = bx - ax
        dy = ay - by
        u2 = (dx * dx + dy * dy) * inverse
        bulge = u2 * (0.2 + u2 * (3.0 / 28.0 + u2 * (5.0 / 72.0 + u2 * (35.0 / 704.0 + u2 * 0.0379))))
        w = (ax - x0) + 0.5 * dx * (ay + by - 2.0 * y0) + r2 * np.sqrt(u2) * u2 * (2.0 / 3.0 + bulge)
        s += w * value[k]
        v += w * w * variance[k]
    return s, v


@njit
def _ellipse_row(x, dy, reach, qxx, qyy, qxy):
    """First and last pixel of a row that an ellipse touches, and first and last that it covers (none: first after last).

    Parameters
    ----------
    x : float
        Column of the centre.
    dy : float
        Row less that of the centre.
    reach : float
        Half extent of the ellipse in x, pixels.
    qxx, qyy, qxy : float
        The ellipse is qxx dx**2 + qyy dy**2 + 2 qxy dx dy = 1.
    """
    det = qxx * qyy - qxy * qxy
    slope = -qxy / qxx
    rightmost = -qxy / qyy * reach  # height of the rightmost point; the leftmost is at minus that
    low, high = dy - 0.5, dy + 0.5
    room_low, room_high = qxx - det * low * low, qxx - det * high * high
    left = -reach if low <= -rightmost <= high else np.inf
    right = reach if low <= rightmost <= high else -np.inf
    inner_left, inner_right = -np.inf, np.inf
    if room_low > 0.0:
        half = np.sqrt(room_low) / qxx
        inner_left, inner_right = slope * low - half, slope * low + half
        left, right = min(left, inner_left), max(right, inner_right)
    if room_high > 0.0:
        half = np.sqrt(room_high) / qxx
        left, right = min(left, slope * high - half), max(right, slope * high + half)
        inner_left, inner_right = max(inner_left, slope * high - half), min(inner_right, slope * high + half)
    if not left <= right:
        return 1, 0, 1, 0
    first, last = int(np.floor(x + left + 0.5)), int(np.ceil(x + right - 0.5))
    if not (room_low > 0.0 and room_high > 0.0) or inner_left > inner_right:
        return first, last, 1, 0
    return first, last, int(np.ceil(x + inner_left + 0.5)), int(np.floor(x + inner_right - 0.5))


@fast_njit
def _run_sums(flat, flat_variance, first, last):
    """Sum image and variance over a run of pixels, both ends included."""
    s = 0.0
    v = 0.0
    for k in range(np.uint64(first), np.uint64(last + 1)):
        s += np.float64(flat[k])
        v += np.float64(flat_variance[k])
    return s, v


@njit
def ellipse_sums(pixels, x, y, a, b, theta):
    """Exact sums in one ellipse around every source.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Centres, array index.
    a, b : (n,) float64 array
        Semi-axes, pixels.
    theta : (n,) float64 array
        Direction of ``a``, radians counter-clockwise from +x.

    Returns
    -------
    flux, variance, area : (n,) float64 array
        NaN where position or axes are not usable; pixels outside the image do not count.
    truncated : (n,) bool array
        The ellipse leaves the image.
    """
    n = x.size
    ny, nx = pixels.mask.shape
    flux = np.full(n, np.nan)
    variance = np.full(n, np.nan)
    area = np.full(n, np.nan)
    truncated = np.zeros(n, np.bool_)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    flat = pixels.image.ravel()
    flat_variance = pixels.variance.ravel()
    stride = pixels.image.shape[1]
    for i in pixels.order:
        if not (
            np.isfinite(x[i] + y[i] + theta[i]) and a[i] > 0.0 and b[i] > 0.0 and np.isfinite(a[i] + b[i])
        ):
            continue
        cos_t = np.cos(theta[i])
        sin_t = np.sin(theta[i])
        ex = np.sqrt((a[i] * cos_t) ** 2 + (b[i] * sin_t) ** 2)
        ey = np.sqrt((a[i] * sin_t) ** 2 + (b[i] * cos_t) ** 2)
        truncated[i] = x[i] - ex < -0.5 or y[i] - ey < -0.5 or x[i] + ex > nx - 0.5 or y[i] + ey > ny - 0.5
        y0 = max(int(np.floor(y[i] - ey + 0.5)), 0)
        y1 = min(int(np.ceil(y[i] + ey - 0.5)), ny - 1)
        qxx = (cos_t / a[i]) ** 2 + (sin_t / b[i]) ** 2
        qyy = (sin_t / a[i]) ** 2 + (cos_t / b[i]) ** 2
        qxy = cos_t * sin_t * (1.0 / a[i] ** 2 - 1.0 / b[i] ** 2)
        show_source(pixels, i, saved)
        s = 0.0
        v = 0.0
        total = 0.0
        for yy in range(y0, y1 + 1):
            dy = yy - y[i]
            left, right, full_left, full_right = _ellipse_row(x[i], dy, ex, qxx, qyy, qxy)
            left, right = max(left, 0), min(right, nx - 1)
            full_left, full_right = max(full_left, 0), min(full_right, nx - 1)
            base = yy * stride
            if full_left <= full_right:
                part, part_variance = _run_sums(flat, flat_variance, base + full_left, base + full_right)
                s += part
                v += part_variance
                total += full_right - full_left + 1
            else:
                full_left, full_right = right + 1, right
            for xx in range(left, right + 1):
                if full_left <= xx <= full_right:
                    continue
                w = ellipse_overlap(xx - x[i], dy, a[i], b[i], cos_t, sin_t)
                s += w * flat[base + xx]
                v += w * w * flat_variance[base + xx]
                total += w
        hide_source(pixels, i, saved)
        flux[i] = s
        variance[i] = v
        area[i] = total
    return flux, variance, area, truncated
