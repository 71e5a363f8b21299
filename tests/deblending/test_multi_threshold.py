"""Multi-threshold tree: number of objects as the slow twin, pixels shared without loss."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tests.reference import threshold_tree as slow

from starmill.datamodel.footprint import FootprintSet
from starmill.deblending.multi_threshold import deblend_multi_threshold
from starmill.detection.filters import smooth
from starmill.detection.threshold import detect_footprints
from starmill.errors import InputError
from starmill.kernels.threshold_tree import split_by_levels


def scene(seed, n=4, shape=(50, 60), noise=2.0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(0, noise, shape)
    for _ in range(n):
        cx, cy, width = rng.uniform(18, 42), rng.uniform(15, 35), rng.uniform(1.5, 3)
        image += rng.uniform(60, 400) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
    return smooth(image.astype(np.float32), 1.2, search_edge=True).image, image.astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_number_of_objects_equals_slow_twin(seed):
    smoothed, _ = scene(seed)
    footprints = detect_footprints(smoothed, 4.0, threshold_type="value", min_pixels=20)
    inside = footprints[0].mask_image(None)
    box = footprints[0].box
    pixels = smoothed[box.slices()]
    for contrast in (0.001, 0.01, 0.05):
        labels, peaks = split_by_levels(pixels, inside, 4.0, 32, contrast, 3)
        assert len(peaks) == slow.count_objects(pixels, inside, 4.0, 32, contrast, 3)
        assert_array_equal(labels >= 0, inside)
        assert set(np.unique(labels[inside])) == set(range(len(peaks)))


def test_children_cover_the_parent_once():
    smoothed, image = scene(3)
    footprints = detect_footprints(smoothed, 4.0, threshold_type="value", min_pixels=20)
    found = deblend_multi_threshold(
        image,
        np.ones_like(image),
        np.zeros(image.shape, np.int32),
        footprints,
        smoothed=smoothed,
        threshold=4.0,
    )
    assert len(found) >= 2
    taken = np.zeros(image.shape, int)
    total = np.zeros_like(image)
    for child in found.footprints:
        part = np.zeros_like(image)
        child.insert(part)
        taken += part != 0
        total += part
    assert taken.max() == 1
    assert total.sum() == pytest.approx(image[taken > 0].sum(), rel=1e-5)
    for parent in np.unique(found.parent):
        children = found.footprints.areas[found.parent == parent]
        assert children.sum() == footprints.areas[parent]


def test_lone_source_and_empty_set_have_no_children():
    y, x = np.mgrid[:40, :40]
    image = (500 * np.exp(-((x - 20) ** 2 + (y - 18) ** 2) / 8)).astype(np.float32)
    footprints = detect_footprints(image, 4.0, threshold_type="value")
    mask = np.zeros(image.shape, np.int32)
    for parents in (footprints, FootprintSet.empty()):
        found = deblend_multi_threshold(image, image, mask, parents, smoothed=image, threshold=4.0)
        assert len(found) == 0
    skipped = deblend_multi_threshold(
        image, image, mask, footprints, smoothed=image, threshold=4.0, max_area=5
    )
    assert skipped.reasons["parent_too_big"].all()
    with pytest.raises(InputError, match="positive"):
        deblend_multi_threshold(image, image, mask, footprints, smoothed=image, threshold=0.0)
