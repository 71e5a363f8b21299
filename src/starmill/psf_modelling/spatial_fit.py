"""Polynomial terms over the field, the order that a number of stars can carry, and fits of parameters to positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import ChebyshevField
from starmill.datamodel.geometry import Box

_MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation of a Gaussian


def supported_order(n_stars: int, wanted: int, stars_per_term: float = 3) -> int:
    """Return the largest order up to ``wanted`` for which every coefficient has ``stars_per_term`` stars.

    Parameters
    ----------
    n_stars : int
    wanted : int
        Largest total order.
    stars_per_term : float

    Returns
    -------
    order : int
        At least 0.
    """
    order = wanted
    while order > 0 and n_stars < stars_per_term * (order + 1) * (order + 2) // 2:
        order -= 1
    return order


def term_exponents(order: int) -> NDArray[np.integer]:
    """Return the (x, y) orders of the terms of total order up to ``order``, the constant first, (n_terms, 2)."""
    return np.array([(total - j, j) for total in range(order + 1) for j in range(total + 1)])


def unit_fields(box: Box, order: int) -> list[ChebyshevField]:
    """Return one Chebyshev field for each product ``T_i(x) T_j(y)``, in the order of :func:`term_exponents`."""
    fields = []
    for i, j in term_exponents(order):
        coefficients = np.zeros((j + 1, i + 1))
        coefficients[j, i] = 1.0
        fields.append(ChebyshevField(box, coefficients))
    return fields


def spatial_terms(
    x: NDArray[np.floating], y: NDArray[np.floating], box: Box, order: int
) -> NDArray[np.floating]:
    """Return the values of the terms at positions.

    Parameters
    ----------
    x, y : (n,) array, pixel
        Parent frame.
    box : Box
        Positions are scaled to [-1, 1] over it.
    order : int

    Returns
    -------
    terms : (n, n_terms) float64
    """
    u, v = ChebyshevField(box, [[0.0]]).scaled(x, y)
    along_x = np.polynomial.chebyshev.chebvander(u, order)
    along_y = np.polynomial.chebyshev.chebvander(v, order)
    exponents = term_exponents(order)
    return along_x[:, exponents[:, 0]] * along_y[:, exponents[:, 1]]


def field_from_terms(box: Box, order: int, coefficients: NDArray[np.floating]) -> ChebyshevField:
    """Return the Chebyshev field with these coefficients, in the order of :func:`term_exponents`."""
    matrix = np.zeros((order + 1, order + 1))
    for (i, j), value in zip(term_exponents(order), coefficients, strict=True):
        matrix[j, i] = value
    return ChebyshevField(box, matrix)


def fit_parameter_fields(
    values: NDArray[np.floating],
    weights: NDArray[np.floating],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    box: Box,
    order: int,
    *,
    n_sigma: float = 3.0,
    iterations: int = 5,
) -> tuple[list[ChebyshevField], NDArray[np.bool_]]:
    """Fit smooth fields to parameters measured at positions, leaving out stars that do not follow.

    Parameters
    ----------
    values : (n, n_parameters) array
    weights : (n,) array
        Relative weight of each star; not positive excludes it.
    x, y : (n,) array, pixel
    box : Box
    order : int
        Total order; the caller lowers it for few stars with :func:`supported_order`.
    n_sigma : float
        A star is left out when one parameter, in units of its error, is further off than this many robust
        standard deviations.
    iterations : int

    Returns
    -------
    fields : list of ChebyshevField
        One for each parameter.
    kept : (n,) bool
        Stars that were used.
    """
    values = np.asarray(values, dtype=np.float64)
    terms = spatial_terms(x, y, box, order)
    usable = np.isfinite(values).all(axis=1) & (np.asarray(weights) > 0)
    kept = usable.copy()
    root = np.sqrt(np.where(usable, weights, 0.0))[:, None]
    coefficients = np.zeros((terms.shape[1], values.shape[1]))
    for _ in range(iterations):
        coefficients = np.linalg.lstsq((terms * root)[kept], (values * root)[kept], rcond=None)[0]
        residual = root * np.where(usable[:, None], values - terms @ coefficients, 0.0)
        scatter = _MAD_TO_SIGMA * np.median(np.abs(residual[kept]), axis=0)
        update = usable & (np.abs(residual) <= n_sigma * scatter + 1e-12).all(axis=1)
        if update.sum() < max(3, 2 * terms.shape[1]) or np.array_equal(update, kept):
            break
        kept = update
    fields = [field_from_terms(box, order, column) for column in coefficients.T]
    return fields, kept
