"""PSF models against the PSF that drew the stars."""

import numpy as np
import pytest
from tests.psf_modelling.star_field import moffat, star_field

from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import adaptive_moments, psf_from_dict
from starmill.datamodel.psf_models import MoffatPsf
from starmill.errors import AlgorithmError
from starmill.psf_modelling.moffat import fit_moffat_psf, fit_star_profiles
from starmill.psf_modelling.pixel_grid import analytic_basis, fit_pixel_grid_psf, render, sampling_operators
from starmill.psf_modelling.principal_components import cell_rank, fit_principal_component_psf


def shapes(kernels):
    xx, yy, xy = adaptive_moments(kernels).T
    return np.sqrt(xx + yy), (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def errors(psf, field):
    """Relative size and ellipticity errors on a grid over the field."""
    nodes = np.linspace(0.08, 0.92, 5) * field.box.width
    x, y = (a.ravel() for a in np.meshgrid(nodes, nodes))
    size, e1, e2 = shapes(psf.kernels_at(x, y))
    true_size, true_e1, true_e2 = shapes(field.true_kernels(x, y))
    return size / true_size - 1, e1 - true_e1, e2 - true_e2


@pytest.fixture(scope="module")
def quiet():
    return star_field(noise=False)


@pytest.fixture(scope="module")
def bright():
    return star_field(flux=2e5)


def fit(kind, stamps, field, **options):
    analytic, _, kept = fit_moffat_psf(stamps, field.box, 1.5)
    if kind == "moffat":
        return analytic, kept
    fitter = {"pixel_grid": fit_pixel_grid_psf, "pca": fit_principal_component_psf}[kind]
    result = fitter(stamps, field.box, analytic, **options)
    return result.psf, result.used


@pytest.mark.parametrize(("kind", "tolerance"), [("moffat", 1e-4), ("pixel_grid", 2e-4), ("pca", 3e-3)])
def test_noise_free_stars_give_the_psf(quiet, kind, tolerance):
    # the components are fewer than the terms of the variation and cannot follow it to the last digit
    psf, used = fit(kind, quiet.stamps(), quiet)
    size, e1, e2 = errors(psf, quiet)
    assert np.abs(size).max() < tolerance
    assert max(np.abs(e1).max(), np.abs(e2).max()) < tolerance
    assert used.all()


@pytest.mark.parametrize("kind", ["moffat", "pixel_grid", "pca"])
def test_noisy_stars_give_the_psf_within_the_noise(bright, kind):
    psf, used = fit(kind, bright.stamps(), bright)
    size, e1, e2 = errors(psf, bright)
    # 144 stars of S/N 440: 2e-4 for the mean, three times as much at the corners; a component that carries half of
    # a variation and half noise gets part of its coefficient
    factor = 3 if kind == "pca" else 1
    assert abs(size.mean()) < 1e-3 * factor
    assert max(abs(e1.mean()), abs(e2.mean())) < 5e-4 * factor
    assert np.abs(size).max() < 5e-3 * factor
    assert used.mean() > 0.9


def test_undersampled_stars_need_a_finer_grid():
    field = star_field(fwhm=1.8, gradient=0.0, flux=2e5)
    psf, _ = fit("pixel_grid", field.stamps(size=25), field, samples_per_pixel=2)
    images, x0, y0 = psf.images_at(field.x[:20], field.y[:20])
    for k in range(20):
        truth = moffat(25, 1.8, field.x[k] - x0[k] - 12, field.y[k] - y0[k] - 12)
        truth /= truth.sum()
        assert np.abs(images[k] - truth).max() < 0.02 * truth.max()


@pytest.mark.parametrize("kind", ["moffat", "pixel_grid", "pca"])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_few_stars_lower_the_order(bright, kind, n):
    stamps = bright.stamps().take(np.arange(0, 144, 144 // n)[:n])
    psf, _ = fit(kind, stamps, bright)
    size, _, _ = errors(psf, bright)
    assert np.abs(size).max() < 0.13  # the star in the corner is 0.11 smaller than those in the opposite one
    assert np.isfinite(psf.sigma_at())


def test_galaxies_and_neighbours_are_left_out(bright):
    image = bright.image.copy()
    rng = np.random.default_rng(8)
    wide = [5, 40, 77, 100]
    for k in wide:  # broaden a few "stars"
        ix, iy = int(bright.x[k] + 0.5), int(bright.y[k] + 0.5)
        image[iy - 20 : iy + 21, ix - 20 : ix + 21] += 1.5e5 * moffat(41, 7.0, 0.0, 0.0)
    for k in range(0, 144, 7):  # unmasked neighbours
        ix, iy = int(bright.x[k] + 0.5) + 7, int(bright.y[k] + 0.5) + rng.integers(-5, 6)
        image[iy - 10 : iy + 11, ix - 10 : ix + 11] += 2e4 * moffat(21, 3.6, 0.0, 0.0)
    contaminated = star_field(flux=2e5)
    contaminated.image = image
    psf, used = fit("pixel_grid", contaminated.stamps(), contaminated)
    assert not used[wide].any()
    size, _, _ = errors(psf, contaminated)
    assert abs(size.mean()) < 2e-3


def test_wrong_positions_are_recentred(bright):
    moved = star_field(flux=2e5)
    rng = np.random.default_rng(2)
    moved.x = moved.x + rng.normal(0, 0.1, 144)
    moved.y = moved.y + rng.normal(0, 0.1, 144)
    stamps = moved.stamps()
    with_centres, _ = fit("pixel_grid", stamps, moved)
    without, _ = fit("pixel_grid", stamps, moved, recentre=False)
    assert abs(errors(with_centres, moved)[0].mean()) < 1e-3
    assert errors(without, moved)[0].mean() > 1e-3  # 0.1 pixel of jitter broadens by 0.2 %


def test_masked_pixels_have_no_influence(bright):
    clean = bright.stamps()
    mask = bright.mask.copy()
    hit = np.random.default_rng(5).random(mask.shape) < 0.03
    mask[hit] = 1
    spoiled = star_field(flux=2e5)
    spoiled.image[hit] = 5e4
    spoiled.mask = mask
    stamps = spoiled.stamps(bad_bits=1)
    psf, _ = fit("pixel_grid", stamps, spoiled)
    reference, _ = fit("pixel_grid", clean, bright)
    size = errors(psf, bright)[0] - errors(reference, bright)[0]
    assert np.abs(size).max() < 2e-3  # 3 % of the pixels less


def test_too_few_stars_raise(bright):
    analytic, _, _ = fit_moffat_psf(bright.stamps(), bright.box, 1.5)
    nothing = bright.stamps().take(np.zeros(144, bool))
    for fitter in (fit_pixel_grid_psf, fit_principal_component_psf):
        with pytest.raises(AlgorithmError, match="0 stars for a PSF"):
            fitter(nothing, bright.box, analytic)
    with pytest.raises(AlgorithmError, match="needed") as caught:
        fit_pixel_grid_psf(bright.stamps(), bright.box, analytic, min_stars=500)
    assert caught.value.numbers["stars"] == 144
    blank = bright.stamps()
    blank.good[:] = False
    with pytest.raises(AlgorithmError, match="converged"):
        fit_moffat_psf(blank, bright.box, 1.5)


@pytest.mark.parametrize("profile", ["moffat", "gaussian"])
def test_star_profiles_give_flux_and_place(bright, profile):
    stamps = bright.stamps()
    found = fit_star_profiles(stamps, 1.5, profile=profile)
    assert found.converged.all()
    assert np.abs(found.dx - stamps.dx).max() < 0.03
    if profile == "moffat":
        assert abs(found.beta - 3.5) < 0.1
        np.testing.assert_allclose(found.flux, 2e5, rtol=0.02)
        assert abs(np.median(found.reduced_chi2) - 1) < 0.1
    else:
        assert np.isinf(found.beta)


def test_gaussian_determiner_is_a_gaussian(bright):
    psf, _, _ = fit_moffat_psf(bright.stamps(), bright.box, 1.5, profile="gaussian")
    kernel = psf.kernel_at()
    row = np.log(kernel[20, 18:23])
    np.testing.assert_allclose(np.diff(row, 2), np.diff(row, 2)[0], rtol=1e-6)
    copy = psf_from_dict(psf.to_dict())
    np.testing.assert_allclose(copy.kernel_at(), kernel, rtol=1e-12)


def test_rendering_equals_the_psf_object(bright):
    """The fit and the PSF object that comes out of it draw the same star."""
    for step in (1, 2):
        stamps = bright.stamps(size=31)
        analytic, _, _ = fit_moffat_psf(stamps, bright.box, 1.5)
        result = fit_pixel_grid_psf(stamps, bright.box, analytic, samples_per_pixel=step)
        psf = result.psf
        images, _, _ = psf.images_at(stamps.x[:5], stamps.y[:5])
        operators = sampling_operators(stamps.dx[:5], stamps.dy[:5], 31, psf.basis.shape[-1], step)
        models = render(
            psf.basis, psf.coefficients_at(stamps.x[:5], stamps.y[:5]).astype(np.float32), operators
        )
        models /= models.sum(axis=(1, 2), keepdims=True)
        images = images / images.sum(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(images, models, atol=1e-5 * images.max())


def test_analytic_basis_reproduces_the_analytic_psf():
    from starmill.datamodel.field import ChebyshevField, ConstantField

    box = Box(0, 0, 1000, 1000)
    fwhm = ChebyshevField(box, [[3.6, 0.1], [0.1, 0.0]])
    psf = MoffatPsf(fwhm, ConstantField(box, 0.03), ConstantField(box, -0.01), ConstantField(box, 3.5), 41)
    from starmill.datamodel.psf import PixelBasisPsf
    from starmill.psf_modelling.spatial_fit import unit_fields

    model = PixelBasisPsf(analytic_basis(psf, box, 2, 41, 1), unit_fields(box, 2))
    x = np.array([100.0, 500.0, 900.0])
    np.testing.assert_allclose(
        model.kernels_at(x, x), psf.kernels_at(x, x), atol=2e-4 * psf.kernel_at().max()
    )


def test_cells_rank_their_stars(bright):
    stamps = bright.stamps()
    flux = np.arange(144, dtype=float)
    rank = cell_rank(stamps, flux, np.ones(144, bool), bright.box, 256)
    cell = (stamps.y // 256).astype(int) * 4 + (stamps.x // 256).astype(int)
    for c in np.unique(cell):
        inside = np.flatnonzero(cell == c)
        np.testing.assert_array_equal(np.sort(rank[inside]), np.arange(len(inside)))
        assert rank[inside[np.argmax(flux[inside])]] == 0


def test_centroids_pulled_to_pixel_centres_do_not_widen_the_model():
    """Centroids of undersampled stars are off by a function of their place in the pixel; the model must not take it."""
    field = star_field(pixels=1024, fwhm=1.7, gradient=0.0, flux=3e5, seed=4)
    x, y = field.x.copy(), field.y.copy()
    for place in (field.x, field.y):
        place -= 0.07 * np.sin(2 * np.pi * (place - np.floor(place + 0.5)))
    stamps = field.stamps(size=25)
    analytic, _, _ = fit_moffat_psf(stamps, field.box, 0.75)
    result = fit_pixel_grid_psf(stamps, field.box, analytic, samples_per_pixel=2)
    assert np.sqrt(np.mean((result.x - x - np.mean(result.x - x)) ** 2)) < 0.01
    assert np.sqrt(np.mean((result.y - y - np.mean(result.y - y)) ** 2)) < 0.01
    assert result.used.sum() > 0.9 * len(x)
    centre = result.psf.kernel_at(512, 512)
    truth = moffat(25, 1.7, 0.0, 0.0)
    assert abs(centre[12, 12] / (truth / truth.sum())[12, 12] - 1) < 0.02
