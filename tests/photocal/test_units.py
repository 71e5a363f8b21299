"""Units of maps."""

import numpy as np
import pytest
from astropy import units as u

from starmill.errors import InputError
from starmill.photocal.units import (
    beam_solid_angle,
    jansky_per_pixel_factor,
    normalised_unit,
    planck_to_jansky,
)

PIXEL = 4.0 * u.arcsec**2


@pytest.mark.parametrize(
    ("text", "factor", "kind"),
    [
        ("Jy/beam", 1, "Jy/beam"), ("beam-1 Jy", 1, "Jy/beam"), ("JY/BEAM", 1, "Jy/beam"), ("mJy beam^-1", 1e-3, "Jy/beam"),
        ("MJy/sr", 1e6, "Jy/sr"), ("MJy / sr", 1e6, "Jy/sr"), ("Jy", 1, "Jy"), ("Jy/pixel", 1, "Jy/pixel"),
        ("mJy/arcsec**2", 1e-3, "Jy/arcsec2"), ("K", 1, "K"), ("mK", 1e-3, "K"), ("uJy.beam-1", 1e-6, "Jy/beam"),
    ],
)  # fmt: skip
def test_spellings(text, factor, kind):
    assert normalised_unit(text) == (pytest.approx(factor), kind)


@pytest.mark.parametrize("text", ["", "counts", "Jy/km", "erg/s", "Jy Jy", "MJy/sr/sr/x", "adu"])
def test_unknown_units_are_errors(text):
    with pytest.raises(InputError, match="not known"):
        normalised_unit(text)


def test_factors_agree_with_astropy():
    sr = PIXEL.to_value(u.sr)
    beam = beam_solid_angle(8.0, 6.0)
    assert beam == pytest.approx((2 * np.pi * 8 * 6 / 8 / np.log(2) * u.arcsec**2).to_value(u.sr))
    assert jansky_per_pixel_factor("MJy/sr", pixel_sr=sr) == pytest.approx(
        (1 * u.MJy / u.sr * PIXEL).to_value(u.Jy)
    )
    assert jansky_per_pixel_factor("Jy/beam", pixel_sr=sr, beam_sr=beam) == pytest.approx(sr / beam)
    assert jansky_per_pixel_factor("mJy/arcsec2", pixel_sr=sr) == pytest.approx(4e-3)
    wanted = (1 * u.K).to_value(u.Jy / u.sr, equivalencies=u.brightness_temperature(230 * u.GHz))
    assert planck_to_jansky(230e9) == pytest.approx(wanted)
    assert jansky_per_pixel_factor("K", pixel_sr=sr, frequency_hz=230e9) == pytest.approx(wanted * sr)


def test_what_a_unit_needs_is_asked_for():
    with pytest.raises(InputError, match="beam"):
        jansky_per_pixel_factor("Jy/beam", pixel_sr=1e-10)
    with pytest.raises(InputError, match="frequency"):
        jansky_per_pixel_factor("K", pixel_sr=1e-10)
    with pytest.raises(InputError, match="pixel"):
        jansky_per_pixel_factor("Jy", pixel_sr=0.0)
