import numpy as np
import pytest

from starmill.datamodel.geometry import Box
from starmill.simulation.scene import Seeing, Sky, add_sources, draw_sources, flux_of_magnitude


def test_stars_hold_their_flux_and_place():
    image = np.zeros((201, 201), np.float32)
    one = np.ones(1)
    add_sources(image, 99.3 * one, 101.6 * one, 1e5 * one, 3.0 * one, 0.1 * one, -0.05 * one, 3.0, noise=0.01)
    y, x = np.indices(image.shape)
    # beyond radius r a beta = 3 Moffat holds (1 + r^2/alpha^2)^-2 of its flux: 1e-5 at 90 pixels
    assert image.sum() == pytest.approx(1e5, rel=1e-3)
    core = np.hypot(x - 99.3, y - 101.6) < 30
    assert (image * x)[core].sum() / image[core].sum() == pytest.approx(99.3, abs=0.01)
    assert (image * y)[core].sum() / image[core].sum() == pytest.approx(101.6, abs=0.01)


def test_stamps_are_cut_at_the_border_without_error():
    image = np.zeros((40, 50), np.float32)
    x, y = np.array([-30.0, 0.0, 49.4, 25.0]), np.array([5.0, 0.0, 39.4, -90.0])
    ones = np.ones(4)
    add_sources(image, x, y, 1e4 * ones, 3 * ones, 0 * ones, 0 * ones, 3.0, noise=1.0)
    assert np.isfinite(image).all()
    assert image[0, 0] > 100
    assert image[39, 49] > 100


def test_number_counts_grow_as_stated():
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    wcs.wcs.crpix = [1000, 1000]
    sources = draw_sources(
        np.random.default_rng(1), wcs, Box(0, 0, 2000, 2000), ("g", "r"), density=60, galaxy_fraction=0
    )
    expected = 60 * (2000 * 0.5 / 60) ** 2
    assert len(sources) == pytest.approx(expected, abs=5 * np.sqrt(expected))
    magnitude = sources.magnitude["g"]
    ratio = (magnitude < 23).sum() / (magnitude < 21).sum()
    assert ratio == pytest.approx(10 ** (0.25 * 2), rel=0.08)  # a few thousand stars
    assert not sources.galaxy.any()
    x, y = wcs.wcs_world2pix(sources.ra, sources.dec, 0)
    assert Box(0, 0, 2000, 2000).contains(x, y).all()


def test_sky_has_its_level_gradient_and_waves():
    box = Box(0, 0, 301, 201)
    flat = Sky(10.0, (0.1, 0.0), airglow=0.0).image(box)
    assert flat.mean() == pytest.approx(10, rel=1e-3)
    assert flat[0, -1] / flat[0, 0] == pytest.approx(1.1 / 0.9, rel=1e-2)
    sky = Sky(10.0, (0, 0), airglow=0.02, wavelength=50, angle=0.7, phase=0.3)
    y, x = np.indices(box.shape)
    expected = 10 * (1 + 0.02 * np.sin(2 * np.pi * (x * np.cos(0.7) + y * np.sin(0.7)) / 50 + 0.3))
    np.testing.assert_allclose(sky.image(box), expected, rtol=1e-4)


def test_seeing_and_magnitudes():
    box = Box(0, 0, 100, 100)
    seeing = Seeing(3.0, curvature=0.1, tilt_x=0.0, tilt_y=0.0)
    fwhm, e1, e2 = seeing.at(np.array([49.5, 99.5]), np.array([49.5, 99.5]), box)
    np.testing.assert_allclose(fwhm, [3.0, 3.3])
    np.testing.assert_allclose(e1, [0.02, 0.035])
    np.testing.assert_allclose(e2, [-0.01, 0.005])
    assert flux_of_magnitude(25.5, 25.5, 60.0) == pytest.approx(60)
    assert flux_of_magnitude(23.0, 25.5, 1.0) == pytest.approx(10)
