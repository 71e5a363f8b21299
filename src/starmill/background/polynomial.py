"""Polynomial backgrounds of pieces of a map: several fitters, several orders and sizes, the best one by a score.

Coordinates are pixels of the piece that is fitted, counted from its first pixel. The scores compare on the same
pixels; with the noise given, chi2 and BIC use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.errors import InputError
from starmill.kernels.box_background import clip_sorted, fill_gaps

__all__ = [
    "SCORES", "BackgroundScore", "PolynomialBackground", "clip_limits", "clip_values", "evaluate_polynomial", "fill_masked",
    "fit_polynomial_background", "score_background",
]  # fmt: skip

SCORES = ("nmse", "redchi", "bic")
THEIL_SEN_SUBSETS = 10_000
"""Random subsets of a Theil-Sen fit, the published number; of fewer possible ones all are taken."""
HUBER_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class PolynomialBackground:
    """A fitted polynomial.

    Attributes
    ----------
    order : int
    coefficients : (terms,) float64 array
        Of x^i y^j for i = 0...order, j = 0...order - i, in the order of :func:`exponents`.
    origin, scale : float pairs
        The polynomial is in ((x - origin[0]) / scale, (y - origin[1]) / scale).
    method : str
    """

    order: int
    coefficients: NDArray[np.float64]
    origin: tuple[float, float]
    scale: float
    method: str

    def __call__(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Value at pixel positions."""
        return evaluate_polynomial(self, x, y)


@dataclass(frozen=True, slots=True)
class BackgroundScore:
    """How well a background describes the pixels it should: smaller is better.

    Attributes
    ----------
    nmse : float
        Mean squared residual over mean squared value.
    reduced_chi2 : float
    bic : float
        Bayesian information criterion.
    n : int
        Pixels.
    """

    nmse: float
    reduced_chi2: float
    bic: float
    n: int

    def of(self, name: str) -> float:
        """Return the score of a name of :data:`SCORES`."""
        return {"nmse": self.nmse, "redchi": self.reduced_chi2, "bic": self.bic}[name]


def exponents(order: int) -> list[tuple[int, int]]:
    """Return the powers (i, j) of x and y of all terms up to a total order."""
    return [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]


def _terms(x: NDArray[Any], y: NDArray[Any], order: int) -> NDArray[np.float64]:
    return np.stack([x**i * y**j for i, j in exponents(order)], axis=-1)


