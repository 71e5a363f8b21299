"""The task on simulated frames: it inverts the detector model, and its variance is right."""

import numpy as np
import pytest

from starmill.datamodel.calibration import Crosstalk, Defects, Linearity, MasterFrame
from starmill.datamodel.camera import Amplifier, Detector
from starmill.datamodel.exposure import ObservationInfo
from starmill.datamodel.geometry import Box
from starmill.datamodel.masked_image import MaskedImage
from starmill.datamodel.raw_frame import RawFrame
from starmill.errors import AlgorithmError, ConfigError, InputError
from starmill.simulation.detector import make_detector, quadrant_detector, read_out
from starmill.tasks.isr import IsrConfig, IsrTask

SHAPE = (160, 192)
TIME = 50.0


@pytest.fixture(scope="module")
def model():
    linear = [[0 if i == j else 1e-4 * (1 + i + 2 * j) for j in range(4)] for i in range(4)]
    linearity = {
        name: Linearity("squared", (c,)) for name, c in zip("ABCD", (3e-7, 2e-7, 4e-7, 1e-7), strict=True)
    }
    chip = quadrant_detector(SHAPE, crosstalk=Crosstalk.from_dict({"linear": linear}), linearity=linearity)
    return make_detector(np.random.default_rng(5), chip)


@pytest.fixture(scope="module")
def masters(model):
    """Perfect masters: the truth itself."""

    def frame(kind, image):
        return MasterFrame(kind, MaskedImage(np.array(image, np.float32)))

    return {
        "bias": frame("bias", model.bias_structure),
        "dark": frame("dark", model.dark_rate),
        "flat": frame("flat", model.flat()),
    }


def raw_frame(model, array, time=TIME, **info):
    return RawFrame(array, model.detector, ObservationInfo(exposure_time=time, dark_time=time, **info))


def expose(model, light, seed, time=TIME):
    return raw_frame(model, read_out(np.random.default_rng(seed), model, light, time)[0], time)


PLAIN = IsrConfig().override({"overscan.method": "mean_per_row", "interpolate": False, "fill_bad": False})


def test_it_inverts_the_detector_to_the_noise(model, masters):
    sky = 800 + 300 * np.cos(np.arange(SHAPE[1]) / 40)[None, :] * np.ones((SHAPE[0], 1))
    sky[40, 50], sky[100, 130] = 60000, 70000  # bright enough for crosstalk and non-linearity
    light = (sky * model.flat()).astype(np.float32)
    task = IsrTask(PLAIN)
    exposures = [task.run(raw=expose(model, light, seed), **masters).exposure for seed in range(40)]
    images = np.array([exposure.image for exposure in exposures])
    variance = np.mean([exposure.variance for exposure in exposures], axis=0)
    good = (exposures[0].mask.array == 0) & (model.flat() > 0.5) & (model.dark_rate < 0.1)
    good[40, 50] = good[100, 130] = False
    pulls = ((images.mean(axis=0) - sky) / np.sqrt(variance / 40))[good]
    assert abs(pulls.mean()) < 0.05  # 30000 pixels: 0.006; the rounding of the converter and row levels add
    assert pulls.std() == pytest.approx(1, abs=0.02)
    for y, x in ((40, 50), (100, 130)):
        found = images[:, y, x].mean()
        assert found == pytest.approx(sky[y, x], abs=5 * np.sqrt(variance[y, x] / 40) + 2e-4 * sky[y, x])


def test_the_variance_plane_is_right_within_two_percent(model, masters):
    light = (model.flat() * 500).astype(np.float32)
    task = IsrTask(PLAIN)
    runs = [task.run(raw=expose(model, light, 100 + seed), **masters).exposure for seed in range(60)]
    good = runs[0].mask.array == 0
    scatter = np.var([run.image for run in runs], axis=0, ddof=1)[good]
    stated = np.mean([run.variance for run in runs], axis=0)[good]
    assert scatter.mean() / stated.mean() == pytest.approx(1, abs=0.02)
    corrected = stated > 1.15 * np.median(stated)  # less sensitive and hot pixels have more
    assert (scatter[corrected] / stated[corrected]).mean() == pytest.approx(1, abs=0.05)


