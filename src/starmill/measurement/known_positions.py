"""Sources that are known from other channels, tried where the fit of this channel has none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from starmill.detection.grouping import SourceGroups
from starmill.measurement.blends import GroupFitter, loss_without, pick_groups, replace_rows
from starmill.measurement.gaussian_fit import GaussianFit
from starmill.numerics.close_pairs import close_pairs, next_to

__all__ = ["add_known", "agreed_positions", "missing_positions"]

SAME = 0.4  # beams; a source this near to a known position is that one
AGREE = 0.3  # beams; positions of one source in several channels
APART = 0.6  # beams; nearest two positions that are agreed on
NOT_MOVED = 0.15  # beams; a source beside a missing one and farther from all known positions has been drawn towards it
BLEND = 1.6  # beams; a known source farther from all sources of this channel was below its threshold
BETWEEN = 1.0  # beams; how near a missing source must be for that
SHIFT = 0.2  # beams; how far a known source may lie from its place
MIN_GAIN = (
    12.0  # decrease of chi2 by a source of known position, three and a half standard deviations of its peak
)
NO_WORSE = 5.0  # increase of chi2 that the two coordinates which are held explain


def agreed_positions(
    x: NDArray[np.float64], y: NDArray[np.float64], error: NDArray[np.float64], channel: NDArray[np.int64],
    fwhm: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Positions of the sources of all channels, from the channel that shows each of them best.

    Parameters
    ----------
    x, y, error : (n,) arrays, pixel
        Positions of all channels and their standard errors.
    channel : (n,) array
    fwhm : float, pixel
        Of the beam.

    Returns
    -------
    positions : (m, 2) array, pixel
        Weighted means over the channels. Members of resolved blends go before single sources (what is one in one
        channel and two in another is two), then positions that more channels agree on.
    """
    alone, support = np.ones(x.size, bool), np.zeros(x.size, int)
    numbers = np.unique(channel)
    for number in numbers:
        here = np.flatnonzero(channel == number)
        alone[here] = ~next_to(x[here], y[here], x[here], y[here], BLEND * fwhm, skip=np.arange(here.size))
        support += next_to(x, y, x[here], y[here], AGREE * fwhm)
    chosen = _spaced(x, y, np.lexsort((error, -support, alone)), APART * fwhm)
    which, row = close_pairs(x[chosen], y[chosen], x, y, AGREE * fwhm)
    weight = 1.0 / np.maximum(error[row], 1e-3) ** 2
    total = np.bincount(which, weights=weight)
    return np.column_stack([np.bincount(which, weights=weight * v[row]) / total for v in (x, y)])


def _spaced(
    x: NDArray[np.float64], y: NDArray[np.float64], order: NDArray[np.int64], distance: float
) -> NDArray[np.int64]:
    """Take positions in the given order unless one nearer than the distance is taken already."""
    cells: dict[tuple[int, int], list[int]] = {}
    chosen = []
    for i in order.tolist():
        column, row = int(x[i] // distance), int(y[i] // distance)
        near = [j for v in (-1, 0, 1) for u in (-1, 0, 1) for j in cells.get((column + u, row + v), ())]
        if all((x[j] - x[i]) ** 2 + (y[j] - y[i]) ** 2 >= distance * distance for j in near):
            cells.setdefault((column, row), []).append(i)
            chosen.append(i)
    return np.array(chosen, np.int64)


def missing_positions(
    known: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], fwhm: float
) -> NDArray[np.float64]:
    """Return the known positions near a source of this channel at which it has none.

    Parameters
    ----------
    known : (m, 2) array, pixel
    x, y : (n,) arrays, pixel
        Sources of this channel.
    fwhm : float, pixel
    """
    kx, ky = known[:, 0], known[:, 1]
    return known[~next_to(kx, ky, x, y, SAME * fwhm) & next_to(kx, ky, x, y, BLEND * fwhm)]


