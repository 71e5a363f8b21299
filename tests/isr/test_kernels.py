"""Compiled loops against their slow twins."""

import numpy as np
import pytest

from starmill.isr.build_masters import sorting_network
from starmill.kernels import combine as fast_combine
from starmill.kernels import isr as fast
from tests.reference import combine as slow_combine
from tests.reference import isr as slow


@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("flip_y", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_read_amplifier(flip_x, flip_y, dtype):
    rng = np.random.default_rng(1)
    raw = rng.integers(900, 5000, (30, 50)).astype(dtype)
    if dtype == np.float32:
        raw[5, 7], raw[6, 20] = np.nan, np.inf
    rows, columns = rng.normal(1000, 1, 20).astype("f4"), rng.normal(0, 1, 40).astype("f4")
    image, mask = np.zeros((25, 60), np.float32), np.zeros((25, 60), np.int32)
    fast.read_amplifier(
        raw,
        (4, 24, 3, 43),
        rows,
        columns,
        1.5,
        (4500.0, 4000.0),
        flip_x,
        flip_y,
        image,
        mask,
        (2, 10),
        (2, 128, 256),
    )
    expected, flags = slow.read_amplifier(
        raw[4:24, 3:43], rows, columns, 1.5, (4500.0, 4000.0), flip_x, flip_y, (2, 128, 256)
    )
    np.testing.assert_allclose(image[2:22, 10:50], expected, atol=2e-3)  # float32 of 6000
    np.testing.assert_array_equal(mask[2:22, 10:50], flags)
    assert not image[:2].any()
    assert not image[:, 50:].any()


def test_subtract_crosstalk():
    rng = np.random.default_rng(2)
    image = rng.uniform(0, 60000, (20, 36)).astype(np.float32)
    origins = np.array([[0, 0], [0, 18], [10, 0], [10, 18]])
    turned = np.array([[False, False], [False, True], [True, False], [True, True]])
    linear = rng.uniform(0, 1e-3, (4, 4)).astype(np.float32)
    quadratic = rng.uniform(0, 1e-9, (4, 4)).astype(np.float32)
    np.fill_diagonal(linear, 0)
    np.fill_diagonal(quadratic, 0)
    boxes = [np.s_[y : y + 10, x : x + 18] for y, x in origins]
    expected = slow.subtract_crosstalk(image, boxes, turned, linear, quadratic)
    mask = np.zeros(image.shape, np.int32)
    fast.subtract_crosstalk(image, mask, origins, turned, (10, 18), linear, quadratic, 59000.0, 512)
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=0.02)
    assert mask.any()


def test_linearity_loops():
    rng = np.random.default_rng(3)
    image = rng.uniform(-20, 90000, (9, 31)).astype(np.float32)
    coefficients = np.array([3e-7, -2e-12], np.float32)
    expected = slow.add_polynomial(image, coefficients, 1.5)
    copy = image.copy()
    fast.add_polynomial(copy, (0, 9, 0, 31), coefficients, 1.5)
    np.testing.assert_allclose(copy, expected, rtol=2e-6, atol=1e-2)
    table = np.cumsum(rng.normal(0, 1, 300)).astype(np.float32)
    expected = slow.add_table(image, table, 100.0, 150.0, 1.5)
    fast.add_table(image, (0, 9, 0, 31), table, 100.0, 150.0, 1.5)
    np.testing.assert_allclose(image, expected, rtol=2e-6, atol=2e-2)


@pytest.mark.parametrize("steps", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize("uncertain", [True, False])
def test_apply_masters(steps, uncertain):
    rng = np.random.default_rng(4)
    shape = (12, 40)
    image = rng.normal(500, 50, shape).astype(np.float32)
    masters = [rng.normal(5, 1, shape), rng.normal(0.2, 0.1, shape), rng.uniform(0.5, 1.5, shape)]
    variances = [rng.uniform(0, 5, shape), rng.uniform(0, 0.1, shape), rng.uniform(0, 1e-3, shape)]
    masters = [m.astype(np.float32) for m in masters]
    variances = [v.astype(np.float32) for v in variances]
    masks = [rng.integers(0, 2, shape).astype(np.int32) << k for k in range(3)]
    none, no_mask = np.empty((0, 0), np.float32), np.empty((0, 0), np.int32)
    neutral = (np.zeros(shape), np.zeros(shape), np.ones(shape))
    used = [m if on else z for m, z, on in zip(masters, neutral, steps, strict=True)]
    used_variances = [v if on and uncertain else 0 * v for v, on in zip(variances, steps, strict=True)]
    expected, variance = slow.apply_masters(image, 4.0, *used, 30.0, used_variances, 0.4)
    spread, mask = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    fast.apply_masters(
        image, mask, spread, (0, 12, 0, 40), 4.0,
        tuple(m if on else none for m, on in zip(masters, steps, strict=True)),
        tuple(m if on else no_mask for m, on in zip(masks, steps, strict=True)),
        tuple(v if on and uncertain else none for v, on in zip(variances, steps, strict=True)),
        (30.0, 0.6, 0.4), (256, 5),
    )  # fmt: skip
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(spread, variance, rtol=1e-5, atol=1e-3)
    flags = sum((m & 5) * on for m, on in zip(masks, steps, strict=True))
    np.testing.assert_array_equal(mask, flags | np.where((masters[2] < 0.6) & bool(steps[2]), 256, 0))


def test_flagged_pixels():
    mask = np.random.default_rng(5).integers(0, 8, (30, 50)).astype(np.int32)
    np.testing.assert_array_equal(fast.flagged_pixels(mask, 6), slow.flagged_pixels(mask, 6))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 17])
@pytest.mark.parametrize("given", [False, True])
def test_combine_rows(n, given):
    rng = np.random.default_rng(n)
    shape = (n, 3, 300)
    stack = rng.normal(100, 5, shape).astype(np.float32)
    stack[rng.random(shape) < 0.03] += 400
    rejected = rng.random(shape) < 0.1
    rejected[:, 1, 250] = True
    scale = rng.uniform(0.5, 1.5, n).astype(np.float32)
    variance = np.full(shape, 25, np.float32) * rng.uniform(0.8, 1.2, shape).astype(np.float32)
    none = np.empty((0, 0, 0), np.float32)
    mean, error, count = np.empty(shape[1:], "f4"), np.empty(shape[1:], "f4"), np.empty(shape[1:], "i2")
    fast_combine.combine_rows(
        stack,
        rejected,
        scale,
        variance if given else none,
        sorting_network(n),
        (3.0, 3, 1.0),
        mean,
        error,
        count,
    )
    for y, x in np.ndindex(3, 300):
        good = ~rejected[:, y, x]
        values = (stack[:, y, x] * scale)[good]
        known = (variance[:, y, x] * scale**2)[good] if given else None
        expected = slow_combine.combine_pixel(values, 3.0, 3, 1.0, known)
        assert count[y, x] == expected[2], (y, x)
        assert mean[y, x] == pytest.approx(expected[0], rel=1e-5)
        assert error[y, x] == pytest.approx(expected[1], rel=2e-3, abs=1e-3)


def test_the_network_sorts_any_number():
    rng = np.random.default_rng(7)
    for n in range(1, 40):
        values = rng.random((n, 20))
        for first, second in sorting_network(n):
            values[[first, second]] = np.sort(values[[first, second]], axis=0)
        assert (np.diff(values, axis=0) >= 0).all()
