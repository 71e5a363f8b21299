"""Background of the box around a source or group, fitted with the sources masked (the published rules of HYPER).

Sources are masked where a Gaussian fitted to them exceeds exp(-2) of its peak; the masks of neighbours are filled by
interpolation, those of the sources of interest are left out of the fit. Every box size and polynomial order is
scored on the pixels of the smallest box.

References
----------
Traficante et al. 2015, MNRAS 451, 3089, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from starmill.background.polynomial import clip_values, exponents, fill_masked, fit_polynomial_background
from starmill.errors import AlgorithmError
from starmill.kernels.gaussian_windows import fit_windows

__all__ = ["BoxBackground", "box_sizes", "separate_background"]

MASK_LEVEL = 0.1353  # exp(-2), the published value
MASK_FRACTION = 0.3  # a group's masks may cover at most this part of its box


@dataclass(frozen=True, slots=True)
class BoxBackground:
    """The background of one box.

    Attributes
    ----------
    corner : (x, y)
        First pixel of the box in the map.
    data : (ny, nx) float64 array
        Map minus background.
    background : (ny, nx) float64 array
    order : int
        Of the polynomial; -1 when nothing could be fitted.
    """

    corner: tuple[int, int]
    data: NDArray[np.float64]
    background: NDArray[np.float64]
    order: int


def box_sizes(min_box: float, max_box: float, fwhm: float, max_size: float, extent: float) -> list[int]:
    """Return the full sizes of the boxes to try, pixels.

    Parameters
    ----------
    min_box, max_box : float
        Half sizes in beams.
    fwhm : float, pixel
        Of the beam.
    max_size : float
        Largest source size in beams.
    extent : float, pixel
        Largest distance between two members of the group; 0 for a single source.
    """
    first = int(np.ceil(min_box * fwhm) * 2 + 2 * max_size * fwhm + extent)
    last = int(np.ceil(max_box * fwhm) * 2 + 2 * max_size * fwhm + extent)
    return list(range(first + 1, last + 2, 2))


def separate_background(
    image: NDArray[Any], x: NDArray[Any], y: NDArray[Any], members: NDArray[np.int64], *,
    beam_sigma: float, max_size: float, sizes: Sequence[int], orders: Sequence[int],
    fitters: Sequence[tuple[str, float]], score: str,
) -> BoxBackground:  # fmt: skip
    """Choose the best background of the box around a source or group.

    Parameters
    ----------
    image : (ny, nx) array
        NaN is no data.
    x, y : (n,) arrays, pixel
        All sources of the map.
    members : (k,) int array
        Sources of interest.
    beam_sigma : float, pixel
    max_size : float
        Largest source size in beams.
    sizes : sequence of int, pixel
        Full sizes of the boxes; empty for the whole map.
    orders : sequence of int
    fitters : sequence of (method, epsilon)
    score : {'nmse', 'redchi', 'bic'}

    Returns
    -------
    best : BoxBackground

    Raises
    ------
    AlgorithmError
        When no box holds a valid pixel.

    Notes
    -----
    As published, a box larger than the smallest one is scored with the polynomial counted from the first pixel of
    the common part and not of the box, and the mean square that normalises ``nmse`` is that of the box.
    """
    best: BoxBackground | None = None
    lowest, reference, first_size = np.inf, None, 0
    fallback: BoxBackground | None = None
    for size in sizes or (0,):
        corner, cut = _box(image, x[members], y[members], size)
        if cut.size == 0 or not np.isfinite(cut).any():
            continue
        median = float(np.median(cut[clip_values(cut.ravel(), 3.0, 5).reshape(cut.shape)]))
        local = cut - median
        lx, ly = x - corner[0], y - corner[1]
        whole = not sizes
        filled, free = _masks(local, lx, ly, members, beam_sigma, max_size, mask_others=not whole)
        masked = np.where(free, filled, np.nan)
        if fallback is None:
            fallback = BoxBackground(corner, cut, np.zeros_like(cut), -1)
        if reference is None:
            reference, first_size = masked, size
        row, column = np.nonzero(free & np.isfinite(filled))
        values = filled[row, column]
        keep = clip_values(values)
        common, values_there = _common_part(masked, reference, lx[members], ly[members], first_size)
        if common[0].size < 10:
            continue
        for order in orders:
            for method, epsilon in fitters:
                if keep.sum() < len(exponents(order)):
                    continue
                fit = fit_polynomial_background(
                    column[keep], row[keep], values[keep], order, method=method, epsilon=epsilon
                )
                number = _published_score(
                    fit(common[1], common[0]) - values_there, values[keep], len(exponents(order)), score
                )
                if number < lowest:
                    lowest = number
                    grid = np.indices(cut.shape)
                    model = fit(grid[1].ravel(), grid[0].ravel()).reshape(cut.shape)
                    best = BoxBackground(corner, local - model, model + median, order)
    if best is None and fallback is None:
        raise AlgorithmError(
            "no box around the source holds data", numbers={"boxes": len(sizes), "valid pixels": 0}
        )
    return best if best is not None else fallback  # type: ignore[return-value]


def _box(
    image: NDArray[Any], x: NDArray[Any], y: NDArray[Any], size: int
) -> tuple[tuple[int, int], NDArray[np.float64]]:
    if size == 0:
        return (0, 0), np.asarray(image, np.float64)
    half = size // 2 - 1
    x0, x1 = max(0, int(x.min()) - half), min(image.shape[1], int(x.max()) + half + 1)
    y0, y1 = max(0, int(y.min()) - half), min(image.shape[0], int(y.max()) + half + 1)
    return (x0, y0), np.array(image[y0:y1, x0:x1], np.float64)


def _masks(
    local: NDArray[np.float64], lx: NDArray[Any], ly: NDArray[Any], members: NDArray[np.int64], beam_sigma: float,
    max_size: float, *, mask_others: bool,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:  # fmt: skip
    """Return the box with its neighbours interpolated away, and the pixels that are free of the members."""
    grouped = members.size > 1
    own = np.zeros(lx.size, bool)
    own[members] = True
    near = (lx >= 0) & (ly >= 0) & (lx <= local.shape[1]) & (ly <= local.shape[0]) & ~own
    free = np.isfinite(local)
    if mask_others and near.any():
        ox, oy = lx[near], ly[near]
        if grouped:
            ox, oy = ox.astype(int), oy.astype(int)
        free = _cut_out(free, local, ox, oy, beam_sigma, max_size, grouped, beam_sigma, 1.0)
    filled = fill_masked(np.where(free, local, np.nan))
    start = beam_sigma * max_size if grouped else beam_sigma
    wide = 2.0 if grouped else 1.0
    inside = np.isfinite(filled)
    return filled, _cut_out(
        inside, filled, lx[members], ly[members], beam_sigma, max_size, grouped, start, wide
    )


def _cut_out(
    free: NDArray[np.bool_], image: NDArray[np.float64], x: NDArray[Any], y: NDArray[Any], beam_sigma: float,
    max_size: float, grouped: bool, start_sigma: float, wide: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Take out of ``free`` where the Gaussian of a source exceeds a part of its peak."""
    n = len(x)
    largest = max_size * beam_sigma
    sources = np.column_stack(
        [np.ones(n), x, y, np.full(n, 1.02 * start_sigma), np.full(n, start_sigma), np.zeros(n)]
    )
    bounds = np.tile([1e-30, np.inf, largest / 4.0, largest * wide, 1e3], (n, 1))
    fitted, status = np.empty_like(sources), np.zeros(n, np.int64)
    options = np.array([60.0, 1e-6, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    half = round(largest * 2.3548 / 2.0)
    fit_windows(np.ascontiguousarray(image), sources.astype(float), bounds, half, options, fitted, status)
    yy, xx = np.indices(image.shape)
    out = free.copy()
    for source, good in zip(fitted, status < 2, strict=True):
        if not good or not source[0] > 0:
            continue
        c, s = np.cos(source[5]), np.sin(source[5])
        u, v = c * (xx - source[1]) + s * (yy - source[2]), c * (yy - source[2]) - s * (xx - source[1])
        unit = np.exp(-0.5 * ((u / source[3]) ** 2 + (v / source[4]) ** 2))
        level = _group_level(unit, largest) if grouped else MASK_LEVEL
        out &= ~(unit > level)
    return out


def _group_level(unit: NDArray[np.float64], largest: float) -> float:
    """Raise the mask level until the mask is small enough beside the box and the largest source."""
    level = MASK_LEVEL
    while level <= 1.0:
        above = unit > level
        if above.mean() <= MASK_FRACTION:
            pieces = [piece for piece in find_objects(label(above)[0]) if piece is not None]
            extents = [np.hypot(p[0].stop - p[0].start, p[1].stop - p[1].start) for p in pieces]
            if max(extents, default=0.0) <= 2.0 * largest * 2.3548:
                return level
        level *= 2.0
    return 2.0


def _common_part(
    masked: NDArray[np.float64], reference: NDArray[np.float64], x: NDArray[Any], y: NDArray[Any], size: int
) -> tuple[tuple[NDArray[Any], NDArray[Any]], NDArray[np.float64]]:
    """Pixels that this box and the smallest one share (rows, columns from the first shared pixel), and their values."""
    ny, nx = reference.shape
    if size == 0:
        part = masked
    elif x.size == 1:
        half = size // 2 - 1
        x0, y0 = max(0, int(x[0]) - half), max(0, int(y[0]) - half)
        part = masked[y0 : int(y[0]) + half + 1, x0 : int(x[0]) + half + 1]
    else:
        x0, y0 = max(0, round(float(x.mean())) - nx // 2 + 1), max(0, round(float(y.mean())) - ny // 2 + 1)
        x0, y0 = max(0, min(x0, masked.shape[1] - nx)), max(0, min(y0, masked.shape[0] - ny))
        part = masked[y0 : y0 + ny, x0 : x0 + nx]
    if part.shape != reference.shape:
        rows, columns = min(part.shape[0], ny), min(part.shape[1], nx)
        part, reference = part[:rows, :columns], reference[:rows, :columns]
    place = np.nonzero(np.isfinite(reference) & np.isfinite(part))
    return place, part[place]


def _published_score(
    residual: NDArray[np.float64], values: NDArray[np.float64], n_terms: int, score: str
) -> float:
    mean_square = float(np.mean(residual**2))
    if score == "nmse":
        return mean_square / (float(np.mean(values**2)) + 1e-12)
    if score == "bic":
        return values.size * float(np.log(max(mean_square, 1e-300))) + n_terms * float(np.log(values.size))
    spread = float(residual.std()) or 1e-10
    return float(np.sum((residual / spread) ** 2)) / max(values.size - n_terms, 1)
