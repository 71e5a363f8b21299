"""The fit of the kernel, its rejection of stamps, background, wings, whitening."""

from __future__ import annotations

import numpy as np
import pytest

from starmill.datamodel.geometry import Box
from starmill.differencing.background import fit_differential_background
from starmill.differencing.decorrelation import correlation_excess, whiten, whitening_filter
from starmill.differencing.fit_error import fit_variance, kernel_error_modes
from starmill.differencing.kernel_basis import delta_basis, gaussian_basis
from starmill.differencing.kernel_fit import KernelModel, fit_kernel, solve_summed, stamp_quality
from starmill.differencing.noise import image_variance
from starmill.differencing.seeing import measure_seeing
from starmill.differencing.selection import fit_selected_kernel
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.differencing.stamp_system import build_stamp_system
from starmill.differencing.stamps import choose_stamps, stamps_at
from starmill.differencing.wings import KernelWings, RingLight, _bin_of_neighbours, fit_wings
from starmill.errors import AlgorithmError, InputError

GOOD = np.zeros((320, 320), bool)


def system_of(pair, basis, stamps=None, science=None):
    t, s = pair.template, pair.science
    target = s.image if science is None else science
    stamps = stamps or choose_stamps(
        t.image, target, GOOD, s.variance, half_width=12, margin=basis.half_width, cell_size=40, threshold=10
    )
    system = build_stamp_system(
        t.image, target, t.variance, s.variance, GOOD, GOOD, stamps, basis, match_sigma=1.2, scale=0.8
    )
    return stamps, system


def model_of(basis, order=1, sum_order=0):
    box = Box(0, 0, 320, 320)
    return KernelModel(basis, SpatialTerms(box, order), SpatialTerms(box, sum_order), np.arange(len(basis)))


def test_kernel_sum_and_shape_are_recovered(pair):
    basis = gaussian_basis(7, [0.7, 1.3, 2.5], [2, 2, 0])
    _, system = system_of(pair, basis)
    fit = fit_kernel(system, model_of(basis))
    assert fit.converged
    error = np.sqrt(fit.covariance[0, 0])
    assert fit.kernel.sum_at(160, 160) == pytest.approx(pair.ratio, abs=5 * error + 1e-3)
    y, x = np.mgrid[-7:8, -7:8]
    image = fit.kernel.kernel_at(160, 160) / pair.ratio
    assert (image * x).sum() == pytest.approx(0.2, abs=0.03)  # the shift between the images
    assert (image * y).sum() == pytest.approx(-0.1, abs=0.03)
    assert (image * (x - 0.2) ** 2).sum() == pytest.approx(1.8**2 - 1.3**2, rel=0.1)
    assert np.median(fit.chi2[fit.used]) == pytest.approx(1, abs=0.1)


def test_chi2_is_one_also_with_noise_of_the_reference(pair):
    """The normal matrix leaves the noise of the reference out; the chi2 that is told does not."""
    rng = np.random.default_rng(11)
    t, basis = pair.template, gaussian_basis(7, [1.3], [2])
    scatter = 10 * np.sqrt(t.variance)
    noisy = (t.image + scatter * rng.normal(size=t.image.shape)).astype(np.float32)
    variance = (t.variance + scatter**2).astype(np.float32)
    stamps, _ = system_of(pair, basis)
    target, own = pair.science.image, pair.science.variance
    system = build_stamp_system(
        noisy, target, variance, own, GOOD, GOOD, stamps, basis, match_sigma=1.2, scale=0.8
    )
    fit = fit_kernel(system, model_of(basis, order=0))
    quiet = stamp_quality(system, fit.model, fit.coefficients)
    assert np.median(quiet.chi2[fit.used]) < 0.75
    assert np.median(fit.chi2[fit.used]) == pytest.approx(1, abs=0.15)


def test_variable_star_is_rejected_with_its_reason(pair):
    basis = gaussian_basis(7, [1.3], [2])
    stamps, _ = system_of(pair, basis)
    science = pair.science.image.copy()
    x, y = stamps.x[0], stamps.y[0]
    part = np.s_[y - 6 : y + 7, x - 6 : x + 7]
    science[part] += 0.5 * (science[part] - 300)
    stamps, system = system_of(pair, basis, stamps, science)
    fit = fit_kernel(system, model_of(basis))
    assert fit.status[0] in {"varied", "poor fit"}
    assert fit.kernel.sum_at(160, 160) == pytest.approx(pair.ratio, abs=0.01)


