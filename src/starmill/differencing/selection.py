"""Choice of the kernel model by cross-validation on stamps that were left out of the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from starmill.differencing.kernel_fit import (
    KernelModel,
    fit_kernel,
    solve_summed,
    stamp_quality,
    summed_equations,
)
from starmill.differencing.kernel_prior import with_likely_variation
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.errors import AlgorithmError

if TYPE_CHECKING:
    from starmill.datamodel.geometry import Box
    from starmill.differencing.kernel_basis import KernelBasis
    from starmill.differencing.kernel_fit import KernelFit
    from starmill.differencing.stamp_system import StampSystem


__all__ = ["best_basis", "fit_selected_kernel", "thinned_images"]


def thinned_images(basis: KernelBasis, highest: int) -> NDArray[np.integer]:
    """Return the images of a basis whose polynomial degree is at most ``highest``."""
    return np.flatnonzero(basis.order <= highest)


def fit_selected_kernel(
    system: StampSystem,
    basis: KernelBasis,
    box: Box,
    *,
    orders: Sequence[int] = (0, 1, 2, 3, 4),
    sum_orders: tuple[int, ...] = (0, 1),
    degrees: tuple[int, ...] = (2, 4, 6),
    penalties: Sequence[NDArray[np.floating] | None] = (None,),
    family: str = "chebyshev",
    folds: int = 5,
    **keywords,
) -> KernelFit:
    """Fit the kernel model that predicts left-out stamps best.

    The spatial order, the degree of the basis and the order of the kernel sum are chosen in turn. The spatial terms,
    those of one order more among them, then get the prior under which the stamps are most likely.

    Parameters
    ----------
    system : StampSystem
    basis : KernelBasis
        The largest basis; its images of high degree may be left out.
    box : Box
        Field of the spatial terms.
    orders, sum_orders : sequences of int
        Spatial orders tried for the shape and for the kernel sum.
    degrees : sequence of int
        Highest polynomial degrees of the basis tried.
    penalties : sequence of (n_basis, n_basis) array
        Quadratic forms tried, the strongest first; see
        :meth:`~starmill.differencing.stamp_system.StampSystem.penalised`.
    family : str
        See :class:`~starmill.differencing.spatial_terms.SpatialTerms`.
    folds : int
        Number of parts the stamps are divided into.
    **keywords
        Passed to :func:`~starmill.differencing.kernel_fit.fit_kernel`.

    Returns
    -------
    fit : KernelFit
        ``fit.selection`` holds the mean chi2 of left-out stamps for every model tried, and the likely variation.
    """
    strength = len(penalties) // 2
    start = _first_fit(system, basis, box, family, {**keywords, "penalty": penalties[strength]})
    clean = system.select(start.used)
    table, scores = {}, {}

    def score(degree: int, order: int, sum_order: int, strength: int = strength) -> NDArray[np.floating]:
        key = (degree, order, sum_order, strength)
        if key not in scores:
            model = _model(basis, box, family, degree, order, sum_order)
            scores[key] = validation_chi2(clean, model, folds, penalties[strength])
            name = f"degree {degree}, order {order}, sum order {sum_order}"
            name += f", penalty {strength}" if len(penalties) > 1 else ""
            table[name] = float(np.mean(scores[key]))
        return scores[key]

    # it takes many stars to tell a gradient of the kernel sum from noise
    sum_orders = [o for o in sum_orders if len(clean) >= 15 * len(SpatialTerms(box, o, family))] or [
        min(sum_orders)
    ]
    degrees = sorted({min(d, int(basis.order.max())) for d in degrees})
    degree, sum_order = degrees[len(degrees) // 2], min(sum_orders)
    order = _simplest(orders, lambda o: score(degree, o, sum_order))
    degree = _simplest(degrees, lambda d: score(d, order, sum_order))
    order = _simplest([o for o in orders if abs(o - order) <= 1], lambda o: score(degree, o, sum_order))
    sum_order = _order_of_sum(sum_orders, lambda o: score(degree, order, o))
    strength = _simplest(range(len(penalties)), lambda i: score(degree, order, sum_order, i))
    best = score(degree, order, sum_order, strength)
    table["chosen"] = float(np.mean(best))
    if not np.isfinite(best).all():
        return replace(start, selection=table)
    keywords["penalty"] = penalties[strength]
    # one order more than the data alone can tell: the prior keeps it small
    highest = order if penalties[strength] is not None else min(max(order + 1, 2), max(orders))
    model = _model(basis, box, family, degree, highest, sum_order)
    if penalties[strength] is None:
        model = with_likely_variation(
            clean, model, float(np.linalg.norm(start.kernel.kernel_at(*box.center)))
        )
        table |= {f"variation, order {k}": v for k, v in enumerate(model.variation, start=1)}
    try:
        fit = fit_kernel(system, model, **keywords)
    except AlgorithmError:
        fit = start
    return replace(fit, selection=table)


def best_basis(fits: dict[str, KernelFit]) -> KernelFit:
    """Return the fit whose left-out stamps are predicted best; its table names all bases.

    Parameters
    ----------
    fits : dict of KernelFit
        Fits with different bases to the same stamps. Without alternatives the only one is returned as it is.

    Returns
    -------
    fit : KernelFit
        ``fit.selection`` holds, for every basis, the mean chi2 of left-out stamps of the model chosen for it.
    """
    if len(fits) == 1:
        return next(iter(fits.values()))
    scores = {name: fit.selection.get("chosen", np.inf) for name, fit in fits.items()}
    name = min(scores, key=lambda n: scores[n])
    return replace(fits[name], selection={**fits[name].selection, **scores})


def _simplest(choices: Sequence[int], chi2_of: Callable[..., Any]) -> int:
    """Return the best choice, or a simpler one that is not worse by its standard error over the stamps."""
    ranked = sorted(choices)
    best = min(ranked, key=lambda c: np.mean(chi2_of(c)))
    for choice in ranked:
        if choice == best:
            break
        if not np.isfinite(chi2_of(choice)).all():
            continue
        loss = chi2_of(choice) - chi2_of(best)
        if loss.mean() < loss.std() / np.sqrt(len(loss)):
            return choice
    return best


def _order_of_sum(choices: dict[int, NDArray[np.floating]] | list[int], chi2_of: Callable[..., Any]) -> int:
    """Return the order of the kernel sum: linear, unless a constant predicts better or a curve much better.

    A gradient that is not there costs little, one that is left out biases every flux by its size; a curvature that is
    not there shifts the kernel sum at the centre.
    """
    ranked = sorted(choices)
    chosen = 1 if 1 in ranked else ranked[0]
    for other, needed in [(o, 1.0) for o in ranked if o < chosen] + [(o, 3.0) for o in ranked if o > chosen]:
        if not (np.isfinite(chi2_of(chosen)).all() and np.isfinite(chi2_of(other)).all()):
            continue
        gain = chi2_of(chosen) - chi2_of(other)
        if gain.mean() > needed * gain.std() / np.sqrt(len(gain)):
            chosen = other
    return chosen


def _model(basis: KernelBasis, box: Box, family: str, degree: int, order: int, sum_order: int) -> KernelModel:
    shape, total = SpatialTerms(box, order, family), SpatialTerms(box, sum_order, family)
    return KernelModel(basis, shape, total, thinned_images(basis, degree))


def _first_fit(
    system: StampSystem, basis: KernelBasis, box: Box, family: str, keywords: dict[str, Any]
) -> KernelFit:
    """Fit a small model, to find the stamps that do not agree; the smallest that can be solved."""
    failure = None
    penalised = keywords.get("penalty") is not None
    choices = [(int(basis.order.max()), 0)] if penalised else [(4, 1), (2, 1), (2, 0), (0, 0)]
    for degree, order in choices:
        model = _model(basis, box, family, degree, order, 0)
        if len(model.columns[0]) > 4 * len(system) and degree > 0 and not penalised:
            continue
        try:
            return fit_kernel(system, model, **keywords)
        except AlgorithmError as error:
            failure = error
    raise failure or AlgorithmError(
        "too few stamps for a kernel fit", numbers={"stamps": len(system), "needed": 3}
    )


def validation_chi2(
    system: StampSystem, model: KernelModel, folds: int, penalty: NDArray[np.floating] | None = None
) -> NDArray[np.floating]:
    """Return the chi2 per pixel of every stamp when it is left out; infinite when a part cannot be solved.

    Each value is limited to the robust range of all, so that one odd star does not choose the model.
    """
    n = len(system)
    folds = min(folds, n)
    if folds < 2 or (penalty is None and len(model.columns[0]) > 4 * n):  # a star does not fix more
        return np.full(n, np.inf)
    part = np.arange(n) % folds
    solved = system.penalised(penalty)
    total, vector = summed_equations(solved, model)
    chi2 = np.empty(n)
    for fold in range(folds):
        out = system.select(part == fold)
        matrix, right = summed_equations(solved.select(part == fold), model)
        try:
            solution = solve_summed(total - matrix, vector - right, with_covariance=False)
        except AlgorithmError:
            return np.full(n, np.inf)
        chi2[part == fold] = stamp_quality(out, model, solution.coefficients).chi2
    return np.minimum(chi2, 3 * np.percentile(chi2, 90))
