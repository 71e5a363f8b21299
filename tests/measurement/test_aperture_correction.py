"""Aperture corrections bring every flux of a star to one scale."""

import numpy as np
import pytest

from starmill.datamodel.catalog import Catalog, Column
from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError
from starmill.measurement.aperture_correction import fit_aperture_correction
from starmill.tasks.aperture_correction import ApertureCorrectionConfig, ApertureCorrectionTask
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import catalog_at, star_field

BOX = Box(0, 0, 1000, 800)


def test_field_is_recovered_and_outliers_left_out():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1000, 400), rng.uniform(0, 800, 400)
    truth = 1.05 + 2e-5 * x - 3e-8 * x * y
    ratio = truth + rng.normal(0, 1e-3, 400)
    ratio[:20] *= 1.5
    found = fit_aperture_correction(x, y, np.ones(400), ratio, box=BOX)
    assert not found.used[:20].any()
    assert found.scatter == pytest.approx(1e-3, rel=0.2)
    # six terms from 380 stars: errors of 1e-3 sqrt(6 / 380), in the corners several times that
    np.testing.assert_allclose(found.field(x, y), truth, atol=1e-3)
    assert float(found.error(500.0, 400.0)) == pytest.approx(1e-3 * np.sqrt(6 / 380), rel=0.2)


def test_noise_alone_is_not_followed():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 1000, 300), rng.uniform(0, 800, 300)
    orders = [
        fit_aperture_correction(
            x, y, np.ones(300), 1.1 + rng.normal(0, 0.01, 300), box=BOX
        ).field.coefficients.shape[0]
        for _ in range(20)
    ]
    assert orders.count(1) >= 18  # a false linear term falls below chi squared of 11.4: 1 in 300


def test_crowded_stars_keep_their_scatter():
    """Neighbours in the larger aperture: errors of the fluxes say nothing of them, yet half of the stars must stay."""
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 1000, 200), rng.uniform(0, 800, 200)
    light = 1e4 * np.exp(rng.uniform(0, np.log(100), 200))
    large = light * (1.05 + rng.normal(0, 0.1, 200))
    large[:10] *= 3
    found = fit_aperture_correction(
        x, y, large, light, box=BOX, flux_err=np.full(200, 60.0), reference_err=np.full(200, 50.0)
    )
    assert not found.used[:10].any()
    assert found.used.mean() > 0.85
    assert float(found.field(500.0, 400.0)) == pytest.approx(1 / 1.05, abs=4 * 0.1 / np.sqrt(190))


