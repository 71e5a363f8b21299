"""Mesh of small cells: structure is found, noise and sources are not."""

from __future__ import annotations

import numpy as np
import pytest

from starmill.datamodel.geometry import Box
from starmill.differencing.background import fit_differential_background, with_mesh
from starmill.differencing.background_mesh import smooth_mesh

N = 768
NOISE = 10.0


def background_of(image, bad=None, **keywords):
    box = Box(100, 50, N, N)
    bad = np.zeros(image.shape, bool) if bad is None else bad
    variance = np.full(image.shape, NOISE**2, "f4")
    first = fit_differential_background(image, variance, bad, box)
    return first, with_mesh(first, image, variance, bad, box, cell=32, **keywords)


def star(x, y, flux, sigma=1.7):
    v, u = np.mgrid[:N, :N]
    return flux / (2 * np.pi * sigma**2) * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_and_sources_make_no_mesh(seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(0, NOISE, (N, N))
    for x, y in rng.uniform(20, N - 20, (40, 2)):
        image += star(x, y, NOISE * 6 * rng.uniform(-40, 100))
    first, found = background_of(image.astype("f4"))
    assert found is first
    assert not np.isfinite(found.mesh_scale)


def test_a_band_is_followed_and_a_transient_keeps_its_flux():
    rng = np.random.default_rng(4)
    u = np.arange(N)
    band = 8 * np.exp(-0.5 * ((u - 250) / 60.0) ** 2)[None, :] + np.zeros((N, 1))
    sky = (band + rng.normal(0, NOISE, (N, N))).astype("f4")
    flux = 100 * NOISE * 6  # signal-to-noise of a hundred
    image = (sky + star(240.3, 400.7, flux)).astype("f4")
    box = Box(100, 50, N, N)
    first, found = background_of(image)
    level, coarse = (b.field.image(box) - band for b in (found, first))
    assert found.mesh_scale >= 32
    rms, before = (np.sqrt(np.mean(l[:, 150:350] ** 2)) for l in (level, coarse))
    assert before > 0.1 * NOISE
    assert rms < 0.5 * before
    _, without = background_of(sky)
    change = (level - (without.field.image(box) - band))[395:407, 235:247].mean()
    assert abs(change) < 0.03 * NOISE  # 36 pixels under the matched filter: 0.2 per cent of the flux


def test_steps_are_left_where_nothing_is_known_and_a_mesh_can_be_forced():
    rng = np.random.default_rng(5)
    image = rng.normal(0, NOISE, (N, N)).astype("f4")
    bad = np.zeros((N, N), bool)
    bad[:, 300:] = True
    _, found = background_of(image, bad, forced=True)
    assert found.mesh_scale == 4 * 32
    level = found.field.image(Box(100, 50, N, N))
    assert np.isfinite(level).all()
    assert np.abs(level[:, :300]).max() < 0.1 * NOISE


def test_a_plane_is_kept_at_the_edge_and_an_odd_cell_is_left_out():
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:24, :24]
    plane = 0.3 * x - 0.2 * y
    values = plane + rng.normal(0, 0.1, plane.shape)
    values[10, 10] += 50
    values[0, 3] = np.nan
    smooth, _ = smooth_mesh(values, np.full(plane.shape, 0.1))
    assert np.abs(smooth - plane).max() < 0.3  # three errors of a cell, in the corner of a window of one cell


def test_a_mesh_without_cells_is_none():
    smooth, scale = smooth_mesh(np.full((5, 5), np.nan), np.ones((5, 5)))
    assert smooth is None
    assert scale == np.inf
