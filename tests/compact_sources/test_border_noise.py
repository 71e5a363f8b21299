"""Noise that rises towards the edge of the data."""

import numpy as np
from tests.compact_sources.scene import FWHM, scene

from starmill.background.border_noise import border_zones, zone_factors
from starmill.tasks.compact_sources import CompactSourcesTask


def test_zones_count_pixels_from_the_edge_of_the_data():
    valid = np.ones((40, 60), bool)
    assert border_zones(valid, FWHM) is None
    valid[:, :5] = False
    border = border_zones(valid, 4.0)  # a quarter of a beam is a pixel
    zones = border.zones
    np.testing.assert_array_equal(zones[border.y, border.x], border.number)
    assert border.number.size == np.count_nonzero(zones)
    distance = np.arange(1, 56)
    expected = np.digitize(distance, [2, 3, 5, 9, 17])  # zone widths 1, 1, 2, 4 and 8 pixels
    np.testing.assert_array_equal(zones[20, 5:], np.where(expected < 5, expected + 1, 0))
    assert not zones[~valid].any()
    np.testing.assert_array_equal(zones[0], zones[20])  # the edge of the array is no edge of the data
    np.testing.assert_array_equal(border_zones(valid.T, 4.0).zones, zones.T)
    wide = border_zones(valid, 8.0).zones
    assert (wide[:, 5:7] == 1).all()
    assert (wide[:, 7:9] == 2).all()


def test_factors_are_the_rms_of_each_zone_and_never_below_one():
    rng = np.random.default_rng(4)
    zone = np.repeat(np.array([1, 2, 3], np.uint8), [20000, 20000, 50])
    ratio = rng.standard_normal(zone.size) * np.where(zone == 1, 3.0, 0.5)
    ratio[:100] = 1e3  # sources
    ratio[100:200] = np.nan
    factors = zone_factors(ratio, zone)
    np.testing.assert_allclose(factors[1], 3.0, rtol=0.05)  # 1.2 % noise and 1 % from the sources, 3 sigma
    assert factors[0] == factors[2] == factors[3] == 1.0  # quieter, and too few pixels


def noisy_border(seed):
    sky_map, _ = scene(seed=seed, n=10, shape=(160, 170), background=0.5)
    image = sky_map.image.copy()
    noise = scene(seed=seed + 50, n=0, shape=image.shape, background=0.0)[0].image
    noise = noise - np.median(noise)
    y, x = np.indices(image.shape)
    edge = np.minimum.reduce([x, y, image.shape[1] - 1 - x, image.shape[0] - 1 - y]) - 6
    image += noise * 4.0 * np.exp(-np.maximum(edge, 0) / 4.0)
    image[edge < 0] = np.nan
    from dataclasses import replace

    return replace(sky_map, image=image), edge


def test_a_noisy_border_gives_no_sources():
    false = total = 0
    for seed in (21, 22, 23):
        sky_map, edge = noisy_border(seed)
        catalog = CompactSourcesTask().run(sky_map=sky_map).catalog
        at = edge[np.rint(catalog["y"]).astype(int), np.rint(catalog["x"]).astype(int)]
        false += int((at < 4).sum())
        total += len(catalog)
    assert false <= 2
    assert total >= 20
