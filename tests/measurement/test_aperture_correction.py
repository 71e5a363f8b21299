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
    found = fit_aperture_correction(x, y, ratio, box=BOX)
    assert not found.used[:20].any()
    assert found.scatter == pytest.approx(1e-3, rel=0.2)
    # six terms from 380 stars: errors of 1e-3 sqrt(6 / 380), in the corners several times that
    np.testing.assert_allclose(found.field(x, y), truth, atol=1e-3)
    assert float(found.error(500.0, 400.0)) == pytest.approx(1e-3 / np.sqrt(374), rel=0.2)


def test_faint_stars_count_less():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 1000, 600), rng.uniform(0, 800, 600)
    error = np.where(np.arange(600) < 100, 1e-3, 0.05)
    ratio = 1.1 + error * rng.normal(0, 1, 600)
    weighted = fit_aperture_correction(x, y, ratio, box=BOX, ratio_err=error)
    plain = fit_aperture_correction(x, y, ratio, box=BOX)
    found, alike = (np.std(f.field(x, y) - 1.1) for f in (weighted, plain))
    assert found < 2.5e-3 < alike


@pytest.mark.parametrize(("n", "order"), [(2, 0), (4, 1), (7, 2), (6, 1)])
def test_order_is_lowered_for_few_stars(n, order):
    rng = np.random.default_rng(n)
    found = fit_aperture_correction(
        rng.uniform(0, 1000, n), rng.uniform(0, 800, n), rng.normal(1, 1e-3, n), box=BOX, n_iterations=1
    )
    assert found.field.coefficients.shape[0] - 1 == order


def test_too_few_stars():
    with pytest.raises(AlgorithmError, match="too few stars"):
        fit_aperture_correction(np.array([1.0]), np.array([2.0]), np.array([np.nan]), box=BOX)


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
