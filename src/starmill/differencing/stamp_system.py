"""The least-squares problem of every stamp: weighted scalar products of the convolved reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.signal import fftconvolve

from starmill.kernels.normal_matrix import convolve_stamp

__all__ = ["StampSystem", "build_stamp_system", "convolve_with_basis"]


@dataclass(frozen=True)
class StampSystem:
    """Normal equations of each stamp, the stamp's own constant background eliminated.

    Attributes
    ----------
    x, y : (n,) arrays
        Stamp centres, parent frame.
    matrix : (n, n_basis, n_basis) array
        Weighted scalar products of the convolved reference, less most of the part that is its noise.
    vector : (n, n_basis) array
        Weighted scalar products with the target.
    target_power : (n,) array
        Weighted sum of squares of the target about its mean.
    pixels : (n,) array
        Pixels with weight.
    masked_fraction : (n,) array
        Share of the stamp without weight.
    """

    x: np.ndarray
    y: np.ndarray
    matrix: np.ndarray
    vector: np.ndarray
    target_power: np.ndarray
    pixels: np.ndarray
    masked_fraction: np.ndarray

    def __len__(self):
        return len(self.x)

    def select(self, keep):
        """Return the system of some of the stamps (index or bool array)."""
        return StampSystem(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def build_stamp_system(
    reference, target, variance_reference, variance_target, bad_reference, bad_target,
    stamps, basis, *, match_sigma, scale, origin=(0, 0), reach=None, noise_correction=0.9, prefilter=None,
):  # fmt: skip
    """Return the normal equations of all stamps.

    Parameters
    ----------
    reference, target : (ny, nx) float32 arrays
        The image to convolve and the image to match; any finite value at bad pixels.
    variance_reference, variance_target : (ny, nx) arrays
        Noise variances, in the unit of each image squared.
    bad_reference, bad_target : (ny, nx) bool arrays
        Pixels without information. A bad reference pixel removes the pixels that the kernel core carries it to.
    stamps : StampSet
    basis : KernelBasis
    match_sigma : float or None
        Width of the Gaussian that approximates the kernel when the reference noise is propagated, pixels. None
        for images filtered so that their difference has white noise: the variances then simply add.
    scale : float
        First estimate of the kernel sum.
    origin : (int, int)
        Parent position of the first pixel (x, y).
    reach : int, optional
        Half width of the square of pixels spoilt by a bad reference pixel; half the kernel by default.

    noise_correction : float
        Share of the reference noise that is taken out of the normal matrix. Noise in the regressors shrinks
        the kernel where the stars have little power; taking all of it out can make the matrix indefinite.
    prefilter : (m, m) array, optional
        Filter with which both images were convolved beforehand; the noise of the reference is correlated by it.

    Returns
    -------
    system : StampSystem
    """
    n, half, border = len(stamps), stamps.half_width, basis.half_width
    side = 2 * half + 1
    matrix = np.empty((n, len(basis), len(basis)))
    vector, power = np.empty((n, len(basis))), np.empty(n)
    pixels, masked = np.empty(n, int), np.empty(n)
    gram = _noise_gram(basis, prefilter) * noise_correction
    reach = max(1, border // 2) if reach is None else reach
    for s, (x, y) in enumerate(zip(stamps.x, stamps.y, strict=True)):
        wide = np.s_[y - half - border : y + half + border + 1, x - half - border : x + half + border + 1]
        inner = np.s_[y - half : y + half + 1, x - half : x + half + 1]
        spoilt = bad_reference[wide]
        cut, fill = reference[wide], np.median(reference[inner])
        cut = np.where(spoilt, 0, cut - fill).astype(np.float32)
        noise_reference = _reference_noise(np.where(spoilt, 0, variance_reference[wide]), match_sigma)
        variance = (
            neighbour_mean(variance_target[inner])
            + scale**2 * noise_reference[border:-border, border:-border]
        )
        good = ~bad_target[inner] & (variance > 0) & ~_reached(spoilt, reach)[border:-border, border:-border]
        weight = np.where(good, 1 / np.where(good, variance, 1), 0)
        design = np.empty((len(basis) + 2, side * side))
        design[:-2] = convolve_with_basis(cut, basis).reshape(len(basis), -1)
        level = np.median(target[inner][good]) if good.any() else 0.0
        design[-2], design[-1] = np.where(good, target[inner] - level, 0).ravel(), 1
        root = np.sqrt(weight).ravel()
        design *= root
        products = design @ design.T
        products = products[:-1, :-1] - np.outer(products[:-1, -1], products[-1, :-1]) / max(
            products[-1, -1], 1e-300
        )
        reference_noise = np.sum(
            weight * (variance_reference[wide] * ~spoilt)[border:-border, border:-border]
        )
        matrix[s] = products[:-1, :-1] - reference_noise * gram
        vector[s], power[s] = products[:-1, -1], products[-1, -1]
        pixels[s], masked[s] = good.sum(), 1 - good.mean()
    return StampSystem(stamps.x + origin[0], stamps.y + origin[1], matrix, vector, power, pixels, masked)


def convolve_with_basis(cut, basis):
    """Convolve a padded stamp with every basis image.

    Parameters
    ----------
    cut : (size + k - 1, size + k - 1) float32 array
        The stamp with a border of half a kernel.
    basis : KernelBasis

    Returns
    -------
    convolved : (n_basis, size, size) float32 array
    """
    size = cut.shape[0] - basis.size + 1
    if basis.vertical is None:
        return fftconvolve(cut[None], basis.images, mode="valid", axes=(1, 2)).astype(np.float32)
    horizontal, index, vertical = basis.filters
    out = np.empty((len(basis), size, size), np.float32)
    convolve_stamp(np.ascontiguousarray(cut, np.float32), basis.size, horizontal, index, vertical, out)
    out[basis.minus_first] -= out[0]
    return out


def neighbour_mean(variance):
    """Return the mean of the eight neighbours of every pixel.

    A variance made from the data goes up with the noise of its own pixel; used as a weight it would bias every
    mean low. The neighbours are as good an estimate and do not know that noise.
    """
    variance = np.asarray(variance, np.float32)
    return (9 * uniform_filter(variance, 3, mode="nearest") - variance) / 8


def _noise_gram(basis, prefilter):
    """Return the scalar products of the basis images, convolved with the prefilter if there is one."""
    if prefilter is None:
        return basis.gram()
    flat = fftconvolve(basis.images, prefilter[None], mode="full", axes=(1, 2)).reshape(len(basis), -1)
    return flat @ flat.T


def _reference_noise(variance, match_sigma):
    """Return the variance convolved with the square of a unit-sum Gaussian."""
    if match_sigma is None:
        return neighbour_mean(variance)
    sigma = max(match_sigma, 0.3)
    return gaussian_filter(variance, sigma / np.sqrt(2)) / (4 * np.pi * sigma**2)


def _reached(spoilt, reach):
    """Return the pixels within a square of half width ``reach`` of a spoilt pixel."""
    if not spoilt.any():
        return spoilt
    grown = uniform_filter(spoilt.astype(np.float32), 2 * reach + 1, mode="constant")
    return grown > 0.5 / (2 * reach + 1) ** 2
