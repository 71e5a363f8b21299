"""Sources of a difference image: point sources and single pixels."""

from __future__ import annotations

import numpy as np
import pytest
from tests.differencing.conftest import add_gaussians

from starmill.differencing.score import matched_filter
from starmill.differencing.sources import find_difference_sources


@pytest.mark.parametrize(("sigma", "smeared"), [(0.9, 0.0), (1.6, 0.0), (1.6, 0.8)])
def test_single_pixels_are_told_from_point_sources(sigma, smeared):
    """Also when the science image was convolved, which smears its single pixels."""
    rng = np.random.default_rng(8)
    n, side = 100, 700
    place = rng.permutation(34 * 34)[: 2 * n]
    x, y = 20.0 + 20 * (place % 34), 20.0 + 20 * (place // 34)
    x, y = x + rng.uniform(-0.5, 0.5, 2 * n), y + rng.uniform(-0.5, 0.5, 2 * n)
    image = rng.normal(size=(side, side))
    width = np.sqrt(4 * np.pi) * sigma  # flux over it is the signal-to-noise
    sign = rng.choice([-1, 1], 2 * n)
    add_gaussians(image, x[:n], y[:n], sign[:n] * rng.uniform(7, 30, n) * width, sigma)
    near = np.arange(-4, 5)[:, None] ** 2 + np.arange(-4, 5)[None, :] ** 2
    spike = np.exp(-near / (2 * smeared**2)) if smeared else (near == 0) * 1.0
    strength = rng.uniform(7, 30, n) * width * 0.7 * spike.max() / np.sqrt(np.sum(spike**2))
    rows, columns = np.rint(y[n:]).astype(int), np.rint(x[n:]).astype(int)
    for row, column, peak in zip(rows, columns, sign[n:] * strength, strict=True):
        image[row - 4 : row + 5, column - 4 : column + 5] += peak * spike
        if row % 2:  # half of them have two pixels
            image[row - 4 : row + 5, column - 3 : column + 6] += peak * spike
    yy, xx = np.mgrid[-8:9, -8:9]
    psf = np.exp(-(xx**2 + yy**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    bad, variance = np.zeros(image.shape, bool), np.ones(image.shape)
    _, score = matched_filter(image, variance, bad, psf)
    catalog = find_difference_sources(image, variance, bad, score, psf, spike=spike)
    distance = np.hypot(catalog["x"][:, None] - x, catalog["y"][:, None] - y)
    found, nearest = distance.min(axis=1) < 2, distance.argmin(axis=1)
    sharp = catalog["sharp_flag"]
    points, spikes = found & (nearest < n), found & (nearest >= n)
    assert points.sum() > 0.9 * n
    assert spikes.sum() > 0.6 * n
    assert sharp[points].mean() < 0.05
    assert sharp[spikes].mean() > 0.95


@pytest.mark.parametrize("sigma", [0.9, 1.6])
def test_arcs_of_light_are_told_from_point_sources(sigma):
    rng = np.random.default_rng(12)
    side, n = 700, 100
    place = rng.permutation(17 * 16)[:n]
    x, y = 30.0 + 40 * (place % 17), 30.0 + 20 * (place // 17)  # the upper half
    x, y = x + rng.uniform(-0.5, 0.5, n), y + rng.uniform(-0.5, 0.5, n)
    image = rng.normal(size=(side, side))
    add_gaussians(
        image, x, y, rng.choice([-1, 1], n) * rng.uniform(7, 30, n) * np.sqrt(4 * np.pi) * sigma, sigma
    )
    yy, xx = np.mgrid[:side, :side]
    for radius, sign in ((40, 1), (80, -1), (120, 1)):  # rings as reflections of bright stars make them
        image += (
            sign
            * 6
            / sigma**0.5
            * np.exp(-((np.hypot(xx - 350, yy - 525) - radius) ** 2) / (2 * sigma**2))
            / 2
        )
    yy, xx = np.mgrid[-8:9, -8:9]
    psf = np.exp(-(xx**2 + yy**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    bad, variance = np.zeros(image.shape, bool), np.ones(image.shape)
    _, score = matched_filter(image, variance, bad, psf)
    catalog = find_difference_sources(image, variance, bad, score, psf)
    points = np.hypot(catalog["x"][:, None] - x, catalog["y"][:, None] - y).min(axis=1) < 2
    rings = np.hypot(catalog["x"] - 350, catalog["y"] - 525)
    rings = np.min(np.abs(rings[:, None] - [40, 80, 120]), axis=1) < 3
    assert points.sum() > 0.9 * n
    assert rings.sum() > 50
    assert catalog["extended_flag"][points].mean() < 0.03
    assert catalog["extended_flag"][rings & ~points].mean() > 0.9
