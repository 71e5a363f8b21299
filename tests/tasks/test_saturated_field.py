"""Fields that hardly anything can be measured in: flagged, in bounded time, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.errors import AlgorithmError
from starmill.tasks.characterize import CharacterizeImageTask
from starmill.tasks.deblend import SourceDeblendTask
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask
from starmill.tasks.measure import SingleFrameMeasurementTask

SIDE, SIGMA, LIMIT = 240, 1.6, 60_000.0


@pytest.fixture(scope="module")
def field():
    """Stars of which the brightest saturate most of the field; every saturated pixel is marked."""
    rng = np.random.default_rng(8)
    x, y = rng.uniform(3, SIDE - 4, (2, 60))
    flux = np.r_[np.full(6, 1e11), rng.uniform(3e4, 2e5, 54)]
    yy, xx = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for a, b, f in zip(x, y, flux, strict=True):
        r2 = (xx - a) ** 2 + (yy - b) ** 2
        image += f * (
            0.9 * np.exp(-r2 / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
            + 0.1 * 1.5 / np.pi / 9 * (1 + r2 / 9) ** -2.5
        )
    image = rng.poisson(image + 200) - 200.0
    full = image > LIMIT
    exposure = Exposure(
        np.minimum(image, LIMIT), None, np.minimum(image, LIMIT).clip(0) + 200, psf=GaussianPsf(SIGMA, 25)
    )
    exposure.mask.set("SAT", full)
    return exposure


def test_sources_of_a_saturated_field_stay_and_are_flagged(field):
    exposure = field
    saturated = exposure.mask.any("SAT")
    assert saturated.mean() > 0.1
    config = SourceDetectionConfig(re_estimate_background=False, use_local_background=False, search_edge=True)
    found = SourceDetectionTask(config).run(exposure=exposure)
    deblended = SourceDeblendTask().run(exposure=found.exposure, catalog=found.catalog)
    measured = (
        SingleFrameMeasurementTask().run(exposure=deblended.exposure, catalog=deblended.catalog).catalog
    )
    assert len(measured) == len(deblended.catalog)
    assert np.isin(found.catalog["id"], measured["id"]).all()
    assert set(np.unique(measured["parent"][measured["parent"] > 0])) <= set(found.catalog["id"])
    # every saturated pixel belongs to a footprint whose source says so
    covered = np.zeros(saturated.shape, np.int32)
    found.catalog.footprints.set_mask(covered, 1)
    assert (covered[saturated] == 1).all()
    parents = measured[measured["parent"] == 0]
    touched = [
        any(saturated[row, first : last + 1].any() for row, first, last in footprint.spans)
        for footprint in parents.footprints
    ]
    np.testing.assert_array_equal(parents["pixel_flag_saturated"], touched)
    good = ~measured["psf_flux_flag"]
    assert np.isfinite(measured["psf_flux"][good]).all()
    assert np.isfinite(measured["psf_flux_err"][good]).all()


def test_an_image_of_saturated_pixels_alone_is_a_typed_error(field):
    exposure = field.copy()
    exposure.image[...] = LIMIT
    exposure.mask.set("SAT", np.s_[:, :])
    with pytest.raises(AlgorithmError):
        CharacterizeImageTask().run(exposure=exposure)


def test_characterising_a_saturated_field_ends(field):
    exposure = field
    config = CharacterizeImageTask.Config().override({"measure_psf.allow_gaussian": True})
    result = CharacterizeImageTask(config).run(exposure=exposure)
    assert len(result.catalog) > 0
    assert result.exposure.psf is not None
