"""Replace all sources by noise, so that each can be measured as if it were alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import FootprintSet
from starmill.kernels.source_pixels import (
    SourcePixels,
    clean_copy,
    collect_inside,
    count_inside,
    fill_spans,
)
from starmill.numerics.statistics import clipped_statistics

NOISE_TABLE = 262_147  # prime: the noise does not repeat from row to row
CACHE_LINE = 16  # float32 values
BAND_ROWS = 256  # two bands of the pixels around one column of sources stay in the cache
SAMPLE_PIXELS = 250_000  # enough for the level and the scatter of the sky to 0.2 %


def source_pixels(
    exposure: Exposure,
    footprints: FootprintSet | None,
    n: int,
    *,
    replace: bool = True,
    noise: str = "measure",
    seed: int = 1,
) -> tuple[SourcePixels, NDArray[np.int32], NDArray[np.int64]]:
    """Prepare the pixels that measuring kernels read.

    Parameters
    ----------
    exposure : Exposure
        Not changed.
    footprints : FootprintSet or None
        One per source; heavy ones (deblended children) bring their own pixel values.
    n : int
        Number of sources.
    replace : bool
        Replace the footprints of all sources by noise while one is measured.
    noise : {"measure", "variance"}
        Level and scatter of that noise: clipped statistics of the image outside detections, or
        zero and the square root of the median variance there.
    seed : int
        Of the noise; the same seed gives the same bits.

    Returns
    -------
    pixels : SourcePixels
    spans : (n_spans, 3) int32 array
        Footprints inside the image, array index; also when nothing is replaced.
    span_offsets : (n + 1,) int64 array
    """
    ny, nx = exposure.shape
    padded = (-(-nx // CACHE_LINE) | 1) * CACHE_LINE  # an odd number of cache lines
    image = np.zeros((ny, padded), np.float32)
    variance = np.zeros((ny, padded), np.float32)
    clean_copy(exposure.image, exposure.variance, image, variance)
    mask = np.ascontiguousarray(exposure.mask.array)
    everything = _collect(footprints, n, exposure, image, variance, mask)
    spans, offsets = everything.spans, everything.span_offsets
    if replace and len(spans):
        level, scatter = _sky_noise(exposure, image, variance, noise)
        filled = int((spans[:, 2] - spans[:, 1] + 1).sum())
        draws = np.random.default_rng(seed).standard_normal(min(NOISE_TABLE, filled), dtype=np.float32)
        fill_spans(image, spans, draws * np.float32(scatter) + np.float32(level))
        return everything, spans, offsets
    none = everything._replace(
        spans=np.zeros((0, 3), np.int32),
        span_offsets=np.zeros(n + 1, np.int64),
        pixel_offsets=np.zeros(n + 1, np.int64),
        values=np.zeros(0, np.float32),
        variances=np.zeros(0, np.float32),
    )
    return none, spans, offsets


def _collect(
    footprints: FootprintSet | None,
    n: int,
    exposure: Exposure,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
) -> SourcePixels:
    """Gather the own pixels of every source."""
    footprints = footprints if footprints is not None else _no_footprints(n)
    x0, y0 = exposure.origin
    spans = footprints.spans - np.array([y0, x0, x0], np.int32)
    n_spans, n_pixels = np.zeros(n, np.int64), np.zeros(n, np.int64)
    count_inside(spans, footprints.span_offsets, mask.shape, n_spans, n_pixels)
    offsets = np.concatenate([[0], np.cumsum(n_spans)])
    pixel_offsets = np.concatenate([[0], np.cumsum(n_pixels)])
    pixels = SourcePixels(
        image=image,
        variance=variance,
        mask=mask,
        spans=np.empty((int(offsets[-1]), 3), np.int32),
        span_offsets=offsets,
        pixel_offsets=pixel_offsets,
        values=np.empty(int(pixel_offsets[-1]), np.float32),
        variances=np.empty(int(pixel_offsets[-1]), np.float32),
        order=_spatial_order(footprints),
    )
    heavy, heavy_variance = footprints.image, footprints.variance
    heavy_offsets = footprints.pixel_offsets
    if heavy is None or heavy_offsets is None:
        heavy, heavy_variance, heavy_offsets = np.zeros(0, np.float32), None, np.zeros(n + 1, np.int64)
    if heavy_variance is None:
        heavy_variance = np.zeros(0, np.float32)
    collect_inside(spans, footprints.span_offsets, heavy, heavy_variance, heavy_offsets, pixels)
    np.nan_to_num(pixels.values, copy=False, posinf=0.0, neginf=0.0)
    return pixels


def _spatial_order(footprints: FootprintSet) -> NDArray[np.int64]:
    """Return the sources from left to right in bands of rows, by their first span."""
    if len(footprints.spans) == 0:
        return np.arange(len(footprints))
    first = footprints.spans[np.minimum(footprints.span_offsets[:-1], len(footprints.spans) - 1)]
    return np.lexsort((first[:, 1], first[:, 0] // BAND_ROWS))


def _no_footprints(n: int) -> FootprintSet:
    return FootprintSet(np.zeros((0, 3), np.int32), np.zeros(n + 1, np.int64))


def _sky_noise(
    exposure: Exposure, image: NDArray[np.float32], variance: NDArray[np.float32], noise: str
) -> tuple[float, float]:
    """Return level and scatter of the noise that replaces sources."""
    step = max(1, int(np.sqrt(image.size / SAMPLE_PIXELS)))
    planes = exposure.mask.planes
    bits = planes.bits_present("BAD", "SAT", "NO_DATA", "EDGE", "DETECTED", "DETECTED_NEGATIVE")
    sample = (slice(None, None, step), slice(None, exposure.shape[1], step))
    masked = exposure.mask.array[sample]
    if ((masked & bits) == 0).sum() < 100:
        bits = planes.bits_present("NO_DATA")
    if noise == "variance":
        good = (masked & bits) == 0
        return 0.0, float(np.sqrt(np.median(variance[sample][good]))) if good.any() else 0.0
    found = clipped_statistics(image[sample], masked, bits=bits)
    level, scatter = found.clipped_mean, found.clipped_std
    return (level, scatter) if np.isfinite(level) and np.isfinite(scatter) else (0.0, 0.0)
