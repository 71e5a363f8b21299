"""Make the figures of the page on compact sources: ``python docs/figures_compact_sources.py --data DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy.spatial import cKDTree

from starmill.datamodel.cube import Beam
from starmill.diagnostics.figures import save_figure
from starmill.diagnostics.map_figures import completeness_figure, overview_figure
from starmill.io.cubes import read_sky_map
from starmill.tasks.compact_sources import CompactSourcesTask
from starmill.tasks.compact_sources_config import CompactSourcesConfig
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


def real_figure(folder: Path) -> Figure:
    """Real maps with the ellipses of what was measured in them."""
    figure = Figure(figsize=(10.5, 7.2), layout="constrained")
    maps = {
        "ATCA, Scorpio field": ("maps_atca/ScorpioExtendedSourceField.fits.gz", None, 4.0),
        "Bolocam, Galactic centre": ("maps_bolocam/gc_bolocam_gps.fits.gz", None, 6.0),
        "SCUBA-2 850 micron, U Ant": ("maps_scuba2/uant_850_NonCOsub.fits.gz", Beam(14.1, 14.1), 5.0),
        "Parkes 1904-66": ("aegean_parkes/1904-66_SIN.fits.gz", None, 4.0),
        "ALMA": ("maps_alma/2013.1.00034.S_SB_Xd_GB_Xe9_MB_Xea_highz_cell3_331108_sci.spw0_1_2_3.cont.I.image.fits.gz",
                 None, 4.0),
        "test map 1 of hyper-py": ("maps_hyper/test/test_2d_map_1.fits.gz", None, 5.0),
    }  # fmt: skip
    for ax, (title, (name, beam, threshold)) in zip(figure.subplots(2, 3).ravel(), maps.items(), strict=True):
        sky_map = read_sky_map(folder / name, beam=beam)
        config = CompactSourcesConfig().override({"detection.threshold": threshold})
        result = CompactSourcesTask(config).run(sky_map=sky_map)
        low, high = np.nanpercentile(sky_map.image, [2, 99.5])
        ax.imshow(sky_map.image, origin="lower", cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        for x, y, a, b, theta in result.ellipses:
            ax.add_patch(Ellipse((x, y), 2 * a, 2 * b, angle=float(np.degrees(theta)), fill=False, edgecolor="tab:blue",
                                 linewidth=0.6))  # fmt: skip
        ax.set_title(f"{title}: {len(result.catalog)} above {threshold:g} sigma", fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    return figure


def growth_figure(text: str) -> Figure:
    """CPU seconds and memory against the number of sources, from what the benchmark printed with ``--growth``."""
    lines = [line.split() for line in text.rsplit("growth:", maxsplit=1)[-1].splitlines()[1:]]
    rows = np.array([[float(word) for word in line] for line in lines if len(line) == 6])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog(rows[:, 0], rows[:, 3], "o-", label="starmill, one core")
    axes.loglog(rows[:, 0], rows[0, 3] * rows[:, 0] / rows[0, 0], "k:", label="in proportion")
    axes.set(xlabel="sources", ylabel="CPU seconds")
    axes.legend()
    return figure


def main() -> None:
    """Write the PNG files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published benchmark maps")
    parser.add_argument("--growth", type=Path, help="output of the benchmark with --growth")
    args = parser.parse_args()
    out = HERE / "_static"
    if args.growth:
        save_figure(growth_figure(args.growth.read_text()), out / "compact_growth.png", dpi=80)
    save_figure(benchmark_figure(args.data), out / "compact_benchmark.png", dpi=80)
    save_figure(real_figure(args.data.parent), out / "compact_real_maps.png", dpi=70)
    sky_map, _ = random_map(200, seed=7)
    result = CompactSourcesTask().run(sky_map=sky_map)
    save_figure(
        overview_figure(sky_map, result.ellipses, result.catalog), out / "compact_overview.png", dpi=60
    )
    curve = CompletenessTask(CompletenessConfig(n_sources=1500)).run(sky_map=sky_map).curve
    save_figure(completeness_figure(curve), out / "compact_completeness.png", dpi=80)


if __name__ == "__main__":
    main()
