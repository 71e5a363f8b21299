"""Symmetric-template deblending: kernels against slow twins, conservation, symmetry, limits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tests.reference import apportion as slow_apportion
from tests.reference import point_source_test as slow_fit
from tests.reference import templates as slow

from starmill.cosmic_rays.laplacian import selection_network
from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.psf import GaussianPsf
from starmill.deblending.symmetric_templates import SymmetricRules, deblend_symmetric, image_noise
from starmill.detection.footprints import footprint_of_pixels
from starmill.detection.threshold import detect_footprints
from starmill.errors import AlgorithmError
from starmill.kernels.apportion import share_out
from starmill.kernels.medians import window_median
from starmill.kernels.point_source_test import fit_point_sources
from starmill.kernels.templates import make_monotonic, symmetric_template

SIGMA, NOISE = 1.6, 3.0
PSF = GaussianPsf(SIGMA, 25)


def gaussian(shape, x, y, flux, sx=SIGMA, sy=SIGMA):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return flux * np.exp(-0.5 * (((xx - x) / sx) ** 2 + ((yy - y) / sy) ** 2)) / (2 * np.pi * sx * sy)


def blend(seed=1, shape=(61, 65), sources=None, noise=NOISE):
    """A noisy blend, its variance and mask, and its footprints at 2 sigma."""
    sources = sources or [(26, 30, 9000), (33, 31, 5000), (40.3, 35.2, 12000, 3.0, 2.2)]
    image = np.random.default_rng(seed).normal(0, noise, shape)
    for source in sources:
        image += gaussian(shape, *source)
    image = image.astype(np.float32)
    footprints = detect_footprints(image, 5 * noise, threshold_type="value", min_pixels=12)
    return image, np.full(shape, noise**2, np.float32), np.zeros(shape, np.int32), keep_high_peaks(footprints)


def keep_high_peaks(footprints, height=100.0):
    """Drop noise peaks of the unsmoothed image."""
    keep = footprints.peaks["value"] > height
    owner = np.repeat(np.arange(len(footprints)), footprints.n_peaks)[keep]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(footprints)))])
    return FootprintSet(footprints.spans, footprints.span_offsets, footprints.peaks[keep], offsets)


def child_images(deblended, shape):
    images = np.zeros((len(deblended), *shape), np.float32)
    for i in range(len(deblended)):
        deblended.footprints[i].insert(images[i])
    return images


def test_symmetric_template_equals_slow_twin():
    rng = np.random.default_rng(2)
    pixels = rng.normal(1, 2, (23, 19)).astype(np.float32)
    inside = rng.random((23, 19)) < 0.8
    for cy, cx in ((11, 9), (3, 5), (20, 2), (0, 0)):
        ry, rx = min(cy, 22 - cy), min(cx, 18 - cx)
        template = np.zeros((2 * ry + 1, 2 * rx + 1), np.float32)
        symmetric_template(pixels, inside, cy, cx, template)
        expected = slow.symmetric_template(pixels, inside, cy, cx)
        assert_array_equal(template, expected[cy - ry : cy + ry + 1, cx - rx : cx + rx + 1])
        assert_array_equal(template, template[::-1, ::-1])


@pytest.mark.parametrize("shape", [(21, 27), (5, 31), (3, 3), (1, 1)])
def test_median_and_monotonic_equal_slow_twins(shape):
    rng = np.random.default_rng(3)
    template = np.where(rng.random(shape) < 0.7, rng.exponential(5, shape), 0).astype(np.float32)
    out = np.empty_like(template)
    window_median(template, 2, selection_network(25), out)
    assert_array_equal(out, slow.median_smooth(template))
    expected = slow.make_monotonic(template)
    make_monotonic(template, out)
    assert_array_equal(template, expected)


def test_point_source_fit_equals_slow_twin():
    image, variance, _, _ = blend(sources=[(30, 30, 6000)])
    inside = np.hypot(*np.mgrid[-30:31, -30:35]) < 9
    psfs = PSF.kernels_at(np.array([30.0]), np.array([30.0]))
    flags, images, fluxes, centres, chi2 = (
        np.zeros(1, bool), np.zeros_like(psfs), np.zeros(1), np.zeros((1, 2)), np.zeros(1),
    )  # fmt: skip
    one = np.array([30])
    limits = np.array([1.5, -1, -1])
    fit_point_sources(
        image,
        variance,
        inside,
        one,
        one,
        psfs,
        2.3548 * SIGMA,
        limits,
        1,
        flags,
        images,
        fluxes,
        centres,
        chi2,
    )
    flux, expected = slow_fit.plain_fit(image, variance, inside, 30, 30, psfs[0], 2.3548 * SIGMA)
    assert flags[0]
    assert_allclose([fluxes[0], chi2[0]], [flux, expected], rtol=1e-6)


def test_shares_equal_slow_twin():
    rng = np.random.default_rng(4)
    templates = np.where(rng.random((2, 9, 9)) < 0.5, rng.random((2, 9, 9)), 0).astype(np.float32)
    inside = np.ones((9, 9), bool)
    centre, offsets = np.array([4, 4]), np.array([0, 81, 162])
    for rule, expected in (
        (0, slow_apportion.shares(templates)),
        (1, slow_apportion.shares_with_stray(templates, inside, [(4, 4), (4, 4)], [1.0, 1.0])),
    ):
        flat = templates.ravel().copy()
        share_out(
            inside, centre, centre, offsets, flat, np.zeros(2, bool), 9, rule, 0, 0.0, np.zeros(2, bool)
        )
        assert_allclose(flat.reshape(2, 9, 9), expected, rtol=1e-6)


@pytest.mark.parametrize("stray", ["trim", "r_to_peak", "r_to_footprint", "nearest_footprint"])
@pytest.mark.parametrize("edge", ["ramp", "clip", "noclip"])
def test_children_add_up_to_the_parent(stray, edge):
    image, variance, mask, footprints = blend()
    rules = SymmetricRules(stray_rule=stray, edge_handling=edge)
    found = deblend_symmetric(image, variance, mask, footprints, PSF, rules=rules)
    assert len(found) == 3
    images = child_images(found, image.shape)
    covered = (images != 0).any(0)
    total = images.astype(np.float64).sum(0)
    assert_allclose(total[covered], image[covered], rtol=1.2e-7, atol=1e-6)  # half a bit of float32
    parent = np.zeros(image.shape, bool)
    for y, x0, x1 in footprints.spans:
        parent[y, x0 : x1 + 1] = True
    assert not (covered & ~parent).any()
    variances = found.footprints.variance
    owner, y, x = found.footprints.pixel_indices()
    summed = np.zeros(image.shape)
    np.add.at(summed, (y, x), variances)
    assert_allclose(summed[covered], NOISE**2, rtol=1e-5)
    assert (owner >= 0).all()


def test_classic_variance_is_the_parents():
    image, variance, mask, footprints = blend()
    rules = SymmetricRules(keep_parent_variance=True)
    found = deblend_symmetric(image, variance, mask, footprints, PSF, rules=rules)
    assert_array_equal(found.footprints.variance, np.float32(NOISE**2))


def test_fluxes_of_blended_stars():
    sources = [(26, 30, 9000), (33, 31, 5000)]
    image, variance, mask, footprints = blend(sources=sources)
    found = deblend_symmetric(image, variance, mask, footprints, PSF)
    order = np.argsort(found.values["psf_x"])
    assert found.values["as_psf"].all()
    error = NOISE * np.sqrt(4 * np.pi) * SIGMA * 1.5  # noise of a fitted flux, half more for the neighbour
    assert_allclose(found.values["psf_flux"][order], [9000, 5000], atol=4 * error)
    assert_allclose(found.values["psf_x"][order], [26, 33], atol=0.05)


def _flipped(footprints, shape, flip_x, flip_y):
    inside = np.zeros(shape, bool)
    for y, x0, x1 in footprints.spans:
        inside[y, x0 : x1 + 1] = True
    peaks = footprints.peaks.copy()
    if flip_x:
        inside, peaks["x"] = inside[:, ::-1], shape[1] - 1 - peaks["x"]
    if flip_y:
        inside, peaks["y"] = inside[::-1], shape[0] - 1 - peaks["y"]
    alone = footprint_of_pixels(np.ascontiguousarray(inside))
    assert len(alone) == 1
    return FootprintSet(alone.spans, alone.span_offsets, peaks, [0, len(peaks)])


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, False), (False, True), (True, True)])
def test_mirrored_image_gives_mirrored_children(flip_x, flip_y):
    image, variance, mask, footprints = blend()
    first = child_images(deblend_symmetric(image, variance, mask, footprints, PSF), image.shape)
    turn = (slice(None, None, -1 if flip_y else 1), slice(None, None, -1 if flip_x else 1))
    flipped = _flipped(footprints, image.shape, flip_x, flip_y)
    other = deblend_symmetric(np.ascontiguousarray(image[turn]), variance, mask, flipped, PSF)
    second = child_images(other, image.shape)[(slice(None), *turn)]
    assert_allclose(second, first, rtol=1e-4, atol=1e-2)  # fits round differently; peaks are some 100 high


def test_shifted_image_gives_shifted_children():
    image, variance, mask, footprints = blend()
    first = deblend_symmetric(image, variance, mask, footprints, PSF)
    moved = FootprintSet(
        footprints.spans + np.array([-7, 100, 100]),
        footprints.span_offsets,
        footprints.peaks.copy(),
        footprints.peak_offsets,
    )
    moved.peaks["x"] += 100
    moved.peaks["y"] -= 7
    second = deblend_symmetric(image, variance, mask, moved, PSF, origin=(100, -7))
    assert_array_equal(second.footprints.image, first.footprints.image)
    assert_array_equal(second.footprints.spans, first.footprints.spans + np.array([-7, 100, 100]))


def test_lone_source_is_left_alone():
    image, variance, mask, footprints = blend(sources=[(30, 30, 6000)])
    found = deblend_symmetric(image, variance, mask, footprints, PSF)
    assert len(found) == 0
    assert not found.skipped.any()


def test_threads_change_nothing():
    image, variance, mask, footprints = blend()
    many = FootprintSet.concatenate([footprints] * 450)
    one = deblend_symmetric(image, variance, mask, many, PSF, threads=1)
    two = deblend_symmetric(image, variance, mask, many, PSF, threads=2)
    assert len(one) == 450 * 3
    assert_array_equal(one.footprints.image, two.footprints.image)


def test_degenerate_peaks_can_be_removed():
    image, variance, mask, footprints = blend(sources=[(30, 30, 20000, 3, 3)])
    peaks = np.array([(30, 30, 300, 60), (30, 31, 290, 58)], PEAK_DTYPE)
    doubled = FootprintSet(footprints.spans, footprints.span_offsets, peaks, [0, 2])
    assert len(deblend_symmetric(image, variance, mask, doubled, PSF)) == 2
    rules = SymmetricRules(remove_degenerate=True)
    assert len(deblend_symmetric(image, variance, mask, doubled, PSF, rules=rules)) == 1


def test_limits_skip_with_a_reason():
    image, variance, mask, footprints = blend()
    n = footprints.n_peaks[0]
    cases = {
        "parent_too_big": SymmetricRules(max_area=10),
        "masked": SymmetricRules(),
        "too_many_peaks": SymmetricRules(max_peaks=2),
    }
    for reason, rules in cases.items():
        masked = np.full_like(mask, 256) if reason == "masked" else mask
        found = deblend_symmetric(image, variance, masked, footprints, PSF, rules=rules, no_data_bits=256)
        assert found.reasons[reason].all()
        assert len(found) == (2 if reason == "too_many_peaks" else 0)
        assert found.skipped.all() == (reason != "too_many_peaks")
    assert n == 3


def test_monstrous_parents_are_bounded():
    """A parent of a million pixels and one with 100,000 peaks are skipped at once, whatever else they hold."""
    image = np.ones((1000, 1000), np.float32)
    spans = np.stack([np.arange(1000), np.zeros(1000), np.full(1000, 999)], axis=1)
    peaks = np.zeros(100_000, PEAK_DTYPE)
    peaks["x"], peaks["y"] = np.arange(100_000) % 1000, np.arange(100_000) // 1000
    footprints = FootprintSet(spans, [0, 1000], peaks, [0, 100_000])
    found = deblend_symmetric(image, image, np.zeros(image.shape, np.int32), footprints, PSF)
    assert found.reasons["parent_too_big"].all()
    rules = SymmetricRules(max_area=0, max_work=100_000)
    found = deblend_symmetric(image, image, np.zeros(image.shape, np.int32), footprints, PSF, rules=rules)
    assert found.reasons["too_many_peaks"].all()
    assert found.reasons["parent_too_big"].all()


def test_big_parents_can_be_deblended_with_small_templates():
    image, variance, mask, footprints = blend()
    whole = deblend_symmetric(image, variance, mask, footprints, PSF)
    rules = SymmetricRules(max_area=10, big_parent_radius=40)
    same = deblend_symmetric(image, variance, mask, footprints, PSF, rules=rules)
    assert_array_equal(same.footprints.image, whole.footprints.image)
    rules = SymmetricRules(max_area=10, big_parent_radius=5)
    small = deblend_symmetric(image, variance, mask, footprints, PSF, rules=rules)
    assert len(small) == 3
    assert max(max(f.box.shape) for f in small.footprints) <= 11


def test_repeated_peaks_and_nan_pixels():
    image, variance, mask, footprints = blend()
    peaks = np.concatenate([footprints.peaks, footprints.peaks])
    image[30, 29] = np.nan
    doubled = FootprintSet(footprints.spans, footprints.span_offsets, peaks, [0, len(peaks)])
    found = deblend_symmetric(image, variance, mask, doubled, PSF)
    assert len(found) == 3
    assert np.isfinite(found.footprints.image).all()


def test_noise_needs_a_variance():
    assert image_noise(np.full((10, 10), 4.0)) == 2.0
    with pytest.raises(AlgorithmError, match="variance"):
        image_noise(np.zeros((10, 10)))


def test_footprints_without_pixels_and_on_the_edge():
    """Nothing is lost and nothing breaks: an empty footprint, a blend cut by the image edge and by missing pixels."""
    image, variance, mask, _ = blend(sources=[(1, 30, 9000), (6, 31, 7000), (40, 59, 8000), (44, 57, 6000)])
    image[55:, 42] = np.nan
    footprints = keep_high_peaks(
        detect_footprints(np.nan_to_num(image), 15, threshold_type="value", min_pixels=12)
    )
    empty = FootprintSet(
        np.zeros((0, 3)), [0, 0], np.array([(5, 5, 9, 9), (7, 7, 8, 8)], PEAK_DTYPE), [0, 2]
    )  # fmt: skip
    both = FootprintSet.concatenate([empty, footprints])
    found = deblend_symmetric(image, variance, mask, both, PSF)
    assert found.reasons["failed"][0]
    assert found.skipped[0]
    assert len(found) >= 2
    images = child_images(found, image.shape).astype(np.float64).sum(0)
    covered = images != 0
    assert_allclose(images[covered], image[covered], rtol=1e-6, atol=1e-5)
