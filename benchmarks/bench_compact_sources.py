"""Speed and accuracy of compact-source photometry, with the published benchmark maps and peers when they are there.

Run: ``python benchmarks/bench_compact_sources.py [--data DIR] [--size N] [--growth] [--peer PYTHON]``

``--data`` is the folder of the published maps (map_500_Gaussians_{1,2}.fits.gz with table_500_Gaussians_{1,2}.txt);
``--peer`` is the Python of an environment with hyper-py-photometry and photutils < 3.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from starmill.datamodel.cube import Beam, SkyMap
from starmill.io.cubes import read_sky_map
from starmill.numerics.tiles import set_threads
from starmill.tasks.compact_sources import CompactSourcesTask

TOLERANCE = 0.465  # beams: 0.02 arcsec on the published maps


def random_map(n_sources, seed=1, fwhm=3.4, spacing=15.0):
    """Return a map with n sources at random places, beam-correlated noise of rms 1 and a smooth background."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(n_sources) * spacing) + 40
    sigma = fwhm / 2.3548
    noise = gaussian_filter(rng.standard_normal((side, side)).astype(np.float32), sigma)
    coarse = gaussian_filter(rng.standard_normal((side // 8 + 2, side // 8 + 2)), 3)
    image = noise / noise.std() + 3 * np.kron(coarse / coarse.std(), np.ones((8, 8)))[:side, :side].astype(
        np.float32
    )
    image = gaussian_filter(image, 0.01)
    xy = rng.uniform(20, side - 20, (n_sources, 2))
    peak = rng.uniform(8, 40, n_sources)
    offset = np.arange(-9, 10)
    for (x, y), height in zip(xy, peak, strict=True):
        i, j = int(x), int(y)
        gx, gy = (np.exp(-0.5 * ((offset + k - v) / (1.1 * sigma)) ** 2) for k, v in ((i, x), (j, y)))
        image[j - 9 : j + 10, i - 9 : i + 10] += height * np.outer(gy, gx)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [100.0, 10.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [side / 2, side / 2], [-2 / 3600, 2 / 3600]
    return SkyMap(image, wcs, Beam(fwhm * 2, fwhm * 2), "Jy/beam"), xy


def timed(sky_map):
    """CPU seconds and result of one warm run."""
    start = time.process_time()
    result = CompactSourcesTask().run(sky_map=sky_map)
    return time.process_time() - start, result


def published(folder):
    """Score the two published maps: against the table, and the whole flux against that of the sources as drawn."""
    print("published maps (0.02 arcsec rule)")
    print(
        "map  CPU s rows matched false peak med/68%  FLUX-table med/68%/95%   total-drawn med/68%/95%   pulls  pos (arcsec)"
    )
    for k in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sky_map = read_sky_map(folder / f"map_500_Gaussians_{k}.fits.gz")
        truth = Table.read(folder / f"table_500_Gaussians_{k}.txt", format="ipac")
        seconds, result = min((timed(sky_map) for _ in range(3)), key=lambda pair: pair[0])
        catalog = result.catalog
        distance, j = cKDTree(np.column_stack([catalog["x"], catalog["y"]])).query(
            np.column_stack([truth["X"], truth["Y"]])
        )
        ok = np.flatnonzero(distance < TOLERANCE * 3.3094)
        _, first = np.unique(j[ok], return_index=True)
        i = np.sort(ok[first])
        j = j[i]
        peak = 100 * (catalog["peak_flux"][j] / sky_map.beam_pixels / truth["Flux_Peak"][i] - 1)
        drawn = truth["Flux_Integrated"] / np.sqrt(1 - 0.25 * np.sin(2 * np.radians(truth["PA"])) ** 2)
        listed = np.asarray(truth["Flux_Integrated"][i])
        table, real = (100 * (catalog[name][j] / true - 1) for name, true in
                       (("aperture_flux", listed), ("total_flux", drawn[i])))  # fmt: skip
        pull = [
            np.diff(np.percentile((catalog[name][j] - true) / catalog[f"{name}_err"][j], [16, 84]))[0] / 2
            for name, true in (("aperture_flux", listed), ("total_flux", drawn[i]))
        ]
        pixel = float(np.sqrt(abs(np.linalg.det(sky_map.pixel_matrix()))))

        def three(d):
            return f"{np.median(d):5.1f} {np.percentile(abs(d), 68):5.1f} {np.percentile(abs(d), 95):5.1f}"

        print(f"{k:3d} {seconds:6.2f} {len(catalog):5d} {len(i):7d} {len(catalog) - len(i):5d}  {np.median(peak):5.1f} "
              f"{np.percentile(abs(peak), 68):5.1f}    {three(table)}        {three(real)}     "
              f"{pull[0]:4.2f} {pull[1]:4.2f}  {np.median(distance[i]) * pixel:.4f}")  # fmt: skip


def growth(counts):
    """CPU seconds against the number of sources."""
    print("growth: sources, found, megapixels, CPU s, CPU ms per source, peak memory (MB)")
    for n in counts:
        sky_map, _ = random_map(n)
        seconds, result = timed(sky_map)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{n:8d} {len(result.catalog):8d} {sky_map.image.size / 1e6:7.2f} {seconds:8.2f} "
              f"{1e3 * seconds / n:7.3f} {memory:7.0f}", flush=True)  # fmt: skip


def peer(python, folder):
    """CPU seconds of hyper-py on one published map, whole command."""
    with tempfile.TemporaryDirectory() as place:
        code = (
            "import shutil, sys, yaml, pathlib, hyper_py\n"
            "root = pathlib.Path(hyper_py.__file__).parent / 'assets' / 'default_config.yaml'\n"
            f"c = yaml.safe_load(root.read_text()); c['paths']['input']['dir_maps'] = {str(folder)!r}\n"
            f"c['paths']['output']['dir_root'] = {place!r}; c['files']['file_map_name'] = 'map_500_Gaussians_1.fits.gz'\n"
            "c['detection']['sigma_thres'] = 4.0; c['photometry']['fwhm_radius_ratio'] = 1.0\n"
            "c['control'].update(parallel_maps=False, n_cores=1)\n"
            f"pathlib.Path({place!r}, 'c.yaml').write_text(yaml.safe_dump(c))\n"
            f"from hyper_py import start_hyper; start_hyper({place!r} + '/c.yaml')\n"
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([python, "-c", code], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"hyper-py on map 1, whole command: {after.ru_utime - before.ru_utime:.1f} CPU s (user)")


def main():
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the published maps")
    parser.add_argument("--size", type=int, default=5000, help="sources of the simulated map")
    parser.add_argument("--growth", action="store_true", help="500 to 100,000 sources")
    parser.add_argument("--peer", help="Python of an environment with hyper-py")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    set_threads(args.threads)
    start = time.process_time()
    timed(random_map(50)[0])
    print(f"first run, with compilation or loading of compiled code: {time.process_time() - start:.1f} CPU s")
    if args.data:
        published(args.data)
    growth([500, 1500, 5000, 15000, 50000, 100000] if args.growth else [500, args.size])
    if args.peer and args.data:
        peer(args.peer, args.data)


if __name__ == "__main__":
    main()
