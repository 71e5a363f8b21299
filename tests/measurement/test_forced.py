"""Forced measurement at given positions and shapes."""

import numpy as np
import pytest
from astropy.wcs import WCS

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.geometry import Box
from starmill.errors import InputError
from starmill.measurement.forced import disk_footprints, transform_shapes
from starmill.tasks.forced import ForcedMeasurementTask
from tests.measurement.scenes import star_field


def tan_wcs(scale=0.3, angle=0.0, center=(80.0, 80.0)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [0.001, 10.0]  # across 0 h
    wcs.wcs.crpix = [center[0] + 1, center[1] + 1]
    c, s = np.cos(angle), np.sin(angle)
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    return wcs


def test_fluxes_at_true_positions_from_the_sky():
    exposure, x, y = star_field(20000.0, side=6, seed=3)
    exposure.wcs = tan_wcs()
    ra, dec = exposure.sky_position(x, y)
    schema = Schema([Column("id", "i8"), Column("ra", "f8", "deg"), Column("dec", "f8", "deg")])
    reference = Catalog(schema, {"id": np.arange(100, 136), "ra": ra, "dec": dec})
    task = ForcedMeasurementTask()
    found = task.run(exposure=exposure, reference=reference).catalog
    assert dict(found.schema) == dict(task.schema)
    np.testing.assert_allclose(found["x"], x, atol=1e-6)
    np.testing.assert_array_equal(found["reference_id"], np.arange(100, 136))
    pull = (found["psf_flux"] - 20000) / found["psf_flux_err"]
    assert abs(pull.mean()) < 4 / 6
    assert 0.5 < pull.std() < 1.5
    np.testing.assert_allclose(found["ra"] % 360, ra % 360, atol=1e-9)


def test_positions_outside_stay_with_flags():
    exposure, x, y = star_field(20000.0, side=3)
    columns = {"id": [1, 2, 3], "parent": [0, 0, 0], "x": [x[0], -50.0, np.nan], "y": [y[0], 5.0, 5.0]}
    found = ForcedMeasurementTask().run(exposure=exposure, reference=Catalog(Schema(), columns)).catalog
    assert found["forced_centroid_flag"].tolist() == [False, True, True]
    assert found["psf_flux_flag"].tolist() == [False, True, True]
    assert found["forced_shape_flag"].all()  # no shape was given: that of the PSF


def test_shapes_turn_and_scale_with_the_pixels():
    moments = np.array([[4.0, 2.0, 0.5]])
    at = np.array([80.0])
    same = transform_shapes(moments, at, at, tan_wcs(), tan_wcs())
    np.testing.assert_allclose(same, moments, rtol=1e-6)
    half = transform_shapes(moments, at, at, tan_wcs(0.3), tan_wcs(0.6))
    np.testing.assert_allclose(half, moments / 4, rtol=1e-6)
    turned = transform_shapes(moments, at, at, tan_wcs(), tan_wcs(angle=np.pi / 2))
    np.testing.assert_allclose(turned[0, :2], [2, 4], rtol=1e-6)


def test_disks_are_cut_at_the_box():
    box = Box(10, 20, 30, 40)
    disks = disk_footprints(np.array([10.0, 25.0, np.nan, 500.0]), np.array([20.0, 40.0, 3.0, 3.0]), 4.0, box)
    assert disks.areas.tolist() == [disks.areas[0], 49, 0, 0]
    assert disks[0].box.x0 == 10
    assert disks[1].contains(25, 44)
    assert not disks[1].contains(28, 43)


def test_reference_without_positions():
    exposure, _, _ = star_field(20000.0, side=2)
    with pytest.raises(InputError, match="needs the columns"):
        ForcedMeasurementTask().run(
            exposure=exposure, reference=Catalog(Schema([Column("id", "i8")]), {"id": [1]})
        )
