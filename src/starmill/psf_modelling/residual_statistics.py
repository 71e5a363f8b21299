"""How well a PSF model describes its stars: residual sizes and ellipticities, and their correlation over the field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.psf import adaptive_moments, shift_images
from starmill.psf_modelling.psf_stars import PsfStars

_MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation of a Gaussian


@dataclass(frozen=True)
class StarShapes:
    """Shapes of stars and of the model at their places, by adaptive moments.

    Attributes
    ----------
    star_size, model_size : (n,) float64, pixel**2
        ``T = xx + yy``.
    star_e1, star_e2, model_e1, model_e2 : (n,) float64
        ``(xx - yy) / T`` and ``2 xy / T``.
    valid : (n,) bool
        Where all of them were measured.
    """

    star_size: NDArray[np.float64]
    model_size: NDArray[np.float64]
    star_e1: NDArray[np.float64]
    star_e2: NDArray[np.float64]
    model_e1: NDArray[np.float64]
    model_e2: NDArray[np.float64]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class ResidualStatistics:
    """Star minus model over a set of stars; means are weighted by signal to noise and clipped.

    Attributes
    ----------
    n_stars : int
    size, size_err : float
        Mean relative residual in size (sigma, half of that of T) and its error.
    size_scatter : float
        Robust standard deviation of the single stars.
    e1, e1_err, e2, e2_err : float
        Mean residual ellipticities and errors.
    ellipticity_scatter : float
        Robust standard deviation of the single stars, mean of e1 and e2.
    """

    n_stars: int
    size: float
    size_err: float
    size_scatter: float
    e1: float
    e1_err: float
    e2: float
    e2_err: float
    ellipticity_scatter: float


@dataclass(frozen=True)
class RhoStatistics:
    """Correlation functions of PSF residuals; real parts, in bins of separation.

    Attributes
    ----------
    separation : (n_bins,) float64, pixel
        Mean separation of the pairs; NaN without pairs.
    n_pairs : (n_bins,) int64
    rho : (5, n_bins) float64
        ``<de* de>``, ``<e* de>``, ``<(e dT/T)* (e dT/T)>``, ``<de* (e dT/T)>``, ``<e* (e dT/T)>`` with ``e`` of the
        star and ``de``, ``dT`` star minus model.
    """

    separation: NDArray[np.float64]
    n_pairs: NDArray[np.int64]
    rho: NDArray[np.float64]


def measure_star_shapes(stars: PsfStars) -> StarShapes:
    """Measure stars and their models in the same way.

    Star and model are moved to the centre of a pixel alike; unusable pixels of the star take the value of the model.

    Parameters
    ----------
    stars : PsfStars

    Returns
    -------
    shapes : StarShapes
    """
    half = stars.images.shape[-1] // 2
    dx, dy = stars.x - (stars.x0 + half), stars.y - (stars.y0 + half)
    filled = np.where(stars.good, stars.images, stars.models)
    with np.errstate(invalid="ignore", divide="ignore"):
        moments = [
            adaptive_moments(np.nan_to_num(shift_images(images, -dx, -dy, kaiser=True)))
            for images in (filled, stars.models)
        ]
        sizes = [m[:, 0] + m[:, 1] for m in moments]
        e1 = [(m[:, 0] - m[:, 1]) / t for m, t in zip(moments, sizes, strict=True)]
        e2 = [2.0 * m[:, 2] / t for m, t in zip(moments, sizes, strict=True)]
    valid = np.isfinite(moments[0]).all(axis=1) & np.isfinite(moments[1]).all(axis=1)
    return StarShapes(sizes[0], sizes[1], e1[0], e2[0], e1[1], e2[1], valid)


def residual_statistics(
    stars: PsfStars, shapes: StarShapes | None = None, which: NDArray[np.bool_] | None = None
) -> ResidualStatistics:
    """Summarise the residual shapes of stars.

    Parameters
    ----------
    stars : PsfStars
    shapes : StarShapes, optional
        Measured when not given.
    which : (n,) bool, optional
        Stars to count: the reserved ones when there are any, else those used in the fit.

    Returns
    -------
    statistics : ResidualStatistics
        NaN without stars.
    """
    shapes = measure_star_shapes(stars) if shapes is None else shapes
    if which is None:
        which = stars.reserved if stars.reserved.any() else stars.used
    chosen = np.flatnonzero(which & shapes.valid & (stars.flux > 0) & np.isfinite(stars.flux_err))
    snr = stars.flux[chosen] / stars.flux_err[chosen]
    size = 0.5 * (shapes.star_size[chosen] / shapes.model_size[chosen] - 1.0)
    e1, e2 = (shapes.star_e1 - shapes.model_e1)[chosen], (shapes.star_e2 - shapes.model_e2)[chosen]
    means = [_clipped_weighted_mean(values, snr) for values in (size, e1, e2)]
    scatter = 0.5 * (means[1][2] + means[2][2])
    return ResidualStatistics(len(chosen), *means[0], *means[1][:2], *means[2][:2], scatter)


def _clipped_weighted_mean(
    values: NDArray[np.floating], snr: NDArray[np.floating], n_sigma: float = 4.0, iterations: int = 5
) -> tuple[float, float, float]:
    """Return mean, its error and the robust scatter, weights ``1 / (1 / snr**2 + 0.01**2)``."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    weights = 1.0 / (1.0 / snr**2 + 0.01**2)
    error = 1.0 / np.sqrt(weights)
    scatter = float(_MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))
    kept = np.ones(len(values), dtype=bool)
    center = np.median(values)
    for _ in range(iterations):
        unit = _MAD_TO_SIGMA * np.median(np.abs(values[kept] - center) / error[kept])
        update = np.abs(values - center) <= n_sigma * max(unit, 1e-12) * error
        if not update.any():
            break
        kept = update
        center = np.average(values[kept], weights=weights[kept])
    deviation = (values[kept] - center) * weights[kept]
    spread = np.sqrt(np.sum(deviation**2)) / np.sum(weights[kept])
    return float(center), float(spread), scatter


