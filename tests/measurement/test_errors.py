"""Errors of measurements beside the scatter over many draws of the noise."""

import numpy as np
import pytest
from astropy.wcs import WCS

from starmill.datamodel.catalog import Catalog, Schema
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import FootprintSet
from starmill.datamodel.psf import GaussianPsf
from starmill.measurement.galaxy_profiles import profile_mixtures
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import catalog_at, disk_footprints, star_field

FIRST = ["peak", "centroid", "shape", "psf_flux", "kron_flux"]


def measure(exposure, catalog, *plugins):
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=[*FIRST, *plugins]))
    return task.run(exposure=exposure, catalog=catalog).catalog


def width(values, errors):
    """Scatter over the root mean square of the errors."""
    good = np.isfinite(values) & np.isfinite(errors)
    assert good.mean() > 0.95
    return values[good].std() / np.sqrt((errors[good] ** 2).mean())


@pytest.fixture(scope="module", params=[3000.0, 20000.0, 100000.0])
def stars(request):
    """400 equal stars; the scatter is known to 3.5 per cent."""
    exposure, x, y = star_field(request.param, side=20, spacing=61, seed=int(request.param) + 7)
    catalog = catalog_at(x, y, disk_footprints(x, y, 7))
    found = measure(exposure, catalog, "half_light", "local_background", "petrosian_flux", "isophotal",
                    "regauss")  # fmt: skip
    return request.param, found, x, y


def test_half_light_radius(stars):
    _, found, _, _ = stars
    # 3 sigma of the scatter; the growth curve in steps of a pixel adds a little to bright stars
    assert width(found["half_light_radius"], found["half_light_radius_err"]) == pytest.approx(1.0, abs=0.12)


def test_moments_position_and_flux_of_the_shape(stars):
    _, found, x, y = stars
    for name in ("shape_xx", "shape_yy", "shape_xy", "shape_flux"):
        assert width(found[name], found[f"{name}_err"]) == pytest.approx(1.0, abs=0.11), name
    assert width(found["shape_x"] - x, found["shape_x_err"]) == pytest.approx(1.0, abs=0.11)
    assert width(found["shape_y"] - y, found["shape_y_err"]) == pytest.approx(1.0, abs=0.11)
    good = np.isfinite(found["shape_xx"])
    covariance = np.cov(found["shape_flux"][good], found["shape_xx"][good])[0, 1]
    assert covariance == pytest.approx(np.nanmean(found["shape_flux_xx_cov"]), rel=0.25)


def test_moments_with_a_free_centre(stars):
    _, found, _, _ = stars
    for part in ("xx", "yy", "xy"):
        assert width(found[f"hsm_{part}"], found[f"hsm_{part}_err"]) == pytest.approx(1.0, abs=0.11)


def test_isophotal_position_moments_and_flux(stars):
    """Neighbours of a pixel at the isophote of a small source lie at other distances: errors up to a third too large."""
    flux, found, x, y = stars
    assert 0.86 < width(found["isophotal_flux"], found["isophotal_flux_err"]) < 1.1
    for name, given in (("x", x), ("y", y), ("xx", 0), ("yy", 0), ("xy", 0)):
        ratio = width(found[f"isophotal_{name}"] - given, found[f"isophotal_{name}_err"])
        assert (0.75 if len(name) == 1 or flux > 5000 else 0.65) < ratio < 1.1, name


def test_kron_radius_of_stars(stars):
    """Half of the stars are measured smaller than the PSF, which is the smallest radius: the others tell the scatter."""
    _, found, _, _ = stars
    smallest = found["kron_psf_radius"]
    larger = found["kron_radius"] - smallest
    scale = np.median(found["kron_radius_err"])
    above = ~found["kron_flux_flag_small_radius"] & ~found["kron_flux_flag_bad_radius"]
    assert 0.4 < above.mean() < 0.65
    assert np.sqrt((larger[above] ** 2).mean()) / scale == pytest.approx(1.0, abs=0.25)


def test_local_background(stars):
    _, found, _, _ = stars
    assert width(found["local_background"], found["local_background_err"]) == pytest.approx(1.0, abs=0.11)


def test_petrosian_radius(stars):
    """The interpolated growth curve is smoother than its error assumes: up to a quarter too large, never too small."""
    _, found, _, _ = stars
    inside = ~found["petrosian_flux_flag"]
    assert 0.7 < width(found["petrosian_radius"][inside], found["petrosian_radius_err"][inside]) < 1.1


