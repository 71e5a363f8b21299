"""Boxes and the pixel convention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starmill.datamodel.geometry import Box, pixel_index
from starmill.errors import InputError

boxes = st.builds(Box, st.integers(-50, 50), st.integers(-50, 50), st.integers(0, 40), st.integers(0, 40))


@given(boxes, boxes)
def test_intersection_is_the_common_pixels(a, b):
    def pixels(box):
        return {(x, y) for x in range(box.x0, box.x1) for y in range(box.y0, box.y1)}

    assert pixels(a.intersection(b)) == pixels(a) & pixels(b)
    assert a.overlaps(b) == bool(pixels(a) & pixels(b))
    assert pixels(a) | pixels(b) <= pixels(a.union(b))


@given(boxes)
def test_slices_address_the_pixels_of_the_box(box):
    parent = Box(-60, -60, 200, 200)
    index = np.arange(parent.area).reshape(parent.shape)
    cut = index[box.slices(parent.origin)]
    assert cut.shape == box.shape
    if box.area:
        assert cut[0, 0] == index[box.y0 - parent.y0, box.x0 - parent.x0]


@given(boxes, st.integers(1, 9), st.integers(1, 9))
def test_tiles_cover_every_pixel_once(box, width, height):
    count = np.zeros(box.shape, int)
    for tile in box.tiles(width, height):
        count[tile.slices(box.origin)] += 1
    assert (count == 1).all()


def test_pixel_centres_are_integers():
    assert [pixel_index(p) for p in (-0.5, 0.49, 0.5, 1.4)] == [0, 0, 1, 1]
    box = Box(10, 20, 2, 3)
    assert box.contains(9.5, 19.5)
    assert not box.contains(11.5, 20)
    np.testing.assert_array_equal(box.contains([10, np.nan], [20, 20]), [True, False])
    assert box.center == (10.5, 21.0)
    assert box.extent == (9.5, 11.5, 19.5, 22.5)
    assert Box.centered(10.4, 20.6, 5) == Box(8, 19, 5, 5)


def test_grow_and_shrink():
    box = Box(0, 0, 10, 4)
    assert box.grow(2) == Box(-2, -2, 14, 8)
    assert box.grow(-2).is_empty
    assert box.shifted(3, -1) == Box(3, -1, 10, 4)
    with pytest.raises(InputError, match="negative size"):
        Box(0, 0, -1, 3)
