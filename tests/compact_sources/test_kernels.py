"""The compiled Gaussians against their obvious twins."""

import numpy as np
import pytest
from tests.reference import cholesky as reference_cholesky
from tests.reference import elliptical_apertures, gaussian_groups, gaussian_windows, gaussians, map_peaks

from starmill.kernels.cholesky import (
    cholesky,
    gram,
    padded_factor,
    padded_width,
    solve_positive,
    solve_with_factor,
    substitute_rows,
)
from starmill.kernels.elliptical_apertures import ellipse_photometry
from starmill.kernels.gaussian_groups import (
    LINEAR,
    MANY_PIXELS,
    correlation_factor,
    descend,
    list_pixels,
    loss_terms,
    sandwich,
)
from starmill.kernels.gaussian_windows import fit_listed, fit_windows
from starmill.kernels.gaussians import add_gaussians, add_source, derivative_rows, exp_minus, move_source
from starmill.kernels.map_peaks import maxima_above, means_around

SOURCES = np.array(
    [[5.0, 12.3, 14.8, 2.2, 1.4, 0.7], [3.0, 17.6, 12.1, 1.6, 1.6, 0.0], [4.0, 2.0, 28.5, 2.5, 1.2, -1.1]]
)
FREE = np.ones(6, bool)
OPTIONS = np.array([100.0, 1e-13, LINEAR, 1.0, 0.0])
WIDE = np.array([[1e-3, 1e3, 0.3, 9.0, 5.0]])


def test_drawing_is_the_sum_of_the_sources_inside_five_sigma():
    image = np.zeros((32, 34))
    add_gaussians(image, SOURCES, 1.0, 5.0)
    np.testing.assert_allclose(
        image, gaussians.image(image.shape, SOURCES), atol=5 * 4e-6
    )  # exp(-12.5) of a peak
    add_gaussians(image, SOURCES, -1.0, 5.0)
    np.testing.assert_allclose(image, 0, atol=1e-12)


def test_a_source_at_listed_pixels():
    x, y = np.array([15.0, 3.0, 30.0]), np.array([13.0, 28.0, 2.0])
    out = np.ones(3)
    add_source(x, y, SOURCES[0], out)
    np.testing.assert_allclose(out, 1 + gaussians.value(SOURCES[0], x, y), rtol=1e-11)


@pytest.mark.parametrize(("radius", "step"), [(5.0, 1), (13.0, 2), (25.0, 4), (56.0, 8)])
def test_many_pixels_are_thinned_to_an_even_grid(radius, step):
    image = np.zeros((140, 150))
    x, y = list_pixels(
        image, image + 1, SOURCES[:1] + np.array([0.0, 60, 60, 0, 0, 0]), np.array([radius]), 0, 20000
    )
    assert x.size <= MANY_PIXELS
    assert (x % step == 0).all()
    assert (y % step == 0).all()
    whole = np.argwhere(
        np.hypot(*(np.indices(image.shape) - np.array([74.8, 72.3])[:, None, None])) <= radius
    )
    expected = whole[(whole % step == 0).all(axis=1)]
    assert {tuple(v) for v in expected} == set(zip(y.astype(int), x.astype(int), strict=True))


def test_exponential_without_a_call():
    t = np.linspace(0, 80, 321)
    got = np.array([exp_minus(v) for v in t])
    np.testing.assert_allclose(got[t <= 20], np.exp(-t[t <= 20]), rtol=1e-11)
    np.testing.assert_allclose(got, np.exp(-np.minimum(t, 64)), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 3, 7, 16, 37])
def test_factors_and_substitutions(n):
    rng = np.random.default_rng(n)
    A = np.cov(rng.standard_normal((n, 3 * n + 1))).reshape(n, n) + 0.1 * np.eye(n)
    L = A.copy()
    assert cholesky(L)
    L = np.tril(L)
    np.testing.assert_allclose(L, np.linalg.cholesky(A), atol=1e-13)
    np.testing.assert_allclose(solve_with_factor(L, A[0].copy()), np.eye(n)[0], atol=1e-10)
    width = padded_width(n)
    values = rng.standard_normal((6, n))
    rows = np.zeros((6, width))
    rows[:, :n] = values
    substitute_rows(*padded_factor(L), rows.reshape(-1), 1, 6)
    np.testing.assert_allclose(rows[1:, :n], reference_cholesky.substitute(L, values)[1:], rtol=1e-9)
    np.testing.assert_array_equal(rows[0, :n], values[0])
    np.testing.assert_array_equal(rows[:, n:], 0.0)
    N = np.empty((6, 6))
    gram(rows.reshape(-1), width, 6, N)
    np.testing.assert_allclose(np.tril(N), np.tril(rows @ rows.T), rtol=1e-10, atol=1e-10)


