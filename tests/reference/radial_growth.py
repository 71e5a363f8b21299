"""Slow, obvious radius that holds a flux: every pixel cut into many squares, sorted by radius."""

from __future__ import annotations

import numpy as np


def radius_of_light(image, x, y, target, reach, fine=15):
    """Radius of the circle about (x, y) that holds ``target``; NaN when it is not reached."""
    steps = (np.arange(fine) - (fine - 1) / 2) / fine
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    r = np.hypot(
        xx[..., None, None] + steps[None, None, None, :] - x,
        yy[..., None, None] + steps[None, None, :, None] - y,
    ).ravel()
    light = np.repeat(image.ravel() / fine**2, fine**2)
    order = np.argsort(r)
    growth = np.cumsum(light[order])
    reached = np.flatnonzero((growth >= target) & (r[order] < reach - 1))
    return r[order][reached[0]] if target > 0 and len(reached) else np.nan


def slope_of_light(image, x, y, radius, half, fine=15):
    """Light in the ring of ``half`` on both sides of a radius, per pixel of radius."""
    steps = (np.arange(fine) - (fine - 1) / 2) / fine
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    r = np.hypot(
        xx[..., None, None] + steps[None, None, None, :] - x,
        yy[..., None, None] + steps[None, None, :, None] - y,
    )
    return (image / fine**2 * (np.abs(r - radius) < half).sum((2, 3))).sum() / (2 * half)
