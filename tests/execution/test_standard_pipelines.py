"""The standard pipelines on small simulated data, each from the repository and back."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.execution.session import PipelineRequest, run_pipeline
from starmill.pipelines import load_pipeline
from starmill.repository import Repository
from starmill.repository.ingest_maps import ingest_maps
from starmill.repository.verify import verify


def _starry(rng, sigma, extra=()):
    """Return an exposure with 60 stars of a given width; `extra` are further (x, y, flux)."""
    y, x = np.mgrid[0:240, 0:240].astype(float)
    stars = np.random.default_rng(1).uniform((10, 10, 2000), (230, 230, 40000), size=(60, 3))
    image = np.zeros((240, 240))
    for x0, y0, flux in [*stars, *extra]:
        image += flux / (2 * np.pi * sigma**2) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    variance = image + 100.0
    noisy = image + rng.normal(size=image.shape) * np.sqrt(variance)
    exposure = Exposure(noisy.astype(np.float32), None, variance.astype(np.float32))
    exposure.psf = GaussianPsf(sigma, 21)
    return exposure


def test_difference_finds_the_template_of_each_band(tmp_path):
    rng = np.random.default_rng(6)
    root = tmp_path / "repo"
    with Repository.create(root, output="images") as repository:
        where = {"instrument": "toycam", "detector": 0}
        repository.put(_starry(rng, 1.5), "template", **where, band="g")
        new = _starry(rng, 2.0, [(120.0, 77.0, 9000.0)])
        repository.commit(
            {
                "exposures": [
                    {"instrument": "toycam", "exposure": number, "band": band}
                    for number, band in ((1, "g"), (2, "r"))
                ]
            }
        )
        repository.put(new, "characterized", **where, exposure=1)
        repository.put(new, "characterized", **where, exposure=2)
    summary = run_pipeline(PipelineRequest(str(root), load_pipeline("difference"), ("images",), "diff"))
    assert summary.exit_code == 0, summary.errors
    assert summary.counts["difference"]["done"] == 1, "there is no template in r"
    with Repository(root) as repository:
        difference = repository.get("difference", exposure=1)
        significance = repository.get("difference_score", exposure=1).image
        y, x = np.unravel_index(np.nanargmax(significance), significance.shape)
        assert abs(x - 120) <= 1
        assert abs(y - 77) <= 1
        assert difference.image.shape == (240, 240)
        assert repository.get("matching_kernel", exposure=1).sum_at(120.0, 120.0) == pytest.approx(
            1.0, abs=0.05
        )
        assert verify(repository).is_clean


def test_compact_measures_every_channel(tmp_path):
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:64, 0:64].astype(float)
    sigma = 2.5
    source = np.exp(-((x - 30.3) ** 2 + (y - 33.6) ** 2) / (2 * sigma**2))
    cube = np.array([rng.normal(scale=0.02, size=(64, 64)) + peak * source for peak in (1.0, 2.0)], "f4")
    header = fits.Header(
        {
            "BUNIT": "Jy/beam", "BMAJ": 2.3548 * sigma / 3600, "BMIN": 2.3548 * sigma / 3600, "BPA": 0.0,
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 32.0, "CRPIX2": 32.0,
            "CDELT1": -1 / 3600, "CDELT2": 1 / 3600,
        }
    )  # fmt: skip
    fits.PrimaryHDU(cube, header).writeto(tmp_path / "cube.fits")
    root = tmp_path / "repo"
    with Repository.create(root) as repository:
        assert ingest_maps(repository, [tmp_path / "cube.fits"]) == 2
    summary = run_pipeline(PipelineRequest(str(root), load_pipeline("compact"), ("maps",), "sources"))
    assert summary.exit_code == 0, summary.errors
    with Repository(root) as repository:
        for channel in (0, 1):
            catalog = repository.get("compact_sources", map="cube", channel=channel)
            assert len(catalog) >= 1
        assert verify(repository).is_clean
