"""Choose point sources from a catalogue by their place on the size-magnitude locus.

Stars of one image share one size, whatever their flux; galaxies and blends are larger,
cosmic rays smaller.  The locus is found as the densest narrow range of sizes, is allowed
to drift slowly over the field, and keeps what lies within its scatter and the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from starmill.errors import AlgorithmError

_MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation of a Gaussian
_MIN_FOR_CLIPPING = 5  # below this number a scatter means nothing


@dataclass(frozen=True)
class StarSelection:
    """Sources on the stellar locus.

    Attributes
    ----------
    selected : (n,) bool
        True for the sources that are taken as stars.
    good : (n,) bool
        Sources that passed the cuts in flags, signal to noise and size (locus or not).
    width : (n,) float, pixel
        ``sqrt((xx + yy) / 2)``; NaN where the moments are unusable.
    expected_width : (n,) float, pixel
        Width of a star at the place of each source.
    scatter : float
        Relative scatter of the widths of the selected stars (1 sigma).
    numbers : dict
        How many sources survived each cut.
    """

    selected: NDArray[np.bool_]
    good: NDArray[np.bool_]
    width: NDArray[np.float64]
    expected_width: NDArray[np.float64]
    scatter: float
    numbers: dict[str, int | float] = field(default_factory=dict)


def select_stars(
    flux: NDArray[np.floating],
    flux_err: NDArray[np.floating],
    xx: NDArray[np.floating],
    yy: NDArray[np.floating],
    xy: NDArray[np.floating],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    bad: NDArray[np.bool_] | None = None,
    *,
    doubtful: NDArray[np.bool_] | None = None,
    min_snr: float = 50.0,
    min_width: float = 0.6,
    max_width: float = 10.0,
    max_relative_width: float = 0.15,
    sharp_width: float = 1.0,
    max_relative_width_sharp: float = 0.25,
    n_sigma: float = 2.5,
    max_ellipticity_offset: float = 0.15,
    max_order: int = 2,
    min_stars: int = 1,
) -> StarSelection:
    """Select the stars of an image by size, flux and flags.

    Parameters
    ----------
    flux, flux_err : (n,) array, electron
        Of a PSF or aperture flux.
    xx, yy, xy : (n,) array, pixel**2
        Second moments; NaN means not measured and excludes the source.
    x, y : (n,) array, pixel
        Positions, for a locus that drifts over the field.
    bad : (n,) bool, optional
        Sources to leave out whatever their size (saturated, edge, blended, ...).
    doubtful : (n,) bool, optional
        Sources whose moments cannot be trusted. They are left out, but where stars are narrower than
        ``sharp_width``.
    min_snr : float
        Smallest flux over error.
    min_width, max_width : float, pixel
        Range of ``sqrt((xx + yy) / 2)`` that a star may have.
    max_relative_width : float
        Largest relative distance from the locus; also the first guess of its half-width.
    sharp_width, max_relative_width_sharp : float
        Below this width, in pixels, the moments of a star depend on where in its pixel it lies: there this
        larger distance from the locus is allowed.
    n_sigma : float
        Distance from the locus in standard deviations (scatter and noise of each source).
    max_ellipticity_offset : float
        Largest distance of (e1, e2) from the median of the locus.
    max_order : int
        Largest order of the drift of the locus over the field; lowered for few stars.
    min_stars : int
        Fewer raise an error.

    Returns
    -------
    selection : StarSelection

    Raises
    ------
    AlgorithmError
        No source passes the cuts, or fewer than ``min_stars`` lie on the locus.

    Notes
    -----
    The rule of the LSST object-size selector (one-dimensional clusters of the width, the smallest
    one is refined by clipping) is replaced by the smallest dense peak of a kernel density of the
    logarithm of the width: it does not depend on a starting percentile, works with three stars, and
    in crowded fields, where blends make a long tail of large sizes, stays on the narrow peak.
    """
    flux, flux_err, xx, yy, xy, x, y = (
        np.asarray(a, dtype=np.float64) for a in (flux, flux_err, xx, yy, xy, x, y)
    )
    n = len(flux)
    bad = np.zeros(n, dtype=bool) if bad is None else np.asarray(bad, dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = flux / flux_err
        width = np.sqrt(0.5 * (xx + yy))
        e1, e2 = (xx - yy) / (xx + yy), 2.0 * xy / (xx + yy)
        measured = np.isfinite(snr) & np.isfinite(width) & np.isfinite(xy) & (xx * yy > xy * xy) & ~bad
        measured &= np.isfinite(x) & np.isfinite(y)
        bright = measured & (snr >= min_snr)
        fit = bright & (width >= min_width) & (width <= max_width)
        good = fit if doubtful is None else fit & ~np.asarray(doubtful, dtype=bool)
    numbers: dict[str, int | float] = {
        "sources": n,
        "unflagged": int((~bad).sum()),
        "measured": int(measured.sum()),
        "bright": int(bright.sum()),
        "good": int(good.sum()),
    }
    if not good.any():
        raise AlgorithmError(
            f"no source is fit for a PSF star: {n} sources, {numbers['measured']} unflagged and measured, "
            f"{numbers['bright']} with S/N >= {min_snr:g}, 0 of width {min_width:g} to {max_width:g} pixels",
            numbers=numbers,
        )
    size_err = np.where(good, 1.0 / np.maximum(snr, 1.0), np.inf)  # relative error of a matched-weight size
    peak = _locus_peak(np.log(width[good]), size_err[good])
    log_width = np.log(np.where(good, width, 1.0))
    if np.exp(peak) < sharp_width:
        good = fit
        size_err = np.where(good, 1.0 / np.maximum(snr, 1.0), np.inf)
        log_width = np.log(np.where(good, width, 1.0))
        max_relative_width = max(max_relative_width, max_relative_width_sharp)
    near = good & (np.abs(log_width - peak) < max_relative_width)
    selected, expected, scatter = _refine_locus(
        log_width, size_err, x, y, good, near, n_sigma, max_relative_width, max_order
    )
    selected &= _ellipticity_agrees(e1, e2, selected, max_ellipticity_offset)
    numbers["on_locus"] = int(selected.sum())
    if numbers["on_locus"] < min_stars:
        raise AlgorithmError(
            f"{numbers['on_locus']} stars on the size locus of {np.exp(peak):.2f} pixels, "
            f"{min_stars} are needed",
            numbers={**numbers, "needed": min_stars, "locus_width": float(np.exp(peak))},
        )
    return StarSelection(selected, good, width, np.exp(expected), float(scatter), numbers)


def _locus_peak(
    log_width: NDArray[np.floating],
    size_err: NDArray[np.floating],
    bandwidth: float = 0.03,
    minimum_height: float = 0.5,
) -> float:
    """Return the logarithm of the width at the smallest dense peak of the widths.

    Each source is a Gaussian of its own size error and ``bandwidth``, normalised to unit area; the first peak
    from the small side that is at least ``minimum_height`` of the highest one is the locus.
    """
    sigma = np.hypot(bandwidth, size_err)
    if len(log_width) < 10:  # a handful of stars: let the neighbours touch
        sigma = np.hypot(sigma, 0.04)
    grid = np.arange(log_width.min() - 0.1, log_width.max() + 0.1, 0.005)
    density = np.zeros_like(grid)
    for start in range(0, len(log_width), 2000):
        part = slice(start, start + 2000)
        t = (grid[:, None] - log_width[None, part]) / sigma[None, part]
        density += (np.exp(-0.5 * t * t) / sigma[None, part]).sum(axis=1)
    inner = density[1:-1]
    is_peak = (inner >= density[:-2]) & (inner > density[2:]) & (inner >= minimum_height * density.max())
    first = np.flatnonzero(is_peak)
    return grid[1 + first[0]] if len(first) else grid[np.argmax(density)]


def _drift_terms(x: NDArray[np.floating], y: NDArray[np.floating], order: int) -> NDArray[np.floating]:
    """Return the (n, n_terms) polynomial terms of total degree up to ``order`` on scaled positions."""
    return np.stack([x**i * y**j for i in range(order + 1) for j in range(order + 1 - i)], axis=1)


def _drift_order(n_stars: int, max_order: int) -> int:
    """Return the order of the drift that ``n_stars`` can carry: five stars for every coefficient."""
    order = max_order
    while order > 0 and n_stars < 5 * (order + 1) * (order + 2) // 2:
        order -= 1
    return order


def _refine_locus(
    log_width: NDArray[np.floating],
    size_err: NDArray[np.floating],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    good: NDArray[np.bool_],
    near: NDArray[np.bool_],
    n_sigma: float,
    limit: float,
    max_order: int,
    iterations: int = 10,
) -> tuple[NDArray[np.bool_], NDArray[np.floating], float]:
    """Fit the drift of the locus and clip; returns (selected, expected log width, scatter)."""
    center_x, center_y = np.mean(x[good]), np.mean(y[good])
    scale = max(np.ptp(x[good]), np.ptp(y[good]), 1.0) / 2.0
    sx, sy = (x - center_x) / scale, (y - center_y) / scale
    selected = near
    scatter = limit
    expected = np.full(len(log_width), np.median(log_width[near]))
    for _ in range(iterations):
        n_selected = int(selected.sum())
        if n_selected == 0:
            break
        terms = _drift_terms(sx, sy, _drift_order(n_selected, max_order))
        weight = 1.0 / (size_err[selected] ** 2 + 0.01**2)
        matrix = terms[selected] * np.sqrt(weight)[:, None]
        coefficients = np.linalg.lstsq(matrix, log_width[selected] * np.sqrt(weight), rcond=None)[0]
        finite = np.isfinite(sx) & np.isfinite(sy)
        expected = np.where(finite, terms @ coefficients, np.nan)
        residual = log_width - expected
        if n_selected < _MIN_FOR_CLIPPING:
            return near, expected, float(np.std(residual[near]))
        # the small side is free of blends and galaxies, it gives the scatter of the stars alone
        scatter = _MAD_TO_SIGMA * min(
            np.median(np.abs(residual[selected])), np.median(np.abs(residual[selected & (residual <= 0)]))
        )
        tolerance = np.clip(n_sigma * np.hypot(scatter, size_err), 0.015, limit)
        update = good & (np.abs(residual) <= tolerance)
        if np.array_equal(update, selected) or not update.any():
            break
        selected = update
    return selected, expected, scatter


def _ellipticity_agrees(
    e1: NDArray[np.floating], e2: NDArray[np.floating], selected: NDArray[np.bool_], max_offset: float
) -> NDArray[np.bool_]:
    """Return which sources have the ellipticity of the locus."""
    if selected.sum() < _MIN_FOR_CLIPPING:
        return np.ones(len(e1), dtype=bool)
    offset = np.hypot(e1 - np.median(e1[selected]), e2 - np.median(e2[selected]))
    scatter = _MAD_TO_SIGMA * np.median(offset[selected])
    with np.errstate(invalid="ignore"):
        return offset <= min(max_offset, max(5.0 * scatter, 0.02))


def reserve_stars(n_stars: int, fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    """Choose stars that are kept out of the PSF fit, to judge the model on.

    Parameters
    ----------
    n_stars : int
        Number of candidates.
    fraction : float
        Share to reserve, 0 to 1; the number is rounded down.
    seed : int
        Seed of the choice, for example the exposure id.

    Returns
    -------
    reserved : (n_stars,) bool
    """
    reserved = np.zeros(n_stars, dtype=bool)
    number = int(fraction * n_stars)
    if number:
        reserved[np.random.default_rng(seed).permutation(n_stars)[:number]] = True
    return reserved
