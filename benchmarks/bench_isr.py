"""CPU seconds and peak memory of instrument signature removal, combining and simulating.

    python benchmarks/bench_isr.py --size 4096 --frames 10

ccdproc and numpy stand beside where they are installed: ``ccdproc.combine`` with sigma clipping, and the plain
numpy expressions a script would use for one frame.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from starmill.datamodel.calibration import Crosstalk, Linearity, MasterFrame
from starmill.datamodel.exposure import ObservationInfo
from starmill.datamodel.masked_image import MaskedImage
from starmill.datamodel.raw_frame import RawFrame
from starmill.io.raw import load_camera
from starmill.io.scratch import ScratchFolder
from starmill.io.simulated_night import write_night
from starmill.isr.build_masters import combine_frames
from starmill.numerics.tiles import set_threads
from starmill.simulation.detector import quadrant_detector
from starmill.simulation.night import Night, NightSettings
from starmill.tasks.build_calibration import BuildCalibrationConfig, BuildCalibrationTask
from starmill.tasks.isr import IsrConfig, IsrTask


def timed(function, repeat=3):
    """Smallest CPU seconds of some calls; the first call, with compilation, does not count."""
    function()
    best = np.inf
    for _ in range(repeat):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def row(name, seconds, limit=""):
    """Print one line of the table."""
    print(f"{name:58s} {seconds:8.3f} {limit:>8}")


def make_raw(size, rng):
    """Return a raw frame of four amplifiers."""
    linear = [[0 if i == j else 1e-4 for j in range(4)] for i in range(4)]
    linearity = dict.fromkeys("ABCD", Linearity("squared", (3e-7,)))
    detector = quadrant_detector(
        (size, size), crosstalk=Crosstalk.from_dict({"linear": linear}), linearity=linearity
    )
    ny, nx = detector.raw_shape
    raw = 1000 + rng.normal(0, 3.5, (ny, nx))
    for amplifier in detector.amplifiers:
        part = amplifier.raw_data_box.slices()
        raw[part] += rng.poisson(400, amplifier.box.shape) / 1.5
    info = ObservationInfo(exposure_time=60.0, dark_time=60.0)
    return RawFrame(raw.clip(0, 65535).astype(np.uint16), detector, info)


def make_masters(size):
    """Return a bias, a dark and a flat with variances."""

    def frame(kind, value, variance):
        pixels = MaskedImage(
            np.full((size, size), value, np.float32), variance=np.full((size, size), variance, np.float32)
        )
        return MasterFrame(kind, pixels)

    return {
        "bias": frame("bias", 0.5, 2.5),
        "dark": frame("dark", 0.01, 1e-4),
        "flat": frame("flat", 1.0, 1e-6),
    }


def numpy_isr(raw, masters):
    """Reduce the same frame with plain expressions: overscan, gain, flips, masters, variance, saturation."""
    image = np.empty(raw.detector.box.shape, np.float32)
    mask = np.zeros(image.shape, np.int32)
    variance = np.empty_like(image)
    for amplifier in raw.detector.amplifiers:
        data = raw.array[amplifier.raw_data_box.slices()]
        level = np.median(raw.array[amplifier.raw_overscan_box.slices()])
        step = np.s_[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
        part = amplifier.box.slices()
        image[part] = (np.float32(amplifier.gain) * (data - np.float32(level)))[step]
        mask[part] = (2 * (data > amplifier.saturation))[step]
        image[part] -= masters["bias"].image[part]
        variance[part] = np.maximum(image[part], 0) + np.float32(amplifier.read_noise**2)
    image -= np.float32(raw.info.dark_time) * masters["dark"].image
    image /= masters["flat"].image
    variance /= masters["flat"].image ** 2
    return image, variance, mask


def bench_isr(size, rng):
    """One frame through the task, and through plain numpy."""
    raw, masters = make_raw(size, rng), make_masters(size)
    full = IsrTask(IsrConfig().override({"overscan.method": "mean_per_row"}))
    row(
        "ISR: all steps, crosstalk, linearity, variance of masters",
        timed(lambda: full.run(raw=raw, **masters)),
        "0.4",
    )
    for name in ("overscan", "assemble", "signal", "masters", "repair"):
        row(f"    {name}", full.metadata[f"{name}_cpu_seconds"])
    usual = IsrTask(IsrConfig().override({"crosstalk": False, "linearity": False, "master_variance": False}))
    row(
        "ISR: overscan, bias, dark, flat, variance, flags",
        timed(lambda: usual.run(raw=raw, **masters)),
        "0.4",
    )
    row("    the same with plain numpy, without repair", timed(lambda: numpy_isr(raw, masters)))


def bench_combine(size, n_frames, rng):
    """Combine frames in memory, beside ccdproc."""
    frames = rng.normal(1000, 10, (n_frames, size, size)).astype(np.float32)

    def rows(k, y0, y1):
        return frames[k, y0:y1]

    shape = (size, size)
    seconds = timed(lambda: combine_frames(rows, n_frames, shape, minimum_sigma=10.0, threads=1), 2)
    row(f"combine {n_frames} frames, clipped mean with variance", seconds, "2.0")
    if importlib.util.find_spec("ccdproc"):
        import ccdproc
        from astropy.nddata import CCDData

        data = [CCDData(frame, unit="adu") for frame in frames]
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ccdproc.combine(data, method="average", sigma_clip=True)
        row("    ccdproc.combine, sigma-clipped average", time.process_time() - start)


def bench_memory(size, n_frames):
    """Build a master in a process of its own, frames from functions, and report its peak memory."""
    code = f"import benchmarks.bench_isr as b; b.build_bias({size}, {n_frames})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(done.stdout, end="")


def build_bias(size, n_frames):
    """Build a master bias from frames that are made one after the other."""
    set_threads(1)
    detector = quadrant_detector((size, size))

    def frame(k):
        rng = np.random.default_rng(k)
        array = np.empty(detector.raw_shape, np.uint16)
        for y in range(0, len(array), 256):
            array[y : y + 256] = 1000 + 3.5 * rng.standard_normal(
                (min(256, len(array) - y), array.shape[1]), np.float32
            )
        return RawFrame(array, detector, ObservationInfo(kind="bias", exposure_time=0.0, dark_time=0.0))

    config = BuildCalibrationConfig().override({"isr.overscan.method": "mean_per_row"})
    with ScratchFolder() as store:
        BuildCalibrationTask(config).run(frames=[lambda: frame(0)] * 2, store=store)
        start = time.process_time()
        task = BuildCalibrationTask(config)
        task.run(frames=[lambda k=k: frame(k) for k in range(n_frames)], store=store)
        seconds = time.process_time() - start
    status = Path("/proc/self/status").read_text()  # the resource module counts the parent before the exec
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1e6
    row(f"master bias of {n_frames} frames, drawing the frames included", seconds)
    row("    of which combining", task.metadata["combine_cpu_seconds"], "2.0")
    row("    peak memory of the process, GB", peak, "0.5")


def bench_night():
    """Simulate and write the small night."""
    camera = load_camera("simcam")
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        write_night(Night(NightSettings(), camera), folder)
    row("simulate a night: 2 bands x 3 of 1024^2, 5 + 3 + 6 calibrations", time.process_time() - start, "6.0")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=10)
    arguments = parser.parse_args()
    set_threads(1)
    rng = np.random.default_rng(1)
    print(f"{'size ' + str(arguments.size):58s} {'CPU s':>8} {'limit':>8}")
    bench_isr(arguments.size, rng)
    bench_combine(arguments.size, arguments.frames, rng)
    bench_memory(arguments.size, arguments.frames)
    bench_night()


if __name__ == "__main__":
    main()
