"""Convolution with a kernel that varies over the image."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reference import kernel_convolution as reference

from starmill.datamodel.geometry import Box
from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.differencing.convolve import KernelNodes, LostShare, repair_bad
from starmill.differencing.kernel_basis import gaussian_basis
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.differencing.stamps import spread_mask
from starmill.differencing.subtract import convolve_image, subtract_convolved
from starmill.kernels.kernel_convolution import block_peaks


def varying_kernel(box, order=2, scale=0.05, half_width=5):
    """Return a kernel whose shape and sum change by some per cent."""
    basis = gaussian_basis(half_width, [1.0, 2.0], [2, 1])
    terms = SpatialTerms(box, order)
    rng = np.random.default_rng(7)
    fields = [
        terms.field(np.append(0.8 if i == 0 else 0.05, scale * rng.normal(size=len(terms) - 1)))
        for i in range(len(basis))
    ]
    return SpatialKernel(basis.images, fields)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("origin", [(0, 0), (50, -20)])
def test_agrees_with_the_kernel_of_every_pixel(order, origin):
    rng = np.random.default_rng(1)
    image = rng.normal(100, 10, (70, 90)).astype("f4")
    kernel = varying_kernel(Box(*origin, 90, 70), order)
    out = convolve_image(image, kernel, origin=origin).image
    slow = reference.convolve_varying(image, kernel, origin)
    np.testing.assert_allclose(out, slow, atol=100 * 4e-5 * 2)  # the stated interpolation error of the kernel


def test_result_does_not_depend_on_threads():
    image = np.random.default_rng(2).normal(size=(200, 150)).astype("f4")
    kernel = varying_kernel(Box(0, 0, 150, 200))
    one = convolve_image(image, kernel, variance=np.ones_like(image), threads=1)
    three = convolve_image(image, kernel, variance=np.ones_like(image), threads=3)
    np.testing.assert_array_equal(one.image, three.image)
    np.testing.assert_array_equal(one.variance, three.variance)


def test_no_seams_between_nodes():
    box = Box(0, 0, 600, 40)
    kernel = varying_kernel(box, scale=0.1)
    assert KernelNodes.tabulate(kernel, box).spacing < 600
    out = convolve_image(np.ones((40, 600), "f4"), kernel).image[20, 10:-10]
    jumps = np.abs(np.diff(out, n=2))
    assert jumps.max() < 1e-4  # a block-constant kernel of 21 px would step by 1e-3


def test_variance_is_that_of_many_noise_draws():
    rng = np.random.default_rng(3)
    kernel = varying_kernel(Box(0, 0, 64, 64))
    sigma = np.sqrt(rng.uniform(1, 4, (64, 64)).astype("f4"))
    draws = np.array(
        [convolve_image((rng.normal(size=(64, 64)) * sigma).astype("f4"), kernel).image for _ in range(300)]
    )
    predicted = convolve_image(np.zeros((64, 64), "f4"), kernel, variance=sigma**2).variance
    ratio = draws.var(axis=0)[8:-8, 8:-8] / predicted[8:-8, 8:-8]
    assert ratio.mean() == pytest.approx(1, abs=0.02)  # 300 draws of some 1000 independent pixels


def test_variance_with_the_plain_kernel():
    kernel = varying_kernel(Box(0, 0, 64, 64), order=0)
    out = convolve_image(
        np.zeros((64, 64), "f4"), kernel, variance=np.ones((64, 64), "f4"), squared=False
    ).variance
    np.testing.assert_allclose(out, kernel.sum_at(0, 0), rtol=0.01)


def test_lost_fraction_agrees_with_direct_sums():
    rng = np.random.default_rng(4)
    bad = rng.random((40, 50)) < 0.01
    kernel = varying_kernel(Box(0, 0, 50, 40), scale=0.0)
    inner = np.s_[6:-6, 6:-6]  # corners are counted twice outside the image
    np.testing.assert_allclose(
        LostShare(bad, kernel, Box(0, 0, 50, 40)).rows(0, len(bad))[inner],
        reference.lost_fraction(bad, kernel)[inner],
        atol=1e-5,
    )


def test_bad_pixel_costs_only_what_the_kernel_reaches():
    image = np.random.default_rng(5).normal(100, 5, (60, 60)).astype("f4")
    kernel = varying_kernel(Box(0, 0, 60, 60))
    clean = convolve_image(image, kernel)
    image[30, 30] = np.nan
    bad = ~np.isfinite(image)
    hit = convolve_image(image, kernel, bad=bad)
    assert np.isfinite(hit.image).all()
    changed = hit.image != clean.image
    changed[25:36, 25:36] = False
    assert not changed.any()
    assert hit.lost[30, 30] > 0.05
    assert hit.lost[30, 37] == pytest.approx(clean.lost[30, 37])


def test_repair_uses_good_neighbours_only():
    image = np.full((20, 20), 7.0, "f4")
    bad = np.zeros((20, 20), bool)
    bad[4:6, 4:6] = True
    image[bad] = np.inf
    np.testing.assert_array_equal(repair_bad(image, bad), np.full((20, 20), 7.0))


def test_subtraction_adds_variances():
    kernel = varying_kernel(Box(0, 0, 40, 40))
    image = np.random.default_rng(6).normal(size=(40, 40)).astype("f4")
    convolved = convolve_image(image, kernel, variance=np.ones((40, 40), "f4"))
    difference, variance = subtract_convolved(convolved, image, np.full((40, 40), 2.0), np.ones((40, 40)))
    np.testing.assert_allclose(difference, image - convolved.image - 1, atol=1e-6)
    np.testing.assert_allclose(variance, convolved.variance + 2, rtol=1e-6)


def test_peaks_agree_with_the_slow_search():
    rng = np.random.default_rng(8)
    image = rng.normal(size=(50, 66)).astype("f4")
    bad = rng.random((50, 66)) < 0.05
    x, y = np.empty(100, np.int64), np.empty(100, np.int64)
    n = block_peaks(image, bad, 0, 50, 8, 3, x, y)
    assert list(zip(x[:n], y[:n], strict=True)) == reference.block_peaks(image, bad, 8, 3)


def test_mask_grows_by_a_square():
    bad = np.zeros((9, 9), bool)
    bad[4, 1] = True
    grown = spread_mask(bad, 2)
    assert grown.sum() == 5 * 4
    assert grown[2:7, 0:4].all()
