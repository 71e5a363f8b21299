"""Smooth correction of every flux to the scale of one of them, from stars."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import ChebyshevField
from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError
from starmill.numerics.field_fit import fit_chebyshev, term_exponents, term_matrix
from starmill.numerics.least_squares import LinearFit, linear_least_squares

MAD_TO_SIGMA = 1.482602218505602
SHARED = 0.02  # part of the smaller variance that two fluxes of a star do not share
NOISE_FACTORS = np.geomspace(
    1.0, 8.0, 8
)  # of the variance: faint neighbours add noise that no variance image knows
STAR_SCATTER = np.concatenate([[0.0], np.geomspace(2e-4, 0.3, 14)])  # of the ratio of stars without any noise
FEW_STARS = 20  # fewer do not tell their own noise, nor the sky
FEW_STARS_SCATTER = 0.005  # theirs, taken for granted
SKY_OF_NOISE = 0.5  # largest constant light expected, as a part of the noise of one star
TERM_PENALTY = 1.6  # over that of Gaussian noise: neighbours make the ratios of real stars scatter farther
MAX_ERROR = 0.3  # of a ratio, as a part of it; beyond nothing is corrected
GRID = 7  # points along each side at which an inverse is fitted


@dataclass(frozen=True)
class ApertureCorrection:
    """Factor by which a flux is multiplied, as a smooth field.

    Attributes
    ----------
    field : ChebyshevField
        Factor over the image.
    error : ChebyshevField
        Its error, constant: root mean square over the stars, from their errors and scatter.
    used : (n,) bool array
        Stars in the fit.
    scatter : float
        Robust standard deviation of the ratios of flux and reference about the field.
    offset : float
        Light that the flux of every star has more than its factor says, unit of the flux: what is left of the sky and
        of faint neighbours in the larger aperture. Not part of the factor; 0 where it was not fitted.
    """

    field: ChebyshevField
    error: ChebyshevField
    used: NDArray[np.bool_]
    scatter: float
    offset: float = 0.0


def fit_aperture_correction(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    reference: NDArray[np.float64],
    *,
    box: Box,
    flux_err: NDArray[np.float64] | None = None,
    reference_err: NDArray[np.float64] | None = None,
    order: int = 2,
    n_sigma: float = 3.0,
    n_iterations: int = 8,
    min_degrees_of_freedom: int = 1,
) -> ApertureCorrection:
    """Fit the ratio of the reference flux to another flux of stars.

    Parameters
    ----------
    x, y : (n,) array, pixels
        Parent frame.
    flux, reference : (n,) array
        Stars whose ratio is not finite are left out; the flux may be negative where it has more noise.
    box : Box
        Domain of the polynomials.
    flux_err, reference_err : (n,) array, optional
        Without them all stars count alike.
    order : int
        Largest order of the Chebyshev polynomials (total); lowered until ``min_degrees_of_freedom`` are left, and to
        what the stars can tell from noise.
    n_sigma : float
        Stars beyond are left out.
    n_iterations : int
        Rounds of leaving out.
    min_degrees_of_freedom : int

    Returns
    -------
    correction : ApertureCorrection

    Raises
    ------
    AlgorithmError
        When the stars are too few, leave the ratio open by more than 30 %, or less than half of them agree on it.

    Notes
    -----
    The flux with less noise is the denominator: the mean of a ratio with a noisy denominator is too large. Two fluxes
    of a star share the noise of the smaller, so their ratio has the difference of the variances. The order is that of
    the smallest Bayesian information criterion (Schwarz 1978, Ann. Statist. 6, 461), its penalty raised by 1.6, which
    for 300 stars asks for a fall of chi squared by 9 per term: polynomials that follow noise only are worse than none.
    A constant light per star is fitted as well, what is left of the sky and of faint neighbours in the larger of the
    two apertures; it is told from the factor by bright and faint stars.
    """
    with np.errstate(all="ignore"):
        wider = _is_wider(flux_err, reference_err, np.isfinite(flux + reference))
        above, below = (flux, reference) if wider else (reference, flux)
        ratio = above / below
        error = _ratio_errors(flux_err, reference_err, below)
    used = np.isfinite(ratio + error) & (below > 0)
    told = flux_err is not None and reference_err is not None and used.sum() >= FEW_STARS
    unit = float(np.median(below[used])) if used.any() else 1.0
    sky = _Sky(unit / below, SKY_OF_NOISE * float(np.median((error * below)[used])) / unit) if told else None
    found = _fitted(
        x, y, ratio, error, used, sky, box, order, n_sigma, n_iterations,
        min_degrees_of_freedom,
    )  # fmt: skip
    _check_determined(found, x, y, int(used.sum()))
    if not wider:
        return replace(found, offset=-found.offset * unit)
    return ApertureCorrection(
        _inverse(found.field), _inverse_error(found, x, y), found.used, found.scatter, found.offset * unit
    )


def _check_determined(
    found: ApertureCorrection, x: NDArray[np.float64], y: NDArray[np.float64], n_stars: int
) -> None:
    """Raise when the stars leave open what the ratio is: apertures with more sky than light."""
    ratio, error = _level(found, x, y), float(found.error.coefficients[0, 0])
    n_used = int(found.used.sum())
    if not (ratio > 0 and error < MAX_ERROR * ratio and 2 * n_used >= n_stars):
        raise AlgorithmError(
            "the stars do not determine the aperture correction",
            numbers={"stars": n_stars, "alike": n_used, "ratio": ratio, "error": error},
        )


def _level(found: ApertureCorrection, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the middle of a fitted ratio over its stars."""
    return float(np.median(found.field(x[found.used], y[found.used])))


