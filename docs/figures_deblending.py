"""Make the figure of the page on deblending, a simulated blend and its children: ``python docs/figures_deblending.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ConstantField
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf_models import MoffatPsf
from starmill.diagnostics.figures import save_figure
from starmill.simulation.scene import moffat_stamps
from starmill.tasks.deblend import SourceDeblendTask
from starmill.tasks.deblend_multi_threshold import MultiThresholdDeblendTask
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask

HERE = Path(__file__).resolve().parent
SIDE, FWHM, BETA, SKY = 61, 3.6, 3.5, 300.0
# x, y, flux (electrons), FWHM (pixels), e1, e2: a galaxy and three stars
SOURCES = np.array([
    (29.3, 30.2, 90_000, 8.5, 0.3, 0.2), (38.4, 34.1, 60_000, FWHM, 0, 0), (37.6, 41.3, 15_000, FWHM, 0, 0),
    (36.7, 19.0, 12_000, FWHM, 0, 0),
])  # fmt: skip


def draw(seed: int = 3) -> tuple[Exposure, list[np.ndarray]]:
    """Draw the blend: exposure and the noise-free light of every source."""
    rng = np.random.default_rng(seed)
    x, y, flux, fwhm, e1, e2 = SOURCES.T
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    half = SIDE // 2
    stamps = moffat_stamps(x - half, y - half, alpha, e1, e2, BETA, half)
    peak = flux * (BETA - 1) / (np.pi * alpha**2)
    parts = [stamp * top for stamp, top in zip(stamps, peak, strict=True)]
    image = rng.poisson(np.sum(parts, axis=0) + SKY) - SKY
    box = Box.from_shape(image.shape)
    width, zero, beta = (ConstantField(box, value) for value in (FWHM, 0.0, BETA))
    psf = MoffatPsf(width, zero, zero, beta, 41)
    variance = np.asarray(np.sum(parts, axis=0) + SKY, np.float32)
    return Exposure(image.astype(np.float32), variance=variance, psf=psf), parts


def children(exposure: Exposure, task: SourceDeblendTask) -> list[tuple[float, float, np.ndarray]]:
    """Return position and pixels of the leaves."""
    config = SourceDetectionConfig(
        re_estimate_background=False, use_local_background=False, sharpen_peaks=True
    )
    found = SourceDetectionTask(config).run(exposure=exposure).catalog
    catalog = task.run(exposure=exposure, catalog=found).catalog
    leaves = catalog[catalog["parent"] > 0]
    out = []
    for x, y, footprint in zip(leaves["x"], leaves["y"], leaves.footprints, strict=True):
        image = np.zeros(exposure.shape, np.float32)
        footprint.insert(image)
        out.append((float(x), float(y), image))
    return out


def main() -> None:
    """Write ``_static/deblending.png`` and print the fluxes."""
    exposure, truth = draw()
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    rows = [("truth", [(s[0], s[1], t) for s, t in zip(SOURCES, truth, strict=True)])]
    rows += [("symmetric templates", children(exposure, SourceDeblendTask()))]
    rows += [("multi-threshold tree", children(exposure, MultiThresholdDeblendTask()))]
    panels = figure.subplots(len(rows), len(SOURCES) + 1)
    top = float(np.percentile(exposure.image, 99.5))
    for line, (name, found) in zip(panels, rows, strict=True):
        line[0].imshow(
            np.arcsinh(exposure.image / 50), origin="lower", cmap="gray", vmin=-0.5, vmax=np.arcsinh(top / 50)
        )
        line[0].set_ylabel(name)
        for panel, (x, y, flux, *_) in zip(line[1:], SOURCES, strict=True):
            near = [one for one in found if np.hypot(one[0] - x, one[1] - y) < 0.5 * FWHM]
            pixels = near[0][2] if near else np.full(exposure.shape, np.nan)
            panel.imshow(
                np.arcsinh(pixels / 50), origin="lower", cmap="gray", vmin=-0.5, vmax=np.arcsinh(top / 50)
            )
            total = f"{pixels.sum() / flux:.2f} of its flux" if near else "not found"
            panel.set_title(total, fontsize=9)
            print(name, f"({x}, {y})", total)
    for panel in panels.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    panels[0, 0].set_title("the blend", fontsize=9)
    save_figure(figure, HERE / "_static" / "deblending.png", dpi=75)


if __name__ == "__main__":
    main()
