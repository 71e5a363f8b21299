"""Whole processing of two more real images: an old CCD frame with flat patches, a crowded undersampled JWST cutout."""

import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.spatial import cKDTree

from starmill.background.mesh import estimate_background
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ConstantField
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.datamodel.psf import PixelBasisPsf, adaptive_moments
from starmill.io.exposure_file import read_exposure
from starmill.measurement.joint_psf import fit_point_sources
from starmill.tasks.characterize import CharacterizeImageTask
from starmill.tasks.deblend import SourceDeblendTask
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from starmill.tasks.prepare import PrepareExposureTask

pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")


@pytest.fixture(scope="module")
def emmi(shared_data):
    """NTT EMMI frame: gain, characterised."""
    path = shared_data("ntt_emmi") / "galaxies.fits.bz2"
    raw = fits.getdata(path).astype(float)
    flat = maximum_filter(raw, 3) == minimum_filter(raw, 3)  # patches that somebody overwrote by a constant
    level = np.median(raw[~flat])
    gain = level / (1.4826 * np.median(np.abs(raw[~flat] - level))) ** 2
    mask = Mask.zeros(raw.shape)
    mask.set("NO_DATA", maximum_filter(flat.astype(np.uint8), 3) > 0)
    image = (raw * gain).astype(np.float32)
    return path, gain, CharacterizeImageTask().run(exposure=Exposure(image, mask, np.maximum(image, 1)))


def test_emmi_background_and_psf(emmi):
    _, gain, result = emmi
    level = np.median(sum(field.image(result.exposure.box) for field in result.background)) / gain
    assert level == pytest.approx(6846, abs=5)
    assert not result.is_psf_fallback
    assert 1.5 < result.exposure.psf.fwhm_at() < 2.5
    assert result.psf_stars.used.sum() >= 20
    overwritten = result.exposure.mask.any("NO_DATA")
    assert overwritten.mean() > 0.02
    x, y = (np.round(result.catalog[name]).astype(int).clip(0, 1023) for name in ("peak_x", "peak_y"))
    assert result.catalog["pixel_flag_no_data_center"][overwritten[y, x]].all()