def add_known(
    fit: GaussianFit,
    groups: SourceGroups,
    fit_groups: GroupFitter,
    known: NDArray[np.float64],
    *,
    group: Callable[[NDArray[np.float64]], SourceGroups],
    bounds: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    beam_sigma: float,
) -> tuple[GaussianFit, SourceGroups, NDArray[np.int64], NDArray[np.bool_]]:
    """Fit blends again with the sources that other channels show in them, and keep those that this channel needs.

    Parameters
    ----------
    fit, groups, fit_groups, group, bounds
        As for :func:`starmill.measurement.blends.settle_blends`.
    known : (m, 2) array, pixel
        Positions of sources, see :func:`agreed_positions`.
    beam_sigma : float, pixel

    Returns
    -------
    fit, groups
    origin : (k,) int64 array
        Which of the given sources these are; added ones have higher numbers.
    added : (k,) bool array

    Notes
    -----
    Both models are fitted to the same pixels: the present one with added sources without a peak, and the new one, in
    which sources between known positions have none. The new one is taken when chi2 falls by 12, or rises by
    less than 5 when it has no more sources: its positions are not free.
    """
    fwhm = 2.3548200450309493 * beam_sigma
    own, n = fit.sources, len(fit.sources)
    hints = missing_positions(known, own[:, 1], own[:, 2], fwhm)
    if not len(hints):
        return fit, groups, np.arange(n), np.zeros(n, bool)
    stray = ~next_to(own[:, 1], own[:, 2], known[:, 0], known[:, 1], NOT_MOVED * fwhm)
    stray &= next_to(own[:, 1], own[:, 2], hints[:, 0], hints[:, 1], BETWEEN * fwhm)
    moved = next_to(known[:, 0], known[:, 1], own[stray, 1], own[stray, 2], SAME * fwhm)
    moved &= ~next_to(known[:, 0], known[:, 1], own[~stray, 1], own[~stray, 2], SAME * fwhm)
    hints = np.concatenate([hints, known[moved]])
    everything = np.concatenate([own, _starts(own, hints, beam_sigma)])
    is_hint = np.arange(len(everything)) >= n
    out = np.concatenate([stray, np.zeros(len(hints), bool)])
    all_groups = group(everything)
    chosen = pick_groups(all_groups, np.flatnonzero(is_hint))
    limits = bounds(everything)
    limits[is_hint, 0], limits[is_hint, 4] = 0.0, SHIFT * fwhm
    limits[is_hint, 1] = 4.0 * everything[is_hint, 0]
    present = fit_groups(*_without(everything, chosen, limits, is_hint))
    changed = fit_groups(*_without(everything, chosen, limits, out))
    label = all_groups.label
    more = np.bincount(label, weights=is_hint.astype(float)) > np.bincount(label, weights=out.astype(float))
    gain = present.chi2 - changed.chi2
    better = gain >= np.where(more[label], MIN_GAIN, -NO_WORSE)
    accepted = np.isin(label, label[is_hint & better])
    stay = (accepted & ~out) | (~accepted & ~is_hint)
    if not (is_hint & stay).any():
        return fit, groups, np.arange(n), np.zeros(n, bool)
    merged = replace_rows(fit, changed, np.flatnonzero(is_hint | (accepted & ~out)))
    return _keep_needed(
        merged.rows(stay),
        np.minimum(np.flatnonzero(stay), n),
        accepted[stay],
        fit_groups,
        group,
        bounds,
        fwhm,
    )


def _starts(own: NDArray[np.float64], hints: NDArray[np.float64], beam_sigma: float) -> NDArray[np.float64]:
    """Start values of added sources: half the peak of the nearest source, somewhat wider than the beam."""
    starts = np.zeros((len(hints), 6))
    starts[:, 1:3], starts[:, 3], starts[:, 4] = hints, 1.25 * beam_sigma, 1.15 * beam_sigma
    for row, (x, y) in zip(starts, hints, strict=True):
        row[0] = 0.5 * own[np.argmin(np.hypot(own[:, 1] - x, own[:, 2] - y)), 0]
    return starts


def _without(
    sources: NDArray[np.float64], groups: SourceGroups, limits: NDArray[np.float64], rows: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], SourceGroups, NDArray[np.float64]]:
    """Arguments of a fit in which some sources have no peak."""
    sources, limits = sources.copy(), limits.copy()
    sources[rows, 0] = limits[rows, 0] = limits[rows, 1] = 0.0
    return sources, groups, limits


def _keep_needed(
    fit: GaussianFit, origin: NDArray[np.int64], changed: NDArray[np.bool_], fit_groups: GroupFitter,
    group: Callable[[NDArray[np.float64]], SourceGroups],
    bounds: Callable[[NDArray[np.float64]], NDArray[np.float64]], fwhm: float,
) -> tuple[GaussianFit, SourceGroups, NDArray[np.int64], NDArray[np.bool_]]:  # fmt: skip
    """Fit the changed groups again; take added sources out that chi2 does not need, the weakest first."""
    given = int(origin.max())

    def limits(sources: NDArray[np.float64]) -> NDArray[np.float64]:
        out = bounds(sources)
        out[origin == given, 4] = 0.1 * SHIFT * fwhm
        return out

    needed = np.zeros(len(origin), bool)
    while True:
        groups = group(fit.sources)
        if changed.any():
            parts = pick_groups(groups, np.flatnonzero(changed))
            fit = replace_rows(fit, fit_groups(fit.sources, parts, limits(fit.sources)), parts.members)
        waiting = np.flatnonzero((origin == given) & ~needed)
        if not waiting.size:
            return fit, groups, origin, origin == given
        with np.errstate(invalid="ignore", divide="ignore"):
            strength = np.nan_to_num(fit.sources[waiting, 0] / fit.peak_err[waiting])
        waiting = waiting[np.lexsort((strength, groups.label[waiting]))]
        weakest = waiting[np.unique(groups.label[waiting], return_index=True)[1]]
        loss = loss_without(fit, weakest, pick_groups(groups, weakest), fit_groups, limits)
        needed[weakest[loss >= MIN_GAIN]] = True
        stay = np.ones(len(origin), bool)
        stay[weakest[loss < MIN_GAIN]] = False
        changed = np.isin(groups.label, groups.label[~stay])[stay]
        fit, origin, needed = fit.rows(stay), origin[stay], needed[stay]
