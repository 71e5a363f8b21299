"""Our PSF of real cutouts beside the PSFEx model that came with their pixels."""

import numpy as np
import pytest
from astropy.io import fits

from starmill.datamodel.exposure import Exposure
from starmill.io.psfex import read_psfex
from starmill.tasks.characterize import characterize

CASES = {  # stars of the cutout, relative difference of the FWHM that they and the place on the detector allow
    "testcase4": (3, 0.02),
    "testcase8": (1, 0.025),
}


@pytest.mark.parametrize("name", CASES)
def test_fwhm_and_shape_equal_those_of_psfex(name, shared_data):
    folder = shared_data("psf_legacypipe") / name
    model = read_psfex(next(folder.glob("calib/psfex/**/*-psfex.fits*")))
    path = next(folder.glob("images/decam/**/*_ooi_*.fits*"))
    weight, quality = (
        fits.getdata(path.with_name(path.name.replace("_ooi_", f"_{kind}_")), 1) for kind in ("oow", "ood")
    )
    variance = np.where(weight > 0, 1 / np.where(weight > 0, weight, 1), 1).astype(np.float32)
    exposure = Exposure(fits.getdata(path, 1).astype(np.float32), variance=variance)
    exposure.mask.set("BAD", (weight <= 0) | (quality != 0))
    options = {
        "measure_psf.order": 0,
        "measure_psf.select.min_snr": 40.0,
        "install_psf.fwhm": 4.0,
        "deep": False,
    }
    result = characterize(exposure, options)
    psf, (stars, tolerance) = result.exposure.psf, CASES[name]
    assert result.psf_stars.used.sum() >= stars
    # the place of the cutout on the detector is not known: the model of the middle stands for it
    x, y = model.average_position
    assert psf.fwhm_at() == pytest.approx(model.fwhm_at(x, y), rel=tolerance)
    ours, theirs = psf.shape_at(), model.shape_at(x, y)
    e1, e2 = (((m[0] - m[1]) / (m[0] + m[1]), 2 * m[2] / (m[0] + m[1])) for m in (ours, theirs))
    np.testing.assert_allclose(e1, e2, atol=0.05)
