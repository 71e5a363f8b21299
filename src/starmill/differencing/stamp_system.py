"""The least-squares problem of every stamp: weighted scalar products of the convolved reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from starmill.kernels.normal_matrix import convolve_stamp, sparse_level, stamp_weights, weigh_design
from starmill.numerics.tiles import map_tiles

if TYPE_CHECKING:
    from starmill.differencing.flags import FlaggedPixels
    from starmill.differencing.kernel_basis import KernelBasis
    from starmill.differencing.noise import PoissonVariance
    from starmill.differencing.stamps import StampSet


__all__ = ["StampSystem", "build_stamp_system", "convolve_with_basis"]

_BATCH = 16  # stamps worked by one thread at a time
_LEVEL_STEP = 2  # the level of a stamp is the median of every second pixel both ways


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
    noise_power : (n,) array
        Weighted sum of the noise of the reference that was taken out of the matrix, before the kernel.
    gram : (n_basis, n_basis) array
        Of one unit of it in the convolved reference.
    """

    x: np.ndarray
    y: np.ndarray
    matrix: np.ndarray
    vector: np.ndarray
    target_power: np.ndarray
    pixels: np.ndarray
    masked_fraction: np.ndarray
    noise_power: np.ndarray
    gram: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def penalised(self, penalty: NDArray[np.floating] | None) -> StampSystem:
        """Return the system with a quadratic form added to every matrix, in units of the typical diagonal.

        Parameters
        ----------
        penalty : (n_basis, n_basis) array or None
            None returns the system itself.
        """
        if penalty is None:
            return self
        typical = float(np.median(np.trace(self.matrix, axis1=1, axis2=2))) / len(penalty)
        return replace(self, matrix=self.matrix + typical * penalty)

    def select(self, keep: NDArray[np.bool_]) -> StampSystem:
        """Return the system of some of the stamps (index or bool array)."""
        per_stamp = [name for name in self.__dataclass_fields__ if name != "gram"]
        return replace(self, **{name: getattr(self, name)[keep] for name in per_stamp})


def build_stamp_system(
    reference: NDArray[np.floating],
    target: NDArray[np.floating],
    variance_reference: NDArray[np.floating] | PoissonVariance,
    variance_target: NDArray[np.floating] | PoissonVariance,
    bad_reference: NDArray[np.bool_] | FlaggedPixels,
    bad_target: NDArray[np.bool_] | FlaggedPixels,
    stamps: StampSet,
    basis: KernelBasis,
    *,
    match_sigma: float | None,
    scale: float,
    origin: tuple[int, int] = (0, 0),
    reach: int | None = None,
    noise_correction: float | None = None,
    prefilter: NDArray[np.floating] | None = None,
) -> StampSystem:
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
    noise_correction : float, optional
        Share of the reference noise that is taken out of the normal matrix. Noise in the regressors shrinks
        the kernel where the stars have little power; taking out more than is there makes the matrix indefinite. By
        default what ``n`` pixels of pure noise hold at least in any direction of ``k`` images, ``(1 - sqrt(k / n))^2``
        (Marchenko & Pastur 1967).
    prefilter : (m, m) array, optional
        Filter with which both images were convolved beforehand; the noise of the reference is correlated by it.

    Returns
    -------
    system : StampSystem
    """
    n, border = len(stamps), basis.half_width
    matrix = np.empty((n, len(basis), len(basis)))
    vector, power = np.empty((n, len(basis))), np.empty(n)
    pixels, masked, lights = np.empty(n, int), np.empty(n), np.empty(n)
    if noise_correction is None:
        noise_correction = max(0.0, 1 - np.sqrt(len(basis) / (n * (2 * stamps.half_width + 1) ** 2))) ** 2
    gram = _noise_gram(basis, prefilter) * noise_correction
    reach = max(1, border // 2) if reach is None else reach
    profile, norm = _squared_gaussian(match_sigma, border)
    side = 2 * stamps.half_width + 1

    def work(items: range) -> None:
        weights, design = np.empty((side, side)), np.empty((len(basis) + 2, side * side))
        for s in items:
            wide, inner = _parts(stamps.x[s], stamps.y[s], stamps.half_width, border)
            spoilt, noise = bad_reference[wide], np.asarray(variance_reference[wide], np.float32)
            pixels[s] = stamp_weights(
                noise, np.asarray(variance_target[inner], np.float32), spoilt, bad_target[inner], scale, profile,
                norm, reach, weights,
            )  # fmt: skip
            masked[s] = 1 - pixels[s] / side**2
            level = sparse_level(reference[inner], weights, _LEVEL_STEP)
            cut = np.where(spoilt, np.float32(0), reference[wide] - level)
            level = sparse_level(target[inner], weights, _LEVEL_STEP)
            values = np.where(weights > 0, target[inner] - level, np.float32(0))
            _fill_design(cut, values, weights, basis, design)
            products = _symmetric_products(design)
            constant = products[:-1, -1] / max(products[-1, -1], 1e-300)
            products = products[:-1, :-1] - np.outer(constant, products[-1, :-1])
            light = np.sum(weights * np.where(spoilt, 0, noise)[border:-border, border:-border])
            matrix[s], lights[s] = products[:-1, :-1] - light * gram, light
            vector[s], power[s] = products[:-1, -1], products[-1, -1]

    map_tiles(work, [range(i, min(i + _BATCH, n)) for i in range(0, n, _BATCH)])
    return StampSystem(
        stamps.x + origin[0], stamps.y + origin[1], matrix, vector, power, pixels, masked, lights, gram
    )


def _parts(x: int, y: int, half: int, border: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices of a stamp with and without the border of half a kernel."""
    reach = half + border
    return (
        np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1],
        np.s_[y - half : y + half + 1, x - half : x + half + 1],
    )


