"""Background of the box around a source or group, fitted with the sources masked (the published rules of HYPER).

Sources are masked where a Gaussian fitted to them exceeds exp(-2) of its peak; the masks of neighbours are filled by
interpolation, those of the sources of interest are left out of the fit. Every box size and polynomial order is
scored on the pixels of the smallest box.

References
----------
Traficante et al. 2015, MNRAS 451, 3089, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.background.polynomial import (
    clip_limits,
    clip_values,
    exponents,
    fill_masked,
    fit_polynomial_background,
    score_background,
)
from starmill.errors import AlgorithmError
from starmill.kernels import box_background as kernel
from starmill.kernels.gaussian_groups import LINEAR
from starmill.kernels.gaussian_windows import fit_windows

__all__ = ["BoxBackground", "box_sizes", "separate_background"]

MASK_LEVEL = 0.1353  # exp(-2), the published value
MASK_FRACTION = 0.3  # a group's masks may cover at most this part of its box
SCORE_KINDS = {"nmse": kernel.NMSE, "redchi": kernel.REDCHI, "bic": kernel.BIC}


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
    fitters: Sequence[tuple[str, float]], score: str, noise: float | None = None,
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
    noise : float, optional
        Standard deviation of a pixel. With it, boxes, orders and fitters are compared on the same pixels, those of the
        smallest box that were observed and belong to no source, and only observed pixels are fitted.

    Returns
    -------
    best : BoxBackground

    Raises
    ------
    AlgorithmError
        When no box holds a valid pixel.

    Notes
    -----
    As published, and without ``noise``, a box larger than the smallest one is scored with the polynomial counted
    from the first pixel of the common part and not of the box, and the mean square that normalises ``nmse`` is that
    of the box.
    """
    whole = not sizes
    x, y, members = _nearby(x, y, members, max(sizes, default=0))
    lowest, best, fallback = np.inf, None, None
    judge: _SamePixels | None = None
    reference: NDArray[np.float64] | None = None
    first_size = 0
    for size in sizes or (0,):
        corner, cut = _box(image, x[members], y[members], size)
        if cut.size == 0 or not np.isfinite(cut).any():
            continue
        if fallback is None:
            fallback = BoxBackground(corner, cut, np.zeros_like(cut), -1)
        median = clip_limits(cut.ravel(), 3.0, 5)[2]
        lx, ly = x - corner[0], y - corner[1]
        filled, free, observed = _masks(
            cut - median, lx, ly, members, beam_sigma, max_size, mask_others=not whole
        )
        masked = np.where(free if noise is None else free & observed, filled, np.nan)
        if noise is not None and judge is None:
            judge = _SamePixels.of(corner, masked + median, noise)
        if reference is None:
            reference, first_size = masked, size
        part, shared = _common_part(masked, reference, lx[members], ly[members], first_size)
        if np.count_nonzero(np.isfinite(part) & np.isfinite(shared)) < 10:
            continue
        for number, order, add in _candidates(masked, part, shared, orders, fitters, score):
            if judge is not None:
                number = judge.score(corner, cut.shape, median, order, add, score)
            if number < lowest:
                lowest, best = number, (corner, cut, median, order, add)
    if best is not None:
        corner, cut, median, order, add = best
        background = np.full(cut.shape, median)
        add(background)
        return BoxBackground(corner, cut - background, background, order)
    if fallback is None:
        raise AlgorithmError(
            "no box around the source holds data", numbers={"boxes": len(sizes), "valid pixels": 0}
        )
    return fallback


@dataclass(frozen=True)
class _SamePixels:
    """The pixels on which all candidates are compared: map coordinates, values, and their noise."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    values: NDArray[np.float64]
    noise: float

    @classmethod
    def of(cls, corner: tuple[int, int], image: NDArray[np.float64], noise: float) -> _SamePixels | None:
        """Take the pixels of a box that are not NaN and survive clipping; None when these are too few."""
        y, x = np.nonzero(np.isfinite(image))
        values = image[y, x]
        keep = clip_values(values)
        if keep.sum() < 10:
            return None
        return cls(x[keep] + corner[0], y[keep] + corner[1], values[keep], noise)

    def score(
        self, corner: tuple[int, int], shape: tuple[int, ...], median: float, order: int,
        add: Callable[[NDArray[np.float64]], None], kind: str,
    ) -> float:  # fmt: skip
        """Score of the polynomial of a box, which holds all these pixels."""
        background = np.full(shape, median)
        add(background)
        level = float(np.median(self.values))
        model = background[self.y - corner[1], self.x - corner[0]]
        found = score_background(model - level, self.values - level, len(exponents(order)), self.noise)
        return {"nmse": found.nmse, "redchi": found.reduced_chi2, "bic": found.bic}[kind]


def _nearby(
    x: NDArray[Any], y: NDArray[Any], members: NDArray[np.int64], size: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Keep only the sources that can lie in a box of this size around the members; 0 keeps all."""
    if size == 0:
        return x, y, members
    keep = (x >= x[members].min() - size) & (x <= x[members].max() + size)
    keep &= (y >= y[members].min() - size) & (y <= y[members].max() + size)
    index = np.flatnonzero(keep)
    return x[index], y[index], np.searchsorted(index, members)


