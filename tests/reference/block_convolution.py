"""Slow twins of `starmill.kernels.block_convolution`."""

from __future__ import annotations

import numpy as np


def convolve_blocks(image, variance, mask, kernels, step, squared):
    """Return image, variance, union of masks and good share, pixel by pixel; zero in the border."""
    ny, nx = image.shape
    k = kernels.shape[2]
    h = k // 2
    out, noise, good = np.zeros((ny, nx)), np.zeros((ny, nx)), np.zeros((ny, nx))
    union = np.zeros((ny, nx), np.int32)
    for y in range(h, ny - h):
        for x in range(h, nx - h):
            kernel = kernels[(y - h) // step, (x - h) // step]
            part = np.s_[y - h : y + h + 1, x - h : x + h + 1]
            flipped = kernel[::-1, ::-1]
            out[y, x] = (flipped * image[part]).sum()
            noise[y, x] = ((flipped**2 if squared else flipped) * variance[part]).sum()
            flags = mask[part]
            union[y, x] = np.bitwise_or.reduce(flags.ravel())
            good[y, x] = np.abs(flipped)[flags & 0x80 == 0].sum() / np.abs(kernel).sum()
    return out, noise, union, good


def stamp_vectors(cut, horizontal, vertical, minus_first):
    """Return a cutout convolved with every separable basis image, in double precision."""
    k = horizontal.shape[1]
    n = cut.shape[0] - k + 1
    windows = np.lib.stride_tricks.sliding_window_view(cut, (k, k))
    out = np.array(
        [
            np.einsum("yxuv,u,v->yx", windows, v[::-1], h[::-1])
            for h, v in zip(horizontal, vertical, strict=True)
        ]
    )
    out[minus_first] -= out[0]
    assert out.shape[1:] == (n, n)
    return out


def search_cell(image, mask, cell, refuse, own, sky, width, limit, threshold, half, most):
    """Return the objects of a cell as rows x, y, score, in the order in which they are found; marks ``mask``."""
    x0, y0, x1, y1 = cell
    floor = sky + threshold * width
    found = []
    levels = [sky + (limit - sky) * share for share in (0.9, 0.7, 0.5, 0.3, 0.1)]
    for level in [v for v in levels if v > floor] + [floor]:
        for y in range(y0, y1):
            for x in range(x0, x1):
                if len(found) >= most or image[y, x] <= level or mask[y, x] & refuse:
                    continue
                ya, xa = max(y - half, y0), max(x - half, x0)
                part = np.s_[ya : min(y + half + 1, y1), xa : min(x + half + 1, x1)]
                allowed = np.where(mask[part] & refuse == 0, image[part], -np.inf)
                j, i = np.unravel_index(np.argmax(allowed), allowed.shape)
                py, px = ya + j, xa + i
                box = np.s_[
                    max(py - half, y0) : min(py + half + 1, y1), max(px - half, x0) : min(px + half + 1, x1)
                ]
                if (mask[box] & refuse).any() or (image[box] >= limit).any():
                    continue
                found.append((px, py, image[box][image[box] > floor].sum()))
                mask[max(py - half, y0 + 1) : box[0].stop, max(px - half, x0 + 1) : box[1].stop] |= own
    return np.array(found).reshape(-1, 3)
