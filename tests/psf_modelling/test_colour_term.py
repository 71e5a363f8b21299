"""A PSF that depends on the colour of the stars."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tests.psf_modelling.star_field import moffat

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import GaussianPsf, adaptive_moments, psf_from_dict
from starmill.errors import AlgorithmError, InputError
from starmill.io.exposure_file import read_exposure, write_exposure
from starmill.psf_modelling.candidates import extract_star_stamps
from starmill.psf_modelling.colour_term import fit_colour_term
from starmill.psf_modelling.moffat import fit_moffat_psf
from starmill.psf_modelling.pixel_grid import fit_pixel_grid_psf
from starmill.tasks.measure_psf import MeasurePsfConfig, MeasurePsfTask

SLOPE = 0.02  # relative change of the FWHM per magnitude


@pytest.fixture(scope="module")
def scene():
    """Stars of FWHM 3.6 pixels at colour 0.6, wider when bluer: image, variance, x, y, colour."""
    rng = np.random.default_rng(5)
    pixels, n = 800, 12
    nodes = np.linspace(40, pixels - 40, n)
    x, y = (a.ravel() + rng.uniform(-0.5, 0.5, n * n) for a in np.meshgrid(nodes, nodes))
    colour = rng.normal(0.6, 0.5, n * n)
    image = np.zeros((pixels, pixels))
    for a, b, c in zip(x, y, colour, strict=True):
        ix, iy = round(a), round(b)
        star = moffat(61, 3.6 * (1 - SLOPE * (c - 0.6)), a - ix, b - iy)
        image[iy - 30 : iy + 31, ix - 30 : ix + 31] += 2e5 * star
    variance = (image + 300).astype(np.float32)
    image = (rng.poisson(image + 300) - 300).astype(np.float32)
    return image, variance, x, y, colour


def width(kernels):
    xx, yy, _ = adaptive_moments(kernels).T
    return np.sqrt(xx + yy)


@pytest.fixture(scope="module")
def fitted(scene):
    image, variance, x, y, colour = scene
    box = Box.from_shape(image.shape)
    stamps = extract_star_stamps(image, variance, np.zeros(image.shape, np.int32), x, y, size=41)
    analytic, _, _ = fit_moffat_psf(stamps, box, 1.5)
    fit = fit_pixel_grid_psf(stamps, box, analytic, order=1)
    return stamps, fit, fit_colour_term(stamps, fit, colour)


def test_the_size_follows_the_colour(fitted):
    _, fit, (psf, used) = fitted
    assert used.mean() > 0.9
    x, y = np.full(3, 400.0), np.full(3, 400.0)
    sizes = width(psf.at_colour(psf.reference_colour + np.array([-0.5, 0.0, 0.5])).kernels_at(x, y))
    truth = width(np.array([moffat(41, 3.6 * (1 - SLOPE * c), 0, 0) for c in (-0.5, 0.0, 0.5)]))
    assert_allclose(sizes / sizes[1], truth / truth[1], atol=0.0015)
    assert_allclose(width(psf.kernels_at(x, y)), width(fit.psf.kernels_at(x, y)), rtol=1e-12)


def test_stars_are_described_better(scene, fitted):
    *_, colour = scene
    stamps, fit, (psf, used) = fitted
    images = stamps.images[used] / stamps.images[used].sum(axis=(1, 2), keepdims=True)

    def excess(model):
        models, _, _ = model.images_at(stamps.x[used], stamps.y[used])
        return width(images) / width(models) - 1

    slope = [
        np.polyfit(colour[used], excess(model), 1)[0] for model in (fit.psf, psf.at_colour(colour[used]))
    ]
    assert slope[0] == pytest.approx(-SLOPE, abs=0.003)
    assert abs(slope[1]) < 0.003


def test_colour_psf_can_be_written_and_read(fitted, tmp_path):
    _, _, (psf, _) = fitted
    red = psf.at_colour(2.0)
    again = psf_from_dict(red.to_dict())
    assert_allclose(again.image_at(300.3, 200.8)[0], red.image_at(300.3, 200.8)[0], atol=1e-15)
    write_exposure(Exposure(np.zeros((9, 9), np.float32), psf=red), tmp_path / "red.fits")
    from_file = read_exposure(tmp_path / "red.fits").psf
    assert_allclose(from_file.image_at(300.3, 200.8)[0], red.image_at(300.3, 200.8)[0], atol=1e-15)
    assert_allclose(again.at_colour(np.nan).kernel_at(), psf.kernel_at(), atol=1e-15)
    assert psf.colour_image.sum() == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="2 colours for 1 positions"):
        psf.at_colour([0.1, 0.2]).kernel_at(3, 4)


def test_too_few_colours_are_an_error(fitted):
    stamps, fit, _ = fitted
    for colour in (np.full(len(stamps), np.nan), np.full(len(stamps), 0.5)):
        with pytest.raises(AlgorithmError, match="colour term"):
            fit_colour_term(stamps, fit, colour)


def catalog_of(scene):
    """A catalogue with what the task needs, and a colour."""
    _, _, x, y, colour = scene
    n = len(x)
    shape = width(moffat(41, 3.6, 0, 0)[None])[0] ** 2 / 2
    values = {
        "id": np.arange(1, n + 1), "x": x, "y": y, "psf_flux": np.full(n, 2e5), "psf_flux_err": np.full(n, 500.0),
        "shape_xx": shape * (1 - 2 * SLOPE * (colour - 0.6)), "shape_yy": shape * (1 - 2 * SLOPE * (colour - 0.6)),
        "shape_xy": np.zeros(n), "g_r": np.where(np.arange(n) % 10 == 0, np.nan, colour),
    }  # fmt: skip
    columns = [Column(name, "i8" if name == "id" else "f8", "", name) for name in values]
    catalog = Catalog(Schema(columns), values, n=n)
    catalog.slots = {"shape": "shape", "psf_flux": "psf_flux"}
    return catalog


def test_the_task_takes_the_colour_from_a_column(scene):
    image, variance, *_ = scene
    exposure = Exposure(image, variance=variance, psf=GaussianPsf(1.5))
    config = MeasurePsfConfig(colour_column="g_r", order=1)
    result = MeasurePsfTask(config).run(exposure=exposure, catalog=catalog_of(scene))
    slope = width(result.psf.at_colour(1.1).kernels_at(400, 400)) / width(
        result.psf.at_colour(0.1).kernels_at(400, 400)
    )
    assert slope[0] - 1 == pytest.approx(-SLOPE, abs=0.003)
    assert np.abs(np.median(result.psf_stars.size_excess[result.psf_stars.used])) < 0.002
    with pytest.raises(InputError, match="no colour term"):
        MeasurePsfTask(MeasurePsfConfig(colour_column="g_r", determiner="moffat")).run(
            exposure=exposure, catalog=catalog_of(scene)
        )
    with pytest.raises(InputError, match="no_such"):
        MeasurePsfTask(MeasurePsfConfig(colour_column="no_such")).run(
            exposure=exposure, catalog=catalog_of(scene)
        )
