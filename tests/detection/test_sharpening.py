"""Close pairs are separated, single sources are not split."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tests.reference import labelling as slow_labels
from tests.reference import sharpening as slow

from starmill.detection.filters import smooth
from starmill.detection.sharpening import sharpen_peaks, sharpening_stencil
from starmill.detection.threshold import detect_footprints
from starmill.errors import InputError
from starmill.kernels.sharpening import sharp_peaks

SIGMA = 1.6


def _scene(sources, seed=0, shape=(60, 70), noise=4.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for cx, cy, flux in sources:
        image += flux * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    variance = (image + noise**2).astype(np.float32)
    image = image + np.random.default_rng(seed).normal(size=shape) * np.sqrt(variance)
    smoothed = smooth(image, SIGMA, variance=variance)
    footprints = detect_footprints(
        smoothed.image, 5, variance=smoothed.variance, search_box=smoothed.search_box
    )
    return image.astype(np.float32), variance, smoothed, footprints


def _sharpen(scene):
    image, variance, smoothed, footprints = scene
    return sharpen_peaks(
        image, variance, footprints, SIGMA, smoothed=smoothed.image, smoothed_variance=smoothed.variance
    )


def test_equals_slow_twin():
    image, variance, _, footprints = _scene([(25, 30, 2e4), (29.5, 31, 1.2e4), (45, 20, 5e3), (47, 35, 8e3)])
    stencil = sharpening_stencil(SIGMA)
    found = sharp_peaks(image, variance, footprints.spans, footprints.span_offsets, stencil, 2.0, 0.01, 1e9)
    groups = slow_labels.pixels_of(footprints.spans, footprints.span_offsets)
    expected = [
        (i, *peak)
        for i, pixels in enumerate(groups)
        for peak in slow.sharp_peaks(image, variance, pixels, stencil, 2.0, 0.01)
    ]
    assert [tuple(p) for p in found.tolist()] == expected
    assert len(expected) >= 4


def test_merged_pair_is_separated():
    """1.2 FWHM apart the smoothed image has one peak; the sharpened image has both."""
    scene = _scene([(30, 30, 40000), (34.5, 30, 25000)])
    assert list(scene[3].n_peaks) == [1]
    sharp = _sharpen(scene)
    assert list(sharp.n_peaks) == [2]
    assert_allclose(np.sort(sharp.peaks["x"]), [30, 34], atol=1)
    assert_allclose(sharp.peaks["y"], 30, atol=1)


@pytest.mark.parametrize("flux", [500, 5e3, 5e4, 5e5])
def test_single_stars_keep_one_peak(flux):
    sources = [(15 + 20 * i, 15 + 15 * j, flux) for i in range(3) for j in range(3)]
    sharp = _sharpen(_scene(sources, seed=3))
    assert len(sharp.peaks) == 9


def test_far_peaks_of_faint_parts_are_kept():
    scene = _scene([(30, 30, 40000), (41, 30, 400)])
    sharp = _sharpen(scene)
    assert sharp.n_peaks.sum() >= scene[3].n_peaks.sum()


def test_stencil_sums_to_zero_and_bad_sigma_is_named():
    assert_allclose(sharpening_stencil(1.5).sum(), 0, atol=1e-12)
    scene = _scene([(30, 30, 4000)])
    with pytest.raises(InputError, match="positive"):
        sharpen_peaks(scene[0], scene[1], scene[3], 0.0)


def test_saturated_stars_are_not_split():
    image, variance, smoothed, footprints = _scene([(30, 30, 5e5)])
    saturated = image > 5000
    image[saturated] = 5000
    free = sharpen_peaks(image, variance, footprints, SIGMA)
    assert len(free.peaks) > 1
    kept = sharpen_peaks(image, variance, footprints, SIGMA, avoid=saturated)
    assert len(kept.peaks) == 1
    assert smoothed.sigma == SIGMA