def aperture_stars(n, seed, sky=0.0):
    """Fluxes of stars in a small and a large aperture that holds 5 % more and some sky; 20 to 2000 of signal to noise."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 1000, n), rng.uniform(0, 800, n)
    light = 1e4 * np.exp(rng.uniform(0, np.log(100), n))
    small_err, ring_err = np.full(n, 500.0), np.full(n, 2000.0)
    small = light + rng.normal(0, small_err)
    large = 1.05 * light + (small - light) + rng.normal(0, ring_err) + sky
    return x, y, large, small, np.hypot(small_err, ring_err), small_err


@pytest.mark.parametrize("sky", [0.0, 1500.0])
def test_sky_in_a_large_aperture_does_not_change_its_correction(sky):
    errors, pulls = [], []
    for seed in range(30):
        x, y, large, small, large_err, small_err = aperture_stars(200, seed, sky)
        found = fit_aperture_correction(
            x, y, large, small, box=BOX, flux_err=large_err, reference_err=small_err
        )
        errors.append(float(found.field(500.0, 400.0)) * 1.05 - 1)
        pulls.append(errors[-1] / (1.05 * float(found.error(500.0, 400.0))))
        assert abs(found.offset - sky) < 1000
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(30)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.4)  # of 30
    assert np.std(errors) < 1e-3


def test_aperture_with_more_sky_than_light_is_not_corrected():
    rng = np.random.default_rng(6)
    x, y = rng.uniform(0, 1000, 40), rng.uniform(0, 800, 40)
    small, error = rng.uniform(1e3, 2e3, 40), np.full(40, 1e4)
    large = small + rng.normal(0, 1e4, 40)
    with pytest.raises(AlgorithmError, match="do not determine") as raised:
        fit_aperture_correction(x, y, large, small, box=BOX, flux_err=error, reference_err=np.full(40, 30.0))
    assert raised.value.numbers["stars"] == 40


@pytest.mark.parametrize(("n", "order"), [(2, 0), (4, 1), (7, 2), (6, 1)])
def test_order_is_lowered_for_few_stars(n, order):
    rng = np.random.default_rng(n)
    found = fit_aperture_correction(
        rng.uniform(0, 1000, n),
        rng.uniform(0, 800, n),
        np.ones(n),
        rng.normal(1, 1e-3, n),
        box=BOX,
        n_iterations=1,
    )
    assert found.field.coefficients.shape[0] - 1 == order


def test_too_few_stars():
    one = np.array([1.0])
    with pytest.raises(AlgorithmError, match="too few stars"):
        fit_aperture_correction(one, one, one * np.nan, one, box=BOX)


@pytest.fixture(scope="module")
def measured():
    exposure, x, y = star_field(100000.0, side=20, spacing=61, seed=2)
    names = ["centroid", "shape", "pixel", "psf_flux", "gaussian_flux", "aperture_flux", "kron_flux"]
    options = {"aperture_flux": {"radii": [3, 6, 12]}}
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=names, options=options))
    return exposure, task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog


def test_stars_with_bright_neighbours_are_not_used(measured):
    exposure, catalog = measured
    crowded = catalog["x"] < exposure.shape[1] / 2
    near = catalog[crowded].with_columns({catalog.schema["x"]: catalog["x"][crowded] + 8})
    both = Catalog.concatenate([catalog, near])
    task = ApertureCorrectionTask()
    used = task.run(exposure=exposure, catalog=both).corrections["psf_flux"].used
    assert not used[: len(catalog)][crowded].any()
    assert used[: len(catalog)][~crowded].mean() > 0.9
    assert task.metadata["n_isolated"] > 0.9 * (~crowded).sum()
    loose = ApertureCorrectionTask(ApertureCorrectionConfig(isolation_radius=0.0))
    assert (
        loose.run(exposure=exposure, catalog=both).corrections["psf_flux"].used[: len(catalog)][crowded].any()
    )


def test_all_fluxes_of_stars_agree_after_correction(measured):
    exposure, catalog = measured
    result = ApertureCorrectionTask().run(exposure=exposure, catalog=catalog)
    reference = catalog["aperture_flux_12_0"]
    for name in ("psf_flux", "gaussian_flux", "aperture_flux_3_0", "kron_flux"):
        ratio = result.catalog[name] / reference
        assert abs(np.median(ratio) - 1) < 1e-3
        np.testing.assert_allclose(
            result.catalog[f"{name}_err"] / catalog[f"{name}_err"], result.catalog[f"{name}_correction"]
        )
        assert result.catalog[f"{name}_correction_used"].sum() > 300
        assert name in result.exposure.aperture_corrections
    again = ApertureCorrectionTask().run(exposure=result.exposure, catalog=result.catalog).catalog
    np.testing.assert_allclose(again["psf_flux"], result.catalog["psf_flux"], rtol=1e-12)


def test_corrections_without_stars(measured):
    exposure, catalog = measured
    blind = catalog.with_columns({Column("psf_used", "bool"): np.arange(len(catalog)) == 0})
    with pytest.raises(AlgorithmError, match="too few stars"):
        ApertureCorrectionTask().run(exposure=exposure, catalog=blind)
    config = ApertureCorrectionConfig(allow_failure=["*"])
    result = ApertureCorrectionTask(config).run(exposure=exposure, catalog=blind)
    np.testing.assert_array_equal(result.catalog["psf_flux"], catalog["psf_flux"])