def evaluate_polynomial(fit: PolynomialBackground, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Return the value of a fitted polynomial at pixel positions."""
    u = (np.asarray(x, np.float64) - fit.origin[0]) / fit.scale
    v = (np.asarray(y, np.float64) - fit.origin[1]) / fit.scale
    return _terms(u, v, fit.order) @ fit.coefficients


def clip_values(values: NDArray[Any], n_sigma: float = 3.0, n_iterations: int = 10) -> NDArray[np.bool_]:
    """Mark the values that survive iterative clipping of n_sigma standard deviations around the median.

    Parameters
    ----------
    values : (n,) array
        NaN does not survive.
    n_sigma, n_iterations
    """
    low, high, _ = clip_limits(np.ravel(values), n_sigma, n_iterations)
    return np.asarray((values >= low) & (values <= high))


def clip_limits(
    values: NDArray[Any], n_sigma: float = 3.0, n_iterations: int = 10
) -> tuple[float, float, float]:
    """Return the smallest and the largest value that survive clipping, and the median of all that do.

    Parameters
    ----------
    values : (n,) array
        NaN does not survive.
    n_sigma, n_iterations
        See :func:`clip_values`.
    """
    ordered = np.sort(np.asarray(values, np.float64))  # NaN last
    n = int(np.searchsorted(ordered, np.inf))
    skip = int(np.searchsorted(ordered[:n], -np.inf, side="right"))
    ordered = ordered[skip:n]
    if ordered.size == 0:
        return np.inf, -np.inf, np.nan
    first, last = clip_sorted(ordered, float(n_sigma), int(n_iterations))
    count = last - first
    middle = 0.5 * (ordered[first + (count - 1) // 2] + ordered[first + count // 2])
    return float(ordered[first]), float(ordered[last - 1]), float(middle)


def fit_polynomial_background(
    x: NDArray[Any], y: NDArray[Any], values: NDArray[Any], order: int, *,
    method: str = "least_squares", epsilon: float = 1.35, seed: int = 42,
) -> PolynomialBackground:  # fmt: skip
    """Fit a full two-dimensional polynomial to listed pixels.

    Parameters
    ----------
    x, y, values : (n,) arrays
    order : int
        Largest i + j.
    method : {'least_squares', 'huber', 'theilsen'}
    epsilon : float
        Residual, in robust standard deviations, beyond which Huber's loss is linear.
    seed : int
        Of the random subsets of Theil-Sen.

    Notes
    -----
    The spatial median depends on the frame of the coefficients. As published it is that of coefficients in pixels from
    the first pixel of the box, where the constant term decides nearly alone.

    References
    ----------
    Huber 1981, Robust Statistics, section 7.7 (with the scale); Dang et al. 2008 (Theil-Sen estimators in multiple
    regression: spatial median of exact fits to subsets).
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    values = np.asarray(values, np.float64)
    n_terms = len(exponents(order))
    if values.size < n_terms:
        raise InputError(
            f"{values.size} pixels cannot fix the {n_terms} terms of a polynomial of order {order}"
        )
    origin = (float(x.mean()), float(y.mean()))
    scale = max(1.0, float(max(np.ptp(x), np.ptp(y))) / 2.0)
    if method == "theilsen":
        origin, scale = (0.0, 0.0), 1.0
    A = _terms((x - origin[0]) / scale, (y - origin[1]) / scale, order)
    if method == "least_squares":
        coefficients = np.linalg.lstsq(A, values, rcond=None)[0]
    elif method == "huber":
        coefficients = _huber(A, values, epsilon)
    elif method == "theilsen":
        coefficients = _theil_sen(A, values, seed)
    else:
        raise InputError(f"unknown background fitter {method!r} (known: least_squares, huber, theilsen)")
    return PolynomialBackground(order, np.asarray(coefficients, np.float64), origin, scale, method)


def _huber(A: NDArray[np.float64], values: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """Huber's estimate together with that of the scale (his proposal 2), by iteratively re-weighted normal equations.

    The terms are of order one, so that the normal equations are as good as an orthogonal solution and several times
    quicker.
    """
    coefficients = np.linalg.lstsq(A, values, rcond=None)[0]
    residual = np.abs(values - A @ coefficients)
    scale = float(np.sqrt(np.mean(residual**2)))
    for _ in range(HUBER_ITERATIONS):
        if not scale > 0.0:
            break
        outside = residual > epsilon * scale
        n_inside = values.size - epsilon**2 * np.count_nonzero(outside)
        if n_inside > 0:
            scale = float(np.sqrt(np.sum(residual[~outside] ** 2) / n_inside))
        weight = np.minimum(1.0, epsilon * scale / np.maximum(residual, 1e-300))
        weighted = A.T * weight
        moved = np.linalg.lstsq(weighted @ A, weighted @ values, rcond=None)[0]
        change = np.abs(moved - coefficients).max()
        coefficients = moved
        residual = np.abs(values - A @ coefficients)
        if change <= 1e-7 * scale:
            break
    return coefficients


def _theil_sen(A: NDArray[np.float64], values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Spatial median of the exact solutions of all or many random subsets."""
    n, m = A.shape
    if comb(n, m) <= THEIL_SEN_SUBSETS:
        subset = np.array(list(combinations(range(n), m)), np.int64).reshape(-1, m)
    else:
        subset = np.random.default_rng(seed).integers(n, size=(THEIL_SEN_SUBSETS, m))
    matrices = A[subset]
    size = np.prod(np.linalg.norm(matrices, axis=1), axis=1)
    good = np.abs(np.linalg.det(matrices)) > 1e-9 * size
    if not good.any():
        return np.linalg.lstsq(A, values, rcond=None)[0]
    solutions = np.linalg.solve(matrices[good], values[subset[good]][..., None])[..., 0]
    centre = np.median(solutions, axis=0)
    if m == 1:
        return np.asarray(centre, np.float64)
    for _ in range(100):  # Weiszfeld's iteration
        distance = np.maximum(np.linalg.norm(solutions - centre, axis=1), 1e-300)
        moved = (solutions / distance[:, None]).sum(axis=0) / (1.0 / distance).sum()
        if np.linalg.norm(moved - centre) <= 1e-6 * (np.linalg.norm(centre) + 1e-300):
            break
        centre = moved
    return centre


def score_background(
    background: NDArray[Any], values: NDArray[Any], n_terms: int, noise: float
) -> BackgroundScore:
    """Score a background on pixels that belong to no source.

    Parameters
    ----------
    background, values : (n,) arrays
        Model and data on the same pixels; give every candidate the same ones.
    n_terms : int
        Parameters of the model.
    noise : float
        Standard deviation of a pixel.
    """
    residual = np.asarray(values, np.float64) - background
    n = residual.size
    chi2 = float(np.sum((residual / noise) ** 2))
    power = float(np.mean(np.asarray(values, np.float64) ** 2))
    return BackgroundScore(
        nmse=float(np.mean(residual**2)) / power if power > 0 else np.inf,
        reduced_chi2=chi2 / max(n - n_terms, 1),
        bic=chi2 + n_terms * np.log(max(n, 1)),
        n=n,
    )


def fill_masked(image: NDArray[Any], widths: Sequence[float] = tuple(range(2, 11))) -> NDArray[np.float64]:
    """Replace NaN by the Gaussian mean of what is around; outside of the image counts as zero.

    Parameters
    ----------
    image : (ny, nx) array
        About zero on average.
    widths : sequence of float, pixel
        Standard deviations to try; the first one that reaches every missing pixel is used.

    Returns
    -------
    filled : (ny, nx) float64 array
        Pixels that even the widest Gaussian does not reach stay NaN.
    """
    image = np.ascontiguousarray(image, np.float64)
    filled = image.copy()
    if np.isnan(image).all():
        return filled
    fill_gaps(image, np.array(widths, np.float64), filled)
    return filled
