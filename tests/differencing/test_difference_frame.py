"""A difference from raw images: cosmic rays are not transients."""

from __future__ import annotations

import numpy as np
import pytest
from tests.differencing.conftest import make_pair

from starmill.tasks.difference_frame import DifferenceFrameConfig, DifferenceFrameTask


@pytest.fixture(scope="module")
def raw():
    """Return a pair whose science image has unmasked cosmic rays, and their pixels."""
    pair = make_pair(seed=5)
    rng = np.random.default_rng(6)
    hit = np.zeros(pair.science.shape, bool)
    for x, y in rng.integers(30, 290, (25, 2)):
        hit[y, x : x + rng.integers(1, 4)] = True
    for a, b in zip(pair.new_x, pair.new_y, strict=True):
        hit[round(b) - 6 : round(b) + 7, round(a) - 6 : round(a) + 7] = False
    pair.science.image[hit] += rng.uniform(500, 4000, hit.sum()).astype("f4")
    return pair, hit


def found_at(catalog, x, y, radius=2.5):
    positions = np.column_stack([catalog["x"], catalog["y"]])
    return np.array([(np.hypot(*(positions - p).T) < radius).any() for p in np.column_stack([x, y])])


def test_cosmic_rays_are_flagged_and_transients_stay(raw):
    pair, hit = raw
    result = DifferenceFrameTask().run(template=pair.template, science=pair.science)
    flagged = result.science.mask.any("CR")
    assert flagged[hit].mean() > 0.9
    y, x = np.nonzero(hit)
    assert found_at(result.catalog, x, y).mean() < 0.1
    assert found_at(result.catalog, pair.new_x, pair.new_y).all()
    assert not pair.science.mask.any("CR").any()  # the input is not changed


def test_without_the_search_they_are_sources(raw):
    pair, hit = raw
    task = DifferenceFrameTask(DifferenceFrameConfig(cosmic_rays="never"))
    result = task.run(template=pair.template, science=pair.science)
    y, x = np.nonzero(hit)
    assert found_at(result.catalog, x, y).mean() > 0.5


def test_zeros_far_below_the_sky_are_no_data(raw):
    science = raw[0].science.copy()
    science.image[100:103, :] = 0
    task = DifferenceFrameTask()
    assert task._empty(science)[101].all()
    assert not task._empty(science)[:90].any()
    science.image -= np.median(science.image)  # a sky of zero tells nothing
    science.image[50, 50] = 0
    assert not task._empty(science).any()
    low = DifferenceFrameTask(DifferenceFrameConfig().override({"minimum": -50.0}))
    assert low._empty(science)[101].all()
