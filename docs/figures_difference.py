"""Make the figures of the page on real differences: ``python docs/figures_difference.py --data DIR [NAME ...]``.

DIR holds the alert stamps, the JWST pair, the WIRCam epochs and the night of an asteroid; NAME is ztf, wircam, nircam or
night; the last one takes a minute or two.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits
from matplotlib.figure import Figure

from starmill.coaddition.registration import find_registration
from starmill.coaddition.warp import warp_by_map
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.diagnostics.figures import save_figure
from starmill.differencing.noise import image_variance
from starmill.differencing.seeing import bright_positions
from starmill.errors import StarmillError
from starmill.io.exposure_file import read_exposure
from starmill.tasks.difference import DifferenceConfig, DifferenceTask
from starmill.tasks.measure_difference import MeasureDifferenceConfig, MeasureDifferenceTask

HERE = Path(__file__).resolve().parent
STAMP = DifferenceConfig(
    kernel_order=0, sum_order=0, background_order=0, wings=False, degrees=[2, 2, 0], psf_fwhm=2.2, kernel_half_width=7,
    clip=50.0, decorrelate="never",
)  # fmt: skip


def subtract_alert(path: Path):
    """Return science, template, the survey's difference, ours, and what the alert says."""
    with gzip.open(path) as file, fits.open(file) as hdus:
        planes = [hdus[name].data.astype("f4") for name in ("SCIENCE", "TEMPLATE", "DIFFERENCE")]
        header = dict(hdus[0].header)
    exposures = []
    for image in planes[:2]:
        bad = ~np.isfinite(image)
        mask = Mask(np.zeros(image.shape, np.int32))
        mask.set("NO_DATA", bad)
        exposures.append(Exposure(image, mask, image_variance(image, bad, gain=6.2), unit="adu"))
    center = (np.array([31.0]), np.array([31.0]))
    result = DifferenceTask(STAMP).run(template=exposures[1], science=exposures[0], exclude=center)
    return planes, result.difference.image, header


def aperture_magnitude(image, zero, radius=5.0):
    """Return the magnitude of the absolute flux around the central pixel, and the sign of the flux."""
    y, x = np.mgrid[-31:32, -31:32]
    flux = np.nansum(image[np.hypot(x, y) <= radius])
    return zero - 2.5 * np.log10(max(abs(flux), 1e-3)), np.sign(flux)


def show(axes, image, title, *, spread=None, grey=False):
    """Draw an image, differences around zero and others from low to high."""
    if spread is None:
        low, high = np.nanpercentile(image, [2, 99.5])
    else:
        low, high = -spread, spread
    axes.imshow(image, origin="lower", cmap="gray" if grey else "RdBu_r", vmin=low, vmax=high)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_ztf(data: Path) -> None:
    """Draw the supernova, and our magnitudes of all alerts against those of the survey."""
    found = []
    for path in sorted((data / "diff_ztf_stamps").glob("*.fits.gz")):
        try:
            planes, ours, header = subtract_alert(path)
        except StarmillError as error:
            print(path.name[:12], "failed:", error)
            continue
        zero, published = float(header["MAGZPSCI"]), float(header["MAGPSF"])
        survey = aperture_magnitude(planes[2], zero)
        mine = aperture_magnitude(ours, zero)
        found.append((published, survey[0], mine[0]))
        print(f"{path.name[:12]} {published:.3f} survey {survey[0]:.3f} ours {mine[0]:.3f} {mine[1]:+.0f}")
        if path.name.startswith("ZTF20aaelulu"):
            supernova = planes, ours
    table = np.array(found)
    offset = table[:, 2] - table[:, 1]
    print(f"{len(table)} stamps; ours - survey, same aperture: median {np.median(offset):+.3f}")
    print(
        f"within 0.1 mag: {np.mean(np.abs(offset) < 0.1):.2f}, brighter than 18: {offset[table[:, 0] < 18]}"
    )
    figure = Figure(figsize=(9.5, 5.2))
    grid = figure.add_gridspec(2, 4)
    (science, template, survey), ours = supernova
    spread = 6 * np.nanstd(survey[:15])
    for column, (image, title) in enumerate(((science, "science"), (template, "template"))):
        show(figure.add_subplot(grid[0, column]), image, title, grey=True)
    show(figure.add_subplot(grid[0, 2]), survey, "the survey's difference", spread=spread)
    show(figure.add_subplot(grid[0, 3]), ours, "ours", spread=spread)
    axes = figure.add_subplot(grid[1, :])
    axes.axhline(0, color="0.7")
    axes.plot(table[:, 0], offset, "o")
    axes.set_xlabel("published PSF magnitude")
    axes.set_ylabel("ours - survey, r = 5 px (mag)")
    axes.set_ylim(-0.6, 0.6)
    figure.tight_layout()
    save_figure(figure, HERE / "_static/difference_ztf.png")


