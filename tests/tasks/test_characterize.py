"""The characterisation of an exposure, and the PSF tasks it is made of."""

import numpy as np
import pytest

import starmill
from starmill.datamodel.exposure import Exposure, ObservationInfo
from starmill.datamodel.psf import GaussianPsf, PixelBasisPsf
from starmill.datamodel.psf_models import MoffatPsf
from starmill.errors import AlgorithmError, ConfigError, NoDataError
from starmill.tasks.base import Result, Task
from starmill.tasks.characterize import CharacterizeImageConfig, CharacterizeImageTask, check_pixels
from starmill.tasks.install_psf import InstallGaussianPsfConfig, InstallGaussianPsfTask
from starmill.tasks.measure_psf import MeasurePsfConfig, MeasurePsfTask
from starmill.tasks.subtract_background import SubtractBackgroundConfig
from tests.psf_modelling.star_field import moffat, star_field


def exposure_of(field, sky=300.0):
    return Exposure(
        field.image + np.float32(sky), field.mask.copy(), field.variance, info=ObservationInfo(exposure_id=7)
    )


@pytest.fixture(scope="module")
def field():
    return star_field(n_side=10, pixels=640, flux=lambda rng, n: 10 ** rng.uniform(3.6, 5.2, n))


@pytest.fixture(scope="module")
def exposure(field):
    made = exposure_of(field)
    rng = np.random.default_rng(4)
    for _ in range(20):  # cosmic rays
        x, y = rng.integers(20, 600, 2)
        made.image[y, x : x + 4] += 3000
    made.image[:, 200] = 0
    made.mask.array[:, 200] |= 1
    return made


@pytest.fixture(scope="module")
def task():
    return CharacterizeImageTask()


@pytest.fixture(scope="module")
def result(task, exposure):
    return task.run(exposure=exposure)


def match(field, catalog):
    d = np.hypot(catalog["x"][None] - field.x[:, None], catalog["y"][None] - field.y[:, None])
    return d.argmin(axis=1), d.min(axis=1)


def test_sources_psf_and_background_are_found(field, result):
    nearest, distance = match(field, result.catalog)
    clear = np.abs(field.x - 200) > 6
    assert (distance[clear] < 1).mean() > 0.98
    bright = clear & (field.flux > 2e4)
    ratio = result.catalog["psf_flux"][nearest][bright] / field.flux[bright]
    assert abs(np.median(ratio) - 1) < 0.005
    assert isinstance(result.exposure.psf, PixelBasisPsf)
    kernel = field.true_kernels(np.array([320.0]), np.array([320.0]))[0]
    from starmill.datamodel.psf import adaptive_moments

    true_sigma = adaptive_moments(kernel[None])[0][:2].mean() ** 0.5
    assert abs(result.exposure.psf.sigma_at(320, 320) / true_sigma - 1) < 0.01
    total = sum(part.mean() for part in result.background)
    assert abs(total - 300) < 1.0
    assert result.characterized is result.exposure


def test_psf_stars_and_their_flags(result):
    stars = result.psf_stars
    assert stars.used.sum() > 30
    assert len(stars) == result.psf_catalog["psf_candidate"].sum()
    assert result.catalog["psf_used"].sum() >= 0.95 * stars.used.sum()
    assert not result.is_psf_fallback
    np.testing.assert_allclose(stars.images - stars.models, stars.residuals, atol=1e-2)
    assert set(result.psf_catalog["id"][result.psf_catalog["psf_used"]]) == set(stars.id[stars.used])


def test_cosmic_rays_are_gone(field, exposure, result):
    hit = np.argwhere(exposure.image - field.image > 2000)
    assert len(hit) > 40
    found = result.exposure.mask.any("CR")[hit[:, 0], hit[:, 1]]
    assert found.mean() > 0.9


def test_the_input_is_not_changed(field, exposure, result):
    again = exposure_of(field)
    untouched = ~exposure.mask.any("BAD")
    assert np.median(np.abs(exposure.image - again.image)[untouched]) == 0
    assert not exposure.mask.any("CR", "DETECTED").any()
    assert exposure.psf is None


def test_running_again_gives_the_same_bits(task, exposure, result):
    first = task.full_metadata()
    second = task.run(exposure=exposure)
    for name in ("psf_flux", "x", "shape_xx"):
        np.testing.assert_array_equal(second.catalog[name], result.catalog[name])
    np.testing.assert_array_equal(second.exposure.image, result.exposure.image)
    assert set(task.full_metadata()) == set(first)


