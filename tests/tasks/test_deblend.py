"""The deblending task: parents stay, children follow with their pixels, skipped parents are marked."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from starmill.datamodel.catalog import Catalog
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.psf import GaussianPsf
from starmill.errors import AlgorithmError, InputError
from starmill.tasks.deblend import DEBLEND_COLUMNS, SourceDeblendConfig, SourceDeblendTask
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask

SIGMA = 1.6
STARS = [(30, 30, 20000), (37, 31, 12000), (90, 30, 8000), (60, 85, 15000), (66, 90, 9000), (72, 86, 6000)]


@pytest.fixture(scope="module")
def detected():
    """An exposure with a lone star, a pair and a triple, and its detections."""
    y, x = np.mgrid[:120, :130]
    image = np.random.default_rng(1).normal(0, 4, x.shape)
    for cx, cy, flux in STARS:
        image += flux * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    exposure = Exposure(image, None, np.full(x.shape, 16.0), origin=(1000, 500), psf=GaussianPsf(SIGMA, 25))
    config = SourceDetectionConfig(re_estimate_background=False, use_local_background=False)
    result = SourceDetectionTask(config).run(exposure=exposure)
    assert sorted(result.catalog["n_peaks"]) == [1, 2, 3]
    return result


def test_parents_stay_and_children_follow(detected):
    before = detected.catalog
    task = SourceDeblendTask()
    result = task.run(exposure=detected.exposure, catalog=before)
    catalog = result.catalog
    assert (result.n_parents, result.n_children, len(catalog)) == (2, 5, 8)
    assert_array_equal(catalog["id"][:3], before["id"])
    assert len(np.unique(catalog["id"])) == 8
    assert list(catalog.schema) == list(task.output_schema(before.schema))
    assert all(column.name in catalog for column in DEBLEND_COLUMNS)
    for parent in catalog[catalog["parent"] == 0]:
        children = catalog.children_of(parent["id"])
        assert len(children) == parent["n_child"]
        total = np.zeros(detected.exposure.shape)
        for child in children:
            part = np.zeros(detected.exposure.shape)
            child.footprint.insert(part, detected.exposure.origin)
            total += part
        covered = total != 0
        assert_allclose(total[covered], detected.exposure.image[covered], rtol=1e-6, atol=1e-4)
    lone = catalog[(catalog["n_child"] == 0) & (catalog["parent"] == 0)]
    assert len(lone) == 1
    assert not lone.footprints[0].is_heavy
    assert len(before) == 3


def test_children_have_right_places_and_fluxes(detected):
    catalog = SourceDeblendTask().run(exposure=detected.exposure, catalog=detected.catalog).catalog
    children = catalog[catalog["parent"] > 0]
    truth = np.array([s for i, s in enumerate(STARS) if i != 2]) + np.array([1000, 500, 0])
    distance = np.hypot(
        children["deblend_psf_x"][:, None] - truth[:, 0], children["deblend_psf_y"][:, None] - truth[:, 1]
    )
    nearest = distance.argmin(1)
    assert sorted(nearest) == [0, 1, 2, 3, 4]
    assert distance.min(1).max() < 0.05
    assert children["deblended_as_psf"].all()
    # The noise of a PSF flux is 4 x sqrt(4 pi) x 1.6 = 23; neighbours add some.
    assert_allclose(children["deblend_psf_flux"], truth[nearest, 2], atol=150)


def test_skipped_parents_are_marked(detected):
    config = SourceDeblendConfig(max_area=10, big_parent_radius=0)
    result = SourceDeblendTask(config).run(exposure=detected.exposure, catalog=detected.catalog)
    assert len(result.catalog) == 3
    several = detected.catalog["n_peaks"] > 1
    assert_array_equal(result.catalog["deblend_parent_too_big"], several)
    assert_array_equal(result.catalog["deblend_skipped"], several)
    marked = result.exposure.mask.any("NOT_DEBLENDED")
    assert marked.sum() == detected.catalog.footprints.areas[several].sum()
    assert "NOT_DEBLENDED" not in detected.exposure.mask.planes or detected.exposure is not result.exposure
    assert not detected.exposure.mask.array[marked].max() >> 9


def test_empty_catalogue_and_bad_input(detected):
    task = SourceDeblendTask()
    empty = detected.catalog[:0]
    assert len(task.run(exposure=detected.exposure, catalog=empty).catalog) == 0
    with pytest.raises(InputError, match="footprints"):
        task.run(exposure=detected.exposure, catalog=Catalog(n=3))
    bare = detected.exposure.copy()
    bare.psf = None
    with pytest.raises(AlgorithmError, match="PSF"):
        task.run(exposure=bare, catalog=detected.catalog)


def test_multi_threshold_replaces_templates(detected):
    from starmill.tasks.deblend_multi_threshold import MultiThresholdDeblendConfig, MultiThresholdDeblendTask

    result = MultiThresholdDeblendTask().run(exposure=detected.exposure, catalog=detected.catalog)
    children = result.catalog[result.catalog["parent"] > 0]
    assert len(children) == 5
    assert (children["deblend_parent_n_peaks"] > 1).all()
    coarse = MultiThresholdDeblendConfig(contrast=0.5)
    assert (
        MultiThresholdDeblendTask(coarse).run(exposure=detected.exposure, catalog=detected.catalog).n_children
        == 0
    )


@pytest.mark.slow
def test_a_parent_of_a_million_pixels_and_100000_peaks():
    """With the defaults: flagged, bounded in time and memory, light for the brightest 10,000, no peak lost."""
    side, n_peaks = 1000, 100_000
    rng = np.random.default_rng(1)
    image = rng.normal(5, 1, (side, side)).astype(np.float32)
    y, x = np.divmod(rng.choice(side * side, n_peaks, replace=False), side)
    image[y, x] += rng.exponential(50, n_peaks).astype(np.float32)
    brightest = np.argsort(-image[y, x], kind="stable")
    peaks = np.zeros(n_peaks, PEAK_DTYPE)
    peaks["x"], peaks["y"], peaks["value"] = x[brightest], y[brightest], image[y, x][brightest]
    spans = np.stack([np.arange(side), np.zeros(side, int), np.full(side, side - 1)], axis=1)
    footprints = FootprintSet(spans, [0, side], peaks, [0, n_peaks])
    values = {"id": [1], "x": [500.0], "y": [500.0]}
    catalog = Catalog(SourceDetectionTask().schema, values, n=1, footprints=footprints)
    exposure = Exposure(image, None, np.ones((side, side), np.float32), psf=GaussianPsf(1.5, 25))
    result = SourceDeblendTask().run(exposure=exposure, catalog=catalog)
    parent = result.catalog[0]
    assert parent["deblend_parent_too_big"]
    assert parent["deblend_too_many_peaks"]
    assert not parent["deblend_skipped"]
    assert result.n_children == SourceDeblendConfig().max_big_peaks == 10_000
    children = result.catalog[1:]
    assert children["deblend_parent_too_big"].all()
    assert_array_equal(np.sort(children["deblend_peak"]), np.arange(10_000))
    assert len(result.catalog.footprints[0].peaks) == n_peaks
    own = children.footprints
    assert own.areas.max() <= 51 * 51
    # what the children hold is the light of the pixels they cover
    total, covered = np.zeros(image.shape), np.zeros(image.shape, bool)
    first = 0
    for row, x0, x1 in own.spans:
        total[row, x0 : x1 + 1] += own.image[first : first + x1 + 1 - x0]
        covered[row, x0 : x1 + 1] = True
        first += x1 + 1 - x0
    assert_allclose(total[covered], image[covered], atol=1e-4)
