"""Small simulated scenes for the measurement tests."""

import numpy as np

from starmill.datamodel.catalog import Catalog, Schema
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.psf import GaussianPsf
from starmill.kernels.source_pixels import SourcePixels


def bare_pixels(image, variance=None, mask=None, n=1):
    """SourcePixels without footprints."""
    image = np.ascontiguousarray(image, np.float32)
    variance = np.ones_like(image) if variance is None else np.ascontiguousarray(variance, np.float32)
    mask = np.zeros(image.shape, np.int32) if mask is None else mask
    empty = np.zeros(0, np.float32)
    zero = np.zeros(n + 1, np.int64)
    return SourcePixels(
        image.copy(),
        variance.copy(),
        mask,
        np.zeros((0, 3), np.int32),
        zero,
        zero,
        empty,
        empty,
        np.arange(n),
    )


def disk_footprints(x, y, radius):
    """One disk of spans around every position, with its peak."""
    spans, offsets = [], [0]
    for cx, cy in zip(x, y, strict=True):
        ix, iy = int(np.floor(cx + 0.5)), int(np.floor(cy + 0.5))
        for dy in range(-radius, radius + 1):
            half = int(np.sqrt(radius**2 - dy**2))
            spans.append((iy + dy, ix - half, ix + half))
        offsets.append(len(spans))
    peaks = np.zeros(len(x), PEAK_DTYPE)
    peaks["x"], peaks["y"] = np.floor(np.asarray(x) + 0.5), np.floor(np.asarray(y) + 0.5)
    return FootprintSet(np.array(spans), np.array(offsets), peaks, np.arange(len(x) + 1))


def catalog_at(x, y, footprints=None):
    """Catalogue of sources at the nearest pixels."""
    n = len(x)
    columns = {
        "id": np.arange(1, n + 1), "parent": np.zeros(n, int),
        "x": np.floor(np.asarray(x) + 0.5), "y": np.floor(np.asarray(y) + 0.5),
    }  # fmt: skip
    return Catalog(Schema(), columns, n=n, footprints=footprints)


def star_field(
    flux, *, side=20, spacing=41, sigma=1.6, sky=300.0, read_noise=5.0, seed=1, noise=True, origin=(0, 0)
):
    """A grid of equal, isolated stars at random sub-pixel positions; returns exposure, x, y (parent frame)."""
    rng = np.random.default_rng(seed)
    psf = GaussianPsf(sigma, 25)
    grid = np.arange(side) * spacing + spacing // 2
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, side**2) for g in np.meshgrid(grid, grid))
    image = np.zeros((side * spacing, side * spacing))
    stamps, x0, y0 = psf.images_at(x, y)
    for stamp, i, j in zip(stamps, x0, y0, strict=True):
        image[j : j + 25, i : i + 25] += flux * stamp
    variance = (image + sky + read_noise**2).astype(np.float32)
    if noise:
        image = rng.poisson(image + sky) - sky + rng.normal(0, read_noise, image.shape)
    exposure = Exposure(image.astype(np.float32), variance=variance, psf=psf, origin=origin)
    return exposure, x + origin[0], y + origin[1]
