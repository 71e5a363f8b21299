"""Figures of a difference image: kernel, stamps, residuals, blink-ready pictures."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from starmill.diagnostics.figures import binned, display_range, png_bytes, save_figure
from starmill.diagnostics.report import html_page
from starmill.io.atomic import atomic_write_text

__all__ = [
    "background_figure",
    "kernel_figure",
    "residual_histogram",
    "show_difference",
    "stamps_figure",
    "write_blink_pictures",
    "write_difference_report",
]


def show_difference(template: Any, science: Any, difference: Any, *, catalog: Any = None) -> Figure:
    """Draw template, science and difference side by side, with a circle around every source.

    Parameters
    ----------
    template, science, difference : (ny, nx) arrays
        NaN is drawn grey.
    catalog : Catalog, optional
        Sources of the difference: yellow brighter, cyan fainter, in array positions.
    """
    figure = Figure(figsize=(13, 4.6))
    panels = figure.subplots(1, 3)
    usable = binned(np.isfinite(difference).astype(np.float32), 800)[0] == 1
    for axes, image, title in zip(
        panels, (template, science, difference), ("template", "science", "difference"), strict=True
    ):
        picture, block = binned(np.nan_to_num(np.asarray(image, np.float32)), 800)
        low, high = display_range(picture, usable) if title != "difference" else _symmetric_range(image)
        ny, nx = np.shape(image)
        axes.imshow(
            picture,
            origin="lower",
            cmap="gray",
            vmin=low,
            vmax=high,
            extent=(-0.5, picture.shape[1] * block - 0.5, -0.5, picture.shape[0] * block - 0.5),
        )
        axes.set_title(title)
        axes.set_xlim(-0.5, nx - 0.5)
        axes.set_ylim(-0.5, ny - 0.5)
    if catalog is not None and len(catalog):
        color = np.where(catalog["is_negative"], "cyan", "yellow")
        panels[2].scatter(
            catalog["x"], catalog["y"], s=40, facecolors="none", edgecolors=color, linewidths=0.8
        )
    figure.tight_layout()
    return figure


def kernel_figure(kernel: Any) -> Figure:
    """Draw the matching kernel at nine places, and its sum over the field."""
    box = kernel.box
    figure = Figure(figsize=(9, 6.2))
    grid = figure.add_gridspec(3, 5)
    x = np.linspace(box.x0, box.x1 - 1, 3)
    y = np.linspace(box.y0, box.y1 - 1, 3)
    limit = float(np.abs(kernel.kernel_at(*box.center)).max())
    for j in range(3):
        for i in range(3):
            axes = figure.add_subplot(grid[2 - j, i])
            axes.imshow(kernel.kernel_at(x[i], y[j]), origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_title(f"({x[i]:.0f}, {y[j]:.0f})", fontsize=8)
            axes.set_axis_off()
    axes = figure.add_subplot(grid[:, 3:])
    columns, rows = np.meshgrid(np.linspace(box.x0, box.x1 - 1, 64), np.linspace(box.y0, box.y1 - 1, 64))
    sums = np.broadcast_to(kernel.sum_at(columns, rows), columns.shape)
    middle, spread = float(sums.mean()), max(float(np.ptp(sums)) / 2, 1e-4 * abs(float(sums.mean())))
    picture = axes.imshow(
        sums, origin="lower", extent=box.extent, aspect="auto", vmin=middle - spread, vmax=middle + spread
    )  # a constant sum is drawn as one colour, not as its rounding errors
    figure.colorbar(picture, ax=axes, label="kernel sum").formatter.set_useOffset(False)
    axes.set_title("photometric ratio")
    figure.tight_layout()
    return figure


def background_figure(field: Any, box: Any) -> Figure:
    """Draw the differential background over the field."""
    figure = Figure(figsize=(5.2, 4.2))
    axes = figure.add_subplot()
    columns, rows = np.meshgrid(np.linspace(box.x0, box.x1 - 1, 64), np.linspace(box.y0, box.y1 - 1, 64))
    values = np.broadcast_to(field(columns, rows), columns.shape)
    picture = axes.imshow(values, origin="lower", extent=box.extent, aspect="auto")
    figure.colorbar(picture, ax=axes, label="unit of the science image")
    axes.set_title("differential background")
    figure.tight_layout()
    return figure


def stamps_figure(
    template: Any, science: Any, model: Any, stamps: Any, status: Any, *, limit: int = 6
) -> Figure:
    """Draw template, science, matched template and residual of the brightest stamps.

    Parameters
    ----------
    template, science, model : (ny, nx) arrays
    stamps : StampSet
    status : (n,) str array
        Of each stamp; written beside it.
    limit : int
        Number of stamps.
    """
    order = np.argsort(-np.nan_to_num(stamps.signal_to_noise))[:limit]
    figure = Figure(figsize=(8, 1.8 * max(len(order), 1)))
    panels = np.atleast_2d(figure.subplots(max(len(order), 1), 4, squeeze=False))
    half = stamps.half_width
    for row, k in enumerate(order):
        part = np.s_[stamps.y[k] - half : stamps.y[k] + half + 1, stamps.x[k] - half : stamps.x[k] + half + 1]
        cuts = (template[part], science[part], model[part], science[part] - model[part])
        for axes, cut, title in zip(
            panels[row], cuts, ("template", "science", "model", "residual"), strict=True
        ):
            low, high = np.nanpercentile(cut, [1, 99.5])
            axes.imshow(cut, origin="lower", cmap="gray", vmin=low, vmax=high)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(title if row == 0 else "", fontsize=8)
        panels[row, 0].set_ylabel(str(status[k]), fontsize=8)
    figure.tight_layout()
    return figure


def residual_histogram(pulls: Any) -> Figure:
    """Draw the histogram of difference over error against the unit normal distribution."""
    values = np.asarray(pulls, float)
    values = values[np.isfinite(values)]
    figure = Figure(figsize=(5.2, 3.8))
    axes = figure.add_axes((0.13, 0.14, 0.84, 0.82))
    edges = np.linspace(-8, 8, 161)
    counts, _ = np.histogram(values, edges)
    center = (edges[1:] + edges[:-1]) / 2
    axes.step(center, np.maximum(counts, 0.5), where="mid", label=f"{len(values)} pixels")
    axes.plot(
        center, len(values) * 0.1 * np.exp(-(center**2) / 2) / np.sqrt(2 * np.pi) + 1e-9, label="N(0, 1)"
    )
    axes.set_yscale("log")
    axes.set_ylim(0.5, None)
    axes.set_xlabel("difference / error")
    axes.set_ylabel("pixels")
    axes.legend()
    return figure


def write_blink_pictures(stem: str | Path, template: Any, science: Any, difference: Any) -> list[Path]:
    """Write three PNGs of the same size and, for the first two, the same grey scale; return their paths."""
    low, high = display_range(np.nan_to_num(science), np.isfinite(difference))
    ranges = {
        "template": (template, low, high),
        "science": (science, low, high),
        "difference": (difference, *_symmetric_range(difference)),
    }
    paths = []
    for name, (image, bottom, top) in ranges.items():
        picture, _ = binned(np.nan_to_num(np.asarray(image, np.float32)), 1000)
        figure = Figure(figsize=(picture.shape[1] / 100, picture.shape[0] / 100))
        figure.add_axes((0, 0, 1, 1), frameon=False).imshow(
            picture, origin="lower", cmap="gray", vmin=bottom, vmax=top
        )
        path = Path(f"{stem}.{name}.png")
        save_figure(figure, path)
        paths.append(path)
    return paths


def write_difference_report(
    path: str | Path, title: str, facts: Mapping[str, Any], figures: Mapping[str, Figure]
) -> None:
    """Write one HTML page with a table of facts and figures inside."""
    import base64

    rows = "".join(
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items()
    )
    body = f"<table>{rows}</table>"
    for caption, figure in figures.items():
        data = base64.b64encode(png_bytes(figure)).decode()
        body += f'<h2>{html.escape(caption)}</h2><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
    atomic_write_text(path, html_page(title, body))


def _symmetric_range(image: Any) -> tuple[float, float]:
    values = np.asarray(image)[np.isfinite(image)]
    spread = float(np.subtract(*np.percentile(values, [84.13, 15.87])) / 2) if values.size else 1.0
    return -5 * spread, 5 * spread
