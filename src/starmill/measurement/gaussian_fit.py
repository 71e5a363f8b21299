"""Joint fits of elliptical Gaussians, group by group, with the noise as it is: correlated.

With a noise correlation the fit is generalised least squares, so the broad background fluctuations that the
correlation describes are marginalised instead of being absorbed by the sources' sizes; the covariance of the
parameters then contains both the noise and the confusion with the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.detection.grouping import SourceGroups
from starmill.errors import InputError
from starmill.kernels import gaussian_groups as kernel
from starmill.measurement.neighbours import draw_sources
from starmill.numerics.tiles import map_tiles

__all__ = ["LOSSES", "FitStatus", "GaussianFit", "fit_gaussians", "fit_peaks", "start_sources"]

FWHM_PER_SIGMA = 2.3548200450309493  # 2 sqrt(2 ln 2)
LOSSES = {"linear": kernel.LINEAR, "soft_l1": kernel.SOFT_L1, "huber": kernel.HUBER, "cauchy": kernel.CAUCHY}
GROUPS_PER_TILE = 48


class FitStatus:
    """What happened to the fit of a group."""

    CONVERGED = kernel.CONVERGED
    MAX_ITERATIONS = kernel.MAX_ITERATIONS
    SINGULAR = kernel.SINGULAR
    TOO_FEW_PIXELS = kernel.TOO_FEW_PIXELS
    REASONS: ClassVar[dict[int, str]] = {
        CONVERGED: "converged", MAX_ITERATIONS: "iteration limit", SINGULAR: "parameters not determined",
        TOO_FEW_PIXELS: "too few valid pixels",
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class GaussianFit:
    """Fitted Gaussians, one row per source.

    Attributes
    ----------
    sources : (n, 6) float64 array
        peak (map unit), x, y, sigma_major, sigma_minor (pixel), theta (radian, counter-clockwise from +x).
    covariance : (n, 6, 6) float64 array
        Of (peak, x, y, a, b, c): variances a, b along the axes and covariance c between them. NaN when the
        parameters are not determined; zero for parameters that are held or lie on a bound.
    background : (n,) float64 array
        Polynomial at the source, map unit.
    chi2, n_pixels, n_dof : (n,) arrays
        Of the group of the source.
    iterations, status : (n,) int arrays
        See :class:`FitStatus`.
    """

    sources: NDArray[np.float64]
    covariance: NDArray[np.float64]
    background: NDArray[np.float64]
    chi2: NDArray[np.float64]
    n_pixels: NDArray[np.int64]
    n_dof: NDArray[np.int64]
    iterations: NDArray[np.int64]
    status: NDArray[np.int64]

    def rows(self, keep: NDArray[Any]) -> GaussianFit:
        """Return the sources of a boolean mask or of a list of indices."""
        return GaussianFit(*(getattr(self, name)[keep] for name in GaussianFit.__slots__))

    @property
    def flux(self) -> NDArray[np.float64]:
        """Integral of each Gaussian, map unit times pixels."""
        return 2.0 * np.pi * self.sources[:, 0] * self.sources[:, 3] * self.sources[:, 4]

    @property
    def flux_err(self) -> NDArray[np.float64]:
        """Standard error of :attr:`flux`, by propagation of the covariance."""
        gradient = np.zeros_like(self.sources)
        flux = self.flux
        with np.errstate(divide="ignore", invalid="ignore"):
            gradient[:, 0] = np.where(self.sources[:, 0] != 0, flux / self.sources[:, 0], 0.0)
            gradient[:, 3] = 0.5 * flux / self.sources[:, 3] ** 2
            gradient[:, 4] = 0.5 * flux / self.sources[:, 4] ** 2
        variance = np.einsum("ki,kij,kj->k", gradient, self.covariance, gradient)
        return np.sqrt(np.maximum(variance, 0.0))

    @property
    def peak_err(self) -> NDArray[np.float64]:
        """Standard error of the peaks, map unit."""
        return np.sqrt(np.maximum(self.covariance[:, 0, 0], 0.0))

    @property
    def position_err(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Standard errors of x and y, pixel."""
        return tuple(np.sqrt(np.maximum(self.covariance[:, i, i], 0.0)) for i in (1, 2))  # type: ignore[return-value]

    @property
    def size_err(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Standard errors of sigma_major and sigma_minor, pixel."""
        variance = np.diagonal(self.covariance, axis1=1, axis2=2)[:, 3:5]
        errors = 0.5 * np.sqrt(np.maximum(variance, 0.0)) / self.sources[:, 3:5]
        return errors[:, 0], errors[:, 1]

    @property
    def theta_err(self) -> NDArray[np.float64]:
        """Standard error of theta, radian; NaN for a round source."""
        difference = self.sources[:, 3] ** 2 - self.sources[:, 4] ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(
                difference > 0, np.sqrt(np.maximum(self.covariance[:, 5, 5], 0.0)) / difference, np.nan
            )


def start_sources(
    peak: NDArray[Any], x: NDArray[Any], y: NDArray[Any], axes: tuple[float, float], theta: float
) -> NDArray[np.float64]:
    """Return start values of the size of the beam.

    Parameters
    ----------
    peak, x, y : (n,) arrays
    axes : (float, float), pixel
        Standard deviations of the beam, major first.
    theta : float, radian
        Of the beam's major axis, counter-clockwise from +x.
    """
    sources = np.empty((x.size, 6))
    sources[:, 0], sources[:, 1], sources[:, 2] = peak, x, y
    # a little larger and rounder than the beam: nearly every source is, and a circle cannot be turned
    sources[:, 3], sources[:, 4], sources[:, 5] = 1.06 * axes[0], 1.02 * axes[1], theta
    return sources


def fit_gaussians(
    image: NDArray[Any],
    weight: NDArray[Any],
    sources: NDArray[np.float64],
    groups: SourceGroups,
    *,
    radius: NDArray[np.float64] | float,
    bounds: NDArray[np.float64],
    free: Sequence[bool] = (True,) * 6,
    order: int = 0,
    stride: int = 0,
    correlation: NDArray[np.float64] | None = None,
    generalised: bool = True,
    ridge: float = 0.003,
    loss: str = "linear",
    f_scale: float = 1.0,
    max_iterations: int = 30,
    tolerance: float = 1e-4,
    polynomial_ridge: float = 0.0,
) -> GaussianFit:
    """Fit the Gaussians of every group jointly with a polynomial; neighbours in other groups are subtracted.

    Parameters
    ----------
    image : (ny, nx) array, map unit
    weight : (ny, nx) array
        1 / rms; pixels with zero weight, NaN or infinity are not used.
    sources : (n, 6) float64 array
        Start values, see :class:`GaussianFit`. The model of the neighbours is drawn from them.
    groups : SourceGroups
    radius : float or (n,) array, pixel
        Pixels this near to a source's start position take part.
    bounds : (n, 5) float64 array
        Lowest and highest peak (map unit), lowest and highest sigma (pixel), largest shift in x or y (pixel).
    free : six bools
        Whether peak, x, y, a, b and c may change (a, b: variances along the axes; c turns the ellipse).
    order : int
        Order of the polynomial in x and y, -1 for none.
    stride : {0, 1, 2, 4}
        Use every pixel, every second one in a chequer-board, or every fourth; 0 thins out large groups.
    correlation : (2h + 1, 2h + 1) array, optional
        Noise correlation by lag.
    generalised : bool
        True: the fit itself uses the correlation. False: weights only, and the correlation enters the errors.
    ridge : float
        Uncorrelated part added to the noise variance; keeps the inverse of a steep correlation finite.
    loss : {'linear', 'soft_l1', 'huber', 'cauchy'}
    f_scale : float
        Residual, in standard deviations, at which a robust loss departs from least squares.
    max_iterations, tolerance
        The fit has converged when chi2 decreases by less than this part.
    polynomial_ridge : float
        Penalty on the slopes of the polynomial, per weighted map unit.

    Returns
    -------
    fit : GaussianFit

    References
    ----------
    Marquardt 1963, J. SIAM 11, 431 (descent); Aitken 1936, Proc. R. Soc. Edinb. 55, 42 (generalised least squares).

    Notes
    -----
    Cost per group grows with the square of its pixels (whitening) and of its parameters.
    """
    n = sources.shape[0]
    if image.shape != weight.shape:
        raise InputError(f"the image has shape {image.shape}, its weight {weight.shape}")
    if loss not in LOSSES:
        raise InputError(f"unknown loss {loss!r} (known: {', '.join(LOSSES)})")
    out = _blank(n)
    if n == 0:
        return out
    start = np.ascontiguousarray(sources, np.float64)
    values, weight = (np.ascontiguousarray(plane, np.float32) for plane in (image, weight))
    model = draw_sources(image.shape, start, out=np.zeros(image.shape, np.float32))
    mode = 0 if correlation is None else 1 if generalised else 2
    table = np.zeros((1, 1)) if correlation is None else np.ascontiguousarray(correlation, np.float64)
    options = np.array([max_iterations, tolerance, LOSSES[loss], f_scale, polynomial_ridge], np.float64)
    radii = np.ascontiguousarray(np.broadcast_to(np.asarray(radius, np.float64), (n,)))
    limits = np.ascontiguousarray(bounds, np.float64)
    numbers = np.zeros((len(groups), 5))
    may_change = np.asarray(free, np.bool_)

    def run(first: int) -> None:
        last = min(first + GROUPS_PER_TILE, len(groups))
        kernel.fit_groups(
            values, weight, model, start, limits, radii, groups.offsets[first : last + 1], groups.members,
            may_change, int(order), int(stride), table, mode, float(ridge), options,
            out.sources, out.covariance, out.background, numbers[first:last],
        )  # fmt: skip

    map_tiles(run, range(0, len(groups), GROUPS_PER_TILE))
    of_source = numbers[groups.label]
    return GaussianFit(
        out.sources, out.covariance, out.background, of_source[:, 0],
        *(of_source[:, i].astype(np.int64) for i in (1, 2, 3, 4)),
    )  # fmt: skip


def _blank(n: int) -> GaussianFit:
    counts = [np.zeros(n, np.int64) for _ in range(4)]
    return GaussianFit(np.zeros((n, 6)), np.zeros((n, 6, 6)), np.zeros(n), np.zeros(n), *counts)


def fit_peaks(
    image: NDArray[Any], weight: NDArray[Any], sources: NDArray[np.float64], groups: SourceGroups, *,
    radius: float, order: int = 0, correlation: NDArray[np.float64] | None = None, ridge: float = 0.003,
) -> GaussianFit:  # fmt: skip
    """Fit only the peaks of Gaussians at fixed positions and shapes: forced photometry.

    Parameters
    ----------
    image, weight, sources, groups, radius, order, correlation, ridge
        As for :func:`fit_gaussians`. Peaks may come out negative.
    """
    bounds = np.empty((sources.shape[0], 5))
    bounds[:] = (-np.inf, np.inf, 0.0, np.inf, np.inf)
    free = (True, False, False, False, False, False)
    return fit_gaussians(
        image, weight, sources, groups, radius=radius, bounds=bounds, free=free, order=order,
        correlation=correlation, ridge=ridge,
    )  # fmt: skip
