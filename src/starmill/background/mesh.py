"""Background from clipped statistics in a mesh of cells, joined by a Chebyshev polynomial or by splines.

The image is cut into nearly equal cells, each gives one node (level and standard error), and a smooth
field through the nodes is the background.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generic_filter

from starmill.datamodel.field import Field
from starmill.datamodel.geometry import Box
from starmill.datamodel.spline_field import SplineField
from starmill.errors import AlgorithmError, InputError
from starmill.numerics.field_fit import fit_chebyshev
from starmill.numerics.statistics import ALL_BITS, MeshStatistics, mesh_statistics
from starmill.numerics.tiles import map_tiles, row_bands

STATISTICS = ("clipped_mean", "mean", "median")
MODELS = ("chebyshev", "spline")
UNDERSAMPLING = ("reduce_order", "increase_nodes", "raise")

_LEAST_NODES = {"akima": 5, "natural": 3, "linear": 2, "constant": 1}


@dataclass(frozen=True, slots=True)
class BackgroundMesh:
    """The nodes of a background; arrays of shape (nodes in y, nodes in x), NaN where a cell has no pixel.

    Attributes
    ----------
    box : Box
        Pixels that the mesh covers, parent frame.
    x_nodes, y_nodes : 1-D arrays, pixels
        Centres of the cells, parent frame.
    level : array
        The statistic of every cell, in the unit of the image.
    error : array
        Standard error of the level.
    noise : array
        Clipped standard deviation of the pixels of the cell.
    n : int array
        Good pixels of the cell.
    """

    box: Box
    x_nodes: NDArray[np.float64]
    y_nodes: NDArray[np.float64]
    level: NDArray[np.float64]
    error: NDArray[np.float64]
    noise: NDArray[np.float64]
    n: NDArray[np.int64]

    @property
    def n_valid(self) -> int:
        """Number of nodes that have data."""
        return int(np.isfinite(self.level).sum())


@dataclass(frozen=True, slots=True)
class Background:
    """A fitted background.

    Attributes
    ----------
    field : Field
        The model, in the unit of the image.
    mesh : BackgroundMesh
        The nodes it rests on.
    model : {'chebyshev', 'spline', 'constant'}
        What joins the nodes; a single node gives a constant.
    order : (order in x, order in y) or None
        Of the polynomial that was used, after a reduction.
    """

    field: Field
    mesh: BackgroundMesh
    model: str
    order: tuple[int, int] | None


def cell_edges(length: int, bin_size: int) -> NDArray[np.int64]:
    """Edges of ceil(length / bin_size) nearly equal cells: rounded multiples of length / cells."""
    n_cells = max(1, math.ceil(length / bin_size))
    return np.floor(np.arange(n_cells + 1) * (length / n_cells) + 0.5).astype(np.int64)


def measure_mesh(
    image: NDArray[np.floating],
    mask: NDArray[np.integer] | None = None,
    *,
    bits: int = ALL_BITS,
    bin_size: int | tuple[int, int] = 128,
    statistic: str = "clipped_mean",
    n_sigma: float = 3.0,
    n_iterations: int = 3,
    origin: tuple[int, int] = (0, 0),
) -> BackgroundMesh:
    """Clipped statistics of all cells of an image.

    Parameters
    ----------
    image : (ny, nx) array
        NaN and infinite pixels are left out.
    mask : (ny, nx) int or bool array, optional
        Pixels with any plane of ``bits`` are left out.
    bits : int
        Mask planes to leave out (all by default).
    bin_size : int or (size in x, size in y), pixels
        Largest size of a cell.
    statistic : {'clipped_mean', 'mean', 'median'}
        Level of a cell.
    n_sigma, n_iterations
        Clipping, see :func:`starmill.numerics.statistics.clipped_statistics`.
    origin : (x0, y0)
        Parent-frame index of the first pixel.

    Raises
    ------
    InputError
        When an argument is out of range or the mask has another shape.
    AlgorithmError
        When no pixel of the image can be used.
    """
    _check_choice("statistic", statistic, STATISTICS)
    if mask is not None and mask.shape != image.shape:
        raise InputError(f"the image has shape {image.shape}, its mask {mask.shape}")
    size_x, size_y = _cell_size(image, bin_size)
    y_edges, x_edges = cell_edges(image.shape[0], size_y), cell_edges(image.shape[1], size_x)
    cells = mesh_statistics(
        image, mask, bits=bits, y_edges=y_edges, x_edges=x_edges, n_sigma=n_sigma, n_iterations=n_iterations
    )
    if not cells.n.any():
        masked = 0 if mask is None else int(np.count_nonzero(np.asarray(mask) & bits))
        raise AlgorithmError(
            "no pixel is left for the background: all are masked or not finite",
            numbers={"pixels": image.size, "masked": masked, "used": 0},
        )
    level, error = _levels(cells, statistic)
    return BackgroundMesh(
        box=Box.from_shape(image.shape, origin),
        x_nodes=origin[0] + (x_edges[1:] + x_edges[:-1] - 1) / 2,
        y_nodes=origin[1] + (y_edges[1:] + y_edges[:-1] - 1) / 2,
        level=level,
        error=error,
        noise=cells.clipped_std,
        n=cells.n,
    )


def filter_mesh(mesh: BackgroundMesh, *, size: int = 3, threshold: float = 0.0) -> BackgroundMesh:
    """Replace nodes by the median of their neighbourhood where they differ by more than ``threshold``.

    Parameters
    ----------
    mesh : BackgroundMesh
    size : int
        Odd side of the neighbourhood, nodes.
    threshold : float
        Smallest difference from the median, in standard errors of the node, that is replaced; 0 replaces
        every node.

    Returns
    -------
    mesh : BackgroundMesh
        Nodes without data stay so.
    """
    if size < 3 or size % 2 == 0:
        raise InputError(f"the neighbourhood of a node has an odd size of at least 3, not {size}")
    median = generic_filter(mesh.level, _finite_median, size=size, mode="constant", cval=np.nan)
    valid = np.isfinite(mesh.level)
    replaced = valid & (np.abs(mesh.level - median) > threshold * np.where(valid, mesh.error, 0.0))
    return replace(mesh, level=np.where(replaced, median, mesh.level))


def fit_mesh(
    mesh: BackgroundMesh,
    *,
    model: str = "chebyshev",
    order: int | tuple[int, int] = 6,
    spline: str = "akima",
    weighting: bool = True,
) -> tuple[Field, tuple[int, int] | None]:
    """Join the nodes of a mesh.

    Parameters
    ----------
    mesh : BackgroundMesh
    model : {'chebyshev', 'spline'}
        A polynomial fitted to the nodes, or splines through them.
    order : int or (order in x, order in y)
        Of the polynomial; its terms T_i(x) T_j(y) have i + j up to the larger one. Lowered to the number
        of nodes less one along the shorter side.
    spline : {'akima', 'natural', 'linear', 'constant'}
        The shorter side of the mesh needs 5, 3, 2 or 1 nodes for it; the next simpler one is taken when it
        has fewer, and by single lines that miss nodes.
    weighting : bool
        Weight the nodes by 1 / standard error in the sum of squares.

    Returns
    -------
    field : Field
    order : (order in x, order in y) or None
        That of the polynomial that was fitted.
    """
    _check_choice("background model", model, MODELS)
    if model == "spline":
        spline = reduced_spline(mesh, spline)
        return SplineField(mesh.box, mesh.x_nodes, mesh.y_nodes, mesh.level, spline), None
    order = reduced_order(mesh, order)
    x, y = np.meshgrid(mesh.x_nodes, mesh.y_nodes)
    weights = _node_weights(mesh) if weighting else None
    order = _determined_order(mesh, order)
    return fit_chebyshev(x, y, mesh.level.ravel(), box=mesh.box, order=order, weights=weights), order


def reduced_spline(mesh: BackgroundMesh, spline: str) -> str:
    """Spline that the mesh supports: the shorter side decides for both directions."""
    _check_choice("spline", spline, _LEAST_NODES)
    shorter = min(mesh.level.shape)
    names = list(_LEAST_NODES)
    return next(name for name in names[names.index(spline) :] if _LEAST_NODES[name] <= shorter)


def reduced_order(mesh: BackgroundMesh, order: int | tuple[int, int]) -> tuple[int, int]:
    """Order that the mesh supports: at most the number of nodes less one along the shorter side."""
    order_x, order_y = (order, order) if np.isscalar(order) else order
    if min(order_x, order_y) < 0:
        raise InputError(f"the order of a polynomial is not negative, {order} was given")
    limit = min(mesh.level.shape) - 1
    return min(order_x, limit), min(order_y, limit)


def estimate_background(
    image: NDArray[np.floating],
    mask: NDArray[np.integer] | None = None,
    *,
    bits: int = ALL_BITS,
    bin_size: int | tuple[int, int] = 128,
    statistic: str = "clipped_mean",
    n_sigma: float = 3.0,
    n_iterations: int = 3,
    model: str = "chebyshev",
    order: int | tuple[int, int] = 6,
    spline: str = "akima",
    weighting: bool = True,
    undersampling: str = "reduce_order",
    filter_size: int = 0,
    filter_threshold: float = 0.0,
    origin: tuple[int, int] = (0, 0),
) -> Background:
    """Smooth background of an image.

    Parameters
    ----------
    image, mask, bits, bin_size, statistic, n_sigma, n_iterations, origin
        See :func:`measure_mesh`.
    model, order, spline, weighting
        See :func:`fit_mesh`.
    undersampling : {'reduce_order', 'increase_nodes', 'raise'}
        What to do when there are fewer nodes along a side than the model needs.
    filter_size, filter_threshold
        Median filter of the nodes, see :func:`filter_mesh`; 0 for none.

    Returns
    -------
    background : Background
        ``background.field.image()`` is the model on the pixels.

    Raises
    ------
    AlgorithmError
        When no pixel can be used, or the nodes are too few and ``undersampling`` is ``raise``.
    """
    _check_choice("rule for too few nodes", undersampling, UNDERSAMPLING)
    _check_choice("background model", model, MODELS)
    _check_choice("spline", spline, _LEAST_NODES)
    needed = _LEAST_NODES[spline] if model == "spline" else 1 + int(np.max(order))
    size_x, size_y = _cell_size(image, bin_size, needed, undersampling)
    mesh = measure_mesh(
        image, mask, bits=bits, bin_size=(size_x, size_y), statistic=statistic, n_sigma=n_sigma,
        n_iterations=n_iterations, origin=origin,
    )  # fmt: skip
    if filter_size:
        mesh = filter_mesh(mesh, size=filter_size, threshold=filter_threshold)
    field, used_order = fit_mesh(mesh, model=model, order=order, spline=spline, weighting=weighting)
    return Background(field=field, mesh=mesh, model=model, order=used_order)


def subtract_field(
    image: NDArray[np.float32], field: Field, box: Box, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Subtract a field from an image, in bands of rows so that no whole model image is made.

    Parameters
    ----------
    image : (ny, nx) float32 array
        Changed unless ``out`` is given.
    field : Field
    box : Box
        The pixels of the image, parent frame.
    out : (ny, nx) float32 array, optional
        Receives the difference.

    Returns
    -------
    difference : (ny, nx) float32 array
        ``image`` or ``out``.
    """
    target = image if out is None else out

    def one_band(rows: tuple[int, int]) -> None:
        band = Box(box.x0, box.y0 + rows[0], box.width, rows[1] - rows[0])
        here = slice(rows[0], rows[1])
        np.subtract(image[here], field.image(band, np.float32), out=target[here])

    map_tiles(one_band, row_bands(box.height))
    return target


