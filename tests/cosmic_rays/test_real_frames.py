"""Cosmic rays in real 300 s exposures: injected tracks are found, stars seen twice keep their cores."""

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.spatial import cKDTree
from tests.cosmic_rays.sky import gaussian_psf

from starmill.background.mesh import estimate_background
from starmill.cosmic_rays.psf_contrast import find_cosmic_rays, star_contrast

GAIN, READ_NOISE = 3.65, 4.3  # electron/ADU and electron, README of the data set
SIGMA = 2.3 / 2.3548  # the sharpest FWHM of the night
FRAMES = ("0138", "0144", "0156")


def read(path):
    with fits.open(path) as file:
        raw = file[0].data.astype(np.float32)
    return raw[:, 18:1382] - np.median(raw[:, 1392:1430], axis=1)[:, None], raw[:, 18:1382]


@pytest.fixture(scope="module")
def frames(shared_data):
    """Three frames, roughly reduced: image without background, variance, mask."""
    folder = shared_data("raw_lowell42")
    flats = [read(path)[0] for path in sorted(folder.glob("flat_VR/*.bz2"))[1:3]]
    flat = sum(image / np.median(image) for image in flats) / len(flats)
    reduced = []
    for number in FRAMES:
        image, raw = read(folder / "sci_VR" / f"20190326.{number}.fits.bz2")
        mask = np.zeros(image.shape, np.int32)
        mask[(flat < 0.5) | (flat > 1.6)] = 1
        mask[:25] = 1
        mask[raw > 60000] |= 2
        divisor = np.where(flat > 0.3, flat, 1)
        electrons = (image / divisor * GAIN).astype(np.float32)
        variance = (np.maximum(image * GAIN, 0) + READ_NOISE**2) / divisor**2
        background = estimate_background(electrons, mask, bin_size=64).field.image(dtype=np.float32)
        reduced.append((electrons - background, variance.astype(np.float32), mask))
    return reduced


def stars(image, variance, mask):
    """Peaks whose 3 x 3 pixels have a signal-to-noise ratio above 50, away from masked pixels."""
    bright = 9 * uniform_filter(image, 3) > 50 * np.sqrt(9 * variance)
    peaks = (image == maximum_filter(image, 7)) & bright & (maximum_filter(mask, 7) == 0)
    return np.argwhere(peaks)


def shift(a, b):
    """Whole-pixel shift that most pairs of two lists have in common."""
    steps = (a[:, None] - b[None]).reshape(-1, 2)
    steps = steps[np.abs(steps).max(axis=1) <= 20]
    values, counts = np.unique(steps, axis=0, return_counts=True)
    return values[counts.argmax()]


def test_stars_seen_in_two_exposures_keep_their_cores(frames):
    total = eaten = 0
    counts = []
    before = stars(*frames[0])
    for image, variance, mask in frames[1:]:
        found = find_cosmic_rays(image, variance, mask, psf_image=gaussian_psf(SIGMA), reject_bits=3)
        flag = found.flag(image.shape)
        now = stars(image, variance, mask)
        distance, _ = cKDTree(before + shift(now, before)).query(now)
        for y, x in now[distance < 1.5]:  # a cosmic ray does not hit the same place of the sky twice
            total += 1
            eaten += flag[y - 1 : y + 2, x - 1 : x + 2].any()
        counts.append(len(found))
        before = now
    assert total > 800
    assert eaten <= 1e-3 * total
    # About as many events in every frame of the same length: their number is a Poisson variable of some 400.
    assert np.ptp(counts) < 6 * np.sqrt(np.mean(counts))
    assert 200 < np.mean(counts) < 800


def test_tracks_injected_into_a_real_frame_are_found(frames):
    image, variance, mask = frames[1]
    rng = np.random.default_rng(1)
    spoiled, number = image.copy(), np.zeros(image.shape, int)
    for k in range(1, 401):
        x, y = rng.uniform(30, image.shape[1] - 31), rng.uniform(40, image.shape[0] - 31)
        angle, length = rng.uniform(0, np.pi), max(rng.gamma(2, 4), 0.6)
        t = np.arange(0, length, 0.5)
        px, py = (x + t * np.cos(angle)).astype(int), (y + t * np.sin(angle)).astype(int)
        spoiled[py, px] = image[py, px] + rng.lognormal(7.2, 0.6)
        number[py, px] = k
    flag = find_cosmic_rays(spoiled, variance, mask, psf_image=gaussian_psf(SIGMA), reject_bits=3).flag(
        image.shape
    )
    excess = (spoiled - image) / np.sqrt(variance)
    height = image / np.sqrt(variance)
    near_mask = maximum_filter(mask, 3) > 0
    total = found = 0
    for k in range(1, 401):
        pixels = number == k
        # Above 10 sigma, away from masked pixels, and not on a star of this crowded field.
        if (
            pixels.any()
            and not near_mask[pixels].any()
            and (excess[pixels] > 10).all()
            and (height[pixels] < 5).all()
        ):
            total += 1
            found += flag[pixels].any()
    assert total > 250
    assert found >= 0.99 * total


def test_a_psf_that_is_too_wide_does_not_eat_stars(frames):
    """A first guess of 3.5 pixels where stars have 2: the contrast of the stars themselves sets the limit."""
    image, variance, mask = frames[1]
    seen = star_contrast(image, variance, mask, reject_bits=3)
    places = stars(image, variance, mask)

    def eaten(**options):
        flag = find_cosmic_rays(image, variance, mask, psf_image=gaussian_psf(1.5), reject_bits=3, **options)
        flag = flag.flag(image.shape)
        return sum(flag[y - 1 : y + 2, x - 1 : x + 2].any() for y, x in places)

    assert eaten() > 0.2 * len(places)
    assert eaten(contrast_limit=0.7 * seen) <= 0.01 * len(places)  # a few are really hit
