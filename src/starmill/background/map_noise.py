"""Noise of a map: local level, local rms, and how neighbouring pixels are correlated.

Maps of interferometers and bolometers have noise that is correlated over the beam, and structure (cirrus) that
acts as noise for compact sources. Both are stationary enough to be described by a local rms and one correlation
function, measured on the map itself with the sources taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.errors import AlgorithmError
from starmill.kernels.map_peaks import means_around
from starmill.numerics.convolution import convolve_separable, gaussian_kernel
from starmill.numerics.statistics import mesh_statistics

__all__ = [
    "CellNoise", "MapNoise", "cell_rms", "global_rms", "local_rms", "mean_around", "noise_correlation", "noise_model",
    "smooth_map", "valid_sample",
]  # fmt: skip

CORRELATION_TILE = 512  # pixels; the correlation of larger maps is averaged over a few tiles


@dataclass(frozen=True, slots=True)
class MapNoise:
    """Noise of a map.

    Attributes
    ----------
    rms : (ny, nx) float32 array, map unit
        Local standard deviation of a pixel about the smooth level.
    correlation : (2h + 1, 2h + 1) float64 array
        Correlation of two pixels by their lag; 1 at the centre.
    """

    rms: NDArray[np.float32]
    correlation: NDArray[np.float64]


def smooth_map(
    image: NDArray[Any], valid: NDArray[np.bool_], sigma: float, *, wanted: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Gaussian mean of the valid pixels around every pixel.

    Wide Gaussians are applied to a block-averaged map, so that the cost does not grow with the width.

    Parameters
    ----------
    image : (ny, nx) array
        Values of invalid pixels do not count.
    valid : (ny, nx) bool array
    sigma : float, pixel
    wanted : (ny, nx) bool array, optional
        Pixels whose mean matters; everywhere when not given.

    Returns
    -------
    smooth : (ny, nx) float32 array
        Defined everywhere: far from valid pixels a wider mean is taken, and where that is not wanted the mean of all.
    """
    if not valid.any():
        raise AlgorithmError("a map without valid pixels has no level", numbers={"valid pixels": 0})
    step = int(sigma / 2.5)
    if step <= 1:
        kernel = gaussian_kernel(max(sigma, 0.3))
        clean = np.where(valid, image, np.float32(np.nan)).astype(np.float32, copy=False)
        level = convolve_separable(clean, kernel, min_weight=1e-3).image
    else:
        total = _block_sums(np.where(valid, image, np.float32(0)).astype(np.float32, copy=False), step)
        count = _block_sums(valid.astype(np.float32), step)
        kernel = gaussian_kernel(sigma / step)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        near = None if wanted is None else _widened(_block_sums(wanted.astype(np.float32), step) > 0)
        level = _expand(
            _fill(_weighted_mean(mean, count, kernel), mean, count, kernel, near), step, image.shape
        )
    missing = ~np.isfinite(level)
    far = missing.copy() if wanted is None else missing & wanted
    if far.any() and sigma <= max(image.shape):
        level[far] = smooth_map(image, valid, max(4.0 * sigma, 6.0), wanted=far)[far]
        missing &= ~far
    if missing.any():
        level[missing] = np.mean(image[::2, ::2][valid[::2, ::2]] if valid[::2, ::2].any() else image[valid])
    return level


def mean_around(
    image: NDArray[Any], valid: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64], sigma: float
) -> NDArray[np.float64]:
    """Gaussian mean of the valid pixels around some pixels; as :func:`smooth_map` where few means are needed.

    Parameters
    ----------
    image : (ny, nx) array
    valid : (ny, nx) bool array
    x, y : (n,) int arrays, pixel
    sigma : float, pixel
        Of a wide Gaussian only every second, third ... pixel is looked at.

    Returns
    -------
    mean : (n,) float64 array
        NaN where no pixel near is valid.
    """
    step = max(1, int(sigma / 2.5))
    out = np.empty(x.size)
    means_around(
        np.ascontiguousarray(image, np.float32), np.ascontiguousarray(valid), x.astype(np.int64), y.astype(np.int64),
        gaussian_kernel(max(sigma / step, 0.3)), step, out,
    )  # fmt: skip
    return out


