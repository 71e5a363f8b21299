"""Flags as a list answer as the plane they were made from."""

from __future__ import annotations

import numpy as np
import pytest

from starmill.differencing.flags import FlaggedPixels, FlagList, bad_positions, flag_plane

SHAPE = (150, 90)


def plane(share, seed=1):
    rng = np.random.default_rng(seed)
    flags = rng.integers(1, 200, SHAPE).astype(np.uint8)
    flags[rng.random(SHAPE) > share] = 0
    flags[60:70] = 0  # rows without any
    return flags


def listed(flags, band=64):
    return [FlagList([flags[first : first + band]], SHAPE[1]) for first in range(0, SHAPE[0], band)]


@pytest.mark.parametrize(
    "part",
    [
        np.s_[:],
        np.s_[10:74],
        np.s_[5:5],
        np.s_[140:200],
        np.s_[3:40, 7:50],
        np.s_[::7, ::7],
        np.s_[4:120:3, 80:200:2],
        np.s_[-5:, -4:],
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.03])
def test_every_part_is_that_of_the_plane(part, share):
    flags = plane(share)
    for given in (FlagList.joined(listed(flags)), FlagList([flags], SHAPE[1])):
        assert np.array_equal(given[part], flags[part])
        assert np.array_equal(FlaggedPixels(given, above=20)[part], flags[part] > 20)


def test_positions_are_those_of_the_plane():
    flags = plane(0.05)
    expected = np.nonzero(flags > 20)
    for bad in (flags > 20, FlaggedPixels(flags, 20), FlaggedPixels(FlagList([flags], SHAPE[1]), 20)):
        assert all(np.array_equal(a, b) for a, b in zip(bad_positions(bad), expected, strict=True))
        assert np.array_equal(np.asarray(bad), flags > 20)


def test_many_flags_are_kept_as_a_plane():
    flags = plane(0.4)
    kept = flag_plane(listed(flags))
    assert isinstance(kept, np.ndarray)
    assert np.array_equal(kept, flags)
    assert isinstance(flag_plane(listed(plane(0.05))), FlagList)
