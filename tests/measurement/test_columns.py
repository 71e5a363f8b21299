"""Every measurement: value, error, general flag, flags that give the reason, unit and description."""

from fnmatch import fnmatch

import numpy as np
import pytest
from astropy.units import Unit

import starmill.measurement.plugins as package
from starmill.datamodel.catalog import Column
from starmill.io.tables import read_catalog, write_catalog
from starmill.measurement.plugin import registered_plugins
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import catalog_at, disk_footprints, star_field

PLUGINS = {
    name: cls for name, cls in registered_plugins().items() if cls.__module__.startswith(package.__package__)
}

WITHOUT_ERROR = {  # pattern of a column: why it has no error
    "peak_[xy]": "a pixel",
    "*_area": "a number of pixels, or the area of a given outline",
    "input_count": "a number of images",
    "*_n_pixels": "a number of pixels",
    "*_mask_bits": "bits",
    "*_chi2": "a statistic of a fit, its scatter follows from the number of pixels",
    "forced_*": "given, not measured",
    "psf_shape_*": "a property of the model of the PSF",
    "kron_psf_radius": "a property of the model of the PSF",
    "joint_psf_flux_overlap": "a property of the positions and of the model of the PSF",
    "local_background_scatter": "a scatter of pixels",
    "extendedness": "a class, 0 or 1",
}
ONE_REASON = {  # general flags with a single reason, which their description gives
    "peak_flag", "footprint_area_flag", "forced_centroid_flag", "forced_shape_flag", "input_count_flag",
}  # fmt: skip
WITHOUT_UNIT = ("*_mask_bits", "*_chi2", "*_n_pixels", "*_overlap", "input_count", "cmodel_frac_*", "regauss_*",
                "sersic_index*", "*extendedness*", "star_probability*", "concentration*", "blendedness*")  # fmt: skip


def of_kind(columns):
    """Split columns into values, errors (and covariances), general and reason flags."""
    flags = [c for c in columns if c.is_flag]
    numbers = [c for c in columns if not c.is_flag]
    errors = [c for c in numbers if c.name.endswith(("_err", "_cov"))]
    general = [c for c in flags if c.name.endswith("_flag")]
    return [c for c in numbers if c not in errors], errors, general, [c for c in flags if c not in general]


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_columns_of_a_plugin(name):
    plugin = PLUGINS[name]()
    columns = plugin.all_columns()
    names = {c.name for c in columns}
    values, errors, general, reasons = of_kind(columns)
    for column in columns:
        assert column.description.strip(), column.name
        assert column.description.strip() != column.name
        if not column.is_flag and not any(fnmatch(column.name, p) for p in WITHOUT_UNIT):
            assert column.unit, column.name
            Unit(column.unit)
    for column in values:
        if not any(fnmatch(column.name, pattern) for pattern in WITHOUT_ERROR):
            assert f"{column.name}_err" in names, column.name
    for column in errors:
        stem = column.name.removesuffix("_err")
        if stem != column.name:
            assert column.unit == next(c.unit for c in columns if c.name == stem)
    assert plugin.flag_name in {c.name for c in general}
    if plugin.flag_name not in ONE_REASON:
        assert reasons, f"{name} has no flag that gives a reason"


def test_exceptions_are_used():
    """A reason for a column that has an error, or is gone, would be a lie."""
    names = {c.name for cls in PLUGINS.values() for c in cls().all_columns()}
    for pattern in (*WITHOUT_ERROR, *ONE_REASON, *WITHOUT_UNIT):
        assert any(fnmatch(n, pattern) for n in names), pattern
    for pattern in WITHOUT_ERROR:
        having = [n for n in names if fnmatch(n, pattern) and f"{n}_err" in names]
        assert pattern == "forced_*" or not having, pattern


@pytest.fixture(scope="module")
def troubled():
    """Good stars beside sources at the edge, outside, without position, in a hole, without footprint, without light."""
    exposure, x, y = star_field(20000.0, side=4)
    exposure.mask.set("NO_DATA", np.s_[80:110, 50:70])
    exposure.image[80:110, 50:70] = np.nan
    exposure.image[0:30, 60:80] = -500.0
    bad_x = np.array([0.0, 60.0, np.nan, 500.0, -40.0, 1e30, 70.0])
    bad_y = np.array([0.0, 95.0, 10.0, 10.0, -40.0, 1e30, 15.0])
    from starmill.datamodel.footprint import FootprintSet

    none = FootprintSet(np.zeros((0, 3), np.int32), np.zeros(len(bad_x) + 1, np.int64))
    footprints = FootprintSet.concatenate([disk_footprints(x, y, 5), none])
    catalog = catalog_at(np.r_[x, bad_x], np.r_[y, bad_y], footprints)
    return exposure, catalog


@pytest.fixture(scope="module")
def measured(troubled):
    exposure, catalog = troubled
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=sorted(PLUGINS)))
    result = task.run(exposure=exposure, catalog=catalog).catalog
    assert not [key for key in task.metadata if key.endswith("_failures")]
    return result


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_what_is_flagged_has_a_reason_and_what_is_not_has_a_value(measured, name):
    """Also the other way round: a value that is missing is flagged, an error without a value does not exist."""
    plugin = PLUGINS[name]()
    values, _, general, reasons = of_kind(plugin.all_columns())
    for flag in general:
        own = [c for c in reasons if c.name.startswith(flag.name + "_")]
        if own:
            explained = np.any([measured[c.name] for c in own], axis=0)
            assert not (measured[flag.name] & ~explained).any(), flag.name
    bad = np.any([measured[c.name] for c in general], axis=0)
    for column in values:
        if column.dtype[0] != "f" or column.name == "kron_psf_radius":
            continue
        missing = ~np.isfinite(measured[column.name])
        assert not (missing & ~bad).any(), column.name
        error = f"{column.name}_err"
        if error in measured.schema and name not in ("cmodel_flux", "sersic_flux"):
            assert np.isfinite(measured[error][~bad]).all(), error
            assert not (np.isfinite(measured[error]) & missing).any(), error


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("MJy/sr", ["MJy/sr", "MJy2 sr-2", "pixel"]),
        ("adu", ["adu", "adu2", "pixel"]),
        ("ADU", ["ADU", "ADU2", "pixel"]),
        ("counts per s", ["counts per s", "(counts per s)**2", "pixel"]),
        ("electron", ["electron", "electron2", "pixel"]),
    ],
)
def test_unit_of_the_pixels(unit, expected):
    units = [Column("a", "f8", u, "").in_pixel_unit(unit).unit for u in ("electron", "electron2", "pixel")]
    assert units == expected


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "parquet", "xml"][:3])
def test_columns_carry_the_unit_of_the_exposure(tmp_path, suffix):
    exposure, x, y = star_field(20000.0, side=3)
    exposure.masked_image.unit = "MJy/sr"
    task = SingleFrameMeasurementTask()
    catalog = task.run(exposure=exposure, catalog=catalog_at(x, y, disk_footprints(x, y, 6))).catalog
    write_catalog(catalog, tmp_path / f"c.{suffix}")
    again = read_catalog(tmp_path / f"c.{suffix}")
    for found in (catalog, again):
        assert found.schema["psf_flux"].unit == found.schema["psf_flux_err"].unit == "MJy/sr"
        assert found.schema["local_variance"].unit == "MJy2 sr-2"
        assert not [c.name for c in found.schema.values() if "electron" in c.unit]
    assert again.schema == catalog.schema
    assert task.schema["psf_flux"].unit == "electron"  # known before the exposure is