def test_emmi_sources_are_those_of_sextractor(emmi, tmp_path):
    path, _, result = emmi
    program = shutil.which("source-extractor") or shutil.which("sex")
    if program is None:
        pytest.skip("SExtractor is not installed")
    fits.writeto(tmp_path / "i.fits", fits.getdata(path).astype(np.float32))
    (tmp_path / "p.param").write_text("X_IMAGE\nY_IMAGE\nFLUX_AUTO\nFLUXERR_AUTO\n")
    (tmp_path / "g.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
    (tmp_path / "d.sex").write_text("")
    command = [
        program, "i.fits", "-c", "d.sex", "-CATALOG_NAME", "o.cat", "-CATALOG_TYPE", "FITS_1.0", "-PARAMETERS_NAME",
        "p.param", "-FILTER_NAME", "g.conv", "-DETECT_THRESH", "1.5", "-DETECT_MINAREA", "5", "-VERBOSE_TYPE", "QUIET",
    ]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = fits.getdata(tmp_path / "o.cat", 1)
    catalog = result.catalog[np.isfinite(result.catalog["x"])]
    near, _ = cKDTree(np.c_[catalog["x"], catalog["y"]]).query(
        np.c_[theirs["X_IMAGE"] - 1, theirs["Y_IMAGE"] - 1]
    )
    snr = theirs["FLUX_AUTO"] / theirs["FLUXERR_AUTO"]
    assert (near[snr > 5] < 2.5).mean() > 0.94
    assert (near[snr > 20] < 2.5).mean() > 0.96


@pytest.fixture(scope="module")
def nircam(shared_data):
    """JWST NIRCam cutout in the SMC with the PSF that came with it, and its noise."""
    folder = shared_data("nircam_smc")
    with fits.open(folder / "image.fits.gz") as hdus:
        pixels, noise = (hdus[name].data.astype(np.float32) for name in ("SCI", "ERR"))
        quality, wcs = hdus["DQ"].data, WCS(hdus["SCI"].header)
    kernel = fits.getdata(folder / "psf.fits.gz")
    mask = Mask.zeros(pixels.shape)
    mask.set("BAD", quality != 0)  # bright single pixels among them
    mask.set("NO_DATA", ~np.isfinite(pixels))
    bad = mask.bits("BAD", "NO_DATA")
    sky = estimate_background(np.nan_to_num(pixels), mask.array, bits=bad, bin_size=25).field
    box = Box.from_shape(pixels.shape)
    psf = PixelBasisPsf(kernel[None] / kernel.sum(), [ConstantField(box, 1.0)], size=41)
    return Exposure(
        pixels - sky.image(box).astype(np.float32), mask, noise**2, psf=psf, wcs=wcs, unit="MJy/sr"
    )


def test_nircam_photometry_in_a_crowd(nircam):
    config = SourceDetectionConfig(
        re_estimate_background=False, use_local_background=False, search_edge=True, sharpen_peaks=True
    )
    found = SourceDetectionTask(config).run(exposure=nircam)
    catalog = SourceDeblendTask().run(exposure=found.exposure, catalog=found.catalog).catalog
    names = ["centroid", "sky", "shape", "pixel", "psf_flux", "aperture_flux"]
    measured = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=names)).run(
        exposure=found.exposure, catalog=catalog
    )
    stars = measured.catalog[measured.catalog["n_child"] == 0]
    assert 50 < len(stars) < 110
    # RA and Dec by the distorted WCS of the cutout
    ra, dec = nircam.wcs.all_pix2world(stars["x"], stars["y"], 0)
    good = np.isfinite(stars["ra"])
    np.testing.assert_allclose(stars["ra"][good], ra[good], atol=1e-8)
    np.testing.assert_allclose(stars["dec"][good], dec[good], atol=1e-8)
    # no source sits on a pixel that has no data
    ix, iy = np.round(stars["x"]).astype(int), np.round(stars["y"]).astype(int)
    inside = (ix >= 0) & (ix < 100) & (iy >= 0) & (iy < 100)
    lost = nircam.mask.any("BAD", "NO_DATA")[iy[inside], ix[inside]]
    assert (stars["pixel_flag_bad_center"][inside] | stars["pixel_flag_no_data_center"][inside] | ~lost).all()
    fit = fit_point_sources(found.exposure, stars["x"], stars["y"], position_iterations=3)
    good = nircam.mask.array == 0
    before, after = ((pixels / np.sqrt(nircam.variance))[good] for pixels in (nircam.image, fit.residual))
    assert np.percentile(np.abs(after), 99) < 0.5 * np.percentile(np.abs(before), 99)
    # isolated bright stars: aperture of 6 pixels, 88 to 94 per cent of the light in this band
    bright = (fit.flux > 100 * fit.flux_err) & np.isfinite(stars["aperture_flux_6_0"])
    ratio = stars["aperture_flux_6_0"][bright] / fit.flux[bright]
    assert (np.abs(ratio - 0.89) < 0.05).sum() >= 3


def test_nircam_as_it_is_in_the_archive(shared_data):
    """Noise and bad pixels come with the file; all its bright sources are one blend, of which come the PSF stars."""
    folder = shared_data("nircam_smc")
    exposure = read_exposure(folder / "image.fits.gz")
    assert exposure.mask.any("BAD").sum() > 150
    prepared = PrepareExposureTask().run(exposure=exposure)
    assert prepared.variance_from == "file"
    result = CharacterizeImageTask().run(exposure=prepared.exposure)
    assert result.exposure.unit == "MJy/sr"
    kernel = fits.getdata(folder / "psf.fits.gz").astype(float)
    model = 2.3548 * np.sqrt(adaptive_moments(kernel[None])[0][:2].mean())
    assert result.exposure.psf.fwhm_at() == pytest.approx(model, rel=0.1)
    stars = result.catalog[result.catalog["n_child"] == 0]
    assert 50 < len(stars) < 110
    assert (stars["psf_flux"] > 20 * stars["psf_flux_err"]).sum() > 12
