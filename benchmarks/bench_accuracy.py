"""Accuracy against the truth: isolated stars, reserved PSF stars, corrected apertures, galaxies, star or galaxy.

    python benchmarks/bench_accuracy.py --simulator frame_sim.py [--seeds 1 2 3] [--size 4096] [--galaxies] [--grid]

The frames of ``frame_sim.py`` are drawn in memory and go through ``CharacterizeImageTask`` (PSF of the frame's own
stars, a part of them reserved, deblending, aperture corrections). A star is isolated when all other true sources
together add less than a tenth of the noise to its PSF flux and the nearest is more than 15 pixels away; flagged ones
are left out. True light of a profile is its integral: the simulator's number divided by sqrt(1 - e^2). ``--grid`` draws
a bright star in every cell of 64 pixels and nothing else: then the reserved stars are many and their means sharp. Stars
without noise at 81 places of the field tell the error of the aperture corrections and of the PSF model themselves.
"""

from __future__ import annotations

import argparse
import importlib.util

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from starmill.datamodel.catalog import Catalog, Schema
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.datamodel.psf import adaptive_moments
from starmill.psf_modelling.residual_statistics import residual_statistics
from starmill.tasks.characterize import CharacterizeImageConfig, CharacterizeImageTask
from starmill.tasks.measure import (
    DEFAULT_PLUGINS,
    SingleFrameMeasurementConfig,
    SingleFrameMeasurementTask,
)

FWHM, GRADIENT, BETA, E1, E2 = 3.6, 0.06, 3.5, 0.03, -0.01  # of frame_sim.py
FLAGS = ("edge", "interpolated", "saturated", "cr", "bad", "no_data")
SHAPE = ("size", "e1", "e2")
GALAXY_FLUXES = ("sersic_flux", "cmodel_flux")


