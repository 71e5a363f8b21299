from dataclasses import replace

import numpy as np
import pytest
from tests.psf_modelling.star_field import star_field

from starmill.diagnostics.psf_residuals import psf_residual_section
from starmill.psf_modelling.moffat import fit_moffat_psf
from starmill.psf_modelling.pixel_grid import fit_pixel_grid_psf
from starmill.psf_modelling.psf_stars import compare_stars_to_psf
from starmill.psf_modelling.residual_statistics import (
    measure_star_shapes,
    residual_statistics,
    rho_statistics,
)
from starmill.psf_modelling.star_selection import reserve_stars


@pytest.fixture(scope="module")
def compared():
    field = star_field(n_side=16, pixels=1400, flux=1e5)
    stamps = field.stamps()
    reserved = reserve_stars(len(stamps), 0.25, seed=1)
    analytic, _, _ = fit_moffat_psf(stamps.take(~reserved), field.box, 1.5)
    fit = fit_pixel_grid_psf(stamps.take(~reserved), field.box, analytic)
    used = np.zeros(len(stamps), bool)
    used[np.flatnonzero(~reserved)[fit.used]] = True
    return compare_stars_to_psf(stamps, fit.psf, np.arange(len(stamps)) + 1, used, reserved)


def test_stars_models_and_residuals_belong_together(compared):
    np.testing.assert_allclose(compared.images - compared.models, compared.residuals, atol=1e-3)
    np.testing.assert_allclose(compared.flux, 1e5, rtol=0.02)
    assert abs(np.median(compared.reduced_chi2) - 1) < 0.05
    assert not (compared.used & compared.reserved).any()
    assert compared.reserved.sum() == 64


def test_reserved_stars_have_the_size_of_the_model(compared):
    statistics = residual_statistics(compared)
    assert statistics.n_stars == 64
    # S/N 310 each: 4e-4 for the mean of 64
    assert abs(statistics.size) < 4 * statistics.size_err < 4e-3
    assert abs(statistics.e1) < 4 * statistics.e1_err < 8e-3
    assert statistics.size_scatter < 0.01


def test_first_order_shapes_agree_with_adaptive_moments(compared):
    shapes = measure_star_shapes(compared)
    size = 0.5 * (shapes.star_size / shapes.model_size - 1)
    assert (
        np.corrcoef(size[shapes.valid], compared.size_excess[shapes.valid])[0, 1] > 0.4
    )  # other weights, other noise


def test_rho_of_unrelated_residuals_vanishes_and_of_a_pattern_does_not(compared):
    shapes = measure_star_shapes(compared)
    edges = np.array([50.0, 300.0, 900.0])
    rho = rho_statistics(compared.x, compared.y, shapes, edges=edges)
    noise = np.var((shapes.star_e1 - shapes.model_e1)[shapes.valid])
    assert np.all(np.abs(rho.rho[0]) < 10 * noise / np.sqrt(rho.n_pairs))
    assert np.all((rho.separation > edges[:-1]) & (rho.separation < edges[1:]))
    shapes.star_e1[:] = shapes.model_e1 + 0.01
    shapes.star_e2[:] = shapes.model_e2
    constant = rho_statistics(compared.x, compared.y, shapes, edges=edges)
    np.testing.assert_allclose(constant.rho[0], 1e-4, rtol=1e-6)


def test_no_star_gives_nan_not_an_error(compared):
    statistics = residual_statistics(compared, which=np.zeros(len(compared), bool))
    assert statistics.n_stars == 0
    assert np.isnan(statistics.size)


def test_the_report_tells_residuals_and_rho(compared):
    section = psf_residual_section(compared, 2000.0)
    assert "Mean residuals of 64 stars (reserved)" in section
    assert f"{residual_statistics(compared).size:+.5f}" in section
    assert "<th>ρ5</th>" in section
    assert section.count("<tr><td>") == 5  # bins of separation
    alone = replace(compared, reserved=np.arange(len(compared)) == 3)
    assert "Too few stars" in psf_residual_section(alone, 2000.0)
