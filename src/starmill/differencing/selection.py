"""Choice of the kernel model by cross-validation on stamps that were left out of the fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from starmill.differencing.kernel_fit import KernelModel, fit_kernel, solve_summed, stamp_quality, summed_equations
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.errors import AlgorithmError

__all__ = ["fit_selected_kernel", "thinned_images"]


def thinned_images(basis, highest):
    """Return the images of a basis whose polynomial degree is at most ``highest``."""
    return np.flatnonzero(basis.order <= highest)


def fit_selected_kernel(
    system, basis, box, *, orders=(0, 1, 2, 3, 4), sum_orders=(0, 1), degrees=(2, 4, 6),
    family="chebyshev", folds=5, **keywords,
):  # fmt: skip
    """Fit the kernel model that predicts left-out stamps best.

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
    family : str
        See :class:`~starmill.differencing.spatial_terms.SpatialTerms`.
    folds : int
        Number of parts the stamps are divided into.
    **keywords
        Passed to :func:`~starmill.differencing.kernel_fit.fit_kernel`.

    Returns
    -------
    fit : KernelFit
        ``fit.selection`` holds the mean chi2 of left-out stamps for every model tried.
    """
    start = _first_fit(system, basis, box, family, keywords)
    clean = system.select(start.used)
    table, best, best_score = {}, None, np.inf
    for degree in sorted({min(d, int(basis.order.max())) for d in degrees}):
        images = thinned_images(basis, degree)
        for order in orders:
            for sum_order in sum_orders:
                if sum_order > order:
                    continue
                model = KernelModel(basis, SpatialTerms(box, order, family), SpatialTerms(box, sum_order, family), images)
                score = validation_score(clean, model, folds)
                table[f"degree {degree}, order {order}, sum order {sum_order}"] = score
                if score < best_score:
                    best, best_score = model, score
    if best is None or not np.isfinite(best_score):
        return replace(start, selection=table)
    try:
        fit = fit_kernel(system, best, **keywords)
    except AlgorithmError:
        fit = start
    return replace(fit, selection=table)


def _first_fit(system, basis, box, family, keywords):
    """Fit a small model, to find the stamps that do not agree; the smallest that can be solved."""
    failure = None
    for degree, order in ((4, 1), (2, 1), (2, 0), (0, 0)):
        terms = SpatialTerms(box, order, family)
        model = KernelModel(basis, terms, SpatialTerms(box, 0, family), thinned_images(basis, degree))
        if len(model.columns[0]) > 25 * len(system):
            continue
        try:
            return fit_kernel(system, model, **keywords)
        except AlgorithmError as error:
            failure = error
    raise failure or AlgorithmError("too few stamps for a kernel fit", numbers={"stamps": len(system), "needed": 3})


def validation_score(system, model, folds):
    """Return the mean excess of chi2 over left-out stamps; infinity when a part cannot be solved.

    Each stamp's chi2 is limited to the robust range of all, so that one odd star does not choose the model.
    """
    n = len(system)
    folds = min(folds, n)
    if folds < 2 or len(model.columns[0]) > 15 * n:
        return np.inf
    part = np.arange(n) % folds
    total, vector = summed_equations(system, model)
    chi2 = np.empty(n)
    for fold in range(folds):
        out = system.select(part == fold)
        matrix, right = summed_equations(out, model)
        try:
            solution = solve_summed(total - matrix, vector - right)
        except AlgorithmError:
            return np.inf
        chi2[part == fold] = stamp_quality(out, model, solution.coefficients).chi2 * out.pixels
    limit = np.percentile(chi2 / system.pixels, 90) * 3
    return float(np.mean(np.minimum(chi2 / system.pixels, limit)))