def _widened(marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark also the eight neighbours."""
    out = marks.copy()
    out[1:] |= marks[:-1]
    out[:-1] |= marks[1:]
    rows = out.copy()
    out[:, 1:] |= rows[:, :-1]
    out[:, :-1] |= rows[:, 1:]
    return out


def _weighted_mean(
    mean: NDArray[np.float32], count: NDArray[np.float32], kernel: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Smooth block means with the number of pixels as weight; NaN where nothing is near."""
    half = kernel.size // 2
    pads = [np.pad(plane, half) for plane in (np.where(count > 0, mean, 0) * count, count)]
    total, weight = (convolve_separable(plane, kernel).image[half:-half, half:-half] for plane in pads)
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), np.nan).astype(np.float32)


def _fill(
    level: NDArray[np.float32],
    mean: NDArray[np.float32],
    count: NDArray[np.float32],
    kernel: NDArray[np.float32],
    near: NDArray[np.bool_] | None,
) -> NDArray[np.float32]:
    """Take a wider mean for the blocks in ``near`` (all, when None) that have no level; the others get the mean of all."""
    while not np.isfinite(level if near is None else level[near]).all():
        kernel = gaussian_kernel(2.0 * kernel.size / 7.0)
        wider = _weighted_mean(mean, count, kernel)
        level = np.where(np.isfinite(level), level, wider)
    return np.where(np.isfinite(level), level, np.float32(np.nanmean(mean)))