def test_local_variance():
    """A variance image with noise of its own: the median of it, drawn 400 times."""
    exposure, x, y = star_field(20000.0, side=20, spacing=41)
    rng = np.random.default_rng(3)
    exposure.variance = rng.normal(325, 20, exposure.shape).astype(np.float32)
    found = measure(exposure, catalog_at(x, y), "local_variance")
    value, error = found["local_variance"], found["local_variance_err"]
    assert ((value - 325) / error).std() == pytest.approx(1.0, abs=0.11)
    exposure.variance[...] = 325.0
    smooth = measure(exposure, catalog_at(x, y), "local_variance")
    assert (smooth["local_variance_err"] == 0).all()


@pytest.mark.parametrize("flux", [(3000.0, 6000.0), (20000.0, 30000.0)])
def test_blendedness(flux):
    """Pairs at 1.2 FWHM whose pixels are shared in fixed proportions, 400 draws of the noise at one place in the pixel."""
    sigma = 1.6
    exposure, x, y = star_field(flux[0], side=20, spacing=61, noise=False)
    x, y = np.round(x) + 0.2, np.round(y) - 0.3
    psf = exposure.psf
    own, other = np.zeros((2, *exposure.shape))
    for image, dx, f in ((own, 0.0, flux[0]), (other, 1.2 * 2.355 * sigma, flux[1])):
        stamps, x0, y0 = psf.images_at(x + dx, y)
        for stamp, i, j in zip(stamps, x0, y0, strict=True):
            image[j : j + stamp.shape[0], i : i + stamp.shape[1]] += f * stamp
    variance = own + other + 325
    rng = np.random.default_rng(8)
    exposure = Exposure(
        (own + other + rng.normal(0, np.sqrt(variance))).astype(np.float32),
        variance=variance.astype(np.float32), psf=psf,
    )  # fmt: skip
    both = disk_footprints(x, y, 6)
    share = (own + 1e-3) / (own + other + 2e-3)
    _, rows, columns = both.pixel_indices()
    values = (exposure.image * share)[rows, columns].astype(np.float32)
    heavy = FootprintSet(both.spans, both.span_offsets, both.peaks, both.peak_offsets, image=values)
    n = len(x)
    place = {"id": np.arange(1, n + 1), "parent": np.zeros(n, int), "x": x, "y": y}
    catalog = Catalog(Schema(), place, n=n, footprints=heavy)
    fixed = {"centroid": "forced_centroid", "shape": "forced_shape", "psf_flux": "psf_flux"}
    config = SingleFrameMeasurementConfig(
        plugins=["forced_centroid", "forced_shape", "psf_flux", "blendedness"], slots=fixed
    )
    # the weight given: the noise of the pixels alone
    found = SingleFrameMeasurementTask(config).run(exposure=exposure, catalog=catalog).catalog
    for name in ("blendedness", "blendedness_raw"):
        assert 0.05 < np.median(found[name]) < 0.6
        assert width(found[name], found[f"{name}_err"]) == pytest.approx(1.0, abs=0.12), name
    # the weight measured: mostly its errors
    found = measure(exposure, catalog, "blendedness")
    for name in ("blendedness", "blendedness_raw"):
        assert width(found[name], found[f"{name}_err"]) == pytest.approx(1.0, abs=0.45), name


def test_blendedness_of_a_lone_source_is_exactly_zero():
    exposure, x, y = star_field(20000.0, side=4)
    found = measure(exposure, catalog_at(x, y, disk_footprints(x, y, 6)), "blendedness")
    for name in ("blendedness", "blendedness_err", "blendedness_raw", "blendedness_raw_err"):
        np.testing.assert_allclose(found[name], 0, atol=1e-7)


@pytest.mark.parametrize(("flux", "wide"), [(100000.0, 1.01), (3000.0, 1.04), (20000.0, 1.015)])
def test_star_probability(flux, wide):
    """Sources a little larger than the PSF, for which the probability is undecided."""
    exposure, x, y = star_field(flux, side=20, spacing=41, seed=5)
    exposure.psf = GaussianPsf(1.6 / wide, 25)
    found = measure(
        exposure, catalog_at(x, y, disk_footprints(x, y, 7)), "star_probability", "size_extendedness"
    )
    value, error = found["star_probability"], found["star_probability_err"]
    assert 0.1 < value.mean() < 0.95
    assert (error < 0.51).all()
    # the error belongs to the measured numbers, not to the true ones, of a function that is far from linear
    assert 0.65 < width(value, error) < 1.3
    assert 0.65 < width(found["size_extendedness"], found["size_extendedness_err"]) < 1.3


