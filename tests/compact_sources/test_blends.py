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
    left, after, kept = drop_weak(
        fit, groups, fit_groups, group=group, bounds=bounds, min_significance=5.0, distance=FWHM
    )
    assert len(kept) == 2
    assert 1 in kept
    assert len(after) == 2
    np.testing.assert_allclose(left.flux, 2 * np.pi * truth[:, 0] * SIGMA**2, rtol=0.3)  # 4 sigma
    again, _, all_kept = drop_weak(
        left, after, fit_groups, group=group, bounds=bounds, min_significance=1e9, distance=FWHM
    )
    assert len(all_kept) == len(again.sources) == 2  # single sources stay
