"""Background from a mesh: nodes and models of the LSST stack, properties, and bad input."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from starmill.background.mesh import (
    BackgroundMesh,
    cell_edges,
    estimate_background,
    filter_mesh,
    measure_mesh,
    subtract_field,
)
from starmill.datamodel.geometry import Box
from starmill.datamodel.spline_field import SplineField
from starmill.errors import AlgorithmError, InputError

STATISTIC = {"MEANCLIP": "clipped_mean", "MEDIAN": "median"}


@pytest.fixture(scope="module")
def stack(shared_data):
    folder = shared_data("reference_lsst")
    with np.load(folder / "unit_background.npz") as arrays:
        return dict(arrays), json.loads((folder / "unit_background.json").read_text())


def stack_settings(key):
    model, bin_size, rest = key.split("_", 2)
    spline, statistic = rest.rsplit("_", 1)
    return {
        "bin_size": int(bin_size),
        "statistic": STATISTIC[statistic],
        "model": "chebyshev" if model == "cheb" else "spline",
        "spline": spline.split("_")[0].lower(),
    }


def test_nodes_and_models_of_the_lsst_stack(stack):
    arrays, expected = stack
    bits = 1 + 16 + 32 + 64 + 256  # BAD EDGE DETECTED DETECTED_NEGATIVE NO_DATA
    for key, numbers in expected.items():
        settings = stack_settings(key)
        found = estimate_background(arrays["image"], arrays["mask"], bits=bits, **settings)
        assert_allclose(found.mesh.level, arrays[f"{key}_grid"], rtol=2e-7, err_msg=key)  # stored as float32
        assert_allclose(found.mesh.error, arrays[f"{key}_gridvar"], rtol=2e-7, err_msg=key)
        if settings["spline"] == "constant":
            continue
        model = found.field.image(dtype=np.float32)
        assert_allclose(model[::8, ::8], arrays[key], rtol=1e-6, err_msg=key)
        assert model.mean(dtype=float) == pytest.approx(numbers["BGMEAN"], rel=1e-6)
        assert model.var(dtype=float, ddof=1) == pytest.approx(numbers["BGVAR"], rel=1e-5)


def test_constant_spline_differs_on_purpose(stack):
    """The stack puts the mean of two nodes between their midpoints; ours is the nearest node."""
    arrays, _ = stack
    key = "interp_300_CONSTANT_MEANCLIP"
    grid = arrays[f"{key}_grid"].astype(float)
    averaged = grid.copy()
    averaged[1:] = (grid[1:] + grid[:-1]) / 2
    averaged[:, 1:] = (averaged[:, 1:] + averaged[:, :-1]).copy() / 2
    assert_allclose(arrays[key][[0, 0, -1, -1], [0, -1, 0, -1]], averaged.ravel(), rtol=1e-6)
    found = estimate_background(
        arrays["image"], arrays["mask"], bits=33, bin_size=300, model="spline", spline="constant"
    )
    corners = found.field.image()[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert_allclose(corners, grid.ravel(), rtol=1e-6)


def sky(shape=(400, 500), seed=1, noise=5.0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    truth = 300 + 40 * x - 25 * y + 30 * x * y
    return truth, (truth + rng.normal(0, noise, shape)).astype(np.float32)


@pytest.mark.parametrize("settings", [{}, {"model": "spline"}, {"model": "spline", "spline": "natural"}])
def test_recovers_a_smooth_sky(settings):
    truth, image = sky()
    found = estimate_background(image, bin_size=50, **settings)
    # A node rests on 2500 pixels, 0.1 electron; splines run through the nodes and extrapolate by half a cell.
    assert np.abs(found.field.image() - truth).max() < 0.8
    assert np.abs(found.field.image() - truth).std() < 0.15
    assert_allclose(found.mesh.noise, 5.0, rtol=0.1)


def test_stars_do_not_pull_the_background_up():
    truth, image = sky()
    rng = np.random.default_rng(2)
    image[rng.integers(0, 400, 2000), rng.integers(0, 500, 2000)] += 5000
    found = estimate_background(image, bin_size=50, order=2)
    # One per cent of bright pixels, clipped away: less than a tenth of the noise is left.
    assert np.abs(found.field.image() - truth).max() < 0.5


def test_adding_and_scaling():
    _, image = sky()
    one = estimate_background(image, bin_size=64).field.image()
    assert_allclose(estimate_background(image + 100, bin_size=64).field.image(), one + 100, rtol=1e-6)
    assert_allclose(estimate_background(image * 4, bin_size=64).field.image(), one * 4, rtol=1e-6)
    assert_allclose(estimate_background(image.T, bin_size=64).field.image(), one.T, rtol=1e-6)


def test_masked_and_missing_pixels_have_no_influence():
    _, image = sky()
    rng = np.random.default_rng(3)
    mask = (rng.random(image.shape) < 0.2).astype(np.int32) * 4
    spoiled = np.where(mask > 0, 1e6, image).astype(np.float32)
    gaps = np.where(mask > 0, np.nan, image).astype(np.float32)
    expected = estimate_background(image, mask, bits=4, bin_size=50).field.image()
    assert_array_equal(estimate_background(spoiled, mask, bits=4, bin_size=50).field.image(), expected)
    assert_array_equal(estimate_background(gaps, bin_size=50).field.image(), expected)
    assert not np.array_equal(estimate_background(spoiled, mask, bits=8, bin_size=50).field.image(), expected)


def test_empty_cells_are_bridged():
    truth, image = sky()
    image[100:200, 100:250] = np.nan
    for model in ("chebyshev", "spline"):
        found = estimate_background(image, bin_size=50, model=model)
        assert found.mesh.n_valid == 80 - 6
        assert np.isfinite(found.field.image()).all()
        assert np.abs(found.field.image() - truth).max() < 2.0
    image[:, :450] = np.nan
    assert np.isfinite(estimate_background(image, bin_size=50).field.image()).all()


def test_constant_image_and_origin():
    image = np.full((130, 210), 7.0, np.float32)
    found = estimate_background(image, bin_size=32, origin=(1000, -20))
    assert found.field.box == Box(1000, -20, 210, 130)
    assert_allclose(found.field.image(), 7.0, rtol=1e-12)
    assert found.mesh.x_nodes[0] == pytest.approx(1000 + 14.5)
    subtract_field(image, found.field, found.field.box)
    assert_allclose(image, 0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (5, 7)])
def test_thin_images(shape):
    image = np.full(shape, 3.0, np.float32)
    for model in ("chebyshev", "spline"):
        assert_allclose(estimate_background(image, bin_size=2, model=model).field.image(), 3.0, rtol=1e-12)


def test_order_follows_the_number_of_nodes():
    _, image = sky()
    assert estimate_background(image, bin_size=128).order == (3, 3)  # 4 x 4 nodes
    assert estimate_background(image, bin_size=128, undersampling="increase_nodes").order == (6, 6)
    with pytest.raises(AlgorithmError) as caught:
        estimate_background(image, bin_size=128, undersampling="raise")
    assert caught.value.numbers == {"nodes": 4, "needed": 7}
    field = estimate_background(image, bin_size=128, model="spline").field
    assert isinstance(field, SplineField)
    assert field.spline == "natural"


def test_all_masked_is_an_error_with_numbers():
    _, image = sky((50, 60))
    with pytest.raises(AlgorithmError) as caught:
        estimate_background(image, np.ones(image.shape, np.int32))
    assert caught.value.numbers == {"pixels": 3000, "masked": 3000, "used": 0}
    with pytest.raises(AlgorithmError, match="not finite"):
        estimate_background(np.full((50, 60), np.nan, np.float32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"statistic": "mode"}, {"model": "tree"}, {"bin_size": 0}, {"order": -1}, {"undersampling": "x"},
        {"model": "spline", "spline": "cubic"}, {"mask": np.zeros((3, 3), np.int32)}, {"filter_size": 4},
    ],
)  # fmt: skip
def test_wrong_arguments_are_input_errors(wrong):
    _, image = sky((60, 60))
    with pytest.raises(InputError):
        estimate_background(image, **wrong)


def test_filter_removes_a_single_bad_node():
    level = np.add.outer(np.arange(5.0), np.arange(6.0))
    level[2, 3] += 100
    level[0, 0] = np.nan
    mesh = BackgroundMesh(
        Box(0, 0, 60, 50), np.arange(6) * 10 + 4.5, np.arange(5) * 10 + 4.5, level, np.ones((5, 6)),
        np.ones((5, 6)), np.ones((5, 6), np.int64),
    )  # fmt: skip
    filtered = filter_mesh(mesh, threshold=3.0).level
    assert filtered[2, 3] == pytest.approx(5.0, abs=1)
    assert np.isnan(filtered[0, 0])
    untouched = np.ones(level.shape, bool)
    untouched[2, 3] = False
    assert_array_equal(filtered[untouched], level[untouched])


def test_cells_cover_the_image_evenly():
    for length, size in ((517, 20), (4096, 128), (5, 128), (100, 33)):
        edges = cell_edges(length, size)
        assert (edges[0], edges[-1]) == (0, length)
        assert np.ptp(np.diff(edges)) <= 1
        assert np.diff(edges).max() <= size


def test_mesh_of_the_other_statistics():
    _, image = sky()
    for statistic, expected in (("mean", np.mean), ("median", np.median)):
        mesh = measure_mesh(image, bin_size=100, statistic=statistic)
        assert mesh.level[1, 2] == pytest.approx(expected(image[100:200, 200:300].astype(float)), rel=1e-9)