def test_galaxy_models_and_shapes_without_the_psf():
    """196 draws of one galaxy of index 1.4: each width is known to 5 per cent."""
    mixtures = profile_mixtures()
    amplitudes = mixtures.table[np.argmin(np.abs(mixtures.log_indices - np.log(1.4)))]
    exposure, x, y = star_field(1.0, side=14, spacing=61, noise=False)
    yy, xx = np.mgrid[-30:31, -30:31]
    galaxy = np.zeros(xx.shape)
    for amplitude, variance in zip(amplitudes, mixtures.variances, strict=True):
        covariance = np.array([[9.0, 1.8], [1.8, 5.4]]) * variance + 1.6**2 * np.eye(2)
        (a, b), (_, c) = np.linalg.inv(covariance)
        q = a * (xx - 0.2) ** 2 + 2 * b * (xx - 0.2) * (yy + 0.3) + c * (yy + 0.3) ** 2
        galaxy += amplitude * np.exp(-0.5 * q) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    image = np.zeros(exposure.shape)
    for i, j in zip(np.round(x).astype(int), np.round(y).astype(int), strict=True):
        image[j - 30 : j + 31, i - 30 : i + 31] += 60000 * galaxy
    variance = (image + 325).astype(np.float32)
    image += np.random.default_rng(4).normal(0, np.sqrt(variance))
    exposure = Exposure(image.astype(np.float32), variance=variance, psf=exposure.psf)
    catalog = catalog_at(np.round(x), np.round(y), disk_footprints(x, y, 12))
    found = measure(exposure, catalog, "isophotal", "gaussian_flux", "sersic_flux", "cmodel_flux", "regauss")
    for name in ("sersic_flux", "sersic_index", "sersic_radius", "sersic_xx", "sersic_yy", "sersic_xy", "cmodel_flux",
                 "cmodel_radius", "cmodel_exp_radius"):  # fmt: skip
        assert width(found[name], found[f"{name}_err"]) == pytest.approx(1.0, abs=0.2), name
    for name in ("regauss_e1", "regauss_e2", "regauss_resolution", "hsm_xx", "hsm_yy", "hsm_xy", "kron_radius",
                 "isophotal_xx", "isophotal_yy", "isophotal_xy", "isophotal_flux"):  # fmt: skip
        assert width(found[name], found[f"{name}_err"]) == pytest.approx(1.0, abs=0.15), name
    for prefix in ("sersic", "isophotal"):
        for axis, given in (("x", np.round(x)), ("y", np.round(y))):
            ratio = width(found[f"{prefix}_{axis}"] - given, found[f"{prefix}_{axis}_err"])
            assert ratio == pytest.approx(1.0, abs=0.2), prefix


def test_without_variance_there_are_no_errors():
    exposure, x, y = star_field(20000.0, side=3)
    bare = Exposure(exposure.image, psf=exposure.psf)
    found = measure(bare, catalog_at(x, y, disk_footprints(x, y, 7)), "isophotal", "regauss")
    for name in ("isophotal_x", "isophotal_xx", "kron_radius", "hsm_xx", "regauss_e1", "regauss_resolution"):
        assert np.isfinite(found[name]).any(), name
        assert np.isnan(found[f"{name}_err"]).all(), name


@pytest.mark.parametrize("slot", ["isophotal", "centroid", "shape"])
def test_every_centroid_with_errors_gives_the_sky_position_errors(slot):
    """Also one without a covariance of x and y."""
    exposure, x, y = star_field(20000.0, side=3)
    exposure.wcs = WCS(naxis=2)
    exposure.wcs.wcs.ctype, exposure.wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-1e-4, 1e-4]
    plugins = ["isophotal", "peak", "centroid", "shape", "sky", "blendedness"]
    slots = {"centroid": slot, "shape": "shape", "psf_shape": "psf_shape"}
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=plugins, slots=slots))
    found = task.run(exposure=exposure, catalog=catalog_at(x, y, disk_footprints(x, y, 7))).catalog
    assert not [key for key in task.metadata if key.endswith("_failures")]
    np.testing.assert_allclose(found["ra_err"], 1e-4 * found[f"{slot}_x_err"], rtol=1e-3)
