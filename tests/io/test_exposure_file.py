"""Exposures survive their file without loss; damaged and foreign files are handled."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from starmill.datamodel.exposure import Exposure, ObservationInfo
from starmill.datamodel.field import ChebyshevField, ConstantField
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import PixelBasisPsf
from starmill.errors import InputError
from starmill.io.exposure_file import read_exposure, read_exposure_component, write_exposure

BOX = Box(100, 50, 40, 30)


def make_exposure():
    rng = np.random.default_rng(1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.123456789012345, 2.2]
    wcs.wcs.crpix = [20.123456789, 10]
    wcs.wcs.cd = rng.normal(size=(2, 2)) * 1e-4
    basis = np.abs(rng.normal(size=(2, 11, 11)))
    exposure = Exposure(
        rng.normal(size=BOX.shape), variance=rng.random(BOX.shape), origin=BOX.origin, unit="electron", wcs=wcs,
        psf=PixelBasisPsf(basis, [ConstantField(BOX, 1), ChebyshevField(BOX, rng.normal(size=(3, 3)))]),
        photo_scale=ChebyshevField(BOX, [[3.0, 0.1]]),
        aperture_corrections={"psf_flux": (ConstantField(BOX, 1.01), ConstantField(BOX, 0.01))},
        info=ObservationInfo(object="M13", exposure_time=30.0, mjd=58606.3, extra={"dome": "open"}),
    )  # fmt: skip
    exposure.mask.set("CROSSTALK", exposure.image > 2)
    exposure.mask.set("SAT", exposure.image < -2)
    return exposure


@pytest.mark.parametrize("compress", [False, True])
def test_round_trip_without_loss(tmp_path, compress):
    exposure, path = make_exposure(), tmp_path / "e.fits"
    write_exposure(exposure, path, compress=compress, provenance={"task": "x"})
    back = read_exposure(path)
    for plane in ("image", "variance"):
        np.testing.assert_array_equal(getattr(back, plane), getattr(exposure, plane))
    np.testing.assert_array_equal(back.mask.array, exposure.mask.array)
    assert back.mask.planes.descriptions == exposure.mask.planes.descriptions
    assert (back.origin, back.unit, back.info) == (exposure.origin, exposure.unit, exposure.info)
    np.testing.assert_array_equal(back.psf.kernel_at(110, 60), exposure.psf.kernel_at(110, 60))
    np.testing.assert_array_equal(back.photo_scale.image(), exposure.photo_scale.image())
    assert back.aperture_corrections["psf_flux"][0](0, 0) == 1.01
    x, y = np.array([100.0, 139.0]), np.array([50.0, 79.0])
    np.testing.assert_allclose(back.sky_position(x, y), exposure.sky_position(x, y), rtol=1e-15)
    assert read_exposure_component(path, "provenance") == {"task": "x"}
    assert [p.name for p in tmp_path.iterdir()] == ["e.fits"]


def test_compressed_files_do_not_depend_on_the_time(tmp_path, monkeypatch):
    exposure, written = make_exposure(), []
    for now in (1e9, 1.5e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        write_exposure(exposure, tmp_path / "e.fits", compress=True)
        written.append((tmp_path / "e.fits").read_bytes())
    assert written[0] == written[1]
    np.testing.assert_array_equal(read_exposure(tmp_path / "e.fits").image, exposure.image)


def test_plain_astropy_sees_the_right_sky(tmp_path):
    exposure, path = make_exposure(), tmp_path / "e.fits"
    write_exposure(exposure, path)
    with fits.open(path) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(hdus["IMAGE"].header)
        assert hdus["MASK"].header["MP_CROSSTALK"] == 9
    here = np.array(wcs.all_pix2world(5, 7, 0))
    np.testing.assert_allclose(here, np.array(exposure.sky_position(105, 57)), rtol=1e-14)


def test_cutouts_and_components(tmp_path):
    exposure, path = make_exposure(), tmp_path / "e.fits"
    write_exposure(exposure, path)
    box = Box(110, 60, 8, 5)
    part = read_exposure(path, box=box)
    assert part.origin == (110, 60)
    np.testing.assert_array_equal(part.image, exposure[box].image)
    np.testing.assert_array_equal(part.mask.array, exposure[box].mask.array)
    assert read_exposure_component(path, "box") == BOX
    assert read_exposure_component(path, "info").object == "M13"
    np.testing.assert_array_equal(read_exposure_component(path, "psf").basis, exposure.psf.basis)
    with pytest.raises(InputError, match="no component"):
        read_exposure_component(path, "phase of the moon")
    with pytest.raises(InputError, match="lies outside"):
        read_exposure(path, box=Box(0, 0, 5, 5))


def test_every_truncation_is_an_input_error(tmp_path):
    path = tmp_path / "e.fits"
    write_exposure(make_exposure(), path)
    content = path.read_bytes()
    for size in [0, 1, 79, *range(2880, len(content), 2880), *range(1000, len(content), 4999)]:
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"e\.fits"):
            read_exposure(path)


def test_foreign_files(tmp_path):
    path = tmp_path / "plain.fits"
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    header = fits.Header({"EXPTIME": "60.", "FILTER": "r", "DATE-OBS": "2026-01-01T00:00:00", "GAIN": 2.0})
    fits.writeto(path, pixels, header)
    exposure = read_exposure(path)
    np.testing.assert_array_equal(exposure.image, pixels)
    assert (exposure.info.exposure_time, exposure.info.band, exposure.info.gain) == (60, "r", 2)
    assert exposure.info.mjd == pytest.approx(61041 + 30 / 86400)
    assert exposure.unit == "ADU"
    image = np.ones((3, 4), ">f4")
    image[1, 1] = np.nan
    mask = np.zeros((3, 4), np.uint8)
    mask[0, 0] = 4
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, name="SCI"), fits.ImageHDU(mask, name="MASK")]
    fits.HDUList(hdus).writeto(tmp_path / "mef.fits")
    exposure = read_exposure(tmp_path / "mef.fits")
    assert exposure.mask.any("BAD")[0, 0]
    assert exposure.mask.any("NO_DATA")[1, 1]
    assert exposure.image[1, 1] == 0


@pytest.mark.parametrize("telescope", ["JWST", "HST"])
def test_error_and_quality_extensions(tmp_path, telescope):
    """ERR and DQ are those of the same version as the SCI that is read."""
    hdus = [fits.PrimaryHDU(header=fits.Header({"TELESCOP": telescope}))]
    for version in (1, 2):
        hdus.append(fits.ImageHDU(np.full((3, 4), version, "f4"), name="SCI", ver=version))
        error, quality = np.full((3, 4), 2.0 * version, "f4"), np.zeros((3, 4), np.uint32)
        error[2, 3] = np.nan
        quality[0, :3] = 1, 2, 4  # of JWST: do not use, saturated, a jump that was corrected
        hdus += [
            fits.ImageHDU(error, name="ERR", ver=version),
            fits.ImageHDU(quality, name="DQ", ver=version),
        ]
    fits.HDUList(hdus).writeto(tmp_path / "stages.fits")
    for number, version in ((1, 1), (4, 2)):
        exposure = read_exposure(tmp_path / "stages.fits", number)
        assert (exposure.image[0, 0], exposure.variance[0, 0]) == (version, 4 * version**2)
        assert exposure.mask.any("NO_DATA").sum() == exposure.mask.any("NO_DATA")[2, 3] == 1
        bad, saturated = [True, False, False], [False, True, False]
        assert exposure.mask.any("BAD")[0, :3].tolist() == (bad if telescope == "JWST" else [True] * 3)
        assert exposure.mask.any("SAT")[0, :3].tolist() == (saturated if telescope == "JWST" else [False] * 3)
    part = read_exposure(tmp_path / "stages.fits", box=Box(1, 0, 2, 2))
    assert part.variance.shape == (2, 2)
    assert part.mask.any("BAD")[0, 0] == (telescope != "JWST")


@pytest.mark.parametrize(
    ("hdu", "message"),
    [("SCIENCE", "no such extension"), (7, "no such extension"), ("TABLE", "holds no image")],
)
def test_missing_extensions(tmp_path, hdu, message):
    path = tmp_path / "a.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=[1.0])], name="TABLE")
    fits.HDUList([fits.PrimaryHDU(np.ones((3, 3))), table]).writeto(path)
    with pytest.raises(InputError, match=message):
        read_exposure(path, hdu)


def test_not_fits(tmp_path):
    path = tmp_path / "a.fits"
    path.write_text("this is not FITS\n" * 500)
    with pytest.raises(InputError, match=r"a\.fits"):
        read_exposure(path)
    with pytest.raises(InputError, match="does not exist"):
        read_exposure(tmp_path / "b.fits")
    with pytest.raises(InputError, match="not a file"):
        read_exposure(tmp_path)
    hdus = [fits.PrimaryHDU(np.ones((4, 4))), fits.ImageHDU(np.ones((4, 5)), name="VARIANCE")]
    fits.HDUList(hdus).writeto(tmp_path / "c.fits")
    with pytest.raises(InputError, match=r"\(4, 5\).*\(4, 4\)"):
        read_exposure(tmp_path / "c.fits")
