"""Compiled loops of difference imaging against their slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reference import kernel_convolution as reference

from starmill.differencing.convolve import KernelNodes
from starmill.differencing.noise import PoissonVariance
from starmill.differencing.subtract import convolve_with_nodes
from starmill.kernels.cell_means import clipped_cell_means
from starmill.kernels.normal_matrix import stamp_weights
from starmill.kernels.pixel_limits import difference_sums, subtract_rows


@pytest.mark.parametrize("profile", [[1.0], [0.2, 0.6, 0.2]])
def test_weights_of_a_stamp(profile):
    rng = np.random.default_rng(1)
    wide, inner = rng.uniform(1, 2, (15, 15)).astype("f4"), rng.uniform(1, 2, (9, 9)).astype("f4")
    bad_wide, bad_inner = rng.random((15, 15)) < 0.01, rng.random((9, 9)) < 0.05
    arguments = (wide, inner, bad_wide, bad_inner, 0.8, np.array(profile), 0.3, 2)
    weights = np.empty((9, 9))
    n = stamp_weights(*arguments, weights)
    slow = reference.stamp_weights(*arguments)
    np.testing.assert_allclose(weights, slow, rtol=1e-5)  # float32 sums
    assert n == (slow > 0).sum()


@pytest.mark.parametrize("step", [1, 2])
def test_clipped_means_of_cells(step):
    rng = np.random.default_rng(2)
    variance = rng.uniform(1, 3, (40, 50)).astype("f4")
    image = (5 + rng.normal(size=(40, 50)) * np.sqrt(variance)).astype("f4")
    image[10:14, 10:14] += 100  # a transient is clipped
    bad = rng.random((40, 50)) < 0.05
    edges = [np.array(e) for e in ([0, 20], [20, 40], [0, 25], [25, 50])]
    out = np.empty((2, 2))
    clipped_cell_means(image, variance, bad, *edges, step, 0.1, out)
    for i in range(2):
        part = np.s_[edges[0][i] : edges[1][i], edges[2][i] : edges[3][i]]
        slow = reference.clipped_cell_mean(image, variance, bad, part, step)
        np.testing.assert_allclose(out[i], slow, rtol=2e-3)
        assert abs(out[i, 0] - 5) < 4 * out[i, 1]  # 4 sigma


def test_kernel_of_low_rank_is_separated_and_gives_the_same():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(90, 150)).astype("f4")
    at = np.arange(-6, 7)
    kernels = np.array(
        [
            [np.exp(-(at[:, None] ** 2) / (4 + j) - at[None, :] ** 2 / (5 + i)) for i in range(4)]
            for j in range(3)
        ]
    )
    separated = KernelNodes.of_images(kernels, 64, 1e-6)
    full = KernelNodes.of_images(kernels, 64, 0.0)
    assert separated.horizontal is not None
    assert full.horizontal is None
    np.testing.assert_allclose(
        convolve_with_nodes(image, separated),
        convolve_with_nodes(image, full),
        atol=2e-5 * kernels.sum((2, 3)).max(),
    )


def test_variance_is_computed_where_it_is_asked_for():
    image = np.array([[4.0, -4.0], [np.nan, 0.0]], "f4")
    variance = PoissonVariance(image, 2.0, 1.0)
    np.testing.assert_allclose(variance[0:2], [[3, 3], [1, 1]])
    np.testing.assert_allclose(variance[np.array([0, 1]), np.array([1, 1])], [3, 1])


def test_difference_of_a_band_and_its_sums():
    rng = np.random.default_rng(4)
    target, own, convolved, lost = rng.uniform(0.5, 1, (4, 3, 8)).astype("f4")
    lost[lost < 0.7] = 0
    bad = rng.random((2, 3, 8)) < 0.2
    difference, variance, status = np.empty((3, 8), "f4"), np.ones((3, 8), "f4"), np.empty((3, 8), np.uint16)
    subtract_rows(target, own, convolved, lost, *bad, np.float32(0.8), difference, variance, status)
    np.testing.assert_array_equal(difference, target - convolved)
    np.testing.assert_array_equal(variance, own + 1)
    np.testing.assert_array_equal(status, (lost > 0) + 2 * (lost > 0.8) + 4 * (bad[0] | bad[1]))
    sums, bits = np.zeros(6), (status > 0).astype(np.uint16)
    difference_sums(difference, variance, bits, np.uint16(1), np.float32(0.1), sums)
    values, noise = difference[bits == 0], variance[bits == 0]
    near = np.abs(values) < 0.1 * noise
    wanted = [
        len(values), noise.sum(), np.sum((values / noise) ** 2), near.sum(), values[near].sum(), np.sum(values[near] ** 2)
    ]  # fmt: skip
    np.testing.assert_allclose(sums, wanted, rtol=1e-5)
