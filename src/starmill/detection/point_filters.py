"""Finding point-like peaks in a map: band-pass filters matched to the beam, and tests of the surroundings.

A band-pass filter is a weighted sum of Gaussians whose weights add up to zero, so that a smooth background
vanishes. When the noise is correlated over the beam (interferometers, filtered bolometer maps), the best filter
sharpens the map and splits blends; when pixels are independent, it smooths by the beam. :func:`choose_filter`
measures which one suits the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.kernels.map_peaks import maxima_above
from starmill.numerics.close_pairs import close_pairs, next_to
from starmill.numerics.convolution import convolve_separable, gaussian_kernel
from starmill.numerics.statistics import MAD_TO_SIGMA
from starmill.numerics.tiles import map_tiles, row_bands

__all__ = [
    "FILTERS", "PointPeaks", "band_pass", "box_high_pass", "choose_filter", "filter_gain", "local_maxima",
    "shoulder_scores", "thin_pairs",
]  # fmt: skip

FILTERS: dict[str, tuple[tuple[float, float], ...]] = {
    "sharp": ((2.0, 0.35), (-1.0, 0.8), (-1.0, 1.6)),
    "medium": ((1.0, 0.6), (-1.0, 1.5)),
    "smooth": ((1.0, 1.0), (-1.0, 2.0)),
}
"""Weight and width (in units of the beam's sigma) of the Gaussians of every band-pass filter."""

BAND_ROWS = 96  # worked on at a time, so that only the result is a whole map
KEEP_SIGNAL = 0.75
"""The sharpest filter that keeps this part of the best signal-to-noise ratio of a beam is taken."""


@dataclass(frozen=True, slots=True)
class PointPeaks:
    """Local maxima of a filtered map; 1-D arrays of the same length, brightest first.

    Attributes
    ----------
    x, y : pixel
        Top of the parabola through the maximum and its neighbours along each axis.
    value : filtered map unit
    significance : float
        Value over local noise.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    value: NDArray[np.float64]
    significance: NDArray[np.float64]

    def __len__(self) -> int:
        return self.x.size

    def select(self, keep: NDArray[Any]) -> PointPeaks:
        """Return the peaks of a boolean mask or of a list of indices."""
        return PointPeaks(self.x[keep], self.y[keep], self.value[keep], self.significance[keep])

    def joined(self, other: PointPeaks) -> PointPeaks:
        """Return these peaks followed by others."""
        return PointPeaks(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in self.__slots__))


def band_pass(
    image: NDArray[Any], valid: NDArray[np.bool_], beam_sigma: float, name: str
) -> NDArray[np.float32]:
    """Filter a map with a band-pass of :data:`FILTERS`.

    Parameters
    ----------
    image : (ny, nx) array
        Values of invalid pixels do not count; nothing is lost beside them.
    valid : (ny, nx) bool array
    beam_sigma : float, pixel
    name : str

    Returns
    -------
    filtered : (ny, nx) float32 array
        Zero on invalid pixels.
    """
    kernels = [(weight, gaussian_kernel(max(width * beam_sigma, 0.3))) for weight, width in FILTERS[name]]
    halo = max(kernel.size for _, kernel in kernels) // 2
    out = np.empty(image.shape, np.float32)

    def run(band: tuple[int, int]) -> None:
        first, last = max(0, band[0] - halo), min(image.shape[0], band[1] + halo)
        clean = np.where(valid[first:last], image[first:last], np.float32(np.nan)).astype(
            np.float32, copy=False
        )
        inner = slice(band[0] - first, band[1] - first)
        total = np.zeros((band[1] - band[0], image.shape[1]), np.float32)
        for weight, kernel in kernels:
            smooth = convolve_separable(clean, kernel, min_weight=1e-3, threads=1).image[inner]
            smooth *= np.float32(weight)
            total += smooth
        total[~(valid[slice(*band)] & np.isfinite(total))] = 0.0
        out[slice(*band)] = total

    map_tiles(run, row_bands(image.shape[0], BAND_ROWS))
    return out


def filter_gain(name: str, beam_sigma: float) -> float:
    """Noise of the filtered map over the noise of a pixel, for noise that is correlated over the beam.

    Parameters
    ----------
    name : str
        Of :data:`FILTERS`.
    beam_sigma : float, pixel
        The noise is taken as white noise smoothed by the beam.
    """
    half = int(np.ceil(12 * beam_sigma))
    offset = np.arange(-half, half + 1)
    beam = np.exp(-0.5 * (offset / beam_sigma) ** 2)
    beam = np.outer(beam, beam)
    filtered = band_pass(beam, np.ones(beam.shape, bool), beam_sigma, name)
    return float(np.sqrt(np.sum(filtered.astype(np.float64) ** 2) / np.sum(beam**2)))


def choose_filter(image: NDArray[Any], valid: NDArray[np.bool_], beam_sigma: float, size: int = 256) -> str:
    """Return the name of the sharpest filter that is nearly as sensitive to a beam as the best one.

    Parameters
    ----------
    image, valid, beam_sigma
        As for :func:`band_pass`.
    size : int, pixel
        The noise is measured on the best-covered square of this size.
    """
    window = _fullest_window(valid, size)
    good = valid[window]
    if good.sum() < 100:
        return "medium"
    half = int(np.ceil(6 * beam_sigma)) + 1
    offset = np.arange(-half, half + 1)
    beam = np.exp(-0.5 * (offset / beam_sigma) ** 2)
    beam = np.outer(beam, beam)
    everywhere = np.ones(beam.shape, bool)
    sensitivity = {}
    for name in FILTERS:
        noise = _lower_rms(band_pass(image[window], good, beam_sigma, name)[good])
        signal = float(band_pass(beam, everywhere, beam_sigma, name)[half, half])
        sensitivity[name] = signal / noise if noise > 0 else 0.0
    best = max(sensitivity.values())
    return next(name for name in FILTERS if sensitivity[name] >= KEEP_SIGNAL * best)


def _lower_rms(values: NDArray[Any]) -> float:
    """Clipped rms of the negative values: sources, which are positive, hardly change it."""
    below = values[values < 0].astype(np.float64)
    if below.size == 0:
        return 0.0
    limit = 3.0 * MAD_TO_SIGMA * float(np.median(-below))
    below = below[below > -limit] if limit > 0 else below
    return float(np.sqrt(np.mean(below**2))) if below.size else 0.0


def _fullest_window(valid: NDArray[np.bool_], size: int) -> tuple[slice, slice]:
    ny, nx = valid.shape
    starts = [
        (y, x)
        for y in np.linspace(0, max(0, ny - size), 5).astype(int)
        for x in np.linspace(0, max(0, nx - size), 5).astype(int)
    ]
    counts = [int(valid[y : y + size : 4, x : x + size : 4].sum()) for y, x in starts]
    y, x = starts[int(np.argmax(counts))]
    return slice(y, y + size), slice(x, x + size)


def local_maxima(
    filtered: NDArray[Any],
    threshold: float,
    noise_at: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]],
    lowest: float,
) -> PointPeaks:
    """Find pixels above ``threshold`` times the noise that exceed their eight neighbours.

    Parameters
    ----------
    filtered : (ny, nx) array
    threshold : float
    noise_at : callable
        Noise of the filtered map at positions (x, y).
    lowest : float
        Smallest noise anywhere.

    Returns
    -------
    peaks : PointPeaks
        Of a plateau of equal values only the first pixel in reading order is kept.
    """
    filtered = np.ascontiguousarray(filtered, np.float32)
    y, x = maxima_above(filtered, np.float32(threshold * lowest)).T
    value = filtered[y, x].astype(np.float64)
    significance = value / noise_at(x, y)
    keep = significance > threshold
    y, x, value, significance = y[keep], x[keep], value[keep], significance[keep]
    order = np.argsort(-value, kind="stable")
    y, x, value, significance = y[order], x[order], value[order], significance[order]
    dx = _vertex(_at(filtered, y, x - 1), value, _at(filtered, y, x + 1))
    dy = _vertex(_at(filtered, y - 1, x), value, _at(filtered, y + 1, x))
    return PointPeaks(x + dx, y + dy, value, significance)


def _at(image: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.float64]:
    """Values at pixels; minus infinity outside."""
    inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
    return np.where(inside, image[np.where(inside, y, 0), np.where(inside, x, 0)], -np.inf).astype(np.float64)


def _vertex(left: NDArray[Any], top: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Offset of the top of the parabola through three equidistant values, at most half a pixel."""
    usable = np.isfinite(left) & np.isfinite(right)
    left, right = np.where(usable, left, 0.0), np.where(usable, right, 0.0)
    curvature = left - 2.0 * top + right
    usable &= curvature < 0
    return np.clip(np.where(usable, 0.5 * (left - right) / np.where(usable, curvature, 1.0), 0.0), -0.5, 0.5)


def thin_pairs(
    x: NDArray[Any], y: NDArray[Any], brightness: NDArray[Any], distance: float
) -> NDArray[np.bool_]:
    """Mark what to keep so that no two positions are closer than ``distance``; the brighter stays.

    Parameters
    ----------
    x, y, brightness : (n,) arrays
    distance : float, pixel
    """
    keep = np.ones(x.size, bool)
    if x.size < 2 or distance <= 0:
        return keep
    one, other = close_pairs(x, y, x, y, distance)
    one, other = one[one < other], other[one < other]
    if one.size == 0:
        return keep
    rank = np.empty(x.size, np.int64)
    rank[np.argsort(-np.asarray(brightness), kind="stable")] = np.arange(x.size)
    first = np.where(rank[one] < rank[other], one, other)
    second = one + other - first
    order = np.lexsort((rank[second], rank[first]))
    for a, b in zip(first[order], second[order], strict=True):
        if keep[a]:
            keep[b] = False
    return keep


def box_high_pass(image: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Map minus its running mean over a square, negatives set to zero, scaled to a maximum of 100.

    Parameters
    ----------
    image : (ny, nx) array
        NaN is replaced by the median for the mean, and gives zero.
    size : int, pixel
        Odd side of the square.
    """
    from scipy.ndimage import (
        uniform_filter,
    )  # scipy takes a third of a second, and only the published rules need it

    image = np.asarray(image, np.float64)
    missing = ~np.isfinite(image)
    filled = np.where(missing, np.median(image[~missing]) if not missing.all() else 0.0, image)
    out = np.where(missing, 0.0, filled - uniform_filter(filled, size, mode="nearest"))
    out = np.maximum(out, 0.0)
    top = out.max()
    return out * (100.0 / top) if top > 0 else out


def shoulder_scores(
    image: NDArray[Any], x: NDArray[Any], y: NDArray[Any], fwhm: float, *,
    ring: float = 1.5, n_angles: int = 16, neighbour: float = 1.0,
) -> NDArray[np.float64]:  # fmt: skip
    """How one-sided the surroundings of each peak are: near one for a bump on the flank of a brighter source.

    Parameters
    ----------
    image : (ny, nx) array
        NaN is no data.
    x, y : (n,) arrays, pixel
    fwhm : float, pixel
        Of the beam.
    ring : float
        Radius of the sampled ring in beams.
    n_angles : int
        Samples on the ring.
    neighbour : float
        Samples nearer than this many beams to another peak do not count.

    Returns
    -------
    score : (n,) float array
        Mean of the brighter half minus mean of the fainter half of the samples, over the peak; 0 with fewer than
        four samples.
    """
    ny, nx = image.shape
    if x.size == 0:
        return np.zeros(0)
    angle = 2.0 * np.pi * np.arange(n_angles) / n_angles
    sx, sy = x[:, None] + ring * fwhm * np.cos(angle), y[:, None] + ring * fwhm * np.sin(angle)
    column, row = np.rint(sx).astype(int), np.rint(sy).astype(int)
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    own = np.repeat(np.arange(x.size), n_angles)
    inside &= ~next_to(sx.ravel(), sy.ravel(), x, y, neighbour * fwhm, skip=own).reshape(sx.shape)
    values = np.where(inside, image[np.clip(row, 0, ny - 1), np.clip(column, 0, nx - 1)], np.nan)
    values = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(axis=1)
    order = np.arange(n_angles)
    faint, bright = order < (count // 2)[:, None], (order >= (count // 2)[:, None]) & (order < count[:, None])
    filled = np.where(np.isfinite(values), values, 0.0)
    contrast = (filled * bright).sum(1) / np.maximum(bright.sum(1), 1)
    contrast -= (filled * faint).sum(1) / np.maximum(faint.sum(1), 1)
    peak = image[np.clip(np.rint(y).astype(int), 0, ny - 1), np.clip(np.rint(x).astype(int), 0, nx - 1)]
    usable = (count >= 4) & (peak > 0)
    return np.where(usable, contrast / np.where(usable, peak, 1.0), 0.0)
