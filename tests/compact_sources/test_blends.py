"""Elongated sources that are two."""

import numpy as np
from tests.compact_sources.scene import FWHM, PER_SIGMA, matched, scene

from starmill.measurement.gaussian_fit import GaussianFit
from starmill.measurement.neighbours import draw_sources
from starmill.tasks.compact_sources import CompactSourcesTask
from starmill.tasks.compact_sources_config import CompactSourcesConfig

SIGMA = FWHM / PER_SIGMA


def with_sources(sky_map, sources):
    from dataclasses import replace

    return replace(sky_map, image=draw_sources(sky_map.image.shape, sources, out=sky_map.image.copy()))


def run(sky_map, **changes):
    config = CompactSourcesConfig().override({name.replace("__", "."): v for name, v in changes.items()})
    return CompactSourcesTask(config).run(sky_map=sky_map).catalog


def test_unresolved_pairs_are_split_where_the_data_want_it():
    sky_map, _ = scene(seed=11, n=0, shape=(160, 170), background=0.5)
    y, x = (v.ravel() for v in np.mgrid[30:140:35, 30:150:35])
    angle = np.linspace(0, np.pi, x.size, endpoint=False)
    one = np.column_stack(
        [np.full(x.size, 30.0), x, y, np.full(x.size, SIGMA), np.full(x.size, SIGMA), 0 * x]
    )
    other = one.copy()
    other[:, 0] = 20.0
    other[:, 1] += 0.85 * FWHM * np.cos(angle)
    other[:, 2] += 0.85 * FWHM * np.sin(angle)
    both = np.concatenate([one, other])
    catalog = run(with_sources(sky_map, both))
    i, _ = matched(catalog, both)
    assert len(i) >= 0.75 * len(both)
    assert len(catalog) <= len(both) + 1
    whole = run(with_sources(sky_map, both), fit__split_major=None)
    assert len(matched(whole, both)[0]) <= len(i) - 3


def test_sources_that_are_really_elongated_stay_whole():
    sky_map, _ = scene(seed=12, n=0, shape=(160, 170), background=0.5)
    y, x = (v.ravel() for v in np.mgrid[30:140:35, 30:150:35])
    long = np.column_stack([
        np.full(x.size, 30.0), x, y, np.full(x.size, 1.9 * SIGMA), np.full(x.size, 1.1 * SIGMA),
        np.linspace(0, np.pi, x.size),
    ])  # fmt: skip
    catalog = run(with_sources(sky_map, long))
    assert len(catalog) <= len(long) + 1
    assert len(matched(catalog, long)[0]) >= len(long) - 1


def test_nothing_to_split():
    from starmill.measurement.blends import split_blends

    none = GaussianFit(
        np.zeros((0, 6)), np.zeros((0, 6, 6)), np.zeros(0), np.zeros(0), *(np.zeros(0, int) for _ in range(4))
    )
    parts, rows = split_blends(none, lambda *_: none, beam_sigma=2.0)
    assert parts.shape == (0, 6)
    assert rows.size == 0


def test_a_member_without_room_gives_its_light_back():
    """One source fitted as two on top of each other: neither is significant, one alone is."""
    from starmill.detection.grouping import group_sources
    from starmill.measurement.blends import drop_weak
    from starmill.measurement.gaussian_fit import fit_gaussians

    rng = np.random.default_rng(8)
    image = (0.5 * rng.standard_normal((60, 60))).astype("f4")
    truth = np.array([[10.0, 30.2, 29.6, SIGMA, SIGMA, 0.0], [9.0, 12.0, 12.0, SIGMA, SIGMA, 0.0]])
    draw_sources(image.shape, truth, out=image)
    start = np.array(
        [
            [5.0, 30.4, 29.8, SIGMA, SIGMA, 0.0],
            [9.0, 12, 12, SIGMA, SIGMA, 0.0],
            [5.0, 29.9, 29.3, SIGMA, SIGMA, 0.0],
        ]
    )
    rho = np.zeros((31, 31))
    rho[15, 15] = 1.0

    def bounds(sources):
        return np.tile([-100.0, 100.0, 0.5 * SIGMA, 4 * SIGMA, FWHM], (len(sources), 1))

    def group(sources):
        return group_sources(sources[:, 1], sources[:, 2], 1.6 * FWHM, 10)

    def fit_groups(sources, groups, limits):
        weight = np.full(image.shape, 2.0, "f4")
        return fit_gaussians(
            image, weight, sources, groups, radius=1.5 * FWHM, bounds=limits, correlation=rho
        )

    groups = group(start)
    fit = fit_groups(start, groups, bounds(start))
    assert (fit.sources[[0, 2], 0] < 5 * fit.peak_err[[0, 2]]).any()
    left, after, kept, needed = drop_weak(
        fit, groups, fit_groups, group=group, bounds=bounds, min_significance=5.0, distance=FWHM
    )
    assert len(kept) == 2
    assert 1 in kept
    assert not needed.any()
    assert len(after) == 2
    np.testing.assert_allclose(left.flux, 2 * np.pi * truth[:, 0] * SIGMA**2, rtol=0.3)  # 4 sigma
    again, _, all_kept, _ = drop_weak(
        left, after, fit_groups, group=group, bounds=bounds, min_significance=1e9, distance=FWHM
    )
    assert len(all_kept) == len(again.sources) == 2  # single sources stay


