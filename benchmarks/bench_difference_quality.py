"""Quality of difference images of simulated pairs: every required number beside the measured one and the C program's.

Run by hand: ``python benchmarks/bench_difference_quality.py BENCH PAIRS [NAME ...]``. BENCH is the folder with
``pair_sim.py``, ``pair_score.py`` and ``baselines.json``; PAIRS holds simulated pairs. Default configuration on all. The
column "perfect" scores the noise of the same realisation with the transients alone, as a match without any error would
leave them, filtered and whitened in the same way; for the kernel sum it is the light that the simulator cuts off its stars.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from astropy.io import fits
from scipy.spatial import cKDTree

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.differencing.decorrelation import whitened
from starmill.differencing.subtract import convolve_image
from starmill.tasks.difference import DifferenceTask

HALF = 25  # pixels: half width of the PSF image the scorer takes


def read(base, side, config):
    """Return one exposure of a pair with a variance from its pixels."""
    image = fits.getdata(f"{base}_{'template' if side == 't' else 'science'}.fits").astype("f4")
    flags = fits.getdata(f"{base}_{side}_mask.fits")
    mask = Mask(np.zeros(image.shape, np.int32))
    for plane, bit in (("BAD", 1), ("SAT", 2), ("CR", 4)):
        mask.set(plane, (flags & bit) > 0)
    gain, read_noise = config[f"{side}_gain"], config[f"{side}_rn"]
    variance = np.maximum(image, 0) / gain + (read_noise / gain) ** 2
    return Exposure(image, mask, variance.astype("f4"), unit="adu")


def noise_of(pair, side, image):
    """Return the noise of an image: its pixels less those of the noise-free variance map."""
    gain, read_noise = pair.cfg[f"{side}_gain"], pair.cfg[f"{side}_rn"]
    variance = pair.s_var if side == "s" else pair.t_var
    return image - (variance - (read_noise / gain) ** 2) * gain


def score(scorer, pair, result, folder, image=None):
    """Write the products, or another difference in their place, and return the result of the scorer."""
    base = Path(folder) / pair.name
    bad, white = result.difference.mask.any("NO_DATA"), result.decorrelated
    image = result.difference.image if image is None else image
    header = fits.Header()
    header["KSUM00"] = f"{result.kernel_sum:.6f}"
    header["CONVOL00"] = "TEMPLATE" if result.direction == "template" else "IMAGE"
    names = {key: f"{base}_{key}.fits" for key in "dnmp"}
    fits.writeto(names["d"], np.where(bad, np.float32(1e-30), image), header, overwrite=True)
    fits.writeto(names["n"], np.sqrt(result.difference.variance), overwrite=True)
    fits.writeto(names["m"], bad * np.int32(0x8000), overwrite=True)
    psf = result.difference.psf.kernel_at(pair.n / 2, pair.n / 2)
    psf = np.pad(psf, HALF - psf.shape[0] // 2) if psf.shape[0] // 2 < HALF else psf
    fits.writeto(names["p"], psf, overwrite=True)
    found = scorer.evaluate(
        pair, names["d"], names["n"], names["m"], names["p"] if white else None, "z" if white else None
    )
    ratio = pair.cfg["flux_ratio"] if result.direction == "template" else 1 / pair.cfg["flux_ratio"]
    sums = {"ksum_err_pct": 100 * (result.kernel_sum / ratio - 1)}  # the scorer wants five stars for it
    found["kernel"] = sums | (scorer.kernel_scale(pair, names["d"]) or {})
    return found


def perfect_difference(pair, task, result, images, simulator):
    """Return the difference that a perfect match would give: the noise of this realisation and the transients alone."""
    names = ("t", "s") if result.direction == "template" else ("s", "t")
    exposures = dict(zip("ts", images, strict=True))
    sides = [task.prepare(exposures[name]).side for name in names]
    masks = {"t": pair.t_mask, "s": pair.s_mask}
    noise = [np.where(masks[n] > 0, 0, noise_of(pair, n, exposures[n].image)).astype("f4") for n in names]
    c, rows = pair.cfg, pair.transients
    x, y, flux, fwhm, e1, e2 = (np.asarray(rows[k], float) for k in ("x", "y", "flux", "fwhm", "e1", "e2"))
    sky = np.sqrt(c["s_sky"] / c["s_gain"] + (c["s_rn"] / c["s_gain"]) ** 2)
    light = np.zeros((pair.n, pair.n))
    reach = simulator.stamp_radius(flux, fwhm, c["s_beta"], sky)
    simulator.render(light, x, y, flux, fwhm, e1, e2, c["s_beta"], reach)
    noise[names.index("s")] += light.astype("f4")
    difference = noise[1] - convolve_image(noise[0], result.kernel).image
    if result.decorrelated:
        bad = result.difference.mask.any("NO_DATA")
        box, psf = result.difference.box, sides[1].seeing.psf_image
        difference, _, _ = whitened(difference, bad, *sides, result.kernel, box, psf)
    return difference if result.direction == "template" else -difference / np.float32(result.kernel_sum)


def light_left_out(pair, result):
    """Return by how many per cent the light ratio of the rendered stars differs from the nominal one.

    The simulator cuts every star where it falls below 0.03 of the noise of the sky: of faint stars up to two per cent.
    """
    c, stars = pair.cfg, pair.stars
    shares = []
    for side in "st":
        beta, flux = c[f"{side}_beta"], np.asarray(stars[f"flux_{side}"])
        gain, read_noise, fwhm = c[f"{side}_gain"], c[f"{side}_rn"], np.asarray(stars[f"fwhm_{side}"])
        noise = np.sqrt(c[f"{side}_sky"] / gain + (read_noise / gain) ** 2)
        core = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
        peak = flux * (beta - 1) / (np.pi * core**2)
        cut = np.maximum((peak / (0.03 * noise)) ** (1 / beta) - 1, 1) * core**2
        cut = np.clip(np.sqrt(cut), 8, 400)
        shares.append(1 - (1 + cut**2 / core**2) ** (1 - beta))
    near, index = cKDTree(np.c_[stars["x_s"], stars["y_s"]]).query(np.c_[result.stamps.x, result.stamps.y])
    used = result.fit.used & (near < 1.5)
    ratio = (shares[0] / shares[1] - 1)[index[used]]
    sign = 1 if result.direction == "template" else -1
    return sign * 100 * float(np.average(ratio, weights=1 / result.fit.amplitude_error[used] ** 2))


def numbers(found):
    """Return the required numbers of one scored difference."""
    stars, kernel, phot = found["stars"], found.get("kernel") or {}, found.get("phot_all") or {}
    return {
        "stars S/N > 300": (stars.get("300-10000") or {}).get("rms_ratio"),
        "stars S/N 100-300": (stars.get("100-300") or {}).get("rms_ratio"),
        "S/N width, own noise": found.get("snr_formal_sky_mad"),
        "false 5 sigma / Mpix": found.get("false5_per_Mpix"),
        "completeness 7-10": found.get("compl_7_10"), "completeness 4-7": found.get("compl_4_7"),
        "flux bias %": 100 * phot["bias_bright"] if phot.get("bias_bright") is not None else None,
        "pull": phot.get("pull_mad"), "kernel sum error %": kernel.get("ksum_err_pct"),
        "gradient left %": kernel.get("slope_pct"), "unusable %": 100 * found.get("frac_tool_bad", np.nan),
    }  # fmt: skip


REQUIRED = {
    "stars S/N > 300": "<= 1.15", "stars S/N 100-300": "<= 1.03", "S/N width, own noise": "1 +- 0.03",
    "false 5 sigma / Mpix": "<= 3", "completeness 7-10": ">= 0.80", "completeness 4-7": ">= 0.20",
    "flux bias %": "<= 0.3", "pull": "<= 1.15", "kernel sum error %": "<= 0.3", "gradient left %": "<= 0.3",
    "unusable %": "<= C",
}  # fmt: skip


def table(name, ours, perfect, theirs, notes):
    """Print the numbers of one pair."""
    print(f"\n{name}: {notes}")
    print(f"{'':24s}{'required':>12s}{'measured':>10s}{'perfect':>9s}{'C':>8s}")

    def text(value):
        return "-" if value is None or not np.isfinite(value) else f"{value:.2f}"

    for key, required in REQUIRED.items():
        print(
            f"{key:24s}{required:>12s}{text(ours[key]):>10s}{text(perfect[key]):>9s}{text(theirs.get(key)):>8s}"
        )


def main():
    """Print a table for every pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    sys.path.insert(0, str(options.bench))
    import pair_score as scorer
    import pair_sim as simulator

    baselines = json.loads((options.bench / "baselines.json").read_text())["pairs"]
    for name in options.names or sorted(path.stem for path in options.pairs.glob("*.json")):
        pair = scorer.Pair(str(options.pairs), name)
        images = [read(options.pairs / name, side, pair.cfg) for side in "ts"]
        cpu = time.process_time()
        task = DifferenceTask()
        result = task.run(template=images[0], science=images[1])
        cpu = time.process_time() - cpu
        with tempfile.TemporaryDirectory() as folder:
            found = score(scorer, pair, result, folder)
            image = perfect_difference(pair, task, result, images, simulator)
            perfect = {
                **numbers(score(scorer, pair, result, folder, image)),
                "kernel sum error %": light_left_out(pair, result),
            }
        ideal = scorer.ideal_completeness(pair)
        theirs = baselines.get(name, {}).get("hotpants.ko2", {})
        theirs = numbers({**theirs["quality"], "kernel": theirs.get("kernel")}) if "quality" in theirs else {}
        error = 100 * result.kernel_sum_error / result.kernel_sum
        stars = {key: found["stars"].get(key, {}).get("n", 0) for key in ("100-300", "300-10000")}
        notes = (
            f"{result.direction} convolved{', whitened' if result.decorrelated else ''}, {cpu:.1f} CPU s, error bar of the "
            f"kernel sum {error:.2f} %, ideal completeness {ideal['compl_7_10']:.2f} / {ideal['compl_4_7']:.2f}, "
            f"stars {stars['100-300']} / {stars['300-10000']}"
        )
        table(name, numbers(found), perfect, theirs, notes)


if __name__ == "__main__":
    main()