def draw_wircam(data: Path) -> None:
    """Draw two epochs of a pair of stars of high proper motion and their difference."""
    epochs = []
    for name in ("1539100p", "2094847p"):
        exposure = read_exposure(data / f"diff_wircam/wircam_H2_{name}.fits.fz")
        exposure.mask.set("SAT", exposure.image < 100)  # saturated cores read zero
        bad = exposure.mask.any("SAT", "NO_DATA")
        exposure.variance = image_variance(exposure.image, bad, gain=3.8)
        epochs.append(exposure)
    stars = [bright_positions(e.image, e.variance, e.mask.any("SAT", "NO_DATA")) for e in epochs]
    registration = find_registration(stars[1], stars[0], epochs[0].shape)
    box = Box(600, 1100, 800, 500)
    template = warp_by_map(epochs[0], registration, epochs[1].box, missing=("SAT", "NO_DATA"))[box]
    result = DifferenceTask(DifferenceConfig(kernel_order=1, sum_order=0)).run(
        template=template, science=epochs[1][box]
    )
    finder = MeasureDifferenceTask(MeasureDifferenceConfig(dipole_reach=9.0))
    catalog = finder.run(difference=result.difference, score=result.score).catalog
    figure = Figure(figsize=(9.5, 3.4))
    panels = figure.subplots(1, 3)
    view = np.s_[1316 - 1100 - 40 : 1316 - 1100 + 41, 985 - 600 - 40 : 985 - 600 + 41]
    for axes, image, title in (
        (panels[0], template.image[view], "first epoch"), (panels[1], epochs[1][box].image[view], "five years later")
    ):  # fmt: skip
        show(axes, image, title, grey=True)
    noise = np.sqrt(np.median(result.difference.variance))
    show(panels[2], result.difference.image[view], "difference", spread=20 * noise)
    near = np.hypot(catalog["x"] - 985, catalog["y"] - 1316) < 15
    for source in np.flatnonzero(near & catalog["dipole_flag"]):
        marker = "_" if catalog["is_negative"][source] else "+"
        panels[2].plot(catalog["x"][source] - 945, catalog["y"][source] - 1276, marker, color="k", ms=9)
    figure.tight_layout()
    save_figure(figure, HERE / "_static/difference_wircam.png")


def read_plane(path: Path):
    """Return the image of a packed FITS file."""
    with bz2.open(path) as file, fits.open(file) as hdus:
        return next(h.data for h in hdus if h.data is not None).astype("f4")


