"""The measurement task: plugins, flags, schema, slots, bad input."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from starmill.datamodel.catalog import Column
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import FootprintSet
from starmill.errors import AlgorithmError, ConfigError, InputError
from starmill.measurement.plugin import Plugin, SourcePlugin, register, registered_plugins
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import catalog_at, disk_footprints, star_field


@register
@dataclass(frozen=True)
class Broken(Plugin):
    name: ClassVar[str] = "broken_in_test"

    def columns(self):
        return [Column("broken_in_test", "f8", "", "never measured")]

    def measure(self, context):
        raise ZeroDivisionError("on purpose")


@register
@dataclass(frozen=True)
class Central(SourcePlugin):
    name: ClassVar[str] = "central_in_test"
    stamp_size: ClassVar[int] = 3

    def columns(self):
        return [Column("central_in_test", "f8", "electron", "value of the central pixel")]

    def measure_source(self, stamp):
        if stamp.index == 2:
            raise ValueError("this one fails")
        return {"central_in_test": stamp.image[1, 1]}


def run(exposure, catalog, **config):
    return SingleFrameMeasurementTask(SingleFrameMeasurementConfig(**config)).run(
        exposure=exposure, catalog=catalog
    )


def test_schema_is_known_before_and_equals_the_result():
    exposure, x, y = star_field(20000.0, side=3)
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=sorted(registered_plugins())))
    catalog = catalog_at(x, y, disk_footprints(x, y, 6))
    result = task.run(exposure=exposure, catalog=catalog).catalog
    assert dict(result.schema) == dict(task.output_schema(catalog.schema))
    for column in result.schema.values():
        assert column.description, column.name
    assert len(result) == 9
    assert result.footprints is catalog.footprints


def test_slots_and_lsst_names():
    exposure, x, y = star_field(20000.0, side=2)
    catalog = run(exposure, catalog_at(x, y)).catalog
    np.testing.assert_array_equal(catalog["slot_psf_flux_err"], catalog["psf_flux_err"])
    np.testing.assert_array_equal(catalog["slot_centroid_x"], catalog["x"])
    np.testing.assert_array_equal(catalog["base_PsfFlux_instFlux"], catalog["psf_flux"])
    np.testing.assert_array_equal(
        catalog["base_CircularApertureFlux_4_5_instFluxErr"], catalog["aperture_flux_4_5_err"]
    )
    np.testing.assert_array_equal(catalog["base_PixelFlags_flag_crCenter"], catalog["pixel_flag_cr_center"])
    assert "base_PsfFlux_instFluxErr" in catalog.extract("base_PsfFlux*")
    for theirs, ours in (
        ("slot_Centroid_xErr", "x_err"), ("slot_Shape_xx", "shape_xx"), ("slot_ApFlux_instFlux", "aperture_flux_12_0"),
        ("slot_PsfShape_yy", "psf_shape_yy"), ("slot_CalibFlux_flag", "aperture_flux_12_0_flag"),
        ("base_CircularApertureFlux_70_0_flag_apertureTruncated", "aperture_flux_70_0_flag_truncated"),
        ("base_GaussianFlux_flag_badShape", "gaussian_flux_flag_bad_shape"),
        ("base_PsfFlux_flag_noGoodPixels", "psf_flux_flag_no_good_pixels"),
        ("ext_photometryKron_KronFlux_flag_small_radius", "kron_flux_flag_small_radius"),
    ):  # fmt: skip
        np.testing.assert_array_equal(catalog[theirs], catalog[ours])
    moved = catalog.with_slots(aperture_flux="aperture_flux_6_0")
    np.testing.assert_array_equal(moved["slot_ApFlux_instFluxErr"], catalog["aperture_flux_6_0_err"])


def test_a_plugin_that_raises_becomes_a_flag_and_one_line(caplog):
    exposure, x, y = star_field(20000.0, side=3)
    result = run(
        exposure, catalog_at(x, y), plugins=["centroid", "broken_in_test", "central_in_test"]
    ).catalog
    assert result["broken_in_test_flag"].all()
    assert np.isnan(result["broken_in_test"]).all()
    assert result["central_in_test_flag"].sum() == 1
    assert np.isfinite(result["central_in_test"]).sum() == 8
    lines = [r.getMessage() for r in caplog.records if "raised" in r.getMessage()]
    assert len(lines) == 2
    assert "9 of 9" in lines[0]
    assert "1 of 9" in lines[1]


def test_unknown_plugin_and_option():
    with pytest.raises(ConfigError, match="did you mean 'psf_flux'"):
        SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=["psf_flx"]))
    with pytest.raises(ConfigError, match="did you mean 'radii'"):
        SingleFrameMeasurementTask(SingleFrameMeasurementConfig(options={"aperture_flux": {"radi": [3]}}))


def test_no_psf_is_an_error():
    exposure, x, y = star_field(20000.0, side=2)
    exposure.psf = None
    with pytest.raises(AlgorithmError, match="no PSF"):
        run(exposure, catalog_at(x, y))


@pytest.mark.parametrize("wrong", [None, np.zeros((3, 3)), {"x": [1.0]}, "image.fits"])
def test_wrong_kind_of_input_is_told_by_name(wrong):
    exposure, x, y = star_field(20000.0, side=2)
    with pytest.raises(InputError, match="needs an Exposure as exposure"):
        SingleFrameMeasurementTask().run(exposure=wrong, catalog=catalog_at(x, y))
    with pytest.raises(InputError, match="needs a Catalog as catalog"):
        SingleFrameMeasurementTask().run(exposure=exposure, catalog=wrong)


def test_empty_catalog():
    exposure, _, _ = star_field(20000.0, side=2)
    empty = FootprintSet.empty()
    catalog = run(exposure, catalog_at([], [], empty), plugins=sorted(registered_plugins())).catalog
    assert len(catalog) == 0
    assert "psf_flux" in catalog


def test_bad_sources_are_flags():
    """Edge, outside, NaN position, no footprint, NO_DATA: flags, never exceptions."""
    exposure, x, y = star_field(20000.0, side=3)
    exposure.mask.set("NO_DATA", np.s_[0:12, 50:70])
    exposure.image[0:12, 50:70] = np.nan
    bad_x = np.array([0.0, 60.0, np.nan, 500.0, -40.0, 1e30])
    bad_y = np.array([0.0, 5.0, 10.0, 10.0, -40.0, 1e30])
    n = 9 + len(bad_x)
    good = disk_footprints(x, y, 5)
    none = FootprintSet(np.zeros((0, 3), np.int32), np.zeros(len(bad_x) + 1, np.int64))
    footprints = FootprintSet.concatenate([good, none])
    catalog = catalog_at(np.r_[x, bad_x], np.r_[y, bad_y], footprints)
    result = run(exposure, catalog, plugins=sorted(set(registered_plugins()) - {"broken_in_test"})).catalog
    assert len(result) == n
    assert not result["psf_flux_flag"][:9].any()
    assert result["psf_flux_flag"][[11, 12, 13, 14]].all()
    assert result["centroid_flag"][[11, 12, 13, 14]].all()
    assert result["pixel_flag_off_image"][[11, 12, 13, 14]].all()
    assert result["psf_flux_flag_edge"][9]
    assert result["pixel_flag_no_data_center"][10]
    assert np.isfinite(result["psf_flux"][:9]).all()


def test_neighbours_do_not_count():
    """Two blended stars measured with heavy footprints give their own fluxes."""
    exposure, x, y = star_field(20000.0, side=3, noise=False)
    footprints = disk_footprints(x, y, 18)
    alone = run(exposure, catalog_at(x, y, footprints), plugins=["centroid", "psf_flux", "aperture_flux"],
                options={"aperture_flux": {"radii": [9]}}).catalog  # fmt: skip
    # a bright star in the gap between two footprints of the grid, within the wings of the aperture
    together = exposure.copy()
    extra, ex, ey = [41.0], [20.0], None
    del ey
    stamp, x0, y0 = exposure.psf.images_at(extra, ex)
    together.image[y0[0] : y0[0] + 25, x0[0] : x0[0] + 25] += 5e5 * stamp[0]
    xs, ys = np.r_[x, extra], np.r_[y, ex]
    small = FootprintSet.concatenate([disk_footprints(x, y, 9), disk_footprints(extra, ex, 12)])
    blended = run(together, catalog_at(xs, ys, small), plugins=["centroid", "psf_flux", "aperture_flux"],
                  options={"aperture_flux": {"radii": [9]}}).catalog  # fmt: skip
    sigma = np.sqrt(325 * np.pi * 81)
    assert np.abs(blended["aperture_flux_9_0"][:9] - alone["aperture_flux_9_0"]).max() < 5 * sigma


def test_result_does_not_depend_on_the_order_of_sources():
    exposure, x, y = star_field(20000.0, side=4)
    catalog = catalog_at(x, y, disk_footprints(x, y, 6))
    forward = run(exposure, catalog).catalog
    backward = run(exposure, catalog[::-1]).catalog
    for name in ("x", "psf_flux", "shape_xx", "aperture_flux_12_0"):
        np.testing.assert_array_equal(forward[name], backward[name][::-1])


def test_constant_image_gives_flags():
    exposure, x, y = star_field(20000.0, side=2)
    flat = Exposure(np.full(exposure.shape, 5.0), variance=exposure.variance, psf=exposure.psf)
    result = run(flat, catalog_at(x, y)).catalog
    assert result["centroid_flag_no_second_derivative"].all() or result["centroid_flag"].all()
    assert np.isfinite(result["x"]).all()
