"""Smooth correction of every flux to the scale of one of them, from stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import ChebyshevField
from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError
from starmill.numerics.field_fit import fit_chebyshev

MAD_TO_SIGMA = 1.482602218505602


FLOOR = 0.005  # scatter of the ratios of bright stars: they must not rule alone


@dataclass(frozen=True)
class ApertureCorrection:
    """Factor by which a flux is multiplied, as a smooth field.

    Attributes
    ----------
    field : ChebyshevField
        Factor over the image.
    error : ChebyshevField
        Its error, constant: the scatter of the stars about the field over the root of their number
        less the number of terms.
    used : (n,) bool array
        Stars in the fit.
    scatter : float
        Robust standard deviation of the ratios about the field.
    """

    field: ChebyshevField
    error: ChebyshevField
    used: NDArray[np.bool_]
    scatter: float


def fit_aperture_correction(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    ratio: NDArray[np.float64],
    *,
    box: Box,
    order: int = 2,
    n_sigma: float = 4.0,
    n_iterations: int = 4,
    min_degrees_of_freedom: int = 1,
    ratio_err: NDArray[np.float64] | None = None,
) -> ApertureCorrection:
    """Fit the ratio of the reference flux to another flux of stars.

    Parameters
    ----------
    x, y : (n,) array, pixels
        Parent frame.
    ratio : (n,) array
        Reference flux over flux; values that are not finite are left out.
    box : Box
        Of the image.
    order : int
        Of the Chebyshev polynomials (sum of both degrees); lowered when the stars are few.
    n_sigma : float
        Stars farther from the field than this many robust standard deviations are left out.
    n_iterations : int
    min_degrees_of_freedom : int
        Stars less terms.
    ratio_err : (n,) array, optional
        Errors of the ratios, for the weights and the rejection; all count alike when they are not given.

    Returns
    -------
    correction : ApertureCorrection

    Raises
    ------
    AlgorithmError
        When not even a constant can be fitted.
    """
    used = np.isfinite(ratio) & np.isfinite(x) & np.isfinite(y)
    weights = np.ones(len(ratio))
    if ratio_err is not None:
        used &= np.isfinite(ratio_err)
        weights[used] = 1 / (ratio_err[used] ** 2 + FLOOR**2)
    fitted: ChebyshevField | None = None
    n_terms = 1
    for _ in range(n_iterations):
        lower = _allowed_order(int(used.sum()), order, min_degrees_of_freedom)
        n_terms = (lower + 1) * (lower + 2) // 2
        fitted = fit_chebyshev(x[used], y[used], ratio[used], box=box, order=lower, weights=weights[used])
        residual = (ratio - fitted(x, y)) * np.sqrt(weights)
        spread = MAD_TO_SIGMA * np.median(np.abs(residual[used] - np.median(residual[used])))
        keep = used & (np.abs(residual) <= n_sigma * spread + 1e-12)
        if keep.sum() == used.sum():
            break
        if keep.sum() < min_degrees_of_freedom + 1:
            break
        used = keep
    if fitted is None:
        raise AlgorithmError(
            "no round of the aperture correction was allowed", numbers={"n_iterations": n_iterations}
        )
    residual = (ratio - fitted(x, y))[used]
    middle = _weighted_median(residual, weights[used])
    fitted = ChebyshevField(box, _shifted(fitted.coefficients, middle))
    scatter = float(MAD_TO_SIGMA * np.median(np.abs(residual - middle)))
    effective = weights[used].sum() ** 2 / (weights[used] ** 2).sum()  # stars of equal weight
    scaled = MAD_TO_SIGMA * np.median(np.abs(residual - middle) * np.sqrt(weights[used]))
    error = scaled / np.sqrt(weights[used].mean()) / np.sqrt(max(min(effective, len(residual)) - n_terms, 1))
    return ApertureCorrection(fitted, ChebyshevField(box, np.array([[error]])), used, scatter)


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the value with half of the weight below it; the usual median for equal weights."""
    if np.all(weights == weights[0]):
        return float(np.median(values))
    order = np.argsort(values)
    growth = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(growth, 0.5 * growth[-1])])


def _allowed_order(n: int, order: int, degrees_of_freedom: int) -> int:
    """Return the largest order, at most ``order``, that leaves enough degrees of freedom."""
    while order >= 0 and n - (order + 1) * (order + 2) // 2 < degrees_of_freedom:
        order -= 1
    if order < 0:
        raise AlgorithmError(
            "too few stars for an aperture correction", numbers={"stars": n, "needed": degrees_of_freedom + 1}
        )
    return order


def _shifted(coefficients: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Return coefficients of the field plus a constant."""
    out = np.array(coefficients, np.float64)
    out[0, 0] += shift
    return out
