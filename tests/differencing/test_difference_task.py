"""The whole difference: both directions, calibration, sources, bad input, real data."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits
from tests.differencing.conftest import add_gaussians, make_pair

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.differencing.dipoles import fit_dipole
from starmill.differencing.noise import image_variance
from starmill.errors import AlgorithmError, InputError, StarmillError
from starmill.tasks.difference import DifferenceConfig, DifferenceTask
from starmill.tasks.measure_difference import MeasureDifferenceTask


@pytest.fixture(scope="module", params=["template", "science"])
def outcome(request):
    """Return a pair and its difference; the science image of the second is sharper."""
    widths = {"template": {}, "science": {"sigma_template": 1.8, "sigma_science": 1.3}}[request.param]
    pair = make_pair(**widths)
    return request.param, pair, DifferenceTask().run(template=pair.template, science=pair.science)


def test_direction_and_scale(outcome):
    direction, pair, result = outcome
    assert result.direction == direction
    truth = pair.ratio if direction == "template" else 1 / pair.ratio
    assert result.kernel_sum == pytest.approx(truth, abs=5 * result.kernel_sum_error + 0.002)
    assert result.quality.good, result.quality.verdict


def test_a_border_that_was_not_searched_is_subtracted(outcome):
    """EDGE of a detection on the inputs says nothing against their pixels."""
    _, pair, result = outcome
    template, science = pair.template.copy(), pair.science.copy()
    for one in (template, science):
        one.mask.set("EDGE", (slice(0, 6), slice(None)))
    again = DifferenceTask().run(template=template, science=science).difference
    np.testing.assert_array_equal(again.image, result.difference.image)
    np.testing.assert_array_equal(again.mask.any("NO_DATA"), result.difference.mask.any("NO_DATA"))
    assert again.mask.any("EDGE")[:6].all()


def test_a_prepared_template_gives_the_same_difference(outcome):
    """Also the second time, when what the first epoch needed of the template is kept."""
    _, pair, result = outcome
    task = DifferenceTask()
    prepared = task.prepare(pair.template)
    for _ in range(2):
        again = task.run(template=prepared, science=pair.science)
        for name in ("difference", "score"):
            np.testing.assert_array_equal(getattr(again, name).image, getattr(result, name).image)
            np.testing.assert_array_equal(getattr(again, name).variance, getattr(result, name).variance)


def test_noise_is_calibrated(outcome):
    _, _, result = outcome
    assert result.quality.sky_width == pytest.approx(1, abs=0.03)
    score = result.score.image[~result.difference.mask.any("NO_DATA")]
    width = np.subtract(*np.percentile(score, [84.13, 15.87])) / 2
    assert width == pytest.approx(1, abs=0.06)  # 320^2 pixels hold some 3000 independent values


def test_transients_are_found_with_their_flux(outcome):
    _, pair, result = outcome
    measured = MeasureDifferenceTask().run(
        difference=result.difference, score=result.score, positions=(pair.new_x, pair.new_y)
    )
    catalog = measured.catalog
    for x, y in zip(pair.new_x, pair.new_y, strict=True):
        assert np.hypot(catalog["x"] - x, catalog["y"] - y).min() < 1.0
    pull = (measured.forced_flux - pair.new_flux) / measured.forced_flux_err
    assert np.abs(np.median(pull)) < 2.5  # the median of six
    near = np.hypot(catalog["x"][:, None] - pair.new_x, catalog["y"][:, None] - pair.new_y).min(axis=1) < 6
    assert (~near).sum() <= 2


def test_inputs_are_not_changed(pair):
    before = pair.science.image.copy(), pair.template.image.copy(), pair.science.mask.array.copy()
    DifferenceTask(DifferenceConfig(kernel_order=0, sum_order=0)).run(
        template=pair.template, science=pair.science
    )
    np.testing.assert_array_equal(before[0], pair.science.image)
    np.testing.assert_array_equal(before[1], pair.template.image)
    np.testing.assert_array_equal(before[2], pair.science.mask.array)


@pytest.mark.parametrize(
    "settings",
    [
        {"basis": "delta", "kernel_half_width": 4},
        {"family": "bspline", "kernel_order": 1, "degrees": [1, 1, 0]},
        {"decorrelate": "always"},
    ],
)
def test_other_settings_work(pair, settings):
    config = DifferenceConfig(**{"kernel_order": 0, "sum_order": 0, **settings})
    result = DifferenceTask(config).run(template=pair.template, science=pair.science)
    assert result.kernel_sum == pytest.approx(pair.ratio, abs=0.02)
    assert result.quality.sky_width == pytest.approx(1, abs=0.05)


def broken(pair, **changes):
    """Return a science exposure with other image, mask or variance."""
    image = changes.get("image", pair.science.image.copy())
    mask = Mask(np.zeros(image.shape, np.int32))
    if "bad" in changes:
        mask.set("BAD", changes["bad"])
    return Exposure(image, mask, changes.get("variance", pair.science.variance.copy()), unit="adu")


def test_bad_images_are_typed_errors(pair):
    shape = pair.science.shape
    cases = {
        "all masked": broken(pair, bad=np.ones(shape, bool)),
        "all nan": broken(pair, image=np.full(shape, np.nan, "f4")),
        "constant": broken(pair, image=np.full(shape, 100.0, "f4")),
        "only noise": broken(pair, image=np.random.default_rng(1).normal(size=shape).astype("f4") + 100),
        "no variance": broken(pair, variance=np.zeros(shape, "f4")),
    }
    name_of = dict.fromkeys(cases, "unusable") | {"constant": "stamps|noise|seeing", "only noise": "stamps"}
    for name, science in cases.items():
        with pytest.raises(StarmillError, match=name_of[name]):
            DifferenceTask().run(template=pair.template, science=science)


def test_different_sizes_are_an_error(pair):
    small = Exposure(np.ones((50, 60), "f4"), None, np.ones((50, 60), "f4"))
    with pytest.raises(InputError, match="different pixels"):
        DifferenceTask().run(template=pair.template, science=small)
    brighter = Exposure(np.full((50, 60), 2, "f4"), None, np.ones((50, 60), "f4"))
    with pytest.raises(AlgorithmError):
        DifferenceTask().run(template=small, science=brighter)


def test_an_image_against_itself_is_refused(pair):
    """Also when a twentieth of its pixels differ: the noise of the rest cancels."""
    with pytest.raises(InputError, match=r"the same image: 100\.0% of \d+ usable pixels are equal"):
        DifferenceTask().run(template=pair.science, science=pair.science)
    changed = pair.science.copy()
    changed.image[::20] += 1
    with pytest.raises(InputError, match=r"the same image: 95\.0% of"):
        DifferenceTask().run(template=pair.science, science=changed)


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_nan_pixels_are_flagged_and_the_rest_is_right(pair, share):
    image = pair.science.image.copy()
    rng = np.random.default_rng(4)
    lost = np.zeros(image.shape, bool)
    if share < 0.1:
        lost = rng.random(image.shape) < share
    else:
        lost[:160] = True
    image[lost] = np.nan
    result = DifferenceTask(DifferenceConfig(kernel_order=0, sum_order=0)).run(
        template=pair.template, science=broken(pair, image=image)
    )
    bad = result.difference.mask.any("NO_DATA")
    assert bad[lost].all()
    assert np.isfinite(result.difference.image[~bad]).all()
    assert result.quality.sky_width == pytest.approx(1, abs=0.05)


def test_sky_subtracted_images_work(pair):
    science = broken(pair, image=pair.science.image - 300)
    template = Exposure(pair.template.image - 200, None, pair.template.variance, unit="adu")
    result = DifferenceTask(DifferenceConfig(kernel_order=0, sum_order=0)).run(
        template=template, science=science
    )
    assert result.kernel_sum == pytest.approx(pair.ratio, abs=0.01)


def test_dipole_is_fitted():
    y, x = np.mgrid[-12:13, -12:13]
    psf = np.exp(-(x**2 + y**2) / (2 * 1.8**2))
    psf /= psf.sum()
    rng = np.random.default_rng(5)
    image = rng.normal(0, 1, (60, 60))
    add_gaussians(image, [31.0], [30.0], [900.0], 1.8)
    add_gaussians(image, [28.5], [30.5], [-900.0], 1.8)
    good = np.zeros((60, 60), bool)
    dipole = fit_dipole(image, np.ones((60, 60)), good, psf, (32, 30, 28, 30), fwhm=4.2)
    assert dipole.is_dipole
    assert dipole.separation == pytest.approx(np.hypot(2.5, 0.5), abs=0.2)
    assert dipole.flux == pytest.approx(900, rel=0.1)


def subtract_alert(shared_data, name):
    """Return the header, the survey's difference and ours of the stamps of an alert, the alert kept out of the fit."""
    path = next(shared_data("diff_ztf_stamps").glob(f"{name}*.fits.gz"))
    with gzip.open(path) as file, fits.open(file) as hdus:
        science, template, survey = (
            hdus[name].data.astype("f4") for name in ("SCIENCE", "TEMPLATE", "DIFFERENCE")
        )
        header = dict(hdus[0].header)

    def exposure(image):
        return Exposure(image, None, image_variance(image, np.zeros(image.shape, bool), gain=6.2), unit="adu")

    config = DifferenceConfig(
        kernel_order=0, sum_order=0, background_order=0, wings=False, degrees=[2, 2, 0], psf_fwhm=2.2, kernel_half_width=7,
        clip=50.0, decorrelate="never",
    )  # fmt: skip
    center = (np.array([31.0]), np.array([31.0]))
    result = DifferenceTask(config).run(
        template=exposure(template), science=exposure(science), exclude=center
    )
    return header, survey, result


