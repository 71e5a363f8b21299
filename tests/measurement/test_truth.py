"""Measured positions, shapes and fluxes against simulated truth."""

import numpy as np
import pytest

from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import catalog_at, star_field

PLUGINS = [
    "centroid",
    "shape",
    "windowed_centroid",
    "psf_flux",
    "weighted_psf_flux",
    "gaussian_flux",
    "aperture_flux",
]


@pytest.fixture(scope="module")
def bright():
    """1600 stars of S/N 110."""
    exposure, x, y = star_field(20000.0, side=40, spacing=31, seed=5)
    config = SingleFrameMeasurementConfig(plugins=PLUGINS, options={"aperture_flux": {"radii": [3, 6, 9]}})
    return SingleFrameMeasurementTask(config).run(exposure=exposure, catalog=catalog_at(x, y)).catalog, x, y


@pytest.mark.parametrize("name", ["centroid", "windowed_centroid"])
def test_positions_are_unbiased_with_right_errors(bright, name):
    catalog, x, y = bright
    for axis, truth in (("x", x), ("y", y)):
        good = ~catalog[f"{name}_flag"]
        d = (catalog[f"{name}_{axis}"] - truth)[good]
        pull = d / catalog[f"{name}_{axis}_err"][good]
        assert abs(d.mean()) < 0.01
        assert abs(d.mean()) < 4 * d.std() / np.sqrt(d.size)
        assert abs(pull.std() - 1) < 0.1


@pytest.mark.parametrize("name", ["psf_flux", "weighted_psf_flux"])
def test_psf_flux_is_unbiased_with_right_errors(bright, name):
    catalog, _, _ = bright
    pull = (catalog[name] - 20000) / catalog[f"{name}_err"]
    assert abs(catalog[name].mean() / 20000 - 1) < 0.002
    assert abs(pull.std() - 1) < 0.07  # 4 sigma for 1600 stars
    assert abs(pull.mean()) < 0.1


def test_shapes_are_unbiased(bright):
    catalog, _, _ = bright
    assert abs(catalog["shape_xx"].mean() / 1.6**2 - 1) < 0.003
    assert abs(catalog["shape_xy"].mean()) < 0.003
    e1 = (catalog["shape_xx"] - catalog["shape_yy"]) / (catalog["shape_xx"] + catalog["shape_yy"])
    assert abs(e1.mean()) < 1e-3


def test_apertures_hold_the_flux_of_a_gaussian(bright):
    catalog, _, _ = bright
    for radius in (3, 6, 9):
        name = f"aperture_flux_{radius}_0"
        # the overlap counts every pixel as a flat square: that adds 1/12 to the variance of the profile
        expected = 20000 * (1 - np.exp(-(radius**2) / (2 * (1.6**2 + 1 / 12))))
        pull = (catalog[name] - expected) / catalog[f"{name}_err"]
        assert abs(catalog[name].mean() / expected - 1) < 0.002
        assert abs(pull.std() - 1) < 0.1


def test_faint_pulls():
    exposure, x, y = star_field(3000.0, side=30, spacing=31, seed=6)
    config = SingleFrameMeasurementConfig(plugins=["centroid", "psf_flux"])
    catalog = SingleFrameMeasurementTask(config).run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    good = ~catalog["centroid_flag"]
    pull = ((catalog["psf_flux"] - 3000) / catalog["psf_flux_err"])[good]
    assert abs(pull.std() - 1) < 0.1
    # the flux at the measured position is that at a maximum: half a (S/N)^-2 per axis too bright
    assert abs(np.mean(catalog["psf_flux"][good]) / 3000 - 1) < 0.01


def test_origin_and_shift_move_positions_only():
    plain, x, y = star_field(20000.0, side=4)
    moved, xm, ym = star_field(20000.0, side=4, origin=(1000, 500))
    task = SingleFrameMeasurementTask()
    one = task.run(exposure=plain, catalog=catalog_at(x, y)).catalog
    two = task.run(exposure=moved, catalog=catalog_at(xm, ym)).catalog
    np.testing.assert_allclose(two["x"] - 1000, one["x"], atol=1e-9)
    np.testing.assert_allclose(two["shape_y"] - 500, one["shape_y"], atol=1e-9)
    np.testing.assert_allclose(two["psf_flux"], one["psf_flux"], rtol=1e-9)


def test_scaling_of_the_unit():
    exposure, x, y = star_field(20000.0, side=4)
    task = SingleFrameMeasurementTask()
    one = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    exposure.image[...] *= 4
    exposure.variance[...] *= 16
    two = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    for name in ("psf_flux", "psf_flux_err", "gaussian_flux", "aperture_flux_6_0", "aperture_flux_6_0_err"):
        np.testing.assert_allclose(two[name], 4 * one[name], rtol=1e-6)
    for name in ("x", "x_err", "shape_xx", "shape_xx_err", "psf_flux_chi2"):
        np.testing.assert_allclose(two[name], one[name], rtol=2e-5)
