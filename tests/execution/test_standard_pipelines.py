"""The standard pipelines on small simulated data, each from the repository and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.execution.provenance import quantum_record
from starmill.execution.rerun import rerun_dataset
from starmill.execution.session import PipelineRequest, plan, run_pipeline
from starmill.pipelines import load_pipeline
from starmill.repository import Repository
from starmill.repository.ingest_maps import ingest_maps
from starmill.repository.sky_overlap import corners_of
from starmill.repository.sky_regions import SkyRegion
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


def _wcs(ra, dec, turn=0.0, origin=(119.5, 119.5)):
    """Return a tangent projection of 1 arcsec per pixel about a position, turned by an angle (degree)."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra, dec], [origin[0] + 1, origin[1] + 1]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) / 3600
    wcs.wcs.set()
    return wcs


def _region(exposure):
    region = SkyRegion.from_corners(json.loads(corners_of(exposure)))
    return {
        "ra": region.ra,
        "dec": region.dec,
        "radius": region.radius,
        "corners": json.dumps(region.corners),
        "tiles": region.tiles,
    }


def test_difference_takes_the_template_that_covers_most_of_the_exposure(tmp_path):
    rng = np.random.default_rng(6)
    root = tmp_path / "repo"
    step = 60 / 3600  # degree: a quarter of the field
    new = _starry(rng, 2.0, [(120.0, 77.0, 9000.0)])
    new.wcs = _wcs(10.0, 20.0)
    field = _starry(rng, 1.5)
    field.wcs = _wcs(10.0, 20.0)
    aside, elsewhere = _starry(rng, 1.5), _starry(rng, 1.5)
    aside.wcs, elsewhere.wcs = _wcs(10.0, 20.0 + 3 * step), _wcs(40.0, 20.0)
    numbers = ((1, "g"), (2, "r"), (3, "z"))
    with Repository.create(root, output="images") as repository:
        for patch, (band, exposure) in enumerate(
            (("g", aside), ("g", elsewhere), ("g", field), ("r", elsewhere))
        ):
            repository.put(exposure, "sky_template", band=band, tract=1, patch=patch)
        frames = [{"instrument": "toycam", "exposure": number, "detector": 0} for number, _ in numbers]
        rows = [{"instrument": "toycam", "exposure": number, "band": band} for number, band in numbers]
        repository.commit({"exposures": rows, "regions": [frame | _region(new) for frame in frames]})
        for frame in frames:
            repository.put(new, "characterized", frame)
        assert [
            ref.data_id["patch"] for ref in repository.query("sky_template", at=(40.0, 20.0), band="g")
        ] == [1]
        assert len(repository.query("sky_template", at=(10.0, 20.0), radius=0.02)) == 2
    request = PipelineRequest(str(root), load_pipeline("difference"), ("images",), "diff")
    with plan(request) as prepared:
        text = prepared.graph.explain()
        assert "none of 1 sky_template overlaps it on the sky" in text
        assert "no sky_template with band=z" in text
    summary = run_pipeline(request)
    assert summary.exit_code == 0, summary.errors
    assert summary.counts["difference"]["done"] == 1
    with Repository(root) as repository:
        record = quantum_record(repository, repository.find("difference", exposure=1).quantum)
        used = {item["keyword"]: item["id"] for item in record["inputs"]}
        assert used["template"] == repository.find("sky_template", band="g", patch=2).id
        significance = repository.get("difference_score", exposure=1).image
        y, x = np.unravel_index(np.nanargmax(significance), significance.shape)
        assert abs(x - 120) <= 1
        assert abs(y - 77) <= 1
        catalog = repository.get("difference_catalog", exposure=1)
        assert (np.hypot(catalog["x"] - 120, catalog["y"] - 77) < 1).any()
        kernel = repository.get("matching_kernel", exposure=1)
        assert kernel.sum_at(120.0, 120.0) == pytest.approx(1.0, abs=0.05)
        again = rerun_dataset(repository, repository.find("difference", exposure=1))
        kinds = ("difference", "difference_score", "difference_catalog", "matching_kernel")
        assert again.identical == dict.fromkeys(kinds, True)
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
