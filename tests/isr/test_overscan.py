import numpy as np
import pytest

from starmill.errors import AlgorithmError, InputError
from starmill.isr.overscan import OVERSCAN_METHODS, fit_overscan


@pytest.mark.parametrize("method", OVERSCAN_METHODS)
def test_every_method_finds_a_constant_level_in_noise(method):
    rng = np.random.default_rng(1)
    overscan = rng.normal(1000, 4, (400, 40)).astype(np.float32)
    fit = fit_overscan(overscan, method=method, order=3)
    per_row = method in ("median_per_row", "mean_per_row")
    # error of the mean of 40 (row) or 16000 (frame) values, times 1.25 for a median; 5 sigma
    tolerance = 5 * 4 * 1.26 / np.sqrt(40 if per_row else 16000 / 4)
    assert np.abs(fit.level - 1000).max() < tolerance
    assert fit.residual_sigma == pytest.approx(4, rel=0.03)  # 16000 values: 0.6 %, row levels take 1/80
    assert fit.level.shape == (400,)
    assert fit.rejected == 0


@pytest.mark.parametrize("method", ["polynomial", "chebyshev", "legendre", "spline"])
def test_smooth_methods_follow_a_drift(method):
    rng = np.random.default_rng(2)
    rows = np.arange(500)
    truth = 1000 + 8 * (rows / 500) ** 2 - 3 * rows / 500
    overscan = truth[:, None] + rng.normal(0, 3, (500, 32))
    fit = fit_overscan(overscan, method=method, order=2 if method != "spline" else 10)
    assert np.abs(fit.level - truth).max() < 0.8 if method != "spline" else 1.5


def test_row_methods_follow_a_jump_that_a_constant_leaves():
    overscan = np.full((50, 20), 500.0)
    overscan[0] -= 1500
    np.testing.assert_allclose(
        fit_overscan(overscan, method="mean_per_row", max_deviation=20).level[0], -1000
    )
    assert fit_overscan(overscan, method="median").level[0] == 500


def test_outliers_and_nan_have_no_influence():
    rng = np.random.default_rng(3)
    overscan = rng.normal(1000, 4, (100, 30))
    clean = fit_overscan(overscan, method="mean")
    spoiled = overscan.copy()
    spoiled[10, 5], spoiled[40, 7] = 60000, np.nan
    fit = fit_overscan(spoiled, method="mean")
    assert fit.rejected == 2
    np.testing.assert_allclose(fit.level, clean.level, atol=0.05)


def test_adding_a_constant_shifts_the_level_only():
    overscan = np.random.default_rng(4).normal(300, 4, (64, 16)).astype(np.float32)
    first, second = (fit_overscan(overscan + add, method="chebyshev") for add in (0, 128))
    np.testing.assert_allclose(second.level - first.level, 128, atol=1e-3)
    assert second.residual_sigma == pytest.approx(first.residual_sigma, rel=1e-3)


def test_bad_input_is_refused_with_numbers():
    with pytest.raises(InputError, match="one of median"):
        fit_overscan(np.ones((4, 4)), method="mode")
    with pytest.raises(InputError, match="no overscan pixel is left"):
        fit_overscan(np.ones((4, 4)), skip=(3, 2))
    with pytest.raises(AlgorithmError, match="no overscan pixel is usable"):
        fit_overscan(np.full((4, 4), np.nan))
    with pytest.raises(AlgorithmError, match="needed=6"):
        fit_overscan(np.ones((4, 4)), method="legendre", order=5)
