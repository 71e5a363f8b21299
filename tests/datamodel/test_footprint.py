"""Footprints in flat arrays."""

import numpy as np
import pytest

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.errors import InputError


def make_set(heavy=True):
    spans = np.array([[10, 5, 7], [11, 4, 8], [20, 0, 0], [30, 2, 3], [30, 6, 7]])
    peaks = np.zeros(3, PEAK_DTYPE)
    peaks["x"], peaks["y"] = [6, 0, 2], [11, 20, 30]
    pixels = {"image": np.arange(13) + 1.0, "mask": np.arange(13), "variance": np.ones(13)} if heavy else {}
    return FootprintSet(spans, [0, 2, 3, 5], peaks, [0, 1, 2, 3], **pixels)


def test_areas_boxes_and_pixels():
    footprints = make_set()
    assert footprints.areas.tolist() == [8, 1, 4]
    assert footprints.boxes().tolist() == [[4, 10, 9, 12], [0, 20, 1, 21], [2, 30, 8, 31]]
    assert footprints[0].box == Box(4, 10, 5, 2)
    owner, y, x = footprints.pixel_indices()
    for i, footprint in enumerate(footprints):
        mine = {(a, b) for a, b in zip(y[owner == i], x[owner == i], strict=True)}
        inside = footprint.mask_image(Box(0, 0, 40, 40))
        assert mine == set(zip(*np.nonzero(inside), strict=True))
        assert all(footprint.contains(b, a) for a, b in mine)
    assert not footprints[2].contains(4, 30)


def test_insert_puts_pixels_back_also_when_cut():
    footprints = make_set()
    image = np.zeros((40, 12))
    footprints[0].insert(image)
    assert image[10, 5:8].tolist() == [1, 2, 3]
    assert image[11, 4:9].tolist() == [4, 5, 6, 7, 8]
    part = np.zeros((1, 3))
    footprints[0].insert(part, origin=(6, 11))
    assert part.tolist() == [[6, 7, 8]]
    with pytest.raises(InputError, match="holds no pixels"):
        make_set(heavy=False)[0].insert(image)


def test_dot_is_the_sum_of_products():
    footprints = make_set()
    assert footprints[0].dot(footprints[0]) == sum(v * v for v in range(1, 9))
    assert footprints[0].dot(footprints[1]) == 0


def test_take_and_concatenate_keep_everything():
    footprints = make_set()
    swapped = footprints.take([2, 0])
    assert swapped.areas.tolist() == [4, 8]
    assert swapped[0].image.tolist() == [10, 11, 12, 13]
    assert swapped.peaks["x"].tolist() == [2, 6]
    both = FootprintSet.concatenate([make_set(heavy=False), footprints])
    assert len(both) == 6
    assert not both[0].is_heavy
    assert both[3].is_heavy
    assert both[5].image.tolist() == [10, 11, 12, 13]
    assert len(FootprintSet.concatenate([])) == 0


def test_set_mask_clips_at_the_edges():
    array = np.zeros((12, 8), np.int32)
    make_set().set_mask(array, 32)
    assert (array[10, 5:8] == 32).all()
    assert (array != 0).sum() == 3 + 4
    shifted = np.zeros((3, 3), np.int32)
    make_set().set_mask(shifted, 1, origin=(6, 10))
    assert shifted.tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]


def test_contradictory_offsets_are_refused():
    with pytest.raises(InputError):
        FootprintSet(np.zeros((2, 3)), [0, 1])
