"""Quality of difference images of simulated pairs: every required number beside the measured one and the C program's.

Run by hand: ``python benchmarks/bench_difference_quality.py BENCH PAIRS [NAME ...]``. BENCH is the folder with
``pair_sim.py``, ``pair_score.py`` and ``baselines.json``; PAIRS holds simulated pairs. Default configuration on all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
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


def score(scorer, pair, result, folder):
    """Write the products and return the result of the scorer."""
    base = Path(folder) / pair.name
    bad, white = result.difference.mask.any("NO_DATA"), result.decorrelated
    header = fits.Header()
    header["KSUM00"] = f"{result.kernel_sum:.6f}"
    header["CONVOL00"] = "TEMPLATE" if result.direction == "template" else "IMAGE"
    names = {key: f"{base}_{key}.fits" for key in "dnmp"}
    fits.writeto(names["d"], np.where(bad, np.float32(1e-30), result.difference.image), header)
    fits.writeto(names["n"], np.sqrt(result.difference.variance))
    fits.writeto(names["m"], bad * np.int32(0x8000))
    psf = result.difference.psf.kernel_at(pair.n / 2, pair.n / 2)
    fits.writeto(names["p"], np.pad(psf, HALF - psf.shape[0] // 2) if psf.shape[0] // 2 < HALF else psf)
    found = scorer.evaluate(
        pair, names["d"], names["n"], names["m"], names["p"] if white else None, "z" if white else None
    )
    found["kernel"] = scorer.kernel_scale(pair, names["d"]) or {}
    return found


def systematic_bias(scorer, pair, result, images):
    """Return bias and pull of the transients in the difference less the noise of this realisation, or NaN."""
    if result.decorrelated or result.direction != "template":
        return np.nan, np.nan
    template, science = images
    carried = np.where(pair.t_mask > 0, 0, noise_of(pair, "t", template.image)).astype("f4")
    bad = result.difference.mask.any("NO_DATA")
    quiet = np.where(bad, 0, result.difference.image) - noise_of(pair, "s", science.image)
    quiet += convolve_image(carried, result.kernel).image
    usable = ~scorer.dilate((pair.t_mask | pair.s_mask) > 0, 12) & ~bad
    rows = scorer.transient_photometry(pair, quiet, pair.expected_variance("t"), usable, "t", None)
    summary = scorer._photometry_summary(rows) or {}
    return 100 * (summary.get("bias_bright") or np.nan), summary.get("pull_mad", np.nan)


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


def table(name, ours, theirs, notes):
    """Print the numbers of one pair."""
    print(f"\n{name}: {notes}")
    print(f"{'':24s}{'required':>12s}{'measured':>10s}{'C':>8s}")

    def text(value):
        return "-" if value is None or not np.isfinite(value) else f"{value:.2f}"

    for key, required in REQUIRED.items():
        print(f"{key:24s}{required:>12s}{text(ours[key]):>10s}{text(theirs.get(key)):>8s}")


def main():
    """Print a table for every pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    sys.path.insert(0, str(options.bench))
    import pair_score as scorer

    baselines = json.loads((options.bench / "baselines.json").read_text())["pairs"]
    for name in options.names or sorted(path.stem for path in options.pairs.glob("*.json")):
        pair = scorer.Pair(str(options.pairs), name)
        images = [read(options.pairs / name, side, pair.cfg) for side in "ts"]
        cpu = time.process_time()
        result = DifferenceTask().run(template=images[0], science=images[1])
        cpu = time.process_time() - cpu
        with tempfile.TemporaryDirectory() as folder:
            found = score(scorer, pair, result, folder)
        bias, pull = systematic_bias(scorer, pair, result, images)
        ideal = scorer.ideal_completeness(pair)
        theirs = baselines.get(name, {}).get("hotpants.ko2", {})
        theirs = numbers({**theirs["quality"], "kernel": theirs.get("kernel")}) if "quality" in theirs else {}
        error = 100 * result.kernel_sum_error / result.kernel_sum
        notes = (
            f"{result.direction} convolved, {cpu:.1f} CPU s, kernel sum error bar {error:.2f} %, ideal completeness "
            f"{ideal['compl_7_10']:.2f} / {ideal['compl_4_7']:.2f}; without the noise of this realisation: "
            f"flux bias {bias:.2f} %, pull {pull:.2f}"
        )
        table(name, numbers(found), theirs, notes)


if __name__ == "__main__":
    main()