def _fill_design(
    cut: NDArray[np.floating],
    values: NDArray[np.floating],
    weights: NDArray[np.floating],
    basis: KernelBasis,
    design: NDArray[np.floating],
) -> None:
    """Write the weighted columns of a stamp: the convolved reference, the target, a constant."""
    size = values.size
    if basis.vertical is None:
        convolved, minus_first = convolve_with_basis(cut, basis), np.zeros(len(basis), bool)
    else:
        horizontal, index, vertical = basis.filters
        convolved, minus_first = np.empty((len(basis), *values.shape), np.float32), basis.minus_first
        convolve_stamp(cut, horizontal, index, vertical, convolved)
    roots = np.sqrt(weights).ravel()
    weigh_design(convolved.reshape(len(basis), size), minus_first, values.ravel(), roots, design)


def _symmetric_products(design: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the scalar products of all rows, ``(n, n)``; only half of them are computed."""
    half = blas.dsyrk(1.0, design.T, trans=1)
    return half + np.triu(half, 1).T


def _squared_gaussian(sigma: float | None, border: int) -> tuple[NDArray[np.floating], float]:
    """Return the profile of the square of a unit-sum Gaussian, with unit sum, and the sum of the square."""
    if sigma is None:
        return np.ones(1), 1.0
    width = max(sigma, 0.3) / np.sqrt(2)
    at = np.arange(-min(int(4 * width + 0.5), border), min(int(4 * width + 0.5), border) + 1)
    profile = np.exp(-0.5 * (at / width) ** 2)
    return profile / profile.sum(), 1 / (8 * np.pi * width**2)


def convolve_with_basis(cut: NDArray[np.floating], basis: KernelBasis) -> NDArray[np.floating]:
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
    if basis.offsets is not None:
        last = basis.size - 1
        shifted = np.stack(
            [cut[last - v : last - v + size, last - u : last - u + size] for v, u in basis.offsets]
        )
        shifted[1:] -= shifted[0]
        return shifted.astype(np.float32)
    if basis.vertical is None:
        from scipy.signal import fftconvolve  # twenty megabytes that no separable basis needs

        return fftconvolve(cut[None], basis.images, mode="valid", axes=(1, 2)).astype(np.float32)
    horizontal, index, vertical = basis.filters
    out = np.empty((len(basis), size, size), np.float32)
    convolve_stamp(np.ascontiguousarray(cut, np.float32), horizontal, index, vertical, out)
    out[basis.minus_first] -= out[0]
    return out


def _noise_gram(basis: KernelBasis, prefilter: NDArray[np.floating] | None) -> NDArray[np.floating]:
    """Return the scalar products of the basis images, convolved with the prefilter if there is one."""
    if prefilter is None:
        return basis.gram()
    from scipy.signal import fftconvolve

    flat = fftconvolve(basis.images, prefilter[None], mode="full", axes=(1, 2)).reshape(len(basis), -1)
    return flat @ flat.T
