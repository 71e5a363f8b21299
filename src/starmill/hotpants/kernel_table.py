"""The kernel solution in the order of the HOTPANTS kernel table."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import PolynomialField
from starmill.datamodel.geometry import Box
from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.differencing.kernel_basis import KernelBasis
from starmill.hotpants.options import HotpantsError

if TYPE_CHECKING:
    from starmill.hotpants.options import HotpantsConfig


__all__ = ["kernel_from_solution", "program_basis", "solution_vector"]


def program_basis(config: HotpantsConfig) -> KernelBasis:
    """Return the basis of a configuration in the normalisation of the C program.

    There, images that are not even in both powers are not normalised, and the exponents of the Gaussians are in
    single precision.
    """
    at = np.arange(-config.rkernel, config.rkernel + 1, dtype=float)
    horizontal, vertical, even, order, component = [], [], [], [], []
    for g, (sigma, degree) in enumerate(zip(config.sigma_gauss, config.deg_fixe, strict=True)):
        profile = np.exp(-(at**2) * float(np.float32(1 / (2 * sigma**2))))
        for a in range(degree + 1):
            for b in range(degree + 1 - a):
                even.append(a % 2 == 0 and b % 2 == 0)
                sides = [profile * at**a, profile * at**b]
                if even[-1]:
                    sides = [side / side.sum() for side in sides]
                horizontal.append(sides[0])
                vertical.append(sides[1])
                order.append(a + b)
                component.append(g)
    n = len(even)
    minus_first = np.array(even)
    minus_first[0] = False
    images = np.array(vertical)[:, :, None] * np.array(horizontal)[:, None, :]
    images[minus_first] -= images[0]
    return KernelBasis(
        images, np.array(horizontal), np.arange(n), np.array(vertical), minus_first, np.array(order), np.array(component)
    )  # fmt: skip


def solution_vector(
    kernel: SpatialKernel, basis: KernelBasis, config: HotpantsConfig, background: PolynomialField | None
) -> NDArray[np.floating]:
    """Return the coefficients in the order and normalisation of the C program.

    Parameters
    ----------
    kernel : SpatialKernel
        Polynomial fields.
    basis : KernelBasis
        All images are used.
    config : HotpantsConfig
    background : PolynomialField or None

    Returns
    -------
    solution : (n_basis * n_terms + n_background + 1,) array
        Element 0 is not used, 1 is the sum; then per basis image the powers ``(ix, iy)``, ix slow; then the background.
    """
    powers = _powers(config.ko)
    values = [0.0, float(kernel.fields[0].coefficients[0, 0])]
    for field, factor in zip(kernel.fields[1:], _factors(basis, config)[1:], strict=True):
        values += _picked(_moved(field, 1), powers, factor)
    if background is not None:
        values += _picked(_moved(background, 1), _powers(config.bgo), 1.0)
    length = len(basis) * len(powers) + len(_powers(config.bgo)) + 1
    return np.concatenate([values, np.zeros(max(0, length - len(values)))])


def kernel_from_solution(
    solution: NDArray[np.floating], config: HotpantsConfig, box: Box, basis: KernelBasis | None = None
) -> tuple[SpatialKernel, PolynomialField]:
    """Return the SpatialKernel and the background field of a solution vector.

    Parameters
    ----------
    solution : (n,) array
        As from `solution_vector`.
    config : HotpantsConfig
    box : Box
        Of the region.
    basis : KernelBasis, optional
        In the normalisation of the C program; made from the configuration when not given.
    """
    basis = basis or program_basis(config)
    powers = _powers(config.ko)
    n = len(powers)
    if len(solution) < 2 + (len(basis) - 1) * n:
        raise HotpantsError(
            f"the kernel table has {len(solution)} rows, at least {2 + (len(basis) - 1) * n} are needed"
        )
    fields = [PolynomialField(box, [[solution[1]]])]
    fields += [_field(box, solution[2 + b * n : 2 + (b + 1) * n], config.ko) for b in range(len(basis) - 1)]
    start = 2 + (len(basis) - 1) * n
    rest = np.zeros(len(_powers(config.bgo)))
    given = np.asarray(solution[start : start + len(rest)])
    rest[: len(given)] = given
    return SpatialKernel(basis.images, fields), _field(box, rest, config.bgo)


def _field(box: Box, values: NDArray[np.floating], order: int) -> PolynomialField:
    """Return the polynomial of one run of coefficients of the table."""
    grid = np.zeros((order + 1, order + 1))
    for (i, j), value in zip(_powers(order), values, strict=True):
        grid[j, i] = value
    return PolynomialField(box, _moved(PolynomialField(box, grid), -1))


def _moved(field: PolynomialField, direction: int) -> NDArray[np.floating]:
    """Return the coefficients of a polynomial whose variables are centred half a pixel away.

    The C program scales positions as ``(x - n / 2) / (n / 2)``; the centre of our box is ``(n - 1) / 2``.
    """
    coefficients = np.atleast_2d(getattr(field, "coefficients", [[0.0]]))
    matrices = []
    for size, length in zip(coefficients.shape, (field.box.height, field.box.width), strict=True):
        step = direction / length
        matrices.append(
            [[comb(k, i) * step ** (k - i) if k >= i else 0.0 for k in range(size)] for i in range(size)]
        )
    return np.array(matrices[0]) @ coefficients @ np.array(matrices[1]).T


def _picked(coefficients: NDArray[np.floating], powers: list[tuple[int, int]], factor: float) -> list[float]:
    ny, nx = coefficients.shape
    return [float(coefficients[j, i]) * factor if j < ny and i < nx else 0.0 for i, j in powers]


def _powers(order: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]


def _factors(basis: KernelBasis, config: HotpantsConfig) -> list[float]:
    """Return what our coefficients are multiplied by: images that are not even in both powers are not normalised there."""
    if config.use_pca and config.pca_images:
        return [1.0] * len(basis)
    at = np.arange(-basis.half_width, basis.half_width + 1, dtype=float)
    factors = []
    k = 0
    for sigma, degree in zip(config.sigma_gauss, config.deg_fixe, strict=True):
        profile = np.exp(-(at**2) / (2 * sigma**2))
        for a in range(degree + 1):
            for b in range(degree + 1 - a):
                raw = np.outer(profile * at**b, profile * at**a)
                even = a % 2 == 0 and b % 2 == 0
                factors.append(1.0 if even else float((basis.images[k] * raw).sum() / (raw**2).sum()))
                k += 1
    return factors
