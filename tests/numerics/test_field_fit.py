"""Fits of smooth fields and the least squares under them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError
from starmill.numerics.field_fit import fit_chebyshev, fit_polynomial, term_exponents
from starmill.numerics.least_squares import clipped_least_squares, huber_least_squares, linear_least_squares

BOX = Box(100, -50, 400, 300)


def scattered(n=300, seed=1):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(100, 500, n), rng.uniform(-50, 250, n)
    u, v = (x - 299.5) / 200, (y - 99.5) / 150
    return rng, x, y, 5 + 2 * u - v + 0.5 * u * v + 0.3 * (2 * v**2 - 1)


def test_agrees_with_the_lsst_stack(shared_data):
    stack = np.load(shared_data("reference_lsst") / "unit_cheb.npz")
    field = fit_chebyshev(stack["x"], stack["y"], stack["z"], box=Box(0, 0, 1000, 800), order=2)
    assert_allclose(field.coefficients, stack["coeffs"], atol=1e-12)
    assert_allclose(field(stack["x"], stack["y"]), stack["ev"], rtol=1e-12)


@pytest.mark.parametrize("fit", [fit_chebyshev, fit_polynomial])
def test_recovers_an_exact_field(fit):
    _, x, y, values = scattered()
    field = fit(x, y, values, box=BOX, order=2)
    assert_allclose(field(x, y), values, rtol=1e-12)
    assert_allclose(fit(x, y, values, box=BOX, order=(1, 2), triangular=False)(x, y), values, rtol=1e-12)


def test_chebyshev_coefficients_of_a_known_field():
    _, x, y, values = scattered()
    field = fit_chebyshev(x, y, values, box=BOX, order=2)
    assert_allclose(field.coefficients, [[5, 2, 0], [-1, 0.5, 0], [0.3, 0, 0]], atol=1e-12)


def test_missing_values_weights_and_outliers():
    rng, x, y, values = scattered()
    spoiled = values + rng.normal(0, 0.01, values.size)
    spoiled[:20] = np.nan
    spoiled[20:30] += 50
    clean = fit_chebyshev(x, y, spoiled, box=BOX, order=2, n_sigma=4)
    # 15 parameters at most from 270 values with noise 0.01: errors below 0.005.
    assert_allclose(clean(x, y), values, atol=0.01)
    weights = np.ones(values.size)
    weights[20:30] = 0
    assert_allclose(fit_chebyshev(x, y, spoiled, box=BOX, order=2, weights=weights)(x, y), values, atol=0.01)


def test_terms_of_a_triangle():
    i, j = term_exponents(6)
    assert len(i) == 28
    assert (i + j).max() == 6
    assert len(term_exponents((2, 1), triangular=False)[0]) == 6


def test_covariance_is_that_of_many_noise_draws():
    rng = np.random.default_rng(3)
    x = np.linspace(-1, 1, 40)
    design = np.column_stack([np.ones(40), x, x**2])
    sigma = rng.uniform(0.5, 2, 40)
    draws = np.array(
        [
            linear_least_squares(design, rng.normal(design @ [1, 2, 3], sigma), 1 / sigma**2).coefficients
            for _ in range(2000)
        ]
    )
    fit = linear_least_squares(design, design @ [1, 2, 3], 1 / sigma**2)
    assert_allclose(fit.coefficients, [1, 2, 3], rtol=1e-12)
    # The scatter of 2000 draws is known to 1.6 %.
    assert_allclose(draws.std(axis=0), fit.errors, rtol=0.08)
    assert fit.dof == 37


def test_robust_fits_ignore_outliers():
    rng = np.random.default_rng(4)
    x = np.linspace(0, 1, 100)
    design = np.column_stack([np.ones(100), x])
    values = 1 + 2 * x + rng.normal(0, 0.01, 100)
    values[::10] += 5
    clipped = clipped_least_squares(design, values)
    assert clipped.n_used <= 90
    assert_allclose(clipped.coefficients, [1, 2], atol=0.02)
    huber = huber_least_squares(design, values)
    assert_allclose(huber.coefficients, [1, 2], atol=0.03)


def test_exact_data_survive_clipping():
    x = np.linspace(0, 1, 10)
    design = np.column_stack([np.ones(10), x])
    assert_allclose(clipped_least_squares(design, 3 * x).coefficients, [0, 3], atol=1e-12)
    assert_allclose(huber_least_squares(design, 3 * x).coefficients, [0, 3], atol=1e-12)


def test_undetermined_fits_are_errors_with_numbers():
    with pytest.raises(AlgorithmError) as caught:
        linear_least_squares(np.ones((3, 2)), [1.0, np.nan, np.nan])
    assert caught.value.numbers == {"values": 1, "parameters": 2}
    with pytest.raises(AlgorithmError, match="not determined"):
        linear_least_squares(np.ones((5, 2)), np.arange(5.0))
