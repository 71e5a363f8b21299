"""Detection: CPU seconds, completeness and false positives beside sep on one simulated frame.

    python benchmarks/bench_detection.py --frame DIR [DIR...]      # written by frame_sim.py: sci*.fits, truth.fits

With several frames times are means and detections sums over them: false ones are so few that one frame decides nothing.
Everything runs at the same threshold, 5 sigma of the matched-filtered image, on the same background-subtracted
pixels with the same variance map and mask. A truth source counts as found when a peak lies within 2 pixels; a
detection is false when no truth source of any flux lies within 4 pixels. Pixels near cosmic rays, masked pixels and
the border are not scored.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from starmill.background.mesh import estimate_background
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.numerics.convolution import gaussian_kernel
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask

EDGE = 20  # border that is not scored, pixels
FWHM = 3.6  # of the simulated frame, pixels
BINS = ((600, 1000), (1000, 1500), (1500, 2500), (2500, 5000), (5000, np.inf))  # electrons


def timed(function, repeat=3):
    """Return the result and the smallest CPU seconds of some calls; the first call, with compilation, does not count."""
    result = function()
    best = np.inf
    for _ in range(repeat):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return result, best


def score(x, y, truth, unusable):
    """Return (found, scored) truth sources by flux, (n_bins, 2), and the number of false detections."""
    n = unusable.shape[0]

    def usable(xs, ys):
        i, j = (np.clip(np.round(v).astype(int), 0, n - 1) for v in (xs, ys))
        return ~unusable[j, i]

    tx, ty, flux = (np.asarray(truth[k], float) for k in ("x", "y", "flux"))
    distance, _ = cKDTree(np.c_[x, y]).query(np.c_[tx, ty])
    scored = usable(tx, ty)
    chosen = [scored & (flux > a) & (flux <= b) for a, b in BINS]
    counts = [((distance[rows] < 2).sum(), rows.sum()) for rows in chosen]
    nearest, _ = cKDTree(np.c_[tx, ty]).query(np.c_[x, y])
    return np.array(counts), int((nearest[usable(np.asarray(x), np.asarray(y))] > 4).sum())


def starmill_steps(exposure):
    """Run the configurations to compare."""
    for name, options in (
        ("starmill", {}),
        ("starmill, no local background", {"use_local_background": False}),
        ("starmill, min_peak_drop=1", {"min_peak_drop": 1.0}),
        ("starmill, the same at 5.3 sigma", {"min_peak_drop": 1.0, "threshold": 5.3}),
        ("starmill, sharpen_peaks", {"use_local_background": False, "sharpen_peaks": True}),
    ):
        config = SourceDetectionConfig(re_estimate_background=False, **options)
        task = SourceDetectionTask(config)
        result, cpu = timed(lambda task=task: task.run(exposure=exposure))
        peaks = result.positive.peaks
        yield name, cpu, len(result.positive), peaks["x"].astype(float), peaks["y"].astype(float)


def sep_steps(exposure, mask):
    """Run sep with its variance map and with the same Gaussian filter, if it is installed."""
    try:
        import sep
    except ImportError:
        return
    sep.set_extract_pixstack(3000000)
    kernel = gaussian_kernel(FWHM / 2.3548)
    kernel = np.outer(kernel, kernel)
    gain = np.sqrt((kernel**2).sum())
    for name, options in (
        ("sep, matched filter", {"thresh": 5.0, "filter_type": "matched"}),
        ("sep, convolution", {"thresh": 5.0 * gain, "filter_type": "conv"}),
    ):
        found, cpu = timed(
            lambda options=options: sep.extract(
                exposure.image, var=exposure.variance, mask=mask, minarea=1, filter_kernel=kernel, **options
            )
        )
        yield name, cpu, len(found), found["x"], found["y"]


def read_frame(folder, size):
    """Return the exposure without background and cosmic rays, the mask, the truth and what is not scored."""
    cut = slice(0, size or None)
    image, mask, variance, tracks = (
        fits.getdata(folder / f"sci{name}.fits")[cut, cut].astype(kind)
        for name, kind in (
            ("", np.float32),
            ("_mask", np.int32),
            ("_var", np.float32),
            ("_crtruth", np.int32),
        )
    )
    truth = Table.read(folder / "truth.fits")
    truth = truth[(truth["x"] < image.shape[1]) & (truth["y"] < image.shape[0])]
    image = image - estimate_background(image, mask, bin_size=128).field.image(None, np.float32)
    image[tracks > 0] = 0  # cosmic rays belong to another step
    unusable = binary_dilation((mask > 0) | (tracks > 0), iterations=3)
    unusable[:EDGE] = unusable[-EDGE:] = unusable[:, :EDGE] = unusable[:, -EDGE:] = True
    return Exposure(image, mask, variance, psf=GaussianPsf(FWHM / 2.3548, 25)), mask, truth, unusable


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--frame", type=Path, required=True, nargs="+", help="folders written by frame_sim.py"
    )
    parser.add_argument("--size", type=int, default=0, help="use only this many pixels a side")
    options = parser.parse_args()
    total = {}
    for folder in options.frame:
        exposure, mask, truth, unusable = read_frame(folder, options.size)
        for name, cpu, n, x, y in (*starmill_steps(exposure), *sep_steps(exposure, mask > 0)):
            counts, false = score(x, y, truth, unusable)
            row = total.setdefault(name, [0.0, 0, 0, 0, np.zeros_like(counts)])
            for k, value in enumerate((cpu, n, len(x), false, counts)):
                row[k] = row[k] + value
    heads = "".join(f"{f'{a:g}-{b:g}':>11s}" for a, b in BINS)
    print(
        f"{'':32s}{'CPU s':>7s}{'objects':>9s}{'peaks':>8s}{'false':>7s}  completeness at flux (e-)\n{'':65s}{heads}"
    )
    for name, (cpu, n, n_peaks, false, counts) in total.items():
        complete = "".join(f"{found / of:11.4f}" for found, of in counts)
        print(f"{name:32s}{cpu / len(options.frame):7.3f}{n:9d}{n_peaks:8d}{false:7d}  {complete}")


if __name__ == "__main__":
    main()
