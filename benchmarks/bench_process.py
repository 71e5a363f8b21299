"""CPU seconds and memory of the whole processing of one frame, task by task.

``python benchmarks/bench_process.py FOLDER`` with the files of ``frame_sim.py`` in FOLDER (``sci.fits``, ``sci_mask.fits``,
``sci_var.fits``, ``truth.fits``), or ``--size N`` for a frame made by the package's own simulation. The first run warms the
kernels and is not counted.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.execution.frames import FrameJob, process_frames
from starmill.io.exposure_file import write_exposure
from starmill.io.fits import info_from_header, wcs_from_header
from starmill.numerics.tiles import set_threads
from starmill.tasks.base import peak_memory_mb
from starmill.tasks.characterize import CharacterizeImageTask


def read_frame(folder: Path) -> Exposure:
    """Return the simulated frame of a folder as an exposure."""
    image, header = fits.getdata(folder / "sci.fits", header=True)
    flags = fits.getdata(folder / "sci_mask.fits")
    variance = fits.getdata(folder / "sci_var.fits")
    mask = Mask.zeros(image.shape)
    mask.set("BAD", (flags & 1) > 0)
    mask.set("SAT", (flags & 2) > 0)
    return Exposure(
        image.astype(np.float32), mask, variance.astype(np.float32), wcs=wcs_from_header(header),
        info=info_from_header(header),
    )  # fmt: skip


def print_table(metadata: dict) -> None:
    """Print the CPU seconds of every task."""
    for name, values in metadata.items():
        if "run_cpu_seconds" in values:
            print(f"{name:50} {values['run_cpu_seconds']:8.3f}")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="also with files, pictures and report")
    options = parser.parse_args()
    set_threads(1)
    exposure = read_frame(options.folder)
    task = CharacterizeImageTask()
    for _ in range(options.runs):
        result = task.run(exposure=exposure)
    n = len(result.catalog)
    print(f"{exposure.shape[1]} x {exposure.shape[0]}, {n} sources, {result.exposure.psf}")
    print_table(task.full_metadata())
    print(f"peak memory {peak_memory_mb():.0f} MB")
    if options.whole:
        import time

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frame.fits"
            write_exposure(exposure, path)
            start = time.process_time()
            process_frames([FrameJob(str(path), folder)])
            print(f"with reading, writing, picture and report: {time.process_time() - start:.2f} CPU s")


if __name__ == "__main__":
    main()
