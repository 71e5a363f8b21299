"""PSFEx files: those of the Legacy Survey's tests, and our own."""

import numpy as np
import pytest
from astropy.io import fits

from starmill.datamodel.field import ChebyshevField
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import PixelBasisPsf
from starmill.errors import InputError
from starmill.io.psfex import read_psfex, write_psfex


@pytest.fixture
def model():
    rng = np.random.default_rng(3)
    box = Box(10, -20, 1000, 800)
    r = np.arange(31) - 15
    basis = np.stack([np.exp(-(r[:, None] ** 2 + r**2) / (2 * s**2)) for s in (2.0, 2.5, 3.0)])
    coefficients = [
        np.triu(rng.normal(size=(3, 3)))[:, ::-1] * 0.05 + (k == 0) * np.eye(3)[:1] for k in range(3)
    ]
    fields = [ChebyshevField(box, c) for c in coefficients]
    return PixelBasisPsf(basis, fields)


def test_round_trip(tmp_path, model):
    path = tmp_path / "model.psf"
    write_psfex(path, model, degree=4, header={"ACCEPTED": 55})
    copy = read_psfex(path, box=model.box)
    x, y = np.array([12.0, 500.0, 1000.0]), np.array([-15.0, 300.0, 770.0])
    np.testing.assert_allclose(
        copy.kernels_at(x, y), model.kernels_at(x, y), atol=1e-7
    )  # float32 in the file
    header = fits.getheader(path, 1)
    assert header["ACCEPTED"] == 55
    assert header["POLDEG1"] == 4
    assert abs(header["PSF_FWHM"] - model.fwhm_at()) < 1e-6


def test_oversampled_round_trip(tmp_path, model):
    fine = PixelBasisPsf(model.basis, model.fields, samples_per_pixel=2.0)
    path = tmp_path / "fine.psf"
    write_psfex(path, fine, degree=4)
    copy = read_psfex(path, box=model.box)
    assert copy.samples_per_pixel == 2.0
    np.testing.assert_allclose(copy.kernel_at(300, 200), fine.kernel_at(300, 200), atol=1e-7)


def test_files_that_are_no_model_are_refused(tmp_path, model):
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    with pytest.raises(InputError, match="PSF_MASK"):
        read_psfex(tmp_path / "empty.fits")
    path = tmp_path / "model.psf"
    write_psfex(path, model)
    with pytest.raises(InputError, match="row 4"):
        read_psfex(path, row=4)
    for card, value in (("POLDEG1", 3), ("POLNAME1", "MAG_AUTO"), ("POLNGRP", 2)):
        broken = tmp_path / f"{card}.psf"
        with fits.open(path) as hdus:
            hdus[1].header[card] = value
            hdus.writeto(broken)
        with pytest.raises(InputError):
            read_psfex(broken)
    (tmp_path / "short.psf").write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InputError):
        read_psfex(tmp_path / "short.psf")


def test_every_legacy_survey_model_reads(shared_data):
    folder = shared_data("psf_legacypipe")
    files = sorted({*folder.glob("**/*psfex*/**/*.fits.gz"), *folder.glob("**/psfex/**/*.psf")})
    assert len(files) > 30
    for path in files:
        psf = read_psfex(path)
        kernel = psf.kernel_at()
        assert abs(kernel.sum() - 1) < 1e-12
        peak = np.array(np.unravel_index(kernel.argmax(), kernel.shape))
        assert (
            np.abs(peak - psf.size // 2).max() <= 1
        )  # the models are centred by the positions of their stars
        assert 1.5 < psf.fwhm_at() < 8


def test_the_fwhm_of_the_header_is_the_fwhm_of_the_model(shared_data):
    folder = shared_data("psf_legacypipe")
    checked = 0
    for path in sorted({*folder.glob("**/psfex/*.psf"), *folder.glob("**/*psfex*/**/*.fits.gz")}):
        fwhm = fits.getheader(path, 1).get("PSF_FWHM")
        if fwhm is None:
            continue
        kernel = read_psfex(path).kernel_at()
        half_max = 2 * np.sqrt((kernel > 0.5 * kernel.max()).sum() / np.pi)
        assert abs(half_max / fwhm - 1) < 0.35  # whole pixels, and PSFEx gives the mean over its stars
        checked += 1
    assert checked


def test_a_star_is_drawn_where_it_is(shared_data):
    folder = shared_data("psf_legacypipe")
    psf = read_psfex(min(folder.glob("testcase7/calib/psfex/**/*.fits.gz")))
    x, y = (round(v) for v in psf.average_position)
    (base, *_), (moved, *_) = (psf.image_at(x + d, y - d) for d in (0.0, 0.4))
    yy, xx = np.mgrid[0 : psf.size, 0 : psf.size]
    for axis, sign in ((xx, 1), (yy, -1)):
        shift = (moved * axis).sum() / moved.sum() - (base * axis).sum() / base.sum()
        assert abs(shift - sign * 0.4) < 0.03
