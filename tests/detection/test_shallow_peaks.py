"""Peaks that noise makes on the sides of others are dropped, those of sources stay."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose
from tests.reference import sharpening as slow

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.psf import GaussianPsf
from starmill.detection.peaks import drop_shallow_peaks
from starmill.kernels.sharpening import lowest_on_lines
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask


def ridge(heights, origin=(0, 0), sign=1.0):
    """One row of values as one footprint with a peak wherever a value exceeds its neighbours."""
    image = np.zeros((3, len(heights)), np.float32)
    image[1] = np.multiply(sign, heights)
    inner = [k for k in range(1, len(heights) - 1) if heights[k] > max(heights[k - 1], heights[k + 1])]
    peaks = np.zeros(len(inner), PEAK_DTYPE)
    peaks["x"], peaks["y"] = np.add(inner, origin[0]), 1 + origin[1]
    peaks["value"] = image[1, inner]
    span = np.array([[1 + origin[1], origin[0], origin[0] + len(heights) - 1]], np.int32)
    return image, FootprintSet(span, np.array([0, 1]), peaks, np.array([0, len(peaks)]))


def test_lines_equal_the_slow_twin():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(40, 50)).astype(np.float32)
    image[rng.random(image.shape) < 0.02] = np.nan
    ya, yb = rng.integers(0, 40, (2, 200))
    xa, xb = rng.integers(0, 50, (2, 200))
    ok = np.isfinite(image[ya, xa]) & np.isfinite(image[yb, xb]) & ((ya != yb) | (xa != xb))
    ya, xa, yb, xb = (a[ok] for a in (ya, xa, yb, xb))
    expected = [slow.lowest_on_line(image, (a, b), (c, d)) for a, b, c, d in zip(ya, xa, yb, xb, strict=True)]
    assert_allclose(lowest_on_lines(image, ya, xa, yb, xb), expected)


def test_what_stays_has_a_drop_to_every_brighter_neighbour():
    heights = [0, 9, 6, 7, 0, 8.5, 8, 8.4, 0]
    for origin in ((0, 0), (100, -7)):
        for sign in (1.0, -1.0):
            image, footprints = ridge(heights, origin, sign)
            variance = np.full(image.shape, 1.0, np.float32)
            kept = drop_shallow_peaks(footprints, image, variance, min_drop=1.5, origin=origin, sign=sign)
            assert sorted(kept.peaks["x"] - origin[0]) == [1, 5]
            all_of_them = drop_shallow_peaks(
                footprints, image, variance, min_drop=0.3, origin=origin, sign=sign
            )
            assert sorted(all_of_them.peaks["x"] - origin[0]) == [1, 3, 5, 7]
            loud = drop_shallow_peaks(
                footprints, image, 400 * variance, min_drop=1.0, origin=origin, sign=sign
            )
            assert list(loud.peaks["x"] - origin[0]) == [1]  # the highest stays whatever the noise


def test_other_peaks_can_be_protected():
    image, footprints = ridge([0, 9, 8, 8.5, 8, 8.6, 0])
    variance = np.ones(image.shape, np.float32)
    kept = drop_shallow_peaks(footprints, image, variance, among=footprints.peaks[footprints.peaks["x"] == 3])
    assert sorted(kept.peaks["x"]) == [1, 5]


def test_a_wide_source_has_fewer_peaks_and_a_pair_keeps_both():
    rng = np.random.default_rng(1)
    yy, xx = np.mgrid[:400, :400]
    image = rng.normal(0, 10, (400, 400))
    for y in range(40, 400, 80):
        for x in range(40, 400, 80):
            image += 14 * np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * 9.0**2))
    for y, x in ((8, 200), (392, 200)):
        for dx in (-4, 4):
            image += 400 * np.exp(-((yy - y) ** 2 + (xx - x - dx) ** 2) / (2 * 1.5**2))
    exposure = Exposure(image.astype(np.float32), variance=np.full(image.shape, 100, np.float32))
    exposure.psf = GaussianPsf(1.5, 25)
    found = [
        SourceDetectionTask(SourceDetectionConfig(re_estimate_background=False, min_peak_drop=drop))
        .run(exposure=exposure)
        .positive
        for drop in (0.0, 1.0)
    ]
    assert len(found[0]) == len(found[1])  # footprints stay
    assert found[1].n_peaks.min() == 1
    assert found[0].n_peaks.sum() > found[1].n_peaks.sum() + 10
    pairs = [len(f.peaks[(np.abs(f.peaks["y"] - 200) > 180)]) for f in found]
    assert pairs[1] >= 4
