"""Slow, obvious templates."""

from __future__ import annotations

import numpy as np


def symmetric_template(pixels, inside, cy, cx):
    """max(0, min(pixel, mirrored pixel)) on the whole stamp; zero where either is outside."""
    ny, nx = pixels.shape
    out = np.zeros((ny, nx))
    for y in range(ny):
        for x in range(nx):
            my, mx = 2 * cy - y, 2 * cx - x
            if 0 <= my < ny and 0 <= mx < nx and inside[y, x] and inside[my, mx]:
                out[y, x] = max(0.0, min(pixels[y, x], pixels[my, mx]))
    return out


def median_smooth(image):
    """Median of 5 x 5 pixels, two pixels along the edge copied."""
    out = image.copy()
    for y in range(2, image.shape[0] - 2):
        for x in range(2, image.shape[1] - 2):
            out[y, x] = np.median(image[y - 2 : y + 3, x - 2 : x + 3])
    return out


def make_monotonic(template):
    """Shadows of five pixels cast outwards, rings of five at a time."""

    def away(v):
        return int(np.sign(v) * np.floor(abs(v) + 0.5))

    out = template.copy()
    ry, rx = out.shape[0] // 2, out.shape[1] // 2
    for first in range(1, max(ry, rx) + 1, 5):
        light = out.copy()
        for dy in range(-ry, ry + 1):
            for dx in range(-rx, rx + 1):
                if not first <= max(abs(dy), abs(dx)) < first + 5:
                    continue
                height = light[ry + dy, rx + dx]
                for step in range(1, 6):
                    if abs(dx) >= abs(dy):
                        slope, x = dy / abs(dx), dx + np.sign(dx) * step
                        for y in range(dy + away(step * (slope - 0.3)), dy + away(step * (slope + 0.3)) + 1):
                            if abs(x) <= rx and abs(y) <= ry:
                                out[ry + y, rx + x] = min(out[ry + y, rx + x], height)
                    if abs(dy) >= abs(dx):
                        slope, y = dx / abs(dy), dy + np.sign(dy) * step
                        for x in range(dx + away(step * (slope - 0.3)), dx + away(step * (slope + 0.3)) + 1):
                            if abs(x) <= rx and abs(y) <= ry:
                                out[ry + y, rx + x] = min(out[ry + y, rx + x], height)
    return out
