"""Slow twins of starmill.kernels.photometry."""

import numpy as np


def stamp_fit(image, variance, mask, model, x0, y0, bad_bits):
    """Sums of a linear fit of one model over the good pixels inside the image."""
    sums = np.zeros(8)
    for j, k in np.ndindex(model.shape):
        y, x = y0 + j, x0 + k
        if not (0 <= y < image.shape[0] and 0 <= x < image.shape[1]) or mask[y, x] & bad_bits:
            continue
        p, i, v = model[j, k], float(image[y, x]), float(variance[y, x])
        w = 1 / v if v > 0 else 0.0
        sums += [p, p * p, p * i, p * p * v, w * p * p, w * p * i, w * i * i, 1]
    return sums


def footprint_bits(mask, spans, x, y):
    """Mask bits anywhere in the spans, in any and in all of the 3 x 3 central pixels."""
    anywhere = 0
    for row, x0, x1 in spans:
        anywhere |= int(np.bitwise_or.reduce(mask[row, x0 : x1 + 1]))
    iy, ix = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    block = mask[max(iy - 1, 0) : iy + 2, max(ix - 1, 0) : ix + 2].ravel()
    return anywhere, int(np.bitwise_or.reduce(block)), int(np.bitwise_and.reduce(block))


def disk_bits(mask, x, y, radius):
    """OR of the mask over the pixels whose centres lie within half a pixel more than the radius."""
    yy, xx = np.mgrid[: mask.shape[0], : mask.shape[1]]
    with np.errstate(invalid="ignore"):
        inside = (xx - x) ** 2 + (yy - y) ** 2 <= (radius + 0.5) ** 2
    return np.bitwise_or.reduce(mask[inside], initial=0)
