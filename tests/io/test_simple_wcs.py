"""The short way to the WCS of a plain header gives what the library makes of the whole header."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, WCSCOMPARE_ANCILLARY

from starmill.io.fits import _simple_wcs, wcs_from_header

PLAIN = {
    "NAXIS": 2, "NAXIS1": 100, "NAXIS2": 80, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.1, "CRVAL2": 2.2,
    "CRPIX1": 50.25, "CRPIX2": 40.75, "CDELT1": -1e-4, "CDELT2": 1.1e-4,
}  # fmt: skip
MATRIX = {
    f"CD{i}_{j}": v
    for (i, j), v in zip([(1, 1), (1, 2), (2, 1), (2, 2)], [-1e-4, 2e-5, 3e-5, 1e-4], strict=True)
}
NO_STEPS = {name: value for name, value in PLAIN.items() if not name.startswith("CDELT")}
SIMPLE = [
    PLAIN,
    PLAIN | {"PC1_1": 0.8, "PC1_2": 0.6, "PC2_1": -0.6, "PC2_2": 0.8, "RADESYS": "FK5", "EQUINOX": 2000.0},
    NO_STEPS | MATRIX | {"RADESYS": "ICRS", "CUNIT1": "deg", "CUNIT2": "deg"},
    NO_STEPS | {"CD1_1": 1e-4, "CD2_2": -1e-4},
    PLAIN | {"CTYPE1": "DEC--SIN", "CTYPE2": "RA---SIN", "CRVAL1": 2.2, "CRVAL2": 150.1, "LONPOLE": 170.0},
    PLAIN | {"CTYPE1": "RA---AIT", "CTYPE2": "DEC--AIT", "LATPOLE": 90.0, "EQUINOX": 1950},
]
SIP = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6}
OTHERS = [
    PLAIN | {"CROTA2": 12.0},
    NO_STEPS | MATRIX | {"CDELT1": 1.0, "CDELT2": 1.0},
    PLAIN | {"CUNIT1": "arcsec", "CUNIT2": "arcsec"},
    PLAIN | {"PV2_1": 0.1},
    PLAIN | SIP,
    PLAIN | {"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR"},
    PLAIN | {"CRPIX1": "50.0"},
    NO_STEPS,
    PLAIN | {"CTYPE2": "DEC--SIN"},
    PLAIN | {"WCSAXES": 3, "CTYPE3": "FREQ"},
]


@pytest.mark.parametrize("cards", SIMPLE)
def test_the_same_as_the_library(cards):
    wcs, expected = _simple_wcs(cards), WCS(fits.Header(list(cards.items())))
    assert wcs.wcs.compare(expected.wcs, WCSCOMPARE_ANCILLARY)
    assert wcs.pixel_shape == expected.pixel_shape
    x, y = np.random.default_rng(1).uniform(-500, 500, (2, 40))
    np.testing.assert_array_equal(wcs.all_pix2world(x, y, 0), expected.all_pix2world(x, y, 0))
    moved = wcs_from_header(cards, (10, 20))
    np.testing.assert_allclose(
        moved.all_pix2world(x + 10, y + 20, 0), expected.all_pix2world(x, y, 0), rtol=1e-12
    )


@pytest.mark.parametrize("cards", OTHERS)
def test_everything_else_is_left_to_the_library(cards):
    assert _simple_wcs(cards) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = fits.Header(list(cards.items()))
        assert (wcs_from_header(cards) is None) == (wcs_from_header(header) is None)
