"""The joint deblending task in two bands."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.errors import InputError
from starmill.tasks.deblend_joint import JointDeblendConfig, JointDeblendTask
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask

SOURCES = [(30, 30, 20000, 8000), (38, 31, 6000, 15000), (80, 60, 9000, 9000)]
SIGMAS = {"g": 1.4, "r": 1.8}


@pytest.fixture(scope="module")
def bands():
    y, x = np.mgrid[:90, :110]
    out = {}
    for b, (name, sigma) in enumerate(SIGMAS.items()):
        image = np.random.default_rng(b).normal(0, 3, x.shape)
        for cx, cy, *fluxes in SOURCES:
            image += (
                fluxes[b] * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
            )
        out[name] = Exposure(
            image, None, np.full(x.shape, 9.0), origin=(200, 100), psf=GaussianPsf(sigma, 25 + 2 * b)
        )
    return out


def test_children_in_every_band(bands):
    config = SourceDetectionConfig(re_estimate_background=False, use_local_background=False)
    catalog = SourceDetectionTask(config).run(exposure=bands["g"]).catalog
    task = JointDeblendTask()
    result = task.run(exposures=bands, catalog=catalog)
    assert (result.n_parents, result.n_children) == (1, 2)
    assert list(result.catalogs) == ["g", "r"]
    assert_array_equal(result.catalogs["g"]["id"], result.catalogs["r"]["id"])
    for b, (name, deblended) in enumerate(result.catalogs.items()):
        assert list(deblended.schema) == list(task.output_schema(catalog.schema))
        children = deblended[deblended["parent"] > 0].sorted("x")
        assert_allclose(children["deblend_model_flux"], [SOURCES[0][2 + b], SOURCES[1][2 + b]], rtol=0.05)
        total = np.zeros(bands[name].shape)
        for child in children:
            part = np.zeros(bands[name].shape)
            child.footprint.insert(part, bands[name].origin)
            total += part
        covered = total != 0
        assert_allclose(total[covered], bands[name].image[covered], rtol=1e-5, atol=1e-4)


def test_limits_and_bad_input(bands):
    config = SourceDetectionConfig(re_estimate_background=False, use_local_background=False)
    catalog = SourceDetectionTask(config).run(exposure=bands["g"]).catalog
    skipped = JointDeblendTask(JointDeblendConfig(max_work=10)).run(exposures=bands, catalog=catalog)
    assert skipped.n_children == 0
    assert skipped.catalogs["r"]["deblend_parent_too_big"].sum() == 1
    with pytest.raises(InputError, match="same box"):
        JointDeblendTask().run(
            exposures={"g": bands["g"], "r": bands["r"][bands["r"].box.grow(-1)]}, catalog=catalog
        )
