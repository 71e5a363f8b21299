"""How many sources a blend holds: elongated ones that are two, and members that their companions do not leave room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from starmill.detection.grouping import SourceGroups
from starmill.measurement.gaussian_fit import FitStatus, GaussianFit
from starmill.numerics.close_pairs import next_to

__all__ = [
    "GroupFitter", "drop_weak", "loss_without", "pick_groups", "replace_rows", "settle_blends", "split_blends",
]  # fmt: skip

GroupFitter = Callable[[NDArray[np.float64], SourceGroups, NDArray[np.float64]], GaussianFit]
"""Fits listed groups: start values (n, 6), groups, bounds (n, 5)."""

MIN_ELONGATION = 1.25  # of a candidate; two equal sources one size apart give 1.4
MIN_MISFIT = 1.2  # reduced chi2 of a candidate over the median of all; spares three fits of four
BAD_MISFIT = 1.8  # of one that is a candidate already at this part of the length:
SHORTER = 0.8
MIN_WHOLE = 7.0  # least peak over its error of a candidate
MAX_PART = 1.7  # beams; longest axis of a part
MIN_GAIN = 30.0  # decrease of chi2 for the six further parameters, over the misfit that is left


def settle_blends(
    fit: GaussianFit,
    groups: SourceGroups,
    fit_groups: GroupFitter,
    *,
    group: Callable[[NDArray[np.float64]], SourceGroups],
    bounds: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    beam_sigma: float,
    min_major: float | None,
    min_significance: float,
    distance: float,
    rounds: int = 2,
) -> tuple[GaussianFit, SourceGroups, NDArray[np.int64], NDArray[np.bool_]]:
    """Find out how many sources each blend holds: split what is two, take out what is not needed, and look again.

    Parameters
    ----------
    fit, groups, fit_groups, group, bounds, beam_sigma, min_major, min_significance, distance
        As for :func:`split_blends` (not done when ``min_major`` is None) and :func:`drop_weak`.
    rounds : int
        A source that was fitted again because a companion was taken out may be two after all.

    Returns
    -------
    fit, groups
        What came of it.
    origin : (m,) int64 array
        Which of the given sources these are; parts that were split off have higher numbers.
    needed : (m,) bool array
        See :func:`drop_weak`.
    """
    n_given = len(fit.sources)
    origin, needed = np.arange(n_given), np.zeros(n_given, bool)
    fresh = np.ones(n_given, bool)
    for number in range(rounds):
        if min_major is not None:
            parts, rows = split_blends(
                fit, fit_groups, beam_sigma=beam_sigma, min_major=min_major,
                min_significance=min_significance, among=fresh,
            )  # fmt: skip
            if rows.size:
                sources = np.concatenate([fit.sources, parts[1::2]])
                sources[rows] = parts[::2]
                groups = group(sources)
                added = np.arange(len(fit.sources), len(sources))
                changed = pick_groups(groups, np.concatenate([rows, added]))
                fit = replace_rows(fit, fit_groups(sources, changed, bounds(sources)), changed.members)
                origin = np.concatenate([origin, np.full(added.size, n_given)])
            elif number:
                break
        before = fit.sources
        fit, groups, kept, needed = drop_weak(
            fit, groups, fit_groups, group=group, bounds=bounds, min_significance=min_significance,
            distance=distance,
        )  # fmt: skip
        origin = origin[kept]
        fresh = (fit.sources != before[kept]).any(axis=1)
        if not fresh.any():
            break
    return fit, groups, origin, needed


def split_blends(
    fit: GaussianFit,
    fit_groups: GroupFitter,
    *,
    beam_sigma: float,
    min_major: float = 1.6,
    min_significance: float = 4.0,
    among: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the sources that are better described by two.

    Parameters
    ----------
    fit : GaussianFit
        Generalised least squares, so that a decrease of chi2 means something.
    fit_groups : callable
        Fits the listed groups with everything else as it is.
    beam_sigma : float, pixel
        Of the beam.
    min_major : float
        Major axes from this many beams on are looked at; of sources that fit badly, from 0.8 of it on.
    min_significance : float
        Smallest peak over its error of both parts.
    among : (n,) bool array, optional
        Only these sources are looked at.

    Returns
    -------
    parts : (2 k, 6) float64 array
        Start values of the first and second part of every source that is split, one after the other.
    rows : (k,) int64 array
        Which sources these replace.

    Notes
    -----
    Two equal Gaussians of variance b at a distance 2 d along an axis have the variance b + d^2 along it. Both models
    are fitted to the same pixels, those around the two parts; in the model of one source the second has no peak. A
    pair need not be equal: the fit of two starts also from a fainter companion on either side.
    """
    sources = fit.sources
    rows = _candidates(fit, beam_sigma, min_major) if len(sources) else np.zeros(0, np.int64)
    if among is not None:
        rows = rows[among[rows]]
    if rows.size == 0:
        return np.zeros((0, 6)), rows
    k = rows.size
    rest, whole = np.delete(sources, rows, axis=0), sources[rows]
    groups = _pairs(rest.shape[0], k)
    bounds = np.empty((rest.shape[0] + 2 * k, 5))
    bounds[:] = -np.inf, np.inf, 0.5 * beam_sigma, 4.0 * beam_sigma, np.inf
    bounds[-k:, :2] = 0.0
    first, second = _two_parts(whole, beam_sigma, 0)
    single, nothing = first.copy(), second.copy()
    single[:, 0], nothing[:, 0] = whole[:, 0], 0.0
    single[:, 3:5], nothing[:, 3:5] = whole[:, 3:5], whole[:, 3:5]
    one = fit_groups(np.concatenate([rest, single, nothing]), groups, bounds)
    bounds[-2 * k :, 0], bounds[-2 * k :, 1] = 0.0, 3.0 * np.tile(whole[:, 0], 2)
    bounds[-2 * k :, 3] = MAX_PART * beam_sigma
    bounds[-2 * k :, 4] = beam_sigma
    two = fit_groups(np.concatenate([rest, first, second]), groups, bounds)
    for side in (1, -1):
        first, second = _two_parts(whole, beam_sigma, side)
        other = fit_groups(np.concatenate([rest, first, second]), groups, bounds)
        better = np.tile(other.chi2[-k:] < two.chi2[-k:], 2)
        two = replace_rows(two, other, rest.shape[0] + np.flatnonzero(better))
    accepted = _better(one, two, k, beam_sigma, min_significance, _typical(fit))
    a, b = two.sources[-2 * k : -k][accepted], two.sources[-k:][accepted]
    return np.stack([a, b], axis=1).reshape(-1, 6), rows[accepted]


