"""Thresholds, components and peaks against slow twins and against the reference outputs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tests.reference import labelling as slow_labels
from tests.reference import peaks as slow_peaks

from starmill.datamodel.geometry import Box
from starmill.detection.filters import smooth, smooth_mask
from starmill.detection.footprints import grow_footprints
from starmill.detection.threshold import detect_footprints
from starmill.errors import AlgorithmError, InputError


@pytest.fixture
def noise_scene():
    rng = np.random.default_rng(11)
    image = smooth(rng.normal(0, 5, (70, 83)).astype(np.float32), 1.1, search_edge=True).image
    return image, rng.uniform(0.5, 1.5, image.shape).astype(np.float32)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("multiplier", "min_pixels"), [(1.0, 1), (2.0, 3)])
def test_equals_slow_twin(noise_scene, sign, multiplier, min_pixels):
    image, variance = noise_scene
    found = detect_footprints(
        image, 1.5, variance=variance, sign=sign, include_multiplier=multiplier, min_pixels=min_pixels
    )
    groups = slow_labels.components(sign * image >= np.float32(1.5) * np.sqrt(variance))
    strong = sign * image >= np.float32(1.5 * multiplier) * np.sqrt(variance)
    groups = [g for g in groups if len(g) >= min_pixels and any(strong[p] for p in g)]
    assert slow_labels.pixels_of(found.spans, found.span_offsets) == groups
    ny, nx = image.shape
    for footprint, pixels in zip(found, groups, strict=True):
        expected = set(slow_peaks.peaks_of(sign * image, pixels, (0, nx, 0, ny)))
        assert {(int(p["y"]), int(p["x"])) for p in footprint.peaks} == expected
        heights = sign * footprint.peaks["value"]
        assert (np.diff(heights) <= 0).all()
        y, x = footprint.peaks["y"], footprint.peaks["x"]
        assert_allclose(footprint.peaks["significance"], image[y, x] / np.sqrt(variance[y, x]), rtol=1e-6)


def test_plateaus_give_every_pixel_or_one():
    image = np.zeros((12, 12), np.float32)
    image[4:6, 5:8] = 10
    every = detect_footprints(image, 5, threshold_type="value")
    assert len(every.peaks) == 6
    one = detect_footprints(image, 5, threshold_type="value", thin_plateaus=True)
    assert [(p["x"], p["y"]) for p in one.peaks] == [(5, 4)]


def test_threshold_is_inclusive_and_nan_never_above():
    image = np.array([[0, 0, 0, 0], [0, 5, np.nan, 5], [0, 0, 0, 0]], np.float32)
    found = detect_footprints(image, 5, threshold_type="value")
    assert slow_labels.pixels_of(found.spans, found.span_offsets) == [{(1, 1)}, {(1, 3)}]


@pytest.mark.parametrize(("kind", "threshold"), [("stdev", 2.0), ("variance", 4.0), ("value", 3.0)])
def test_threshold_types_agree(noise_scene, kind, threshold):
    image, _ = noise_scene
    found = detect_footprints(image, threshold, threshold_type=kind, scatter=1.5)
    expected = slow_labels.components(image >= 3.0)
    assert slow_labels.pixels_of(found.spans, found.span_offsets) == expected


def test_origin_shifts_everything(noise_scene):
    image, variance = noise_scene
    here = detect_footprints(image, 1.5, variance=variance)
    there = detect_footprints(image, 1.5, variance=variance, origin=(100, -20))
    assert_array_equal(there.spans, here.spans + np.array([-20, 100, 100]))
    assert_array_equal(there.peaks["x"], here.peaks["x"] + 100)
    assert_array_equal(there.peaks["y"], here.peaks["y"] - 20)


def test_missing_requirements_are_named(noise_scene):
    image, _ = noise_scene
    with pytest.raises(InputError, match="variance plane"):
        detect_footprints(image, 5)
    with pytest.raises(InputError, match="scatter"):
        detect_footprints(image, 5, threshold_type="stdev")
    with pytest.raises(InputError, match="threshold type"):
        detect_footprints(image, 5, threshold_type="sigma")
    with pytest.raises(AlgorithmError, match="smaller"):
        smooth(np.zeros((1, 50), np.float32), 1.5)


def _sorted_footprints(numbered_spans):
    groups = {}
    for number, *span in numbered_spans:
        groups.setdefault(int(number), []).append(tuple(int(v) for v in span))
    return sorted(sorted(group) for group in groups.values())


@pytest.mark.parametrize("sigma", ["1.2", "1.78", "3.05"])
def test_reference_smoothing_spans_and_peaks(shared_data, sigma):
    """Smoothed image and variance to float32 rounding; spans and peaks identical for every setting."""
    data = np.load(shared_data("reference_lsst") / "unit_detect.npz")
    image = data["imgin"]
    variance = (np.abs(image) + 25).astype(np.float32)  # of the reference run, from its smoothed variance
    origin = (10, -5)
    smoothed = smooth(image, float(sigma), variance=variance)
    inner = np.isfinite(data[f"img_{sigma}"])
    assert_allclose(smoothed.image[inner], data[f"img_{sigma}"][inner], atol=5e-4, rtol=1e-6)
    if f"var_{sigma}" in data:
        assert_allclose(smoothed.variance[inner], data[f"var_{sigma}"][inner], rtol=1e-5)
    mask = smooth_mask(data[f"mask_in_{sigma}"].astype(np.int32), smoothed.border, 16)
    assert_array_equal(mask[inner], data[f"msk_{sigma}"][inner])
    assert (mask[~inner] & 16).all()
    box = Box.from_shape(image.shape, origin)
    settings = [key for key in data.files if key.startswith(f"spans_{sigma}_")]
    assert settings
    for key in settings:
        _, _, threshold, multiplier, min_pixels, growth = key.split("_")
        found = detect_footprints(
            smoothed.image, float(threshold), variance=smoothed.variance,
            include_multiplier=float(multiplier), min_pixels=int(min_pixels), search_box=smoothed.search_box, origin=origin,
        )  # fmt: skip
        if growth != "g0":
            found = grow_footprints(found, int(growth[1:]), box)
        owner = np.repeat(np.arange(len(found)), np.diff(found.span_offsets))
        assert _sorted_footprints(np.c_[owner, found.spans]) == _sorted_footprints(data[key]), key
        peaks = data[key.replace("spans", "peaks")]
        mine = sorted(zip(found.peaks["x"], found.peaks["y"], found.peaks["value"], strict=True))
        theirs = sorted(map(tuple, peaks[:, 1:]))
        assert_array_equal(np.array(mine)[:, :2], np.array(theirs)[:, :2])
        assert_allclose(np.array(mine)[:, 2], np.array(theirs)[:, 2], rtol=1e-5)