def test_the_variance_of_masters_is_propagated(model, masters):
    light = (model.flat() * 400).astype(np.float32)
    raw = expose(model, light, 3)
    noisy = {
        kind: MasterFrame(
            kind,
            MaskedImage(
                master.image,
                None,
                np.full(SHAPE, {"bias": 4.0, "dark": 0.01, "flat": 1e-4}[kind], np.float32),
            ),
            properties={"dark_time": 200.0} if kind == "dark" else {},
        )
        for kind, master in masters.items()
    }
    plain, with_errors = (IsrTask(PLAIN).run(raw=raw, **given).exposure for given in (masters, noisy))
    flat = model.flat()
    expected = (4.0 * (1 - 2 * TIME / 200) + TIME**2 * 0.01) / flat**2 + (plain.image / flat) ** 2 * 1e-4
    np.testing.assert_allclose(with_errors.variance - plain.variance, expected, rtol=2e-3, atol=0.05)
    switched = IsrTask(PLAIN.override({"master_variance": False})).run(raw=raw, **noisy).exposure
    np.testing.assert_array_equal(switched.variance, plain.variance)


def test_flags_and_repair(model, masters):
    light = (model.flat() * 300).astype(np.float32)
    light[70, 60] = 1e6
    raw = expose(model, light, 4)
    config = IsrConfig().override({"overscan.method": "mean_per_row"})
    defects = Defects((Box(20, 30, 3, 2),))
    exposure = IsrTask(config).run(raw=raw, defects=defects, **masters).exposure
    mask = exposure.mask
    assert mask.any("BAD")[30:32, 20:23].all()
    assert mask.any("INTRP")[30:32, 20:23].all()
    assert mask.any("SAT")[70, 60]
    assert mask.any("SAT")[:80, 60].sum() > 5  # the trail
    assert mask.any("SAT")[70, 59]  # grown by one
    assert mask.any("CROSSTALK").any()
    assert np.isfinite(exposure.image).all()
    assert (exposure.variance > 0).all()
    assert abs(exposure.image[31, 21] - 300) < 150
    assert exposure.unit == "electron"
    assert exposure.info.saturation > 70000
    assert set(exposure.info.extra["overscan"]) == set("ABCD")


def test_missing_pixels_are_flagged_and_do_not_spread(model, masters):
    light = (model.flat() * 300).astype(np.float32)
    raw = expose(model, light, 4)
    array = raw.array.astype(np.float32)
    array[10, 12] = np.nan
    exposure = IsrTask(PLAIN).run(raw=raw_frame(model, array), **masters).exposure
    whole = IsrTask(PLAIN).run(raw=raw, **masters).exposure
    assert exposure.mask.any("NO_DATA").sum() == 1
    elsewhere = ~exposure.mask.any("NO_DATA")
    # the pixel's ghosts in the other amplifiers change by 1e-4 of its signal
    np.testing.assert_allclose(exposure.image[elsewhere], whole.image[elsewhere], atol=0.5)


def test_every_step_can_be_switched_off(model):
    array = np.full(model.detector.raw_shape, 1200, np.uint16)
    off = IsrConfig().override({
        "overscan.enabled": False, "crosstalk": False, "linearity": False, "bias": False, "dark": False,
        "flat": False, "variance": False, "defects": False, "interpolate": False, "saturation": False,
        "suspect": False,
    })  # fmt: skip
    exposure = IsrTask(off).run(raw=raw_frame(model, array)).exposure
    for amplifier in model.detector.amplifiers:
        np.testing.assert_allclose(exposure.image[amplifier.box.slices()], 1200 * amplifier.gain, rtol=1e-6)
    assert not exposure.mask.array.any()
    assert not exposure.variance.any()


def test_the_low_flat_is_no_data(model, masters):
    image = masters["flat"].image.copy()
    image[:9] = 0.3
    image[0, 0] = np.nan
    given = masters | {"flat": MasterFrame("flat", MaskedImage(image, np.zeros(SHAPE, np.int32)))}
    config = PLAIN.override({"minimum_flat": 0.5})
    exposure = IsrTask(config).run(raw=expose(model, (model.flat() * 99).astype("f4"), 1), **given).exposure
    assert exposure.mask.any("NO_DATA")[:9].all()
    assert exposure.mask.any("VIGNETTED")[:9].all()
    assert np.isfinite(exposure.image).all()


