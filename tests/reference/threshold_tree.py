"""Slow, obvious count of the branches of a multi-threshold tree."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label

from starmill.kernels.threshold_tree import split_by_levels


def count_objects(pixels, inside, threshold, n_levels, contrast, min_pixels):
    """Number of objects: leaves of the tree of regions that hold enough light above their level."""
    whole = np.where(inside, np.maximum(pixels, 0), 0).sum()
    ratio = pixels[inside].max() / threshold
    levels = threshold * ratio ** (np.arange(n_levels) / n_levels)

    def objects(region, k):
        """Objects inside a region of level k."""
        for i in range(k + 1, n_levels):
            numbers, n = label(region & (pixels >= levels[i]), structure=np.ones((3, 3)))
            strong = [
                part
                for part in (numbers == j for j in range(1, n + 1))
                if (pixels[part] - levels[i]).sum() > contrast * whole and part.sum() >= min_pixels
            ]
            if len(strong) > 1:
                return sum(objects(part, i) for part in strong)
            if len(strong) == 1:
                region = strong[0]
        return 1

    return objects(inside & (pixels >= levels[0]), 0)


def label_footprint(image, variance, footprint, taps, rules):
    """Object of every pixel of a footprint in span order, and its smoothed pixels: the stamp of one footprint by hand."""
    threshold, n_levels, contrast, min_pixels, min_drop = rules
    box = footprint.box
    inside = footprint.mask_image(None)
    pixels = np.where(inside, image[box.slices()], 0).astype(float)
    for axis in (0, 1):
        pixels = np.apply_along_axis(
            np.convolve, axis, pixels, taps, "same" if len(taps) <= min(pixels.shape) else "full"
        )
    pixels = np.where(inside, pixels, 0).astype(np.float32)
    spread = variance if np.isscalar(variance) else variance[box.slices()]
    noise = np.full(pixels.shape, (taps**2).sum() * np.sqrt(spread), np.float32)
    labels, _ = split_by_levels(pixels, inside, noise, threshold, n_levels, contrast, min_pixels, min_drop)
    return labels[inside], pixels[inside]
