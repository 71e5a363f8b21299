"""Resampling to another grid."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS
from tests.reference.kernel_convolution import resample

from starmill.coaddition.warp import interpolation_table, resample_arrays, same_grid, warp_exposure
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.errors import AlgorithmError, InputError


def tan_wcs(x, y, ra, dec, cd):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [x + 1, y + 1]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.cd = np.reshape(cd, (2, 2))
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize(
    ("name", "kernel", "step"),
    [
        ("lanczos3_bilinear_0", "lanczos3", 0),
        ("lanczos3_bilinear_10", "lanczos3", 10),
        ("bilinear__0", "bilinear", 0),
    ],
)
def test_agrees_with_the_reference_stack(shared_data, name, kernel, step):
    data = np.load(shared_data("reference_lsst") / "unit_warp.npz")
    first, second = (tan_wcs(*data[w][:4], data[w][4:]) for w in ("w1", "w2"))
    exposure = Exposure(data["src_img"], Mask(data["src_msk"].copy()), data["src_var"], wcs=first)
    warped = warp_exposure(exposure, second, Box(0, 0, 280, 270), kernel=kernel, step=step)
    # single precision: 1e-6 of the value
    np.testing.assert_allclose(warped.image, data[f"{name}_img"], rtol=2e-6, atol=1e-3)
    covered = np.isfinite(data[f"{name}_img"])  # the reference gives infinite variance elsewhere, we give NaN
    np.testing.assert_allclose(warped.variance[covered], data[f"{name}_var"][covered], rtol=2e-6)
    np.testing.assert_array_equal(warped.mask.array, data[f"{name}_msk"])


def test_agrees_with_the_slow_twin():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(30, 40)).astype("f4")
    y, x = np.mgrid[:20, :25] * 1.1 + 2.3
    x = x + 0.05 * y
    out, _, flags = resample_arrays(image, np.ones_like(image), Mask(np.zeros(image.shape, np.int32)), x, y)
    table = interpolation_table("lanczos3")

    def weights(fraction):
        return table[round(fraction * (len(table) - 1))]

    area = 1.1**2
    expected = resample(image, x, y, weights) * area
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(np.isnan(out), flags > 0)
    np.testing.assert_allclose(out, expected, atol=3e-3)  # the twin takes the nearest of 2048 fractions


def test_flux_of_a_star_is_kept():
    cd = [-1e-4, 0, 0, 1e-4]
    y, x = np.mgrid[:80, :80]
    image = 1e4 * np.exp(-((x - 40.3) ** 2 + (y - 38.8) ** 2) / (2 * 2.0**2)) / (2 * np.pi * 4)
    exposure = Exposure(image.astype("f4"), None, np.ones((80, 80), "f4"), wcs=tan_wcs(40, 40, 10, 20, cd))
    warped = warp_exposure(exposure, tan_wcs(40, 40, 10, 20, np.array(cd) * 1.25), Box(10, 10, 60, 60))
    assert warped.image.sum() == pytest.approx(1e4, rel=1e-3)


def test_no_overlap_and_no_wcs_are_errors():
    cd = [-1e-4, 0, 0, 1e-4]
    exposure = Exposure(np.ones((50, 50), "f4"), wcs=tan_wcs(25, 25, 10, 20, cd))
    with pytest.raises(AlgorithmError, match="overlap"):
        warp_exposure(exposure, tan_wcs(25, 25, 12, 20, cd), Box(0, 0, 50, 50))
    with pytest.raises(InputError):
        warp_exposure(Exposure(np.ones((50, 50), "f4")), exposure.wcs, Box(0, 0, 50, 50))
    with pytest.raises(InputError):
        interpolation_table("lanczos99")


def test_same_grid():
    cd = [-1e-4, 0, 0, 1e-4]
    wcs = tan_wcs(25, 25, 10, 20, cd)
    assert same_grid(wcs, wcs.deepcopy(), Box(0, 0, 50, 50))
    assert not same_grid(wcs, tan_wcs(25.2, 25, 10, 20, cd), Box(0, 0, 50, 50))


def test_what_dead_pixels_hold_does_not_ring_into_their_neighbours():
    image = np.full((40, 50), 7000.0, np.float32)
    mask = Mask.zeros(image.shape)
    dead = np.zeros(image.shape, bool)
    dead[12:14, 20:23] = dead[:, 40] = dead[30] = True
    dead[25, 10] = True
    for plane, value, where in (("NO_DATA", 0.0, dead), ("BAD", 60000.0, np.roll(dead, 3, axis=1))):
        mask.set(plane, where)
        image[where] = value
    image[20, 30] = np.nan
    mask.set("NO_DATA", ~np.isfinite(image))
    y, x = np.indices((30, 36), float)
    out, variance, flags = resample_arrays(
        image, np.full_like(image, 9.0), mask, x + 6.5, y + 5.3, missing=("NO_DATA", "BAD")
    )
    clean = flags == 0
    assert 0.5 < clean.mean() < 0.9
    np.testing.assert_allclose(out[clean], 7000.0, atol=0.01)
    assert (variance[clean] > 0).all()
