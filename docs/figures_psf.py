"""Make the figure of the page on the PSF, a globular cluster without its stars: ``python docs/figures_psf.py --data DIR``.

DIR holds ``bias``, ``dark``, ``flat`` and ``science`` of a night of M13 with the ARCSAT telescope.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from starmill.background.mesh import estimate_background
from starmill.datamodel.exposure import Exposure
from starmill.diagnostics.figures import save_figure
from starmill.io.raw import load_camera, read_raw
from starmill.measurement.joint_psf import JointFit, fit_point_sources
from starmill.tasks.build_calibration import BuildCalibrationConfig, BuildCalibrationTask
from starmill.tasks.characterize import CharacterizeImageTask
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask
from starmill.tasks.isr import IsrConfig, IsrTask

HERE = Path(__file__).resolve().parent
ROUNDS = 6  # of detection on what the fit has left
CELL = 32  # of the light of stars too faint to be seen alone, pixels
HALF = 128  # half side of the core that is shown, pixels


def reduce_frame(folder: Path):
    """Characterise the first r-band frame of the night: exposure and catalogue."""
    camera = load_camera("arcsat")
    masters = {}
    for kind in ("bias", "dark", "flat"):
        paths = [p for p in sorted(folder.glob(f"{kind}/*.fits*")) if kind != "flat" or "_r_" in p.name]
        options = {"kind": kind, "isr": camera.config["isr"], **camera.config.get("build_calibration", {})}
        task = BuildCalibrationTask(BuildCalibrationConfig().override(options))
        frames = [lambda path=path: read_raw(path, camera) for path in paths]
        masters[kind] = task.run(frames=frames, **masters).master
    isr = IsrTask(IsrConfig().override(camera.config["isr"]))
    raw = read_raw(min(folder.glob("science/*_r_*.fits*")), camera)
    result = CharacterizeImageTask().run(exposure=isr.run(raw=raw, **masters).exposure)
    return result.characterized, result.catalog


def light_between(exposure: Exposure, fit: JointFit) -> np.ndarray:
    """Return the smooth light of stars too faint to be seen alone, from what is left between the fitted stars."""
    taken = exposure.mask.array & exposure.mask.bits("SAT", "BAD") != 0
    reach = int(0.5 * exposure.psf.fwhm_at())
    inside = np.isfinite(fit.flux) & (fit.flux > 5 * fit.flux_err)
    x, y = (np.round(v[inside]).astype(int) for v in (fit.x, fit.y))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dx * dx + dy * dy <= reach * reach:
                taken[np.clip(y + dy, 0, len(taken) - 1), np.clip(x + dx, 0, taken.shape[1] - 1)] = True
    field = estimate_background(fit.residual, taken.astype(np.int32), bits=1, bin_size=CELL).field
    return field.image(exposure.box).astype(np.float32)


def fit_stars(exposure: Exposure, x: np.ndarray, y: np.ndarray) -> JointFit:
    """Fit all stars together; what the residual shows is added, its smooth part is background, and all is fitted again."""
    detect = SourceDetectionTask(SourceDetectionConfig(re_estimate_background=False, threshold=6.0))
    work = exposure
    fit = fit_point_sources(work, x, y, position_iterations=2)
    for _ in range(ROUNDS):
        smooth = light_between(exposure, fit)
        left = Exposure(fit.residual - smooth, exposure.mask, exposure.variance, psf=exposure.psf)
        work = Exposure(work.image - smooth, exposure.mask, exposure.variance, psf=exposure.psf)
        peaks = detect.run(exposure=left).catalog.footprints.peaks
        new = np.stack([peaks["x"], peaks["y"]], axis=1).astype(float)
        kept = np.isfinite(fit.flux) & (fit.flux > 5 * fit.flux_err)
        known = np.stack([fit.x, fit.y], axis=1)[kept]
        far = cKDTree(known).query(new)[0] > 0.8 * exposure.psf.fwhm_at()
        places = np.concatenate([known, new[far]])
        fit = fit_point_sources(work, *places.T, position_iterations=2)
    return fit


def residual_figure(exposure: Exposure, fit: JointFit) -> tuple[Figure, str]:
    """Show the core before and after, and the residual in units of the noise; the numbers as text."""
    weights = np.clip(np.nan_to_num(fit.flux), 0, np.nanpercentile(fit.flux, 99))
    cx, cy = (int(np.average(v, weights=weights)) for v in (fit.x, fit.y))
    part = np.s_[max(cy - HALF, 0) : cy + HALF, max(cx - HALF, 0) : cx + HALF]
    image, residual, sigma = exposure.image[part], fit.residual[part], np.sqrt(exposure.variance[part])
    good = exposure.mask.array[part] & exposure.mask.bits("SAT", "BAD", "NO_DATA") == 0
    top = float(np.percentile(image, 99))
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    for panel, values, title in zip(
        figure.subplots(1, 3), (image, residual, np.where(good, residual / sigma, 0)),
        ("image (electrons)", "less all fitted stars", "residual / noise"), strict=True,
    ):  # fmt: skip
        low, high = (-8, 8) if values is not image and values is not residual else (-0.1 * top, top)
        shown = panel.imshow(values, origin="lower", vmin=low, vmax=high, cmap="gray")
        panel.set_title(title, fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
        figure.colorbar(shown, ax=panel, shrink=0.8)
    pull = (residual / sigma)[good]
    spread = 1.4826 * np.median(np.abs(pull - np.median(pull)))
    rms = residual[good].std() / image[good].std()
    number = np.isfinite(fit.flux).sum()
    text = f"{number} stars in the frame; in the core rms {rms:.4f} of the image's, width {spread:.2f} of the noise"
    return figure, text


def main() -> None:
    """Write ``_static/m13_core.png`` and print its numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    exposure, catalog = reduce_frame(parser.parse_args().data)
    leaves = catalog[catalog["n_child"] == 0]
    figure, text = residual_figure(exposure, fit_stars(exposure, leaves["x"], leaves["y"]))
    save_figure(figure, HERE / "_static" / "m13_core.png", dpi=75)
    print(text)


if __name__ == "__main__":
    main()