def _candidates(fit: GaussianFit, beam_sigma: float, min_major: float) -> NDArray[np.int64]:
    """Return the sources that are long and fit badly, or not so long and fit very badly."""
    sources = fit.sources
    misfit = fit.chi2 / np.maximum(fit.n_dof, 1) / _typical(fit)
    length = sources[:, 3] / (min_major * beam_sigma)
    bad = misfit > BAD_MISFIT
    wide = (misfit > MIN_MISFIT) & (length >= np.where(bad, SHORTER, 1.0))
    wide &= bad | (sources[:, 3] >= MIN_ELONGATION * sources[:, 4])
    wide &= fit.status < FitStatus.SINGULAR
    with np.errstate(invalid="ignore"):
        wide &= sources[:, 0] > MIN_WHOLE * fit.peak_err
    return np.flatnonzero(wide)


def _typical(fit: GaussianFit) -> float:
    """Reduced chi2 of most fits."""
    return max(float(np.median(fit.chi2 / np.maximum(fit.n_dof, 1))), np.finfo(float).tiny)


def _two_parts(
    whole: NDArray[np.float64], beam_sigma: float, side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start values of two equal parts along the major axis, or of a bright one and a faint one on one side of it."""
    first, second = whole.copy(), whole.copy()
    axis = np.column_stack([np.cos(whole[:, 5]), np.sin(whole[:, 5])])
    if side == 0:
        offset = np.sqrt(np.maximum(whole[:, 3] ** 2 - whole[:, 4] ** 2, (0.8 * beam_sigma) ** 2))[:, None]
        first[:, 1:3] += offset * axis
        second[:, 1:3] -= offset * axis
        for part in (first, second):
            part[:, 0] *= 0.5 * whole[:, 3] / whole[:, 4]
            part[:, 3], part[:, 4] = 1.02 * whole[:, 4], whole[:, 4]
        return first, second
    first[:, 1:3] -= side * 0.4 * beam_sigma * axis
    second[:, 1:3] += side * 2.0 * beam_sigma * axis
    first[:, 0] *= 0.9
    second[:, 0] *= 0.3
    for part in (first, second):
        part[:, 3], part[:, 4] = 1.05 * whole[:, 4], whole[:, 4]
    return first, second


def _pairs(n_rest: int, k: int) -> SourceGroups:
    """Return k groups of two: the first and the second part of each candidate, listed after the rest."""
    members = np.column_stack([n_rest + np.arange(k), n_rest + k + np.arange(k)]).ravel()
    label = np.zeros(n_rest + 2 * k, np.int64)
    label[n_rest:] = np.tile(np.arange(k), 2)
    return SourceGroups(np.arange(0, 2 * k + 1, 2), members.astype(np.int64), label, np.full(label.size, 2))


def _better(
    one: GaussianFit, two: GaussianFit, k: int, beam_sigma: float, min_significance: float, typical: float
) -> NDArray[np.bool_]:
    """Mark the candidates that two significant, separate sources describe much better than one.

    Where two do not fit either (a bright source that is not Gaussian) chi2 must fall by as much more.
    """
    first, second = slice(-2 * k, -k), slice(-k, None)
    apart = np.hypot(*(two.sources[first, i] - two.sources[second, i] for i in (1, 2)))
    left = np.maximum(two.chi2[first] / np.maximum(two.n_dof[first], 1) / typical, 1.0)
    good = (one.chi2[first] - two.chi2[first] > MIN_GAIN * left) & (two.status[first] == FitStatus.CONVERGED)
    for part in (first, second):
        with np.errstate(invalid="ignore"):
            good &= two.sources[part, 0] > min_significance * two.peak_err[part]
    return good & (apart > 0.7 * 2.3548 * beam_sigma) & (apart < 2.0 * 2.3548 * beam_sigma)


def drop_weak(
    fit: GaussianFit,
    groups: SourceGroups,
    fit_groups: GroupFitter,
    *,
    group: Callable[[NDArray[np.float64]], SourceGroups],
    bounds: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    min_significance: float,
    distance: float,
    passes: int = 6,
) -> tuple[GaussianFit, SourceGroups, NDArray[np.int64], NDArray[np.bool_]]:
    """Take members that are not needed out of groups, and fit the rest again.

    Two sources on top of each other can share the light in many ways, and then neither is significant although the two
    together are. The least significant member of a group is left out for trial. If the rest describes the pixels as
    well it gets the light back; if not, the member is needed, however uncertain its part of the light is.

    Parameters
    ----------
    fit : GaussianFit
    groups : SourceGroups
        As they were fitted.
    fit_groups : callable
        Fits the listed groups with everything else as it is.
    group, bounds : callable
        Groups, and bounds (n, 5), of sources (n, 6).
    min_significance : float
        Members with a smaller peak over its error are tried.
    distance : float, pixel
        Members farther from all others than this share no light with them and stay.
    passes : int
        At most this many members of a group are tried.

    Returns
    -------
    fit, groups
        What is left. Single sources are never taken out.
    kept : (m,) int64 array
        Which rows these were.
    needed : (m,) bool array
        Members without which chi2 is larger by :data:`MIN_GAIN`.
    """
    kept, needed = np.arange(len(fit.sources)), np.zeros(len(fit.sources), bool)
    for _ in range(passes):
        with np.errstate(invalid="ignore", divide="ignore"):
            strength = fit.sources[:, 0] / fit.peak_err
        strength = np.where(np.isfinite(strength), strength, -1.0)
        x, y = fit.sources[:, 1], fit.sources[:, 2]
        weak = (strength < min_significance) & (np.bincount(groups.label)[groups.label] > 1) & ~needed
        weak = np.flatnonzero(weak & next_to(x, y, x, y, distance, skip=np.arange(x.size)))
        if weak.size == 0:
            break
        weak = weak[np.lexsort((strength[weak], groups.label[weak]))]
        weak = weak[np.unique(groups.label[weak], return_index=True)[1]]
        loss = loss_without(fit, weak, pick_groups(groups, weak), fit_groups, bounds)
        needed[weak[loss >= MIN_GAIN]] = True
        useless = weak[loss < MIN_GAIN]
        if useless.size == 0:
            continue
        stay = np.ones(len(kept), bool)
        stay[useless] = False
        beside = np.isin(groups.label, groups.label[useless])[stay]
        fit, kept, needed = fit.rows(stay), kept[stay], needed[stay]
        groups = group(fit.sources)
        changed = pick_groups(groups, np.flatnonzero(beside))
        again = fit_groups(fit.sources, changed, bounds(fit.sources))
        fit = replace_rows(fit, again, changed.members)
    return fit, groups, kept, needed


def loss_without(
    fit: GaussianFit, rows: NDArray[np.int64], groups: SourceGroups, fit_groups: GroupFitter,
    bounds: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:  # fmt: skip
    """Return by how much chi2 rises, on the same pixels, when one member of each group has no peak.

    Where the group does not fit with it either, the rise is divided by the misfit over the typical one.

    Parameters
    ----------
    fit : GaussianFit
    rows : (k,) int array
        The members, one of each group.
    groups : SourceGroups
        These groups, see :func:`pick_groups`.
    fit_groups, bounds : callable
        As for :func:`drop_weak`.
    """
    limits = bounds(fit.sources)
    whole = fit_groups(fit.sources, groups, limits)
    sources = fit.sources.copy()
    sources[rows, 0] = limits[rows, 0] = limits[rows, 1] = 0.0
    left = np.maximum(whole.chi2[rows] / np.maximum(whole.n_dof[rows], 1) / _typical(fit), 1.0)
    loss = (fit_groups(sources, groups, limits).chi2[rows] - whole.chi2[rows]) / left
    return np.where(np.isfinite(loss), loss, 0.0)


def pick_groups(groups: SourceGroups, rows: NDArray[np.int64]) -> SourceGroups:
    """Return only the groups that hold one of these sources; the labels of all others mean nothing."""
    wanted = np.unique(groups.label[rows])
    members = [groups[int(g)] for g in wanted]
    label = np.zeros(groups.label.size, np.int64)
    for number, part in enumerate(members):
        label[part] = number
    sizes = np.array([part.size for part in members], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return SourceGroups(offsets, np.concatenate(members), label, groups.chain_size)


def replace_rows(fit: GaussianFit, new: GaussianFit, rows: NDArray[np.int64]) -> GaussianFit:
    """Return ``fit``, prolonged to the length of ``new``, with the given rows taken from ``new``."""
    out = {}
    for field in fields(GaussianFit):
        old, fresh = getattr(fit, field.name), getattr(new, field.name)
        values = np.concatenate([old, fresh[old.shape[0] :]])
        values[rows] = fresh[rows]
        out[field.name] = values
    return GaussianFit(**out)
