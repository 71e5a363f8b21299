"""Properties that hold for every blend: nothing lost, no preferred direction or place, single sources untouched."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.psf import GaussianPsf
from starmill.deblending.multi_threshold import deblend_multi_threshold
from starmill.deblending.symmetric_templates import SymmetricRules, deblend_symmetric
from starmill.detection.footprints import footprint_of_pixels

SIGMA, NOISE, SIZE = 1.6, 3.0, 45
PSF = GaussianPsf(SIGMA, 25)
REPEATABLE = settings(max_examples=25, deadline=None, derandomize=True)
sources = st.lists(
    st.tuples(
        st.integers(14, 30), st.integers(14, 30), st.floats(800, 20000), st.floats(1.6, 3.5), st.floats(1.6, 3.5)
    ),
    min_size=2,
    max_size=6,
    unique_by=lambda s: s[:2],
)  # fmt: skip


def scene(found, seed):
    """Noisy image of Gaussians on pixel centres, and one round footprint that holds all peaks."""
    yy, xx = np.mgrid[:SIZE, :SIZE]
    image = np.random.default_rng(seed).normal(0, NOISE, (SIZE, SIZE))
    for x, y, flux, a, b in found:
        image += flux / (2 * np.pi * a * b) * np.exp(-0.5 * (((xx - x) / a) ** 2 + ((yy - y) / b) ** 2))
    image = image.astype(np.float32)
    peaks = np.zeros(len(found), PEAK_DTYPE)
    peaks["x"], peaks["y"] = [s[0] for s in found], [s[1] for s in found]
    peaks["value"] = image[peaks["y"], peaks["x"]]
    return image, peaks[np.argsort(-peaks["value"], kind="stable")]


def parent(peaks, shift=(0, 0)):
    inside = np.hypot(*(np.mgrid[:SIZE, :SIZE] - SIZE // 2)) < 21
    spans = footprint_of_pixels(inside, shift).spans
    return FootprintSet(spans, [0, len(spans)], peaks, [0, len(peaks)])


def deblend(image, peaks, rules=None, shift=(0, 0)):
    variance, mask = np.full_like(image, NOISE**2), np.zeros(image.shape, np.int32)
    return deblend_symmetric(image, variance, mask, parent(peaks, shift), PSF, rules=rules)


def tree(image, shift=(0, 0)):
    peaks = np.zeros(1, PEAK_DTYPE)
    peaks["x"], peaks["y"] = SIZE // 2 + shift[0], SIZE // 2 + shift[1]
    variance, mask = np.full_like(image, NOISE**2), np.zeros(image.shape, np.int32)
    return deblend_multi_threshold(image, variance, mask, parent(peaks, shift), threshold=3 * NOISE)


def child_images(found, shape):
    images = np.zeros((len(found), *shape), np.float32)
    for k in range(len(found)):
        found.footprints[k].insert(images[k])
    return images


@REPEATABLE
@given(sources, st.integers(0, 1000), st.sampled_from(["trim", "r_to_peak", "nearest_footprint"]))
def test_children_add_up_to_the_pixels_they_cover(found, seed, rule):
    image, peaks = scene(found, seed)
    children = child_images(deblend(image, peaks, SymmetricRules(stray_rule=rule)), image.shape)
    covered = (children != 0).any(0)
    total = children.astype(np.float64).sum(0)
    # one rounding to float32 for the child with the largest share
    assert_allclose(total[covered], image[covered], rtol=2e-7, atol=1e-6)


@REPEATABLE
@given(sources, st.integers(0, 1000), st.booleans(), st.booleans())
def test_a_mirrored_image_gives_mirrored_children(found, seed, flip_x, flip_y):
    image, peaks = scene(found, seed)
    step = (-1 if flip_y else 1, -1 if flip_x else 1)
    mirrored = np.ascontiguousarray(image[:: step[0], :: step[1]])
    moved = peaks.copy()
    if flip_x:
        moved["x"] = SIZE - 1 - moved["x"]
    if flip_y:
        moved["y"] = SIZE - 1 - moved["y"]
    first = child_images(deblend(image, peaks), image.shape)
    second = child_images(deblend(mirrored, moved), image.shape)[:, :: step[0], :: step[1]]
    assert first.shape == second.shape
    # the fits of point sources add up in another order
    assert_allclose(second, first, atol=2e-3 * NOISE, rtol=1e-4)


@REPEATABLE
@given(sources, st.integers(0, 1000), st.integers(-9, 9), st.integers(-9, 9))
def test_a_shifted_image_gives_shifted_children(found, seed, dx, dy):
    image, peaks = scene(found, seed)
    wide = np.zeros((SIZE + 20, SIZE + 20), np.float32)
    wide[10 + dy : 10 + dy + SIZE, 10 + dx : 10 + dx + SIZE] = image
    moved = peaks.copy()
    moved["x"] += 10 + dx
    moved["y"] += 10 + dy
    first, second = deblend(image, peaks), deblend(wide, moved, shift=(10 + dx, 10 + dy))
    assert_array_equal(second.footprints.image, first.footprints.image)
    assert_array_equal(
        second.footprints.spans - first.footprints.spans,
        [[10 + dy, 10 + dx, 10 + dx]] * len(first.footprints.spans),
    )


@REPEATABLE
@given(sources, st.integers(0, 1000))
def test_a_single_source_is_untouched(found, seed):
    image, peaks = scene(found, seed)
    assert len(deblend(image, peaks[:1])) == 0


@REPEATABLE
@given(sources, st.integers(0, 1000), st.integers(-9, 9), st.integers(-9, 9))
def test_objects_of_the_tree_share_the_parent_and_move_with_it(found, seed, dx, dy):
    image, _ = scene(found, seed)
    wide = np.zeros((SIZE + 20, SIZE + 20), np.float32)
    wide[10 + dy : 10 + dy + SIZE, 10 + dx : 10 + dx + SIZE] = image
    first, second = tree(image), tree(wide, (10 + dx, 10 + dy))
    assert_array_equal(second.footprints.image, first.footprints.image)
    if len(first):
        assert first.footprints.areas.sum() == parent(np.zeros(0, PEAK_DTYPE)).areas[0]


@REPEATABLE
@given(sources, st.integers(0, 1000))
def test_the_tree_has_no_preferred_direction(found, seed):
    image, _ = scene(found, seed)
    first = child_images(tree(image), image.shape)
    for flip in (np.s_[:, ::-1], np.s_[::-1]):
        second = child_images(tree(np.ascontiguousarray(image[flip])), image.shape)
        assert second.shape == first.shape
        light = [np.sort(np.abs(images).sum((1, 2), dtype=np.float64)) for images in (first, second)]
        assert_allclose(light[1], light[0], rtol=1e-6)
