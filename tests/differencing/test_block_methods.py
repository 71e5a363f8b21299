"""Stamps of grid cells, the unweighted fit, and block convolution."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reference import block_convolution as slow

from starmill.coaddition.stack import mean_exposure
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.differencing.block_subtract import subtract_in_blocks
from starmill.differencing.cell_stamps import CellSearch, cell_grid, clipped_moments, find_cell_stamps
from starmill.differencing.histogram_sky import histogram_sky
from starmill.differencing.kernel_basis import gaussian_basis
from starmill.differencing.unweighted_fit import UnweightedProblem, direction_merit, fit_unweighted_kernel
from starmill.errors import AlgorithmError, InputError
from starmill.kernels import block_convolution as kernels


def test_block_convolution_is_that_of_the_twin():
    rng = np.random.default_rng(1)
    image, variance = rng.normal(size=(40, 37)), rng.uniform(1, 2, (40, 37))
    mask = np.where(rng.random((40, 37)) < 0.02, 0x80, 0).astype(np.int32) | (
        rng.random((40, 37)) < 0.02
    ).astype(np.int32)
    nodes = rng.normal(size=(5, 5, 7, 7))
    for squared in (True, False):
        out, noise, good = (np.zeros((40, 37)) for _ in range(3))
        union = np.zeros((40, 37), np.int32)
        kernels.convolve_blocks(image, variance, mask, nodes, 8, squared, out, noise, union, good)
        expected = slow.convolve_blocks(image, variance, mask, nodes, 8, squared)
        inner = np.s_[3:-3, 3:-3]
        for one, other in zip((out, noise, union, good), expected, strict=True):
            np.testing.assert_allclose(one[inner], other[inner], rtol=1e-12, atol=1e-12)


def test_stamp_vectors_are_those_of_the_twin():
    rng = np.random.default_rng(2)
    horizontal, vertical = rng.normal(size=(2, 5, 7))
    minus_first = np.array([False, True, False, True, False])
    cut, out = rng.normal(size=(20, 20)), np.empty((5, 14, 14))
    kernels.stamp_vectors(cut, horizontal, vertical, minus_first, out)
    np.testing.assert_allclose(
        out, slow.stamp_vectors(cut, horizontal, vertical, minus_first), atol=1e-5
    )  # float32


def test_search_finds_the_objects_of_the_twin():
    rng = np.random.default_rng(3)
    for _ in range(5):
        image = rng.normal(100, 3, (70, 70))
        for x, y in rng.integers(0, 70, (12, 2)):
            image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] += rng.uniform(50, 3000)
        mask = np.where(rng.random(image.shape) < 0.001, 0x80, 0).astype(np.int32)
        masks, cell, found = [mask.copy(), mask.copy()], np.array([5, 4, 66, 69]), np.zeros((6, 3))
        arguments = (cell, 0xBF | 0x300, 0x300, 100.0, 3.0, 2500.0, 15.0, 7)
        n = kernels.search_cell(image, masks[0], *arguments, 6, found)
        np.testing.assert_allclose(found[:n], slow.search_cell(image, masks[1], *arguments, 6))
        np.testing.assert_array_equal(*masks)


def test_grid_of_cells():
    grid = cell_grid((1024, 1024), (1, 1), (10, 10), kernel_half_width=10, half_width=15)
    assert grid == (81, 10, 10)
    assert cell_grid((1024, 1024), (1, 1), (40, 30), kernel_half_width=5, half_width=10) == (31, 33, 33)


def test_sky_and_clipped_moments():
    rng = np.random.default_rng(4)
    values = rng.normal(200, 4, (70, 80))
    values[:3] = rng.uniform(220, 2000, (3, 80))
    usable = np.ones(values.shape, bool)
    mode, width = histogram_sky(values, usable)
    assert mode == pytest.approx(200, abs=1.5)
    assert width == pytest.approx(4, abs=0.3)
    assert histogram_sky(values, usable) == (mode, width)  # the same random pixels every time
    usable[10:20] = False
    values[10:20] = np.nan
    assert histogram_sky(values, usable)[0] == pytest.approx(200, abs=1.5)
    assert histogram_sky(np.full((20, 20), 7.0), np.ones((20, 20), bool)) == (0.0, 0.0)
    assert histogram_sky(np.ones((5, 5)), np.ones((5, 5), bool)) == (0.0, 0.0)
    mean, scatter = clipped_moments(np.append(rng.normal(1, 0.1, 100), [5, 9]), 3.0)
    assert mean == pytest.approx(1, abs=0.04)
    assert scatter == pytest.approx(0.1, abs=0.03)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(5)
    size, x, y = 200, *rng.uniform(25, 175, (2, 25))
    rows, columns = np.mgrid[:size, :size]
    reference, target = np.full((size, size), 50.0), np.full((size, size), 80.0)
    for a, b, f in zip(x, y, rng.uniform(1e4, 1e5, 25), strict=True):
        r2 = (columns - a) ** 2 + (rows - b) ** 2
        reference += f * np.exp(-r2 / (2 * 1.4**2)) / (2 * np.pi * 1.4**2)
        target += 0.7 * f * np.exp(-r2 / (2 * 2.0**2)) / (2 * np.pi * 2.0**2)
    target += 0.05 * columns
    basis = gaussian_basis(8, [0.8, 1.5, 2.5], [2, 2, 0])
    cells = [[(int(a), int(b))] for a, b in zip(np.rint(x), np.rint(y), strict=True)]
    bad = np.zeros((size, size), bool)
    return UnweightedProblem(reference, target, np.full((size, size), 9.0), bad, basis, 10, 0, 1), cells


def test_unweighted_fit_finds_kernel_and_background(problem):
    setup, cells = problem
    fit = fit_unweighted_kernel(setup, cells, reject=5.0)
    assert fit.solution[0] == pytest.approx(0.7, abs=0.003)
    parts = subtract_in_blocks(
        setup, fit.solution, (setup.noise_variance / 2,) * 2, np.zeros(setup.target.shape, np.int32), step=17
    )
    inner = parts.difference[8:-8, 8:-8]
    assert np.abs(inner).max() < 0.01 * (setup.target.max() - 80)  # of the brightest peak
    merit, sums, kept = direction_merit(setup, cells, reject=3.0)
    assert np.isfinite(merit)
    assert np.median(sums) == pytest.approx(0.7, abs=0.01)
    assert kept.sum() > 15


def test_a_bad_stamp_is_replaced(problem):
    setup, cells = problem
    spoiled = [list(stamps) for stamps in cells]
    from dataclasses import replace

    target = setup.target.copy()
    x, y = spoiled[0][0]
    target[y - 2 : y + 3, x + 2 : x + 6] += 30000
    spoiled[0].append(cells[1][0])
    fit = fit_unweighted_kernel(replace(setup, target=target), spoiled, reject=4.0)
    assert fit.current[0] == 1
    assert direction_merit(setup, [], reject=2.0)[0] == np.inf


def test_singular_equations_are_an_error(problem):
    from dataclasses import replace

    setup, cells = problem
    flat = replace(setup, reference=np.zeros_like(setup.reference))
    with pytest.raises(AlgorithmError, match="singular"):
        fit_unweighted_kernel(flat, cells[:3], reject=2.0)


def test_listed_stamps_come_first():
    rng = np.random.default_rng(6)
    image = rng.normal(100, 3, (120, 120))
    image[59:62, 59:62] += 2000
    image[60, 60] += 500
    image[39:42, 79:82] += 900
    mask = np.zeros(image.shape, np.int32)
    keywords = {"threshold": 20.0, "half_width": 8, "kernel_half_width": 5, "per_cell": 3}
    searches = [CellSearch(image, 0x300, 1e4)]
    found = find_cell_stamps(searches, mask, (119, 1, 1), listed=np.array([[80, 40], [3, 3]]), **keywords)[0]
    assert found[0][1] == [(80, 40), (60, 60)]
    mask = np.zeros(image.shape, np.int32)
    found = find_cell_stamps(
        searches, mask, (119, 1, 1), listed=np.array([[80, 40]]), fill=False, **keywords
    )[0]
    assert found[0][1] == [(80, 40)]


def exposure(image, variance=1.0, flag=None):
    mask = Mask(np.zeros(image.shape, np.int32))
    if flag is not None:
        mask.set("CR", flag)
    return Exposure(image.astype("f4"), mask, np.full(image.shape, variance, "f4"))


def test_mean_of_exposures():
    rng = np.random.default_rng(7)
    images = [rng.normal(10, 2, (60, 60)) for _ in range(6)]
    images[2][10, 10] = 1e4  # a moving object: in one exposure only
    flag = np.zeros((60, 60), bool)
    flag[20, 20] = True
    images[3][20, 20] = 1e4
    given = [exposure(im, 4.0, flag if i == 3 else None) for i, im in enumerate(images)]
    mean = mean_exposure(given)
    assert np.abs(mean.image - 10).max() < 5
    assert mean.image.std() == pytest.approx(2 / np.sqrt(6), rel=0.05)
    pulls = (mean.image - 10) / np.sqrt(mean.variance)
    assert pulls.std() == pytest.approx(1, abs=0.04)
    for one in given:  # a border that a detection did not search has good pixels
        one.mask.set("EDGE", (slice(0, 5), slice(None)))
    assert not mean_exposure(given).mask.any("NO_DATA").any()
    doubled = mean_exposure(given, scales=[2.0] * 6)
    np.testing.assert_allclose(doubled.image, 2 * mean.image, rtol=1e-5)
    everywhere = np.ones((60, 60), bool)
    with pytest.raises(AlgorithmError):
        mean_exposure([exposure(images[0], 1.0, everywhere)])
    with pytest.raises(InputError):
        mean_exposure([])
    with pytest.raises(InputError):
        mean_exposure([exposure(np.zeros((5, 5))), exposure(np.zeros((6, 5)))])
