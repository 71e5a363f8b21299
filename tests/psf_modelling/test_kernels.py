import numpy as np
import pytest
from tests.reference import lanczos as slow_lanczos
from tests.reference import psf_fit as reference

from starmill.kernels import lanczos
from starmill.kernels import psf_fit as kernels


@pytest.fixture
def stack():
    rng = np.random.default_rng(3)
    n, size = 4, 15
    models = rng.random((n, size, size)).astype(np.float32)
    images = rng.normal(size=(n, size, size)).astype(np.float32)
    good = rng.random((n, size, size)) < 0.9
    weights = np.where(good, rng.random((n, size, size)), 0).astype(np.float32)
    return models, images, good, weights, rng.uniform(-0.5, 0.5, n), rng.uniform(-0.5, 0.5, n)


@pytest.mark.parametrize("n_terms", [4, 7])
def test_normal_equations_equal_twin(stack, n_terms):
    models, images, _, weights, dx, dy = stack
    normal, right = np.zeros((4, 7, 7)), np.zeros((4, 7))
    kernels.scale_normals(images, models, weights, dx, dy, n_terms, normal, right)
    expected, expected_right = reference.scale_normals(images, models, weights, dx, dy, n_terms)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(normal, expected, atol=1e-5 * scale)  # float32 row sums
    np.testing.assert_allclose(right, expected_right, atol=1e-5 * scale)


def test_weights_and_residuals_equal_twin(stack):
    models, images, good, weights, dx, dy = stack
    flux, sky, background = np.array([5.0, 1.0, -2.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4) * 0.1
    out = np.empty_like(models)
    kernels.star_weights(models, good, flux, sky, 0.7, 0.02, out)
    np.testing.assert_allclose(out, reference.star_weights(models, good, flux, sky, 0.7, 0.02), rtol=1e-5)
    residual, chi2, used = np.empty_like(models), np.zeros(4), np.zeros(4, np.int64)
    kernels.star_residuals(images, models, good, weights, flux, dx, dy, background, residual, chi2, used)
    expected = reference.star_residuals(images, models, good, weights, flux, dx, dy, background)
    np.testing.assert_allclose(residual, expected[0], atol=2e-5)
    np.testing.assert_allclose(chi2, expected[1], rtol=1e-4)
    np.testing.assert_array_equal(used, expected[2])


@pytest.mark.parametrize("kaiser", [False, True])
def test_shifts_equal_twin(kaiser):
    image = np.random.default_rng(1).random((2, 15, 15))
    out = np.empty_like(image)
    dx, dy = np.array([0.3, -0.5]), np.array([-0.21, 0.5])
    lanczos.shift_stack(image, dx, dy, out, kaiser)
    for k in range(2):
        np.testing.assert_allclose(
            out[k], slow_lanczos.shifted(image[k], dx[k], dy[k], 5, kaiser), atol=1e-12
        )


@pytest.mark.parametrize("size", [15, 31])
def test_shifts_of_sums_equal_twin(size):
    """With 31 pixels a row is two vectors, the last row of the last image ends inside one."""
    rng = np.random.default_rng(2)
    basis, coefficients = rng.random((3, size, size)), rng.normal(size=(4, 3))
    dx, dy = rng.uniform(-0.5, 0.5, (2, 4))
    out = np.empty((4, size, size))
    lanczos.combine_and_shift(lanczos.spread_rows(basis), coefficients, dx, dy, out, True)
    sums = np.tensordot(coefficients, basis, 1)
    for k in range(4):
        expected = slow_lanczos.shifted(sums[k], dx[k], dy[k], 5, True)
        np.testing.assert_allclose(out[k], expected, atol=1e-12)


@pytest.mark.parametrize(("step", "order"), [(1, 5), (2, 5), (3, 4)])
def test_sampling_matrices_equal_twin_and_keep_the_sum(step, order):
    offset = np.array([-0.5, -0.2, 0.0, 0.31])
    size = 21
    grid = 2 * ((size * step) // 2) + 1
    matrices = np.empty((4, size, grid), np.float32)
    lanczos.fill_sampling_matrices(offset, step, order, matrices)
    for matrix, value in zip(matrices, offset, strict=True):
        np.testing.assert_allclose(
            matrix, slow_lanczos.sampling_matrix(value, size, grid, step, order), atol=2e-6
        )
        np.testing.assert_allclose(matrix[8:13].sum(axis=1), step, rtol=1e-6)


def test_neighbours_equal_twin():
    rng = np.random.default_rng(4)
    good = rng.random((3, 11, 11)) < 0.95
    x0, y0 = np.array([10, 50, 80]), np.array([20, 7, -3])
    star_x, star_y = x0 + 5.2, y0 + 4.8
    offsets = np.array([0, 2, 2, 3])
    nx, ny = np.array([18.0, 12.0, 84.0]), np.array([27.0, 33.0, 9.0])
    expected = reference.mask_neighbours(good, x0, y0, star_x, star_y, offsets, nx, ny)
    kernels.mask_neighbours(good, x0, y0, star_x, star_y, offsets, nx, ny)
    np.testing.assert_array_equal(good, expected)
    assert not good[0].all()


@pytest.mark.parametrize("gaussian", [False, True])
def test_profile_fit_finds_the_least_squares_minimum(gaussian):
    rng = np.random.default_rng(5)
    truth = np.array([1000.0, 0.3, -0.2, 0.12, 0.02, 0.10, 3.0, np.log(3.0)])
    size = 25
    image = reference.profile(truth, size, gaussian) + rng.normal(0, 5, (size, size))
    weight = np.full((1, size, size), 1 / 25, np.float32)
    start = np.array([[900.0, 0.0, 0.0, 0.1, 0.0, 0.1, 0.0, np.log(3.0)]])
    chi2, used, converged = np.zeros(1), np.zeros(1, np.int64), np.zeros(1, bool)
    kernels.fit_profiles(
        image[None].astype(np.float32), weight, start, gaussian, False, 50, chi2, used, converged
    )
    assert converged[0]
    assert used[0] == size * size
    np.testing.assert_allclose(chi2[0], reference.chi2(image, weight[0], start[0], gaussian), rtol=1e-4)
    for i in range(7):  # no step in one parameter lowers chi squared
        for sign in (-1, 1):
            moved = start[0].copy()
            moved[i] += sign * 0.01 * max(abs(moved[i]), 0.1)
            assert reference.chi2(image, weight[0], moved, gaussian) > chi2[0]
    assert abs(start[0, 1] - 0.3) < 0.03  # S/N 500: error 0.005 pixel


def test_profile_fit_leaves_empty_stamps_unconverged():
    start = np.array([[900.0, 0.0, 0.0, 0.1, 0.0, 0.1, 0.0, 1.0]])
    chi2, used, converged = np.zeros(1), np.zeros(1, np.int64), np.zeros(1, bool)
    blank = np.zeros((1, 9, 9), np.float32)
    kernels.fit_profiles(blank, blank, start, False, False, 5, chi2, used, converged)
    assert not converged[0]
    assert used[0] == 0
