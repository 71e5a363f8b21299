"""Nearest image that declines outwards from a peak, one pixel after the other.

``X(p) <- min(X(p), sum_q w_q X(q))`` over the neighbours q of p that are nearer to the peak, weighted by the cosine
between the directions to q and to the peak; pixels are visited by distance from the peak.
"""

from __future__ import annotations

import math

from starmill.kernels._jit import njit


@njit
def limit_by_inner(image, cy, cx, order):
    """Make an image decline outwards.

    Parameters
    ----------
    image : (ny, nx) float64 array
        Changed.
    cy, cx : int
        The peak.
    order : (ny * nx,) int64 array
        Flat pixel numbers by distance from the peak.
    """
    ny, nx = image.shape
    for k in range(order.shape[0]):
        y, x = order[k] // nx, order[k] % nx
        ry, rx = cy - y, cx - x
        r2 = ry * ry + rx * rx
        if r2 == 0:
            continue
        total = weight = 0.0
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                qy, qx = y + dy, x + dx
                if not (0 <= qy < ny and 0 <= qx < nx):
                    continue
                if (cy - qy) ** 2 + (cx - qx) ** 2 >= r2:
                    continue
                w = (dy * ry + dx * rx) / math.sqrt((dy * dy + dx * dx) * r2)
                if w > 0.0:
                    total += w * image[qy, qx]
                    weight += w
        limit = total / weight
        if image[y, x] > limit:
            image[y, x] = limit