@dataclass(frozen=True)
class _Sky:
    """Constant light of all stars: its column in the ratios, and how large it may be, in the unit of that column."""

    light: NDArray[np.float64]
    limit: float


@dataclass(frozen=True)
class _Noise:
    """Variance of a ratio: that of its errors times ``factor``, plus ``scatter`` squared."""

    factor: float
    scatter: float

    def variance(self, error: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of the ratios of stars with these errors."""
        return self.factor * error**2 + self.scatter**2


def _fitted(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    ratio: NDArray[np.float64],
    error: NDArray[np.float64],
    usable: NDArray[np.bool_],
    sky: _Sky | None,
    box: Box,
    order: int,
    n_sigma: float,
    n_iterations: int,
    min_degrees_of_freedom: int,
) -> ApertureCorrection:
    """Fit a ratio, and with ``light`` a constant times that column."""
    used, noise = usable, _Noise(1.0, 0.0 if error.any() else 1.0)
    extra = 0 if sky is None else 1
    for turn in range(n_iterations):
        largest = _allowed_order(int(used.sum()) - extra, order, min_degrees_of_freedom)
        # the first round must not bend towards the outliers
        design = _design(x, y, box, 0 if turn == 0 and used.sum() >= FEW_STARS else largest, sky)
        fit = _solve(design[used], ratio[used], 1.0 / noise.variance(error[used]), sky)
        residual = ratio - design @ fit.coefficients
        if turn == 0:  # outliers have pulled the mean
            residual -= np.median(residual[used])
        noise = _noise_of(residual[used], error[used], design.shape[1])
        keep = usable & (np.abs(residual) <= n_sigma * np.sqrt(noise.variance(error)) + 1e-12)
        if keep.sum() - extra < min_degrees_of_freedom + 1 or (turn > 1 and np.array_equal(keep, used)):
            break
        used = keep
    weights = 1.0 / noise.variance(error[used])
    largest = _allowed_order(int(used.sum()) - extra, order, min_degrees_of_freedom)
    lowest = 0 if error.any() or used.sum() >= FEW_STARS else largest
    orders = range(lowest, largest + 1)
    design, fit, chosen = _best_order(x, y, ratio, used, sky, box, orders, weights)
    residual = (ratio - design @ fit.coefficients)[used]
    scatter = float(MAD_TO_SIGMA * np.median(np.abs(residual - np.median(residual))))
    n_terms = design.shape[1] - extra
    field_terms = design[used][:, :n_terms]
    covariance = fit.covariance[:n_terms, :n_terms]
    mean_variance = float(np.einsum("ij,jk,ik->i", field_terms, covariance, field_terms).mean())
    coefficients = np.zeros((chosen + 1, chosen + 1))
    i, j = term_exponents(chosen)
    coefficients[j, i] = fit.coefficients[:n_terms]
    return ApertureCorrection(
        ChebyshevField(box, coefficients), _constant(box, np.sqrt(mean_variance)), used, scatter,
        float(fit.coefficients[-1]) if extra else 0.0,
    )  # fmt: skip


def _solve(
    design: NDArray[np.float64], ratio: NDArray[np.float64], weights: NDArray[np.float64], sky: _Sky | None
) -> LinearFit:
    """Solve for the terms, the constant light held near zero where stars of like flux do not tell it."""
    if sky is None:
        return linear_least_squares(design, ratio, weights)
    prior = np.zeros(design.shape[1])
    prior[-1] = 1.0
    return linear_least_squares(
        np.vstack([design, prior]), np.append(ratio, 0.0), np.append(weights, sky.limit**-2.0)
    )


def _best_order(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    ratio: NDArray[np.float64],
    used: NDArray[np.bool_],
    sky: _Sky | None,
    box: Box,
    orders: range,
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], LinearFit, int]:
    """Return design, fit and order of the smallest information criterion."""

    def attempt(order: int) -> tuple[float, NDArray[np.float64], LinearFit, int]:
        design = _design(x, y, box, order, sky)
        fit = _solve(design[used], ratio[used], weights, sky)
        return fit.chi2 + TERM_PENALTY * np.log(used.sum()) * design.shape[1], design, fit, order

    return min((attempt(order) for order in orders), key=lambda one: one[0])[1:]


def _noise_of(residual: NDArray[np.float64], error: NDArray[np.float64], n_terms: int) -> _Noise:
    """Return the noise that makes the residuals most likely; their scatter alone for few stars or without errors."""
    if not error.any():
        freedom = max(len(residual) - n_terms, 1)
        spread = MAD_TO_SIGMA * float(np.median(np.abs(residual - np.median(residual))))
        spread *= np.sqrt(len(residual) / freedom)
        if freedom < 3:  # a median of so few says nothing
            spread = np.sqrt((residual**2).sum() / freedom)
        return _Noise(0.0, max(spread, 1e-12))
    if len(residual) < FEW_STARS:
        return _Noise(1.0, FEW_STARS_SCATTER)
    variance = NOISE_FACTORS[:, None, None] * error**2 + STAR_SCATTER[:, None] ** 2
    variance = np.maximum(variance, 1e-12)
    surprise = (np.log(variance) + residual**2 / variance).sum(-1)
    k, j = np.unravel_index(int(surprise.argmin()), surprise.shape)
    return _Noise(float(NOISE_FACTORS[k]), float(STAR_SCATTER[j]))


def _design(
    x: NDArray[np.float64], y: NDArray[np.float64], box: Box, order: int, sky: _Sky | None
) -> NDArray[np.float64]:
    """Return the Chebyshev terms at the stars, and the column of the constant light."""
    terms = term_matrix("chebyshev", x, y, box=box, order=order)
    return terms if sky is None else np.column_stack([terms, sky.light])


def _is_wider(
    flux_err: NDArray[np.float64] | None, reference_err: NDArray[np.float64] | None, finite: NDArray[np.bool_]
) -> bool:
    """Return whether the flux of most stars has more noise than the reference."""
    if flux_err is None or reference_err is None or not finite.any():
        return False
    return bool(np.median(flux_err[finite]) > np.median(reference_err[finite]))


def _ratio_errors(
    flux_err: NDArray[np.float64] | None,
    reference_err: NDArray[np.float64] | None,
    below: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the errors of ratios with this denominator; zeros when there are none."""
    if flux_err is None or reference_err is None:
        return np.zeros(len(below))
    first, second = np.asarray(flux_err, np.float64) ** 2, np.asarray(reference_err, np.float64) ** 2
    error: NDArray[np.float64] = np.sqrt(np.abs(first - second) + SHARED * np.minimum(first, second)) / below
    return error


def _inverse(field: ChebyshevField) -> ChebyshevField:
    """Return the field of 1 / values, in the same terms: corrections differ by a few per cent over an image."""
    order, box = field.coefficients.shape[0] - 1, field.box
    if order == 0:
        return _constant(box, 1.0 / field.coefficients[0, 0])
    x, y = np.meshgrid(np.linspace(box.x0, box.x1 - 1, GRID), np.linspace(box.y0, box.y1 - 1, GRID))
    return fit_chebyshev(x.ravel(), y.ravel(), 1.0 / field(x.ravel(), y.ravel()), box=box, order=order)


def _inverse_error(
    found: ApertureCorrection, x: NDArray[np.float64], y: NDArray[np.float64]
) -> ChebyshevField:
    """Return the error of the inverse of a correction."""
    return _constant(found.field.box, float(found.error.coefficients[0, 0]) / _level(found, x, y) ** 2)


def _constant(box: Box, value: float) -> ChebyshevField:
    """Return a field with the same value everywhere."""
    return ChebyshevField(box, np.array([[value]]))


def _allowed_order(n: int, order: int, degrees_of_freedom: int) -> int:
    """Return the largest order, at most ``order``, that leaves enough degrees of freedom."""
    while order >= 0 and n - (order + 1) * (order + 2) // 2 < degrees_of_freedom:
        order -= 1
    if order < 0:
        raise AlgorithmError(
            "too few stars for an aperture correction", numbers={"stars": n, "needed": degrees_of_freedom + 1}
        )
    return order