def rho_statistics(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    shapes: StarShapes,
    which: NDArray[np.bool_] | None = None,
    *,
    edges: NDArray[np.floating] | None = None,
) -> RhoStatistics:
    """Correlate the residuals of pairs of stars.

    Parameters
    ----------
    x, y : (n,) array, pixel
    shapes : StarShapes
    which : (n,) bool, optional
        Stars to count, all valid ones when not given.
    edges : (n_bins + 1,) array, optional, pixel
        Bins of separation; ten equal steps of its logarithm from 50 pixels to the largest separation when not given.

    Returns
    -------
    rho : RhoStatistics

    References
    ----------
    Rowe 2010, MNRAS 404, 350; Jarvis et al. 2016, MNRAS 460, 2245, section 3.4.

    Notes
    -----
    All pairs are formed: cost and memory grow with the square of the number of stars (0.1 s for 1000).
    """
    chosen = shapes.valid if which is None else shapes.valid & which
    x, y = np.asarray(x, dtype=np.float64)[chosen], np.asarray(y, dtype=np.float64)[chosen]
    e = (shapes.star_e1 + 1j * shapes.star_e2)[chosen]
    de = e - (shapes.model_e1 + 1j * shapes.model_e2)[chosen]
    w = e * (1.0 - shapes.model_size[chosen] / shapes.star_size[chosen])
    first, second = np.triu_indices(len(x), k=1)
    distance = np.hypot(x[first] - x[second], y[first] - y[second])
    if edges is None:
        largest = max(float(distance.max()), 100.0) if len(distance) else 100.0
        edges = np.geomspace(50.0, largest * (1.0 + 1e-9), 11)
    edges = np.asarray(edges, dtype=np.float64)
    bins = np.digitize(distance, edges) - 1
    inside = (bins >= 0) & (bins < len(edges) - 1)
    bins, first, second, distance = bins[inside], first[inside], second[inside], distance[inside]
    n = len(edges) - 1
    count = np.bincount(bins, minlength=n)
    rho = np.full((5, n), np.nan)
    filled = count > 0
    for i, (a, b) in enumerate(((de, de), (e, de), (w, w), (de, w), (e, w))):
        # both orders of a pair count, so that the correlation of two different fields is symmetric
        product = 0.5 * (np.conj(a[first]) * b[second] + np.conj(a[second]) * b[first]).real
        rho[i, filled] = np.bincount(bins, weights=product, minlength=n)[filled] / count[filled]
    separation = np.full(n, np.nan)
    separation[filled] = np.bincount(bins, weights=distance, minlength=n)[filled] / count[filled]
    return RhoStatistics(separation, count, rho)
