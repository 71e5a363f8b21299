"""Centroids of stars narrower than their pixels, measured on their PSF at the same place in the pixel."""

import numpy as np
import pytest

from starmill.datamodel.field import ChebyshevField, ConstantField
from starmill.datamodel.psf import GaussianPsf, PixelBasisPsf
from starmill.kernels.centroids import smoothed_centroids
from starmill.measurement.centroid_phase import PHASES, PhasePull
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import bare_pixels, catalog_at, star_field

PLUGINS = ["peak", "centroid"]


def offsets(exposure, x, y, **options):
    config = SingleFrameMeasurementConfig(plugins=PLUGINS, options={"centroid": options})
    found = SingleFrameMeasurementTask(config).run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    assert found["centroid_flag"].mean() < 0.15
    return np.where(found["centroid_flag"], 0.0, np.hypot(found["x"] - x, found["y"] - y))


@pytest.mark.parametrize(("sigma", "before", "after"), [(0.55, 0.05, 0.01), (0.7, 0.012, 0.002)])
def test_the_pull_of_the_pixel_is_taken_out(sigma, before, after):
    exposure, x, y = star_field(1e5, side=12, sigma=sigma, noise=False, origin=(300, -40))
    pulled = offsets(exposure, x, y, undersampled_fwhm=0.0)
    assert np.sqrt(np.mean(pulled**2)) > before
    assert offsets(exposure, x, y).max() < after


def test_a_sampled_psf_is_left_alone():
    exposure, x, y = star_field(1e5, side=6, sigma=1.6, noise=False)
    assert np.array_equal(offsets(exposure, x, y), offsets(exposure, x, y, undersampled_fwhm=0.0))


def test_noise_does_not_make_the_correction_worse():
    exposure, x, y = star_field(2e4, side=16, sigma=0.6, seed=5)
    assert np.mean(offsets(exposure, x, y) ** 2) < np.mean(
        offsets(exposure, x, y, undersampled_fwhm=0.0) ** 2
    )


def test_the_pull_is_inverted_and_interpolated_over_the_field():
    """A pull of a known sine, twice as strong at the right as at the left, is inverted."""
    nodes = np.array([0.0, 50.0, 100.0])
    wave = -0.06 * np.sin(2 * np.pi * PHASES)
    pull = np.zeros((3, 3, 2, len(PHASES), len(PHASES)))
    for column in range(3):
        pull[:, column, 0] = (1 + nodes[column] / 100) * wave[None, :]
        pull[:, column, 1] = wave[:, None]
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 100, (2, 200))
    dx, dy = rng.uniform(-0.49, 0.49, (2, 200))
    measured_x = dx - (1 + x / 100) * 0.06 * np.sin(2 * np.pi * dx)
    measured_y = dy - 0.06 * np.sin(2 * np.pi * dy)
    found_x, found_y = PhasePull(nodes, nodes, pull).true_offset(x, y, measured_x, measured_y)
    assert np.abs(found_y - dy).max() < 0.01
    assert np.abs(found_x - dx).max() < 0.04
    assert np.std(found_x - dx) < 0.012


def test_an_empty_catalogue_needs_no_correction():
    exposure, _, _ = star_field(1e4, side=2, sigma=0.6)
    config = SingleFrameMeasurementConfig(plugins=PLUGINS)
    empty = catalog_at([], [])
    exposure.psf = GaussianPsf(0.6, 25)
    assert len(SingleFrameMeasurementTask(config).run(exposure=exposure, catalog=empty).catalog) == 0


def test_a_centroid_does_not_depend_on_the_other_sources_of_the_catalogue():
    """With a PSF that varies; sources are measured in blocks."""
    exposure, x, y = star_field(1e5, side=16, sigma=1.6)
    narrow, wide = (GaussianPsf(sigma, 41).kernel_at() for sigma in (1.6, 1.8))
    fields = [
        ConstantField(exposure.box, 1.0),
        ChebyshevField(exposure.box, np.array([[0.0, 0.2], [0.1, 0.0]])),
    ]
    exposure.psf = PixelBasisPsf(np.stack([narrow, wide - narrow]), fields)
    config = SingleFrameMeasurementConfig(plugins=[*PLUGINS, "shape", "psf_flux", "regauss"])
    task = SingleFrameMeasurementTask(config)
    found = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    for part in (slice(100, 256), slice(37, 90)):
        again = task.run(exposure=exposure, catalog=catalog_at(x[part], y[part])).catalog
        for name in ("x", "y", "x_err", "shape_xx"):
            assert np.array_equal(again[name], found[name][part], equal_nan=True), name
        np.testing.assert_allclose(again["psf_flux"], found["psf_flux"][part], rtol=1e-12)


def test_a_psf_of_unknown_width_is_used_whole():
    exposure, x, y = star_field(1e5, side=4, sigma=1.6)
    values = kernel_arguments(exposure, x, y)
    found, flags = smoothed_centroids(*values, np.inf)
    again, _ = smoothed_centroids(*values, 100.0)
    assert not flags.any()
    assert np.array_equal(found, again)


def kernel_arguments(exposure, x, y):
    kernels = np.ascontiguousarray(exposure.psf.kernel_at()[None], np.float64)
    peaks = (np.floor(place + 0.5).astype(np.int64) for place in (x, y))
    pixels = bare_pixels(exposure.image, exposure.variance, n=len(x))
    return pixels, kernels, np.zeros(len(x), np.int64), *peaks, np.array([2.56]), 1, 1.5, 0
