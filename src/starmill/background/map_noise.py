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

from starmill.background.border_noise import BorderZones, zone_factors
from starmill.background.gaussian_mean import blanked, smooth_map
from starmill.errors import AlgorithmError
from starmill.numerics.statistics import mesh_statistics

__all__ = [
    "CellNoise", "MapNoise", "cell_rms", "global_rms", "local_rms", "noise_correlation", "noise_model", "valid_sample",
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
    sample = valid_sample(residual, valid)
    median_square = float(np.median(np.square(sample))) if sample.size else 0.0
    if not median_square > 0.0:
        rms = float(np.sqrt(np.mean(np.square(residual[valid], dtype=np.float64)))) if valid.any() else 0.0
        return np.full(residual.shape, rms or 1.0, np.float32)
    # 0.4549 is the median of chi2 with one degree of freedom; 25 variances is 5 sigma
    limit = np.float32(25.0 * median_square / 0.4549)
    floor = 0.05 * np.sqrt(median_square / 0.4549)
    rms_map = smooth_map(
        residual, valid, sigma, wanted=wanted, change=lambda values: np.minimum(np.square(values), limit)
    )
    np.sqrt(np.maximum(rms_map, 0.0, out=rms_map), out=rms_map)
    return np.maximum(rms_map, np.float32(floor), out=rms_map)


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
    zones : (ny, nx) uint8 array, optional
        Zones along the edge of the data, see :func:`starmill.background.border_noise.border_zones`.
    factors : (zones + 1,) array, optional
        What the level is multiplied by in each zone.
    """

    level: NDArray[np.float64]
    shape: tuple[int, ...]
    zones: NDArray[np.uint8] | None = None
    factors: NDArray[np.float32] | None = None

    def beside_border(self, image: NDArray[Any], border: BorderZones) -> CellNoise:
        """Return the noise with the zones along the edge of the data measured by themselves.

        Parameters
        ----------
        image : (ny, nx) array
            The map whose noise this is.
        border : BorderZones
        """
        x, y = border.x, border.y
        factors = zone_factors(image[y, x] / self.at(x, y), border.number)
        return CellNoise(self.level, self.shape, border.zones, factors)

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
        noise = np.asarray((1.0 - dy) * upper + dy * lower)
        if self.zones is None or self.factors is None:
            return noise
        near = tuple(
            np.clip(np.rint(v).astype(np.int64), 0, n - 1) for v, n in zip((y, x), self.shape, strict=True)
        )
        return noise * self.factors[self.zones[near]]


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
    masked = blanked(image, valid)
    cells = mesh_statistics(masked, y_edges=edges[0], x_edges=edges[1], n_iterations=6)
    level = np.where(cells.n >= 30, cells.clipped_std, np.nan)
    known = np.isfinite(level) & (level > 0)
    if not known.any():
        spread = float(np.nanstd(masked)) if np.isfinite(masked).any() else 0.0
        return CellNoise(np.full((1, 1), spread or 1.0), image.shape)
    level = smooth_map(np.where(known, level, 0.0), known, 0.7)
    return CellNoise(level.astype(np.float64), image.shape)


def noise_correlation(
    residual: NDArray[Any], valid: NDArray[np.bool_], half: int, rms: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Correlation of pixels by lag, from the pairs of valid pixels.

    Parameters
    ----------
    residual : (ny, nx) array
        Map minus sources minus smooth level.
    valid : (ny, nx) bool array
    half : int, pixel
        Largest lag along each axis.
    rms : (ny, nx) array, optional
        Local rms by which the map is divided.

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
    for tile in _tiles(residual.shape):
        good = valid[tile]
        if not good.any():
            continue
        values = residual[tile] if rms is None else residual[tile] / rms[tile]
        values = np.where(good, values, 0.0).astype(np.float32, copy=False)
        shape = tuple(_fast_length(n + half) for n in values.shape)
        for total, plane in ((products, values), (pairs, good)):
            transform = np.fft.rfft2(plane.astype(np.float32, copy=False), shape)  # single since numpy 2.0
            power = transform.real**2
            power += transform.imag**2
            del transform  # one of the largest arrays of all while a map of a megapixel is measured
            rows = np.fft.ifft(power, axis=0)[lags]  # of the second axis only the wanted lags are transformed
            del power
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
    border: BorderZones | None = None,
    overwrite: bool = False,
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
    border : BorderZones, optional
        Zones along the edge of the data, in which the local rms is scaled to what is measured there.
    overwrite : bool
        Whether ``residual`` is no longer needed and may serve as working space.

    Returns
    -------
    level : (ny, nx) float32 array, map unit
    noise : MapNoise
    """
    use = clear & valid
    if use.sum() < 50:
        use = valid
    level = smooth_map(residual, use, level_sigma, wanted=valid)
    scaled = np.subtract(residual, level, out=residual if overwrite else None)
    pattern = None if given_rms is None else np.asarray(given_rms, np.float32)
    if pattern is not None:
        scaled /= pattern
    if uniform:
        number = np.float32(max(global_rms(scaled[use]), np.finfo(np.float32).tiny))
        rms = np.full(residual.shape, number)
    else:
        rms = local_rms(scaled, use, rms_sigma, wanted=valid)
        if border is not None and pattern is None:
            edge = border.y, border.x
            ratio = np.where(use[edge], scaled[edge] / rms[edge], np.nan)
            rms[edge] *= zone_factors(ratio, border.number)[border.number]
    correlation = noise_correlation(scaled, use, half, rms)
    return level, MapNoise(rms if pattern is None else rms * pattern, correlation)
