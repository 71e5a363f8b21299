"""The same numbers as the LSST Science Pipelines where the definition is the same."""

import numpy as np
import pytest

from starmill.datamodel.catalog import Catalog, Schema
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ConstantField
from starmill.datamodel.psf import GaussianPsf, PixelBasisPsf
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask

EQUAL = {  # our LSST alias: relative tolerance
    "base_SdssShape_xx": 5e-6, "base_SdssShape_yy": 5e-6, "base_SdssShape_instFlux": 5e-6,
    "base_SdssShape_psf_xx": 1e-6, "base_GaussianFlux_instFlux": 5e-6,
    "base_PsfFlux_instFlux": 1e-6, "base_PsfFlux_instFluxErr": 1e-6,
    "base_PsfFlux_area": 1e-6, "base_PsfFlux_chi2": 1e-5, "base_PsfFlux_npixels": 0,
    "base_CircularApertureFlux_3_0_instFlux": 5e-6, "base_CircularApertureFlux_3_0_instFluxErr": 5e-6,
    "base_CircularApertureFlux_4_5_instFlux": 5e-6, "base_CircularApertureFlux_6_0_instFlux": 5e-6,
    "base_CircularApertureFlux_9_0_instFlux": 5e-6, "base_CircularApertureFlux_9_0_instFluxErr": 5e-6,
}  # fmt: skip


@pytest.fixture(scope="module", params=[0, 1, 2])
def measured(request, shared_data):
    table_module = pytest.importorskip("astropy.table")
    folder = shared_data("reference_lsst")
    data = np.load(folder / f"unit_meas{request.param}.npz")
    table = table_module.Table.read(folder / f"unit_meas{request.param}.fits.gz")
    image = data["image"].astype(np.float32)
    kernel = GaussianPsf(float(data["sigma"]), int(data["ksize"])).kernel_at()
    exposure = Exposure(image, variance=data["variance"].astype(np.float32))
    exposure.psf = PixelBasisPsf(kernel[None], [ConstantField(exposure.box, 1.0)])
    columns = {
        "id": np.asarray(table["id"]), "parent": np.asarray(table["parent"]),
        "x": np.asarray(table["base_PeakCentroid_x"]), "y": np.asarray(table["base_PeakCentroid_y"]),
    }  # fmt: skip
    options = {"aperture_flux": {"max_sinc_radius": 10.0, "lanczos_sinc": True}}
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(options=options))
    ours = task.run(exposure=exposure, catalog=Catalog(Schema(), columns)).catalog
    reference = {
        name: np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan) for name in table.colnames
    }
    # one source of image 0 lies on the limit between binning and not binning
    same = np.abs(ours["x"] - reference["base_SdssCentroid_x"]) < 1e-4
    assert same.sum() >= 24
    return ours[same], {name: values[same] for name, values in reference.items()}


def test_centroids(measured):
    ours, reference = measured
    np.testing.assert_allclose(ours["x"], reference["base_SdssCentroid_x"], atol=1e-5)
    np.testing.assert_allclose(ours["y"], reference["base_SdssCentroid_y"], atol=1e-5)


@pytest.mark.parametrize("name", sorted(EQUAL))
def test_equal_columns(measured, name):
    ours, reference = measured
    np.testing.assert_allclose(ours[name], reference[name], rtol=EQUAL[name])


def test_large_apertures_differ_by_the_pixels_on_the_border_only(measured):
    """The stack sums whole pixels whose centres lie in the circle, we weight by the overlap."""
    ours, reference = measured
    for name in ("base_CircularApertureFlux_12_0_instFlux", "base_CircularApertureFlux_35_0_instFlux"):
        border = 3 * reference[f"{name}Err"]
        assert (np.abs(ours[name] - reference[name]) < border).all()


def test_errors_of_the_centroid_are_smaller_than_those_of_the_stack(measured):
    """Ours propagate the variance image; the stack's formula overestimates (see the explanation page)."""
    ours, reference = measured
    ratio = ours["x_err"] / reference["base_SdssCentroid_xErr"]
    assert ((ratio > 0.25) & (ratio < 1.0)).all()


def test_errors_of_the_moments_differ_from_those_of_the_stack_where_the_source_adds_noise(measured):
    """The stack gives all pixels the variance of the central one; we let it follow the light (gaussian_errors)."""
    ours, reference = measured
    for name in ("xxErr", "yyErr", "xyErr", "instFluxErr"):
        ratio = ours[f"base_SdssShape_{name}"] / reference[f"base_SdssShape_{name}"]
        assert ((ratio > 0.5) & (ratio < 1 + 1e-5)).all(), name
