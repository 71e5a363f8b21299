"""CPU seconds of the background on a simulated frame, beside sep when it is installed.

    python benchmarks/bench_background.py --size 4096
    python benchmarks/bench_background.py --frame DIR      # a frame of frame_sim.py

Run it with OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 so that CPU seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from starmill.background.mesh import estimate_background, measure_mesh, subtract_field
from starmill.datamodel.geometry import Box
from starmill.numerics.tiles import set_threads


def make_frame(size, seed=1):
    """Sloping sky with noise, bright blobs, and a mask of eight columns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    image = rng.normal(0, 18, (size, size)).astype(np.float32) + 300 * (1 + 0.08 * x - 0.05 * y)
    for _ in range(int(1e4 * (size / 4096) ** 2)):
        j, i = rng.integers(5, size - 5, 2)
        image[j - 2 : j + 3, i - 2 : i + 3] += rng.pareto(1) * 100
    mask = np.zeros((size, size), np.int32)
    mask[:, rng.integers(0, size, 8)] = 1
    return image, mask


def read_frame(folder):
    """Image and mask that frame_sim.py wrote."""
    from astropy.io import fits

    image = fits.getdata(folder / "sci.fits").astype(np.float32)
    return image, fits.getdata(folder / "sci_mask.fits").astype(np.int32)


def measure(function, repeats):
    """Least CPU seconds of some calls, after one that compiles."""
    function()
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--frame", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    set_threads(1)
    image, mask = make_frame(options.size) if options.frame is None else read_frame(options.frame)
    box = Box.from_shape(image.shape)
    work = image.copy()

    def whole(**settings):
        subtract_field(work, estimate_background(image, mask, **settings).field, box)

    rows = [
        ("nodes of 128 pixels", lambda: measure_mesh(image, mask)),
        ("Chebyshev order 6, subtracted", whole),
        ("Akima spline, subtracted", lambda: whole(model="spline")),
        ("bin size 32, Chebyshev", lambda: whole(bin_size=32)),
    ]
    try:
        import sep
    except ImportError:
        print("sep is not installed: no peer")
    else:
        flags = mask != 0
        rows += [
            ("sep: Background(64) and back()", lambda: sep.Background(image, mask=flags).back()),
            (
                "sep: Background(128), subtracted",
                lambda: sep.Background(image, mask=flags, bw=128, bh=128).subfrom(work),
            ),
        ]
    print(f"{image.shape[1]} x {image.shape[0]}, one thread, CPU seconds (best of {options.repeats})")
    for name, function in rows:
        print(f"  {name:35s} {measure(function, options.repeats):7.3f}")


if __name__ == "__main__":
    main()
