"""How much a kernel varies over the field, by the evidence of all stamps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from starmill.differencing.kernel_fit import summed_equations

if TYPE_CHECKING:
    from starmill.differencing.kernel_fit import KernelModel
    from starmill.differencing.stamp_system import StampSystem


__all__ = ["with_likely_variation"]

VARIATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Changes of the kernel by terms of the first order that are tried, relative to its norm."""

DECAYS = (0.25, 0.5, 1.0)
"""Ratios of the change by the terms of one order to that of the order before."""


def with_likely_variation(system: StampSystem, model: KernelModel, kernel_norm: float) -> KernelModel:
    """Return the model with the prior of its spatial terms under which the stamps are most likely.

    Few stars do not fix dozens of gradients one by one, but they tell how large gradients are: with the prior, the
    terms that the data do not fix stay small and the others are free.

    Parameters
    ----------
    system : StampSystem
        Stamps that agree.
    model : KernelModel
    kernel_norm : float
        Square root of the sum of the squares of a kernel.

    Returns
    -------
    model : KernelModel
        Without a prior when no term varies, for splines, and when no normal matrix is positive.

    References
    ----------
    MacKay 1992, Neural Computation 4, 415 (evidence of a linear model).
    """
    orders = model.shape_terms.orders
    if orders.max() == 0 or model.shape_terms.is_local or len(model.images) < 2:
        return model
    matrix, vector = summed_equations(system, model)
    trials = [
        replace(
            model,
            variation=tuple(float(first * decay**k) for k in range(orders.max())),
            kernel_norm=kernel_norm,
        )
        for first in VARIATIONS
        for decay in DECAYS
    ]
    evidence = [_log_evidence(matrix, vector, trial) for trial in trials]
    best = int(np.argmax(evidence))
    return trials[best] if np.isfinite(evidence[best]) else model


def _log_evidence(matrix: NDArray[np.floating], vector: NDArray[np.floating], model: KernelModel) -> float:
    """Return the logarithm of the evidence up to a constant that does not depend on the variation."""
    try:
        factor = linalg.cholesky(matrix + model.precision(), lower=True, check_finite=False)
    except linalg.LinAlgError:
        return -np.inf
    power = np.sum(linalg.solve_triangular(factor, vector, lower=True, check_finite=False) ** 2)
    orders = model.shape_terms.orders
    widths = np.array(model.variation)[orders[orders > 0] - 1]
    free = (len(model.images) - 1) * np.log(widths).sum()
    return 0.5 * power - np.log(np.diag(factor)).sum() - free