def test_masked_stamp_is_left_out(pair):
    basis = gaussian_basis(5, [1.3], [1])
    bad = GOOD.copy()
    stamps, _ = system_of(pair, basis)
    bad[stamps.y[0] - 12 : stamps.y[0] + 13, stamps.x[0] - 12 : stamps.x[0] + 13] = True
    t, s = pair.template, pair.science
    system = build_stamp_system(
        t.image, s.image, t.variance, s.variance, GOOD, bad, stamps, basis, match_sigma=1.2, scale=0.8
    )
    assert fit_kernel(system, model_of(basis)).status[0] == "masked"


def test_delta_basis_gives_the_same_sum(pair):
    basis = delta_basis(4)
    _, system = system_of(pair, basis)
    fit = fit_kernel(system, model_of(basis, order=0))
    assert fit.kernel.sum_at(160, 160) == pytest.approx(pair.ratio, abs=0.02)


def test_selection_reports_what_it_tried(pair):
    basis = gaussian_basis(7, [0.7, 1.3, 2.5], [4, 2, 0])
    _, system = system_of(pair, basis)
    fit = fit_selected_kernel(system, basis, Box(0, 0, 320, 320), orders=(0, 1), sum_orders=(0, 1))
    assert len(fit.selection) >= 3
    assert fit.kernel.sum_at(160, 160) == pytest.approx(pair.ratio, abs=0.01)


def test_too_few_stamps_is_an_error_with_numbers(pair):
    basis = gaussian_basis(5, [1.3], [1])
    _, system = system_of(pair, basis)
    with pytest.raises(AlgorithmError) as error:
        fit_kernel(system.select(np.arange(2)), model_of(basis), minimum=3)
    assert error.value.numbers["used"] == 2


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.full((3, 3), np.nan), -np.eye(3)])
def test_singular_equations_are_an_error(matrix):
    with pytest.raises(AlgorithmError):
        solve_summed(matrix, np.ones(3))


def test_tiny_and_empty_images_have_no_stamps():
    noise = np.random.default_rng(1).normal(size=(30, 30)).astype("f4")
    bad = np.zeros((30, 30), bool)
    with pytest.raises(AlgorithmError):
        choose_stamps(noise, noise, bad, np.ones((30, 30)), half_width=12, margin=10)
    noise = np.random.default_rng(1).normal(size=(100, 100)).astype("f4")
    with pytest.raises(AlgorithmError) as error:
        choose_stamps(noise, noise, np.zeros((100, 100), bool), np.ones((100, 100)), half_width=10, margin=7)
    assert error.value.numbers["stamps"] == 0


def test_listed_stamps_keep_away_from_the_edge():
    stamps = stamps_at([5, 50, 98], [50, 50, 50], (100, 100), half_width=10, margin=5)
    assert stamps.x.tolist() == [50]
    with pytest.raises(InputError):
        stamps_at([1, 2], [1], (100, 100), half_width=3, margin=2)


