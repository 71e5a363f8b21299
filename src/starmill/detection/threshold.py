"""Footprints of pixels at or above a threshold."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.footprint import FootprintSet
from starmill.datamodel.geometry import Box
from starmill.detection.peaks import find_peaks
from starmill.errors import InputError
from starmill.kernels.labelling import component_totals, components_of_runs, group_runs, threshold_runs

__all__ = ["ThresholdType", "detect_footprints"]

ThresholdType = Literal["pixel_stdev", "stdev", "value", "variance"]
"""Unit of a threshold: error of each pixel, scatter of the image, image unit, squared scatter."""

NO_PLANE = np.zeros((0, 0), np.float32)


def detect_footprints(
    image: NDArray[np.float32],
    threshold: float,
    *,
    variance: NDArray[np.float32] | None = None,
    threshold_type: ThresholdType = "pixel_stdev",
    scatter: float | None = None,
    sign: float = 1.0,
    include_multiplier: float = 1.0,
    min_pixels: int = 1,
    search_box: Box | None = None,
    origin: tuple[int, int] = (0, 0),
    thin_plateaus: bool = False,
) -> FootprintSet:
    """Group the pixels at or above a threshold into footprints and find their peaks.

    Pixels that touch at a side or a corner belong to the same footprint. NaN is never above.

    Parameters
    ----------
    image : (ny, nx) float32 array
        Usually smoothed.
    threshold : float
        In the unit of ``threshold_type``.
    variance : (ny, nx) float32 array, optional
        Of ``image``; needed for ``pixel_stdev``, and for the significance of peaks.
    threshold_type : str
        ``pixel_stdev``: value >= threshold * sqrt(variance of the pixel); ``stdev``: threshold * scatter;
        ``variance``: threshold is a variance, value >= sqrt(threshold) * scatter; ``value``: image unit.
    scatter : float, optional
        Standard deviation of the image; needed for ``stdev`` and ``variance``.
    sign : float
        +1 for sources above, -1 for sources below the background.
    include_multiplier : float
        A footprint is kept only if a pixel reaches this multiple of the threshold.
    min_pixels : int
        Smallest number of pixels.
    search_box : Box, optional
        Array indices; the whole image by default.
    origin : (x0, y0)
        Parent-frame position of the first pixel.
    thin_plateaus : bool
        One peak for a flat top instead of one for each of its pixels.

    Returns
    -------
    footprints : FootprintSet
        Parent frame.
    """
    image = np.ascontiguousarray(image, np.float32)
    level, plane = _level(threshold, threshold_type, variance, scatter)
    box = search_box or Box.from_shape(image.shape)
    sigma_plane = NO_PLANE if plane is None else np.ascontiguousarray(plane, np.float32)
    words = np.zeros((box.width + 7) // 8, np.uint64)
    runs, strong = threshold_runs(
        image, sigma_plane, sign, level, level * include_multiplier, box.x0, box.x1, box.y0, box.y1,
        words.view(np.uint8), words,
    )  # fmt: skip
    labels, n_labels = components_of_runs(runs)
    area, any_strong = component_totals(runs, strong, labels, n_labels)
    spans, offsets = group_runs(runs, labels, n_labels, (area >= min_pixels) & any_strong)
    noise = 1.0 if scatter is None else scatter
    peaks, peak_offsets = find_peaks(
        image,
        spans,
        offsets,
        variance=variance,
        sign=sign,
        search_box=box,
        noise=noise,
        thin_plateaus=thin_plateaus,
    )
    peaks["x"] += origin[0]
    peaks["y"] += origin[1]
    return FootprintSet(
        spans + np.array([origin[1], origin[0], origin[0]], np.int32), offsets, peaks, peak_offsets
    )


def _level(
    threshold: float, threshold_type: str, variance: NDArray[Any] | None, scatter: float | None
) -> tuple[float, NDArray[Any] | None]:
    """Threshold in image units with no plane, or in units of the square root of a plane."""
    if threshold_type == "pixel_stdev":
        if variance is None:
            raise InputError("a threshold in units of the pixel error (pixel_stdev) needs a variance plane")
        return threshold, variance
    if threshold_type == "value":
        return threshold, None
    if threshold_type in ("stdev", "variance"):
        if scatter is None or not np.isfinite(scatter):
            raise InputError(
                f"a threshold of type {threshold_type} needs the scatter of the image, it is {scatter}"
            )
        return (threshold if threshold_type == "stdev" else float(np.sqrt(threshold))) * scatter, None
    raise InputError(f"unknown threshold type {threshold_type!r}: use pixel_stdev, stdev, value or variance")