def test_a_matrix_that_is_not_positive_definite_has_no_factor():
    assert not cholesky(np.array([[1.0, 2.0], [2.0, 1.0]]))


def test_maxima_of_a_map():
    image = np.random.default_rng(4).integers(0, 6, (63, 71)).astype(np.float32)  # with many equal values
    np.testing.assert_array_equal(maxima_above(image, np.float32(2.5)), map_peaks.maxima_above(image, 2.5))


@pytest.mark.parametrize("step", [1, 3])
def test_means_around_pixels(step):
    rng = np.random.default_rng(6)
    image, valid = rng.standard_normal((19, 22)).astype(np.float32), rng.random((19, 22)) > 0.2
    kernel = np.array([0.1, 0.2, 0.4, 0.2, 0.1], np.float32)
    x, y, out = np.array([0, 10, 21]), np.array([18, 9, 0]), np.empty(3)
    means_around(image, valid, x, y, kernel, step, out)
    wanted = [map_peaks.mean_around(image, valid, i, j, kernel, step) for i, j in zip(x, y, strict=True)]
    np.testing.assert_allclose(out, wanted, rtol=1e-6)
    means_around(image, np.zeros_like(valid), x, y, kernel, step, out)
    assert np.isnan(out).all()


@pytest.mark.parametrize("source", SOURCES)
def test_derivatives(source):
    y, x = (v.ravel().astype(float) for v in np.mgrid[8:20, 6:24])
    rows, model = np.empty((6, x.size)), np.zeros(x.size)
    derivative_rows(x, y, source, rows, model)
    np.testing.assert_allclose(model, gaussians.value(source, x, y), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(rows, gaussians.derivatives(source, x, y), atol=1e-7)


def test_a_step_stays_inside_its_bounds_and_turns_the_ellipse():
    out = np.empty(6)
    bounds = np.array([1.0, 6.0, 1.0, 2.5, 0.5])
    move_source(SOURCES[0], np.array([9.0, 3.0, -3.0, 50.0, -50.0, 0.0]), bounds, SOURCES[0, 1:3].copy(), out)
    np.testing.assert_allclose(out, [6.0, 12.8, 14.3, 2.5, 1.0, 0.7])
    move_source(
        SOURCES[0], np.array([0, 0, 0, 0, 0, 0.8]), np.array([0, 9, 0.1, 9, 1.0]), SOURCES[0, 1:3].copy(), out
    )
    c, s = np.cos(SOURCES[0, 5]), np.sin(SOURCES[0, 5])
    turn = np.array([[c, -s], [s, c]])
    wanted = turn @ np.array([[2.2**2, 0.8], [0.8, 1.4**2]]) @ turn.T
    np.testing.assert_allclose(gaussians.covariance(out), wanted, rtol=1e-12)


@pytest.mark.parametrize("order", [-1, 0, 2])
def test_listed_pixels_give_the_parameters_back(order):
    y, x = (v.ravel().astype(float) for v in np.mgrid[6:24, 4:28])
    data = sum(gaussians.value(s, x, y) for s in SOURCES[:2])
    if order >= 0:
        data = data + 0.7 + (0.02 * x - 0.01 * y + 0.001 * x * y if order == 2 else 0.0)
    start = SOURCES[:2] * [0.8, 1.0, 1.0, 1.1, 1.05, 1.0] + [0, 0.3, -0.3, 0, 0, 0.2]
    fitted, _, status = fit_listed(
        x, y, data, np.ones(x.size), start, np.repeat(WIDE, 2, 0), FREE, order, OPTIONS
    )
    assert status == 0
    # noise-free data: the parameters come back to the tolerance of the descent
    np.testing.assert_allclose(fitted[:, :5], SOURCES[:2, :5], rtol=1e-4)
    assert fitted[0, 5] == pytest.approx(SOURCES[0, 5], abs=1e-3)


def test_generalised_fit_agrees_with_scipy():
    rng = np.random.default_rng(5)
    y, x = (v.ravel().astype(float) for v in np.mgrid[9:21, 6:19])
    lag = np.arange(-12, 13)
    correlation = np.exp(-0.5 * np.add.outer(lag**2, lag**2) / 2.0**2)
    covariance = gaussian_groups.pixel_covariance(x, y, np.full(x.size, 0.3), correlation, 0.01)
    L = np.linalg.cholesky(covariance)
    data = gaussians.value(SOURCES[0], x, y) + L @ rng.standard_normal(x.size)
    fitted = SOURCES[:1].copy()
    room = np.zeros((7, padded_width(x.size))), np.empty(0), np.empty((7, 7)), np.empty(6, bool)
    factor = correlation_factor(x, y, correlation, 0.01)
    descend(x, y, data, np.full(x.size, 1 / 0.3), *factor, fitted, WIDE, FREE, -1, OPTIONS, *room)
    wanted = gaussian_groups.fit(x, y, data, covariance, SOURCES[:1])
    np.testing.assert_allclose(gaussians.covariance(fitted[0]), gaussians.covariance(wanted[0]), rtol=1e-3)
    np.testing.assert_allclose(fitted[0, :3], wanted[0, :3], rtol=1e-4)


def test_window_fit():
    image = gaussians.image((32, 34), SOURCES[:1]) + 0.01 * np.random.default_rng(1).standard_normal((32, 34))
    start = SOURCES[:1] * [1, 1, 1, 0.9, 1.1, 1]
    fitted, status = np.empty((1, 6)), np.zeros(1, np.int64)
    fit_windows(image, start, WIDE, 5, -1, OPTIONS, fitted, status)
    wanted = gaussian_windows.fit_window(image, start[0], 5)
    assert status[0] == 0
    np.testing.assert_allclose(gaussians.covariance(fitted[0]), gaussians.covariance(wanted), rtol=1e-4)


@pytest.mark.parametrize(("loss", "name"), [(1, "soft_l1"), (2, "huber"), (3, "cauchy")])
def test_robust_losses_are_those_of_scipy(loss, name):
    rho = {
        "soft_l1": lambda z: 2 * ((1 + z) ** 0.5 - 1),
        "huber": lambda z: np.where(z <= 1, z, 2 * np.maximum(z, 1) ** 0.5 - 1),
        "cauchy": np.log1p,
    }[name]
    for r in (0.1, 1.0, 4.0):
        value, slope = loss_terms(r, loss, 1.5)
        assert value == pytest.approx(1.5**2 * rho((r / 1.5) ** 2))
        z, d = (r / 1.5) ** 2, 1e-6
        assert slope == pytest.approx(float((rho(z + d) - rho(z - d)) / (2 * d)), rel=1e-5)


def test_ellipse_sums_and_their_correlated_noise():
    rng = np.random.default_rng(2)
    image, rms = rng.standard_normal((25, 27)), rng.uniform(0.5, 1.5, (25, 27))
    ellipse = np.array([[12.4, 11.7, 4.1, 2.6, 0.8], [1.0, 2.0, 3.0, 2.0, 0.0]])
    lag = np.arange(-4, 5)
    correlation = np.exp(-0.5 * np.add.outer(lag**2, lag**2) / 1.3**2)
    out = np.zeros((2, 4))
    own = np.tile([2.0, 12.4, 11.7, 1.5, 1.2, 0.8], (2, 1))
    ellipse_photometry(image, rms, correlation, own, ellipse, True, out)
    weights = elliptical_apertures.coverage(image.shape, ellipse[0])
    wanted = np.sum(weights * (image + gaussians.image(image.shape, own[:1])))
    assert out[0, 0] == pytest.approx(wanted, abs=0.05)  # the twin samples 41 x 41 points a pixel
    assert out[0, 1] == pytest.approx(
        elliptical_apertures.correlated_variance(weights, rms, correlation), rel=2e-3
    )
    assert out[0, 2] == pytest.approx(np.pi * 4.1 * 2.6, rel=1e-9)
    assert out[1, 2] + out[1, 3] == pytest.approx(np.pi * 6.0, rel=1e-9)
    assert out[1, 3] > 0  # reaches over the edge


def test_covariance_of_an_ordinary_fit_with_correlated_noise():
    rng = np.random.default_rng(3)
    y, x = (v.ravel().astype(float) for v in np.mgrid[0:6, 0:5])
    lag = np.arange(-4, 5)
    correlation = np.exp(-0.5 * np.add.outer(lag**2, lag**2) / 1.5**2)
    J, noise = rng.standard_normal((3, 30)), rng.uniform(0.5, 1.5, 30)
    V = np.linalg.inv(J @ J.T)
    C = gaussian_groups.pixel_covariance(x, y, noise, correlation, 0.0) / np.outer(noise, noise)
    got = sandwich(V, J, x, y, noise, 1 / noise, correlation)
    np.testing.assert_allclose(got, V @ J @ C @ J.T @ V, rtol=1e-10)


def test_solve_positive_is_the_solution_of_the_first_unknowns():
    rng = np.random.default_rng(8)
    root = rng.normal(size=(6, 6))
    matrix, vector, out = root @ root.T, rng.normal(size=6), np.full(6, np.nan)
    assert solve_positive(matrix.copy(), vector, 4, out)
    np.testing.assert_allclose(out[:4], np.linalg.solve(matrix[:4, :4], vector[:4]), rtol=1e-10)
    assert np.isnan(out[4:]).all()
    matrix[2, 2] = -1.0
    assert not solve_positive(matrix, vector, 4, out)
