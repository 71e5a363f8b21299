"""Profiles, composite model and Sersic fit, PSF-corrected shapes of simulated galaxies."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.signal import fftconvolve

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.kernels import galaxy_models, gaussian_mixtures
from starmill.measurement.galaxy_profiles import (
    BULGE,
    PSF_SCALES,
    composite_mixtures,
    fit_psf_mixtures,
    profile_mixtures,
    sersic_profile,
)
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import catalog_at
from tests.reference import gaussian_mixtures as slow


def galaxies(n, radius, q, flux, *, side=6, spacing=61, sub=5, sigma=1.6, seed=1, angle=None):
    """A grid of noisy galaxies of one profile, drawn on a fine grid and convolved with a Gaussian PSF."""
    rng = np.random.default_rng(seed)
    grid = (np.arange(spacing * sub) - (spacing * sub - 1) / 2) / sub
    psf = np.exp(-(grid[None, :] ** 2 + grid[:, None] ** 2) / (2 * sigma**2))
    psf /= psf.sum()
    image = np.zeros((side * spacing, side * spacing))
    positions = []
    for j, i in np.ndindex(side, side):
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        t = rng.uniform(0, np.pi) if angle is None else angle
        gx, gy = np.meshgrid(grid - dx, grid - dy)
        u, v = gx * np.cos(t) + gy * np.sin(t), -gx * np.sin(t) + gy * np.cos(t)
        light = sersic_profile(np.sqrt(q * u**2 + v**2 / q) / radius, n) / radius**2 / sub**2
        light = fftconvolve(light, psf, mode="same").reshape(spacing, sub, spacing, sub).sum((1, 3))
        image[j * spacing : (j + 1) * spacing, i * spacing : (i + 1) * spacing] = flux * light
        positions.append((i * spacing + spacing // 2 + dx, j * spacing + spacing // 2 + dy))
    variance = image + 325
    image = image + rng.normal(0, np.sqrt(variance))
    # the pixel is part of the PSF that is fitted: the fine grid was summed over pixels
    exposure = Exposure(image.astype(np.float32), variance=variance.astype(np.float32))
    exposure.psf = GaussianPsf(np.sqrt(sigma**2 + 1 / 12), 25)
    return exposure, *np.array(positions).T


@pytest.mark.parametrize("row", range(8))
def test_mixtures_follow_the_profiles(row):
    mixtures = profile_mixtures()
    n = float(np.exp(mixtures.log_indices[row]))
    if row == 1:  # falls faster than any Gaussian of the common widths in the far wing
        r = np.geomspace(0.1, 2.5, 60)
    else:
        r = np.geomspace(0.1, 3, 60)
    light = mixtures.profile(r, row) * r**2
    truth = sersic_profile(r, n) * r**2
    assert np.abs(light - truth).max() < 0.07 * truth.max()
    assert mixtures.table[row].sum() == pytest.approx(1)


def test_composite_profiles_go_from_gaussian_to_exponential_to_de_vaucouleurs():
    mixtures = composite_mixtures()
    r = np.geomspace(0.1, 3, 60)
    assert_allclose(mixtures.table.sum(1), 1)
    for row, n, radius in ((0, 0.5, 1.0), (1, 1.0, 1.0), (2, 4.0, BULGE)):
        truth = sersic_profile(r / radius, n) / radius**2 * r**2
        assert np.abs(mixtures.profile(r, row) * r**2 - truth).max() < 0.07 * truth.max()


def test_sersic_profile_holds_half_the_light_in_unit_radius():
    r = np.linspace(0, 60, 600001)
    for n in (0.5, 1, 2, 4):
        light = np.cumsum(sersic_profile(r, n) * 2 * np.pi * r) * (r[1] - r[0])
        assert light[10000] == pytest.approx(0.5, abs=2e-3)
        assert light[-1] == pytest.approx(1, abs=2e-3)


def test_drawn_model_and_derivatives():
    mixtures = profile_mixtures()
    psf = np.array([2.5, 2.7, 0.1, 0.3, 0.5, 0.15, 0.05])
    p = np.array([1.0, 15.3, 14.6, np.log(4.0), np.log(3.0), 0.4, np.log(1.2)])
    gaussians = np.empty((mixtures.variances.size * PSF_SCALES.size, 8))
    work, profile = np.empty((2, mixtures.variances.size)), np.empty(gaussian_mixtures.WIDTH)

    def draw(q):
        family = mixtures.table, mixtures.log_indices, mixtures.variances
        n = gaussian_mixtures.mixture(q, *family, psf, PSF_SCALES, work, gaussians)
        rows = np.empty((30, gaussian_mixtures.N_ROWS, gaussian_mixtures.WIDTH))
        for y in range(30):
            gaussian_mixtures.model_row(gaussians, n, q[1], q[2], y, 0, 32, profile, rows[y].reshape(-1))
        return rows[:, :, :32].transpose(1, 0, 2).copy()

    found = draw(p)
    amplitudes = [np.interp(p[6], mixtures.log_indices, column) for column in mixtures.table.T]
    theta = (4.0, 3.0, np.tanh(0.4) * np.sqrt(12))
    expected = slow.draw(
        15.3, 14.6, theta, amplitudes, mixtures.variances, psf[:3], psf[3:], PSF_SCALES, (30, 32)
    )
    assert_allclose(found[0], expected, atol=2e-5 * expected.max())  # Gaussians are cut at rho**2 = 24
    for k, row in ((1, 1), (2, 2), (6, 6)):
        step = np.zeros(7)
        step[k] = 1e-5
        numerical = (draw(p + step)[0] - draw(p - step)[0]) / 2e-5
        assert_allclose(found[row], numerical, atol=1e-3 * np.abs(numerical).max())


def test_psf_mixture_of_a_moffat():
    r2 = np.add.outer((np.arange(41) - 20.0) ** 2, (np.arange(41) - 20.0) ** 2)
    moffat = (1 + r2 / 2.5**2) ** -3.5
    moffat /= moffat.sum()
    from starmill.kernels.moments import stack_moments

    psf = fit_psf_mixtures(moffat[None], stack_moments(moffat[None], 100)[0])[0]
    model = slow.draw(20, 20, (0, 0, 0), [1], [1], psf[:3], psf[3:], PSF_SCALES, (41, 41))
    assert np.abs(model - moffat).max() < 0.01 * moffat.max()
    assert psf[3:].sum() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("n", "radius", "flux"),
    [(0.5, 2.5, 4e4), (1.0, 2.5, 4e4), (4.0, 2.5, 8e4), (2.0, 2.5, 6e4)],
)
def test_model_fluxes_are_unbiased(n, radius, flux):
    exposure, x, y = galaxies(n, radius, 0.7, flux)
    names = ["centroid", "shape", "gaussian_flux", "cmodel_flux", "sersic_flux"]
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=names))
    found = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    assert not found["sersic_flux_flag"].any()
    for name in ("sersic_flux", "cmodel_flux"):
        ratio = found[name] / flux
        error = ratio.std() / np.sqrt(len(ratio))
        # 2.5 per cent of the light of the de Vaucouleurs profile lies beyond the stamps of the simulation
        missing = 0.025 if n == 4 else 0.0
        assert abs(np.median(ratio) - 1 + missing / 2) < 0.01 + missing / 2 + 3 * error
        pull = (found[name] - np.median(found[name])) / found[f"{name}_err"]
        assert 0.6 < pull.std() < 1.7
    assert np.median(found["sersic_index"]) == pytest.approx(n, rel=0.15)
    assert np.median(found["sersic_radius"]) == pytest.approx(radius, rel=0.05)


def test_regauss_recovers_the_ellipticity_before_the_psf():
    exposure, x, y = galaxies(1.0, 3.5, 0.6, 3e5, angle=0.4)
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=["centroid", "shape", "regauss"]))
    found = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    e = (1 - 0.6**2) / (1 + 0.6**2)
    assert not found["regauss_flag"].any()
    # re-Gaussianisation is good to about a per cent of the shear
    assert found["regauss_e1"].mean() == pytest.approx(e * np.cos(0.8), rel=0.03)
    assert found["regauss_e2"].mean() == pytest.approx(e * np.sin(0.8), rel=0.03)
    scatter = found["regauss_e1"].std()
    assert 0.4 < scatter / np.median(found["regauss_e1_err"]) < 2.5
    assert (found["regauss_resolution"] > 0.5).all()


def test_weights_are_those_of_poisson_noise_around_the_model():
    mixtures = profile_mixtures()
    p = np.array([3e4, 20.2, 19.7, np.log(6.0), np.log(4.0), 0.2, 0.0])
    psf = np.array([2.5, 2.7, 0.1, 0.3, 0.5, 0.15, 0.05])
    work, gaussians = np.empty((2, mixtures.variances.size)), np.empty((mixtures.variances.size * 4, 8))
    family = mixtures.table, mixtures.log_indices, mixtures.variances
    n = gaussian_mixtures.mixture(p, *family, psf, PSF_SCALES, work, gaussians)
    amplitudes = [np.interp(0.0, mixtures.log_indices, column) for column in mixtures.table.T]
    theta = (6.0, 4.0, np.tanh(0.2) * np.sqrt(24))
    model = p[0] * slow.draw(
        20.2, 19.7, theta, amplitudes, mixtures.variances, psf[:3], psf[3:], PSF_SCALES, (40, 40)
    )
    mask = np.zeros((40, 40), np.int32)
    mask[18, 22] = 1
    image, variance = (model + 7).astype(np.float32), (300 + model).astype(np.float32)
    box, width = (0, 0, 40, 40), gaussian_mixtures.WIDTH
    rows, weights, values = np.zeros((9, width)), np.zeros((width, width)), np.zeros((width, width))
    assert galaxy_models._fill_usable(image, variance, mask, 1, box, weights, values) == 1599
    galaxy_models._set_weights(variance, p, gaussians, n, box, rows, weights, values)
    expected = np.where(mask == 0, np.sqrt(300 / variance), 0)
    assert_allclose(weights[:40, :40], expected, rtol=2e-3)
    assert_allclose(values[:40, :40], expected * image, rtol=2e-3)
    # a variance image without the light of the source: all pixels count alike
    flat = np.full_like(variance, 300)
    galaxy_models._fill_usable(image, flat, mask, 1, box, weights, values)
    galaxy_models._set_weights(flat, p, gaussians, n, box, rows, weights, values)
    assert_allclose(weights[:40, :40], mask == 0)
