"""Differential background: what is left between two matched images, measured without the sources."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import ConstantField, Field, FieldSum
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.errors import AlgorithmError
from starmill.kernels.cell_means import clipped_cell_means
from starmill.numerics.tiles import map_tiles

if TYPE_CHECKING:
    from starmill.datamodel.geometry import Box
    from starmill.differencing.flags import FlaggedPixels


__all__ = ["DifferentialBackground", "fit_differential_background", "with_mesh"]


_SAMPLES = 64
"""Pixels of a cell that are used along each axis: their mean is good to 2 per cent of the noise of a pixel."""


@dataclass(frozen=True)
class DifferentialBackground:
    """A smooth background and how it was chosen.

    Attributes
    ----------
    field : Field
        In the unit of the difference.
    order : int
        Order of the terms.
    cells_used : int
    error : float
        Standard error of the background at a typical pixel.
    mesh_scale : float
        Width of the window over the cells of a mesh that was added, pixels; infinite without one.
    """

    field: Field
    order: int
    cells_used: int
    error: float
    mesh_scale: float = np.inf


def fit_differential_background(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_] | FlaggedPixels,
    box: Box,
    *,
    order: int | None = None,
    cell: int | None = None,
    family: str = "chebyshev",
    maximum_order: int = 6,
) -> DifferentialBackground:
    """Fit a smooth function to a difference image of matched images, ignoring transients and residuals.

    Parameters
    ----------
    difference, variance : (ny, nx) arrays
        Matched difference without background subtraction and its variance.
    bad : (ny, nx) bool array or FlaggedPixels
    box : Box
        Of the image, parent frame.
    order : int, optional
        Order of the terms; chosen by cross-validation over the cells when not given.
    cell : int, optional
        Side of the cells in pixels; a sixteenth of the longer side by default, at least 32.
    family : {"chebyshev", "polynomial", "bspline"}
    maximum_order : int
        Largest order tried.

    Returns
    -------
    background : DifferentialBackground

    Notes
    -----
    Each cell gives the clipped mean of its pixels weighted by inverse variance, so that static sources (which
    cancel) count little and varying ones are clipped. Large cells are sampled with some 64 by 64 pixels.
    """
    x, y, mean, error = cell_means(difference, variance, bad, cell or max(32, max(difference.shape) // 16))
    good = np.isfinite(mean)
    if not good.any():
        raise AlgorithmError(
            "no cell has enough good pixels for the background", numbers={"cells": len(mean), "usable": 0}
        )
    x, y, mean, error = x[good] + box.x0, y[good] + box.y0, mean[good], error[good]
    if len(mean) < 4:
        value = np.average(mean, weights=1 / error**2)
        return DifferentialBackground(ConstantField(box, value), 0, len(mean), float(error.mean()))
    keep = np.ones(len(mean), bool)
    orders = [order] if order is not None else range(maximum_order + 1)
    for _ in range(3):
        best = min(
            (o for o in orders if _is_determined(SpatialTerms(box, o, family), keep.sum())),
            key=lambda o: _validation_error(
                SpatialTerms(box, o, family), x[keep], y[keep], mean[keep], error[keep]
            ),
            default=0,
        )
        terms = SpatialTerms(box, best, family)
        coefficients, covariance = _weighted_fit(terms.evaluate(x, y), mean, error, keep)
        residual = (mean - terms.evaluate(x, y) @ coefficients) / error
        spread = max(1.0, 1.4826 * np.median(np.abs(residual[keep])))  # MAD to sigma
        new = np.abs(residual) < 4 * spread
        if (new == keep).all():
            break
        keep = new
    design = terms.evaluate(x, y)
    typical = np.sqrt(np.mean(np.einsum("ij,jk,ik->i", design, covariance, design)))
    return DifferentialBackground(terms.field(coefficients), best, int(keep.sum()), float(typical * spread))


def with_mesh(
    background: DifferentialBackground,
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    box: Box,
    *,
    cell: int,
    forced: bool = False,
) -> DifferentialBackground:
    """Add what a mesh of small cells shows beyond a background: the glow of an edge, bands, scattered light.

    Parameters
    ----------
    background : DifferentialBackground
    difference, variance, bad, box
        As in :func:`fit_differential_background`.
    cell : int
        Side of the cells in pixels; several FWHM, so that the clipped mean of a cell does not see its sources.
    forced : bool
        Smooth with the widest window when no window predicts left-out cells better than the background alone.

    Returns
    -------
    background : DifferentialBackground
        The given one when nothing is to be added.
    """
    from starmill.datamodel.spline_field import SplineField  # 25 MB of imports that no polynomial needs
    from starmill.differencing.background_mesh import smooth_mesh

    x, y, mean, error = cell_means(difference, variance, bad, cell)
    shape = len(np.unique(y)), len(np.unique(x))
    if min(shape) < 4:  # fewer lines of cells tell no more than a polynomial
        return background
    excess = (mean - background.field(x + box.x0, y + box.y0)).reshape(shape)
    smooth, scale = smooth_mesh(excess, error.reshape(shape), forced=forced)
    if smooth is None:
        return background
    mesh = SplineField(box, np.unique(x) + box.x0, np.unique(y) + box.y0, smooth, "natural")
    return replace(background, field=FieldSum([background.field, mesh]), mesh_scale=scale * cell)


def cell_means(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_] | FlaggedPixels,
    cell: int,
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Return centres, clipped weighted means and their errors for every cell, ``(cells,)`` each.

    A cell with less than a tenth of its pixels has a NaN mean.
    """
    ny, nx = difference.shape
    rows = np.linspace(0, ny, max(1, round(ny / cell)) + 1).astype(np.int64)
    columns = np.linspace(0, nx, max(1, round(nx / cell)) + 1).astype(np.int64)
    step = max(1, min(np.diff(rows).min(), np.diff(columns).min()) // _SAMPLES)
    left, right = columns[:-1], columns[1:]
    out = np.empty((len(rows) - 1, len(left), 2))

    def work(j: int) -> None:
        part = slice(
            max(rows[j] - 1, 0), rows[j + 1] + 1
        )  # the variance of a pixel comes from its neighbours
        top, bottom = (np.full(len(left), row - part.start) for row in rows[j : j + 2])
        clipped_cell_means(
            difference[part], variance[part], bad[part], top, bottom, left, right, step, 0.1, out[j]
        )

    map_tiles(work, range(len(out)))
    y, x = np.meshgrid((rows[:-1] + rows[1:] - 1) / 2, (left + right - 1) / 2, indexing="ij")
    return x.ravel(), y.ravel(), out[..., 0].ravel(), out[..., 1].ravel()


def _is_determined(terms: SpatialTerms, n: int) -> bool:
    return n >= 2 * len(terms)


def _weighted_fit(
    design: NDArray[np.floating],
    values: NDArray[np.floating],
    error: NDArray[np.floating],
    keep: NDArray[np.bool_],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    scaled = design[keep] / error[keep][:, None]
    inverse = np.linalg.pinv(scaled.T @ scaled, rcond=1e-10, hermitian=True)
    return inverse @ (scaled.T @ (values[keep] / error[keep])), inverse


def _validation_error(
    terms: SpatialTerms,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    values: NDArray[np.floating],
    error: NDArray[np.floating],
) -> float:
    """Return the leave-one-out chi2 per cell of a fit of these terms."""
    design = terms.evaluate(x, y) / error[:, None]
    inverse = np.linalg.pinv(design.T @ design, rcond=1e-10, hermitian=True)
    hat = np.einsum("ij,jk,ik->i", design, inverse, design)
    residual = values / error - design @ (inverse @ (design.T @ (values / error)))
    return np.mean(np.minimum((residual / np.maximum(1 - hat, 1e-3)) ** 2, 25))