def test_supernova_2020oi(shared_data):
    """The flux in the difference of the public alert stamps agrees with the survey's own."""
    header, _, result = subtract_alert(shared_data, "ZTF20aaelulu")
    y, x = np.mgrid[-31:32, -31:32]
    flux = np.nansum(result.difference.image[np.hypot(x, y) <= 6])
    magnitude = float(header["MAGZPSCI"]) - 2.5 * np.log10(flux)
    assert magnitude == pytest.approx(float(header["MAGPSF"]), abs=0.1)
    assert result.quality.scale_error < 0.01


def test_a_variable_star_without_other_stars_has_no_photometric_scale(shared_data):
    """The flux is wrong by less than the stated error of the scale allows, and the verdict says why."""
    _, survey, result = subtract_alert(shared_data, "ZTF17aadcvhq")
    assert "photometric scale is uncertain" in result.quality.verdict
    y, x = np.mgrid[-31:32, -31:32]
    near = np.hypot(x, y) <= 5
    light = np.nansum((result.matched_template - np.nanmedian(result.matched_template))[near])
    wrong = np.nansum(result.difference.image[near]) - np.nansum(survey[near])
    assert abs(wrong) < 3 * abs(light) * result.quality.scale_error


def test_a_high_sky_of_the_template_changes_nothing(pair):
    """Seven thousand counts of sky under a kernel that varies: the background alone changes."""
    config = DifferenceConfig(kernel_order=2, sum_order=2, direction="template", decorrelate="never")
    high = pair.template.copy()
    high.image += np.float32(7000)
    low, raised = (
        DifferenceTask(config).run(template=t, science=pair.science) for t in (pair.template, high)
    )
    noise = np.sqrt(np.median(low.difference.variance))
    change = (raised.difference.image - low.difference.image)[~low.difference.mask.any("NO_DATA")]
    assert np.abs(change).max() < 0.05 * noise
    x, y = np.array([10.0, 100.0]), np.array([20.0, 90.0])
    moved = raised.background.field(x, y) - low.background.field(x, y)
    np.testing.assert_allclose(moved, -7000 * raised.kernel.sum_at(x, y), rtol=1e-3)
