"""One self-contained HTML page about a characterised exposure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from starmill import __version__
from starmill.datamodel.catalog import Catalog
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import Field, FieldSum
from starmill.diagnostics.figures import draw_whiskers, png_bytes, show_exposure
from starmill.diagnostics.metrics import exposure_metrics, source_shapes
from starmill.diagnostics.psf_residuals import psf_residual_section
from starmill.diagnostics.thumbnails import figure_html, png_html
from starmill.io.atomic import atomic_write_text

__all__ = ["SHOWN_PLANES", "exposure_report", "html_page", "write_exposure_report"]

SHOWN_PLANES = ("SAT", "CR", "BAD", "NO_DATA")
"""Mask planes that the pictures of a processed frame show."""

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:1.6em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.5em 0}td,th{padding:.15em .8em;text-align:left;border-bottom:1px solid #eee}
img{max-width:100%}.row{display:flex;flex-wrap:wrap;gap:1.5em}.warn{color:#b00}footer{color:#888;margin-top:3em}
"""


def html_page(title: str, body: str) -> str:
    """Return a complete HTML document that needs nothing else."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}"
        f"<footer>starmill {__version__}</footer></body></html>"
    )


def exposure_report(
    exposure: Exposure,
    catalog: Catalog,
    *,
    background: Sequence[Field] = (),
    psf_stars: Any = None,
    timings: Mapping[str, Mapping[str, Any]] | None = None,
    notes: Sequence[str] = (),
    title: str = "",
    picture: bytes | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Return the report of a characterised exposure as HTML.

    Parameters
    ----------
    exposure : Exposure
    catalog : Catalog
    background : sequence of Field
        Their sum was subtracted.
    psf_stars : PsfStars, optional
        The stars that the PSF was made from.
    timings : mapping, optional
        As :meth:`starmill.tasks.base.Task.full_metadata` gives them.
    notes : sequence of str
        Warnings to show on top.
    title : str
    picture : bytes, optional
        PNG of the exposure with its sources; drawn when not given.
    metrics : mapping, optional
        As :func:`starmill.diagnostics.metrics.exposure_metrics` gives them; computed when not given.
    """
    title = (
        title or f"{exposure.info.object or 'Exposure'} {exposure.info.filter} {exposure.info.date}".strip()
    )
    parts = [f'<p class="warn">{html.escape(note)}</p>' for note in notes]
    parts.append(
        '<div class="row">'
        + _table(_facts(exposure))
        + _table(metrics or exposure_metrics(exposure, catalog, background))
        + "</div>"
    )
    parts.append("<h2>Image and sources</h2>")
    parts.append(png_html(picture or png_bytes(show_exposure(exposure, mask=SHOWN_PLANES, catalog=catalog))))
    if background:
        parts += ["<h2>Background</h2>", figure_html(_background_figure(background))]
    if exposure.psf is not None:
        parts += ["<h2>Point-spread function</h2>", figure_html(_psf_figure(exposure, psf_stars))]
    if psf_stars is not None and len(psf_stars):
        parts.append(psf_residual_section(psf_stars, float(np.hypot(*exposure.shape))))
    parts += ["<h2>Shapes over the field</h2>", figure_html(_shape_figure(exposure, catalog))]
    parts += ["<h2>Fluxes</h2>", figure_html(_flux_figure(catalog))]
    if timings:
        parts += ["<h2>What it cost</h2>", _timing_table(timings)]
    return html_page(title, "".join(parts))


