"""CPU seconds and quality of the cosmic-ray finders, beside astroscrappy when it is installed.

    python benchmarks/bench_cosmic_rays.py --frame DIR      # a frame of frame_sim.py, with its truth
    python benchmarks/bench_cosmic_rays.py --size 2048      # tracks on noise only

Run it with OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 so that CPU seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from starmill.background.mesh import estimate_background, subtract_field
from starmill.cosmic_rays.interpolate import interpolate_rows
from starmill.cosmic_rays.laplacian import find_cosmic_rays_laplacian
from starmill.cosmic_rays.psf_contrast import find_cosmic_rays
from starmill.datamodel.geometry import Box
from starmill.numerics.tiles import set_threads

SATURATION = 65000.0
FWHM = 3.6


def make_frame(size, seed=1):
    """Noise on a flat sky with straight tracks: image, mask, variance, truth."""
    rng = np.random.default_rng(seed)
    variance = np.full((size, size), 325, np.float32)
    image = (300 + rng.normal(0, 18, (size, size))).astype(np.float32)
    truth = np.zeros((size, size), bool)
    for _ in range(int(1200 * (size / 4096) ** 2)):
        x, y, angle = *rng.uniform(50, size - 50, 2), rng.uniform(0, np.pi)
        t = np.arange(0, min(rng.gamma(2, 4), 40), 0.5)
        px, py = (x + t * np.cos(angle)).astype(int), (y + t * np.sin(angle)).astype(int)
        image[py, px] += rng.lognormal(7.2, 0.8)
        truth[py, px] = True
    return image, np.zeros((size, size), bool), variance, truth


def read_frame(folder):
    """Image, mask, variance and truth that frame_sim.py wrote."""
    from astropy.io import fits

    names = ("sci.fits", "sci_mask.fits", "sci_var.fits", "sci_crtruth.fits")
    image, mask, variance, truth = (fits.getdata(folder / name) for name in names)
    return image.astype(np.float32), mask > 0, variance.astype(np.float32), truth > 0


def gaussian(sigma, half=10):
    """Gaussian image, sum 1."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    image = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return image / image.sum()


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--frame", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--no-peer", action="store_true", help="leave astroscrappy out (it takes half a minute)"
    )
    options = parser.parse_args()
    set_threads(1)
    image, mask, variance, truth = (
        make_frame(options.size) if options.frame is None else read_frame(options.frame)
    )
    planes = mask.astype(np.int32)
    flat = image.copy()
    subtract_field(flat, estimate_background(image, planes).field, Box.from_shape(image.shape))
    common = {"mask": mask, "read_noise": 5.0, "saturation_level": SATURATION}

    def laplacian(**settings):
        return find_cosmic_rays_laplacian(image, **common, **settings).flag(image.shape)

    def contrast():
        return find_cosmic_rays(
            flat, variance, planes, psf_image=gaussian(FWHM / 2.3548), reject_bits=-1
        ).flag(image.shape)

    def fill():
        interpolate_rows(image, mask, variance)

    rows = {
        "contrast to the PSF": (contrast, options.repeats),
        "L.A.Cosmic, separable medians": (laplacian, options.repeats),
        "L.A.Cosmic, full medians": (lambda: laplacian(separable=False), options.repeats),
        "filling masked pixels": (fill, options.repeats),
    }
    if not options.no_peer:
        try:
            import astroscrappy
        except ImportError:
            print("astroscrappy is not installed: no peer")
        else:

            def peer(sepmed):
                return astroscrappy.detect_cosmics(
                    image, inmask=mask, sepmed=sepmed, gain=1.0, readnoise=5.0, satlevel=SATURATION
                )[0]

            rows["astroscrappy, separable"] = (lambda: peer(True), 1)
            rows["astroscrappy, full"] = (lambda: peer(False), 1)
    print(f"{image.shape[1]} x {image.shape[0]}, one thread")
    print(f"  {'':32s} {'CPU s':>7s} {'pixels':>7s} {'found %':>8s} {'others':>7s}")
    real = truth & ~mask
    results = {}
    for name, (function, repeats) in rows.items():
        flag = function() if repeats > 1 else None
        best = np.inf
        for _ in range(repeats):
            start = time.process_time()
            flag = function()
            best = min(best, time.process_time() - start)
        if flag is None:
            print(f"  {name:32s} {best:7.3f}")
            continue
        results[name] = flag
        found = 100 * (flag & real).sum() / max(real.sum(), 1)
        print(f"  {name:32s} {best:7.3f} {flag.sum():7d} {found:8.2f} {(flag & ~truth).sum():7d}")
    for kind in ("separable medians", "full medians"):
        ours, theirs = results.get(f"L.A.Cosmic, {kind}"), results.get(f"astroscrappy, {kind.split()[0]}")
        if theirs is not None:
            print(f"  pixels that differ from astroscrappy, {kind}: {(ours != theirs).sum()}")


if __name__ == "__main__":
    main()
