"""The kernel solution in the order of the HOTPANTS kernel table."""

from __future__ import annotations

import numpy as np

from starmill.datamodel.geometry import Box
from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.differencing.kernel_basis import gaussian_basis
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.hotpants.options import HotpantsError

__all__ = ["kernel_from_solution", "solution_vector"]


def solution_vector(kernel, basis, config, background):
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
    order = max(len(f.coefficients) for f in kernel.fields) - 1
    powers = _powers(order)
    values = [0.0, float(kernel.fields[0].coefficients[0, 0])]
    for field, factor in zip(kernel.fields[1:], _factors(basis, config)[1:], strict=True):
        values += [float(field.coefficients[j, i]) * factor for i, j in powers]
    if background is not None:
        coefficients = np.atleast_2d(getattr(background, "coefficients", [[0.0]]))
        values += [
            float(coefficients[j, i]) if j < coefficients.shape[0] and i < coefficients.shape[1] else 0.0
            for i, j in _powers(config.bgo)
        ]
    length = len(basis) * len(powers) + len(_powers(config.bgo)) + 1
    return np.concatenate([values, np.zeros(max(0, length - len(values)))])


def kernel_from_solution(solution, config, box: Box):
    """Return the SpatialKernel and the background field of a solution vector."""
    basis = gaussian_basis(config.rkernel, config.sigma_gauss, config.deg_fixe)
    terms = SpatialTerms(box, config.ko, "polynomial")
    powers = _powers(config.ko)
    n = len(powers)
    if len(solution) < 2 + (len(basis) - 1) * n:
        raise HotpantsError(
            f"the kernel table has {len(solution)} rows, at least {2 + (len(basis) - 1) * n} are needed"
        )
    place = {degree: k for k, degree in enumerate(powers)}
    fields = [SpatialTerms(box, 0, "polynomial").field([solution[1]])]
    for b, factor in enumerate(_factors(basis, config)[1:]):
        part = np.asarray(solution[2 + b * n : 2 + (b + 1) * n]) / factor
        fields.append(terms.field([part[place[degree]] for degree in terms.degrees]))
    start = 2 + (len(basis) - 1) * n
    background_terms = SpatialTerms(box, config.bgo, "polynomial")
    order = {degree: k for k, degree in enumerate(_powers(config.bgo))}
    rest = np.asarray(solution[start : start + len(order)])
    background = background_terms.field(
        [rest[order[d]] if order[d] < len(rest) else 0.0 for d in background_terms.degrees]
    )
    return SpatialKernel(basis.images, fields), background


def _powers(order):
    return [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]


def _factors(basis, config):
    """Return what our coefficients are multiplied by: images that are not even in both powers are not normalised there."""
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
