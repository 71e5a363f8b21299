"""How many sources a blend holds: elongated ones that are two, and members that their companions do not leave room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from starmill.detection.grouping import SourceGroups
from starmill.measurement.gaussian_fit import FitStatus, GaussianFit
from starmill.numerics.close_pairs import next_to

__all__ = ["GroupFitter", "drop_weak", "pick_groups", "replace_rows", "split_blends"]

GroupFitter = Callable[[NDArray[np.float64], SourceGroups, NDArray[np.float64]], GaussianFit]
"""Fits listed groups: start values (n, 6), groups, bounds (n, 5)."""

MIN_ELONGATION = 1.25  # of a candidate; two equal sources one size apart give 1.4
MIN_MISFIT = 1.2  # reduced chi2 of a candidate over the median of all; spares three fits of four
BAD_MISFIT = 1.8  # of one that is a candidate already at this part of the length:
SHORTER = 0.8
MIN_WHOLE = 7.0  # least peak over its error of a candidate
MIN_GAIN = 25.0  # decrease of chi2 for the six further parameters


def split_blends(
    fit: GaussianFit,
    fit_groups: GroupFitter,
    *,
    beam_sigma: float,
    min_major: float = 1.6,
    min_significance: float = 4.0,
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

    Returns
    -------
    parts : (2 k, 6) float64 array
        Start values of the first and second part of every source that is split, one after the other.
    rows : (k,) int64 array
        Which sources these replace.

    Notes
    -----
    Two equal Gaussians of variance b at a distance 2 d along an axis have the variance b + d^2 along it. Both models
    are fitted to the same pixels, those around the two parts; in the model of one source the second has no peak.
    """
    sources = fit.sources
    if not len(sources):
        return np.zeros((0, 6)), np.zeros(0, np.int64)
    misfit = fit.chi2 / np.maximum(fit.n_dof, 1)
    misfit /= max(float(np.median(misfit)), np.finfo(float).tiny)
    length = sources[:, 3] / (min_major * beam_sigma)
    wide = (misfit > MIN_MISFIT) & (length >= np.where(misfit > BAD_MISFIT, SHORTER, 1.0))
    wide &= (sources[:, 3] >= MIN_ELONGATION * sources[:, 4]) & (fit.status < FitStatus.SINGULAR)
    with np.errstate(invalid="ignore"):
        wide &= sources[:, 0] > MIN_WHOLE * fit.peak_err
    rows = np.flatnonzero(wide)
    if rows.size == 0:
        return np.zeros((0, 6)), rows
    k = rows.size
    rest = np.delete(sources, rows, axis=0)
    whole = sources[rows]
    offset = np.sqrt(whole[:, 3] ** 2 - whole[:, 4] ** 2)
    step = np.column_stack([offset * np.cos(whole[:, 5]), offset * np.sin(whole[:, 5])])
    first, second = whole.copy(), whole.copy()
    first[:, 1:3] += step
    second[:, 1:3] -= step
    groups = _pairs(rest.shape[0], k)
    single, nothing = first.copy(), second.copy()
    single[:, 0], nothing[:, 0] = whole[:, 0], 0.0
    bounds = np.empty((rest.shape[0] + 2 * k, 5))
    bounds[:] = -np.inf, np.inf, 0.5 * beam_sigma, 4.0 * beam_sigma, np.inf
    bounds[-k:, :2] = 0.0
    one = fit_groups(np.concatenate([rest, single, nothing]), groups, bounds)
    for part in (first, second):
        part[:, 0] *= 0.5 * whole[:, 3] / whole[:, 4]
        part[:, 3], part[:, 4] = 1.02 * whole[:, 4], whole[:, 4]
    bounds[-2 * k :, 0], bounds[-2 * k :, 1] = 0.0, 3.0 * np.tile(whole[:, 0], 2)
    bounds[-2 * k :, 3] = min_major * beam_sigma
    bounds[-2 * k :, 4] = beam_sigma
    two = fit_groups(np.concatenate([rest, first, second]), groups, bounds)
    accepted = _better(one, two, k, beam_sigma, min_significance)
    a, b = two.sources[-2 * k : -k][accepted], two.sources[-k:][accepted]
    return np.stack([a, b], axis=1).reshape(-1, 6), rows[accepted]


def _pairs(n_rest: int, k: int) -> SourceGroups:
    """Return k groups of two: the first and the second part of each candidate, listed after the rest."""
    members = np.column_stack([n_rest + np.arange(k), n_rest + k + np.arange(k)]).ravel()
    label = np.zeros(n_rest + 2 * k, np.int64)
    label[n_rest:] = np.tile(np.arange(k), 2)
    return SourceGroups(np.arange(0, 2 * k + 1, 2), members.astype(np.int64), label, np.full(label.size, 2))


def _better(
    one: GaussianFit, two: GaussianFit, k: int, beam_sigma: float, min_significance: float
) -> NDArray[np.bool_]:
    """Mark the candidates that two significant, separate sources describe much better than one."""
    first, second = slice(-2 * k, -k), slice(-k, None)
    apart = np.hypot(*(two.sources[first, i] - two.sources[second, i] for i in (1, 2)))
    good = (one.chi2[first] - two.chi2[first] > MIN_GAIN) & (two.status[first] == FitStatus.CONVERGED)
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
    passes: int = 3,
) -> tuple[GaussianFit, SourceGroups, NDArray[np.int64]]:
    """Take the least significant member out of groups that have insignificant ones, and fit the rest again.

    Two sources on top of each other can share the light in many ways, and then neither is significant although the two
    together are. When one is given up the other gets its light back.

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
        Smallest peak over its error.
    distance : float, pixel
        Members farther from all others than this share no light with them and stay.
    passes : int
        At most this many members of a group are taken out.

    Returns
    -------
    fit, groups
        What is left. Single sources are never taken out.
    kept : (m,) int64 array
        Which rows these were.
    """
    kept = np.arange(len(fit.sources))
    for _ in range(passes):
        with np.errstate(invalid="ignore", divide="ignore"):
            strength = fit.sources[:, 0] / fit.peak_err
        strength = np.where(np.isfinite(strength), strength, -1.0)
        x, y = fit.sources[:, 1], fit.sources[:, 2]
        weak = (strength < min_significance) & (np.bincount(groups.label)[groups.label] > 1)
        weak = np.flatnonzero(weak & next_to(x, y, x, y, distance, skip=np.arange(x.size)))
        if weak.size == 0:
            break
        weak = weak[np.lexsort((strength[weak], groups.label[weak]))]
        _, first = np.unique(groups.label[weak], return_index=True)
        stay = np.ones(len(kept), bool)
        stay[weak[first]] = False
        beside = np.isin(groups.label, groups.label[weak[first]])[stay]
        fit, kept = fit.rows(stay), kept[stay]
        groups = group(fit.sources)
        changed = pick_groups(groups, np.flatnonzero(beside))
        again = fit_groups(fit.sources, changed, bounds(fit.sources))
        fit = replace_rows(fit, again, changed.members)
    return fit, groups, kept


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
