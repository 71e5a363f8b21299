import numpy as np
import pytest

from starmill.datamodel.exposure import ObservationInfo
from starmill.datamodel.raw_frame import RawFrame
from starmill.errors import AlgorithmError, InputError, NoDataError
from starmill.simulation.detector import cosmic_rays, make_detector, quadrant_detector, read_out
from starmill.tasks.build_calibration import BuildCalibrationConfig, BuildCalibrationTask

SHAPE = (256, 256)


@pytest.fixture(scope="module")
def model():
    return make_detector(np.random.default_rng(2), quadrant_detector(SHAPE))


def frames(model, kind, n, seed=0, time=0.0, light=None, filter_name="r", rays=0):
    found = []
    for k in range(n):
        rng = np.random.default_rng([seed, k])
        tracks = cosmic_rays(rng, SHAPE, rays) if rays else None
        array, _ = read_out(rng, model, light, time, tracks)
        info = ObservationInfo(
            kind=kind, exposure_time=time, dark_time=time, filter=filter_name if light is not None else ""
        )
        found.append(RawFrame(array, model.detector, info, path=f"{kind}{k}.fits"))
    return found


def build(kind, frames, config=None, **masters):
    options = {"kind": kind, "isr.overscan.method": "mean_per_row"} | (config or {})
    return BuildCalibrationTask(BuildCalibrationConfig().override(options)).run(frames=frames, **masters)


@pytest.fixture(scope="module")
def bias(model):
    return build("bias", frames(model, "bias", 8))


@pytest.fixture(scope="module")
def dark(model, bias):
    return build("dark", frames(model, "dark", 4, seed=1, time=100.0, rays=15), bias=bias.master)


def test_bias_is_the_structure_within_its_variance(model, bias):
    master = bias.master
    pulls = (master.image - model.bias_structure) / np.sqrt(master.variance)
    assert abs(np.median(pulls)) < 0.05
    assert np.sqrt(master.variance.mean()) == pytest.approx(
        (master.image - model.bias_structure).std(), rel=0.03
    )
    for amplifier in model.detector.amplifiers:
        # 5 electrons and the rounding to whole adu: 0.29 adu
        expected = np.hypot(amplifier.read_noise, amplifier.gain / np.sqrt(12))
        assert bias.read_noise[amplifier.name] == pytest.approx(expected, rel=0.04)
        assert master.properties[f"read_noise.{amplifier.name}"] == bias.read_noise[amplifier.name]
    assert master.n_frames == 8
    assert master.unit == "electron"


def test_dark_is_a_rate_without_cosmic_rays_and_flags_hot_pixels(model, dark):
    master = dark.master
    good = (master.mask == 0) & (model.dark_rate < 0.1)
    pulls = ((master.image - model.dark_rate) / np.sqrt(master.variance))[good]
    assert abs(pulls.mean()) < 0.05
    assert pulls.std() == pytest.approx(1, abs=0.05)
    hot = model.dark_rate > 1
    assert master.pixels.mask.any("BAD")[hot].all()
    assert master.pixels.mask.any("BAD").sum() < hot.sum() + 20
    assert dark.defects.mask(SHAPE)[hot].all()
    assert master.properties["dark_time"] == pytest.approx(100)
    assert master.unit == "electron/s"


def test_flat_is_the_throughput_and_gives_the_gain(model, bias, dark):
    light = model.flat() * np.float32(30000)
    result = build(
        "flat", frames(model, "flat", 5, seed=2, time=5.0, light=light), bias=bias.master, dark=dark.master
    )
    truth = model.flat() / np.median(model.flat()[64:192, 64:192])
    good = result.master.mask == 0
    pulls = ((result.master.image - truth)[good]) / np.sqrt(result.master.variance[good])
    assert pulls.std() == pytest.approx(1, abs=0.05)
    assert np.median(result.master.image / truth) == pytest.approx(1, abs=1e-3)
    for amplifier in model.detector.amplifiers:
        assert result.gain[amplifier.name] == pytest.approx(amplifier.gain, rel=0.03)
    assert result.master.filter == "r"
    low = model.flat() < 0.3
    assert low.any()
    assert result.master.pixels.mask.any("BAD")[low].all()


def test_frames_come_from_functions_one_at_a_time(model, bias):
    alive = []

    def reader(frame):
        def read():
            alive.append(frame.path)
            return frame

        return read

    result = build("bias", [reader(frame) for frame in frames(model, "bias", 8)])
    assert len(alive) == 8
    np.testing.assert_array_equal(result.master.image, bias.master.image)


def test_one_bad_frame_is_refused_with_its_name(model, bias, dark):
    biases = frames(model, "bias", 2)
    with pytest.raises(NoDataError):
        build("bias", [])
    with pytest.raises(InputError, match=r"dark0\.fits.*'dark', a bias is needed"):
        build("bias", biases + frames(model, "dark", 1, time=3.0))
    with pytest.raises(InputError, match="positive dark time"):
        build("dark", frames(model, "dark", 1), bias=bias.master)
    with pytest.raises(InputError, match="no master bias"):
        build("dark", frames(model, "dark", 1, time=5.0))
    light = model.flat() * np.float32(100)
    mixed = [frames(model, "flat", 1, time=1.0, light=light, filter_name=name)[0] for name in "rg"]
    with pytest.raises(InputError, match="'g', not 'r'"):
        build("flat", mixed, bias=bias.master, dark=dark.master)
    with pytest.raises(AlgorithmError, match=r"flat0\.fits: the flat is too faint"):
        build("flat", mixed[:1], {"minimum_level": 1000}, bias=bias.master, dark=dark.master)
    other = make_detector(np.random.default_rng(2), quadrant_detector((128, 256)))
    array, _ = read_out(np.random.default_rng(1), other, None, 0.0)
    with pytest.raises(InputError, match="has shape"):
        build("bias", [*biases, RawFrame(array, other.detector, ObservationInfo(kind="bias"))])
