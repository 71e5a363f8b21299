"""Stamps around the brightest clean objects of every grid cell, found as HOTPANTS finds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starmill.differencing.histogram_sky import histogram_sky
from starmill.kernels.block_convolution import score_box, search_cell

__all__ = ["CellSearch", "cell_grid", "clipped_moments", "find_cell_stamps"]

_SPOILED = 0xBF  # every input bit but 0x40, which only says that a bad pixel is near
_BOXES = 0xA00  # boxes of accepted stamps


def cell_grid(
    shape: tuple[int, int],
    regions: tuple[int, int],
    cells: tuple[int, int],
    *,
    kernel_half_width: int,
    half_width: int,
) -> tuple[int, int, int]:
    """Return the side of a grid cell and the numbers of cells in one region.

    Parameters
    ----------
    shape : (ny, nx)
        Of the whole image.
    regions, cells : (int, int)
        Regions of the image and cells of a region, along x and y.
    kernel_half_width, half_width : int
        Of the kernel and of a stamp, pixels.

    Returns
    -------
    side : int
        Odd.
    n_x, n_y : int
        Fewer than asked for when a stamp would not fit into a cell.
    """
    sides = [shape[1] // regions[0], shape[0] // regions[1]]
    kernel = 2 * kernel_half_width + 1
    side = min(length // n for length, n in zip(sides, cells, strict=True)) - kernel
    side -= 1 - side % 2
    if side >= 2 * half_width + 1:
        return side, cells[0], cells[1]
    side = 2 * half_width + 1 + kernel
    side -= 1 - side % 2
    return side, max(sides[0] // side, 1), max(sides[1] // side, 1)


def clipped_moments(
    values: NDArray[np.floating] | list[float], clip: float, rounds: int = 10
) -> tuple[float, float]:
    """Return mean and standard deviation of what is left by repeated clipping.

    Parameters
    ----------
    values : (n,) array
    clip : float
        In standard deviations.
    rounds : int
        How often the moments are measured; as the original program, which does not measure again after the last clip.
    """
    values = np.asarray(values, np.float64)
    mean, scatter = values.mean(), values.std(ddof=min(1, len(values) - 1))
    for _ in range(rounds - 1):
        kept = values[np.abs(values - mean) <= clip * scatter]
        if len(kept) == len(values) or len(kept) < 2:
            break
        values, mean, scatter = kept, kept.mean(), kept.std(ddof=1)
    return float(mean), float(scatter)


@dataclass(frozen=True)
class CellSearch:
    """Where stamps of one direction are looked for.

    Attributes
    ----------
    image : (ny, nx) array
        The image that would be convolved.
    own : int
        Mask bits of this search: those of its border, and the one that marks boxes of accepted stamps.
    limit : float
        A pixel at or above it spoils a stamp.
    """

    image: np.ndarray
    own: int
    limit: float


def find_cell_stamps(
    searches: list[CellSearch],
    mask: NDArray[np.integer],
    grid: tuple[int, int, int],
    *,
    threshold: float,
    half_width: int,
    kernel_half_width: int,
    per_cell: int,
    clip: float = 3.0,
    listed: NDArray[np.floating] | None = None,
    fill: bool = True,
) -> list[list[tuple[NDArray[np.int64], list[tuple[int, int]]]]]:
    """Return the stamps of every grid cell, best first.

    Parameters
    ----------
    searches : list of CellSearch
        The sky of a cell is measured for all of them before the first one marks its boxes, as the program does it.
    mask : (ny, nx) int32 array
        Bits of the command; boxes of accepted stamps are marked.
    grid : (side, n_x, n_y)
        From `cell_grid`.
    threshold : float
        Of the peak, in widths of the sky.
    half_width, kernel_half_width : int
        Of a stamp and of the kernel, pixels.
    per_cell : int
        Most stamps of one cell.
    clip : float
        Of the statistics of the sky.
    listed : (n, 2) array, optional
        Positions x, y that are tried first.
    fill : bool
        Search for further stamps after the listed ones.

    Returns
    -------
    found : list of lists of (cell, list of (x, y))
        For every search the cells that hold a stamp; ``cell`` is ``(x0, y0, x1, y1)``, last pixels exclusive.
    """
    side, n_x, n_y = grid
    ny, nx = mask.shape
    out = [[] for _ in searches]
    for row in range(n_y):
        for column in range(n_x):
            x0, y0 = column * nx // n_x, row * ny // n_y
            cell = np.array([x0, y0, min(x0 + side, nx), min(y0 + side, ny)], np.int64)
            part = np.s_[y0 : cell[3], x0 : cell[2]]
            usable = mask[part] & 0xFFFF == 0
            if not usable.any():
                continue
            skies = [histogram_sky(search.image[part], usable, clip) for search in searches]
            for search, (sky, width), cells in zip(searches, skies, out, strict=True):
                stamps = []
                if listed is not None:
                    stamps = _listed_stamps(search, mask, cell, listed, sky + threshold * width,
                                            half_width, kernel_half_width)[:per_cell]  # fmt: skip
                if fill and len(stamps) < per_cell:
                    found = np.zeros((2 * per_cell, 3))
                    n = search_cell(
                        search.image, mask, cell, _SPOILED | search.own, search.own & _BOXES, sky, width, search.limit,
                        threshold, half_width, 2 * per_cell, found,
                    )  # fmt: skip
                    best = found[:n][np.argsort(-found[:n, 2], kind="stable")]
                    stamps += [(int(x), int(y)) for x, y, _ in best[: per_cell - len(stamps)]]
                if stamps:
                    cells.append((tuple(int(v) for v in cell), stamps))
    return out


def _listed_stamps(
    search: CellSearch,
    mask: NDArray[np.integer],
    cell: NDArray[np.integer],
    listed: NDArray[np.floating],
    floor: float,
    half_width: int,
    kernel_half_width: int,
) -> list[tuple[int, int]]:
    """Return the listed positions of a cell whose boxes are clean, and mark them."""
    stamps, scratch = [], np.zeros(3)
    margin = kernel_half_width + 1
    for x, y in np.rint(np.asarray(listed)).astype(np.int64):
        inside = cell[0] + margin < x < cell[2] - 1 - margin and cell[1] + margin < y < cell[3] - 1 - margin
        refuse = _SPOILED | search.own
        if inside and score_box(
            search.image, mask, cell, refuse, x, y, half_width, search.limit, floor, scratch
        ):
            stamps.append((int(x), int(y)))
            box = np.s_[
                max(y - half_width, cell[1]) : min(y + half_width + 1, cell[3]),
                max(x - half_width, cell[0]) : min(x + half_width + 1, cell[2]),
            ]
            mask[box] |= search.own & _BOXES
    return stamps