def test_brighter_fatter_and_fringes_run_in_their_place(model, masters):
    light = (model.flat() * 300).astype(np.float32)
    raw = expose(model, light, 9)
    kernel = np.zeros((5, 5))
    kernel[1:4, 1:4] = -1e-7
    config = PLAIN.override({"brighter_fatter": True, "fringe": True, "fringe_samples": 2000})
    fringe = MasterFrame("fringe", MaskedImage((5 * np.sin(np.indices(SHAPE)[1] / 3)).astype(np.float32)))
    task = IsrTask(config)
    exposure = task.run(raw=raw, brighter_fatter_kernel=kernel, fringes=[fringe], **masters).exposure
    plain = IsrTask(PLAIN).run(raw=raw, **masters).exposure
    assert task.metadata["brighter_fatter_converged"]
    assert abs(task.metadata["fringe_amplitudes"][0]) < 0.5
    assert np.median(np.abs(exposure.image - plain.image)) < 5
    with pytest.raises(InputError, match="needs a kernel"):
        task.run(raw=raw, fringes=[fringe], **masters)
    with pytest.raises(InputError, match="needs fringe frames"):
        task.run(raw=raw, brighter_fatter_kernel=kernel, **masters)


def test_errors_name_the_cause_and_both_values(model, masters):
    raw = expose(model, (model.flat() * 99).astype(np.float32), 1)
    task = IsrTask(PLAIN)
    with pytest.raises(InputError, match="no master flat is given"):
        task.run(raw=raw, bias=masters["bias"], dark=masters["dark"])
    small = MasterFrame("bias", MaskedImage(np.zeros((10, 10), np.float32)))
    with pytest.raises(InputError, match=r"shape \(10, 10\), the frame needs \(160, 192\)"):
        task.run(raw=raw, **masters | {"bias": small})
    with pytest.raises(InputError, match="kind 'dark', the frame needs 'bias'"):
        task.run(raw=raw, **masters | {"bias": masters["dark"]})
    other = MasterFrame("flat", masters["flat"].pixels, filter="g")
    with pytest.raises(InputError, match="filter 'g', the frame needs 'r'"):
        task.run(raw=raw_frame(model, raw.array, filter="r"), **masters | {"flat": other})
    foreign = MasterFrame("bias", masters["bias"].pixels, camera="arcsat")
    with pytest.raises(InputError, match="camera 'arcsat', the frame needs 'simcam'"):
        task.run(raw=raw_frame(model, raw.array, instrument="simcam"), **masters | {"bias": foreign})
    with pytest.raises(InputError, match="no exposure time"):
        task.run(raw=RawFrame(raw.array, model.detector, ObservationInfo()), **masters)
    with pytest.raises(AlgorithmError, match="every amplifier"):
        task.run(raw=raw, defects=Defects((Box(0, 0, 192, 160),)), **masters)
    with pytest.raises(AlgorithmError, match="every amplifier"):
        IsrTask(PLAIN.override({"maximum_read_noise": 0.1})).run(raw=raw, **masters)
    blind = RawFrame(
        np.full(raw.array.shape, np.nan, np.float32), model.detector, raw.info, path="blind.fits"
    )
    with pytest.raises(AlgorithmError, match=r"blind\.fits: no overscan pixel is usable"):
        task.run(raw=blind, **masters)
    with pytest.raises(ConfigError, match="crosstalk"):
        IsrConfig().override({"crostalk": False})


def test_a_noisy_amplifier_is_bad(model, masters):
    raw = expose(model, (model.flat() * 99).astype(np.float32), 1)
    array = raw.array.copy()
    noisy = model.detector.amplifiers[2]
    noise = np.random.default_rng(0).normal(0, 60, noisy.raw_box.shape)
    array[noisy.raw_box.slices()] = (array[noisy.raw_box.slices()] + noise).clip(0, 65535).astype(np.uint16)
    exposure = (
        IsrTask(PLAIN.override({"maximum_read_noise": 20}))
        .run(raw=raw_frame(model, array), **masters)
        .exposure
    )
    assert exposure.mask.any("BAD")[noisy.box.slices()].all()
    assert not exposure.mask.any("BAD")[model.detector.amplifiers[0].box.slices()].any()


