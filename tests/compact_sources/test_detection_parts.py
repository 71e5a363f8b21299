"""Grouping, filters, DAOFIND, noise and polynomial backgrounds."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components
from tests.compact_sources.scene import FWHM, PER_SIGMA, scene
from tests.reference.gaussians import image as draw

from starmill.background.gaussian_mean import smooth_map
from starmill.background.map_noise import cell_rms, global_rms, local_rms, noise_correlation
from starmill.background.polynomial import (
    clip_values,
    fill_masked,
    fit_polynomial_background,
    score_background,
)
from starmill.background.separate import box_sizes, separate_background
from starmill.detection.daofind import daofind_peaks, daofind_shapes
from starmill.detection.grouping import group_sources, link_channels
from starmill.detection.point_filters import (
    band_pass,
    box_high_pass,
    choose_filter,
    local_maxima,
    shoulder_scores,
    thin_pairs,
)
from starmill.errors import AlgorithmError, InputError

SIGMA = FWHM / PER_SIGMA


def test_groups_are_the_connected_components():
    x, y = np.array([0.0, 3.0, 6.0, 20.0, 21.0, 50.0]), np.zeros(6)
    groups = group_sources(x, y, 4.0)
    assert [list(groups[g]) for g in range(len(groups))] == [[0, 1, 2], [3, 4], [5]]
    assert list(groups.size) == [3, 3, 3, 2, 2, 1]


@pytest.mark.parametrize("link", [1.0, 3.0, 6.0])
def test_chains_are_those_of_scipy(link):
    x, y = np.random.default_rng(5).uniform(0, 100, (2, 400))
    near = np.hypot(np.subtract.outer(x, x), np.subtract.outer(y, y)) <= link
    n, label = connected_components(near, directed=False)
    groups = group_sources(x, y, link, max_members=400)
    assert len(groups) == n
    np.testing.assert_array_equal(groups.label, label)


def test_a_long_chain_is_cut_into_neighbours():
    groups = group_sources(np.arange(5000) * 1.0, np.zeros(5000), 1.5, max_members=8)
    assert groups.size.max() <= 8
    assert (groups.chain_size == 5000).all()
    assert sorted(groups.members) == list(range(5000))
    assert all(np.ptp(groups[g]) == groups[g].size - 1 for g in range(len(groups)))


def test_a_dense_clump_is_grouped_without_all_its_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (2, 5000))
    groups = group_sources(x, y, 3.0, max_members=10)
    assert groups.size.max() <= 10
    plain = group_sources(np.append(x[:40], 100.0), np.append(y[:40], 0.0), 3.0, max_members=100)
    crowded = group_sources(np.append(x, 100.0), np.append(y, 0.0), 3.0, max_members=10)
    assert plain.chain_size[-1] == crowded.chain_size[-1] == 1


def test_no_source_makes_no_group():
    assert len(group_sources(np.zeros(0), np.zeros(0), 3.0)) == 0


def test_channels_are_linked_over_a_gap():
    x = np.array([10.0, 30.0, 10.3, 10.5, 30.2])
    label = link_channels(x, np.zeros(5), np.array([0, 0, 1, 3, 2]), 1.0, max_gap=1)
    assert list(label) == [1, 2, 1, 1, 2]


def test_band_pass_of_a_plane_is_zero_and_nan_does_not_spread():
    yy, xx = np.indices((60, 70))
    image = 5.0 + 0.1 * xx - 0.2 * yy
    valid = np.ones(image.shape, bool)
    valid[20:24, 30:40] = False
    image[~valid] = np.nan
    for name in ("sharp", "medium", "smooth"):
        filtered = band_pass(image, valid, SIGMA, name)
        assert np.isfinite(filtered).all()
        # away from edges and holes the symmetric kernels see only the plane, up to float32
        np.testing.assert_allclose(filtered[40:48, 12:20], 0, atol=2e-4)


def test_the_filter_follows_the_noise():
    rng = np.random.default_rng(1)
    white = rng.standard_normal((200, 200))
    valid = np.ones(white.shape, bool)
    assert choose_filter(white, valid, SIGMA) == "smooth"
    beam = gaussian_filter(rng.standard_normal((200, 200)), SIGMA)
    assert choose_filter(beam / beam.std(), valid, SIGMA) == "sharp"


def test_local_maxima_find_subpixel_peaks_brightest_first():
    sources = np.array([[10.0, 12.3, 14.8, 2, 2, 0], [20.0, 30.6, 22.2, 2, 2, 0]])
    peaks = local_maxima(draw((40, 45), sources), 3.0, lambda x, y: np.ones(x.size), 1.0)
    np.testing.assert_allclose(np.column_stack([peaks.x, peaks.y]), sources[::-1, 1:3], atol=0.05)


def test_a_plateau_is_one_peak():
    image = np.zeros((9, 9))
    image[4, 3:6] = 5.0
    assert len(local_maxima(image, 1.0, lambda x, y: np.ones(x.size), 1.0)) == 1


def test_thinning_keeps_the_brighter():
    keep = thin_pairs(np.array([0.0, 1.0, 2.0, 9.0]), np.zeros(4), np.array([1.0, 3.0, 2.0, 1.0]), 1.5)
    assert list(keep) == [False, True, False, True]


def test_high_pass_is_scaled_to_100_and_ignores_nan():
    image = draw((50, 50), [[4.0, 25, 25, 2, 2, 0]]) + 7
    image[0] = np.nan
    out = box_high_pass(image, 9)
    assert out.max() == pytest.approx(100)
    assert (out[0] == 0).all()
    assert (box_high_pass(np.full((9, 9), np.nan), 3) == 0).all()


def test_daofind_sees_round_and_elongated():
    image = draw((60, 60), [[10, 20, 20, 1.5, 1.5, 0], [10, 42, 40, 3.5, 1.0, 0]])
    x, y = daofind_peaks(image, FWHM, 0.5, sharpness=(-9, 9), roundness=(-9, 9))
    assert {(20, 20), (42, 40)} <= set(zip(x, y, strict=True))
    shapes = daofind_shapes(image, np.array([20, 42]), np.array([20, 40]), FWHM)
    np.testing.assert_allclose([shapes[k][0] for k in ("roundness1", "roundness2")], 0, atol=1e-6)
    assert abs(shapes["roundness2"][1]) > 0.3
    kept, _ = daofind_peaks(image, FWHM, 0.5, sharpness=(-9, 9), roundness=(-0.2, 0.2))
    assert 42 not in kept


def test_shoulder_score_tells_a_bump_on_a_flank_from_a_source():
    image = draw((60, 60), [[50, 20, 30, 5, 5, 0], [6, 30, 30, 1.4, 1.4, 0], [10, 45, 12, 1.4, 1.4, 0]])
    score = shoulder_scores(image, np.array([30.0, 45.0]), np.array([30.0, 12.0]), FWHM)
    assert score[0] > 0.5 > 0.1 > score[1]


def test_smooth_map_keeps_a_constant_everywhere():
    valid = np.random.default_rng(0).random((80, 90)) > 0.3
    valid[:, 60:] = False
    for sigma in (1.0, 6.0, 40.0):
        level = smooth_map(np.where(valid, 7.0, np.nan), valid, sigma)
        np.testing.assert_allclose(level, 7.0, rtol=1e-5)
    with pytest.raises(AlgorithmError):
        smooth_map(np.zeros((5, 5)), np.zeros((5, 5), bool), 2.0)


def test_noise_estimates_of_white_noise():
    rng = np.random.default_rng(4)
    image = 2.0 * rng.standard_normal((300, 300))
    valid = np.ones(image.shape, bool)
    assert global_rms(image) == pytest.approx(2.0, rel=0.02)  # clipping at 3 sigma lowers it by 1.3 %
    assert local_rms(image, valid, 20.0).mean() == pytest.approx(2.0, rel=0.02)
    assert np.median(cell_rms(image, valid, 50).level) == pytest.approx(2.0, rel=0.03)
    rho = noise_correlation(image, valid, 5)
    assert rho[5, 5] == 1
    assert np.abs(rho).ravel()[np.arange(121) != 60].max() < 0.02  # 1 / sqrt(90000) = 0.003, six sigma


def test_correlation_of_smoothed_noise_is_that_of_the_kernel():
    image = gaussian_filter(np.random.default_rng(5).standard_normal((400, 400)), 1.5, mode="wrap")
    rho = noise_correlation(image, np.ones(image.shape, bool), 6)
    lag = np.arange(-6, 7)
    np.testing.assert_allclose(rho[6], np.exp(-(lag**2) / (4 * 1.5**2)), atol=0.05)


@pytest.mark.parametrize("method", ["least_squares", "huber", "theilsen"])
def test_background_fitters_find_a_plane(method):
    rng = np.random.default_rng(6)
    y, x = (v.ravel() for v in np.mgrid[0:25, 0:30])
    values = 3.0 + 0.05 * x - 0.02 * y + 0.1 * rng.standard_normal(x.size)
    if method != "least_squares":
        values[rng.choice(x.size, 60, replace=False)] += 30.0
    fit = fit_polynomial_background(x, y, values, 1, method=method)
    # least squares would be off by 60 * 30 / 750 = 2.4 with these outliers
    np.testing.assert_allclose(fit(x, y), 3.0 + 0.05 * x - 0.02 * y, atol=0.15)


def test_background_fit_refuses_too_few_pixels_and_unknown_methods():
    with pytest.raises(InputError, match="3 pixels"):
        fit_polynomial_background(np.arange(3), np.arange(3), np.ones(3), 2)
    with pytest.raises(InputError, match="unknown"):
        fit_polynomial_background(np.arange(9), np.arange(9), np.ones(9), 0, method="magic")


def test_scores_prefer_the_right_order():
    rng = np.random.default_rng(7)
    y, x = (v.ravel() for v in np.mgrid[0:20, 0:20])
    values = 0.3 * x + 0.5 * rng.standard_normal(x.size)
    bic = [
        score_background(fit_polynomial_background(x, y, values, order)(x, y), values, terms, 0.5).of("bic")
        for order, terms in ((0, 1), (1, 3), (3, 10))
    ]
    assert int(np.argmin(bic)) == 1


def test_masked_pixels_are_filled_from_around():
    image = np.zeros((30, 30)) + 2.0
    image[10:14, 12:16] = np.nan
    np.testing.assert_allclose(fill_masked(image)[10:14, 12:16], 2.0)


def test_clipping_drops_outliers_and_nan():
    keep = clip_values(np.array([0.0, 0.1, -0.1, 0.05, -0.05] * 10 + [50.0, np.nan]))
    assert keep[:50].all()
    assert not keep[50:].any()


def test_separate_background_of_a_source_on_a_plane():
    plane = 4.0 + 0.05 * np.indices((60, 60))[1]
    image = plane + draw((60, 60), [[10, 30, 30, SIGMA, SIGMA, 0], [8, 41, 33, SIGMA, SIGMA, 0]])
    image += 0.05 * np.random.default_rng(8).standard_normal(image.shape)
    sizes = box_sizes(3, 5, FWHM, 2.0, 0.0)
    assert sizes[0] >= 2 * 3 * FWHM
    best = separate_background(
        image, np.array([30.0, 41.0]), np.array([30.0, 33.0]), np.array([0]), beam_sigma=SIGMA, max_size=2.0,
        sizes=sizes[:1], orders=(0, 1), fitters=[("least_squares", 0.0)], score="nmse",
    )  # fmt: skip
    x0, y0 = best.corner
    ny, nx = best.background.shape
    np.testing.assert_allclose(best.background, plane[y0 : y0 + ny, x0 : x0 + nx], atol=0.6)


@pytest.mark.parametrize(("kind", "orders"), [("bic", {1}), ("redchi", {1, 2, 3})])
def test_boxes_and_orders_are_compared_on_the_same_pixels(kind, orders):
    """The order that made the map wins, and the choice depends neither on the unit nor on a level."""
    yy, xx = np.indices((80, 80))
    plane = 0.3 * xx - 0.1 * yy
    image = plane + draw((80, 80), [[10, 40, 40, SIGMA, SIGMA, 0]])
    image += np.random.default_rng(9).standard_normal(image.shape)
    found = []
    for scale, level in ((1.0, 0.0), (1e-5, 3e-4)):
        found.append(separate_background(
            image * scale + level, np.array([40.0]), np.array([40.0]), np.array([0]), beam_sigma=SIGMA, max_size=2.0,
            sizes=box_sizes(3, 5, FWHM, 2.0, 0.0), orders=(0, 1, 2, 3), fitters=[("least_squares", 0.0)], score=kind,
            noise=scale,
        ))  # fmt: skip
    first, second = found
    assert first.order in orders
    assert (first.order, first.corner) == (second.order, second.corner)
    x0, y0 = first.corner
    ny, nx = first.background.shape
    np.testing.assert_allclose(first.background, plane[y0 : y0 + ny, x0 : x0 + nx], atol=1.0)


def test_scene_has_beam_noise():
    sky_map, _ = scene(n=0, background=0.0)
    assert sky_map.image.std() == pytest.approx(1.0, rel=0.05)
