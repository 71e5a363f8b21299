"""PSF models: CPU seconds and quality on stars of one simulated frame, beside PSFEx when it is installed.

    python benchmarks/bench_psf.py --frame DIR        # written by frame_sim.py: sci*.fits, truth.fits

The stars are the isolated true stars with S/N above 50; a fifth of them is kept out of the fit. `size` and `e` are the
mean errors of the model against the true PSF on a grid over the frame, `scatter` their rms over the grid; `reserved` is
the mean size residual of the reserved stars. PSFEx runs on vignettes cut by SExtractor and chooses its own stars.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy.spatial import cKDTree

from starmill.background.mesh import estimate_background
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.datamodel.psf import adaptive_moments
from starmill.io.psfex import read_psfex
from starmill.psf_modelling.candidates import extract_star_stamps, require_usable
from starmill.psf_modelling.psf_stars import compare_stars_to_psf
from starmill.psf_modelling.residual_statistics import residual_statistics
from starmill.psf_modelling.star_selection import reserve_stars
from starmill.tasks.measure_psf import MeasurePsfConfig, MeasurePsfTask

FWHM, GRADIENT, BETA, E1, E2 = 3.6, 0.06, 3.5, 0.03, -0.01  # of frame_sim.py
MODELS = {"moffat": "moffat", "pixel grid": "pixel_grid", "principal components": "pca"}
SEX = """DETECT_MINAREA 5
DETECT_THRESH 5
ANALYSIS_THRESH 5
CATALOG_TYPE FITS_LDAC
GAIN 1
SATUR_LEVEL 60000
PHOT_APERTURES 12
"""
COLUMNS = ("NUMBER", "X_IMAGE", "Y_IMAGE", "FLUX_RADIUS", "FLUX_APER(1)", "FLUXERR_APER(1)", "ELONGATION", "FLAGS",
           "SNR_WIN", "VIGNET(41,41)")  # fmt: skip


def true_kernels(x, y, width, size=41):
    """Return the kernels of the PSF that drew the stars."""
    half = size // 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    fwhm = FWHM * (1 + GRADIENT * ((x / width - 0.5) + (y / width - 0.5)))[:, None, None]
    a = fwhm / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    r2 = (xx**2 * (1 - E1) + yy**2 * (1 + E1) - 2 * E2 * xx * yy) / a**2
    images = (1 + r2) ** -BETA
    return images / images.sum(axis=(1, 2), keepdims=True)


def shapes(kernels):
    """Return size, e1 and e2 of kernels."""
    xx, yy, xy = adaptive_moments(kernels).T
    return np.sqrt(xx + yy), (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def errors(psf, width):
    """Return mean and rms over the frame of the relative size error and of the ellipticity errors."""
    nodes = np.linspace(0.05, 0.95, 7) * width
    x, y = (a.ravel() for a in np.meshgrid(nodes, nodes))
    size, e1, e2 = shapes(psf.kernels_at(x, y))
    true_size, true_e1, true_e2 = shapes(true_kernels(x, y, width))
    found = (size / true_size - 1, e1 - true_e1, e2 - true_e2)
    return [f(v) for v in found for f in (np.mean, np.std)]


def choose_stars(truth, width):
    """Return positions and fluxes of isolated true stars with S/N above 50, and of all sources."""
    x, y, flux = (np.asarray(truth[name], float) for name in ("x", "y", "flux"))
    snr = flux / np.sqrt(330 * 35 + flux)
    distance = cKDTree(np.c_[x, y]).query(np.c_[x, y], k=2)[0][:, 1]
    inside = (np.minimum(x, y) > 25) & (np.maximum(x, y) < width - 26)
    return (snr > 50) & ~np.asarray(truth["gal"]) & inside & (distance > 6) & (flux < 8e5), x, y, snr


def report(name, seconds, psf, n, stars, width):
    """Print one line of the table."""
    row = errors(psf, width)
    reserved = residual_statistics(stars, which=stars.reserved) if stars is not None else None
    text = "" if reserved is None else f"{reserved.size:+.5f} +- {reserved.size_err:.5f}"
    print(f"{name:28s} {seconds:7.3f} {n:5d}   {row[0]:+.5f} {row[1]:.5f}   {row[2]:+.5f} {row[3]:.5f}   "
          f"{row[4]:+.5f} {row[5]:.5f}   {text}")  # fmt: skip


def ours(image, variance, mask, box, chosen, x, y, snr, fraction):
    """Fit all models to a fraction of the stars."""
    rng = np.random.default_rng(1)
    rows = np.flatnonzero(chosen)
    rows = rows[rng.random(len(rows)) < fraction]
    jitter = rng.normal(0, 0.8, (2, len(rows))) / snr[rows]
    start = time.process_time()
    stamps = extract_star_stamps(
        image, variance, mask, x[rows] + jitter[0], y[rows] + jitter[1], size=41, bad_bits=3,
        neighbour_x=x[snr > 10], neighbour_y=y[snr > 10],
    )  # fmt: skip
    stamps = stamps.take(require_usable(stamps, 4.0))
    extraction = time.process_time() - start
    reserved = reserve_stars(len(stamps), 0.2)
    offered = stamps.take(~reserved)
    exposure = Exposure(image, Mask(mask), variance)
    for name, determiner in MODELS.items():
        task = MeasurePsfTask(MeasurePsfConfig(determiner=determiner))
        start = time.process_time()
        psf, kept = task.fit(offered, exposure, 1.5)
        seconds = extraction + time.process_time() - start
        used = np.zeros(len(stamps), bool)
        used[np.flatnonzero(~reserved)[kept]] = True
        stars = compare_stars_to_psf(stamps, psf, np.arange(len(stamps)), used, reserved)
        report(f"starmill {name}", seconds, psf, int(used.sum()), stars, box.width)


def psfex(frame, width):
    """Run SExtractor and PSFEx; only the CPU of PSFEx counts."""
    sextractor = shutil.which("source-extractor") or shutil.which("sex")
    if sextractor is None or shutil.which("psfex") is None:
        print("PSFEx or SExtractor is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "default.sex").write_text(SEX)
        (folder / "default.param").write_text("\n".join(COLUMNS) + "\n")
        (folder / "default.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
        sci = (Path(frame) / "sci.fits").resolve()
        flags = (Path(frame) / "sci_mask.fits").resolve()
        subprocess.run([sextractor, sci, "-CATALOG_NAME", "stars.cat", "-FLAG_IMAGE", flags], cwd=folder, check=True,
                       capture_output=True)  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["psfex", "stars.cat", "-SAMPLE_FWHMRANGE", "2,8", "-SAMPLE_MINSN", "50", "-PSFVAR_DEGREES", "2",
                   "-PSF_SIZE", "41,41", "-PSF_SAMPLING", "1", "-BASIS_TYPE", "PIXEL", "-CHECKPLOT_TYPE", "NONE",
                   "-CHECKIMAGE_TYPE", "NONE", "-WRITE_XML", "N", "-NTHREADS", "1"]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        psf = read_psfex(folder / "stars.psf", box=Box(0, 0, width, width))
        report("PSFEx", seconds, psf, fits.getheader(folder / "stars.psf", 1)["ACCEPTED"], None, width)


def main():
    """Run the models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frame", required=True, help="folder written by frame_sim.py")
    parser.add_argument("--size", type=int, help="use the lower left part of this side, pixels")
    arguments = parser.parse_args()
    frame = Path(arguments.frame)
    image, variance, flags = (fits.getdata(frame / f"sci{part}.fits") for part in ("", "_var", "_mask"))
    size = arguments.size or len(image)
    image, variance, flags = (np.ascontiguousarray(a[:size, :size]) for a in (image, variance, flags))
    mask = flags.astype(np.int32)
    image = image.astype(np.float32) - estimate_background(image, mask, bits=3).field.image(dtype=np.float32)
    truth = Table.read(frame / "truth.fits")
    chosen, x, y, snr = choose_stars(truth, size)
    box = Box(0, 0, size, size)
    full = len(fits.getdata(frame / "sci.fits"))
    heads = "   ".join(f"{name:>8s} scatter" for name in ("size", "e1", "e2"))
    print(f"{'model':28s} {'CPU s':>7s} {'stars':>5s}   {heads}   reserved")
    ours(image, variance.astype(np.float32), mask, box, chosen, x, y, snr, 0.05)
    print("warm:")
    for fraction in (1.0, 1 / 3, 0.1):
        ours(image, variance.astype(np.float32), mask, box, chosen, x, y, snr, fraction)
    if size == full:
        psfex(frame, size)


if __name__ == "__main__":
    main()
