"""Slow twins of the kernels of cosmic_rays.py."""

import numpy as np

# Opposite neighbours and the limit that belongs to them: along y, along x, and the diagonals.
PAIRS = (((-1, 0), (1, 0), 0), ((0, -1), (0, 1), 1), ((-1, -1), (1, 1), 2), ((-1, 1), (1, -1), 2))


def is_sharp(image, variance, mask, reject_bits, y, x, n_sigma, contrast, noise_factor, background):
    """Whether a pixel is a cosmic ray, and its replacement, by the definition."""
    value = float(image[y, x])
    if not (value >= 0 and variance[y, x] > 0):
        return False, value
    sigma = np.sqrt(float(variance[y, x]))
    means = []
    for (ya, xa), (yb, xb), place in PAIRS:
        a, b = (y + ya, x + xa), (y + yb, x + xb)
        if (mask[a] | mask[b]) & reject_bits:
            continue
        mean = 0.5 * (float(image[a]) + float(image[b]))
        noise = 0.5 * np.sqrt(float(variance[a]) + float(variance[b]))
        means.append((mean, noise, contrast[place]))
    if n_sigma < 0:
        stands_out = value >= -n_sigma
    else:
        stands_out = any(value >= mean + n_sigma * sigma for mean, _, _ in means)
    if not stands_out:
        return False, value
    for mean, noise, limit in means:
        if limit * (value - background - noise_factor * sigma) > mean - background + noise_factor * noise:
            return True, mean
    return False, value


def find_sharp_pixels(
    image, variance, mask, reject_bits, interpolated_bit, n_sigma, contrast, noise_factor, background
):
    """Pixel by pixel scan that replaces what it finds; returns the repaired image and the pixels in order."""
    work = image.copy()
    found = []
    for y in range(1, image.shape[0] - 1):
        for x in range(1, image.shape[1] - 1):
            if mask[y, x] & reject_bits or (mask[y - 1 : y + 2, x - 1 : x + 2] & interpolated_bit).any():
                continue
            sharp, estimate = is_sharp(
                work, variance, mask, reject_bits, y, x, n_sigma, contrast, noise_factor, background
            )
            if sharp:
                work[y, x] = estimate
                found.append((y, x))
    return work, np.array(found).reshape(-1, 2)


def predict(image, variance, bad, y, x, weights, reach, background=0.0):
    """Prediction of one pixel: mean by precision of the lines that agree with the lowest one."""
    ny, nx = image.shape

    def good(j, i):
        return 0 <= j < ny and 0 <= i < nx and not bad[j, i] and np.isfinite(image[j, i])

    lines = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        positions, values = [], []
        for side in (-1, 1):
            for step in range(1, reach + 1):
                if good(y + side * step * dy, x + side * step * dx):
                    for s in (step, step + 1):
                        if good(y + side * s * dy, x + side * s * dx):
                            positions.append(side * s * np.hypot(dy, dx))
                            values.append(image[y + side * s * dy, x + side * s * dx])
                    break
        if positions and min(positions) < 0 < max(positions):
            w = weights(np.array(positions), 0.0)
            bridge = min(p for p in positions if p > 0) - max(p for p in positions if p < 0)
            lines.append((float(np.dot(w, values)), float(np.dot(w, w)), bridge))
    box = (slice(max(y - 2, 0), y + 3), slice(max(x - 2, 0), x + 3))
    noise = float(variance[box][~bad[box]].mean())
    shortest = min(bridge for *_, bridge in lines)
    lines = [(v, s) for v, s, bridge in lines if bridge <= 1.5 * shortest]
    lowest = min(lines)
    slack = 0.25 * abs(lowest[0] - background)
    kept = [(v, s) for v, s in lines if v - lowest[0] <= 3 * np.sqrt(noise * (s + lowest[1])) + slack]
    return sum(v / s for v, s in kept) / sum(1 / s for _, s in kept), noise
