"""Isophotal moments and half-light radii: kernels beside their slow twins, stars with known answers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from starmill.kernels.isophotes import isophotal_sums
from starmill.kernels.radial_growth import BINS_PER_PIXEL, SLOPE_BINS, SLOPE_REACH, radii_of_light
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import bare_pixels, catalog_at, disk_footprints, star_field
from tests.reference import isophotes as slow_isophotes
from tests.reference import radial_growth as slow_growth


def blob(seed, shape=(40, 44), sigma=2.2, flux=9000.0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    cx, cy = rng.uniform(19, 22, 2)
    u, v = x - cx, y - cy
    light = flux / (2 * np.pi * sigma**2) * np.exp(-(u**2 + 0.6 * v**2 + 0.4 * u * v) / (2 * sigma**2))
    return (light + rng.normal(0, 5, shape)).astype(np.float32), cx, cy


@pytest.mark.parametrize("seed", range(4))
def test_radius_of_light_equals_slow_twin(seed):
    image, x, y = blob(seed)
    for part in (0.1, 0.5, 0.8):
        target = np.array([part * image.sum()])
        found, slope = radii_of_light(
            bare_pixels(image), np.array([x]), np.array([y]), target, np.array([16.0])
        )
        # beyond three pixels a pixel counts as one pixel wide in radius
        assert found[0] == pytest.approx(slow_growth.radius_of_light(image, x, y, target[0], 16.0), abs=0.02)
        b = int(found[0] * BINS_PER_PIXEL)
        half = (max(SLOPE_BINS, int(SLOPE_REACH * b)) + 0.5) / BINS_PER_PIXEL
        expected = slow_growth.slope_of_light(image, x, y, (b + 0.5) / BINS_PER_PIXEL, half)
        assert slope[0] == pytest.approx(expected, rel=0.05)


def test_flux_that_is_not_reached_has_no_radius():
    image, x, y = blob(1)
    at = np.array([x, x, np.nan]), np.array([y, y, y])
    target = np.array([1e9, -1.0, 100.0])
    assert np.isnan(radii_of_light(bare_pixels(image, n=3), *at, target, np.full(3, 12.0))).all()


@pytest.mark.parametrize("seed", range(4))
def test_isophotal_sums_equal_slow_twin(seed):
    image, x, y = blob(seed)
    variance = np.random.default_rng(seed).uniform(15, 35, image.shape).astype(np.float32)
    footprint = disk_footprints([x], [y], 12)
    pixels = bare_pixels(image, variance)
    pixels = pixels._replace(
        spans=footprint.spans, span_offsets=footprint.span_offsets, pixel_offsets=np.array([0, footprint.areas[0]]),
        values=np.concatenate([image[s[0], s[1] : s[2] + 1] for s in footprint.spans]),
        variances=np.concatenate([variance[s[0], s[1] : s[2] + 1] for s in footprint.spans]),
    )  # fmt: skip
    inside = np.zeros(image.shape, bool)
    for row, first, last in footprint.spans:
        inside[row, first : last + 1] = True
    found = isophotal_sums(pixels, 1.5)
    for part, expected in zip(
        found, slow_isophotes.isophotal_sums(image, variance, inside, 1.5), strict=True
    ):
        assert_allclose(part[0], expected, rtol=1e-5)


def test_isophotal_moments_of_stars():
    exposure, x, y = star_field(20000.0, side=8)
    footprints = disk_footprints(x, y, 9)
    task = SingleFrameMeasurementTask(
        SingleFrameMeasurementConfig(
            plugins=["isophotal", "kron_flux", "half_light"],
            slots={"centroid": "isophotal", "shape": "isophotal", "psf_shape": "psf_shape"},
        )
    )
    found = task.run(exposure=exposure, catalog=catalog_at(x, y, footprints)).catalog
    assert not found["isophotal_flag"].any()
    assert np.hypot(found["isophotal_x"] - x, found["isophotal_y"] - y).max() < 0.2
    # the isophote cuts the wings: the moments are below those of the whole star, by less than a third
    assert 0.67 < np.median(found["isophotal_xx"]) / 1.6**2 < 1.0
    assert 0.93 < np.median(found["isophotal_flux"]) / 20000 < 1.0
    assert np.median(found["half_light_radius"]) == pytest.approx(1.1774 * np.sqrt(1.6**2 + 1 / 12), rel=0.03)


def test_source_without_footprint_is_flagged():
    exposure, x, y = star_field(20000.0, side=2)
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=["isophotal"]))
    found = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    assert found["isophotal_flag"].all()
    assert np.isnan(found["isophotal_flux"]).all()
