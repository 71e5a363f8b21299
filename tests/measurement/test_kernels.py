"""Compiled measuring loops against their slow twins."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from starmill.kernels import centroids, moments, overlap, photometry
from starmill.kernels.moment_noise import moment_noise
from tests.measurement.scenes import bare_pixels
from tests.reference import centroids as slow_centroids
from tests.reference import moment_noise as slow_moment_noise
from tests.reference import moments as slow_moments
from tests.reference import overlap as slow_overlap
from tests.reference import photometry as slow_photometry


def blob(size=41, x=20.3, y=19.8, xx=4.0, yy=3.0, xy=0.7, flux=1000.0):
    j, i = np.mgrid[:size, :size]
    det = xx * yy - xy**2
    rho2 = (yy * (i - x) ** 2 - 2 * xy * (i - x) * (j - y) + xx * (j - y) ** 2) / det
    return flux * np.exp(-rho2 / 2) / (2 * np.pi * np.sqrt(det))


@pytest.mark.parametrize("r", [0.3, 0.7, 1.0, 2.4, 5.5])
def test_circle_overlap(r):
    rng = np.random.default_rng(2)
    for dx, dy in rng.uniform(-r - 1, r + 1, (60, 2)):
        # 200 x 200 parts: the border crosses at most 400 of them
        assert overlap.circle_overlap(dx, dy, r) == pytest.approx(
            slow_overlap.circle_overlap(dx, dy, r), abs=5e-3
        )


def test_ellipse_overlap_is_circle_overlap_for_equal_axes():
    rng = np.random.default_rng(3)
    for dx, dy in rng.uniform(-4, 4, (200, 2)):
        expected = overlap.circle_overlap(dx, dy, 3.0)
        assert overlap.ellipse_overlap(dx, dy, 3.0, 3.0, 0.6, 0.8) == pytest.approx(
            expected, abs=1e-9
        )  # series of the segment


def test_ellipse_overlap():
    rng = np.random.default_rng(4)
    for _ in range(80):
        a, b = np.sort(rng.uniform(0.3, 5, 2))[::-1]
        t = rng.uniform(0, np.pi)
        dx, dy = rng.uniform(-a - 1, a + 1, 2)
        expected = slow_overlap.ellipse_overlap(dx, dy, a, b, np.cos(t), np.sin(t))
        assert overlap.ellipse_overlap(dx, dy, a, b, np.cos(t), np.sin(t)) == pytest.approx(
            expected, abs=5e-3
        )


def test_ellipses_hold_their_exact_area_and_all_their_pixels():
    rng = np.random.default_rng(7)
    image, variance = rng.normal(10, 1, (2, 70, 70)).astype(np.float32)
    x, y = rng.uniform(33, 36, (2, 30))
    b = rng.uniform(0.3, 5, 30)
    a, theta = b * rng.uniform(1, 6, 30), rng.uniform(0, np.pi, 30)
    pixels = bare_pixels(image, np.abs(variance), n=30)
    flux, spread, area, cut = overlap.ellipse_sums(pixels, x, y, a, b, theta)
    assert not cut.any()
    assert_allclose(area, np.pi * a * b, rtol=1e-10)
    for i in range(0, 30, 3):
        weight = [
            [
                overlap.ellipse_overlap(c - x[i], d - y[i], a[i], b[i], np.cos(theta[i]), np.sin(theta[i]))
                for c in range(70)
            ]
            for d in range(70)
        ]
        assert_allclose(flux[i], (np.array(weight) * image).sum(), rtol=1e-9)
        assert_allclose(spread[i], (np.array(weight) ** 2 * np.abs(variance)).sum(), rtol=1e-9)


def test_nested_circles_are_single_circles_pixel_by_pixel():
    rng = np.random.default_rng(5)
    image, variance = rng.normal(10, 1, (2, 90, 90)).astype(np.float32)
    variance = np.abs(variance)
    x, y = rng.uniform(35, 55, (2, 8))
    radii = np.array([0.6, 1.5, 2.5, 3.0, 4.5, 12.0, 30.0])
    flux, spread = overlap.circular_apertures(bare_pixels(image, variance, n=8), x, y, radii)
    for i in range(8):
        for k, r in enumerate(radii):
            w = np.array(
                [[overlap.circle_overlap(c - x[i], d - y[i], r) for c in range(90)] for d in range(90)]
            )
            assert_allclose(flux[i, k], (w * image).sum(), rtol=1e-9)  # the series of the segment: 1e-9
            assert_allclose(spread[i, k], (w**2 * variance).sum(), rtol=1e-9)


def test_circle_area_is_exact():
    x, y = np.random.default_rng(6).uniform(80, 90, (2, 30))
    radii = np.array([3.0, 9.0, 70.0])
    flux, _ = overlap.circular_apertures(bare_pixels(np.ones((171, 171)), n=30), x, y, radii)
    assert_allclose(flux, np.tile(np.pi * radii**2, (30, 1)), rtol=1e-9)


def test_apertures_that_leave_the_image_are_nan():
    flux, _ = overlap.circular_apertures(
        bare_pixels(np.ones((30, 30)), n=3), np.array([3.0, 15.0, np.nan]), np.array([15.0, 15.0, 15.0]),
        np.array([3.0, 5.0, 20.0]),
    )  # fmt: skip
    assert_array_equal(np.isfinite(flux), [[True, False, False], [True, True, False], [False] * 3])


def test_ellipse_sums():
    rng = np.random.default_rng(7)
    image, variance = rng.uniform(1, 2, (2, 40, 40)).astype(np.float32)
    arguments = [np.array([v]) for v in (19.3, 20.6, 6.0, 3.5, 0.7)]
    flux, spread, area, cut = overlap.ellipse_sums(bare_pixels(image, variance), *arguments)
    slow = slow_overlap.ellipse_sums(image, variance, 19.3, 20.6, 6.0, 3.5, 0.7)
    assert_allclose([flux[0], spread[0], area[0]], slow, rtol=1e-3)  # the twin cuts pixels in 50 x 50
    assert_allclose(area[0], np.pi * 6 * 3.5, rtol=1e-12)
    assert not cut[0]


@pytest.mark.parametrize(
    ("size", "x", "y", "shape"),
    [
        (41, 20.3, 19.8, (3.1, 2.2, -0.4)),
        (41, 39.6, 0.7, (3.1, 2.2, -0.4)),  # the vectors end at the corner of the image
        (41, 0.2, 40.3, (9.0, 2.2, 1.4)),
        (41, 20.3, 19.8, (30.0, 40.0, 12.0)),  # three vectors of columns
        (41, 20.3, 19.8, (9.0, 8.0, 8.2)),  # strongly tilted: row by row
        (3, 1.2, 0.9, (1.1, 0.9, 0.1)),  # smaller than a vector
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_weighted_sums(size, x, y, shape, kind):
    image = blob(size) + np.random.default_rng(11).normal(size=(size, size))
    image = image.astype(kind)
    fast = np.empty(6)
    rows = np.empty((4, moments.SCRATCH_ROWS))
    moments.weighted_sums(image, x, y, *shape, fast, rows)
    assert_allclose(fast, slow_moments.weighted_sums(image, x, y, *shape), rtol=1e-10, atol=1e-7)


def test_adaptive_moments():
    image = blob() + 0.02 * np.random.default_rng(8).normal(size=(41, 41))
    out, variance, flags = moments.adaptive_moments(
        bare_pixels(image), np.array([20.3]), np.array([19.8]), 2.0, 100
    )
    xx, yy, xy, flux = slow_moments.adaptive_moments(image.astype(np.float32), 20.3, 19.8)
    assert flags[0] == 0
    assert variance[0] == 1
    # the loop stops at 1e-4 of the size
    assert_allclose(out[0, :3], [xx, yy, xy], rtol=2e-4, atol=2e-4)
    assert_allclose(2 * np.pi * out[0, 3] * np.sqrt(xx * yy - xy**2), flux, rtol=2e-4)


def test_moments_of_a_stack():
    stack = np.stack([blob(x=20, y=20), blob(x=20, y=20, xx=2, yy=2, xy=0)])
    found, failed = moments.stack_moments(stack, 100)
    assert not failed.any()
    assert_allclose(found, [[4, 3, 0.7], [2, 2, 0]], rtol=2e-3, atol=2e-3)


def test_gaussian_sums_give_the_flux_of_a_gaussian():
    shape = np.array([[4.0, 3.0, 0.7]])
    flux, variance = moments.gaussian_sums(bare_pixels(blob()), np.array([20.3]), np.array([19.8]), shape)
    assert_allclose(flux, 1000, rtol=2e-3)  # cut at rho**2 = 14: exp(-14) of the product
    assert_allclose(variance, 4 * np.pi * np.sqrt(4 * 3 - 0.49), rtol=2e-3)


def test_smoothed_centroid_and_its_error():
    kernel = blob(9, 4, 4, 1.4, 1.4, 0, 1)
    image = blob(25, 12.3, 11.8, 1.5, 1.4, 0)
    variance = image + 5
    out, flags = centroids.smoothed_centroids(
        bare_pixels(image, variance), kernel[None], np.zeros(1, np.int64), np.array([12]), np.array([12]),
        np.array([1.4]), 16, 1.5, 0,
    )  # fmt: skip
    assert flags[0] == 0
    image = image.astype(np.float32)
    x, y = slow_centroids.block_maximum(slow_centroids.smoothed_block(image, kernel, 12, 12))
    assert_allclose(out[0, :2], [12 + x, 12 + y], rtol=1e-9)
    expected = slow_centroids.position_variance(image, variance, kernel, 12, 12)
    assert_allclose(out[0, 2], expected, rtol=1e-3)  # the twin moves pixels by 1e-3 of the peak


def test_windowed_centroid():
    image = blob(41, 20.27, 19.63)
    out, failed = centroids.windowed_centroids(
        bare_pixels(image), np.array([20.0]), np.array([20.0]), np.array([1.8]), 50, 1e-6
    )
    assert not failed[0]
    slow = slow_centroids.windowed_centroid(image.astype(np.float32), 20, 20, 1.8)
    assert_allclose(out[0, :2], slow, atol=1e-5)


@pytest.mark.parametrize("bits", [0, 4])
def test_stamp_fits(bits):
    rng = np.random.default_rng(9)
    image, variance = rng.uniform(1, 2, (2, 20, 20)).astype(np.float32)
    variance[3, 3] = 0
    mask = rng.choice([0, 4, 8], (20, 20)).astype(np.int32)
    models = rng.uniform(0, 1, (3, 7, 7))
    x0, y0 = np.array([5, -2, 30]), np.array([6, 16, 30])
    sums, flags = photometry.stamp_fits(bare_pixels(image, variance, mask, n=3), models, x0, y0, bits, 0)
    for i in range(3):
        slow = slow_photometry.stamp_fit(image, variance, mask, models[i], x0[i], y0[i], bits)
        assert_allclose(sums[i], slow, rtol=1e-7)  # reciprocals in float32
    assert flags.tolist() == [0, photometry.FLAG_EDGE, photometry.FLAG_EDGE | photometry.FLAG_NO_GOOD_PIXELS]


@pytest.mark.parametrize("bits", [0, 4])
def test_stamp_fits_in_vectors(bits):
    rng = np.random.default_rng(12)
    image, variance = rng.uniform(1, 2, (2, 90, 90)).astype(np.float32)
    mask = rng.choice([0, 4, 8], (90, 90)).astype(np.int32)
    models = rng.uniform(0, 1, (3, 37, 37))
    x0, y0 = np.array([20, 40, -5]), np.array([10, 60, 30])
    sums, _ = photometry.stamp_fits(bare_pixels(image, variance, mask, n=3), models, x0, y0, bits, 0)
    for i in range(3):
        slow = slow_photometry.stamp_fit(image, variance, mask, models[i], x0[i], y0[i], bits)
        assert_allclose(sums[i], slow, rtol=1e-7)


def test_footprint_bits():
    mask = np.random.default_rng(10).choice([0, 1, 2, 4], (12, 12), p=[0.7, 0.1, 0.1, 0.1]).astype(np.int32)
    mask[4:7, 4:7] |= 8
    spans = np.array([[2, 3, 6], [3, 0, 2]], np.int32)
    found = photometry.footprint_bits(mask, spans, np.array([0, 2]), np.array([5.2]), np.array([4.9]))
    assert [int(f[0]) for f in found[:3]] == list(slow_photometry.footprint_bits(mask, spans, 5.2, 4.9))


def test_disk_bits_equals_slow_twin():
    rng = np.random.default_rng(11)
    mask = (1 << rng.integers(0, 20, (40, 50))).astype(np.int32) * (rng.random((40, 50)) < 0.02)
    x = np.r_[rng.uniform(-8, 58, 40), np.nan, 1e30]
    y = np.r_[rng.uniform(-8, 48, 40), 3.0, 1e30]
    mask = mask.astype(np.int32)
    found = photometry.disk_bits(mask, x, y, 4.3)
    np.testing.assert_array_equal(
        found, [slow_photometry.disk_bits(mask, *at, 4.3) for at in zip(x, y, strict=True)]
    )
    assert (found != 0).any()
    assert found[-2:].tolist() == [0, 0]


def test_moment_noise():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:31, :31]
    image = 500 * np.exp(-(((x - 15.2) / 2.1) ** 2 + ((y - 14.7) / 2.9) ** 2) / 2) + rng.normal(0, 3, x.shape)
    variance = rng.uniform(5, 9, x.shape)
    found = np.array([[4.4, 8.4, 0.9, 1.0, 15.2, 14.7, 2.05], [np.nan] * 7])
    axes = np.array([[2.1, 0.43, 2.86], [np.nan] * 3])
    means, scatter = moment_noise(np.stack([image] * 2), np.stack([variance] * 2), found, axes)
    expected = slow_moment_noise.moment_noise(image, variance, found[0], axes[0])
    np.testing.assert_allclose(means[0], expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scatter[0], expected[1], rtol=1e-9, atol=1e-15)
    assert np.isnan(means[1]).all()
    assert np.isnan(scatter[1]).all()
