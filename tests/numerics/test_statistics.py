"""Clipped statistics, quantiles and cell statistics against slow twins and the LSST stack."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from starmill.kernels import statistics as kernel
from starmill.numerics.statistics import (
    clipped_statistics,
    median,
    median_and_sigma,
    mesh_statistics,
    quantiles,
    row_medians_and_sigmas,
)
from starmill.numerics.tiles import get_threads, set_threads
from tests.reference import statistics as slow


def samples():
    rng = np.random.default_rng(1)
    few = rng.normal(size=7)
    many = rng.normal(3, 2, 5000)
    heavy = np.where(rng.random(4001) < 0.1, 1e4, rng.normal(size=4001))
    quantised = np.rint(rng.normal(0, 0.3, 3000))
    integers = rng.poisson(20, 4096).astype(float)
    ramp = np.arange(10000.0)
    holes = np.where(rng.random(2500) < 0.2, np.nan, rng.normal(size=2500))
    holes[5] = np.inf
    return {
        "one": np.array([4.0]), "two": np.array([1.0, 2.0]), "few": few, "many": many, "heavy": heavy,
        "quantised": quantised, "integers": integers, "ramp": ramp, "holes": holes, "constant": np.full(3000, 7.0),
        "huge range": np.r_[rng.normal(size=4000), 1e20],
    }  # fmt: skip


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip", [(3.0, 3), (2.0, 5), (3.0, 1)])
def test_kernel_equals_its_slow_twin(name, dtype, clip):
    values = samples()[name].astype(dtype)
    out = np.empty(kernel.N_SUMMARY)
    kernel.sample_statistics(values, *clip, out)
    expected = slow.summary(values, *clip)
    # Sums are done in another order in double precision.
    assert_allclose(out, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", samples())
def test_quantiles_are_exact_order_statistics(name):
    values = samples()[name]
    good = values[np.isfinite(values)]
    fractions = [0.0, 0.003, 0.1, 0.25, 0.5, 0.75, 0.999, 1.0]
    assert_allclose(quantiles(values, fractions), [slow.quantile(good, f) for f in fractions], rtol=1e-15)
    assert median(values) == pytest.approx(np.median(good), rel=1e-15)


def test_median_deviation_of_rows():
    values = np.random.default_rng(2).normal(5, 3, (4, 3000))
    values[1, ::7] = np.nan
    values[3] = np.nan
    centre, sigma = row_medians_and_sigmas(values)
    for i in range(4):
        expected = slow.median_mad(values[i])
        assert_allclose([centre[i], sigma[i]], [expected[0], expected[1] * 1.482602218505602], rtol=1e-14)
    assert np.isnan(centre[3])
    # A Gaussian sample of 3000 has a median within 5 * 1.25 / sqrt(3000) sigma and a width within 10 %.
    assert_allclose(median_and_sigma(values[0]), [5, 3], atol=0.35)


@pytest.fixture(scope="module")
def stack_statistics(shared_data):
    folder = shared_data("reference_lsst")
    with np.load(folder / "unit_stats.npz") as arrays:
        return dict(arrays), json.loads((folder / "unit_stats.json").read_text())


def test_agrees_with_the_lsst_stack(stack_statistics):
    arrays, expected = stack_statistics
    for key, stack in expected.items():
        name, mask, clip = key.split("_")
        n_sigma, n_iterations = (int(n) for n in clip.split("x"))
        ours = clipped_statistics(
            arrays[name].astype(np.float32),  # what the stack was given
            arrays[f"mask_{name}"],
            bits=int(mask[4:]),
            n_sigma=n_sigma,
            n_iterations=n_iterations,
        )
        pairs = {
            "NPOINT": (ours.n, 0.0),
            "MEAN": (ours.mean, ours.mean_err),
            "STDEV": (ours.std, ours.std_err),
            "MEDIAN": (ours.median, ours.median_err),
            "MEANCLIP": (ours.clipped_mean, ours.clipped_mean_err),
            "STDEVCLIP": (ours.clipped_std, ours.clipped_std_err),
        }
        for quantity, pair in pairs.items():
            assert_allclose(pair, stack[quantity], rtol=1e-10, err_msg=f"{key} {quantity}")
        assert ours.variance == pytest.approx(stack["VARIANCE"][0], rel=1e-10)
        assert ours.clipped_variance == pytest.approx(stack["VARIANCECLIP"][0], rel=1e-10)
        assert ours.iqr == pytest.approx(stack["IQRANGE"][0], rel=1e-10)
        assert ours.n_masked == stack["NMASKED"][0]


def test_error_from_input_variances():
    rng = np.random.default_rng(3)
    values = rng.normal(size=1000).astype(np.float32)
    values[:10] = 100.0
    variance = rng.uniform(1, 2, 1000)
    found = clipped_statistics(values, variance=variance, n_iterations=3)
    kept = (
        np.abs(values - found.clipped_mean) < 3.2
    )  # three sigma of a unit Gaussian, with a margin for the edge
    assert found.n_kept == pytest.approx(kept.sum(), abs=10)
    assert found.mean_err == pytest.approx(np.sqrt(variance.sum()) / 1000, rel=1e-12)
    assert found.clipped_mean_err == pytest.approx(np.sqrt(1.5 / found.n_kept), rel=0.02)


def test_empty_and_masked_samples_give_nan():
    for found in (
        clipped_statistics([]),
        clipped_statistics([np.nan, np.inf]),
        clipped_statistics([1.0, 2.0], [True, True]),
    ):
        assert found.n == 0
        assert np.isnan([found.mean, found.median, found.clipped_mean, found.clipped_mean_err]).all()
    single = clipped_statistics([3.0])
    assert (single.n, single.median, single.clipped_mean) == (1, 3.0, 3.0)


def test_mesh_equals_its_slow_twin_and_does_not_depend_on_threads():
    rng = np.random.default_rng(4)
    image = rng.normal(100, 5, (203, 317)).astype(np.float32)
    mask = (rng.random(image.shape) < 0.1).astype(np.int32) * rng.integers(1, 4, image.shape).astype(np.int32)
    image[20:30, 40:60] = np.nan
    mask[:50, :70] = 1
    y_edges, x_edges = np.array([0, 50, 101, 203]), np.array([0, 70, 180, 317])
    found = mesh_statistics(image, mask, bits=1, y_edges=y_edges, x_edges=x_edges)
    for j in range(3):
        expected = slow.mesh_row(image, mask, 1, y_edges[j], y_edges[j + 1], x_edges, 3.0, 3)
        assert_array_equal(found.n[j], expected[:, 0])
        assert_allclose(found.median[j], expected[:, 1], rtol=1e-12)
        assert_allclose(found.clipped_mean[j], expected[:, 4], rtol=1e-12)
        assert_allclose(found.clipped_std[j], np.sqrt(expected[:, 5]), rtol=1e-9)
    assert found.n[0, 0] == 0
    assert np.isnan(found.clipped_mean[0, 0])
    before = get_threads()
    try:
        set_threads(1)
        alone = mesh_statistics(image, mask, bits=1, y_edges=y_edges, x_edges=x_edges)
    finally:
        set_threads(before)
    assert_array_equal(alone.clipped_mean, found.clipped_mean)
    unmasked = mesh_statistics(image, y_edges=y_edges, x_edges=x_edges)
    assert unmasked.n[0, 0] == 50 * 70 - 10 * 20


def test_integer_and_big_endian_images():
    values = np.random.default_rng(5).integers(0, 60000, 500)
    expected = clipped_statistics(values.astype(float))
    assert clipped_statistics(values.astype(np.uint16)).median == expected.median
    assert clipped_statistics(values.astype(">f4")).median == expected.median
    assert clipped_statistics(values.astype(np.int64)).clipped_mean == pytest.approx(expected.clipped_mean)
