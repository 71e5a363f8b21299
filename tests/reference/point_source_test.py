"""Slow, obvious point-source fit."""

from __future__ import annotations

import numpy as np


def plain_fit(pixels, variance, inside, cy, cx, psf, fwhm):
    """Flux and reduced chi squared of PSF plus plane for a lone peak."""
    r0, r1 = np.ceil(fwhm), np.ceil(1.5 * fwhm)
    y, x = np.nonzero(inside)
    r = np.hypot(y - cy, x - cx)
    y, x, r = y[r < r1], x[r < r1], r[r < r1]
    ramp = np.clip((r1 - r) / (r1 - r0), 0, 1)
    half = psf.shape[0] // 2
    columns = np.stack([psf[half + y - cy, half + x - cx], np.ones(len(y)), x - cx, y - cy], axis=1)
    weight = np.sqrt(ramp / variance[y, x])
    solution, *_ = np.linalg.lstsq(columns * weight[:, None], pixels[y, x] * weight, rcond=None)
    residual = pixels[y, x] - columns @ solution
    return solution[0], (weight**2 * residual**2).sum() / (ramp.sum() - 4)