def blend_of(rng, pairs, factor):
    """Map with noise of rms one and pairs of sources; the second member is fainter."""
    image = rng.standard_normal((60, 60)).astype("f4")
    truth = np.array([
        row for x, y, angle in pairs for row in (
            [12 * factor, x, y, SIGMA, SIGMA, 0.0],
            [9 * factor, x + FWHM * np.cos(angle), y + FWHM * np.sin(angle), SIGMA, SIGMA, 0.0],
        )
    ])  # fmt: skip
    return draw_sources(image.shape, truth, out=image), truth


def group_and_bounds():
    from starmill.detection.grouping import group_sources

    def bounds(sources):
        out = np.tile([-100.0, 100.0, 0.5 * SIGMA, 4 * SIGMA, 0.6 * FWHM], (len(sources), 1))
        out[:, 0], out[:, 1] = 0.1 * sources[:, 0], 5 * sources[:, 0]
        return out

    return lambda sources: group_sources(sources[:, 1], sources[:, 2], 1.6 * FWHM, 10), bounds


def fitter(image):
    from starmill.measurement.gaussian_fit import fit_gaussians

    rho = np.zeros((31, 31))
    rho[15, 15] = 1.0

    def fit_groups(sources, groups, limits):
        weight = np.ones(image.shape, "f4")
        return fit_gaussians(
            image, weight, sources, groups, radius=1.5 * FWHM, bounds=limits, correlation=rho
        )

    return fit_groups


def test_members_that_the_pixels_need_stay_however_uncertain():
    from starmill.measurement.blends import drop_weak

    image, truth = blend_of(np.random.default_rng(3), [(30.3, 28.8, 0.4)], 2.0)
    group, bounds = group_and_bounds()
    fit_groups = fitter(image)
    fit = fit_groups(truth, group(truth), bounds(truth))
    _, _, kept, needed = drop_weak(
        fit, group(truth), fit_groups, group=group, bounds=bounds, min_significance=1e6, distance=1.3 * FWHM
    )
    assert kept.tolist() == [0, 1]
    assert needed.all()


def test_known_positions_resolve_a_blend():
    """A pair seen as one is two with the positions of another channel; a position without a source adds nothing."""
    from starmill.measurement.known_positions import add_known, agreed_positions, missing_positions

    image, truth = blend_of(np.random.default_rng(5), [(18.3, 18.8, 0.4), (41.0, 40.5, 2.0)], 1.0)
    group, bounds = group_and_bounds()
    fit_groups = fitter(image)
    start = truth[[0, 2]].copy()
    start[:, 0] *= 1.3
    fit = fit_groups(start, group(start), bounds(start))
    known = truth[:, 1:3]
    wrong = fit.sources[0, 1:3] + [0.0, 1.4 * FWHM]
    positions = np.concatenate([known, [wrong, [5.0, 50.0]]])
    left, groups, origin, added = add_known(
        fit, group(fit.sources), fit_groups, positions, group=group, bounds=bounds, beam_sigma=SIGMA
    )
    assert len(left.sources) == len(groups.label) == 4
    assert (origin[added] == 2).all()
    i, j = matched({"x": left.sources[:, 1], "y": left.sources[:, 2]}, truth)
    assert len(i) == 4
    error = left.peak_err[i]
    np.testing.assert_array_less(np.abs(left.sources[i, 0] - truth[j, 0]), 4 * error)  # 4 sigma

    # one channel shows two, another one source between them, a third the same two with larger errors
    x, y = np.array([10.0, 13.0, 11.5, 10.2, 13.1]), np.full(5, 20.0)
    agreed = agreed_positions(x, y, np.array([0.1, 0.1, 0.02, 0.3, 0.3]), np.array([0, 0, 1, 2, 2]), 3.4)
    np.testing.assert_allclose(np.sort(agreed[:, 0]), [10.02, 13.01], atol=1e-6)
    assert len(missing_positions(agreed, x[2:3], y[2:3], 3.4)) == 2
    assert len(missing_positions(agreed, x[:2], y[:2], 3.4)) == 0
    assert add_known(left, groups, fit_groups, known, group=group, bounds=bounds, beam_sigma=SIGMA)[0] is left