def draw_nircam(data: Path) -> None:
    """Draw a deep pair of visits, their difference and the histogram of its score."""
    folder, part, exposures = data / "diff_nircam_a2744", np.s_[300:900, 100:700], []
    for key in ("01324", "02561"):
        image = read_plane(next((folder / "input_data").glob(f"*{key}*")))[part]
        noise = read_plane(next((folder / "auxiliary").glob(f"*{key}*noise*")))[part]
        bad = ~np.isfinite(image) | ~(noise > 0)
        mask = Mask(np.zeros(image.shape, np.int32))
        mask.set("NO_DATA", bad)
        exposures.append(Exposure(np.where(bad, 0, image), mask, np.where(bad, 0, noise) ** 2, unit="MJy/sr"))
    config = DifferenceConfig(kernel_order=0, sum_order=0, decorrelate="never")
    result = DifferenceTask(config).run(template=exposures[0], science=exposures[1])
    print(f"kernel sum {result.kernel_sum:.4f}, sky width {result.quality.sky_width:.3f}")
    figure = Figure(figsize=(9.5, 3.3), layout="constrained")
    panels = figure.subplots(1, 3)
    noise = np.sqrt(np.median(result.difference.variance[result.difference.variance > 0]))
    show(panels[0], exposures[1].image, "second visit", grey=True, spread=20 * noise)
    show(panels[1], result.difference.image, "difference", spread=8 * noise)
    values = result.score.image[~result.score.mask.any("NO_DATA")]
    edges = np.linspace(-8, 8, 81)
    counts, _ = np.histogram(values, edges)
    center = (edges[1:] + edges[:-1]) / 2
    panels[2].step(center, np.maximum(counts, 0.5), where="mid")
    panels[2].plot(center, len(values) * 0.2 * np.exp(-(center**2) / 2) / np.sqrt(2 * np.pi) + 1e-9)
    panels[2].set_yscale("log")
    panels[2].set_ylim(0.5, None)
    panels[2].set_xlabel("score")
    save_figure(figure, HERE / "_static/difference_nircam.png")


def draw_night(data: Path) -> None:
    """Draw what is left of one frame of a night, and two moving objects in five frames."""
    sys.path.insert(0, str(HERE.parent))
    from tests.differencing import test_asteroid_night as night

    folder = data / "raw_lowell42"
    lines = [
        line for line in (folder / "TRUTH_5945.csv").read_text().splitlines() if not line.startswith("#")
    ]
    rows = {row["frame"]: row for row in csv.DictReader(lines)}
    exposures = night.characterized(folder, rows.values())
    figure = Figure(figsize=(9.5, 5.6))
    grid = figure.add_gridspec(5, 5)
    for column, name in enumerate(night.OTHERS):
        place = float(rows[name]["xraw"]) - 17, float(rows[name]["yraw"])  # overscan
        result, catalog, template = night.subtract(exposures, name)
        image = result.difference.image
        for line, (x, y) in enumerate((place, night.SECOND[name])):
            part = np.s_[round(y) - 15 : round(y) + 16, round(x) - 15 : round(x) + 16]
            noise = float(np.sqrt(np.median(result.difference.variance[part])))
            panel = figure.add_subplot(grid[column, 3 + line])
            show(panel, image[part], "", spread=8 * noise)
            panel.set_ylabel(name if line == 0 else "", fontsize=8)
            if column == 0:
                panel.set_title("the asteroid" if line == 0 else "another one", fontsize=9)
        if name == "0174":
            left = figure.add_subplot(grid[:, :3])
            noise = float(np.sqrt(np.nanmedian(result.difference.variance)))
            show(left, image, f"frame {name}: what is left above 5 sigma", spread=6 * noise, grey=True)
            kinds = night.left_over(result, catalog, template, exposures[name], place)
            for kind, mark in (("edge", "s"), ("spike", "x"), ("extended light", "v"), ("unknown", "o")):
                where = np.array([k[1:] for k in kinds if k[0] == kind]).reshape(-1, 2)
                left.plot(*where.T, mark, mfc="none", ms=5, lw=0, label=f"{kind} ({len(where)})")
            left.plot(*place, "*", ms=11, mfc="none", mec="lime", label="the asteroid")
            left.legend(fontsize=7, loc="upper left", framealpha=0.8)
    figure.tight_layout()
    save_figure(figure, HERE / "_static/difference_night.png")


def main() -> None:
    """Draw the figures that are asked for."""
    makers = {"ztf": draw_ztf, "wircam": draw_wircam, "nircam": draw_nircam, "night": draw_night}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=list(makers))
    arguments = parser.parse_args()
    for name in arguments.names:
        makers[name](arguments.data)


if __name__ == "__main__":
    main()
