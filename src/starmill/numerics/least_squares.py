"""Linear least squares with weights, covariance, a check of the condition, and two ways to resist outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starmill.errors import AlgorithmError
from starmill.numerics.statistics import MAD_TO_SIGMA

MAX_CONDITION = 1e12


@dataclass(frozen=True, slots=True)
class LinearFit:
    """Solution of a linear least-squares problem with k parameters and n values.

    Attributes
    ----------
    coefficients : (k,) array
    covariance : (k, k) array
        From the weights alone (they are taken as inverse variances). With unit weights multiply by
        :attr:`reduced_chi2`.
    residuals : (n,) array
        Values minus model; NaN where the value was not finite.
    used : (n,) bool array
        What the last iteration kept.
    chi2 : float
        Sum over the used values of weight * residual**2.
    condition : float
        Condition number of the weighted design matrix with columns scaled to unit length.
    """

    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    residuals: NDArray[np.float64]
    used: NDArray[np.bool_]
    chi2: float
    condition: float

    @property
    def n_used(self) -> int:
        """Number of values that the solution rests on."""
        return int(self.used.sum())

    @property
    def dof(self) -> int:
        """Degrees of freedom."""
        return self.n_used - self.coefficients.size

    @property
    def reduced_chi2(self) -> float:
        """chi2 per degree of freedom; NaN without any."""
        return self.chi2 / self.dof if self.dof > 0 else np.nan

    @property
    def errors(self) -> NDArray[np.float64]:
        """Standard errors of the coefficients, from the weights alone."""
        return np.sqrt(np.diag(self.covariance))


def linear_least_squares(
    design: ArrayLike,
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    max_condition: float = MAX_CONDITION,
) -> LinearFit:
    """Solve ``design @ coefficients = values`` in the least-squares sense.

    Parameters
    ----------
    design : (n, k) array
        Finite wherever a value is used.
    values : (n,) array
        Those that are not finite are left out.
    weights : (n,) array, optional
        Inverse variances; values with a weight that is zero, negative or not finite are left out.
    max_condition : float
        Largest condition number that is accepted, columns scaled to unit length.

    Returns
    -------
    fit : LinearFit

    Raises
    ------
    AlgorithmError
        With fewer usable values than parameters, or a condition number above the limit.

    Notes
    -----
    The weighted design matrix is decomposed by singular values, so the normal equations, which square the
    condition number, are never formed. Cost n k**2.
    """
    design = np.asarray(design, dtype=np.float64)
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(values.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    used = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
    return _solve(design, values, weights, used, max_condition)


def clipped_least_squares(
    design: ArrayLike,
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_sigma: float = 3.0,
    n_iterations: int = 10,
    max_condition: float = MAX_CONDITION,
) -> LinearFit:
    """As :func:`linear_least_squares`, leaving out outliers until nothing changes.

    A value is kept when its weighted residual lies within ``n_sigma`` times the robust standard deviation
    (1.4826 median absolute value) of the weighted residuals of the last kept set; left-out values can come
    back.
    """
    design = np.asarray(design, dtype=np.float64)
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(values.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    usable = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
    fit = _solve(design, values, weights, usable, max_condition)
    for _ in range(n_iterations):
        scaled = np.abs(fit.residuals) * np.sqrt(np.where(usable, weights, 0.0))
        limit = n_sigma * MAD_TO_SIGMA * np.median(scaled[fit.used])
        keep = usable & (scaled <= limit) if limit > 0 else usable & (scaled <= np.finfo(float).tiny)
        if limit == 0.0 or np.array_equal(keep, fit.used):
            break
        fit = _solve(design, values, weights, keep, max_condition)
    return fit


def huber_least_squares(
    design: ArrayLike,
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    threshold: float = 1.345,
    n_iterations: int = 50,
    tolerance: float = 1e-8,
    max_condition: float = MAX_CONDITION,
) -> LinearFit:
    """As :func:`linear_least_squares`, with residuals beyond ``threshold`` robust sigmas counted linearly.

    ``threshold`` 1.345 keeps 95 % efficiency for Gaussian errors (Huber 1964, Ann. Math. Stat. 35, 73);
    solved by iteratively reweighted least squares. ``chi2`` and ``covariance`` hold the final weights.
    """
    design = np.asarray(design, dtype=np.float64)
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(values.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    used = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
    fit = _solve(design, values, weights, used, max_condition)
    for _ in range(n_iterations):
        scaled = np.where(used, np.abs(fit.residuals) * np.sqrt(np.where(used, weights, 0.0)), 0.0)
        sigma = MAD_TO_SIGMA * np.median(scaled[used])
        if sigma == 0.0:
            break
        factor = threshold * sigma / np.maximum(scaled, threshold * sigma)
        last = fit.coefficients
        fit = _solve(design, values, weights * factor, used, max_condition)
        if np.all(np.abs(fit.coefficients - last) <= tolerance * (np.abs(last) + np.abs(last).max())):
            break
    return fit


def _solve(
    design: NDArray[np.float64],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    used: NDArray[np.bool_],
    max_condition: float,
) -> LinearFit:
    """Weighted solution on the values marked in ``used``."""
    n_parameters = design.shape[1]
    n_used = int(used.sum())
    if n_used < n_parameters:
        raise AlgorithmError(
            "a linear fit has fewer usable values than parameters",
            numbers={"values": n_used, "parameters": n_parameters},
        )
    root = np.sqrt(weights[used])
    weighted = design[used] * root[:, None]
    scale = np.sqrt(np.sum(weighted**2, axis=0))
    scale[scale == 0] = 1.0
    left, singular, right = np.linalg.svd(weighted / scale, full_matrices=False)
    condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else np.inf
    if condition > max_condition:
        raise AlgorithmError(
            "a linear fit is not determined by its values",
            numbers={"condition": condition, "limit": max_condition, "parameters": n_parameters},
        )
    inverse = right.T / singular
    coefficients = inverse @ (left.T @ (values[used] * root)) / scale
    residuals = np.where(np.isfinite(values), values - design @ coefficients, np.nan)
    return LinearFit(
        coefficients=coefficients,
        covariance=(inverse @ inverse.T) / np.outer(scale, scale),
        residuals=residuals,
        used=used.copy(),
        chi2=float(np.sum(weights[used] * residuals[used] ** 2)),
        condition=condition,
    )
