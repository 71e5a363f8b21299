"""The photometry task on simulated maps: truth, units, symmetries, errors, fixed sources."""

from dataclasses import replace

import numpy as np
import pytest
from tests.compact_sources.scene import FWHM, PIXEL, make_wcs, matched, scene

from starmill.datamodel.cube import Beam
from starmill.errors import AlgorithmError, InputError
from starmill.tasks.compact_sources import CompactSourcesTask
from starmill.tasks.compact_sources_config import CompactSourcesConfig
from starmill.tasks.completeness import CompletenessConfig, CompletenessTask
from starmill.tasks.forced_maps import ForcedMapsTask, observed_shapes
from starmill.tasks.published_config import PublishedConfig
from starmill.tasks.published_photometry import PublishedPhotometryTask


def measure(sky_map, **changes):
    config = CompactSourcesConfig().override(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return CompactSourcesTask(config).run(sky_map=sky_map)


@pytest.fixture(scope="module")
def plain():
    sky_map, sources = scene()
    return sky_map, sources, measure(sky_map)


def flux_of(sky_map, sources):
    return 2 * np.pi * sources[:, 0] * sources[:, 3] * sources[:, 4] / sky_map.beam_pixels


def test_every_source_is_found_and_nothing_else(plain):
    _, sources, result = plain
    found, _ = matched(result.catalog, sources)
    assert len(found) == len(sources)
    assert len(result.catalog) <= len(sources) + 1  # one chance peak above 4 sigma is allowed


def test_fluxes_sizes_and_positions_are_within_their_errors(plain):
    sky_map, sources, result = plain
    i, j = matched(result.catalog, sources)
    catalog, truth = result.catalog[j], sources[i]
    for value, error, wanted in (
        (catalog["peak_flux"], catalog["peak_flux_err"], truth[:, 0]),
        (catalog["gaussian_flux"], catalog["gaussian_flux_err"], flux_of(sky_map, truth)),
        (catalog["total_flux"], catalog["total_flux_err"], flux_of(sky_map, truth)),
        (catalog["x"], catalog["x_err"], truth[:, 1]),
    ):
        pull = (value - wanted) / error
        assert abs(np.median(pull)) < 1.0  # five standard errors of a median of 25
        assert 0.6 < np.sqrt(np.median(pull**2) / 0.4549) < 1.7  # scatter of such an estimate: 0.2


def test_background_and_model_add_up_to_the_map(plain):
    sky_map, _, result = plain
    left = sky_map.image - result.model - result.background
    assert np.std(left) < 0.5  # the background takes most of the beam-sized noise, whose rms is 1
    assert abs(np.mean(left)) < 0.05


def test_units_and_scales_do_not_matter(plain):
    sky_map, _, result = plain
    huge = measure(replace(sky_map, image=sky_map.image * 1e30))
    np.testing.assert_allclose(
        huge.catalog["gaussian_flux"], result.catalog["gaussian_flux"] * 1e30, rtol=1e-3
    )
    per_sr = measure(replace(sky_map, image=sky_map.image / (sky_map.beam.solid_angle * 1e6), unit="MJy/sr"))
    np.testing.assert_allclose(per_sr.catalog["gaussian_flux"], result.catalog["gaussian_flux"], rtol=1e-3)
    shifted = measure(replace(sky_map, image=sky_map.image + 1000.0))
    np.testing.assert_allclose(shifted.catalog["peak_flux"], result.catalog["peak_flux"], rtol=1e-2)


def test_a_transposed_map_gives_transposed_sources(plain):
    sky_map, _, result = plain
    turned = measure(replace(sky_map, image=sky_map.image.T, wcs=make_wcs(sky_map.image.T.shape)))
    assert len(turned.catalog) == len(result.catalog)
    # columns and rows meet the same equations, in another order of summation
    np.testing.assert_allclose(np.sort(turned.catalog["x"]), np.sort(result.catalog["y"]), atol=0.01)


def test_nan_borders_lose_nothing_inside(plain):
    sky_map, sources, _ = plain
    image = sky_map.image.copy()
    image[:, :8] = np.nan
    image[:8] = np.nan
    image[70:76, 60:66] = np.nan
    catalog = measure(replace(sky_map, image=image)).catalog
    safe = (sources[:, 1] > 12) & (sources[:, 2] > 12)
    safe &= np.hypot(sources[:, 1] - 62.5, sources[:, 2] - 72.5) > 9
    assert len(matched(catalog, sources[safe])[0]) == safe.sum()


def test_threads_do_not_change_a_bit(plain):
    from starmill.numerics.tiles import get_threads, set_threads

    sky_map, _, result = plain
    before = get_threads()
    set_threads(3 if before == 1 else 1)
    try:
        again = measure(sky_map)
    finally:
        set_threads(before)
    for name in ("x", "gaussian_flux", "gaussian_flux_err"):
        np.testing.assert_array_equal(again.catalog[name], result.catalog[name])


def test_a_blend_at_one_beam_is_split():
    sky_map, _ = scene(n=0, background=1.0)
    from tests.reference.gaussians import image

    sigma = FWHM / 2.3548
    pair = np.array([[40.0, 70, 70, sigma, sigma, 0], [30.0, 70 + 1.1 * FWHM, 70, sigma, sigma, 0]])
    catalog = measure(replace(sky_map, image=sky_map.image + image(sky_map.image.shape, pair))).catalog
    i, j = matched(catalog, pair, radius=0.8)
    assert len(i) == 2
    assert (catalog["group_size"][j] == 2).all()
    np.testing.assert_allclose(catalog["gaussian_flux"][j], flux_of(sky_map, pair), rtol=0.25)  # 4 sigma


def test_position_angle_is_east_of_north_on_rotated_and_mirrored_pixels():
    from tests.reference.gaussians import image

    sigma = FWHM / 2.3548
    for rotation in (0.0, 50.0):
        sky_map, _ = scene(n=0, background=0.0, rotation=rotation)
        long = np.array([[300.0, 80, 75, 2.2 * sigma, 1.1 * sigma, 0.5]])
        row = measure(replace(sky_map, image=sky_map.image + image(sky_map.image.shape, long))).catalog[0]
        step = sky_map.pixel_matrix() @ np.array([np.cos(0.5), np.sin(0.5)])
        wanted = np.degrees(np.arctan2(step[0], step[1])) % 180
        assert abs((row["position_angle"] - wanted + 90) % 180 - 90) < 3
        assert row["fwhm_major"] == pytest.approx(2.2 * FWHM * PIXEL, rel=0.05)


def test_given_positions_and_shapes_are_kept(plain):
    sky_map, sources, _ = plain
    catalog = CompactSourcesTask().run(
        sky_map=sky_map, positions=sources[:, 1:3],
        shapes=np.column_stack([
            2.3548 * PIXEL * sources[:, 3], 2.3548 * PIXEL * sources[:, 4], (np.degrees(-sources[:, 5]) + 90) % 180
        ]),
    ).catalog  # fmt: skip
    np.testing.assert_allclose(catalog["x"], sources[:, 1])
    pull = (catalog["gaussian_flux"] - flux_of(sky_map, sources)) / catalog["gaussian_flux_err"]
    assert abs(np.median(pull)) < 1.0
    with pytest.raises(InputError, match="outside"):
        CompactSourcesTask().run(sky_map=sky_map, positions=np.array([[500.0, 3.0]]))


def test_a_map_without_sources_has_an_empty_table_with_all_columns():
    sky_map, _ = scene(n=0, background=0.0)
    catalog = measure(sky_map, detection__threshold=50.0).catalog
    assert len(catalog) == 0
    assert "aperture_flux" in catalog


def test_maps_that_cannot_be_measured():
    sky_map, _ = scene(n=3)
    with pytest.raises(AlgorithmError, match="no valid pixel"):
        measure(replace(sky_map, image=np.full((20, 20), np.nan)))
    with pytest.raises(InputError, match="pixels wide"):
        measure(replace(sky_map, beam=Beam(1.0, 1.0)))
    for task in (CompactSourcesTask(), PublishedPhotometryTask()):  # BMAJ in arcsec instead of degrees
        with pytest.raises(InputError, match="more than half of the map"):
            task.run(sky_map=replace(sky_map, beam=Beam(3600.0, 3600.0)))
    with pytest.raises(InputError, match="map unit"):
        measure(replace(sky_map, unit="counts"))
    with pytest.raises(InputError, match="positive axes"):
        Beam(-3.0, -3.0)
    assert len(measure(replace(sky_map, image=np.full((40, 40), 7.0))).catalog) == 0


def test_a_clump_of_many_sources_ends():
    rng = np.random.default_rng(2)
    sky_map, _ = scene(n=0, background=0.0, shape=(120, 120))
    from tests.reference.gaussians import image

    sigma = FWHM / 2.3548
    clump = np.column_stack([
        rng.uniform(10, 40, 300), *rng.normal(60, 14, (2, 300)), np.full((300, 2), sigma), np.zeros(300)
    ])  # fmt: skip
    result = measure(replace(sky_map, image=sky_map.image + image((120, 120), clump)))
    assert len(result.catalog) > 20
    assert result.groups.size.max() <= 10


def test_thousands_of_overlapping_sources_end():
    """A clump of 5,000 given positions, each with some fifty others inside its beam."""
    sky_map, _ = scene(n=0, background=0.0, shape=(120, 120))
    positions = np.random.default_rng(5).normal(60, 12, (5000, 2)).clip(1, 118)
    shapes = np.broadcast_to([FWHM * PIXEL, FWHM * PIXEL, 0.0], (5000, 3))
    config = CompactSourcesConfig().override({"fit.max_iterations": 3})
    result = CompactSourcesTask(config).run(sky_map=sky_map, positions=positions, shapes=shapes)
    assert len(result.catalog) == 5000
    assert np.bincount(result.groups.label).max() <= 10


@pytest.mark.parametrize("limit", ["roundness", "shoulder_limit"])
def test_what_a_shape_limit_refuses_does_not_return_from_the_residual_map(limit):
    """The searches of the residual map see every refused source again, the smooth one as a round one."""
    sky_map, sources = scene(n=25, background=0.0, snr=(30, 40))
    whole = CompactSourcesTask().detect(sky_map=sky_map).catalog
    value = {"roundness": (-0.2, 0.2), "shoulder_limit": float(np.median(whole["shoulder_score"]))}[limit]
    task = CompactSourcesTask(CompactSourcesConfig().override({f"detection.{limit}": value}))
    kept = task.detect(sky_map=sky_map).catalog
    assert 1 <= len(kept) < len(whole)
    catalog = task.run(sky_map=sky_map).catalog
    near = np.hypot(*(np.subtract.outer(catalog[k], kept[k]) for k in "xy")).min(axis=1)
    assert len(catalog) >= len(kept)
    assert (near < FWHM).all()
    unlimited = measure(sky_map).catalog
    assert len(matched(unlimited, sources)[0]) == 25


def test_pixels_that_are_not_square(plain):
    """Every second row of a map: sizes and fluxes on the sky stay what they are."""
    sky_map, _, result = plain
    shape = sky_map.image[::2].shape
    wcs = make_wcs(shape, pixel=(PIXEL, 2 * PIXEL))
    catalog = measure(replace(sky_map, image=sky_map.image[::2], wcs=wcs)).catalog
    ok, row = matched(result.catalog, np.column_stack([catalog["x"], catalog["x"], 2 * catalog["y"]]))
    assert len(ok) >= 0.9 * len(result.catalog)
    ratio = catalog["gaussian_flux"][ok] / result.catalog["gaussian_flux"][row]
    np.testing.assert_allclose(ratio, 1.0, atol=0.4)  # half of the pixels of the noise
    assert abs(np.median(ratio) - 1.0) < 0.05
    size = catalog["fwhm_major"][ok] * catalog["fwhm_minor"][ok]
    assert np.median(
        size / (result.catalog["fwhm_major"] * result.catalog["fwhm_minor"])[row]
    ) == pytest.approx(1, abs=0.05)


def test_noise_map_limits_detection_to_where_it_is_good():
    sky_map, sources = scene(n=25)
    rms = np.ones(sky_map.image.shape)
    rms[:, 100:] = 6.0
    rng = np.random.default_rng(0)
    from scipy.ndimage import gaussian_filter

    extra = gaussian_filter(rng.standard_normal(rms.shape), FWHM / 2.3548)
    image = sky_map.image + np.sqrt(rms**2 - 1) * extra / extra.std()
    catalog = measure(replace(sky_map, image=image, rms=rms)).catalog
    assert len(matched(catalog, sources[sources[:, 1] < 95])[0]) == (sources[:, 1] < 95).sum()
    ratio = catalog["local_rms"][catalog["x"] > 105].mean() / catalog["local_rms"][catalog["x"] < 95].mean()
    assert 4 < ratio < 8


def test_forced_photometry_on_two_maps_and_upper_limits(plain):
    sky_map, sources, _ = plain
    other = replace(scene(seed=11)[0], name="other", image=scene(seed=12, n=0)[0].image)
    lon, lat = sky_map.wcs.wcs_pix2world(sources[:, 1], sources[:, 2], 0)
    lon, lat = np.append(lon, 10.0), np.append(lat, -50.0)
    catalog = ForcedMapsTask().run(sky_maps=[sky_map, other], ra=lon, dec=lat).catalog
    assert catalog["flag_scene"][-1]
    assert not catalog["flag_scene"][:-1].any()
    assert np.isnan(catalog["upper_limit_scene"][:-1]).all()  # all are detected there
    pull = catalog["flux_other"][:-1] / catalog["flux_err_other"][:-1]
    assert 0.6 < np.sqrt(np.median(pull**2) / 0.4549) < 1.7  # nothing is there
    assert np.isfinite(catalog["upper_limit_other"][:-1]).sum() >= 22


def test_observed_shapes_add_the_beams():
    shapes = np.array([[13.0, 12.0, 30.0], [5.0, 5.0, 0.0]])
    out = observed_shapes(shapes, Beam(5.0, 5.0), Beam(9.0, 9.0), 2)
    np.testing.assert_allclose(out[0, :2], [np.sqrt(144 + 81), np.sqrt(119 + 81)])
    assert out[0, 2] == pytest.approx(30)
    np.testing.assert_allclose(out[1, :2], 9.0)
    np.testing.assert_allclose(observed_shapes(None, None, Beam(9.0, 8.0, 20.0), 1)[0], [9, 8, 20])


def test_completeness_rises_with_brightness(plain):
    sky_map, _, _ = plain
    config = CompletenessConfig(n_sources=60, n_bins=3, snr_range=(2.0, 40.0))
    curve = CompletenessTask(config).run(sky_map=sky_map).curve
    assert curve["completeness"][-1] > 0.9
    assert curve["completeness"][0] < curve["completeness"][-1] - 0.2
    assert abs(curve["flux_bias"][-1]) < 0.15


def test_the_published_rules_measure_isolated_sources():
    sky_map, sources = scene(snr=(15, 40), background=1.0)
    config = PublishedConfig(threshold=4.0, separate_background=True, weights="snr", vary_position=False, score="nmse",
                             roundness=(-4, 4), sharpness=(-2, 2))  # fmt: skip
    result = PublishedPhotometryTask(config).run(sky_map=sky_map)
    i, j = matched(result.catalog, sources)
    assert len(i) >= 0.9 * len(sources)
    ratio = result.catalog["aperture_flux"][j] / flux_of(sky_map, sources[i])
    assert 0.8 < np.median(ratio) < 1.15


@pytest.mark.parametrize(
    "changes",
    [
        {"joint_background": True, "joint_orders": (0, 1)},
        {"separate_background": True, "min_box": 0},
        {"separate_background": True, "scoring": "same_pixels", "score": "bic"},
        {"joint_background": True, "joint_orders": (0, 1), "scoring": "same_pixels"},
        {
            "separate_background": True,
            "fitters": ("huber", "theilsen"),
            "huber_epsilons": (1.35,),
            "weights": "spatial",
        },
        {"separate_background": True, "weights": "power_snr", "loss": "cauchy", "score": "bic"},
        {"separate_background": True, "fixed_axes": ((9.0, 8.0, 20.0),)},
    ],
)
def test_every_published_choice_runs(changes):
    sky_map, sources = scene(n=4, shape=(90, 90), snr=(20, 40), background=0.5, spacing=20)
    catalog = (
        PublishedPhotometryTask(PublishedConfig(threshold=5.0, max_box=3.5, **changes))
        .run(sky_map=sky_map)
        .catalog
    )
    i, j = matched(catalog, sources)
    assert len(i) >= 3
    assert np.isfinite(catalog["aperture_flux"][j]).all()


def test_the_published_background_of_a_map_without_sources():
    sky_map, _ = scene(n=0, background=0.0, shape=(70, 80))
    slope = 0.2 * np.indices(sky_map.image.shape)[1]
    config = PublishedConfig(threshold=1e3, empty_orders=(0, 1), score="nmse")
    result = PublishedPhotometryTask(config).run(sky_map=replace(sky_map, image=sky_map.image + slope))
    assert len(result.catalog) == 0
    rest = sky_map.image + slope - result.background
    assert abs(rest.mean()) < 0.2
    assert rest.std() < 1.05 * sky_map.image.std()  # noise, without the slope
