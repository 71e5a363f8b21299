"""Slow, obvious twins of the kernels in ``starmill.kernels.psf_fit``."""

import numpy as np


def profile(p, size, gaussian):
    half = size // 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    dx, dy = xx - p[1], yy - p[2]
    t = p[3] * dx**2 + 2 * p[4] * dx * dy + p[5] * dy**2
    shape = np.exp(-t / 2) if gaussian else (1 + t) ** -np.exp(p[7])
    return p[0] * shape + p[6]


def chi2(image, weight, p, gaussian):
    return np.sum(weight * (image - profile(p, len(image), gaussian)) ** 2)


def mask_neighbours(good, x0, y0, star_x, star_y, offsets, neighbour_x, neighbour_y):
    good = good.copy()
    n, size, _ = good.shape
    for k in range(n):
        yy, xx = np.mgrid[0:size, 0:size]
        px, py = xx + x0[k], yy + y0[k]
        own = (px - star_x[k]) ** 2 + (py - star_y[k]) ** 2
        for j in range(offsets[k], offsets[k + 1]):
            other = (px - neighbour_x[j]) ** 2 + (py - neighbour_y[j]) ** 2
            good[k] &= ~(other < own)
    return good


def terms(model, dx, dy):
    """Return the seven templates of the linear star fit, (7, size, size)."""
    size = len(model)
    half = size // 2
    gx, gy = np.zeros_like(model), np.zeros_like(model)
    gx[:, 1:-1] = (model[:, 2:] - model[:, :-2]) / 2
    padded = np.pad(model, ((1, 1), (0, 0)), mode="edge")
    gy[:] = (padded[2:] - padded[:-2]) / 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    u, v = xx - dx, yy - dy
    return np.stack([
        model, -gx, -gy, np.ones_like(model), -(2 * model + u * gx + v * gy), -(u * gx - v * gy), -(u * gy + v * gx),
    ])  # fmt: skip


def scale_normals(images, models, weights, dx, dy, n_terms):
    normals, rights = [], []
    for image, model, weight, x, y in zip(images, models, weights, dx, dy, strict=True):
        t = terms(model.astype(float), x, y)[:n_terms].reshape(n_terms, -1)
        w = weight.ravel().astype(float)
        normal, right = np.zeros((7, 7)), np.zeros(7)
        normal[:n_terms, :n_terms] = np.tril((t * w) @ t.T)
        right[:n_terms] = (t * w) @ image.ravel()
        normals.append(normal)
        rights.append(right)
    return np.array(normals), np.array(rights)


def star_weights(models, good, flux, sky_variance, gain_slope, systematic):
    signal = np.maximum(models * flux[:, None, None], 0)
    variance = sky_variance[:, None, None] + gain_slope * signal + (systematic * signal) ** 2
    return np.where(good, 1 / variance, 0)


def star_residuals(images, models, good, weights, flux, shift_x, shift_y, background):
    residuals = []
    for image, model, usable, f, sx, sy, b in zip(
        images, models, good, flux, shift_x, shift_y, background, strict=True
    ):
        t = terms(model.astype(float), 0, 0)
        residual = image - f * (t[0] + sx * t[1] + sy * t[2]) - b
        residuals.append(np.where(usable, residual, 0))
    residuals = np.array(residuals)
    return residuals, (weights * residuals**2).sum(axis=(1, 2)), good.sum(axis=(1, 2))