Candidate = tuple[float, int, Callable[[NDArray[np.float64]], None]]
"""Score, order, and what adds the polynomial to an image of the box."""


def _candidates(
    masked: NDArray[np.float64], part: NDArray[np.float64], shared: NDArray[np.float64], orders: Sequence[int],
    fitters: Sequence[tuple[str, float]], score: str,
) -> Iterator[Candidate]:  # fmt: skip
    """Fit the pixels of a box that belong to no source with every order and fitter."""
    room = np.empty((3, masked.size))
    n = kernel.list_values(masked, *room)
    x, y, values = (row[:n] for row in room)
    low, high, _ = clip_limits(values)
    if any(method == "least_squares" for method, _ in fitters):
        yield from _least_squares(masked.shape, (x, y, values, low, high), part, shared, orders, score)
    robust = [fitter for fitter in fitters if fitter[0] != "least_squares"]
    if not robust:
        return
    keep = (values >= low) & (values <= high)
    common = np.nonzero(np.isfinite(part) & np.isfinite(shared))
    for order in orders:
        for method, epsilon in robust:
            if keep.sum() < len(exponents(order)):
                continue
            fit = fit_polynomial_background(
                x[keep], y[keep], values[keep], order, method=method, epsilon=epsilon
            )

            def add(image: NDArray[np.float64], fit: Any = fit) -> None:
                yy, xx = np.indices(image.shape)
                image += fit(xx.ravel(), yy.ravel()).reshape(image.shape)

            number = _published_score(
                fit(common[1], common[0]) - part[common], values[keep], len(exponents(order)), score
            )
            yield number, order, add


def _least_squares(
    shape: tuple[int, ...], pixels: tuple[Any, ...], part: NDArray[np.float64], shared: NDArray[np.float64],
    orders: Sequence[int], score: str,
) -> Iterator[Candidate]:  # fmt: skip
    """All orders from one set of normal equations; ``pixels`` are x, y, values and the limits of the values."""
    wanted = np.array(orders, np.int64)
    if wanted.size == 0:
        return
    frame = np.array([0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1), max(1.0, 0.5 * max(shape))])
    coefficients = np.zeros((wanted.size, len(exponents(max(orders)))))
    scores = np.empty(wanted.size)
    kernel.fit_orders(*pixels, wanted, frame, part, shared, SCORE_KINDS[score], coefficients, scores)
    for order, solution, number in zip(orders, coefficients, scores, strict=True):

        def add(image: NDArray[np.float64], order: int = order, solution: Any = solution) -> None:
            kernel.add_polynomial(image, order, frame, solution)

        yield float(number), order, add


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
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:  # fmt: skip
    """Return the box with its neighbours interpolated away, the pixels free of the members, and the observed ones."""
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
    own_free = _cut_out(inside, filled, lx[members], ly[members], beam_sigma, max_size, grouped, start, wide)
    return filled, own_free, free


def _cut_out(
    free: NDArray[np.bool_], image: NDArray[np.float64], x: NDArray[Any], y: NDArray[Any], beam_sigma: float,
    max_size: float, grouped: bool, start_sigma: float, wide: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Return ``free`` without the pixels where the Gaussian of a source exceeds a part of its peak."""
    n = len(x)
    largest = max_size * beam_sigma
    sources, bounds = np.empty((n, 6)), np.empty((n, 5))
    sources[:] = 1.0, 0.0, 0.0, 1.02 * start_sigma, start_sigma, 0.0
    sources[:, 1], sources[:, 2] = x, y
    bounds[:] = 1e-30, np.inf, largest / 4.0, largest * wide, 1e3
    fitted, status = np.empty_like(sources), np.zeros(n, np.int64)
    options = np.array([60.0, 1e-6, LINEAR, 1.0, 0.0])
    half = round(largest * 2.3548 / 2.0)
    fit_windows(np.ascontiguousarray(image), sources, bounds, half, -1, options, fitted, status)
    out = np.array(free, bool)
    most, longest = (MASK_FRACTION, 2.0 * largest * 2.3548) if grouped else (1.0, np.inf)
    kernel.cut_out(out, fitted, status, MASK_LEVEL, most, longest)
    return out


def _common_part(
    masked: NDArray[np.float64], reference: NDArray[np.float64], x: NDArray[Any], y: NDArray[Any], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Part of this box that it shares with the smallest one, and the same part of the smallest one."""
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
    return np.ascontiguousarray(part), np.ascontiguousarray(reference)


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
