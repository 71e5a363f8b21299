"""Detection and deblending of a real frame that the LSST stack processed, step by step."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.tasks.deblend import SourceDeblendConfig, SourceDeblendTask
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask
from starmill.tasks.subtract_background import SubtractBackgroundTask

GAIN, PEDESTAL = 3.8, 7000.0


@pytest.fixture(scope="module")
def processed(shared_data):
    """The WIRCam frame as the stack saw it, its record, and our detection and deblending."""
    raw = fits.getdata(shared_data("diff_wircam") / "wircam_H2_1319412p.fits.fz").astype(float)
    folder = shared_data("reference_lsst")
    bad = raw <= 0
    median = np.median(raw[~bad])
    noise = 1.4826 * np.median(abs(raw[~bad] - median))
    image = np.where(bad, 0, (raw - PEDESTAL) * GAIN)
    variance = np.maximum(raw - median, 0) * GAIN + (noise * GAIN) ** 2
    bright = binary_dilation(raw > median + 8000, iterations=3)
    mask = np.where(bad & bright, 2, 0) | np.where(bad & ~bright, 1, 0)
    image[bad & bright] = np.nanmax(image)
    exposure = Exposure(image, mask.astype(np.int32), variance, psf=GaussianPsf(1.02, 7))
    exposure = SubtractBackgroundTask().run(exposure=exposure).exposure
    with fits.open(folder / "wircam_repaired_pixels.fits.fz") as repaired:
        pixels = repaired["REPAIRED"].data
        exposure.image[pixels["y"], pixels["x"]] = pixels["value"]
        exposure.mask.array[...] = repaired["MASK"].data
    record = json.loads((folder / "wircam_timings.json").read_text())["info"]
    reference = fits.getdata(folder / "wircam_tutorial.fits.gz", 1)
    config = SourceDetectionConfig(missing_planes=["NO_DATA"])  # the stack convolves bad pixels as they are
    sigma = record["wircam_psf_gauss"]["sigma"]
    found = SourceDetectionTask(config).run(exposure=exposure, sigma=sigma)
    deblended = SourceDeblendTask(SourceDeblendConfig(psf_sweeps=1)).run(
        exposure=found.exposure, catalog=found.catalog
    )
    return record, reference, found, deblended.catalog


def test_detections_are_those_of_the_stack(processed):
    record, reference, found, _ = processed
    assert len(found.catalog) == record["n_footprints"] == np.count_nonzero(reference["parent"] == 0)
    assert abs(found.n_positive_peaks - record["n_peaks"]) <= 2  # the local background rounds differently


def test_children_are_those_of_the_stack(processed):
    _, reference, _, catalog = processed
    mine, theirs = catalog[catalog["parent"] > 0], reference[reference["parent"] > 0]
    assert_allclose(len(mine), len(theirs), rtol=0.02)
    tree = cKDTree(np.c_[mine["deblend_peak_x"], mine["deblend_peak_y"]])
    distance, index = tree.query(np.c_[theirs["deblend_peak_center_x"], theirs["deblend_peak_center_y"]])
    same = distance == 0
    assert same.mean() > 0.98
    as_psf = mine["deblended_as_psf"][index][same]
    assert (as_psf == theirs["deblend_deblendedAsPsf"][same]).mean() > 0.9


def test_fitted_point_sources_are_those_of_the_stack(processed):
    """Where both fit at the peak pixel; the stack's own stars hardly ever move to the better place."""
    _, reference, _, catalog = processed
    mine, theirs = catalog[catalog["parent"] > 0], reference[reference["parent"] > 0]
    tree = cKDTree(np.c_[mine["deblend_peak_x"], mine["deblend_peak_y"]])
    distance, index = tree.query(np.c_[theirs["deblend_peak_center_x"], theirs["deblend_peak_center_y"]])
    mine = mine[index]
    centred = (mine["deblend_psf_x"] == mine["deblend_peak_x"]) & (
        theirs["deblend_psfCenter_x"] == theirs["deblend_peak_center_x"]
    )
    both = (distance == 0) & centred & mine["deblended_as_psf"] & theirs["deblend_deblendedAsPsf"]
    assert both.sum() > 30
    ratio = mine["deblend_psf_flux"][both] / theirs["deblend_psf_instFlux"][both]
    assert_allclose(np.median(ratio), 1, atol=5e-3)  # our Gaussian PSF differs by 2 per mille from theirs
