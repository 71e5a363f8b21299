"""Convolution: equals the slow twin, missing pixels have no influence, threads change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from starmill.errors import InputError
from starmill.numerics.convolution import convolve_separable, gaussian_kernel, spread_mask
from tests.reference import convolution as slow


@pytest.fixture
def scene():
    rng = np.random.default_rng(5)
    image = rng.normal(10, 3, (37, 45)).astype(np.float32)
    variance = rng.uniform(4, 9, (37, 45)).astype(np.float32)
    mask = np.zeros((37, 45), np.int32)
    mask[10:14, 20] = 1
    mask[0, 0] = 256
    mask[30:, 40:] = 257
    mask[5, 5] = 1 | 4
    image[20, 7] = np.nan
    variance[21, 30] = np.inf
    return image, variance, mask


@pytest.mark.parametrize("sizes", [(3, 3), (5, 9), (7, 1), (11, 11)])
def test_equals_slow_twin(scene, sizes):
    image, variance, mask = scene
    rng = np.random.default_rng(1)
    kx, ky = (rng.uniform(0.1, 1, n) for n in sizes)
    kx, ky = kx / kx.sum(), ky / ky.sum()
    missing = (((mask & 257) != 0) & ((mask & 4) == 0)) | ~np.isfinite(image) | ~np.isfinite(variance)
    expected, expected_variance = slow.convolve_separable(
        np.where(missing, 0, image), np.where(missing, 0, variance), missing, kx, ky, 0.1
    )
    found = convolve_separable(image, kx, ky, variance=variance, mask=mask, missing_bits=257, keep_bits=4)
    assert_allclose(found.image, expected, rtol=2e-6)  # float32 sums of at most 22 terms
    assert_allclose(found.variance, expected_variance, rtol=4e-6)


def test_clean_image_is_plain_convolution(scene):
    image = np.nan_to_num(scene[0], nan=10.0)
    kernel = gaussian_kernel(1.3)
    found = convolve_separable(image, kernel).image
    from scipy.ndimage import convolve1d

    half = kernel.size // 2
    expected = convolve1d(convolve1d(image.astype(float), kernel, axis=0), kernel, axis=1)
    inner = (slice(half, -half), slice(half, -half))
    assert_allclose(found[inner], expected[inner], rtol=2e-6)


def test_missing_pixels_have_no_influence(scene):
    image, variance, mask = scene
    kernel = gaussian_kernel(1.5)
    first = convolve_separable(image, kernel, variance=variance, mask=mask, missing_bits=257)
    hidden = image.copy()
    hidden[(mask & 257) != 0] = 1e30
    second = convolve_separable(hidden, kernel, variance=variance, mask=mask, missing_bits=257)
    assert_array_equal(first.image, second.image)
    assert_array_equal(first.variance, second.variance)


def test_constant_image_stays_constant(scene):
    image, _, mask = scene
    found = convolve_separable(
        np.full_like(image, 7.0), gaussian_kernel(2.0), mask=mask, missing_bits=257
    ).image
    assert_allclose(found[np.isfinite(found)], 7.0, rtol=2e-6)  # weights above 0.999999 count as one


def test_threads_change_no_bit():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(1100, 64)).astype(np.float32)
    image[500:530, 10] = np.nan
    kernel = gaussian_kernel(1.5)
    one = convolve_separable(image, kernel, variance=np.ones_like(image), threads=1)
    two = convolve_separable(image, kernel, variance=np.ones_like(image), threads=2)
    assert_array_equal(one.image, two.image)
    assert_array_equal(one.variance, two.variance)


def test_noise_of_many_draws_matches_variance():
    rng = np.random.default_rng(3)
    image = rng.normal(0, 3, (300, 300)).astype(np.float32)
    found = convolve_separable(image, gaussian_kernel(1.5), variance=np.full_like(image, 9.0))
    ratio = found.image[10:-10, 10:-10].std() / np.sqrt(found.variance[150, 150])
    assert_allclose(ratio, 1, atol=0.04)  # about 2500 independent values, 3 sigma


@pytest.mark.parametrize("halves", [(0, 0), (1, 3), (5, 5)])
def test_mask_spreads_like_slow_twin(halves):
    rng = np.random.default_rng(4)
    mask = np.where(rng.random((50, 300)) < 0.004, 1 << rng.integers(0, 9, (50, 300)), 0).astype(np.int32)
    assert_array_equal(spread_mask(mask, *halves), slow.spread_mask(mask, *halves))


def test_kernel_width_and_sum():
    kernel = gaussian_kernel(1.78)
    assert kernel.size == 2 * int((7 * 1.78 + 0.5) / 2) + 1
    assert_allclose(kernel.sum(), 1, rtol=1e-6)


def test_bad_arguments_are_named():
    image = np.zeros((9, 9), np.float32)
    with pytest.raises(InputError, match="odd"):
        convolve_separable(image, np.ones(4))
    with pytest.raises(InputError, match="shape"):
        convolve_separable(image, np.ones(3), variance=np.zeros((3, 3)))
    with pytest.raises(InputError, match="positive"):
        gaussian_kernel(float("nan"))
