"""Real nights: masters, gain, read noise and noise of the reduced frames as measured independently."""

import csv

import numpy as np
import pytest

from starmill.io.raw import load_camera, read_raw
from starmill.numerics.statistics import clipped_statistics
from starmill.tasks.build_calibration import BuildCalibrationConfig, BuildCalibrationTask
from starmill.tasks.isr import IsrConfig, IsrTask


def build(kind, camera, paths, **masters):
    camera = load_camera(camera)
    options = {"kind": kind, "isr": camera.config["isr"], **camera.config.get("build_calibration", {})}
    task = BuildCalibrationTask(BuildCalibrationConfig().override(options))
    return task.run(frames=[lambda path=path: read_raw(path, camera) for path in paths], **masters)


def noise_of(exposure, part):
    """Pixel noise from differences of neighbours, over what the variance plane says."""
    image, good = exposure.image[part], exposure.mask.array[part] == 0
    difference = (image[:, 1:] - image[:, :-1])[good[:, 1:] & good[:, :-1]]
    measured = clipped_statistics(difference, n_sigma=3.5, n_iterations=5).clipped_std / np.sqrt(2)
    return measured / np.sqrt(np.median(exposure.variance[part][good]))


@pytest.fixture(scope="module")
def lowell(shared_data):
    folder = shared_data("raw_lowell42")
    bias = build("bias", "lowell42", sorted(folder.glob("bias/*.fits*")))
    flat = build("flat", "lowell42", sorted(folder.glob("flat_VR/*.fits*")), bias=bias.master)
    return folder, bias, flat


def test_lowell_gain_and_read_noise(lowell):
    _, bias, flat = lowell
    assert bias.read_noise["A"] == pytest.approx(4.3, rel=0.1)  # measured independently: 1.17 adu
    assert flat.gain["A"] == pytest.approx(
        3.654, rel=0.02
    )  # photon transfer on the same flats: 3.654 +- 0.004
    assert bias.master.n_frames == 10
    assert flat.master.filter == "VR"
    assert np.mean(flat.master.image < 0.5) == pytest.approx(0.06, abs=0.01)


def test_lowell_frames_reduce_without_error_and_with_the_right_noise(lowell):
    folder, bias, flat = lowell
    task = IsrTask(IsrConfig().override(load_camera("lowell42").config["isr"]))
    for path in sorted(folder.glob("sci_VR/*.fits*")):
        exposure = task.run(raw=read_raw(path, "lowell42"), bias=bias.master, flat=flat.master).exposure
        assert np.isfinite(exposure.image).all()
        assert (exposure.variance > 0).all()
        assert exposure.mask.fractions()["VIGNETTED"] == pytest.approx(0.06, abs=0.01)
        ratio = noise_of(exposure, np.s_[500:800, 500:800])
        assert ratio == pytest.approx(1, abs=0.07), path.name  # the set's own figure is 2 to 7 %
        read_noise = exposure.info.extra["overscan"]["A"]["sigma"] * 3.65
        assert read_noise == pytest.approx(4.3, rel=0.1)


def test_lowell_wcs_puts_the_asteroid_where_it_was(lowell):
    folder = lowell[0]
    lines = [
        line for line in (folder / "TRUTH_5945.csv").read_text().splitlines() if not line.startswith("#")
    ]
    rows = list(csv.DictReader(lines))
    assert len(rows) == 9
    for row in rows[::4]:
        raw = read_raw(next(folder.glob(f"sci_VR/*{row['frame']}*")), "lowell42")
        x, y = raw.wcs.all_world2pix(float(row["ra_deg"]), float(row["dec_deg"]), 0)
        # the list gives raw pixels; 17 columns are trimmed; 0.002 arcsec of rounding
        assert float(x) == pytest.approx(float(row["xraw"]) - 17, abs=0.02)
        assert float(y) == pytest.approx(float(row["yraw"]), abs=0.02)
        assert raw.info.date == row["utc_start"]
        assert raw.wcs.wcs.ctype[0].startswith("RA---T")


def test_m13_masters_gain_and_frames(shared_data):
    folder = shared_data("raw_arcsat_m13")
    camera = load_camera("arcsat")
    bias = build("bias", "arcsat", sorted(folder.glob("bias/*.fits*")))
    assert bias.read_noise["A"] == pytest.approx(7.5, rel=0.1)
    assert np.median(bias.master.image) == pytest.approx(1311 * 1.296, rel=0.01)
    dark = build("dark", "arcsat", sorted(folder.glob("dark/*.fits*")), bias=bias.master)
    # median 29 adu in 80 s
    assert np.median(dark.master.image) == pytest.approx(29 * 1.296 / 80, rel=0.05)
    assert dark.master.properties["dark_time"] == pytest.approx(80)
    for band in "gr":
        flat = build(
            "flat", "arcsat", sorted(folder.glob(f"flat/*_{band}_*")), bias=bias.master, dark=dark.master
        )
        assert flat.gain["A"] == pytest.approx(1.296, rel=0.02)
        low, high = np.percentile(
            flat.master.image[flat.master.mask == 0] / np.median(flat.master.image), [1, 99]
        )
        assert low == pytest.approx(0.96, abs=0.015)
        assert high == pytest.approx(1.03, abs=0.015)
        task = IsrTask(IsrConfig().override(camera.config["isr"]))
        for path in sorted(folder.glob(f"science/*_{band}_*")):
            raw = read_raw(path, camera)
            exposure = task.run(raw=raw, bias=bias.master, dark=dark.master, flat=flat.master).exposure
            assert exposure.info.band == band
            assert exposure.wcs is not None
            assert np.isfinite(exposure.image).all()
            # three darks and flats: their noise repeats from pixel to pixel and is part of the variance
            assert noise_of(exposure, np.s_[10:130, 10:130]) == pytest.approx(1, abs=0.12), path.name


def test_saao_frame_by_its_header_alone(shared_data):
    raw = read_raw(next(shared_data("saao_overscan").glob("*.fits*")), "generic")
    amplifier = raw.detector.amplifiers[0]
    assert (amplifier.gain, amplifier.read_noise) == (1.9, 5.0)
    assert raw.info.exposure_time == pytest.approx(150.04)
    assert raw.info.date == "2013-07-13T00:57:33"
    config = IsrConfig().override({"bias": False, "dark": False, "flat": False})
    result = IsrTask(config).run(raw=raw)
    assert result.overscan["A"].median == pytest.approx(214, abs=2)
    assert result.overscan["A"].residual_sigma == pytest.approx(3.0, rel=0.05)
    exposure = result.exposure
    assert exposure.shape == (520, 512)
    assert np.median(exposure.image) == pytest.approx((300 - 214) * 1.9, rel=0.05)
    # header gain and read noise predict 7.2 adu, 7.4 are there
    assert noise_of(exposure, np.s_[100:400, 100:400]) == pytest.approx(7.4 / 7.2, abs=0.06)