def test_parallel_overscan_takes_off_the_level_of_each_column():
    amplifier = Amplifier.from_dict({
        "name": "A", "raw": "[1:60,1:50]", "data": "[1:48,1:40]", "overscan": "[49:60,1:40]",
        "parallel_overscan": "[1:48,41:50]", "gain": 2.0, "read_noise": 4.0,
    })  # fmt: skip
    rng = np.random.default_rng(1)
    columns = rng.normal(0, 5, 48)
    array = 900 + rng.normal(0, 2, (50, 60))
    array[:, :48] += columns
    array[:40, :48] += 100
    raw = RawFrame(array.astype(np.float32), Detector("a", (amplifier,)), ObservationInfo(exposure_time=1.0))
    off = {"bias": False, "dark": False, "flat": False, "interpolate": False}
    with_columns, without = (
        IsrTask(IsrConfig().override(off | {"overscan.parallel": on})).run(raw=raw).exposure.image
        for on in (True, False)
    )
    assert with_columns.mean() == pytest.approx(200, abs=2)
    # ten rows leave 2 adu / sqrt(10) * 1.25 of each column
    assert with_columns.mean(axis=0).std() < 0.4 * without.mean(axis=0).std()


def test_crosstalk_follows_the_readout_corner():
    """Raw frames that are stored as they look, read from opposite corners."""
    left = {"name": "A", "data": "[1:20,1:16]", "section": "[1:20,1:16]", "readout_corner": "lower left"}
    right = {"name": "B", "data": "[21:40,1:16]", "section": "[21:40,1:16]", "readout_corner": "upper right"}
    detector = Detector(
        "a", (Amplifier.from_dict(left), Amplifier.from_dict(right)), Crosstalk(((0, 1e-3), (0, 0)))
    )
    array = np.zeros((16, 40), np.float32)
    array[3, 39 - 5] = 10000  # sixth pixel of row 12 from the top of B
    array[15 - 3, 5] = 10  # its ghost
    raw = RawFrame(array, detector, ObservationInfo(exposure_time=1.0))
    config = IsrConfig().override({"bias": False, "dark": False, "flat": False})
    image = IsrTask(config).run(raw=raw).exposure.image
    assert not image[:, :20].any()


def test_read_noise_may_come_from_the_overscan(model, masters):
    raw = expose(model, (model.flat() * 0).astype(np.float32), 5)
    config = PLAIN.override({"read_noise_from": "overscan"})
    result = IsrTask(config).run(raw=raw, **masters)
    amplifier = model.detector.amplifiers[1]
    level = result.overscan["B"].residual_sigma * amplifier.gain
    assert level == pytest.approx(amplifier.read_noise, rel=0.1)
    lowest = (
        result.exposure.variance[amplifier.box.slices()] * masters["flat"].image[amplifier.box.slices()] ** 2
    )
    assert lowest.min() == pytest.approx(level**2, rel=1e-3)


def test_a_master_out_of_its_time_is_reported(model, masters, caplog):
    old = MasterFrame("bias", masters["bias"].pixels, valid_from=50000, valid_to=50001)
    raw = expose(model, (model.flat() * 9).astype(np.float32), 5)
    with caplog.at_level("WARNING", logger="starmill"):
        IsrTask(PLAIN).run(raw=raw_frame(model, raw.array, mjd=60000.0), **masters | {"bias": old})
    assert "valid from MJD 50000" in caplog.text


def test_a_task_runs_again_and_again(model, masters):
    raw = expose(model, (model.flat() * 200).astype(np.float32), 6)
    task = IsrTask(PLAIN)
    first, second = (task.run(raw=raw, **masters).exposure for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask.array, second.mask.array)
    assert task.metadata["run_cpu_seconds"] >= task.metadata["masters_cpu_seconds"]
