"""Slow twin of starmill.kernels.source_pixels: a whole new image for every source."""

import numpy as np


def image_of_source(exposure_image, noise_image, footprints, heavy_values, index):
    """Image with all footprints replaced by ``noise_image`` except source ``index``.

    ``footprints`` is a list of (n, 3) spans; ``heavy_values[index]`` its own pixels in span order, or None.
    """
    out = exposure_image.copy()
    for spans in footprints:
        for y, x0, x1 in spans:
            out[y, x0 : x1 + 1] = noise_image[y, x0 : x1 + 1]
    k = 0
    for y, x0, x1 in footprints[index]:
        n = x1 - x0 + 1
        own = heavy_values[index]
        out[y, x0 : x1 + 1] = exposure_image[y, x0 : x1 + 1] if own is None else own[k : k + n]
        k += n
    return np.asarray(out)
