"""Choice of the small regions around bright objects on which the matching kernel is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.errors import AlgorithmError, InputError
from starmill.kernels.kernel_convolution import block_peaks, mark_squares
from starmill.numerics.tiles import map_tiles, row_bands

if TYPE_CHECKING:
    from starmill.differencing.noise import PoissonVariance


__all__ = ["StampSet", "choose_stamps", "spread_mask", "stamps_at"]

_BLOCK = 8  # pixels; one candidate per block, the size of a star's core
_BAND = 64 * _BLOCK  # rows searched by one thread at a time


@dataclass(frozen=True)
class StampSet:
    """Centres of stamps.

    Attributes
    ----------
    x, y : (n,) int arrays
        Central pixels, array indices.
    half_width : int
        Stamps are ``2 half_width + 1`` pixels wide.
    signal_to_noise : (n,) array
        Of the central pixel of the target image above the local sky.
    cell : (n,) int array
        The grid cell each stamp belongs to.
    n_cells : int
        Number of cells of the grid.
    """

    x: np.ndarray
    y: np.ndarray
    half_width: int
    signal_to_noise: np.ndarray
    cell: np.ndarray
    n_cells: int

    def __len__(self) -> int:
        return len(self.x)


def choose_stamps(
    reference: NDArray[np.floating],
    target: NDArray[np.floating],
    bad: NDArray[np.bool_],
    variance: NDArray[np.floating] | PoissonVariance,
    *,
    half_width: int,
    margin: int,
    cell_size: int | None = None,
    per_cell: int = 3,
    threshold: float = 20.0,
    minimum: int = 1,
) -> StampSet:
    """Choose the brightest usable objects of every cell of a grid.

    Parameters
    ----------
    reference, target : (ny, nx) arrays
        The image that will be convolved and the image to be matched, same unit not needed.
    bad : (ny, nx) bool array
        Pixels that are not usable in either image (saturated ones included).
    variance : (ny, nx) array or float
        Variance of the target's noise.
    half_width : int
        Half width of a stamp in pixels.
    margin : int
        Pixels needed around a stamp: the half width of the kernel.
    cell_size : int, optional
        Side of a grid cell in pixels; by default a tenth of the longer side, at least one stamp.
    per_cell : int
        Stamps kept in each cell.
    threshold : float
        Signal-to-noise of the central pixel above the sky of the cell, in both images.
    minimum : int
        Fewest stamps that are accepted.

    Returns
    -------
    stamps : StampSet

    Raises
    ------
    AlgorithmError
        When fewer than ``minimum`` stamps are found.
    """
    ny, nx = target.shape
    border = half_width + margin + 1
    if ny < 2 * border + 2 or nx < 2 * border + 2:
        raise AlgorithmError(
            "the image is too small for one stamp and its kernel",
            numbers={"height": ny, "width": nx, "needed": 2 * border + 2},
        )
    cell_size = cell_size or max(max(ny, nx) // 10, 2 * half_width + 1)
    x, y = _candidates(target, bad, border)
    grid_x = max(1, round(nx / cell_size))
    grid_y = max(1, round(ny / cell_size))
    cell = (y * grid_y // ny) * grid_x + x * grid_x // nx
    sky_target, _ = _cell_sky(target, bad, grid_y, grid_x)
    sky_reference, spread_reference = _cell_sky(reference, bad, grid_y, grid_x)
    local_noise = np.sqrt(variance[y, x] if np.ndim(variance) else np.full(len(x), float(variance)))
    signal = (target[y, x] - sky_target[cell]) / local_noise
    above = reference[y, x] - sky_reference[cell]
    bright = (signal > threshold) & (above > threshold / 2 * spread_reference[cell]) & (above > 0)
    x, y, cell, signal = x[bright], y[bright], cell[bright], signal[bright]
    kept = _pick(x, y, cell, signal, bad, half_width, per_cell)
    if len(kept) < minimum:
        raise AlgorithmError(
            "too few stamps for a kernel fit",
            numbers={
                "stamps": len(kept), "needed": minimum, "candidates": len(signal),
                "usable_fraction": float(1 - bad.mean()), "threshold": float(threshold),
            },
        )  # fmt: skip
    return StampSet(x[kept], y[kept], half_width, signal[kept], cell[kept], grid_x * grid_y)


def stamps_at(
    x: NDArray[np.floating] | list[int],
    y: NDArray[np.floating] | list[int],
    shape: tuple[int, int],
    *,
    half_width: int,
    margin: int,
) -> StampSet:
    """Return stamps at given positions, without those too near the edge.

    Parameters
    ----------
    x, y : (n,) arrays
        Array indices; rounded to whole pixels.
    shape : (int, int)
        Of the image.
    half_width, margin : int
        As in :func:`choose_stamps`.
    """
    x, y = np.rint(np.asarray(x)).astype(int), np.rint(np.asarray(y)).astype(int)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"stamp positions must be two equal 1-D arrays, not {x.shape} and {y.shape}")
    border = half_width + margin
    inside = (x >= border) & (x < shape[1] - border) & (y >= border) & (y < shape[0] - border)
    n = int(inside.sum())
    return StampSet(x[inside], y[inside], half_width, np.full(n, np.nan), np.arange(n), n)


def _candidates(image: NDArray[np.floating], bad: NDArray[np.bool_], border: int) -> NDArray[np.integer]:
    """Return the brightest usable pixel of every block that is also the maximum of its 3 x 3 neighbours."""
    image, bad = np.ascontiguousarray(image, np.float32), np.ascontiguousarray(bad)
    columns = image.shape[1] // _BLOCK

    def search(rows: tuple[int, int]) -> NDArray[np.integer]:
        blocks = -(-(rows[1] - rows[0]) // _BLOCK) * columns
        x, y = np.empty(blocks, np.int64), np.empty(blocks, np.int64)
        n = block_peaks(image, bad, *rows, _BLOCK, border, x, y)
        return np.stack([x[:n], y[:n]])

    return np.concatenate(map_tiles(search, row_bands(image.shape[0], _BAND)), axis=1)


def _cell_sky(
    image: NDArray[np.floating], bad: NDArray[np.bool_], grid_y: int, grid_x: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the median and robust spread of some thousand pixels of each cell, ``(cells,)`` each."""
    sky, spread = np.empty(grid_y * grid_x), np.empty(grid_y * grid_x)
    step = max(4, min(image.shape[0] // grid_y, image.shape[1] // grid_x) // 32)
    thin, thin_bad = image[::step, ::step], bad[::step, ::step]
    rows = np.linspace(0, thin.shape[0], grid_y + 1).astype(int)
    columns = np.linspace(0, thin.shape[1], grid_x + 1).astype(int)

    def measure(j: int) -> None:
        for i in range(grid_x):
            part = np.s_[rows[j] : rows[j + 1], columns[i] : columns[i + 1]]
            values = thin[part][~thin_bad[part]]
            low, middle, _ = np.percentile(values, [15.87, 50, 84.13]) if len(values) else (0.0, np.inf, 0.0)
            sky[j * grid_x + i] = middle
            spread[j * grid_x + i] = max(middle - low, 1e-30)

    map_tiles(measure, range(grid_y))
    return sky, spread


def _pick(
    x: NDArray[np.integer],
    y: NDArray[np.integer],
    cell: NDArray[np.integer],
    signal: NDArray[np.floating],
    bad: NDArray[np.bool_],
    half_width: int,
    per_cell: int,
) -> NDArray[np.integer]:
    """Return the indices of the brightest candidates of each cell that are usable and do not overlap."""
    kept, per_cell_count = [], {}
    taken = np.zeros((bad.shape[0] // half_width + 2, bad.shape[1] // half_width + 2), bool)
    core = max(3, half_width // 3)
    for i in np.argsort(-signal, kind="stable"):
        if per_cell_count.get(cell[i], 0) >= per_cell or taken[y[i] // half_width, x[i] // half_width]:
            continue
        if bad[y[i] - core : y[i] + core + 1, x[i] - core : x[i] + core + 1].any():
            continue
        stamp = bad[y[i] - half_width : y[i] + half_width + 1, x[i] - half_width : x[i] + half_width + 1]
        if stamp.mean() > 0.25:  # a quarter of the stamp lost leaves too little of the wings
            continue
        kept.append(i)
        per_cell_count[cell[i]] = per_cell_count.get(cell[i], 0) + 1
        taken[y[i] // half_width, x[i] // half_width] = True
    return np.array(kept, dtype=int)


def spread_mask(bad: NDArray[np.bool_], half_width: int) -> NDArray[np.bool_]:
    """Return a mask grown by a square of the given half width, ``(ny, nx)`` bool."""
    out = np.array(bad, bool)
    y, x = np.divmod(np.flatnonzero(bad), bad.shape[1])
    mark_squares(x, y, int(half_width), out)
    return out
