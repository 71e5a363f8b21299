"""Bases of matching kernels: Gaussians times polynomials, delta functions, user images.

Every basis image but the first has a zero sum, so the first alone carries the photometric ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from starmill.errors import InputError

__all__ = ["KernelBasis", "delta_basis", "gaussian_basis", "image_basis", "matching_widths", "roughness"]


@dataclass(frozen=True)
class KernelBasis:
    """Basis images of a matching kernel.

    Attributes
    ----------
    images : (n, size, size) array
        Dimensionless; the first has unit sum, the others zero sum.
    horizontal : (m, size) array or None
        Distinct horizontal factors of a separable basis; None when the basis is not separable.
    horizontal_index : (n,) int array or None
        The horizontal factor of each image.
    vertical : (n, size) array or None
        The vertical factors.
    minus_first : (n,) bool array
        Images from which the first image was subtracted after the factors were multiplied.
    order : (n,) int array
        Polynomial degree of each image; images of low degree are kept first when a basis is thinned.
    component : (n,) int array
        Which Gaussian each image belongs to.
    offsets : (n, 2) int array or None
        Row and column of the pixel of each image of a delta basis.
    """

    images: np.ndarray
    horizontal: np.ndarray | None
    horizontal_index: np.ndarray | None
    vertical: np.ndarray | None
    minus_first: np.ndarray
    order: np.ndarray
    component: np.ndarray
    offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """The side of the images in pixels, odd."""
        return self.images.shape[1]

    @property
    def half_width(self) -> int:
        """``(size - 1) / 2`` in pixels."""
        return self.size // 2

    @cached_property
    def filters(self) -> tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.floating]]:
        """Horizontal filters, their index and vertical filters as the compiled convolution takes them."""
        horizontal, vertical = (
            np.ascontiguousarray(factors[:, ::-1], np.float32) for factors in (self.horizontal, self.vertical)
        )
        return horizontal, np.ascontiguousarray(self.horizontal_index, np.int64), vertical

    def gram(self) -> NDArray[np.floating]:
        """Return the scalar products of the images, ``(n, n)``."""
        flat = self.images.reshape(len(self), -1)
        return flat @ flat.T


def gaussian_basis(
    half_width: int, sigmas: NDArray[np.floating] | list[float], degrees: list[int]
) -> KernelBasis:
    r"""Return Gaussians times polynomials, :math:`x^a y^b \exp(-(x^2 + y^2) / 2 \sigma^2)`, :math:`a + b \le d`.

    Parameters
    ----------
    half_width : int
        Half width of the images in pixels.
    sigmas : sequence of float
        Gaussian widths in pixels.
    degrees : sequence of int
        Highest total degree of the polynomial of each Gaussian.

    Returns
    -------
    basis : KernelBasis
        ``sum (d + 1)(d + 2) / 2`` images.

    Notes
    -----
    When both powers are even the two factors have unit sums and the first image is subtracted, otherwise the
    sum is zero by symmetry: the kernel sum is the coefficient of the first image.

    References
    ----------
    Alard & Lupton 1998, ApJ 503, 325; Alard 2000, A&AS 144, 363.
    """
    if half_width < 1 or len(sigmas) == 0 or len(sigmas) != len(degrees) or min(sigmas) <= 0:
        raise InputError(
            f"a Gaussian basis needs half_width >= 1 and as many positive sigmas as degrees, "
            f"not half_width {half_width}, sigmas {list(sigmas)}, degrees {list(degrees)}"
        )
    at = np.arange(-half_width, half_width + 1, dtype=np.float64)
    horizontal, index, vertical, even, order, component = [], [], [], [], [], []
    for g, (sigma, degree) in enumerate(zip(sigmas, degrees, strict=True)):
        profile = np.exp(-(at**2) / (2 * sigma**2))
        first = len(horizontal)
        factors = [_factor(profile, at / sigma, power) for power in range(degree + 1)]
        horizontal.extend(factors)
        for a in range(degree + 1):
            for b in range(degree + 1 - a):
                index.append(first + a)
                vertical.append(factors[b])
                even.append(a % 2 == 0 and b % 2 == 0)
                order.append(a + b)
                component.append(g)
    horizontal, vertical, index = np.array(horizontal), np.array(vertical), np.array(index)
    minus_first = np.array(even)
    minus_first[0] = False
    images = vertical[:, :, None] * horizontal[index][:, None, :]
    images[minus_first] -= images[0]
    return KernelBasis(images, horizontal, index, vertical, minus_first, np.array(order), np.array(component))


def _factor(profile: NDArray[np.floating], at: NDArray[np.floating], power: int) -> NDArray[np.floating]:
    """Return one 1-D factor: unit sum for even powers, unit sum of absolute values for odd powers."""
    factor = profile * at**power
    factor = np.where(np.abs(factor) < 1e-12 * np.abs(factor).max(), 0, factor)  # denormal numbers are slow
    return factor / (factor.sum() if power % 2 == 0 else np.abs(factor).sum())


def delta_basis(half_width: int) -> KernelBasis:
    """Return one image per pixel: the central pixel first, then every other pixel minus the central one.

    Parameters
    ----------
    half_width : int
        Half width of the images in pixels.

    References
    ----------
    Bramich 2008, MNRAS 386, L77; Becker et al. 2012, MNRAS 425, 1341 (regularisation).
    """
    size = 2 * half_width + 1
    y, x = np.mgrid[:size, :size] - half_width
    rank = np.argsort((x**2 + y**2).ravel(), kind="stable")
    images = np.zeros((size * size, size, size))
    images.reshape(size * size, -1)[np.arange(size * size), rank] = 1.0
    images[1:] -= images[0]
    radius = np.rint(np.hypot(x, y).ravel()[rank]).astype(int)
    flags = np.ones(len(images), bool)
    flags[0] = False
    offsets = np.stack(np.divmod(rank, size), axis=1)
    return KernelBasis(images, None, None, None, flags, radius, np.zeros(len(images), int), offsets)


def roughness(basis: KernelBasis) -> NDArray[np.floating]:
    """Return the quadratic form of the second differences of a kernel, ``(n, n)``, of mean diagonal 1.

    A kernel with coefficients ``a`` has ``a @ roughness(basis) @ a`` proportional to the sum of the squares of its
    discrete Laplacian, taken as zero outside the box.

    Parameters
    ----------
    basis : KernelBasis

    References
    ----------
    Becker et al. 2012, MNRAS 425, 1341 (section 2.3, finite-difference penalty).
    """
    wide = np.pad(basis.images, ((0, 0), (2, 2), (2, 2)))
    inner = wide[:, 1:-1, 1:-1]
    curvature = (
        wide[:, 2:, 1:-1] + wide[:, :-2, 1:-1] + wide[:, 1:-1, 2:] + wide[:, 1:-1, :-2] - 4 * inner
    ).reshape(len(basis), -1)
    form = curvature @ curvature.T
    return form / np.trace(form) * len(basis)


def image_basis(images: NDArray[np.floating] | list[NDArray[np.floating]]) -> KernelBasis:
    """Return a basis made of given images: the first with unit sum, the first subtracted from the others.

    Parameters
    ----------
    images : (n, size, size) array
        For instance principal components of kernels; those whose sum is not zero are scaled to unit sum first.
    """
    shapes = {np.shape(image) for image in images}
    if len(shapes) > 1:
        raise InputError(f"basis images must be of one size, not {sorted(shapes)}")
    images = np.array(images, np.float64)
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.shape[1] % 2 == 0:
        raise InputError(f"basis images must be (n, size, size) with odd size, not {images.shape}")
    sums = images.sum(axis=(1, 2))
    norms = np.abs(images).sum(axis=(1, 2))
    if abs(sums[0]) < 1e-6 * norms[0]:
        raise InputError(f"the first basis image needs a sum that is not zero, not {sums[0]:.3g}")
    with_sum = np.abs(sums) > 1e-6 * norms
    images[with_sum] /= sums[with_sum][:, None, None]
    with_sum[0] = False
    images[with_sum] -= images[0]
    n = len(images)
    rank = np.linalg.matrix_rank(images.reshape(n, -1))
    if rank < n:
        raise InputError(f"the {n} basis images are not independent: their rank is {rank}")
    return KernelBasis(images, None, None, None, with_sum, np.arange(n), np.zeros(n, int))


def matching_widths(sigma_sharp: float, sigma_broad: float, *, floor: float = 0.7) -> NDArray[np.floating]:
    """Return Gaussian widths suited to two seeings.

    Parameters
    ----------
    sigma_sharp, sigma_broad : float
        Gaussian sigma of the PSF that is convolved and of the PSF to reach, in pixels.
    floor : float
        Smallest width in pixels; narrower Gaussians are not sampled.

    Returns
    -------
    sigmas : (3,) array
        Half, one and two times the width of the matching Gaussian.
    """
    match = np.sqrt(max(sigma_broad**2 - sigma_sharp**2, floor**2))
    return np.maximum(match * np.array([0.5, 1.0, 2.0]), floor * np.array([1.0, 1.5, 2.5]))
