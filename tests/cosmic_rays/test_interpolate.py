"""Linear prediction of bad pixels: coefficients, the LSST stack, and properties."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tests.reference import defects as slow

from starmill.cosmic_rays.interpolate import (
    interpolate_flagged,
    interpolate_rows,
    prediction_weights,
    run_weights,
)
from starmill.errors import InputError


@pytest.mark.parametrize(
    ("place", "spacing", "expected"),
    [
        ((2, 2, 1, 0), 1.0, [-0.2737, 0.7737, 0.7737, -0.2737]),
        ((2, 2, 1, 0), 2**0.5, [-0.2358, 0.7358, 0.7358, -0.2358]),
        ((2, 2, 2, 0), 1.0, [-0.4793, 1.1904, 0.5212, -0.2323]),
        ((2, 2, 3, 1), 1.0, [-0.3144, 0.8144, 0.8144, -0.3144]),
        ((0, 2, 1, 0), 1.0, [0, 0, 1.4288, -0.4288]),
        ((1, 1, 1, 0), 1.0, [0, 0.5, 0.5, 0]),
        ((1, 2, 1, 0), 1.0, [0, 0.4875, 0.8959, -0.3834]),
        ((1, 2, 22, 11), 1.0, [0, 0.4707, 0.2646, 0.2646]),
    ],
)
def test_published_coefficients(place, spacing, expected):
    assert_allclose(run_weights(1.0, 22, spacing)[place], expected, atol=6e-5)


def test_weights_sum_to_one_in_any_dimension():
    rng = np.random.default_rng(1)
    for shape in ((4,), (9, 2)):
        target = 0.1 if len(shape) == 1 else np.array([0.1, -0.2])
        assert prediction_weights(rng.normal(0, 3, shape), target, 1.3).sum() == pytest.approx(1, abs=1e-9)


def test_agrees_with_the_lsst_stack(shared_data):
    """The stack's table has four decimals: 0.12 on a level of 1000, ratio 1.2e-4."""
    stack = np.load(shared_data("reference_lsst") / "unit_interp.npz")
    bad = np.zeros(stack["inp"].shape, bool)
    for x, y, width, height in stack["boxes"]:
        bad[y : y + height, x : x + width] = True
    for at_edge in (False, True):
        variance = np.where(bad, np.nan, stack["var_False"])
        found = interpolate_rows(
            stack["inp"], bad, np.where(bad, 1.0, variance), fallback=777.0, fallback_at_edge=at_edge
        )
        assert_allclose(found.image, stack[f"out_{at_edge}"], atol=0.13)
        assert_array_equal(found.filled, stack[f"msk_{at_edge}"] > 0)
        if not at_edge:  # the stack puts the fallback of the image into the variance too
            assert_allclose(found.variance, stack["var_False"], rtol=2e-4)
        assert (found.variance > 0).all()


def test_equals_its_slow_twin():
    rng = np.random.default_rng(2)
    image = rng.normal(100, 10, (30, 60))
    bad = rng.random(image.shape) < 0.3
    bad[3, 5:45] = True
    found = interpolate_rows(image, bad).image
    for y in range(30):
        if not bad[y].all():
            assert_allclose(found[y], slow.interpolate_row(image[y], bad[y], prediction_weights), rtol=2e-4)


def test_a_star_is_restored():
    y, x = np.mgrid[:41, :41]
    star = 1000 * np.exp(-((x - 20.3) ** 2 + (y - 19.8) ** 2) / (2 * 1.5**2))
    bad = np.zeros(star.shape, bool)
    bad[:, 20] = True
    found = interpolate_rows(star, bad).image
    # A bad column through the core of a star with FWHM 3.5 comes back within 3 % of the peak.
    assert np.abs(found - star).max() < 30


def test_nothing_else_changes_and_nan_does_not_spread():
    rng = np.random.default_rng(3)
    image = rng.normal(0, 1, (20, 30)).astype(np.float32)
    image[5, 7] = np.nan
    bad = np.zeros(image.shape, bool)
    bad[5, 8] = bad[5, 20] = True
    variance = np.ones_like(image)
    found = interpolate_rows(image, bad, variance)
    assert_array_equal(np.isnan(found.image), np.isnan(image))
    assert_array_equal(found.image[~bad], image[~bad])
    assert_array_equal(found.filled, bad)
    assert_allclose(found.variance[bad], 1, rtol=1e-6)
    bad[5, 7] = True
    assert np.isfinite(interpolate_rows(image, bad, variance).image).all()


def test_rows_without_data_take_the_fallback():
    image = np.ones((4, 8), np.float32)
    bad = np.zeros(image.shape, bool)
    bad[1] = True
    found = interpolate_rows(image, bad, fallback=-3.0)
    assert (found.image[1] == -3).all()
    assert not found.filled.any()


def test_in_place_version_gives_the_same():
    rng = np.random.default_rng(4)
    image = rng.normal(100, 10, (50, 80)).astype(np.float32)
    variance = rng.uniform(1, 2, image.shape).astype(np.float32)
    bad = rng.random(image.shape) < 0.1
    expected = interpolate_rows(image, bad, variance)
    mask = np.where(bad, 1, 0).astype(np.int32)
    interpolate_flagged(image, mask, variance, bits=1, set_bits=4)
    assert_array_equal(image, expected.image)
    assert_allclose(variance, expected.variance, rtol=1e-6)
    assert_array_equal(mask, np.where(bad, 5, 0))


def test_shapes_that_disagree_are_an_input_error():
    with pytest.raises(InputError):
        interpolate_rows(np.ones((3, 4)), np.ones((4, 3), bool))
