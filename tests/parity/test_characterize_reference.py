"""Two real frames characterised here and by the LSST stack, end to end.

The frames are rebuilt by the script that comes with the reference results. The tolerances say how far two programs
may differ that choose stars and model the PSF in their own ways; docs/explanation/parity.md explains each difference.
"""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import adaptive_moments
from starmill.tasks.characterize import CharacterizeImageConfig, CharacterizeImageTask

pytestmark = pytest.mark.slow

STACK_LIKE = {
    "deep": False, "measure_psf.determiner": "pca", "measure_psf.stamp_size": 41, "measure_psf.select.min_width": 0.9,
    "measure_psf.select.sharp_width": 0.0,
    "measure.options": {"centroid": {"undersampled_fwhm": 0.0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference_inputs")
    for name in ("raw_lowell42", "diff_wircam"):
        shared_data(name)
    script = shared_data("reference_lsst") / "make_inputs.py"
    subprocess.run([sys.executable, script, script.parent.parent, folder], check=True)
    return folder


def compare(inputs, folder, file_name, reference_name):
    with fits.open(inputs / file_name) as hdus:
        exposure = Exposure(*(hdus[name].data for name in ("IMAGE", "MASK", "VARIANCE")))
    task = CharacterizeImageTask(CharacterizeImageConfig().override(STACK_LIKE))
    result = task.run(exposure=exposure)
    catalog = result.catalog
    reference = fits.getdata(folder / f"{reference_name}_characterize.fits.gz", 1)
    tree = cKDTree(np.stack([catalog["x"], catalog["y"]], axis=1))
    positions = np.stack([reference["slot_Centroid_x"], reference["slot_Centroid_y"]], axis=1)
    distance, row = tree.query(np.nan_to_num(positions, nan=-1e6))
    clean = (distance < 1) & ~reference["slot_Centroid_flag"] & ~reference["base_PixelFlags_flag_crCenter"]
    for flag in ("centroid_flag", "pixel_flag_saturated_center", "pixel_flag_edge", "pixel_flag_cr_center"):
        clean &= ~catalog[flag][row]
    background = sum(part.image()[::8, ::8] for part in result.background)
    with fits.open(folder / f"{reference_name}_backgrounds_step8.fits.gz") as hdus:
        theirs = hdus["CHARACTERIZE_BACKGROUND"].data
    return SimpleNamespace(
        result=result, catalog=catalog, reference=reference, matched=distance < 1, row=row, clean=clean,
        noise=np.sqrt(np.median(exposure.variance)),
        psf=fits.getdata(folder / f"{reference_name}_characterize_psf.fits.gz", 0),
        background=background[: theirs.shape[0], : theirs.shape[1]] - theirs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wircam(inputs, shared_data):
    return compare(inputs, shared_data("reference_lsst"), "wircam.fits", "wircam")


@pytest.fixture(scope="module")
def lowell(inputs, shared_data):
    return compare(inputs, shared_data("reference_lsst"), "lowell0126.fits", "lowell")


def spread(values):
    return 1.4826 * np.nanmedian(np.abs(values - np.nanmedian(values)))


def ratio(frame, ours, theirs):
    with np.errstate(invalid="ignore", divide="ignore"):
        values = frame.catalog[ours][frame.row] / frame.reference[theirs] - 1
    return values[frame.clean & np.isfinite(values)]


def test_wircam_background(wircam):
    assert abs(np.median(wircam.background)) < 0.005 * wircam.noise
    assert np.abs(wircam.background).max() < 0.03 * wircam.noise


def test_lowell_background(lowell):
    """Twilight and a vignetted field: the corners, mostly masked, are extrapolated."""
    assert abs(np.median(lowell.background)) < 0.01 * lowell.noise
    assert spread(lowell.background) < 0.02 * lowell.noise


def test_wircam_psf(wircam):
    xx, yy, xy = adaptive_moments(wircam.psf[None])[0]
    ours = wircam.result.exposure.psf.shape_at()
    assert abs(wircam.result.exposure.psf.sigma_at() / (xx * yy - xy**2) ** 0.25 - 1) < 0.015
    np.testing.assert_allclose(ours, (xx, yy, xy), atol=0.035)  # 3 % of xx
    used = wircam.reference["calib_psf_used"] & wircam.matched
    assert wircam.catalog["psf_used"][wircam.row][used].mean() > 0.9


def test_lowell_psf(lowell):
    """Three stars only are wider than the 0.9 pixels that the stack asks for: a weak reference."""
    xx, yy, xy = adaptive_moments(lowell.psf[None])[0]
    assert abs(lowell.result.exposure.psf.sigma_at() / (xx * yy - xy**2) ** 0.25 - 1) < 0.06
    assert lowell.catalog["psf_used"].sum() <= 5


@pytest.mark.parametrize("name", ["wircam", "lowell"])
def test_sources(name, request):
    frame = request.getfixturevalue(name)
    assert frame.matched.mean() > 0.9
    assert abs(len(frame.catalog) / len(frame.reference) - 1) < 0.05
    dx = (frame.catalog["x"][frame.row] - frame.reference["slot_Centroid_x"])[frame.clean]
    # the centroid is sought in the image smoothed with the PSF, and the PSF models differ
    assert abs(np.median(dx)) < 0.015
    assert spread(dx) < 0.015


def test_wircam_fluxes_and_shapes(wircam):
    for radius, median, scatter in ((6, 1e-3, 4e-3), (12, 1e-3, 6e-3)):
        values = ratio(wircam, f"aperture_flux_{radius}_0", f"base_CircularApertureFlux_{radius}_0_instFlux")
        assert abs(np.median(values)) < median
        assert spread(values) < scatter
    for part in ("xx", "yy"):
        values = ratio(wircam, f"shape_{part}", f"slot_Shape_{part}")
        assert abs(np.median(values)) < 2e-3
        assert spread(values) < 4e-3


def test_lowell_fluxes(lowell):
    for radius in (6, 12):
        values = ratio(lowell, f"aperture_flux_{radius}_0", f"base_CircularApertureFlux_{radius}_0_instFlux")
        assert abs(np.median(values)) < 0.01
        assert spread(values) < 0.015


def test_wircam_psf_fluxes_agree_up_to_a_smooth_field(wircam):
    """The stack has multiplied its PSF fluxes by an aperture correction that its catalogue does not tell."""
    values = ratio(wircam, "psf_flux", "base_PsfFlux_instFlux")
    finite = np.isfinite(wircam.catalog["psf_flux"][wircam.row] / wircam.reference["base_PsfFlux_instFlux"])
    rows = wircam.row[wircam.clean & finite]
    u, v = wircam.catalog["x"][rows] / 1024 - 1, wircam.catalog["y"][rows] / 1024 - 1
    terms = np.stack([u**i * v**j for i in range(3) for j in range(3 - i)], axis=1)
    kept = np.ones(len(values), bool)
    for _ in range(5):
        residual = values - terms @ np.linalg.lstsq(terms[kept], values[kept], rcond=None)[0]
        kept = np.abs(residual) < 4 * spread(residual[kept])
    assert spread(residual) < 0.04