def _block_sums(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Sum blocks of step x step pixels; the last blocks may be smaller."""
    rows = _sum_runs(image, step)
    return np.ascontiguousarray(_sum_runs(np.ascontiguousarray(rows.T), step).T)


def _sum_runs(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Sum every ``step`` rows; whole rows are added, which is several times faster than ``add.reduceat``."""
    full = image.shape[0] // step
    out = np.empty((-(-image.shape[0] // step), image.shape[1]), np.float32)
    np.sum(image[: full * step].reshape(full, step, -1), axis=1, out=out[:full])
    if full < out.shape[0]:
        out[full] = image[full * step :].sum(axis=0)
    return out


def _expand(blocks: NDArray[np.float32], step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate block values linearly to pixels, one axis after the other."""
    out = blocks.astype(np.float32)
    for axis, size in enumerate(shape):
        last = out.shape[axis] - 1
        position = np.clip((np.arange(size) - 0.5 * (step - 1)) / step, 0, last)
        low = np.minimum(position.astype(np.int64), max(last - 1, 0))
        part = (position - low).astype(np.float32)
        part = part[:, None] if axis == 0 else part[None, :]
        lower, upper = np.take(out, low, axis=axis), np.take(out, np.minimum(low + 1, last), axis=axis)
        upper -= lower
        upper *= part
        upper += lower
        out = upper
    return out


def valid_sample(image: NDArray[Any], valid: NDArray[np.bool_], size: int = 100_000) -> NDArray[Any]:
    """Return at most about ``size`` valid values, spread over the map; enough for a median."""
    step = int(np.ceil(np.sqrt(image.size / size)))
    chosen = valid[::step, ::step]
    return image[::step, ::step][chosen] if chosen.any() else image[valid]


def local_rms(
    residual: NDArray[Any], valid: NDArray[np.bool_], sigma: float, *, wanted: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Gaussian-weighted root mean square around every pixel, robust against what is left of sources.

    Parameters
    ----------
    residual : (ny, nx) array
        Map minus sources minus smooth level.
    valid : (ny, nx) bool array
    sigma : float, pixel
        Width of the average.
    wanted : (ny, nx) bool array, optional
        See :func:`smooth_map`.

    Returns
    -------
    rms : (ny, nx) float32 array
        Positive everywhere.
    """
    squares = np.where(valid, residual, np.float32(0)).astype(np.float32, copy=False)
    np.square(squares, out=squares)
    sample = valid_sample(squares, valid)
    median_square = float(np.median(sample, overwrite_input=True)) if sample.size else 0.0
    if not median_square > 0.0:
        rms = float(np.sqrt(squares[valid].mean(dtype=np.float64))) if valid.any() else 0.0
        return np.full(residual.shape, rms or 1.0, np.float32)
    # 0.4549 is the median of chi2 with one degree of freedom; 25 variances is 5 sigma
    np.minimum(squares, np.float32(25.0 * median_square / 0.4549), out=squares)
    floor = 0.05 * np.sqrt(median_square / 0.4549)
    mean = smooth_map(squares, valid, sigma, wanted=wanted)
    return np.maximum(np.sqrt(np.maximum(mean, 0.0, out=mean), out=mean), np.float32(floor), out=mean)


def global_rms(image: NDArray[Any], n_sigma: float = 3.0, n_iterations: int = 10) -> float:
    """Root mean square about the mean of the pixels that survive clipping around the median.

    Parameters
    ----------
    image : (ny, nx) array
        NaN is no data.
    n_sigma, n_iterations
        Clipping.
    """
    values = np.asarray(image, np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise AlgorithmError("a map without valid pixels has no noise", numbers={"valid pixels": 0})
    values = values - values.mean()
    for _ in range(n_iterations):
        keep = np.abs(values - np.median(values)) <= n_sigma * values.std()
        if keep.all():
            break
        values = values[keep]
    return float(np.sqrt(np.mean(values**2)))


@dataclass(frozen=True, slots=True)
class CellNoise:
    """Noise in cells, joined bilinearly.

    Attributes
    ----------
    level : (cells in y, cells in x) float array
        Standard deviation of a pixel.
    shape : (ny, nx)
        Of the map.
    """

    level: NDArray[np.float64]
    shape: tuple[int, ...]

    def at(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return the noise at pixel positions."""
        row, column = (
            np.clip((np.asarray(v, float) + 0.5) / n * cells - 0.5, 0, cells - 1)
            for v, n, cells in zip((y, x), self.shape, self.level.shape, strict=True)
        )
        j, i = (np.minimum(v.astype(np.int64), max(cells - 2, 0)) for v, cells in
                zip((row, column), self.level.shape, strict=True))  # fmt: skip
        dy, dx = row - j, column - i
        below, right = np.minimum(j + 1, self.level.shape[0] - 1), np.minimum(i + 1, self.level.shape[1] - 1)
        upper = (1.0 - dx) * self.level[j, i] + dx * self.level[j, right]
        lower = (1.0 - dx) * self.level[below, i] + dx * self.level[below, right]
        return np.asarray((1.0 - dy) * upper + dy * lower)


def cell_rms(image: NDArray[Any], valid: NDArray[np.bool_], cell: int) -> CellNoise:
    """Clipped standard deviation in cells: the noise of a band-passed map.

    Parameters
    ----------
    image : (ny, nx) array
    valid : (ny, nx) bool array
    cell : int, pixel
        Size of a cell.
    """
    edges = [np.linspace(0, n, max(1, n // cell) + 1).astype(np.int64) for n in image.shape]
    masked = np.where(valid, image, np.float32(np.nan)).astype(np.float32, copy=False)
    cells = mesh_statistics(masked, y_edges=edges[0], x_edges=edges[1], n_iterations=6)
    level = np.where(cells.n >= 30, cells.clipped_std, np.nan)
    known = np.isfinite(level) & (level > 0)
    if not known.any():
        spread = float(np.nanstd(masked)) if np.isfinite(masked).any() else 0.0
        return CellNoise(np.full((1, 1), spread or 1.0), image.shape)
    level = smooth_map(np.where(known, level, 0.0), known, 0.7)
    return CellNoise(level.astype(np.float64), image.shape)


def noise_correlation(normalised: NDArray[Any], valid: NDArray[np.bool_], half: int) -> NDArray[np.float64]:
    """Correlation of pixels by lag, from the pairs of valid pixels.

    Parameters
    ----------
    normalised : (ny, nx) array
        Map minus sources minus smooth level, divided by its local rms.
    valid : (ny, nx) bool array
    half : int, pixel
        Largest lag along each axis.

    Returns
    -------
    correlation : (2 half + 1, 2 half + 1) float64 array
        1 at the centre; 0 at lags that no pair has.

    Notes
    -----
    Sums of products over sums of pairs, by Fourier transform. Large maps are sampled by tiles spread evenly.
    """
    products = np.zeros((2 * half + 1, 2 * half + 1))
    pairs = np.zeros_like(products)
    lags = np.arange(-half, half + 1)
    for tile in _tiles(normalised.shape):
        good = valid[tile]
        if not good.any():
            continue
        values = np.where(good, normalised[tile], 0.0).astype(np.float32)
        shape = tuple(_fast_length(n + half) for n in values.shape)
        for total, plane in ((products, values), (pairs, good.astype(np.float32))):
            transform = np.fft.rfft2(plane, shape)  # single precision since numpy 2.0
            power = transform.real**2 + transform.imag**2
            rows = np.fft.ifft(power, axis=0)[lags]  # of the second axis only the wanted lags are transformed
            total += np.fft.irfft(rows, shape[1], axis=1)[:, lags]
    correlation = np.where(pairs > 0.5, products / np.maximum(pairs, 0.5), 0.0)
    if not correlation[half, half] > 0:
        correlation[:] = 0.0
        correlation[half, half] = 1.0
    return correlation / correlation[half, half]


def _fast_length(n: int) -> int:
    """Smallest number from ``n`` on that has no prime factor above five: quick to transform."""
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 1


def _tiles(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """One, two or four tiles, spread evenly over the map."""
    starts = []
    for n in shape:
        spare = max(0, n - CORRELATION_TILE)
        starts.append([spare // 2] if n < 2 * CORRELATION_TILE else [spare // 4, spare - spare // 4])
    return [
        (slice(y, y + CORRELATION_TILE), slice(x, x + CORRELATION_TILE)) for y in starts[0] for x in starts[1]
    ]


def noise_model(
    residual: NDArray[Any],
    valid: NDArray[np.bool_],
    clear: NDArray[np.bool_],
    *,
    level_sigma: float,
    rms_sigma: float,
    half: int,
    uniform: bool = False,
    given_rms: NDArray[Any] | None = None,
) -> tuple[NDArray[np.float32], MapNoise]:
    """Smooth level, local rms and correlation of a map without its sources.

    Parameters
    ----------
    residual : (ny, nx) array, map unit
        Map minus fitted sources.
    valid : (ny, nx) bool array
    clear : (ny, nx) bool array
        Valid pixels away from sources; only these count, because fits absorb noise where sources are.
    level_sigma, rms_sigma : float, pixel
        Widths of the Gaussian means of level and rms.
    half : int, pixel
        Largest lag of the correlation.
    uniform : bool
        One rms for the whole map.
    given_rms : (ny, nx) array, optional
        Noise of every pixel as somebody else knows it: its pattern is kept, its scale is measured.

    Returns
    -------
    level : (ny, nx) float32 array, map unit
    noise : MapNoise
    """
    use = clear & valid
    if use.sum() < 50:
        use = valid
    level = smooth_map(residual, use, level_sigma, wanted=valid)
    scaled = np.where(valid, residual - level, np.float32(0)).astype(np.float32, copy=False)
    pattern = None if given_rms is None else np.asarray(given_rms, np.float32)
    if pattern is not None:
        scaled /= pattern
    if uniform:
        number = np.float32(max(global_rms(scaled[use]), np.finfo(np.float32).tiny))
        rms = np.full(residual.shape, number)
    else:
        rms = local_rms(scaled, use, rms_sigma, wanted=valid)
    scaled /= rms
    noise = MapNoise(rms if pattern is None else rms * pattern, noise_correlation(scaled, use, half))
    return level, noise
