import numpy as np
import pytest

from starmill.datamodel.calibration import Linearity
from starmill.errors import InputError
from starmill.simulation.detector import (
    bleed,
    cosmic_rays,
    distort_linearity,
    make_detector,
    quadrant_detector,
    read_out,
)


def test_bleeding_keeps_charge_until_the_end_of_the_column():
    detector = quadrant_detector((128, 128))
    charge = np.full((128, 128), 100.0, np.float32)
    charge[30, 40] = 5e5
    charge[2, 70] = 2e7
    before = charge.sum(dtype=float)
    lost = charge[:64, 70].sum(dtype=float)
    saturated = bleed(charge, 85000.0, detector)
    assert charge.max() == 85000
    assert saturated[:, 40].sum() == 5  # 5e5 electrons fill five wells and a part of the ends
    assert saturated[:64, 70].all()
    assert not saturated[64:].any()  # another amplifier's column
    assert charge[:, 40].sum(dtype=float) == pytest.approx(5e5 + 127 * 100, rel=1e-6)
    assert charge.sum(dtype=float) == pytest.approx(
        before - lost + charge[:64, 70].sum(dtype=float), rel=1e-6
    )


def test_overscan_sees_no_light_and_the_gain_is_that_of_the_amplifier():
    detector = quadrant_detector((256, 256))
    model = make_detector(np.random.default_rng(1), detector)
    light = np.full((256, 256), 20000.0, np.float32)
    raw, saturated = read_out(np.random.default_rng(2), model, light, 10.0)
    assert not saturated.any()
    for k, amplifier in enumerate(detector.amplifiers):
        overscan = raw[amplifier.raw_overscan_box.slices()].astype(float)
        assert overscan.mean() == pytest.approx(model.bias_level[k], abs=3)
        data = raw[amplifier.raw_data_box.slices()].astype(float)
        assert (data.mean() - overscan.mean()) * amplifier.gain == pytest.approx(20000, rel=0.005)


def test_a_bias_has_the_read_noise_only():
    detector = quadrant_detector((256, 256))
    model = make_detector(np.random.default_rng(1), detector)
    first, second = (
        read_out(np.random.default_rng(seed), model, None, 0.0)[0].astype(float) for seed in (3, 4)
    )
    for amplifier in detector.amplifiers:
        part = amplifier.raw_data_box.slices()
        difference = (first - second)[part]
        difference -= difference.mean(axis=1, keepdims=True)  # the drift of the rows
        expected = np.hypot(amplifier.read_noise / amplifier.gain, np.sqrt(1 / 12))
        assert difference.std() / np.sqrt(2) == pytest.approx(expected, rel=0.02)


def test_distortion_is_the_inverse_of_the_correction():
    true = np.linspace(0, 6e4, 50)
    for coefficients in ((3e-7,), (3e-7, -2e-12, 1e-17)):
        x = distort_linearity(true, Linearity("polynomial", coefficients))
        np.testing.assert_allclose(
            x + sum(c * x ** (k + 2) for k, c in enumerate(coefficients)), true, rtol=1e-9
        )
    with pytest.raises(InputError, match="only polynomial"):
        distort_linearity(true, Linearity("spline", (0.0, 1.0), (0.0, 1.0)))


def test_cosmic_rays_are_connected_tracks():
    from scipy.ndimage import label

    rays = cosmic_rays(np.random.default_rng(5), (300, 300), 30)
    assert 20 <= label(rays > 0, np.ones((3, 3)))[1] <= 30
    assert rays.max() > 500
    assert not cosmic_rays(np.random.default_rng(5), (30, 30), 0).any()


def test_odd_chips_are_refused():
    with pytest.raises(InputError, match="even sides"):
        quadrant_detector((101, 100))
