"""Bias of galaxy-model fluxes: galaxies of known total light on a grid, PSF known.

    python benchmarks/bench_galaxies.py [--size 12] [--seed 1] [--radius 2.5] [--min-snr 50]

Kinds: Sersic profiles of index 0.5, 1, 2, 4 (drawn on a fine grid and convolved with the Moffat PSF), the sum of a
de Vaucouleurs bulge and an exponential disk, and the galaxies of ``frame_sim.py`` and of ``starmill simulate`` (Moffat
profiles that are wider than the PSF). The truth is the integral of the profile over the plane. Rows: mean of
measured / true - 1 in per cent with
its error, for galaxies whose flux error is below 1 / min-snr, and the standard deviation of the pulls.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.signal import fftconvolve

from starmill.datamodel.catalog import Catalog
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ConstantField
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf_models import MoffatPsf
from starmill.measurement.galaxy_profiles import sersic_profile
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask

FWHM, BETA, CELL, FINE, SKY, READ_NOISE = 3.6, 3.5, 121, 5, 300.0, 5.0
SCALE = 0.5  # arcsec per pixel of the simulated nights
PLUGINS = ["centroid", "shape", "psf_flux", "gaussian_flux", "sersic_flux", "cmodel_flux", "kron_flux"]
KINDS = ("0.5", "1", "2", "4", "bulge + disk", "frame_sim", "simulate", "star")
FLUXES = ("sersic_flux", "cmodel_flux", "kron_flux")


def moffat(u, v, fwhm, e1=0.0, e2=0.0, beta=BETA):
    """Moffat profile of unit flux."""
    root = np.sqrt(1 - e1**2 - e2**2)
    a2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    r2 = ((1 - e1) * u**2 + (1 + e1) * v**2 - 2 * e2 * u * v) / root / a2
    return (beta - 1) / (np.pi * a2) * (1 + r2) ** -beta


def sersic_cell(parts, dx, dy, q, angle):
    """Sum of Sersic profiles (index, radius, share) convolved with the PSF, unit flux, one cell."""
    grid = (np.arange(CELL * FINE) - (CELL * FINE - 1) / 2) / FINE
    gx, gy = np.meshgrid(grid - dx, grid - dy)
    u, v = gx * np.cos(angle) + gy * np.sin(angle), -gx * np.sin(angle) + gy * np.cos(angle)
    r = np.sqrt(q * u**2 + v**2 / q)
    light = np.zeros_like(r)
    for n, radius, share in parts:
        part = sersic_profile(r / radius, n) / radius**2 / FINE**2
        if (
            n > 1
        ):  # the fine grid misses the cusp: put what is missing inside one radius into the central cell
            step = np.linspace(0, 1, 20001)
            inside = np.trapezoid(sersic_profile(step, n) * 2 * np.pi * step, step)
            part.flat[np.argmin(r)] += inside - part[r < radius].sum()
        light += share * part
    psf = moffat(*np.meshgrid(grid, grid), FWHM) / FINE**2
    fine = fftconvolve(light, psf, mode="same")
    # the PSF that is fitted is sampled at the centres of pixels: so is the image
    return fine[FINE // 2 :: FINE, FINE // 2 :: FINE] * FINE**2


def beta_of(kind):
    """Return the exponent of the PSF."""
    return 3.0 if kind == "simulate" else BETA


def cell_of(kind, rng, radius):
    """One galaxy of unit flux and its place in the cell."""
    dx, dy = rng.uniform(-0.5, 0.5, 2)
    if kind in ("frame_sim", "simulate", "star"):
        yy, xx = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2
        e1, e2 = rng.normal(0, 0.2, 2).clip(-0.5, 0.5) if kind != "star" else (0.0, 0.0)
        extra = {
            "frame_sim": rng.gamma(3.0, 1.0),
            "simulate": (0.4 + rng.gamma(2.0, 0.5)) / SCALE,
            "star": 0.0,
        }[kind]
        if kind == "simulate":  # shapes add like second moments
            share = extra**2 / (extra**2 + FWHM**2)
            e1, e2 = e1 * share, e2 * share
        return moffat(xx - dx, yy - dy, np.hypot(FWHM, extra), e1, e2, beta_of(kind)), dx, dy
    radius, q, angle = radius * np.exp(rng.normal(0, 0.3)), rng.uniform(0.4, 1), rng.uniform(0, np.pi)
    parts = [(4.0, 0.6 * radius, 0.4), (1.0, 1.3 * radius, 0.6)]
    return (
        sersic_cell(parts if kind == "bulge + disk" else [(float(kind), radius, 1.0)], dx, dy, q, angle),
        dx,
        dy,
    )


def draw(kind, n, seed, radius=2.5, faint=1.2e4, bright=3e5):
    """Draw n x n galaxies: exposure with its PSF, true x, y, flux."""
    rng = np.random.default_rng(seed)
    image, truth = np.zeros((n * CELL, n * CELL)), []
    for j, i in np.ndindex(n, n):
        flux = np.exp(rng.uniform(np.log(faint), np.log(bright)))
        cell, dx, dy = cell_of(kind, rng, radius)
        image[j * CELL : (j + 1) * CELL, i * CELL : (i + 1) * CELL] = flux * cell
        truth.append((i * CELL + CELL // 2 + dx, j * CELL + CELL // 2 + dy, flux))
    variance = image + SKY + READ_NOISE**2
    image = rng.poisson(image + SKY) - SKY + rng.normal(0, READ_NOISE, image.shape)
    exposure = Exposure(image.astype(np.float32), variance=variance.astype(np.float32))
    fwhm, zero, beta = (
        ConstantField(Box.from_shape(image.shape), value) for value in (FWHM, 0.0, beta_of(kind))
    )
    exposure.psf = MoffatPsf(fwhm, zero, zero, beta, 41)
    return exposure, *np.array(truth).T


def detect(exposure, x, y):
    """Return the detected sources that are nearest to the true ones, and the order of the truth in that catalogue."""
    config = SourceDetectionConfig(re_estimate_background=False, use_local_background=False)
    found: Catalog = SourceDetectionTask(config).run(exposure=exposure).catalog
    near = [int(np.argmin(np.hypot(found["x"] - a, found["y"] - b))) for a, b in zip(x, y, strict=True)]
    keep = np.zeros(len(found), bool)
    keep[near] = True
    order = np.argsort(near)
    return found[keep], order


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=12, help="galaxies along a side of the grid")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--radius", type=float, default=2.5, help="median half-light radius, pixel")
    parser.add_argument("--min-snr", type=float, default=50.0)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    options = parser.parse_args()
    print(f"{'kind':14s}" + "".join(f"{name:>34s}" for name in FLUXES))
    for k, kind in enumerate(options.kinds):
        exposure, x, y, flux = draw(kind, options.size, options.seed * 100 + k, options.radius)
        catalog, order = detect(exposure, x, y)
        task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=PLUGINS))
        start = time.process_time()
        found = task.run(exposure=exposure, catalog=catalog).catalog
        cpu = (time.process_time() - start) / len(found)
        flux = flux[order]
        bright = found["psf_flux"] / found["psf_flux_err"] > options.min_snr
        cells = []
        for name in FLUXES:
            good = bright & ~found[f"{name}_flag"] & np.isfinite(found[name])
            ratio = (found[name] / flux - 1)[good]
            pull = ((found[name] - flux) / found[f"{name}_err"])[good]
            weight = 1 / ((found[f"{name}_err"] / flux)[good] ** 2 + 0.01**2)
            mean = (ratio * weight).sum() / weight.sum()
            cells.append(
                f"{100 * mean:+6.2f} med {100 * np.median(ratio):+5.2f} +- {100 * ratio.std() / np.sqrt(good.sum()):4.2f} "
                f"p {pull.std():4.2f}"
            )
        print(
            f"{kind:14s}" + "".join(f"{cell:>34s}" for cell in cells),
            f"n {bright.sum()} {1e3 * cpu:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