@pytest.mark.parametrize("keep", [True, False])
def test_pixels_used_in_place_or_kept_for_a_debug_hook_give_the_same_bits(exposure, result, keep):
    shown = []
    hook = (lambda name, **items: shown.append((name, items))) if keep else None
    again = CharacterizeImageTask(debug=hook).run(exposure=exposure.copy(), in_place=True)
    assert again.exposure.image.tobytes() == result.exposure.image.tobytes()
    assert again.exposure.mask.array.tobytes() == result.exposure.mask.array.tobytes()
    assert again.exposure.variance.tobytes() == result.exposure.variance.tobytes()
    assert again.catalog["psf_flux"].tobytes() == result.catalog["psf_flux"].tobytes()
    rounds = [items["exposure"] for name, items in shown if name == "background_iter"]
    assert len(rounds) == (2 if keep else 0)
    if keep:  # what a hook has kept of a round is not changed by the rounds after it
        assert not np.array_equal(rounds[0].image, rounds[1].image)


def test_the_border_is_that_of_the_last_detection():
    """A first, wider Gaussian does not leave its wider border; what came as EDGE stays."""
    given = exposure_of(star_field(n_side=6, pixels=384))
    given.mask.set("EDGE", (slice(100, 103), slice(150, 153)))
    wide = {"install_psf.fwhm": 7.0, "psf_iterations": 1}
    found = CharacterizeImageTask(CharacterizeImageConfig().override(wide)).run(exposure=given).exposure
    edge, sigma = found.mask.any("EDGE"), found.psf.sigma_at()
    border = int(7 * sigma + 0.5) // 2
    assert border < int(7 * 7.0 / 2.3548 + 0.5) // 2
    expected = given.mask.any("EDGE")
    expected[:border], expected[-border:], expected[:, :border], expected[:, -border:] = (True,) * 4
    np.testing.assert_array_equal(edge, expected)


class KeepBackgroundConfig(SubtractBackgroundConfig):
    """Nothing more."""


class KeepBackgroundTask(Task):
    """A user's part that knows nothing of pixels in place and hands on what it was given."""

    Config = KeepBackgroundConfig

    def run(self, *, exposure, background=None):
        return Result(exposure=exposure, background=list(background or []), mesh=None)


def test_parts_of_a_user_need_not_know_of_pixels_in_place(field):
    config = CharacterizeImageConfig().override(
        {
            "background.task": "KeepBackgroundTask",
            "detect.background.task": "KeepBackgroundTask",
            "deep": False,
        }
    )
    given = exposure_of(field, sky=0.0)
    before = given.copy()
    found = CharacterizeImageTask(config).run(exposure=given)
    assert len(found.catalog) > 50
    assert found.background == []
    for plane in ("image", "variance"):
        np.testing.assert_array_equal(getattr(given, plane), getattr(before, plane))
    np.testing.assert_array_equal(given.mask.array, before.mask.array)
    assert found.exposure.mask.any("DETECTED").any()


def test_metadata_tells_the_cost_of_every_part(task, result):
    records = task.full_metadata()
    parts = ("detect", "measure_psf", "detect:background")
    assert {"characterize", *(f"characterize:{part}" for part in parts)} <= set(records)
    assert records["characterize"]["run_cpu_seconds"] > 0
    assert records["characterize:measure_psf"]["n_used"] == result.psf_stars.used.sum()
    assert task.subtasks["detect"].full_name == "characterize.detect"


@pytest.mark.parametrize(
    "changes", [{}, {"deep": False}, {"deep": False, "deblend_bright": True}, {"correct_apertures": True}]
)
def test_the_columns_are_known_before_anything_runs(exposure, changes):
    task = CharacterizeImageTask(CharacterizeImageConfig().override(changes))
    empty = task.empty_catalog()
    assert len(empty) == 0
    found = task.run(exposure=exposure).catalog
    assert set(found.names) == set(empty.names)


def test_debug_hook_shows_every_stage(exposure):
    seen = []
    CharacterizeImageTask(debug=lambda name, **items: seen.append((name, sorted(items)))).run(
        exposure=exposure
    )
    names = [name for name, _ in seen]
    for name in ("background_iter", "repair_iter", "measure_iter", "psf"):
        assert names.count(name) >= 2
    assert names.index("repair") < names.index("measure")


def test_without_psf_measurement_the_psf_is_kept(exposure):
    given = Exposure(exposure.masked_image, psf=GaussianPsf(1.6))
    task = CharacterizeImageTask(CharacterizeImageConfig(measure_psf_model=False))
    result = task.run(exposure=given)
    assert result.exposure.psf is given.psf
    assert result.psf_stars is None
    assert len(result.catalog) > 50


