"""L.A.Cosmic: slow twins of its parts and of the whole, simulated truth, and bad input."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tests.cosmic_rays.sky import make_frame, stars_eaten, tracks_found
from tests.reference import laplacian as slow
from tests.reference import medians as slow_medians

from starmill.cosmic_rays.laplacian import find_cosmic_rays_laplacian, selection_network
from starmill.errors import InputError, TooManyCosmicRaysError
from starmill.kernels import laplacian as kernel
from starmill.kernels import medians
from starmill.numerics.tiles import get_threads, set_threads


@pytest.mark.parametrize("n", [9, 25, 49])
def test_selection_networks_find_the_median(n):
    values = np.random.default_rng(n).integers(0, 4, (n, 5000))
    ordered = values.copy()
    for low, high in selection_network(n):
        ordered[[low, high]] = (
            np.minimum(ordered[low], ordered[high]),
            np.maximum(ordered[low], ordered[high]),
        )
    assert_array_equal(ordered[n // 2], np.median(values, axis=0))


@pytest.mark.parametrize("shape", [(23, 31), (6, 40), (40, 6), (7, 9)])
def test_medians_equal_their_slow_twins(shape):
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    rows, out = np.empty_like(image), np.empty_like(image)
    for half, function in ((2, medians.separable_median_5), (3, medians.separable_median_7)):
        function(image, rows, out)
        assert_array_equal(out, slow_medians.separable_median(image, half))
    for half in (1, 2):
        medians.window_median(image, half, selection_network((2 * half + 1) ** 2), out)
        assert_array_equal(out, slow_medians.window_median(image, half))
    pixels = np.argwhere(np.ones(shape, bool))
    for half in (2, 4):
        found = medians.medians_at(image, pixels, half, True).reshape(shape)
        assert_array_equal(found, slow_medians.separable_median(image, half))
        found = medians.medians_at(image, pixels, half, False).reshape(shape)
        assert_array_equal(found, slow_medians.window_median(image, half))


@pytest.mark.parametrize("separable", [True, False])
def test_equals_its_slow_twin(separable):
    frame = make_frame((90, 140), n_stars=25, n_tracks=25, seed=4)
    blocked = np.zeros(frame.image.shape, bool)
    blocked[:, 70] = True
    expected = slow.find(frame.image, frame.variance, blocked, separable=separable)
    found = find_cosmic_rays_laplacian(
        frame.image, frame.variance, blocked, separable=separable, grow_mask=False
    ).flag(frame.image.shape)
    assert expected.sum() > 100
    assert_array_equal(found, expected)


def test_dilation():
    flags = np.random.default_rng(2).random((30, 40)) < 0.03
    padded = np.pad(flags, 1)
    expected = np.zeros_like(flags)
    for dy in range(3):
        for dx in range(3):
            expected |= padded[dy : dy + 30, dx : dx + 40]
    assert_array_equal(kernel.dilate_3(flags), expected)


def test_injected_tracks_are_found():
    frame = make_frame(seed=5)
    flag = find_cosmic_rays_laplacian(frame.image, sky=300.0, read_noise=5.0).flag(frame.image.shape)
    total, found = tracks_found(frame, flag, 10)
    assert found >= 0.99 * total
    stars, eaten = stars_eaten(frame, flag)
    assert eaten < 0.02 * stars  # the method takes a core pixel of some stars of high signal to noise


def test_does_not_depend_on_threads_or_tiles(monkeypatch):
    frame = make_frame((300, 400), n_stars=200, n_tracks=40, seed=6)
    first = find_cosmic_rays_laplacian(frame.image, frame.variance)
    before = get_threads()
    try:
        set_threads(1)
        monkeypatch.setattr("starmill.cosmic_rays.laplacian._FIRST_TILE", (23, 37))
        monkeypatch.setattr("starmill.cosmic_rays.laplacian._LATER_TILE", (17, 19))
        second = find_cosmic_rays_laplacian(frame.image, frame.variance)
    finally:
        set_threads(before)
    assert_array_equal(first.pixels, second.pixels)
    assert_array_equal(first.values, second.values)


def test_saturated_stars_and_missing_pixels_are_left_out():
    frame = make_frame((200, 250), n_stars=60, n_tracks=10, seed=7)
    image = np.minimum(frame.image, 4000)
    image[20:25, 30:35] = np.nan
    image[100:108, 100:108] = 4000
    free = find_cosmic_rays_laplacian(image, frame.variance).flag(image.shape)
    left_out = find_cosmic_rays_laplacian(image, frame.variance, saturation_level=4000).flag(image.shape)
    assert free[98:110, 98:110].any()
    assert not left_out[98:110, 98:110].any()
    assert not free[20:25, 30:35].any()


def test_empty_cases():
    nan = np.full((40, 50), np.nan, np.float32)
    assert len(find_cosmic_rays_laplacian(nan, np.ones_like(nan))) == 0
    constant = np.full((40, 50), 9.0, np.float32)
    assert len(find_cosmic_rays_laplacian(constant, read_noise=3)) == 0
    assert len(find_cosmic_rays_laplacian(constant, read_noise=3, mask=np.ones(constant.shape, bool))) == 0
    for shape in ((1, 30), (30, 1), (3, 3)):
        assert len(find_cosmic_rays_laplacian(np.ones(shape, np.float32), read_noise=1)) == 0


def test_errors():
    rng = np.random.default_rng(8)
    image = np.where(rng.random((200, 200)) < 0.02, 5000, 0).astype(np.float32)
    with pytest.raises(TooManyCosmicRaysError):
        find_cosmic_rays_laplacian(image, np.ones_like(image), max_pixels=50)
    with pytest.raises(InputError, match="shape"):
        find_cosmic_rays_laplacian(image, np.ones((3, 3)))
