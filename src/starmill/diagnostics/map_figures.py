"""Figures of maps with compact sources: cutouts in two and three dimensions, overview, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from starmill.datamodel.catalog import Catalog
from starmill.datamodel.cube import SkyMap
from starmill.diagnostics.figures import png_bytes
from starmill.io.atomic import atomic_write_bytes
from starmill.numerics.tiles import map_tiles

__all__ = [
    "completeness_figure", "cutout_figure", "draw_cutouts", "histogram_figure", "overview_figure", "surface_figure",
]  # fmt: skip

PANELS = (
    ("data", "data - background"),
    ("masked", "sources only"),
    ("model", "model"),
    ("residual", "residual"),
)


class CutoutLike(Protocol):
    """Planes around one source or group; see :class:`starmill.hyper.products.Cutout`."""

    name: str
    corner: tuple[int, int]
    data: NDArray[Any]
    masked: NDArray[Any]
    model: NDArray[Any]
    residual: NDArray[Any]
    background: NDArray[Any]


def _limits(cut: CutoutLike) -> tuple[float, float]:
    values = np.concatenate([cut.data.ravel(), cut.model.ravel()])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, [0.5, 99.8]))
    return (low, high) if high > low else (low, low + 1.0)


def cutout_figure(cut: CutoutLike, unit: str) -> Figure:
    """Draw data, sources only, model and residual of a cutout side by side on one brightness scale."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    low, high = _limits(cut)
    ny, nx = cut.data.shape
    x0, y0 = cut.corner
    extent = (x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    axes = figure.subplots(1, 4, sharey=True)
    for ax, (plane, title) in zip(axes, PANELS, strict=True):
        picture = ax.imshow(
            getattr(cut, plane),
            origin="lower",
            extent=extent,
            vmin=low,
            vmax=high,
            cmap="viridis",
            interpolation="nearest",
        )
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("x (pixel)", fontsize=8)
    axes[0].set_ylabel("y (pixel)", fontsize=8)
    figure.colorbar(picture, ax=list(axes), label=unit, shrink=0.9)
    figure.suptitle(cut.name.replace("_", " "), fontsize=10)
    return figure


def surface_figure(cut: CutoutLike, unit: str, *, background: bool = False) -> Figure:
    """Draw the planes of a cutout as surfaces; only the background when ``background``."""
    panels = (("background", "background"),) if background else PANELS
    figure = Figure(figsize=(3.2 * len(panels) + 1, 3.4))
    low, high = _limits(cut)
    yy, xx = np.indices(cut.data.shape)
    for i, (plane, title) in enumerate(panels):
        ax: Any = figure.add_subplot(1, len(panels), i + 1, projection="3d")
        values = np.where(
            np.isfinite(getattr(cut, plane)), getattr(cut, plane), low
        )  # a surface has no holes
        ax.plot_surface(
            xx + cut.corner[0], yy + cut.corner[1], values, cmap="viridis", linewidth=0, rcount=25, ccount=25
        )
        if not background:
            ax.set_zlim(low, high)
        ax.set_title(title, fontsize=9)
        ax.tick_params(labelsize=6)
        ax.set_zlabel(unit, fontsize=7)
    figure.suptitle(cut.name.replace("_", " "), fontsize=10)
    return figure


def draw_cutouts(
    cutouts: Sequence[CutoutLike], folder: str | Path, stem: str, unit: str, *, background: bool = False
) -> list[Path]:
    """Write the 2-D and 3-D figures of cutouts as PNG files; several at a time.

    Parameters
    ----------
    cutouts : sequence
    folder : path
    stem : str
        First part of the file names.
    unit : str
        Of the planes.
    background : bool
        Only the surface of the background.

    Returns
    -------
    paths : list of Path
    """

    def draw(cut: CutoutLike) -> list[Path]:
        figures = {"3D": surface_figure(cut, unit, background=background)}
        if not background:
            figures["2D"] = cutout_figure(cut, unit)
        paths = []
        for kind, figure in figures.items():
            ending = "bg_masked3D" if background else kind
            path = Path(folder) / f"{stem}{cut.name}_{ending}.png"
            atomic_write_bytes(path, png_bytes(figure, dpi=90))
            paths.append(path)
        return paths

    return [path for paths in map_tiles(draw, cutouts) for path in paths]


def overview_figure(sky_map: SkyMap, ellipses: NDArray[np.float64], catalog: Catalog) -> Figure:
    """Draw a map with the apertures of its sources; flagged ones in red."""
    image = np.asarray(sky_map.image, np.float64)
    ny, nx = image.shape
    figure = Figure(figsize=(9.0, max(3.0, 9.0 * ny / nx)), layout="constrained")
    ax = figure.subplots()
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, [1, 99.5]) if finite.size else (0.0, 1.0)
    ax.imshow(
        image,
        origin="lower",
        cmap="gray_r",
        vmin=low,
        vmax=high if high > low else low + 1,
        interpolation="nearest",
    )
    for row, flagged in zip(ellipses, catalog["fit_flag"] | catalog["aperture_flux_flag"], strict=True):
        if np.isfinite(row).all():
            ax.add_patch(Ellipse(
                (row[0], row[1]), 2 * row[2], 2 * row[3], angle=float(np.degrees(row[4])), fill=False,
                edgecolor="tab:red" if flagged else "tab:blue", linewidth=0.7,
            ))  # fmt: skip
    ax.set_xlabel("x (pixel)")
    ax.set_ylabel("y (pixel)")
    ax.set_title(f"{sky_map.name}: {len(catalog)} sources", fontsize=10)
    return figure


def histogram_figure(catalog: Catalog, beam_arcsec: float) -> Figure:
    """Draw the distributions of flux, size in beams and significance."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    size = np.sqrt(np.maximum(catalog["fwhm_major"] * catalog["fwhm_minor"], 0.0)) / beam_arcsec
    for ax, values, label, logarithmic in zip(
        figure.subplots(1, 3), (catalog["aperture_flux"], size, catalog["significance"]),
        ("integrated flux (Jy)", "mean FWHM (beam)", "peak / error"), (True, False, True), strict=True,
    ):  # fmt: skip
        good = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
        if good.size and good.max() > good.min():
            bins = (
                np.geomspace(good.min(), good.max(), 25)
                if logarithmic
                else np.linspace(good.min(), good.max(), 25)
            )
            ax.hist(good, bins=bins, color="tab:blue", alpha=0.8)
            if logarithmic:
                ax.set_xscale("log")
        ax.set_xlabel(label)
        ax.set_ylabel("sources")
    return figure


def completeness_figure(curve: Catalog) -> Figure:
    """Draw completeness and flux bias against the injected signal-to-noise ratio."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = np.sqrt(curve["snr_low"] * curve["snr_high"])
    left.errorbar(middle, curve["completeness"], curve["completeness_err"], fmt="o-", markersize=3)
    right.errorbar(middle, curve["flux_bias"], curve["flux_scatter"], fmt="o-", markersize=3)
    right.axhline(0.0, color="gray", linewidth=0.7)
    for ax, label in ((left, "completeness"), (right, "measured / true flux - 1")):
        ax.set_xscale("log")
        ax.set_xlabel("injected peak / local rms")
        ax.set_ylabel(label)
    return figure