@pytest.mark.parametrize(
    ("determiner", "kind"), [("pca", PixelBasisPsf), ("moffat", MoffatPsf), ("gaussian", MoffatPsf)]
)
def test_other_determiners(field, exposure, result, determiner, kind):
    changes = {"measure_psf.determiner": determiner, "deep": False, "measure_psf.reserve_fraction": 0.2}
    other = starmill.characterize(exposure, changes)
    assert isinstance(other.exposure.psf, kind)
    assert other.psf_stars.reserved.sum() > 5
    if determiner != "gaussian":
        assert abs(other.exposure.psf.sigma_at(320, 320) / result.exposure.psf.sigma_at(320, 320) - 1) < 0.02


def empty_image(**changes):
    rng = np.random.default_rng(1)
    image = rng.normal(300, 17, (256, 256)).astype(np.float32)
    return Exposure(image, None, np.full(image.shape, 300, np.float32), **changes)


def test_no_stars_is_an_error_unless_a_gaussian_is_allowed():
    with pytest.raises(AlgorithmError, match="no source is fit for a PSF star"):
        CharacterizeImageTask().run(exposure=empty_image())
    task = CharacterizeImageTask(CharacterizeImageConfig().override({"measure_psf.allow_gaussian": True}))
    result = task.run(exposure=empty_image())
    assert result.is_psf_fallback
    assert "no source" in result.message
    assert isinstance(result.exposure.psf, GaussianPsf)
    assert task.full_metadata()["characterize:measure_psf"]["is_fallback"]
    assert result.psf_stars is None


def spoiled(what):
    made = empty_image()
    if what == "nan":
        made.image[:] = np.nan
    elif what == "masked":
        made.mask.array[:] = 1
    elif what == "constant":
        made.image[:] = 5
    elif what == "zero variance":
        made.variance[:] = 0
    elif what == "negative variance":
        made.variance[:] = -1
    return made


@pytest.mark.parametrize(
    ("what", "message"),
    [("nan", "masked or not finite"), ("masked", "masked or not finite"), ("constant", "same value"),
     ("zero variance", "positive variance"), ("negative variance", "positive variance")],
)  # fmt: skip
def test_a_bad_image_is_a_typed_error_with_numbers(what, message):
    with pytest.raises(AlgorithmError, match=message) as caught:
        CharacterizeImageTask().run(exposure=spoiled(what))
    assert caught.value.numbers["pixels"] == 65536


def test_an_image_without_pixels_is_nothing_to_do():
    with pytest.raises(NoDataError):
        check_pixels(Exposure(np.zeros((0, 5), np.float32)))


def test_unknown_configuration_is_refused():
    with pytest.raises(ConfigError, match="psf_iterations"):
        starmill.characterize(empty_image(), {"psf_iteration": 3})


def test_a_psf_without_size_is_refused():
    class Broken(GaussianPsf):
        def sigma_at(self, x=None, y=None):
            return float("nan")

    broken = Broken(1.5)
    with pytest.raises(AlgorithmError, match="PSF sigma is nan"):
        InstallGaussianPsfTask().run(exposure=empty_image(psf=broken))
    task = CharacterizeImageTask(CharacterizeImageConfig(measure_psf_model=False))
    with pytest.raises(AlgorithmError, match=r"size|sigma"):
        task.run(exposure=empty_image(psf=broken))


def test_install_psf_keeps_the_width_of_the_present_psf():
    task = InstallGaussianPsfTask(InstallGaussianPsfConfig(fwhm=4.0, size=21))
    fresh = task.run(exposure=empty_image())
    assert abs(fresh.psf.fwhm_at() - 4.0) < 0.01
    assert fresh.psf.size == 21
    present = MoffatLike()
    again = task.run(exposure=empty_image(psf=present))
    assert abs(again.sigma - present.sigma_at()) < 1e-12
    assert again.psf.size == present.size


def MoffatLike():
    kernel = moffat(31, 3.0, 0, 0)
    from starmill.datamodel.field import ConstantField
    from starmill.datamodel.geometry import Box

    return PixelBasisPsf(kernel[None] / kernel.sum(), [ConstantField(Box(0, 0, 256, 256), 1.0)])


def test_measure_psf_alone_leaves_its_input(field, exposure, result):
    task = MeasurePsfTask(MeasurePsfConfig(reserve_fraction=0.3))
    catalog = result.psf_catalog.without_columns("psf_candidate", "psf_used", "psf_reserved")
    found = task.run(exposure=result.exposure, catalog=catalog)
    assert "psf_used" not in catalog
    flags = found.catalog["psf_used"] & found.catalog["psf_reserved"]
    assert not flags.any()
    assert found.exposure.psf is found.psf
    assert found.exposure.image is result.exposure.image


def test_help_explains_every_field():
    text = CharacterizeImageConfig.help()
    for name in (
        "psf_iterations",
        "measure_psf.determiner",
        "detect.threshold",
        "repair.",
        "background.bin_size",
    ):
        assert name in text
    assert all(row["description"] for row in CharacterizeImageConfig.describe())