def load_simulator(path):
    """Import frame_sim.py from a path."""
    spec = importlib.util.spec_from_file_location("frame_sim", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def star_grid(rng, size, step=64):
    """Bright stars of random fluxes in the cells of a grid, as the simulator's table of sources."""
    nodes = np.arange(step / 2, size, step)
    x, y = (a.ravel() + rng.uniform(-0.5, 0.5, a.size) for a in np.meshgrid(nodes, nodes))
    flux = np.exp(rng.uniform(np.log(3e4), np.log(3e5), len(x)))
    none = np.zeros(len(x), bool)
    table = {"x": x, "y": y, "flux": flux, "gal": none, "size": np.zeros(len(x)), "transient": none}
    return table, np.full(len(x), E1), np.full(len(x), E2)


def draw(simulator, size, seed, grid):
    """Draw one frame: exposure and truth as a dict of arrays; ``fwhm`` is that of the profile on the frame."""
    rng = np.random.default_rng(seed)
    make = star_grid if grid else simulator.make_sources
    table, e1, e2 = make(rng, size, 64 if grid else int(10000 * (size / 4096) ** 2))
    image, variance, flags, _ = simulator.make_epoch(rng, size, table, e1, e2, FWHM, 1, True, True)
    mask = Mask.zeros(image.shape)
    mask.set("BAD", (flags & 1) > 0)
    mask.set("SAT", (flags & 2) > 0)
    truth = {name: np.asarray(table[name]) for name in ("x", "y", "flux", "gal", "size")}
    psf = FWHM * (1 + GRADIENT * ((truth["x"] / size - 0.5) + (truth["y"] / size - 0.5)))
    truth["fwhm"] = np.hypot(psf, truth["size"])
    truth["light"] = truth["flux"] / np.sqrt(1 - e1**2 - e2**2)
    return Exposure(image, mask, variance), truth


def surface_brightness(truth, distance, rows):
    """Moffat profiles of sources at a distance."""
    a2 = (truth["fwhm"][rows] / 2) ** 2 / (2 ** (1 / BETA) - 1)
    return truth["light"][rows] * (BETA - 1) / (np.pi * a2) * (1 + distance**2 / a2) ** -BETA


def isolated(truth, size):
    """Tell which sources have no neighbours that matter and are away from the edge."""
    tree = cKDTree(np.c_[truth["x"], truth["y"]])
    pairs = tree.query_pairs(60.0, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    distance = np.hypot(*(truth[k][pairs[:, 0]] - truth[k][pairs[:, 1]] for k in "xy"))
    added = np.bincount(
        pairs[:, 0], surface_brightness(truth, distance, pairs[:, 1]), minlength=len(truth["x"])
    )
    nearest = tree.query(np.c_[truth["x"], truth["y"]], k=2)[0][:, 1]
    edge = np.minimum.reduce([truth["x"], truth["y"], size - 1 - truth["x"], size - 1 - truth["y"]])
    noise = np.sqrt(330 * 35 + truth["light"])
    return (added * 35 < 0.1 * noise) & (nearest > 15) & (edge > 30)


def true_shapes(x, y, size):
    """Size sqrt(xx + yy), e1 and e2 of the true PSF at positions."""
    yy, xx = np.mgrid[-20:21, -20:21]
    fwhm = FWHM * (1 + GRADIENT * ((x / size - 0.5) + (y / size - 0.5)))[:, None, None]
    r2 = (xx**2 * (1 - E1) + yy**2 * (1 + E1) - 2 * E2 * xx * yy) / (fwhm / 2) ** 2 * (2 ** (1 / BETA) - 1)
    xx, yy, xy = adaptive_moments((1 + r2) ** -BETA).T
    return np.sqrt(xx + yy), (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def characterize(exposure, seed, galaxies):
    """Run the task; returns its result."""
    plugins = list(DEFAULT_PLUGINS) + (list(GALAXY_FLUXES) if galaxies else [])
    config = CharacterizeImageConfig().override(
        {
            "correct_apertures": True,
            "measure_psf.reserve_fraction": 0.25,
            "measure_psf.max_candidates": 5000,
            "measure_deep.plugins": plugins,
        }
    )
    return CharacterizeImageTask(config).run(exposure=exposure, exposure_id=seed)


def match(catalog, truth, chosen):
    """Rows of the catalogue and of the truth for the chosen true sources that were found unflagged and unblended."""
    leaf = np.flatnonzero(catalog["n_child"] == 0)
    distance, near = cKDTree(np.c_[catalog["x"][leaf], catalog["y"][leaf]]).query(
        np.c_[truth["x"], truth["y"]]
    )
    good = chosen & (distance < 1.5)
    rows = leaf[near]
    for name in FLAGS:
        good &= ~catalog[f"pixel_flag_{name}"][rows]
    good &= ~catalog["psf_flux_flag"][rows] & ~catalog["shape_flag"][rows]
    return rows[good], np.flatnonzero(good)


def star_rows(result, truth, size):
    """Numbers of the isolated stars: one row each."""
    catalog = result.catalog
    rows, true = match(catalog, truth, isolated(truth, size) & ~truth["gal"])
    plain = catalog["psf_flux"][rows] / catalog["psf_flux_correction"][rows]
    plain_err = catalog["psf_flux_err"][rows] / catalog["psf_flux_correction"][rows]
    width, e1, e2 = true_shapes(truth["x"][true], truth["y"][true], size)
    xx, yy, xy = (catalog[f"shape_{k}"][rows] for k in ("xx", "yy", "xy"))
    out = {
        "snr": truth["light"][true] / plain_err, "ratio": plain / truth["light"][true] - 1,
        "pull": (plain - truth["light"][true]) / plain_err, "size": np.sqrt(xx + yy) / width - 1,
        "e1": (xx - yy) / (xx + yy) - e1, "e2": 2 * xy / (xx + yy) - e2,
        "x_pull": (catalog["x"][rows] - truth["x"][true]) / catalog["x_err"][rows],
        "y_pull": (catalog["y"][rows] - truth["y"][true]) / catalog["y_err"][rows],
        "part": (3 * truth["x"][true] / size).astype(int) + 3 * (3 * truth["y"][true] / size).astype(int),
    }  # fmt: skip
    for name in catalog.schema:
        if name.endswith("_correction") and not name.endswith("_flag_correction"):
            flux = name.removesuffix("_correction")
            out[f"corrected {flux}"] = catalog[flux][rows] / catalog["psf_flux"][rows] - 1
            out[f"corrected_err {flux}"] = catalog[f"{flux}_err"][rows] / catalog["psf_flux"][rows]
    return out


def mean_of(values, weights):
    """Weighted mean without outliers of 5 robust standard deviations, and its error."""
    good = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
    values, weights = values[good], weights[good]
    unit = (values - np.median(values)) * np.sqrt(weights)
    keep = np.abs(unit) < 5 * 1.4826 * np.median(np.abs(unit)) + 1e-12
    values, weights = values[keep], weights[keep]
    centre = np.average(values, weights=weights)
    return centre, np.sqrt((((values - centre) * weights) ** 2).sum()) / weights.sum()


def print_stars(rows):
    """Print biases and pulls by signal to noise."""
    print("isolated stars (bias in %, pulls without 5-sigma outliers)")
    for low, high in ((20, 50), (50, 100), (100, 300), (300, 3000), (20, 3000)):
        part = (rows["snr"] >= low) & (rows["snr"] < high)
        if part.sum() < 10:
            continue
        weights = 1 / (1 / rows["snr"] ** 2 + 0.003**2)
        cells = [f"S/N {low:4d}-{high:4d} n {part.sum():5d}"]
        for name, scale in (("ratio", 100), ("size", 100), ("e1", 1), ("e2", 1)):
            value, error = mean_of(rows[name][part], weights[part])
            cells.append(f"{name} {scale * value:+.5f} +- {scale * error:.5f}")
        for name in ("pull", "x_pull", "y_pull"):
            pull = rows[name][part]
            inside = np.abs(pull) < 5
            cells.append(f"{name} {pull[inside].std():.3f} ({(~inside).sum()})")
        print("  ".join(cells))


def print_corrections(rows):
    """Print the corrected fluxes of stars over the PSF flux: mean, and the nine parts of the field."""
    print("corrected flux / PSF flux - 1 (%), stars with S/N > 100: all, nine parts (error)")
    for name in [key.removeprefix("corrected ") for key in rows if key.startswith("corrected ")]:
        ratio, error = rows[f"corrected {name}"], rows[f"corrected_err {name}"]
        good = rows["snr"] > 100
        weights = 1 / (error**2 + 0.003**2)
        value, spread = mean_of(ratio[good], weights[good])
        parts = [
            mean_of(ratio[good & (rows["part"] == k)], weights[good & (rows["part"] == k)]) for k in range(9)
        ]
        worst = max(abs(p[0]) for p in parts)
        finite = np.isfinite(ratio[good]).mean()
        print(f"{name:28s} {100 * value:+.3f} +- {100 * spread:.3f}   worst {100 * worst:.3f}   "
              f"error {100 * np.median([p[1] for p in parts]):.3f}   measured {finite:.3f}")  # fmt: skip


def correction_errors(result, size, places=9, cell=161):
    """Error of the corrections alone, and of the PSF model, at a grid of places.

    Returns the corrected fluxes of stars without noise, each at four places within the pixel, over their corrected PSF
    flux, less 1, by name: (places**2,) arrays; and those of the model's size, e1 and e2.
    """
    nodes = np.linspace(100, size - 100, places)
    x, y = (a.ravel() for a in np.meshgrid(nodes, nodes))
    side, half = 2 * places, cell // 2
    mosaic = np.zeros((side * cell, side * cell), np.float32)
    centre_x, centre_y = np.empty((2, 4, len(x)))
    for k, (dx, dy) in enumerate(((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))):
        for i in range(len(x)):
            row, column = divmod(4 * i + k, side)
            centre_x[k, i], centre_y[k, i] = column * cell + half + dx, row * cell + half + dy
            stamp = true_psf(x[i], y[i], size, half, dx, dy)
            mosaic[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = stamp
    n = centre_x.size
    columns = {
        "id": np.arange(1, n + 1),
        "parent": np.zeros(n, int),
        "x": centre_x.ravel(),
        "y": centre_y.ravel(),
    }
    task = SingleFrameMeasurementTask(
        SingleFrameMeasurementConfig(plugins=["aperture_flux"], replace_neighbours=False)
    )
    found = task.run(
        exposure=Exposure(mosaic, variance=np.ones_like(mosaic)), catalog=Catalog(Schema(), columns)
    ).catalog
    kernels = result.exposure.psf.kernels_at(x, y)
    reach = kernels.shape[1] // 2
    stars = np.stack([true_psf(a, b, size, reach) for a, b in zip(x, y, strict=True)])
    reference = (kernels * stars).sum((1, 2)) / (kernels**2).sum((1, 2))
    fields = result.exposure.aperture_corrections
    reference *= fields["psf_flux"][0](x, y)
    out = {
        name: field(x, y) * np.asarray(found[name]).reshape(4, -1).mean(0) / reference - 1
        for name, (field, _) in fields.items()
        if name.startswith("aperture_flux")
    }
    width, e1, e2 = true_shapes(x, y, size)
    xx, yy, xy = adaptive_moments(kernels).T
    model = {
        "size": np.sqrt(xx + yy) / width - 1,
        "e1": (xx - yy) / (xx + yy) - e1,
        "e2": 2 * xy / (xx + yy) - e2,
    }
    return out, model


def true_psf(x, y, size, half, dx=0.0, dy=0.0):
    """Star of unit light on a stamp of 2 half + 1 pixels, away from its centre by (dx, dy)."""
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    u, v = u - dx, v - dy
    fwhm = FWHM * (1 + GRADIENT * ((x / size - 0.5) + (y / size - 0.5)))
    a2 = (fwhm / 2) ** 2 / (2 ** (1 / BETA) - 1)
    r2 = (u**2 * (1 - E1) + v**2 * (1 + E1) - 2 * E2 * u * v) / a2
    return (BETA - 1) / (np.pi * a2) * (1 + r2) ** -BETA


def print_correction_errors(frames):
    """Print the errors of the corrections, and of the PSF model, against the truth."""
    print("corrections against stars without noise, 81 places of each frame (%): mean, rms, worst place of a frame "
          "(median), places within 0.3 %")  # fmt: skip
    for name in frames[0][0]:
        values = 100 * np.array([one[name] for one, _ in frames])
        worst = np.median(np.abs(values).max(1))
        print(
            f"{name:28s} {values.mean():+.3f}  {values.std():.3f}  {worst:.3f}  {(np.abs(values) < 0.3).mean():.3f}"
        )
    for name in SHAPE:
        means = np.array([one[name].mean() for _, one in frames])
        error = means.std() / np.sqrt(max(len(means) - 1, 1))
        print(f"PSF model against the truth, mean over the field: {name} {means.mean():+.5f} +- {error:.5f}")


def galaxy_rows(result, truth, size):
    """Ratios of model to true flux of galaxies: isolated ones, and all."""
    catalog = result.catalog
    alone = isolated(truth, size)
    rows, true = match(catalog, truth, truth["gal"].astype(bool))
    out = {"alone": alone[true], "width": truth["size"][true]}
    plain_snr = catalog["psf_flux"][rows] / catalog["psf_flux_err"][rows]
    out["snr"] = plain_snr
    for name in GALAXY_FLUXES:
        correction = catalog[f"{name}_correction"][rows] if f"{name}_correction" in catalog else 1.0
        out[name] = np.where(
            catalog[f"{name}_flag"][rows], np.nan, catalog[name][rows] / correction / truth["light"][true] - 1
        )
    return out


def print_galaxies(rows):
    """Print biases of the models."""
    print("galaxies with S/N > 50, model / true light - 1 (%)")
    for what, part in (("isolated", rows["alone"]), ("all", np.ones(len(rows["alone"]), bool))):
        for label, low, high in (("all sizes", 0, 99), ("size < 2", 0, 2), ("2 to 4", 2, 4), ("> 4", 4, 99)):
            chosen = part & (rows["snr"] > 50) & (rows["width"] >= low) & (rows["width"] < high)
            cells = [f"{what:9s} {label:10s} n {chosen.sum():5d}"]
            for name in GALAXY_FLUXES:
                ratio = 100 * rows[name][chosen]
                value, error = mean_of(ratio, np.ones(len(ratio)))
                cells.append(f"{name} mean {value:+.2f} +- {error:.2f} median {np.nanmedian(ratio):+.2f} "
                             f"flagged {np.isnan(ratio).mean():.3f}")  # fmt: skip
            print("  ".join(cells))


def separation_rows(result, truth, size):
    """Probability of a star, truth, signal to noise and loneliness of all matched sources."""
    catalog = result.catalog
    rows, true = match(catalog, truth, np.ones(len(truth["x"]), bool))
    return {
        "p": catalog["star_probability"][rows], "star": ~truth["gal"][true].astype(bool),
        "snr": catalog["psf_flux"][rows] / catalog["psf_flux_err"][rows], "alone": isolated(truth, size)[true],
    }  # fmt: skip


def area_under_curve(p, star):
    """Chance that a star has a higher probability than a galaxy (ties count half)."""
    rank = rankdata(p)
    n, m = star.sum(), (~star).sum()
    return (rank[star].sum() - n * (n + 1) / 2) / (n * m) if n and m else np.nan


def print_separation(frames):
    """Print the area under the curve of star_probability, one column per frame."""
    for label, low, high in (("S/N > 20", 20, np.inf), ("20 to 50", 20, 50), ("S/N > 50", 50, np.inf)):
        for what in ("all", "isolated"):
            cells = []
            for f in frames:
                use = (
                    np.isfinite(f["p"])
                    & (f["snr"] > low)
                    & (f["snr"] <= high)
                    & (f["alone"] | (what == "all"))
                )
                cells.append(f"{area_under_curve(f['p'][use], f['star'][use]):.4f} of {use.sum()}")
            print(f"star or galaxy, area under curve, {label}, {what}: {'  '.join(cells)}")


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulator", required=True, help="path of frame_sim.py")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument(
        "--grid", action="store_true", help="a grid of bright stars instead of the usual sources"
    )
    parser.add_argument("--galaxies", action="store_true", help="also fit galaxy models (slow)")
    options = parser.parse_args()
    simulator = load_simulator(options.simulator)
    stars, galaxies, residuals, truths, separations = [], [], [], [], []
    for seed in options.seeds:
        exposure, truth = draw(simulator, options.size, seed, options.grid)
        result = characterize(exposure, seed, options.galaxies)
        stars.append(star_rows(result, truth, options.size))
        truths.append(correction_errors(result, options.size))
        if not options.grid:
            separations.append(separation_rows(result, truth, options.size))
        chosen = result.psf_stars
        one = residual_statistics(chosen, which=chosen.reserved)
        residuals.append(one)
        means = "  ".join(f"{k} {getattr(one, k):+.5f} +- {getattr(one, f'{k}_err'):.5f}" for k in SHAPE)
        print(
            f"seed {seed}: {len(result.catalog)} sources; {one.n_stars} reserved stars: {means}", flush=True
        )
        if options.galaxies:
            galaxies.append(galaxy_rows(result, truth, options.size))
    for name in SHAPE:
        values = np.array([getattr(r, name) for r in residuals])
        weights = np.array([getattr(r, f"{name}_err") for r in residuals]) ** -2.0
        mean, error = np.average(values, weights=weights), weights.sum() ** -0.5
        print(f"reserved stars of all frames: {name} {mean:+.5f} +- {error:.5f}")
    rows = {key: np.concatenate([s[key] for s in stars]) for key in stars[0] if all(key in s for s in stars)}
    print_stars(rows)
    print_corrections(rows)
    print_correction_errors(truths)
    print_separation(separations)
    if galaxies:
        print_galaxies({key: np.concatenate([g[key] for g in galaxies]) for key in galaxies[0]})


if __name__ == "__main__":
    main()
