"""Sum of a matching kernel: the photometric ratio of two images, over the field and with its error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import Field, FieldSum
from starmill.datamodel.geometry import Box
from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.differencing.kernel_fit import KernelFit
from starmill.differencing.wings import KernelWings

__all__ = ["kernel_sum_error", "kernel_sum_field", "kernel_sum_image"]


def kernel_sum_field(kernel: SpatialKernel) -> Field:
    """Return the kernel sum as a function of position; only images with a sum contribute."""
    sums = kernel.basis.sum(axis=(1, 2))
    scale = np.abs(kernel.basis).sum(axis=(1, 2)).max()
    return FieldSum([f * float(s) for f, s in zip(kernel.fields, sums, strict=True) if abs(s) > 1e-9 * scale])


def kernel_sum_image(kernel: SpatialKernel, box: Box) -> NDArray[Any]:
    """Return the kernel sum of every pixel, ``(ny, nx)``."""
    return np.asarray(kernel_sum_field(kernel).image(box))


def kernel_sum_error(fit: KernelFit, wings: KernelWings | None) -> float:
    """Return the standard error of the kernel sum at the centre of the field."""
    n = len(fit.model.sum_terms)
    terms = fit.model.sum_terms.evaluate(*fit.kernel.box.center)
    core = float(terms @ fit.covariance[:n, :n] @ terms)
    return float(np.sqrt(max(core, 0) + (0 if wings is None else wings.error**2)))
