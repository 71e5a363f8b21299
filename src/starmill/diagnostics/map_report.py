"""One self-contained HTML page about a photometered map, with a pager through its sources."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from starmill import __version__
from starmill.datamodel.catalog import Catalog
from starmill.datamodel.cube import SkyMap
from starmill.diagnostics.figures import png_bytes
from starmill.diagnostics.map_figures import CutoutLike, cutout_figure, histogram_figure, overview_figure
from starmill.io.atomic import atomic_write_text
from starmill.numerics.tiles import map_tiles

__all__ = ["write_report"]

MAX_PAGES = 300
"""Groups that get a picture of their own, the brightest first; the table lists all sources."""

SHOWN = (
    "id", "ra", "dec", "peak_flux", "peak_flux_err", "aperture_flux", "aperture_flux_err", "fwhm_major", "fwhm_minor",
    "position_angle", "significance", "group_size", "fit_status",
)  # fmt: skip

STYLE = """body{font:14px sans-serif;margin:1.5em;max-width:1200px}table{border-collapse:collapse;font-size:12px}
td,th{border:1px solid #ccc;padding:2px 6px;text-align:right}th{background:#eee;position:sticky;top:0}
.page{display:none}.page.on{display:block}img{max-width:100%}button{font-size:14px;margin-right:.5em}
.rows{max-height:24em;overflow:auto}tr.now td{background:#ffe9a8}"""

SCRIPT = """var i=0,p=document.querySelectorAll('.page');
function show(k){if(!p.length)return;p[i].classList.remove('on');i=(k+p.length)%p.length;p[i].classList.add('on');
document.getElementById('where').textContent=(i+1)+' / '+p.length+': '+p[i].dataset.name;
document.querySelectorAll('tr.now').forEach(function(r){r.classList.remove('now')});
p[i].dataset.ids.split(' ').forEach(function(n){var r=document.getElementById('s'+n);if(r)r.classList.add('now')})}
document.addEventListener('keydown',function(e){if(e.key=='ArrowRight')show(i+1);if(e.key=='ArrowLeft')show(i-1)});show(0);"""


def write_report(
    path: str | Path, sky_map: SkyMap, result: Any, cutouts: Sequence[CutoutLike], unit: str
) -> None:
    """Write the report of one map.

    Parameters
    ----------
    path : path
    sky_map : SkyMap
    result : Result
        Of a compact-source task.
    cutouts : sequence
        Of the groups, with ``ids``.
    unit : str
        Of the planes of the cutouts.
    """
    catalog: Catalog = result.catalog
    ranked = sorted(cutouts, key=lambda cut: -float(np.nanmax(cut.model)) if cut.model.size else 0.0)[
        :MAX_PAGES
    ]
    pictures = map_tiles(lambda cut: _image(png_bytes(cutout_figure(cut, unit), dpi=70)), ranked)
    pages = "".join(
        f'<div class="page" data-name="{html.escape(cut.name)}" data-ids="{" ".join(map(str, cut.ids))}">{picture}</div>'  # type: ignore[attr-defined]
        for cut, picture in zip(ranked, pictures, strict=True)
    )
    facts = {
        "map": sky_map.meta.get("path", sky_map.name), "pixels": " x ".join(map(str, sky_map.image.shape[::-1])),
        "unit": sky_map.unit, "sources": len(catalog), "groups": len(result.groups),
        "beam": f"{sky_map.beam.major:.4g} x {sky_map.beam.minor:.4g} arcsec, {sky_map.beam.position_angle:.1f} deg",
        "median local rms": f"{np.nanmedian(result.rms):.4g} {sky_map.unit}", "version": __version__,
    }  # fmt: skip
    rows = "".join(
        f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items()
    )
    body = (
        f"<h1>{html.escape(sky_map.name)}</h1><table>{rows}</table>"
        f"{_image(png_bytes(overview_figure(sky_map, result.ellipses, catalog), dpi=100))}"
        f"{_image(png_bytes(histogram_figure(catalog, sky_map.beam.fwhm), dpi=80))}"
        '<h2>Sources</h2><p><button onclick="show(i-1)">previous</button><button onclick="show(i+1)">next</button>'
        f'<span id="where"></span></p>{pages}{_source_table(catalog)}<script>{SCRIPT}</script>'
    )
    head = f'<meta charset="utf-8"><title>{html.escape(sky_map.name)}</title><style>{STYLE}</style>'
    atomic_write_text(path, f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>\n")


def _image(png: bytes) -> str:
    return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'


def _source_table(catalog: Catalog) -> str:
    head = "".join(f"<th>{name}<br>{html.escape(catalog.schema[name].unit)}</th>" for name in SHOWN)
    lines = []
    for i in range(len(catalog)):
        cells = "".join(f"<td>{_text(name, catalog[name][i])}</td>" for name in SHOWN)
        lines.append(f'<tr id="s{catalog["id"][i]}">{cells}</tr>')
    return f'<div class="rows"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _text(name: str, value: Any) -> str:
    if name in {"ra", "dec"}:
        return f"{value:.7f}"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
