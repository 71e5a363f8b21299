"""CPU seconds of every measurement on a simulated frame, beside sep when it is installed.

    python benchmarks/bench_measurement.py --size 4096
    python benchmarks/bench_measurement.py --frame DIR      # a frame of frame_sim.py
    python benchmarks/bench_measurement.py --plugins sersic_flux cmodel_flux centroid shape gaussian_flux

Run it with OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 so that CPU seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import time
from pathlib import Path

import numpy as np

from starmill.background.mesh import estimate_background
from starmill.datamodel.catalog import Catalog, Schema
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ChebyshevField, ConstantField
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import GaussianPsf, PixelBasisPsf
from starmill.detection.filters import smooth
from starmill.detection.footprints import grow_footprints, growth_radius
from starmill.detection.threshold import detect_footprints
from starmill.measurement.joint_psf import fit_point_sources
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask

CORE = ["peak", "centroid", "shape", "pixel", "psf_flux", "aperture_flux"]
SIGMA = 1.6


def make_frame(size, seed=1):
    """Moffat-like stars on a flat sky with the source density of 10,000 in 4096 x 4096."""
    rng = np.random.default_rng(seed)
    n = int(10000 * (size / 4096) ** 2)
    image = rng.normal(0, 18, (size, size)).astype(np.float32)
    r = np.arange(-20, 21)
    for x, y, flux in zip(*rng.uniform(0, size - 1, (2, n)), 600 * rng.random(n) ** -1.25, strict=True):
        ix, iy = int(x), int(y)
        if not (20 <= ix < size - 20 and 20 <= iy < size - 20):
            continue
        r2 = np.add.outer((r + iy - y) ** 2, (r + ix - x) ** 2)
        image[iy - 20 : iy + 21, ix - 20 : ix + 21] += (
            min(flux, 3e6) * 2.5 / (np.pi * 8.2) * (1 + r2 / 8.2) ** -3.5
        )
    variance = np.maximum(image, 0) + 325
    return image, variance.astype(np.float32), np.zeros((size, size), np.int32)


def read_frame(folder):
    """Image, variance and mask that frame_sim.py wrote."""
    from astropy.io import fits

    image, variance = (fits.getdata(folder / f"sci{end}.fits").astype(np.float32) for end in ("", "_var"))
    return image, variance, fits.getdata(folder / "sci_mask.fits").astype(np.int32)


def detect(exposure):
    """Catalogue of footprints above 5 sigma."""
    bits = exposure.mask.bits("BAD", "SAT")
    field = estimate_background(exposure.image, exposure.mask.array, bits=bits, bin_size=128).field
    exposure.image[...] -= field.image(exposure.box).astype(np.float32)
    smoothed = smooth(exposure.image, SIGMA, variance=exposure.variance, mask=exposure.mask.array,
                      missing_bits=exposure.mask.bits("NO_DATA", "BAD"))  # fmt: skip
    found = detect_footprints(smoothed.image, 5.0, variance=smoothed.variance, search_box=smoothed.search_box)
    found = grow_footprints(found, growth_radius(SIGMA, 2.4), exposure.box)
    first = found.peaks[found.peak_offsets[:-1]]
    n = len(found)
    columns = {"id": np.arange(1, n + 1), "parent": np.zeros(n, int), "x": first["x"], "y": first["y"]}
    return Catalog(Schema(), columns, footprints=found)


def varying_psf(box, size):
    """Moffat PSF whose width changes over the field."""
    r2 = np.add.outer((np.arange(size) - size // 2) ** 2, (np.arange(size) - size // 2) ** 2)

    def moffat(alpha2):
        image = (1 + r2 / alpha2) ** -3.5
        return image / image.sum()

    basis = np.stack([moffat(8.2), moffat(9.0) - moffat(7.4)])
    return PixelBasisPsf(
        basis, [ConstantField(box, 1.0), ChebyshevField(box, np.array([[0, 0.3], [0.3, 0]]))]
    )


def report(label, task, exposure, catalog, *, details):
    """Run a task twice and print the second."""
    task.run(exposure=exposure, catalog=catalog[:100])
    start = time.process_time()
    task.run(exposure=exposure, catalog=catalog)
    seconds = time.process_time() - start
    print(f"{label:44} {seconds:7.2f} s {len(catalog) / seconds:9.0f} sources/s")
    if details:
        for name, value in task.metadata.items():
            if name.endswith("_cpu_seconds") and not name.startswith("run"):
                print(
                    f"    {name.removesuffix('_cpu_seconds'):40} {value:7.3f} s {1e6 * value / len(catalog):7.1f} us"
                )


def peers(exposure, catalog):
    """Print the times of sep for the same ten apertures."""
    if importlib.util.find_spec("sep") is None:
        print("sep is not installed")
        return
    import sep

    order = np.argsort(catalog["y"])
    x, y = catalog["x"][order].astype(float), catalog["y"][order].astype(float)
    start = time.process_time()
    for radius in (3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0):
        sep.sum_circle(exposure.image, x, y, radius, var=exposure.variance, subpix=0)
    print(f"{'sep: ten exact apertures':44} {time.process_time() - start:7.2f} s")


def joint_peer(exposure, catalog, side=1024):
    """Print the speed of photutils with groups of overlapping stars, and of starmill, in a corner of the image."""
    if importlib.util.find_spec("photutils") is None:
        print("photutils is not installed")
        return
    from astropy.table import Table
    from photutils.psf import CircularGaussianPRF, PSFPhotometry, SourceGrouper

    part = exposure[Box(0, 0, side, side)]
    inside = (
        (catalog["x"] > 15) & (catalog["x"] < side - 15) & (catalog["y"] > 15) & (catalog["y"] < side - 15)
    )
    x, y = catalog["x"][inside].astype(float), catalog["y"][inside].astype(float)
    model = CircularGaussianPRF(fwhm=SIGMA * 2.3548)
    for fixed in (True, False):
        model.x_0.fixed = model.y_0.fixed = fixed
        fit = PSFPhotometry(model, (11, 11), grouper=SourceGrouper(4 * SIGMA), aperture_radius=4)
        start = time.process_time()
        fit(part.image, error=np.sqrt(part.variance), init_params=Table({"x": x, "y": y}))
        seconds = time.process_time() - start
        rounds = 0 if fixed else 3
        fit_point_sources(part, x[:9], y[:9], want_residual=False, position_iterations=rounds)  # compile
        start = time.process_time()
        fit_point_sources(part, x, y, want_residual=False, position_iterations=rounds)
        own = time.process_time() - start
        what = "fluxes" if fixed else "fluxes and places"
        print(
            f"joint PSF {what}, {len(x)} sources: photutils {len(x) / seconds:.0f}/s, starmill {len(x) / own:.0f}/s"
        )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--frame", type=Path)
    parser.add_argument("--psf-size", type=int, default=41)
    parser.add_argument("--plugins", nargs="*", help="measure these instead")
    options = parser.parse_args()
    image, variance, mask = read_frame(options.frame) if options.frame else make_frame(options.size)
    exposure = Exposure(image, variance=variance)
    exposure.mask.array |= mask
    catalog = detect(exposure)
    print(f"{image.shape[1]} x {image.shape[0]} pixels, {len(catalog)} sources")
    psfs = {f"Gaussian PSF {o}": GaussianPsf(SIGMA, o) for o in (25,)}
    psfs[f"varying PSF {options.psf_size}"] = varying_psf(exposure.box, options.psf_size)
    for label, psf in psfs.items():
        exposure.psf = psf
        names = options.plugins or CORE
        core = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=names))
        report(f"{' '.join(names)[:24]}, {label}", core, exposure, catalog, details=bool(options.plugins))
        if not options.plugins:
            report(f"default list, {label}", SingleFrameMeasurementTask(), exposure, catalog, details=True)
        start = time.process_time()
        fit_point_sources(exposure, catalog["x"], catalog["y"], want_residual=False)
        seconds = time.process_time() - start
        print(f"{f'joint PSF fluxes, {label}':44} {seconds:7.2f} s {len(catalog) / seconds:9.0f} sources/s")
    peers(exposure, catalog)
    exposure.psf = GaussianPsf(SIGMA, 25)
    joint_peer(exposure, catalog)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
