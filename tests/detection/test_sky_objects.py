"""Sky objects keep clear of sources and of each other."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from starmill.detection.sky_objects import disc_offsets, place_sky_objects, sky_footprints


def test_reference_positions(shared_data):
    """The mask of the reference run, 500 x 400, had one rectangle; the positions are identical."""
    expected = np.load(shared_data("reference_lsst") / "unit_sky.npz")["peaks"]
    mask = np.zeros((400, 500), np.int32)
    mask[100:150, 100:290] = 32
    assert_array_equal(place_sky_objects(mask, 32, seed=12345), expected)


def test_discs_are_clean_and_apart():
    rng = np.random.default_rng(1)
    mask = (rng.random((300, 300)) < 5e-4).astype(np.int32)
    positions = place_sky_objects(mask, 1, seed=7, n_objects=50, radius=6, origin=(40, -10))
    assert 5 < len(positions) <= 50
    taken = np.zeros((300, 300), int)
    for x, y in positions - [40, -10]:
        dy, dx = disc_offsets(6).T
        taken[y + dy, x + dx] += 1
        assert not mask[y + dy, x + dx].any()
    assert taken.max() == 1


def test_full_mask_and_small_image_give_none():
    assert len(place_sky_objects(np.ones((200, 200), np.int32), 1, seed=1)) == 0
    assert len(place_sky_objects(np.zeros((1, 200), np.int32), 1, seed=1)) == 0


def test_footprints_are_discs():
    footprints = sky_footprints(np.array([[10, 20], [50, 60]]), 8)
    assert list(footprints.areas) == [len(disc_offsets(8))] * 2
    assert footprints[1].contains(58, 60)
    assert not footprints[1].contains(58, 61)
    assert (footprints.peaks["value"] == 0).all()
