"""Point sources fitted together."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.measurement.joint_psf import fit_point_sources
from tests.reference import joint_psf as slow


def crowd(n=60, size=80, seed=1, noise=True, flux=None):
    """Blended stars of a Gaussian PSF."""
    rng = np.random.default_rng(seed)
    psf = GaussianPsf(1.6, 21)
    x, y = rng.uniform(-1, size, (2, n))
    flux = rng.uniform(1e3, 2e4, n) if flux is None else np.full(n, flux)
    stamps, x0, y0 = psf.images_at(x, y)
    image = (slow.design((size, size), stamps, x0, y0) @ flux).reshape(size, size)
    variance = image + 325
    if noise:
        image = image + rng.normal(0, np.sqrt(variance))
    exposure = Exposure(image.astype(np.float32), variance=variance.astype(np.float32), psf=psf)
    return exposure, x, y, flux, (stamps, x0, y0)


@pytest.mark.parametrize("inverse_variance", [False, True])
def test_equals_dense_least_squares(inverse_variance):
    exposure, x, y, _, (stamps, x0, y0) = crowd(n=25, size=60)
    inside = (x >= -0.5) & (y >= -0.5) & (x < 59.5) & (y < 59.5)
    exposure.mask.array[10:14, 10:14] |= exposure.mask.bits("BAD")
    weight = (exposure.mask.array == 0).astype(float)
    if inverse_variance:
        weight /= exposure.variance
    fit = fit_point_sources(exposure, x, y, inverse_variance=inverse_variance)
    flux, error = slow.fit(exposure.image, exposure.variance, weight, stamps[inside], x0[inside], y0[inside])
    assert_allclose(fit.flux[inside], flux, rtol=1e-4, atol=1e-2)  # stamps and weights in single precision
    # blocks of nine: farther neighbours change errors by a few per cent
    assert_allclose(fit.flux_err[inside], error, rtol=0.1)
    assert np.isnan(fit.flux[~inside]).all()


def test_pulls_in_a_crowd():
    exposure, x, y, flux, _ = crowd(n=500, size=400, seed=3)
    fit = fit_point_sources(exposure, x, y)
    good = np.isfinite(fit.flux) & (fit.overlap < 0.9)
    pull = ((fit.flux - flux) / fit.flux_err)[good]
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)
    assert abs(pull.std() - 1) < 0.13
    chi = fit.residual / np.sqrt(exposure.variance)
    assert abs(chi.std() - 1) < 0.02


def test_residual_without_noise_is_zero():
    exposure, x, y, flux, _ = crowd(n=30, noise=False)
    fit = fit_point_sources(exposure, x, y)
    assert np.abs(fit.residual).max() < 1e-3 * flux.max()


def test_positions_are_refined():
    exposure, x, y, _, _ = crowd(n=40, size=200, seed=5, flux=5e4)
    rng = np.random.default_rng(0)
    dx, dy = rng.normal(0, 0.15, (2, 40))
    fit = fit_point_sources(exposure, x + dx, y + dy, position_iterations=4)
    good = (fit.overlap < 0.5) & np.isfinite(fit.flux) & (x > 2) & (y > 2) & (x < 197) & (y < 197)
    assert np.median(np.abs((fit.x - x)[good])) < 0.015  # 0.1 before; S/N about 200, some blended


def test_duplicates_are_reported_and_share_the_flux():
    exposure, x, y, flux, _ = crowd(n=5, size=120, seed=7)
    fit = fit_point_sources(exposure, np.append(x, x[0]), np.append(y, y[0]))
    assert fit.overlap[0] > 0.999
    assert fit.overlap[5] > 0.999
    assert fit.flux[0] + fit.flux[5] == pytest.approx(flux[0], rel=0.1)
