"""Slow twins of the kernels of difference imaging."""

from __future__ import annotations

import numpy as np


def convolve_varying(image, kernel, origin=(0, 0)):
    """Convolve pixel by pixel with the kernel of each output pixel; edges repeat."""
    half = kernel.half_width
    padded = np.pad(image.astype(float), half, mode="edge")
    out = np.empty(image.shape)
    for y in range(image.shape[0]):
        kernels = kernel.kernels_at(
            np.arange(image.shape[1]) + origin[0], np.full(image.shape[1], y + origin[1])
        )
        for x in range(image.shape[1]):
            window = padded[y : y + 2 * half + 1, x : x + 2 * half + 1]
            out[y, x] = np.sum(window * kernels[x, ::-1, ::-1])
    return out


def lost_fraction(bad, kernel):
    """Share of the absolute kernel on bad pixels or outside, output pixel by output pixel."""
    half = kernel.half_width
    padded = np.pad(bad.astype(float), half, mode="constant", constant_values=1)
    out = np.empty(bad.shape)
    for y in range(bad.shape[0]):
        for x in range(bad.shape[1]):
            image = np.abs(kernel.kernel_at(x, y))[::-1, ::-1]
            out[y, x] = np.sum(padded[y : y + 2 * half + 1, x : x + 2 * half + 1] * image) / image.sum()
    return out


def convolve_stamp(stamp, images):
    """Convolve a padded stamp with every basis image by direct sums."""
    k = images.shape[1]
    size = stamp.shape[0] - k + 1
    out = np.empty((len(images), size, size))
    for i, image in enumerate(images):
        for y in range(size):
            for x in range(size):
                out[i, y, x] = np.sum(stamp[y : y + k, x : x + k] * image[::-1, ::-1])
    return out


def block_peaks(image, bad, block, border):
    """Positions of the brightest good pixel of each block when no neighbour is brighter."""
    found = []
    ny, nx = image.shape
    for top in range(0, ny - block + 1, block):
        for left in range(0, nx - block + 1, block):
            part = np.where(
                bad[top : top + block, left : left + block],
                -np.inf,
                image[top : top + block, left : left + block],
            )
            y, x = np.unravel_index(np.argmax(part), part.shape)
            y, x = y + top, x + left
            inside = border <= y < ny - border and border <= x < nx - border
            if (
                inside
                and np.isfinite(part).any()
                and image[y - 1 : y + 2, x - 1 : x + 2].max() <= image[y, x]
            ):
                found.append((x, y))
    return found


def resample(image, x, y, weights):
    """Separable interpolation at positions; ``weights(fraction)`` gives the taps. NaN when the kernel leaves the image."""
    out = np.full(x.shape, np.nan)
    for index in np.ndindex(x.shape):
        ix, iy = int(np.floor(x[index])), int(np.floor(y[index]))
        wx, wy = weights(x[index] - ix), weights(y[index] - iy)
        lead = len(wx) // 2 - 1
        top, left = iy - lead, ix - lead
        if top >= 0 and left >= 0 and top + len(wy) <= image.shape[0] and left + len(wx) <= image.shape[1]:
            out[index] = wy @ image[top : top + len(wy), left : left + len(wx)] @ wx
    return out


def stamp_weights(
    reference_variance, target_variance, bad_reference, bad_target, scale, profile, norm, reach
):
    """Inverse variances of a stamp, pixel by pixel."""
    size, tall = len(target_variance), len(reference_variance)
    border, half = (tall - size) // 2, len(profile) // 2
    clean = np.where(bad_reference, 0, reference_variance)
    edge = np.pad(target_variance, 1, mode="edge")
    weights = np.zeros((size, size))
    for y in range(size):
        for x in range(size):
            v, u = y + border, x + border
            if bad_target[y, x] or bad_reference[v - reach : v + reach + 1, u - reach : u + reach + 1].any():
                continue
            if half:
                noise = profile @ clean[v - half : v + half + 1, u - half : u + half + 1] @ profile
            else:
                noise = (clean[v - 1 : v + 2, u - 1 : u + 2].sum() - clean[v, u]) / 8
            own = (edge[y : y + 3, x : x + 3].sum() - target_variance[y, x]) / 8
            weights[y, x] = 1 / (own + scale**2 * norm * noise)
    return weights


def clipped_cell_mean(image, variance, bad, part, step):
    """Weighted mean of the pixels of a cell within three standard deviations, and its error."""
    values, weights = [], []
    for y in range(part[0].start, part[0].stop, step):
        for x in range(part[1].start, part[1].stop, step):
            near = np.s_[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            good = ~bad[near]
            good[y - near[0].start, x - near[1].start] = False
            if not bad[y, x] and good.any():
                values.append(float(image[y, x]))
                weights.append(1 / variance[near][good].mean())
    values, weights = np.array(values), np.array(weights)
    center = np.sort(values)[len(values) // 2]
    for _ in range(5):
        near = np.abs(values - center) * np.sqrt(weights) < 3
        center = np.average(values[near], weights=weights[near])
    return center, 1 / np.sqrt(weights[near].sum())