def _check_choice(what: str, value: str, known: Iterable[str]) -> None:
    """Raise an error that lists the known names unless the value is one of them."""
    if value not in known:
        raise InputError(f"unknown {what} {value!r} (known: {', '.join(known)})")


def _cell_size(
    image: NDArray[np.floating],
    bin_size: int | tuple[int, int],
    needed: int = 1,
    undersampling: str = "reduce_order",
) -> tuple[int, int]:
    """Return the cell size (x, y), smaller than wanted where the rule is to have enough nodes."""
    if image.ndim != 2 or image.size == 0:
        raise InputError(f"a background needs an image with two dimensions, the shape is {image.shape}")
    size_x, size_y = (bin_size, bin_size) if np.isscalar(bin_size) else bin_size
    if min(size_x, size_y) < 1:
        raise InputError(f"a background cell has at least one pixel, the bin size is {bin_size}")
    found = min(math.ceil(image.shape[1] / size_x), math.ceil(image.shape[0] / size_y))
    if found < needed and undersampling == "raise":
        raise AlgorithmError(
            "the mesh has too few nodes for the background model", numbers={"nodes": found, "needed": needed}
        )
    if found < needed and undersampling == "increase_nodes":
        size_x = max(1, min(size_x, image.shape[1] // needed))
        size_y = max(1, min(size_y, image.shape[0] // needed))
    return size_x, size_y


def _levels(cells: MeshStatistics, statistic: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Level and standard error of the cells."""
    if statistic == "clipped_mean":
        return cells.clipped_mean, cells.clipped_mean_err
    if statistic == "mean":
        return cells.mean, cells.mean_err
    return cells.median, cells.median_err


def _finite_median(values: NDArray[np.float64]) -> float:
    """Median of the finite values; NaN without any."""
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else np.nan


def _node_weights(mesh: BackgroundMesh) -> NDArray[np.float64]:
    """1 / standard error; nodes without a positive error get the largest weight of the others."""
    error = mesh.error.ravel()
    known = np.isfinite(error) & (error > 0)
    smallest = error[known].min() if known.any() else 1.0
    return 1.0 / np.where(known, error, smallest)


def _determined_order(mesh: BackgroundMesh, order: tuple[int, int]) -> tuple[int, int]:
    """Lower the order until the valid nodes cover enough rows and columns to determine every term."""
    valid = np.isfinite(mesh.level)
    order_x = min(order[0], int(valid.any(axis=0).sum()) - 1)
    order_y = min(order[1], int(valid.any(axis=1).sum()) - 1)
    return order_x, order_y
