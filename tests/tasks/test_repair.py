"""The repair and background tasks: planes, what is kept, methods, metadata, errors."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import GaussianPsf
from starmill.errors import AlgorithmError, ConfigError, InputError, TooManyCosmicRaysError
from starmill.tasks.repair import RepairConfig, RepairTask
from starmill.tasks.subtract_background import SubtractBackgroundConfig, SubtractBackgroundTask
from tests.cosmic_rays.sky import make_frame, stars_eaten, tracks_found


@pytest.fixture(scope="module")
def frame():
    return make_frame((300, 400), n_stars=150, n_tracks=60, seed=11)


def exposure_of(frame, origin=(100, 200)):
    return Exposure(frame.image.copy(), None, frame.variance.copy(), origin=origin, psf=GaussianPsf(1.53, 15))


@pytest.mark.parametrize("method", ["psf_contrast", "laplacian"])
def test_marks_and_replaces(frame, method):
    exposure = exposure_of(frame)
    task = RepairTask(RepairConfig(method=method))
    result = task.run(exposure=exposure)
    flag = result.exposure.mask.any("CR")
    total, found = tracks_found(frame, flag, 10)
    assert found >= 0.99 * total
    assert_array_equal(flag, result.exposure.mask.any("INTRP"))
    assert_array_equal(result.exposure.image[~flag], frame.image[~flag])
    assert (result.exposure.image[flag] < frame.image[flag]).mean() > 0.9
    assert task.metadata["cosmic_ray_count"] == len(result.cosmic_rays) > 30
    assert task.metadata["cosmic_ray_pixels"] == flag.sum()
    assert_array_equal(exposure.image, frame.image)
    assert not exposure.mask.array.any()
    spans = result.cosmic_rays.spans
    assert spans[:, 0].min() >= 200
    assert result.exposure.mask.any("CR")[spans[0, 0] - 200, spans[0, 1] - 100]
    if method == "psf_contrast":
        assert stars_eaten(frame, flag)[1] == 0


def test_keep_marks_only_and_can_be_repeated(frame):
    task = RepairTask()
    kept = task.run(exposure=exposure_of(frame), keep_cosmic_rays=True).exposure
    assert_array_equal(kept.image, frame.image)
    assert kept.mask.any("CR").any()
    assert not kept.mask.any("INTRP").any()
    again = task.run(exposure=kept, keep_cosmic_rays=True).exposure
    assert_array_equal(again.mask.array, kept.mask.array)
    repaired = task.run(exposure=kept).exposure
    assert_array_equal(repaired.mask.any("CR"), kept.mask.any("CR"))
    twice = task.run(exposure=repaired).exposure
    assert twice.mask.any("CR")[kept.mask.any("CR")].all()  # what was replaced stays marked


def test_defects_and_saturation_are_filled(frame):
    exposure = exposure_of(frame)
    exposure.image[:, 50] = 0
    exposure.image[100:103, 200:203] = 1e5
    exposure.mask.set("SAT", (slice(100, 103), slice(200, 203)))
    result = (
        RepairTask(RepairConfig(method="none"))
        .run(exposure=exposure, defects=[Box(150, 0, 1, 1000)])
        .exposure
    )
    assert result.mask.any("BAD")[:, 50].all()
    assert result.mask.any("INTRP")[:, 50].all()
    assert result.mask.any("INTRP")[101, 201]
    # Sky noise is 18 electrons, and most of the column is sky.
    assert np.median(np.abs(result.image[:, 50] - frame.without_tracks[:, 50])) < 40
    assert result.image[101, 201] < 1e4
    assert (result.variance[:, 50] > 0).all()


def test_errors(frame):
    exposure = exposure_of(frame)
    exposure.psf = None
    with pytest.raises(InputError, match="PSF"):
        RepairTask().run(exposure=exposure)
    exposure = exposure_of(frame)
    with pytest.raises(TooManyCosmicRaysError):
        RepairTask(RepairConfig(max_pixels=5)).run(exposure=exposure)
    exposure.variance[:] = 0
    with pytest.raises(AlgorithmError, match="variance"):
        RepairTask().run(exposure=exposure)
    with pytest.raises(ConfigError):
        RepairConfig(method="magic")
    with pytest.raises(ConfigError):
        RepairConfig().override({"psf_contrast.n_sigmas": 3})


def test_configuration_explains_every_field():
    for config in (RepairConfig, SubtractBackgroundConfig):
        for row in config.describe():
            assert row["description"], row["name"]
    changed = RepairConfig().override({"psf_contrast.n_sigma": 5, "laplacian.contrast": 3})
    assert (changed.psf_contrast.n_sigma, changed.laplacian.contrast) == (5, 3)


def test_background_task_appends_and_leaves_the_input_alone(frame):
    image = frame.image + 300
    exposure = Exposure(image.copy(), None, frame.variance.copy(), origin=(7, 9))
    task = SubtractBackgroundTask(SubtractBackgroundConfig(bin_size=50, order=2))
    first = task.run(exposure=exposure)
    assert_array_equal(exposure.image, image)
    assert np.median(first.exposure.image) == pytest.approx(0, abs=6)
    second = task.run(exposure=first.exposure, background=first.background)
    assert len(second.background) == 2
    total = sum(field.image(exposure.box) for field in second.background)
    assert_allclose(image - second.exposure.image, total, atol=1e-3)
    assert second.exposure.box == Box(7, 9, 400, 300)
    exposure.mask.set("BAD")
    with pytest.raises(AlgorithmError, match="no pixel"):
        task.run(exposure=exposure)
