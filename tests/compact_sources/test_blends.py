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
