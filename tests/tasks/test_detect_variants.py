"""Dynamic and adaptive thresholds, variance scaling, sky objects."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.errors import AlgorithmError
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask
from starmill.tasks.detect_adaptive import AdaptiveThresholdDetectionConfig, AdaptiveThresholdDetectionTask
from starmill.tasks.detect_dynamic import DynamicDetectionConfig, DynamicDetectionTask
from starmill.tasks.scale_variance import ScaleVarianceTask
from starmill.tasks.sky_objects import SkyObjectsConfig, SkyObjectsTask

SIGMA, NOISE = 1.6, 5.0


def star_field(variance_factor=1.0, sky=0.0, size=400, n=30, flux=6000, seed=3):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = rng.normal(sky, NOISE, (size, size))
    truth = rng.uniform(15, size - 15, (n, 2))
    for cx, cy in truth:
        image += flux * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    variance = np.full(image.shape, NOISE**2 * variance_factor)
    return Exposure(image, None, variance, origin=(7, 9), psf=GaussianPsf(SIGMA, 21))


@pytest.mark.parametrize("variance_factor", [0.25, 1.0, 4.0])
def test_dynamic_threshold_follows_the_true_noise(variance_factor):
    config = DynamicDetectionConfig(re_estimate_background=False, prelim_factor=0.8)
    result = DynamicDetectionTask(config).run(exposure=star_field(variance_factor), exposure_id=5)
    assert_allclose(result.factor, variance_factor**-0.5, rtol=0.25)  # some 150 places: 7 % error
    plain = SourceDetectionTask(SourceDetectionConfig(re_estimate_background=False)).run(
        exposure=star_field()
    )
    assert abs(len(result.catalog) - len(plain.catalog)) <= 4


def test_dynamic_background_tweak_removes_a_pedestal():
    config = DynamicDetectionConfig(re_estimate_background=False, prelim_factor=1.0)
    exposure = star_field(sky=0.8)
    result = DynamicDetectionTask(config).run(exposure=exposure, exposure_id=5)
    assert_allclose(result.level, 0.8, atol=0.3)  # 0.9 scatter of a place, some 200 places: 0.07
    assert_allclose(np.median(exposure.image - result.exposure.image), result.level, atol=1e-3)


def test_dynamic_needs_sky():
    exposure = star_field()
    exposure.mask.set("BAD", (slice(0, 395), slice(None)))
    with pytest.raises(AlgorithmError, match="empty places"):
        DynamicDetectionTask().run(exposure=exposure)


def test_adaptive_threshold_limits_the_number_of_peaks():
    config = AdaptiveThresholdDetectionConfig(
        max_peaks=20, re_estimate_background=False, threshold=0.5, min_footprints=5
    )
    result = AdaptiveThresholdDetectionTask(config).run(exposure=star_field(n=60))
    assert result.factor > 2
    assert result.thresholds[0] == 1.0
    assert len(result.catalog) >= 5


def test_adaptive_threshold_is_lowered_for_faint_sources():
    config = AdaptiveThresholdDetectionConfig(threshold=500.0, re_estimate_background=False)
    result = AdaptiveThresholdDetectionTask(config).run(exposure=star_field())
    assert result.factor < 1
    assert len(result.catalog) >= 15
    nothing = Exposure(np.zeros((100, 100)), None, np.ones((100, 100)), psf=GaussianPsf(SIGMA, 21))
    with pytest.raises(AlgorithmError, match="threshold"):
        AdaptiveThresholdDetectionTask(AdaptiveThresholdDetectionConfig(max_iterations=3)).run(
            exposure=nothing
        )


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_variance_is_scaled_to_the_scatter(factor):
    exposure = star_field(factor, sky=30.0)
    marked = SourceDetectionTask(SourceDetectionConfig()).run(exposure=star_field(1.0)).exposure
    exposure.mask.array[...] = marked.mask.array
    result = ScaleVarianceTask().run(exposure=exposure)
    assert_allclose(
        result.factor, 1 / factor, rtol=0.03
    )  # 1.5e5 pixels: 0.6 %; the 32-pixel background takes 0.5 %
    assert_allclose(result.exposure.variance, NOISE**2, rtol=0.03)
    assert exposure.variance[0, 0] == np.float32(NOISE**2 * factor)


def test_absurd_variance_is_an_error():
    with pytest.raises(AlgorithmError, match="too far"):
        ScaleVarianceTask().run(exposure=star_field(0.01))


def test_sky_objects_are_appended():
    found = SourceDetectionTask().run(exposure=star_field())
    task = SkyObjectsTask(SkyObjectsConfig(n_objects=40))
    result = task.run(exposure=found.exposure, catalog=found.catalog, exposure_id=3)
    catalog = result.catalog
    assert result.n_sky == catalog["sky_source"].sum() > 20
    assert len(catalog) == len(found.catalog) + result.n_sky
    assert len(np.unique(catalog["id"])) == len(catalog)
    sky = catalog[catalog["sky_source"]]
    assert not found.exposure.mask.any("DETECTED")[sky["y"].astype(int) - 9, sky["x"].astype(int) - 7].any()
    assert list(catalog.schema) == list(task.output_schema(found.catalog.schema))


def test_configuration_can_name_another_task_before_its_module_is_imported():
    code = (
        "from starmill.tasks.base import task_named\n"
        "assert task_named('DynamicDetectionTask').Config().prelim_factor == 0.5\n"
        "assert task_named('MultiThresholdDeblendTask').Config().n_levels == 32\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
