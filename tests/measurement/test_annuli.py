"""Ellipses, annuli and growth curves."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from starmill.datamodel.ellipse import ellipse_axes
from starmill.kernels import annuli
from starmill.measurement.shape import inverse_moments
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import bare_pixels, catalog_at, star_field
from tests.reference import annuli as slow

MOMENTS = np.array([[5.0, 3.0, 1.0]])


def scene(seed=1):
    rng = np.random.default_rng(seed)
    image, variance = rng.uniform(1, 2, (2, 61, 60)).astype(np.float32)
    mask = rng.choice([0, 4], (61, 60), p=[0.9, 0.1]).astype(np.int32)
    return image, variance, mask


def test_first_moment_radius():
    image, variance, mask = scene()
    inverse = inverse_moments(MOMENTS)
    found = annuli.first_moment_radii(
        bare_pixels(image, variance, mask), np.array([29.6]), np.array([30.3]), inverse, 6.0
    )
    expected = slow.first_moment_radius(image, variance, 29.6, 30.3, inverse[0], 6.0)
    assert_allclose(np.ravel(found), expected, rtol=1e-5)


def test_annulus_statistics():
    image, variance, mask = scene(2)
    image[30, 45] = 50
    found = annuli.annulus_statistics(
        bare_pixels(image, variance, mask), np.array([29.6]), np.array([30.3]), np.array([8.0]), np.array([20.0]),
        4, 3.0, 3,
    )  # fmt: skip
    expected = slow.annulus_statistics(image, mask, 29.6, 30.3, 8, 20, 4, 3, 3)
    assert_allclose([found[0][0], found[1][0], found[2][0]], expected, rtol=1e-6)


def test_median_variance_and_weighted_flux():
    image, variance, mask = scene(3)
    inverse = inverse_moments(MOMENTS)
    pixels = bare_pixels(image, variance, mask)
    x, y = np.array([29.6]), np.array([30.3])
    found = annuli.ellipse_median_variance(pixels, x, y, inverse, 5.0, 4, 60.0)
    assert_allclose(found[0], slow.median_variance(variance, mask, 29.6, 30.3, inverse[0], 5.0, 4), rtol=1e-5)
    sums, _, moments = annuli.blended_sums(pixels, 2 * image, variance, x, y, inverse, 3.0)
    flux = slow.weighted_flux(image, 29.6, 30.3, inverse[0], 3.0)
    assert_allclose(sums[0, :2], [flux, 2 * flux], rtol=1e-6)
    rows, columns = np.mgrid[:61, :60] - np.array([30.3, 29.6])[:, None, None]
    terms = (columns, rows, columns**2, rows**2, columns * rows)
    expected = [slow.weighted_flux(image * term, 29.6, 30.3, inverse[0], 3.0) for term in terms]
    assert_allclose(moments[0], [expected, 2 * np.array(expected)], rtol=1e-5, atol=1e-3)


def test_variances_of_blendedness():
    """Own pixels share the noise of the image, replaced ones have their own, all others are the same pixel."""
    rng = np.random.default_rng(9)
    parent, variance = rng.uniform(50, 60, (2, 61, 60)).astype(np.float32)
    hidden = parent.copy()
    hidden[:, 35:] = rng.normal(0, 3, (61, 25))  # a neighbour, replaced by noise
    child = hidden.copy()
    own = np.zeros(parent.shape, bool)
    own[20:40, 26:38] = True
    child[own] = 0.4 * parent[own]
    spans = np.array([(row, 26, 37) for row in range(20, 40)], np.int32)
    offsets, n_own = np.array([0, 20]), int(own.sum())
    pixels = bare_pixels(hidden, variance)._replace(
        spans=spans, span_offsets=offsets, pixel_offsets=np.array([0, n_own]),
        values=child[own], variances=variance[own],
    )  # fmt: skip
    at, inverse = (np.array([31.6]), np.array([30.3])), inverse_moments(MOMENTS)
    _, found, _ = annuli.blended_sums(pixels, parent, variance, *at, inverse, 3.0)
    expected = slow.blendedness_variances(child, parent, own, variance, variance, 31.6, 30.3, inverse[0], 3.0)
    assert_allclose(found[0, :3], expected, rtol=1e-5)
    assert_allclose(found[0, 3:], expected, rtol=1e-5)  # far above the noise: the magnitude is the value
    np.testing.assert_array_equal(pixels.image[:, :60], hidden)


def test_axes_of_moments():
    a, b, theta = ellipse_axes(np.array([[4.0, 1.0, 0.0], [2.5, 2.5, 1.5], [1.0, 1.0, 2.0]]))
    assert_allclose(a[:2], [2, 2])
    assert_allclose(b[:2], [1, 1])
    assert_allclose(theta[:2], [0, np.pi / 4])
    assert np.isnan(a[2])


def test_extended_fluxes_of_stars():
    """A round Gaussian: Kron radius 1.25 sigma, half-light radius 1.18 sigma, all fluxes near the total."""
    exposure, x, y = star_field(50000.0, side=10, spacing=101, sigma=2.5, seed=4)
    names = ["centroid", "shape", "psf_flux", "kron_flux", "petrosian_flux", "elliptical_flux", "half_light",
             "local_background", "local_variance", "blendedness", "compensated_tophat_flux",
             "compensated_gaussian_flux", "star_probability", "regauss", "sky", "input_count", "footprint_area"]  # fmt: skip
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=names))
    found = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    assert not any(name.endswith("_failures") for name in task.metadata)
    assert np.median(found["kron_radius"]) == pytest.approx(1.2533 * 2.5, rel=0.02)
    assert np.median(found["half_light_radius"]) == pytest.approx(1.1774 * 2.5, rel=0.03)
    # 2.5 Kron radii hold 1 - exp(-3.13**2 / 2) of a Gaussian
    assert np.median(found["kron_flux"]) == pytest.approx(50000 * (1 - np.exp(-(3.133**2) / 2)), rel=0.005)
    assert np.median(found["petrosian_flux"]) == pytest.approx(50000, rel=0.01)
    assert np.median(found["elliptical_flux"]) == pytest.approx(50000 * (1 - np.exp(-4.5)), rel=0.01)
    assert np.median(found["compensated_tophat_flux_12"]) == pytest.approx(50000, rel=0.01)
    for name in ("kron_flux", "elliptical_flux", "compensated_tophat_flux_12"):
        pull = (found[name] - np.median(found[name])) / found[f"{name}_err"]
        assert 0.75 < pull.std() < 1.35
    assert np.abs(np.median(found["local_background"])) < 0.5
    assert np.median(found["local_background_scatter"]) == pytest.approx(np.sqrt(325), rel=0.02)
    assert np.median(found["local_variance"]) == pytest.approx(325, rel=0.2)
    assert np.nanmax(found["blendedness"]) == 0
    assert (found["star_probability"] > 0.5).mean() > 0.9
    assert found["sky_flag"].all()
    assert (found["input_count"] == 1).all()


def test_compensated_fluxes_do_not_see_a_constant():
    exposure, x, y = star_field(50000.0, side=3, spacing=101, noise=False)
    config = SingleFrameMeasurementConfig(
        plugins=["centroid", "compensated_tophat_flux", "compensated_gaussian_flux"], replace_neighbours=False
    )
    task = SingleFrameMeasurementTask(config)
    one = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    exposure.image[...] += 1000
    two = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    assert_allclose(two["compensated_tophat_flux_12"], one["compensated_tophat_flux_12"], rtol=1e-5)
    # the Gaussians are cut at four sigma of the wider one
    assert_allclose(two["compensated_gaussian_flux_3"], one["compensated_gaussian_flux_3"], rtol=1e-2)
