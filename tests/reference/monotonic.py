"""Slow, obvious outward decline."""

from __future__ import annotations

import numpy as np


def limit_by_inner(image, cy, cx):
    """Each pixel is at most the weighted mean of its neighbours nearer to the peak."""
    out = image.copy()
    ny, nx = image.shape
    pixels = sorted(
        ((y, x) for y in range(ny) for x in range(nx)), key=lambda p: ((p[0] - cy) ** 2 + (p[1] - cx) ** 2, p)
    )
    for y, x in pixels[1:]:
        inwards = np.array([cy - y, cx - x], float)
        values, weights = [], []
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                qy, qx = y + dy, x + dx
                nearer = (cy - qy) ** 2 + (cx - qx) ** 2 < (inwards**2).sum()
                if 0 <= qy < ny and 0 <= qx < nx and nearer:
                    step = np.array([dy, dx])
                    cosine = step @ inwards / np.linalg.norm(step) / np.linalg.norm(inwards)
                    if cosine > 0:
                        values.append(out[qy, qx])
                        weights.append(cosine)
        out[y, x] = min(out[y, x], np.average(values, weights=weights))
    return out
