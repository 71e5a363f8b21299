"""Growth, merging, marking and labelling of footprints."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tests.reference import labelling as slow_labels
from tests.reference import spans as slow_spans

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.detection.footprints import (
    footprint_of_pixels,
    grow_footprints,
    growth_radius,
    label_image,
    mark_footprints,
    merge_footprint_sets,
)
from starmill.detection.peaks import replace_peaks


def _random_regions(seed, fraction=0.01, shape=(60, 77)):
    return np.random.default_rng(seed).random(shape) < fraction


@pytest.mark.parametrize("radius", [0, 1, 3, 7])
def test_growth_equals_slow_twin(radius):
    inside = _random_regions(radius)
    footprints = footprint_of_pixels(inside, (5, -9))
    grown = grow_footprints(footprints, radius, Box(5, -9, 77, 60))
    expected = slow_labels.components(slow_spans.grown(inside, radius))
    found = slow_labels.pixels_of(grown.spans - [-9, 5, 5], grown.span_offsets)
    assert found == expected


def test_growth_keeps_all_peaks_sorted():
    inside = np.zeros((30, 30), bool)
    inside[10, 5] = inside[10, 11] = inside[25, 25] = True
    alone = footprint_of_pixels(inside)
    peaks = np.array([(5, 10, 3, 3), (11, 10, 8, 8), (25, 25, 5, 5)], PEAK_DTYPE)
    footprints = FootprintSet(alone.spans, alone.span_offsets, peaks, np.arange(4))
    grown = grow_footprints(footprints, 3, Box(0, 0, 30, 30))
    assert [list(f.peaks["x"]) for f in grown] == [[11, 5], [25]]
    apart = grow_footprints(footprints, 3, Box(0, 0, 30, 30), merge=False)
    assert len(apart) == 3
    assert all(area == 29 for area in apart.areas)  # pixels of a circle of radius 3


def test_merging_two_sets():
    first, second = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    first[5, 5:8] = first[15, 15] = second[6, 8] = True
    merged = merge_footprint_sets(footprint_of_pixels(first), footprint_of_pixels(second), Box(0, 0, 20, 20))
    assert sorted(merged.areas) == [1, 4]


def test_marking_and_labels_agree():
    inside = _random_regions(3, 0.05)
    footprints = footprint_of_pixels(inside, (100, 50))
    mask = np.full(inside.shape, 2, np.int32)
    mark_footprints(mask, footprints, 32, (100, 50))
    assert_array_equal(mask, np.where(inside, 34, 2))
    labels = label_image(footprints, Box(100, 50, 77, 60))
    assert_array_equal(labels > 0, inside)
    for i, area in enumerate(footprints.areas):
        assert np.count_nonzero(labels == i + 1) == area


def test_marks_outside_the_mask_are_cut():
    footprints = FootprintSet(np.array([[-1, 0, 3], [2, -2, 1], [2, 8, 30], [50, 0, 1]]), np.array([0, 4]))
    mask = np.zeros((5, 10), np.int32)
    mark_footprints(mask, footprints, 1, (0, 0))
    expected = np.zeros((5, 10), np.int32)
    expected[2, :2] = expected[2, 8:] = 1
    assert_array_equal(mask, expected)


def test_replaced_peaks():
    spans, offsets = np.array([[2, 0, 9], [6, 0, 9]]), np.array([0, 1, 2])
    old = FootprintSet(
        spans, offsets, np.array([(1, 2, 9, 9), (5, 2, 8, 8), (3, 6, 7, 7)], PEAK_DTYPE), np.array([0, 2, 3])
    )
    better = FootprintSet(spans[:1], offsets[:2], np.array([(6, 2, 4, 4)], PEAK_DTYPE), np.array([0, 1]))
    new = replace_peaks(old, better, (0, 0), (10, 10))
    assert [(p["x"], p["y"]) for p in new.peaks] == [(6, 2), (3, 6)]
    none = FootprintSet(spans[:0], offsets[:1])
    kept = replace_peaks(old, none, (0, 0), (10, 10))
    assert [(p["x"], p["y"]) for p in kept.peaks] == [(1, 2), (3, 6)]


def test_growth_radius_rounds():
    assert [growth_radius(s) for s in (1.0, 1.5, 2.0)] == [2, 4, 5]


def test_nothing_stays_nothing():
    assert len(grow_footprints(FootprintSet.empty(), 3, Box(0, 0, 5, 5))) == 0
