"""The detection task: marks, catalogue, background, polarity, errors, and the frames the stack processed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from starmill.datamodel.exposure import Exposure, ObservationInfo
from starmill.datamodel.psf import GaussianPsf
from starmill.errors import AlgorithmError
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask

SIGMA = 1.6


def _star_field(seed=0, n=40, size=300, sky=0.0, noise=5.0, sign=1.0, origin=(0, 0)):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = rng.normal(sky, noise, (size, size))
    grid = [(25 + 50 * i, 25 + 50 * j) for i in range(6) for j in range(6)]
    truth = np.array(grid[:n]) + rng.uniform(-8, 8, (min(n, 36), 2))
    for cx, cy in truth:
        image += (
            sign * 4000 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
        )
    exposure = Exposure(
        image, None, np.full(image.shape, noise**2), origin=origin, psf=GaussianPsf(SIGMA, 21),
        info=ObservationInfo(exposure_id=7),
    )  # fmt: skip
    return exposure, truth + origin


def test_all_stars_found_and_nothing_else():
    exposure, truth = _star_field(origin=(100, -50))
    result = SourceDetectionTask().run(exposure=exposure)
    catalog = result.catalog
    assert len(catalog) == len(truth)
    distance = np.hypot(catalog["x"][:, None] - truth[:, 0], catalog["y"][:, None] - truth[:, 1]).min(0)
    assert distance.max() < 1.5  # the peak pixel lies within a pixel of the star
    assert (catalog["parent"] == 0).all()
    assert (catalog["id"] >> 32 == 7).all()
    assert len(np.unique(catalog["id"])) == len(catalog)
    assert (catalog["peak_significance"] >= 5).all()
    assert list(catalog.schema) == list(SourceDetectionTask().schema)


def test_given_exposure_is_not_changed_and_planes_are_set():
    exposure, _ = _star_field()
    exposure.mask.set("DETECTED", (slice(0, 10), slice(0, 10)))
    image, mask = exposure.image.copy(), exposure.mask.array.copy()
    result = SourceDetectionTask().run(exposure=exposure)
    assert_array_equal(exposure.image, image)
    assert_array_equal(exposure.mask.array, mask)
    detected = result.exposure.mask.any("DETECTED")
    assert not detected[:10, :10].any()
    assert detected.sum() == result.positive.areas.sum()
    assert not result.exposure.mask.any("DETECTED_NEGATIVE").any()


def test_background_is_measured_again_and_appended():
    exposure, _ = _star_field(sky=0.5)
    result = SourceDetectionTask().run(exposure=exposure, background=["before"])
    assert result.background[0] == "before"
    assert_allclose(result.background[1].mean(), 0.5, atol=0.1)  # error of the mean is 0.02
    assert_allclose(exposure.image - result.exposure.image, result.background[1].image(), atol=1e-4)
    config = SourceDetectionConfig(re_estimate_background=False)
    assert SourceDetectionTask(config).run(exposure=exposure).background == []


@pytest.mark.parametrize("polarity", ["positive", "negative", "both"])
def test_polarity(polarity):
    exposure, truth = _star_field(sign=-1.0)
    exposure.image = exposure.image + _star_field(seed=0, n=3)[0].image * 2
    config = SourceDetectionConfig(
        polarity=polarity, re_estimate_background=False, use_local_background=False
    )
    result = SourceDetectionTask(config).run(exposure=exposure)
    planes = result.exposure.mask
    assert planes.any("DETECTED").any() == (polarity != "negative")
    assert planes.any("DETECTED_NEGATIVE").any() == (polarity != "positive")
    if polarity == "both":
        assert result.catalog["is_negative"].sum() == result.n_negative
        assert (result.catalog["peak_value"][result.catalog["is_negative"]] < 0).all()
    else:
        assert "is_negative" not in result.catalog
        assert len(result.catalog) == (result.n_positive if polarity == "positive" else result.n_negative)
    assert len(truth) == 36


def test_footprints_before_growth_are_smaller():
    exposure, _ = _star_field()
    grown = SourceDetectionTask().run(exposure=exposure)
    config = SourceDetectionConfig(return_original_footprints=True)
    original = SourceDetectionTask(config).run(exposure=exposure)
    assert original.positive.areas.sum() < grown.positive.areas.sum()
    assert_array_equal(original.exposure.mask.array, grown.exposure.mask.array)


def test_masked_and_nan_pixels_never_make_sources():
    exposure, truth = _star_field()
    exposure.image[:, 150] = 1e7
    exposure.mask.set("BAD", (slice(None), 150))
    exposure.image[100:110, 60:70] = np.nan
    result = SourceDetectionTask().run(exposure=exposure)
    assert len(result.catalog) <= len(truth)
    assert np.abs(result.catalog["peak_value"]).max() < 1000


def test_scatter_threshold_finds_the_same_stars():
    exposure, truth = _star_field()
    config = SourceDetectionConfig(threshold_type="stdev")
    assert len(SourceDetectionTask(config).run(exposure=exposure).catalog) == len(truth)


def test_excluded_planes_are_not_searched():
    exposure, truth = _star_field()
    exposure.mask.set("SUSPECT", (slice(0, 150), slice(None)))
    config = SourceDetectionConfig(exclude_planes=["SUSPECT"])
    found = SourceDetectionTask(config).run(exposure=exposure).catalog
    assert (found["y"] >= 150).all()
    assert len(found) == np.count_nonzero(truth[:, 1] > 160)


def test_run_again_and_again_gives_the_same():
    exposure, _ = _star_field()
    task = SourceDetectionTask()
    first, second = task.run(exposure=exposure), task.run(exposure=exposure)
    assert_array_equal(first.catalog["id"], second.catalog["id"])
    assert_array_equal(first.exposure.image, second.exposure.image)
    assert task.metadata["n_positive"] == len(first.catalog)
    assert task.metadata["smooth_cpu_seconds"] >= 0


def test_bad_images_are_named():
    exposure, _ = _star_field()
    task = SourceDetectionTask()
    nothing = exposure.copy()
    nothing.image[...] = np.nan
    with pytest.raises(AlgorithmError, match="no pixel"):
        task.run(exposure=nothing)
    masked = exposure.copy()
    masked.mask.set("NO_DATA")
    with pytest.raises(AlgorithmError, match="no pixel"):
        task.run(exposure=masked)
    zero = exposure.copy()
    zero.variance[...] = 0
    with pytest.raises(AlgorithmError, match="variance"):
        task.run(exposure=zero)
    bare = exposure.copy()
    bare.psf = None
    with pytest.raises(AlgorithmError, match="PSF"):
        task.run(exposure=bare)
    assert len(task.run(exposure=bare, sigma=SIGMA).catalog) > 0
    line = Exposure(np.zeros((1, 100)), None, np.ones((1, 100)), psf=GaussianPsf(SIGMA, 21))
    with pytest.raises(AlgorithmError, match="smaller"):
        task.run(exposure=line)


def test_constant_image_has_no_sources():
    flat = Exposure(np.zeros((200, 200)), None, np.ones((200, 200)), psf=GaussianPsf(SIGMA, 21))
    result = SourceDetectionTask().run(exposure=flat)
    assert len(result.catalog) == 0
    assert len(result.positive) == 0


def test_what_lies_at_the_border_is_flagged():
    """The border that the smoothing cannot reach is not searched, and its pixels say so."""
    exposure, _ = _star_field(n=4, origin=(100, -50))
    before = exposure.mask.array.copy()
    result = SourceDetectionTask().run(exposure=exposure)
    edge = result.exposure.mask.any("EDGE")
    border = (SourceDetectionTask().find(exposure, SIGMA)).smoothed.border
    inside = np.zeros(edge.shape, bool)
    inside[border:-border, border:-border] = True
    assert_array_equal(edge, ~inside)
    assert_array_equal(exposure.mask.array, before)
    everywhere = SourceDetectionTask(SourceDetectionConfig(search_edge=True)).run(exposure=exposure)
    assert not everywhere.exposure.mask.any("EDGE").any()
    # the image goes on beyond a part of it: the mask of the whole stays as it is
    part = SourceDetectionTask().run(exposure=exposure[exposure.box.grow(-50)])
    assert part.exposure.mask.any("EDGE").any()
    assert_array_equal(exposure.mask.array, before)


@pytest.mark.parametrize("width", [1, 9])
def test_peaks_stand_on_pixels_with_data(width):
    """A star cut by a wide hole has its peak beside the hole; a single bad column does not move it."""
    exposure, _ = _star_field(n=1)
    y, x = np.mgrid[:300, :300]
    exposure.image[...] += 5000 * np.exp(-((x - 100) ** 2 + (y - 120) ** 2) / (2 * SIGMA**2))
    hole = np.abs(x - 100 - width // 2) <= width // 2
    exposure.image[hole] = np.nan
    exposure.mask.set("NO_DATA", hole)
    catalog = SourceDetectionTask().run(exposure=exposure).catalog
    star = np.argmin(np.hypot(catalog["x"] - 100, catalog["y"] - 120))
    assert (catalog["x"][star], catalog["y"][star]) == ((100, 120) if width == 1 else (99, 120))
    assert width == 1 or not hole[catalog["y"].astype(int), catalog["x"].astype(int)].any()


def test_a_field_full_of_light_keeps_its_background(caplog):
    """Where every pixel is detected there is no sky to measure again; the sources stay."""
    exposure, _ = _star_field(n=1)
    exposure.image[...] += 100
    result = SourceDetectionTask(SourceDetectionConfig(search_edge=True)).run(exposure=exposure)
    assert len(result.catalog) == 1
    assert result.background == []
    assert "no pixel is free of sources" in caplog.text
