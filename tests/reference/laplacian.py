"""Slow twin of the Laplacian cosmic-ray search: whole images, no tiles, the doubled image written out."""

import numpy as np
from scipy.ndimage import binary_dilation, convolve
from tests.reference.medians import separable_median, window_median


def laplacian(image):
    """Positive Laplacian of the image doubled in both directions, averaged back."""
    doubled = np.repeat(np.repeat(image.astype(np.float64), 2, axis=0), 2, axis=1)
    kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    positive = np.maximum(convolve(doubled, kernel, mode="constant"), 0)
    return positive.reshape(image.shape[0], 2, image.shape[1], 2).mean(axis=(1, 3))


def find(image, variance, blocked, limit=4.5, fraction=0.3, contrast=5.0, n_iterations=4, separable=True):
    """All cosmic-ray pixels as a boolean image."""
    median = separable_median if separable else window_median
    noise_half, wide_half, narrow_half, structure_half = (3, 3, 2, 4) if separable else (2, 2, 1, 3)
    work, noise_work = image.astype(np.float64), variance.astype(np.float64)
    found = np.zeros(image.shape, bool)
    square = np.ones((3, 3), bool)
    for _ in range(n_iterations):
        noise = np.sqrt(np.maximum(median(noise_work, noise_half), 1e-5))
        ratio = laplacian(work) / (2 * noise)
        significance = ratio - median(ratio, wide_half)
        structure = median(work, narrow_half)
        fine = np.maximum((structure - median(structure, structure_half)) / noise, 0.01)
        rays = (significance > limit) & ~blocked & (significance / fine > contrast)
        rays = binary_dilation(rays, square) & ~blocked & (significance > limit)
        rays = binary_dilation(rays, square) & ~blocked & (significance > fraction * limit)
        if not rays.any():
            break
        found |= rays
        for y, x in np.argwhere(found):
            if not (2 <= y < image.shape[0] - 2 and 2 <= x < image.shape[1] - 2):
                continue
            box = (slice(y - 2, y + 3), slice(x - 2, x + 3))
            good = ~(found[box] | blocked[box])
            work[y, x] = work[box][good].mean() if good.any() else np.median(work[~blocked])
            noise_work[y, x] = noise_work[box][good].mean() if good.any() else np.median(noise_work[~blocked])
    return found
