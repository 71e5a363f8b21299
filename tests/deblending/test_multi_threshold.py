"""Multi-threshold tree: number of objects as the slow twin, pixels shared without loss."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tests.reference import threshold_tree as slow

from starmill.datamodel.footprint import FootprintSet
from starmill.datamodel.geometry import Box
from starmill.deblending.multi_threshold import deblend_multi_threshold
from starmill.detection.filters import smooth
from starmill.detection.footprints import grow_footprints
from starmill.detection.threshold import detect_footprints
from starmill.errors import InputError
from starmill.kernels.threshold_tree import label_footprints, split_by_levels


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
        labels, n = split_by_levels(pixels, inside, np.ones_like(pixels), 4.0, 32, contrast, 3, 0.0)
        assert n == slow.count_objects(pixels, inside, 4.0, 32, contrast, 3)
        assert_array_equal(labels >= 0, inside)
        assert set(np.unique(labels[inside])) == set(range(n))


def test_peaks_must_stand_out_of_the_noise():
    """A row of pixels: a valley of 3 below a peak of 9 counts with a noise of 1, not with a noise of 2."""
    pixels = np.array([[1, 20, 12, 6, 9, 3]], np.float32)
    inside = np.ones(pixels.shape, bool)
    for noise, n in ((0.7, 2), (1.1, 1)):
        labels, found = split_by_levels(
            pixels, inside, np.full(pixels.shape, noise, np.float32), 0.5, 64, 0.0, 1, 3.0
        )
        assert found == n
        assert_array_equal(labels[0, 4:], n - 1)
    assert_array_equal(labels[0, :3], 0)


def test_labels_of_many_footprints_equal_slow_twin():
    image = np.concatenate([scene(s)[1] for s in range(4)])
    footprints = detect_footprints(
        smooth(image, 1.2, search_edge=True).image, 4.0, threshold_type="value", min_pixels=20
    )
    taps = np.array([0.25, 0.5, 0.25])
    offsets = np.concatenate([[0], np.cumsum(footprints.areas)])
    labels, smoothed = np.zeros(offsets[-1], np.int32), np.zeros(offsets[-1], np.float32)
    n_objects = np.zeros(len(footprints), np.int64)
    variance = np.full(image.shape, 4, np.float32)
    label_footprints(
        image, variance, footprints.spans, footprints.span_offsets, offsets, 0, len(footprints), taps, 3.0, 32, 0.001, 3,
        3.0, labels, smoothed, n_objects,
    )  # fmt: skip
    for i, footprint in enumerate(footprints):
        expected, pixels = slow.label_footprint(image, 4.0, footprint, taps, (3.0, 32, 0.001, 3, 3.0))
        part = slice(offsets[i], offsets[i + 1])
        assert_allclose(smoothed[part], pixels, rtol=1e-5, atol=1e-4)
        assert n_objects[i] == expected.max() + 1
        assert_array_equal(labels[part], expected)


def test_footprints_left_out_of_the_tree_have_one_object():
    """The quick look for two peaks never hides an object of the tree, also where the noise follows the light."""
    taps, counts = np.array([0.05, 0.25, 0.4, 0.25, 0.05]), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = np.concatenate([scene(100 * seed + s, 1 + s % 3, noise=0.0)[1] for s in range(4)])
        variance = (9 + truth).astype(np.float32)
        image = (truth + rng.normal(0, np.sqrt(variance))).astype(np.float32)
        footprints = detect_footprints(
            smooth(image, 1.2, search_edge=True).image, 4.0, threshold_type="value", min_pixels=5
        )
        footprints = grow_footprints(footprints, 3, Box.from_shape(image.shape))
        offsets = np.concatenate([[0], np.cumsum(footprints.areas)])
        labels, smoothed = np.zeros(offsets[-1], np.int32), np.zeros(offsets[-1], np.float32)
        found = np.zeros(len(footprints), np.int64)
        label_footprints(
            image, variance, footprints.spans, footprints.span_offsets, offsets, 0, len(footprints), taps, 3.0, 32, 0.001,
            3, 4.0, labels, smoothed, found,
        )  # fmt: skip
        for i, footprint in enumerate(footprints):
            expected, _ = slow.label_footprint(image, variance, footprint, taps, (3.0, 32, 0.001, 3, 4.0))
            assert found[i] == expected.max() + 1
        counts += list(found)
    assert 0.1 < np.mean(np.array(counts) > 1) < 0.9  # both kinds were met


def test_children_cover_the_parent_once():
    smoothed, image = scene(3, noise=0.5)
    footprints = detect_footprints(smoothed, 4.0, threshold_type="value", min_pixels=20)
    found = deblend_multi_threshold(
        image,
        np.ones_like(image),
        np.zeros(image.shape, np.int32),
        footprints,
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
        found = deblend_multi_threshold(image, image, mask, parents, threshold=4.0)
        assert len(found) == 0
    skipped = deblend_multi_threshold(image, image, mask, footprints, threshold=4.0, max_area=5)
    assert skipped.reasons["parent_too_big"].all()
    with pytest.raises(InputError, match="positive"):
        deblend_multi_threshold(image, image, mask, footprints, threshold=0.0)


def test_noise_of_one_star_is_not_split():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:200, :200]
    sky = rng.normal(0, 10, x.shape)
    stars = sum(
        400 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 5)
        for cx in range(20, 200, 40)
        for cy in range(20, 200, 40)
    )
    image = (sky + stars).astype(np.float32)
    smoothed = smooth(image, 1.6, search_edge=True).image
    footprints = grow_footprints(
        detect_footprints(smoothed, 8.0, threshold_type="value", min_pixels=5), 4, Box(0, 0, 200, 200)
    )
    variance, mask = np.full_like(image, 100), np.zeros(image.shape, np.int32)
    few = deblend_multi_threshold(image, variance, mask, footprints, threshold=7.0)
    many = deblend_multi_threshold(image, variance, mask, footprints, threshold=7.0, min_drop=0.0)
    assert len(few) == 0
    assert len(many) > 0