def test_the_noise_of_a_bin_is_that_of_the_neighbours_of_its_pixels():
    variance = np.random.default_rng(3).random((30, 45)).astype("f4")  # bins leave rows and columns over
    wide = np.pad(variance.astype(float), 1, mode="edge")
    nine = sum(wide[j : j + 30, i : i + 45] for j in range(3) for i in range(3))
    expected = ((nine - variance) / 8)[:28, :44].reshape(7, 4, 11, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(_bin_of_neighbours(variance), expected, rtol=1e-5)  # sums in single precision


@pytest.mark.parametrize("family", ["chebyshev", "bspline"])
def test_background_is_found_under_transients(family):
    rng = np.random.default_rng(2)
    n = 256
    u = np.linspace(-1, 1, n)
    truth = 3 * u[None, :] ** 2 + 2 * u[:, None]
    image = (truth + rng.normal(0, 10, (n, n))).astype("f4")
    image[100:106, 100:106] += 500
    found = fit_differential_background(
        image, np.full((n, n), 100.0), np.zeros((n, n), bool), Box(0, 0, n, n), family=family
    )
    residual = found.field.image(Box(0, 0, n, n)) - truth
    assert np.std(residual) < 0.4  # 10 / sqrt(65536) per term, some ten terms
    assert abs(residual[103, 103]) < 1.0


def test_background_without_pixels_is_an_error():
    with pytest.raises(AlgorithmError):
        fit_differential_background(
            np.zeros((64, 64)), np.ones((64, 64)), np.ones((64, 64), bool), Box(0, 0, 64, 64)
        )


def test_wings_are_recovered():
    rng = np.random.default_rng(4)
    n = 320
    reference = np.zeros((n, n), "f4")
    x, y = rng.integers(20, 300, (2, 60))
    reference[y, x] = 2e5
    bad = np.zeros((n, n), bool)
    light = RingLight.of(reference, bad, 10)
    truth = KernelWings(np.array([7.0, 14.0]), 5.0, np.array([0.01, 0.005]), 0.0)
    faint = truth.image(light)
    difference = faint + rng.normal(0, 3, (n, n)).astype("f4")
    found = fit_wings(light, difference, np.full((n, n), 9.0), bad)
    assert found.total == pytest.approx(0.015, abs=5 * found.error)
    assert truth.kernel_image(60).sum() == pytest.approx(0.015, rel=0.02)


def test_whitened_difference_has_white_noise_of_the_stated_variance():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[-10:11, -10:11]
    kernel = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    kernel *= 1.2 / kernel.sum()
    from scipy.signal import fftconvolve

    difference = fftconvolve(rng.normal(0, 5, (400, 400)), kernel, mode="same") - rng.normal(0, 2, (400, 400))
    image = whitening_filter(kernel, 4.0, 25.0)
    assert image.sum() == pytest.approx(1)
    white = whiten(difference, np.broadcast_to(image, (3, 3, *image.shape)), spacing=200)
    inner = white[30:-30, 30:-30]
    assert inner.std() == pytest.approx(np.sqrt(4 + 1.44 * 25), rel=0.02)
    lag = np.mean(inner[:, 1:] * inner[:, :-1]) / inner.var()
    assert abs(lag) < 0.02
    psf = np.exp(-(x**2 + y**2) / (2 * 1.8**2))
    assert correlation_excess(kernel, 4.0, 25.0, psf / psf.sum()) > 1.5
    assert correlation_excess(kernel, 4.0, 0.0, psf / psf.sum()) == pytest.approx(1)


def test_seeing_is_measured(pair):
    seeing = measure_seeing(pair.science.image, pair.science.variance, GOOD)
    assert seeing.sigma == pytest.approx(1.8, rel=0.03)
    assert seeing.psf_image.sum() == pytest.approx(1, abs=0.03)


def test_variance_of_an_image_without_one():
    rng = np.random.default_rng(6)
    image = (rng.normal(0, 5, (200, 200)) + np.linspace(0, 100, 200)[None, :]).astype("f4")
    variance = image_variance(image, np.zeros((200, 200), bool))
    assert np.sqrt(variance[0, 0]) == pytest.approx(5, rel=0.03)
    with pytest.raises(AlgorithmError):
        image_variance(np.full((50, 50), 3.0), np.zeros((50, 50), bool))
    with pytest.raises(AlgorithmError):
        image_variance(image, np.ones((200, 200), bool))


def test_kernel_uncertainty_is_that_of_repeated_fits(pair):
    """The predicted scatter of the matched template agrees with fits to many noise realisations."""
    basis = gaussian_basis(5, [1.2, 2.2], [1, 0])
    model = model_of(basis, order=0)
    stamps, system = system_of(pair, basis)
    fit = fit_kernel(system, model, clip=20.0)
    rng = np.random.default_rng(9)
    sums = []
    for _ in range(30):
        noise = rng.normal(size=pair.science.shape) * np.sqrt(pair.science.variance)
        _, again = system_of(pair, basis, stamps, (pair.science.image + noise).astype("f4"))
        sums.append(fit_kernel(again, model, clip=20.0).kernel.kernel_at(160, 160))
    measured = np.var(sums, axis=0).sum()
    predicted = (kernel_error_modes(fit, 160, 160, modes=5) ** 2).sum()
    assert predicted == pytest.approx(measured, rel=0.6)  # 30 realisations of some five coefficients
    reference = np.full((320, 320), 200.0, "f4")
    reference[100, 100] += 1e4
    variance = fit_variance(reference, GOOD, fit, Box(0, 0, 320, 320), modes=5)
    assert variance[250, 250] == pytest.approx(0, abs=1e-6)
    assert variance.sum() == pytest.approx(1e8 * predicted, rel=0.01)
