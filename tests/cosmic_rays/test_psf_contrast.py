"""Cosmic rays by contrast to the PSF: slow twin, the LSST stack, and simulated truth."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tests.cosmic_rays.sky import gaussian_psf, make_frame, stars_eaten, tracks_found
from tests.reference import cosmic_rays as slow

from starmill.cosmic_rays.events import join_touching, pixels_of, replacement, spans_of
from starmill.cosmic_rays.interpolate import prediction_weights
from starmill.cosmic_rays.psf_contrast import contrast_limits, find_cosmic_rays, star_contrast
from starmill.errors import InputError, TooManyCosmicRaysError
from starmill.kernels import cosmic_rays as kernel


@pytest.mark.parametrize(("n_sigma", "noise_factor"), [(6.0, 2.0), (3.0, 0.0), (-150.0, 2.0)])
def test_scan_equals_its_slow_twin(n_sigma, noise_factor):
    frame = make_frame((60, 90), n_stars=15, n_tracks=8, seed=5)
    rng = np.random.default_rng(5)
    mask = np.zeros(frame.image.shape, np.int32)
    mask[:, 30] = 1
    mask[rng.random(mask.shape) < 0.01] |= 4
    frame.image[:, 30] = 0
    frame.image[10, 10:12] = np.nan
    contrast = contrast_limits(gaussian_psf(1.5), 0.35)
    arguments = (n_sigma, contrast, noise_factor, 0.0)
    expected, pixels = slow.find_sharp_pixels(frame.image, frame.variance, mask, 1, 4, *arguments)
    work = frame.image.copy()
    found, values, complete = kernel.find_sharp_pixels(
        work, frame.variance, mask, np.int32(1), np.int32(4), *arguments, 10000
    )
    assert complete
    assert len(found) > 10
    assert_array_equal(found, pixels)
    assert_array_equal(values, frame.image[pixels[:, 0], pixels[:, 1]])
    assert_allclose(work, expected, rtol=1e-6)


def test_prediction_equals_its_slow_twin():
    frame = make_frame((60, 90), n_stars=15, n_tracks=8, seed=6)
    bad = (frame.track_charge > 0) | (np.random.default_rng(6).random(frame.image.shape) < 0.05)
    pixels = np.argwhere(bad[1:-1, 1:-1])[:60] + 1
    values, variances = replacement(frame.image, frame.variance, bad, pixels, 0.0)
    for (y, x), value, variance in zip(pixels, values, variances, strict=True):
        expected = slow.predict(frame.image, frame.variance, bad, y, x, prediction_weights, 6)
        assert_allclose([value, variance], expected, rtol=1e-4)


@pytest.fixture(scope="module")
def stack(shared_data):
    with np.load(shared_data("reference_lsst") / "unit_cr.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("background", [100, 0])
def test_agrees_with_the_lsst_stack(stack, background):
    """The stack replaces pixels by noise while it looks; what does not depend on the noise must agree.

    Over many draws of the noise, pixels that are always found must be in the stack's mask, pixels never found must
    not, and the events are the same.
    """
    psf = gaussian_psf(1.7, 25)
    mask = stack[f"msk_True_{background}"] > 0
    draws = []
    for seed in range(30):
        found = find_cosmic_rays(
            stack["inp"], stack["var"], psf_image=psf, background=background, removal="noise", seed=seed
        )
        draws.append(found.flag(mask.shape))
        assert len(found) == stack[f"spans_True_{background}"][:, 0].max() + 1
    always, never = np.all(draws, axis=0), ~np.any(draws, axis=0)
    assert not (always & ~mask).any()
    assert not (never & mask).any()
    counts = [flag.sum() for flag in draws]
    assert min(counts) - 3 <= mask.sum() <= max(counts) + 3
    spans = stack[f"spans_True_{background}"]
    full = np.zeros(mask.shape, bool)
    for _, y, x0, x1 in spans:
        full[y, x0 : x1 + 1] = True
    assert_array_equal(full, mask)


@pytest.mark.parametrize("fwhm", [2.4, 3.6, 5.0])
def test_injected_tracks_are_found_and_stars_are_not_eaten(fwhm):
    total = found_tracks = stars = eaten = 0
    for seed in range(2):
        frame = make_frame(fwhm=fwhm, seed=seed)
        variance = np.maximum(frame.image, 0) + 325  # as it would be known from the image itself
        found = find_cosmic_rays(frame.image, variance, psf_image=gaussian_psf(fwhm / 2.3548))
        flag = found.flag(frame.image.shape)
        counts = tracks_found(frame, flag, 10)
        total, found_tracks = total + counts[0], found_tracks + counts[1]
        counts = stars_eaten(frame, flag)
        stars, eaten = stars + counts[0], eaten + counts[1]
    assert total > 250
    assert found_tracks >= 0.99 * total
    assert stars > 500
    assert eaten < 1e-3 * stars


def test_replaced_pixels_are_near_what_was_there():
    frame = make_frame(seed=3)
    found = find_cosmic_rays(frame.image, frame.variance, psf_image=gaussian_psf(1.53))
    y, x = found.pixels.T
    residual = (found.values - frame.without_tracks[y, x]) / np.sqrt(frame.variance[y, x])
    before = frame.track_charge[y, x] / np.sqrt(frame.variance[y, x])
    # The pixel's own noise (1 sigma) and that of the prediction (0.5 to 1 sigma, more in the middle of a track).
    assert abs(np.median(residual)) < 0.3
    assert np.median(np.abs(residual)) < 1.3
    assert np.median(before) > 20
    assert_allclose(np.median(found.variances / frame.variance[y, x]), 1, atol=0.1)
    holes = find_cosmic_rays(frame.image, frame.variance, psf_image=gaussian_psf(1.53), removal="noise")
    assert abs(np.mean(holes.values / np.sqrt(holes.variances))) < 0.1


@pytest.mark.parametrize("column", [29, 30, 31, 32, 33])
def test_a_hit_on_a_star_leaves_the_star(column):
    y, x = np.mgrid[:61, :61]
    star = 2000 * np.exp(-((x - 30.2) ** 2 + (y - 29.7) ** 2) / (2 * 1.8**2))
    variance = star + 325
    clean = (star + np.random.default_rng(7).normal(size=star.shape) * np.sqrt(variance)).astype(np.float32)
    image = clean.copy()
    image[27:35, column] += 8000
    found = find_cosmic_rays(image, variance, psf_image=gaussian_psf(1.8))
    assert len(found) == 1
    assert len(found.pixels) == 8  # none of the star
    image[found.pixels[:, 0], found.pixels[:, 1]] = found.values
    # Eight predicted pixels of 50 electrons noise each are 0.4 % of the star; a hole would take up to 19 %.
    assert image.sum() - clean.sum() == pytest.approx(0, abs=0.015 * star.sum())


def test_masked_and_missing_pixels():
    frame = make_frame((100, 120), n_stars=0, n_tracks=10, seed=8)
    image = frame.image.copy()
    image[:, 60] = 1e5
    image[50] = np.nan
    mask = np.zeros(image.shape, np.int32)
    mask[:, 60] = 1
    found = find_cosmic_rays(image, frame.variance, mask, psf_image=gaussian_psf(1.5), reject_bits=1)
    flag = found.flag(image.shape)
    assert not flag[:, 60].any()
    assert not flag[50].any()
    assert not (flag[:, [59, 61]] & (frame.track_charge[:, [59, 61]] == 0)).any()
    assert np.isfinite(found.values).all()
    zero = find_cosmic_rays(image, np.zeros_like(image), psf_image=gaussian_psf(1.5))
    assert len(zero) == 0


def test_no_cosmic_rays_in_noise_and_origin_moves_footprints():
    rng = np.random.default_rng(9)
    image = rng.normal(0, 5, (200, 200)).astype(np.float32)
    variance = np.full(image.shape, 25, np.float32)
    assert len(find_cosmic_rays(image, variance, psf_image=gaussian_psf(1.5))) == 0
    image[100, 50:54] = 500
    found = find_cosmic_rays(image, variance, psf_image=gaussian_psf(1.5), origin=(1000, 2000))
    assert len(found) == len(found.footprints) == 1
    assert [2100, 1050, 1053] in found.footprints.spans.tolist()
    assert [100, 50] in found.pixels.tolist()


def test_too_many_is_a_typed_error():
    rng = np.random.default_rng(10)
    image = np.where(rng.random((100, 100)) < 0.1, 5000, 0).astype(np.float32)
    with pytest.raises(TooManyCosmicRaysError) as caught:
        find_cosmic_rays(image, np.ones_like(image), psf_image=gaussian_psf(1.5), max_pixels=100)
    assert caught.value.numbers["limit"] == 100


@pytest.mark.parametrize("shape", [(1, 50), (2, 2), (50, 1)])
def test_thin_images_have_none(shape):
    image = np.full(shape, 1e6, np.float32)
    assert len(find_cosmic_rays(image, np.ones_like(image), psf_image=gaussian_psf(1.5))) == 0


def test_wrong_arguments():
    image = np.zeros((10, 10), np.float32)
    with pytest.raises(InputError, match="PSF"):
        find_cosmic_rays(image, image, psf_image=np.ones((4, 4)))
    with pytest.raises(InputError, match="shape"):
        find_cosmic_rays(image, np.zeros((9, 10)), psf_image=gaussian_psf(1.5))
    with pytest.raises(InputError, match="removal"):
        find_cosmic_rays(image, image, psf_image=gaussian_psf(1.5), removal="erase")


def test_spans_and_events():
    pixels = np.array([[5, 3], [5, 4], [5, 4], [6, 5], [9, 9], [5, 6]])
    spans, owners = join_touching(pixels)
    assert_array_equal(spans, [[5, 3, 4], [5, 6, 6], [6, 5, 5], [9, 9, 9]])
    assert_array_equal(owners, [0, 0, 0, 1])
    assert_array_equal(pixels_of(spans)[0], [[5, 3], [5, 4], [5, 6], [6, 5], [9, 9]])
    assert_array_equal(spans_of(pixels[:2], np.array([1, 0]))[0], [[5, 4, 4], [5, 3, 3]])


def test_contrast_of_stars_ignores_cosmic_rays():
    for fwhm in (2.4, 3.6):
        frame = make_frame(fwhm=fwhm, seed=2)
        mask = np.zeros(frame.image.shape, np.int32)
        seen = star_contrast(frame.image, frame.variance, mask)
        without = star_contrast(frame.without_tracks, frame.variance, mask)
        assert_allclose(seen, without, rtol=0.15)
        # Safe enough not to get in the way of the right PSF.
        assert (0.7 * seen > contrast_limits(gaussian_psf(fwhm / 2.3548), 0.35)).all()
    empty = star_contrast(np.zeros((50, 60), np.float32), np.ones((50, 60)), np.zeros((50, 60), np.int32))
    assert np.isinf(empty).all()
