"""An index page of many processed frames, and how they compare with simulated truth."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from starmill.diagnostics.report import html_page
from starmill.io.atomic import atomic_write_text
from starmill.io.tables import read_catalog

__all__ = ["compare_with_truth", "write_night_report"]

_STAR = 0  # kind of a star in the truth of a simulated night


def compare_with_truth(
    catalog_path: str | Path, truth_path: str | Path, radius: float = 2.0
) -> dict[str, Any]:
    """Return how a catalogue compares with the truth of a simulated frame.

    Only stars count that are alone within 12 pixels and not near the edge. A star is *bright* when its true signal to
    noise is above 30.

    Parameters
    ----------
    catalog_path, truth_path : path
    radius : float, pixel
        Largest distance of a match.

    Returns
    -------
    numbers : dict
        ``frame``, ``n_sources``; ``completeness`` of stars with S/N above 10; of the bright ones ``flux_bias`` (median
        relative difference), ``flux_pull`` (robust width of difference over error), ``position_rms`` (pixel, an axis).
    """
    catalog, truth = read_catalog(catalog_path), read_catalog(truth_path)
    x, y = truth["x"], truth["y"]
    places = np.stack([x, y], 1)
    alone = cKDTree(places).query(places, k=2)[0][:, 1] > 12
    inside = (x > 20) & (y > 20) & (x < np.nanmax(catalog["x"]) - 20) & (y < np.nanmax(catalog["y"]) - 20)
    stars = np.flatnonzero((truth["kind"] == _STAR) & alone & inside)
    measured = np.flatnonzero(np.isfinite(catalog["x"]) & np.isfinite(catalog["y"]))
    tree = cKDTree(np.stack([catalog["x"], catalog["y"]], 1)[measured])
    distance, nearest = tree.query(places[stars], distance_upper_bound=radius)
    found = np.isfinite(distance)
    rows = measured[nearest[found]]
    flux, error = catalog["slot_psf_flux"][rows], catalog["slot_psf_flux_err"][rows]
    true = truth["flux"][stars[found]]
    noise = float(np.nanmedian(error[true < np.nanquantile(true, 0.3)])) if found.sum() > 3 else float("nan")
    clean = ~catalog["slot_psf_flux_flag"][rows] & (true > 30 * noise)
    for name in ("pixel_flags_saturated_center", "pixel_flags_cr_center", "pixel_flags_bad_center"):
        if name in catalog:
            clean &= ~catalog[name][rows]
    pull = (flux - true)[clean] / error[clean]
    offset = np.stack([catalog["x"][rows] - x[stars[found]], catalog["y"][rows] - y[stars[found]]], 1)[clean]
    detectable = truth["flux"][stars] > 10 * noise
    return {
        "frame": Path(catalog_path).name.removesuffix(".catalog.fits"),
        "n_sources": len(catalog),
        "completeness": float(found[detectable].mean()) if detectable.any() else float("nan"),
        "flux_bias": float(np.median((flux - true)[clean] / true[clean])) if clean.any() else float("nan"),
        "flux_pull": float(1.4826 * np.median(np.abs(pull - np.median(pull))))
        if clean.any()
        else float("nan"),
        "position_rms": float(np.sqrt(np.mean(offset**2))) if clean.any() else float("nan"),
    }


def write_night_report(path: str | Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Write a page with a table of frames; each name leads to the report of the frame beside it."""
    names = list(rows[0]) if rows else []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = ""
    for row in rows:
        frame = html.escape(str(row["frame"]))
        cells = [f'<td><a href="{frame}.html">{frame}</a></td>']
        cells += [f"<td>{row[n]:.4g}</td>" for n in names if n != "frame"]
        body += f"<tr>{''.join(cells)}</tr>"
    pictures = "".join(
        f'<a href="{html.escape(str(r["frame"]))}.html"><img src="{html.escape(str(r["frame"]))}.png" width="300"></a>'
        for r in rows
    )
    table = f"<table><tr>{head}</tr>{body}</table>"
    atomic_write_text(path, html_page(title, f'{table}<div class="row">{pictures}</div>'))
