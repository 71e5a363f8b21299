"""CPU time of difference imaging against the C program on the same pair.

Run by hand: ``python benchmarks/bench_differencing.py --size 1024 --hotpants PATH``. The pair is simulated here, with the
default 49 basis images, variance and mask.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from starmill.hotpants import Hotpants, HotpantsConfig
from starmill.numerics.tiles import set_threads

STEPS = (
    "find_stamps",
    "fit_and_select_direction",
    "iterative_fit_and_clip",
    "convolve_and_difference",
    "get_final_outputs",
)


def memory(name):
    """Return the largest resident memory of this process (``VmHWM``) or another number of its status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def simulate(n, seed=1):
    """Return template and science images with Gaussian stars."""
    rng = np.random.default_rng(seed)
    template, science = np.full((n, n), 200.0), np.full((n, n), 300.0)
    reach = 12
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    for x, y, u in rng.random((int(0.002 * n * n), 3)):
        x, y = reach + x * (n - 2 * reach - 2), reach + y * (n - 2 * reach - 2)
        flux, i, j = min(800 * (1 - u) ** -1.3, 3e5), round(x), round(y)
        part = np.s_[j - reach : j + reach + 1, i - reach : i + reach + 1]
        r2 = (columns - (x - i)) ** 2 + (rows - (y - j)) ** 2
        for image, sigma, factor in ((template, 1.3, 1.0), (science, 1.75, 0.8)):
            image[part] += factor * flux * np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    noisy = [
        (image + rng.normal(size=image.shape) * np.sqrt(image / gain + (read / gain) ** 2)).astype("f4")
        for image, gain, read in ((template, 15.0, 15.0), (science, 1.5, 8.0))
    ]
    mask = (rng.random((n, n)) < 2e-4).astype(np.int16) * 128
    noisy[1][mask > 0] = 0
    return noisy[0], noisy[1], mask


MODES = {
    "all planes": {},
    "in place": {
        "keep_convolved": False,
        "overwrite_inputs": True,
    },  # the planes that the C program writes here
}


def run_engine(folder, threads, mode):
    """Print CPU and wall time of the engine and the largest memory of this process, which does nothing else."""
    template, science, mask = (np.load(f"{folder}/{key}.npy") for key in "tsm")
    config = HotpantsConfig(
        tuthresh=49999, iuthresh=49999, tlthresh=5, ilthresh=5, tgain=15, igain=1.5, trdnoise=15, irdnoise=8,
        normalize="i", **MODES[mode],
    )  # fmt: skip
    part = np.s_[:512, :512]
    Hotpants(template[part].copy(), science[part].copy(), config=config).run_pipeline()
    set_threads(threads)
    cpu, wall = time.process_time(), time.perf_counter()
    session = Hotpants(template, science, i_mask=mask, config=config)
    steps = {}
    for name in STEPS:
        begin = time.process_time()
        getattr(session, name)()
        steps[name] = time.process_time() - begin
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    label = f"{mode}, {threads} thread" + "s" * (threads > 1)
    print(
        f"{label:22s} {cpu:7.2f} CPU s {wall:7.2f} s wall {memory('VmHWM'):7.0f} MB, {memory('RssFile'):.0f} of them pages "
        "of shared libraries"
    )
    steps = {"classify_pixels": cpu - sum(steps.values()), **steps}
    print("   " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in steps.items()))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--hotpants", help="the C program, built with -O3")
    options = parser.parse_args()
    from astropy.io import fits  # the engine does without it

    with tempfile.TemporaryDirectory() as folder:
        for key, image in zip("tsm", simulate(options.size), strict=True):
            np.save(f"{folder}/{key}.npy", image)
            fits.writeto(f"{folder}/{key}.fits", image)
        for mode in MODES:
            for threads in ("1", "2"):
                code = "import sys, bench_differencing as b; b.run_engine(sys.argv[1], int(sys.argv[2]), sys.argv[3])"
                subprocess.run(
                    [sys.executable, "-c", code, folder, threads, mode], check=True, cwd=Path(__file__).parent
                )
        compare_commands(folder, options.hotpants)


def compare_commands(folder, program):
    """Print CPU, wall time and peak memory of the command in a process of its own, and of the C program."""
    names = {key: f"{folder}/{key}.fits" for key in ("t", "s", "m", "d", "n", "o")}
    words = (
        f"-inim {names['s']} -tmplim {names['t']} -imi {names['m']} -outim {names['d']} "
        f"-oni {names['n']} -omi {names['o']} -n i -tu 49999 -iu 49999 -tl 5 -il 5 -tg 15 -ig 1.5 -tr 15 -ir 8 -v 0"
    ).split()
    # measured by a small process: a child inherits the peak memory of its parent
    code = (
        "import resource, subprocess, sys, time; t = time.perf_counter();"
        "subprocess.run(sys.argv[1:], check=True, capture_output=True);"
        "r = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(r.ru_utime + r.ru_stime, time.perf_counter() - t, r.ru_maxrss / 1024)"
    )
    commands = {"command, FITS": [sys.executable, "-m", "starmill", "hotpants"]}
    if program:
        commands["C program"] = [program]
    found = {}
    for name, command in commands.items():
        answer = subprocess.run(
            [sys.executable, "-S", "-c", code, *command, *words], check=True, capture_output=True, text=True
        )
        cpu, wall, peak = found[name] = tuple(map(float, answer.stdout.split()))
        print(f"{name:22s} {cpu:7.2f} CPU s {wall:7.2f} s wall {peak:7.0f} MB")
    if program:
        ratios = [b / a for a, b in zip(*found.values(), strict=True)]
        print(
            f"command: {ratios[0]:.1f} times less CPU, {ratios[1]:.1f} times less wall time, {100 / ratios[2]:.0f} % memory"
        )


if __name__ == "__main__":
    main()
