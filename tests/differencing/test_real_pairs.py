"""Real pairs: a moving double star in the near infrared, a deep JWST pair."""

from __future__ import annotations

import bz2

import numpy as np
import pytest
from astropy.io import fits

from starmill.coaddition.registration import find_registration
from starmill.coaddition.warp import warp_by_map
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.differencing.noise import image_variance
from starmill.differencing.seeing import bright_positions
from starmill.errors import AlgorithmError
from starmill.io.exposure_file import read_exposure
from starmill.tasks.difference import DifferenceConfig, DifferenceTask
from starmill.tasks.measure_difference import MeasureDifferenceTask


def test_high_proper_motion_pair_is_two_dipoles(shared_data):
    """Five years apart: both stars of the pair have moved north by 0.79 arcsec a year."""
    epochs = []
    for name in ("1539100p", "2094847p"):
        exposure = read_exposure(shared_data("diff_wircam") / f"wircam_H2_{name}.fits.fz")
        exposure.mask.set("SAT", exposure.image < 100)  # saturated cores read zero
        bad = exposure.mask.any("SAT", "NO_DATA")
        exposure.variance = image_variance(exposure.image, bad, gain=3.8)
        epochs.append(exposure)
    stars = [bright_positions(e.image, e.variance, e.mask.any("SAT", "NO_DATA")) for e in epochs]
    registration = find_registration(stars[1], stars[0], epochs[0].shape)
    assert registration.scatter < 0.3  # pixels of 0.3 arcsec
    box = Box(600, 1100, 800, 500)
    template = warp_by_map(epochs[0], registration, epochs[1].box)[box]
    config = DifferenceConfig(kernel_order=1, sum_order=0)
    result = DifferenceTask(config).run(template=template, science=epochs[1][box])
    finder = MeasureDifferenceTask()
    catalog = finder.run(difference=result.difference, score=result.score).catalog
    near = np.hypot(catalog["x"] - 985, catalog["y"] - 1316) < 15
    poles = catalog[near & catalog["dipole_flag"]]
    assert len(poles) == 4
    motion = poles["dipole_separation"] * 0.304 / 5.01  # arcsec a year
    np.testing.assert_allclose(motion, 0.79, atol=0.06)
    np.testing.assert_allclose(np.abs(poles["dipole_angle"]), np.pi / 2, atol=0.1)


def read_stamp(path):
    with bz2.open(path) as file, fits.open(file) as hdus:
        return next(h.data for h in hdus if h.data is not None).astype("f4")


def test_deep_pair_with_correlated_noise(shared_data):
    """The photometric scale of two calibrated visits is one; the score is normalised to its own width."""
    folder = shared_data("diff_nircam_a2744")
    part = np.s_[300:900, 100:700]
    exposures = []
    for key in ("01324", "02561"):
        image = read_stamp(next((folder / "input_data").glob(f"*{key}*")))[part]
        noise = read_stamp(next((folder / "auxiliary").glob(f"*{key}*noise*")))[part]
        bad = ~np.isfinite(image) | ~(noise > 0)
        mask = Mask(np.zeros(image.shape, np.int32))
        mask.set("NO_DATA", bad)
        exposures.append(Exposure(np.where(bad, 0, image), mask, np.where(bad, 0, noise) ** 2, unit="MJy/sr"))
    config = DifferenceConfig(kernel_order=0, sum_order=0, decorrelate="never")
    result = DifferenceTask(config).run(template=exposures[0], science=exposures[1])
    assert result.kernel_sum == pytest.approx(1, abs=0.02)
    assert result.quality.sky_width == pytest.approx(1, abs=0.15)
    assert result.quality.score_width == pytest.approx(1, abs=0.1)


def test_registration_finds_shift_and_rotation():
    rng = np.random.default_rng(1)
    first = rng.uniform(0, 1000, (200, 2))
    angle = 0.002
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    second = first @ turn.T + (123.4, -77.7) + rng.normal(0, 0.05, (200, 2))
    found = find_registration(first, rng.permutation(second), (1000, 1000))
    assert found.stars > 150
    x, y = found(500.0, 500.0)
    np.testing.assert_allclose((x, y), turn @ (500, 500) + (123.4, -77.7), atol=0.05)
    with pytest.raises(AlgorithmError):
        find_registration(first, rng.uniform(0, 1000, (5, 2)), (1000, 1000))
