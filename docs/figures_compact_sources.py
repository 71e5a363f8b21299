"""Make the figures of the page on compact sources: ``python docs/figures_compact_sources.py --data DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from starmill.diagnostics.figures import save_figure
from starmill.diagnostics.map_figures import completeness_figure, overview_figure
from starmill.io.cubes import read_sky_map
from starmill.tasks.compact_sources import CompactSourcesTask
from starmill.tasks.completeness import CompletenessConfig, CompletenessTask

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
from bench_compact_sources import random_map  # noqa: E402


def benchmark_figure(folder: Path) -> Figure:
    """How the published maps are drawn, and what that does to integrated fluxes."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    ratios = [[], []]
    for k in (1, 2):
        sky_map = read_sky_map(folder / f"map_500_Gaussians_{k}.fits.gz")
        truth = Table.read(folder / f"table_500_Gaussians_{k}.txt", format="ipac")
        result = CompactSourcesTask().run(sky_map=sky_map)
        place = cKDTree(np.column_stack([result.catalog["x"], result.catalog["y"]]))
        distance, j = place.query(np.column_stack([truth["X"], truth["Y"]]))
        ok = distance < 1.5
        j, row = j[ok], truth[ok]
        s = result.sources[j]
        c, sn = np.cos(s[:, 5]), np.sin(s[:, 5])
        cross = c * sn * (1 / s[:, 3] ** 2 - 1 / s[:, 4] ** 2) * (np.asarray(row["FWHM"]) / 2.3548) ** 2
        sine = np.sin(2 * np.radians(np.asarray(row["PA"])))
        left.plot(sine, cross, ".", markersize=3, label=f"map {k}")
        flux = result.catalog["gaussian_flux"][j]
        ratios[0].append(flux / np.asarray(row["Flux_Integrated"]))
        ratios[1].append(flux / np.asarray(row["Flux_Integrated"]) * np.sqrt(1 - 0.25 * sine**2))
    left.plot([-1, 1], [0.5, -0.5], color="black", linewidth=0.8, label="-sin(2 PA) / 2")
    left.set_xlabel("sin(2 PA) of the truth table")
    left.set_ylabel("fitted cross term times tabulated sigma$^2$")
    left.legend(fontsize=8)
    for values, label in zip(ratios, ("tabulated flux", "flux as drawn"), strict=True):
        right.hist(
            np.concatenate(values), bins=np.linspace(0.6, 1.6, 51), histtype="step", label=f"over {label}"
        )
    right.axvline(1.0, color="gray", linewidth=0.7)
    right.set_xlabel("measured integrated flux / truth")
    right.set_ylabel("sources")
    right.legend(fontsize=8)
    return figure


def main() -> None:
    """Write the PNG files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published benchmark maps")
    args = parser.parse_args()
    out = HERE / "_static"
    save_figure(benchmark_figure(args.data), out / "compact_benchmark.png", dpi=80)
    sky_map, _ = random_map(200, seed=7)
    result = CompactSourcesTask().run(sky_map=sky_map)
    save_figure(
        overview_figure(sky_map, result.ellipses, result.catalog), out / "compact_overview.png", dpi=60
    )
    curve = CompletenessTask(CompletenessConfig(n_sources=1500)).run(sky_map=sky_map).curve
    save_figure(completeness_figure(curve), out / "compact_completeness.png", dpi=80)


if __name__ == "__main__":
    main()