def write_exposure_report(path: str | Path, *items: Any, **options: Any) -> None:
    """Write :func:`exposure_report` to a file that appears complete or not at all."""
    atomic_write_text(path, exposure_report(*items, **options))


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_text(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _facts(exposure: Exposure) -> dict[str, Any]:
    info = exposure.info
    used = {name: fraction for name, fraction in exposure.mask.fractions().items() if fraction > 0}
    return {
        "object": info.object,
        "instrument": info.instrument,
        "filter": info.filter,
        "date": info.date,
        "exposure time (s)": info.exposure_time,
        "airmass": info.airmass,
        "size": f"{exposure.shape[1]} × {exposure.shape[0]} pixels",
        "unit": exposure.unit,
        "mask": ", ".join(f"{name} {100 * value:.2g}%" for name, value in used.items()),
    }


def _background_figure(background: Sequence[Field], points: int = 300) -> Figure:
    total = FieldSum(list(background))
    figure = Figure(figsize=(5.5, 4.2))
    axes = figure.add_axes((0.12, 0.11, 0.82, 0.85))
    left, right, bottom, top = total.box.extent
    x = np.linspace(left, right, min(points, total.box.width) + 1)
    y = np.linspace(bottom, top, min(points, total.box.height) + 1)
    values = total((x[None, 1:] + x[None, :-1]) / 2, (y[1:, None] + y[:-1, None]) / 2)
    picture = axes.imshow(values, origin="lower", extent=total.box.extent)
    figure.colorbar(picture, label="electron", ax=axes)
    axes.set(xlabel="x (pixel)", ylabel="y (pixel)")
    return figure


def _psf_figure(exposure: Exposure, psf_stars: Any) -> Figure:
    """Draw the kernel at the centre and, for the brightest stars, data, model and residual."""
    n = 0 if psf_stars is None else min(6, len(psf_stars.images))
    figure = Figure(figsize=(9, 4.2 if n else 2.4))
    grid = figure.add_gridspec(
        1, 2, width_ratios=[1, 2], left=0.04, right=0.99, bottom=0.04, top=0.93, wspace=0.2
    )
    axes = figure.add_subplot(grid[0])
    kernel = exposure.psf.kernel_at(*exposure.box.center)  # type: ignore[union-attr]
    axes.imshow(np.log10(np.maximum(kernel / kernel.max(), 1e-4)), origin="lower", cmap="magma")
    axes.set_title(f"model, log, FWHM {exposure.psf.fwhm_at(*exposure.box.center):.2f} px", fontsize=9)  # type: ignore[union-attr]
    if n:
        panel = figure.add_subplot(grid[1])
        radius = int(np.ceil(2.5 * exposure.psf.fwhm_at(*exposure.box.center)))  # type: ignore[union-attr]
        mosaic = _star_mosaic(psf_stars, n, radius)
        panel.imshow(mosaic, vmin=-0.02, vmax=1, cmap="gray_r", interpolation="nearest")
        panel.set_title("the brightest stars, one a column; black is their peak", fontsize=9)
        panel.set_xticks([])
        rows = (np.arange(3) + 0.5) * len(mosaic) / 3
        panel.set_yticks(rows, ["star", "model", "residual\n±10 %"], fontsize=8)
    return figure


def _star_mosaic(psf_stars: Any, n: int, radius: int) -> NDArray[np.float64]:
    """Return stars, models and residuals (-10 to 10 % of the peak as white to black) of the n brightest stars."""
    order = np.argsort(-np.nansum(psf_stars.models, axis=(1, 2)), kind="stable")[:n]
    middle = psf_stars.models.shape[1] // 2
    core = slice(max(middle - radius, 0), middle + radius + 1)
    images, models, residuals = (
        stack[order, core, core] for stack in (psf_stars.images, psf_stars.models, psf_stars.residuals)
    )
    peaks = np.maximum(np.nanmax(models, axis=(1, 2)), 1e-30)[:, None, None]
    rows = [images / peaks, models / peaks, 0.49 + 5.1 * residuals / peaks]
    framed = [np.pad(stack[:, ::-1], ((0, 0), (1, 1), (1, 1)), constant_values=np.nan) for stack in rows]
    return np.concatenate([np.concatenate(list(stack), axis=1) for stack in framed])


def _shape_figure(exposure: Exposure, catalog: Catalog) -> Figure:
    fwhm, e1, e2 = source_shapes(catalog)
    figure = Figure(figsize=(10, 4.2))
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.12, top=0.92)
    left, right = figure.subplots(1, 2)
    stars = _psf_stars_of(catalog) & np.isfinite(fwhm)
    x, y = catalog["x"], catalog["y"]
    if stars.any():
        points = left.scatter(x[stars], y[stars], c=fwhm[stars], s=18, cmap="viridis")
        figure.colorbar(points, ax=left, label="FWHM (pixel)")
        draw_whiskers(right, x[stars], y[stars], e1[stars], e2[stars], exposure.box.extent)
    for axes, title in (
        (left, "FWHM of the PSF stars"),
        (right, "their ellipticity (line of 5 % of the field: 0.1)"),
    ):
        axes.set(
            xlabel="x (pixel)", ylabel="y (pixel)", xlim=exposure.box.extent[:2], ylim=exposure.box.extent[2:]
        )
        axes.set_title(title, fontsize=9)
        axes.set_aspect("equal")
    return figure


def _psf_stars_of(catalog: Catalog) -> Any:
    for name in ("psf_used", "psf_candidate"):
        if name in catalog and catalog[name].any():
            return np.asarray(catalog[name])
    if "slot_psf_flux" in catalog and "slot_psf_flux_err" in catalog:
        with np.errstate(all="ignore"):
            return catalog["slot_psf_flux"] > 50 * catalog["slot_psf_flux_err"]
    return np.zeros(len(catalog), bool)


def _flux_figure(catalog: Catalog) -> Figure:
    figure = Figure(figsize=(10, 3.8))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.97)
    left, right = figure.subplots(1, 2)
    flux = np.asarray(catalog["slot_psf_flux"]) if "slot_psf_flux" in catalog else np.zeros(0)
    good = flux > 0
    magnitude = -2.5 * np.log10(flux[good])
    if good.any():
        left.hist(magnitude, bins=40, color="#3465a4")
        fwhm = source_shapes(catalog)[0][good]
        right.scatter(magnitude, fwhm, s=4, alpha=0.5, color="#3465a4", linewidths=0)
        if np.isfinite(fwhm).any():
            right.set_ylim(0, 3 * np.nanmedian(fwhm))
    left.set(xlabel="instrumental PSF magnitude, −2.5 log(electron)", ylabel="sources")
    right.set(xlabel="instrumental PSF magnitude, −2.5 log(electron)", ylabel="FWHM (pixel)")
    return figure


def _timing_table(timings: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (task, values["run_cpu_seconds"], values["run_wall_seconds"], values["run_peak_mb"])
        for task, values in timings.items()
        if "run_cpu_seconds" in values
    ]
    body = "".join(
        f"<tr><td>{html.escape(t)}</td><td>{c:.3f}</td><td>{w:.3f}</td><td>{m:.0f}</td></tr>"
        for t, c, w, m in rows
    )
    return f"<table><tr><th>task</th><th>CPU s</th><th>wall s</th><th>peak MB</th></tr>{body}</table>"
