"""Least-squares fits of smooth two-dimensional functions to scattered values."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from starmill.datamodel.field import ChebyshevField, PolynomialField
from starmill.datamodel.geometry import Box
from starmill.numerics.least_squares import LinearFit, clipped_least_squares, linear_least_squares


def fit_chebyshev(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    box: Box,
    order: int | tuple[int, int],
    weights: ArrayLike | None = None,
    triangular: bool = True,
    n_sigma: float | None = None,
) -> ChebyshevField:
    """Fit a sum of products of Chebyshev polynomials of the first kind.

    Parameters
    ----------
    x, y : (n,) arrays
        Positions in the parent frame, pixels.
    values : (n,) array
        Values that are not finite are left out.
    box : Box
        Domain of the polynomials; its pixel edges are scaled to [-1, 1].
    order : int or (order in x, order in y)
        Highest degree.
    weights : (n,) array, optional
        Inverse variances; they multiply the squared residuals.
    triangular : bool
        Keep only terms T_i(x) T_j(y) with i + j <= the larger order; all products otherwise.
    n_sigma : float, optional
        Leave out outliers beyond this many robust standard deviations, iterating.

    Returns
    -------
    field : ChebyshevField

    Raises
    ------
    AlgorithmError
        When the values do not determine the coefficients.
    """
    coefficients, _ = fit_terms(
        "chebyshev", x, y, values, box=box, order=order, weights=weights, triangular=triangular, n_sigma=n_sigma
    )  # fmt: skip
    return ChebyshevField(box, coefficients)


def fit_polynomial(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    box: Box,
    order: int | tuple[int, int],
    weights: ArrayLike | None = None,
    triangular: bool = True,
    n_sigma: float | None = None,
) -> PolynomialField:
    """Fit an ordinary polynomial in positions scaled to [-1, 1]; arguments as :func:`fit_chebyshev`."""
    coefficients, _ = fit_terms(
        "polynomial", x, y, values, box=box, order=order, weights=weights, triangular=triangular, n_sigma=n_sigma
    )  # fmt: skip
    return PolynomialField(box, coefficients)


def fit_terms(
    family: str,
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    box: Box,
    order: int | tuple[int, int],
    weights: ArrayLike | None = None,
    triangular: bool = True,
    n_sigma: float | None = None,
) -> tuple[NDArray[np.float64], LinearFit]:
    """Fit ``"chebyshev"`` or ``"polynomial"`` terms; returns coefficients [y order, x order] and the fit.

    The coefficients of the fit are those of :func:`term_exponents`, in its order.
    """
    order_x, order_y = (order, order) if np.isscalar(order) else order
    design = term_matrix(family, x, y, box=box, order=order, triangular=triangular)
    if n_sigma is None:
        fit = linear_least_squares(design, values, weights)
    else:
        fit = clipped_least_squares(design, values, weights, n_sigma=n_sigma)
    coefficients = np.zeros((order_y + 1, order_x + 1))
    i, j = term_exponents(order, triangular)
    coefficients[j, i] = fit.coefficients
    return coefficients, fit


def term_exponents(
    order: int | tuple[int, int], triangular: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Degrees (in x, in y) of the terms of a two-dimensional polynomial, x running fastest."""
    order_x, order_y = (order, order) if np.isscalar(order) else order
    j, i = np.mgrid[: order_y + 1, : order_x + 1]
    keep = (i + j <= max(order_x, order_y)) if triangular else np.ones(i.shape, bool)
    return i[keep], j[keep]


def term_matrix(
    family: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    box: Box,
    order: int | tuple[int, int],
    triangular: bool = True,
) -> NDArray[np.float64]:
    """Values of all terms at all positions, (n positions, n terms); domain scaled as in :func:`fit_chebyshev`."""
    order_x, order_y = (order, order) if np.isscalar(order) else order
    u, v = ChebyshevField(box, [[0.0]]).scaled(np.ravel(x), np.ravel(y))
    if family == "chebyshev":
        along_x, along_y = chebyshev.chebvander(u, order_x), chebyshev.chebvander(v, order_y)
    elif family == "polynomial":
        along_x = np.vander(u, order_x + 1, increasing=True)
        along_y = np.vander(v, order_y + 1, increasing=True)
    else:
        raise ValueError(f"unknown family of terms {family!r}: chebyshev or polynomial")
    i, j = term_exponents(order, triangular)
    return along_x[:, i] * along_y[:, j]
