"""A small simulated map with beam-correlated noise and known sources, made with numpy and scipy only."""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS
from scipy.ndimage import gaussian_filter
from tests.reference.gaussians import value

from starmill.datamodel.cube import Beam, SkyMap

PIXEL = 2.0  # arcsec
FWHM = 3.4  # pixel
PER_SIGMA = 2.3548200450309493


def make_wcs(shape, *, rotation=0.0, frame="RA---TAN", pixel=(PIXEL, PIXEL)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [frame, frame.replace("RA---", "DEC--").replace("GLON", "GLAT")]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    wcs.wcs.crval = [120.0, 20.0]
    wcs.wcs.cdelt = [-pixel[0] / 3600, pixel[1] / 3600]
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.pc = [[c, -s], [s, c]]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.set()
    return wcs


def scene(
    seed=3, shape=(150, 160), n=25, snr=(10, 40), spacing=16, background=3.0, unit="Jy/beam", rotation=0.0
):
    """Return (sky map, sources (n, 6) in map unit); noise has rms 1."""
    rng = np.random.default_rng(seed)
    sigma = FWHM / PER_SIGMA
    noise = gaussian_filter(rng.standard_normal(shape), sigma)
    image = noise / noise.std()
    structure = gaussian_filter(rng.standard_normal(shape), 14)
    image += background * structure / structure.std() + 20.0
    spots = [(x, y) for y in range(14, shape[0] - 13, spacing) for x in range(14, shape[1] - 13, spacing)]
    chosen = rng.choice(len(spots), min(n, len(spots)), replace=False)
    sources = np.zeros((len(chosen), 6))
    for k, i in enumerate(chosen):
        q, size = rng.uniform(0.75, 1.0), rng.uniform(1.0, 1.4) * sigma
        sources[k] = (
            rng.uniform(*snr), spots[i][0] + rng.uniform(-0.5, 0.5), spots[i][1] + rng.uniform(-0.5, 0.5),
            size / np.sqrt(q), size * np.sqrt(q), rng.uniform(-np.pi / 2, np.pi / 2),
        )  # fmt: skip
        box = np.s_[max(0, spots[i][1] - 14) : spots[i][1] + 15, max(0, spots[i][0] - 14) : spots[i][0] + 15]
        yy, xx = np.indices(shape)
        image[box] += value(sources[k], xx[box], yy[box])
    beam = Beam(FWHM * PIXEL, FWHM * PIXEL)
    return SkyMap(image, make_wcs(shape, rotation=rotation), beam, unit, name="scene"), sources


def matched(catalog, sources, radius=1.5):
    """Return index pairs (source, row) closer than ``radius`` pixels."""
    from scipy.spatial import cKDTree

    if len(catalog) == 0:
        return np.zeros(0, int), np.zeros(0, int)
    distance, row = cKDTree(np.column_stack([catalog["x"], catalog["y"]])).query(sources[:, 1:3])
    ok = np.flatnonzero(distance < radius)
    return ok, row[ok]
