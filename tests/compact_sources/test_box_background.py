"""The compiled pieces of a box background against their obvious twins."""

import numpy as np
import pytest
from tests.reference import box_background as twin

from starmill.background.polynomial import clip_values, fill_masked
from starmill.background.separate import SCORE_KINDS
from starmill.kernels.box_background import add_polynomial, cut_out, fit_orders, list_values


@pytest.mark.parametrize("n", [1, 2, 7, 500, 501])
def test_clipping(n):
    rng = np.random.default_rng(n)
    values = np.where(rng.uniform(size=n) < 0.05, 30.0, 1.0) * rng.standard_normal(n) + 1e3
    values = np.concatenate([values, [np.nan, np.inf, 1e3]])
    np.testing.assert_array_equal(clip_values(values), twin.clip(values, 3.0, 10))
    np.testing.assert_array_equal(clip_values(values, 2.0, 2), twin.clip(values, 2.0, 2))


def test_clipping_of_nothing_and_of_equal_values():
    assert not clip_values(np.full(5, np.nan)).any()
    assert clip_values(np.full(5, 2.0)).all()


@pytest.mark.parametrize(("most", "longest"), [(1.0, np.inf), (0.1, np.inf), (1.0, 9.0), (1e-4, np.inf)])
def test_masks_of_sources(most, longest):
    sources = np.array([[2.0, 12.3, 9.8, 4.2, 2.4, 0.7], [1.0, -1.0, 20.0, 3.0, 3.0, 0.0]])
    free = np.random.default_rng(1).uniform(size=(30, 34)) > 0.1
    out = free.copy()
    cut_out(out, sources, np.zeros(2, np.int64), 0.1353, most, longest)
    np.testing.assert_array_equal(out, twin.cut_out(free, sources, 0.1353, most, longest))


def test_failed_and_negative_sources_mask_nothing():
    free = np.ones((20, 20), bool)
    sources = np.array([[2.0, 10, 10, 3, 3, 0], [-1.0, 10, 10, 3, 3, 0]])
    cut_out(free, sources, np.array([2, 0]), 0.1353, 1.0, np.inf)
    assert free.all()


def test_gaps_are_filled_by_the_narrowest_width_that_reaches():
    image = np.random.default_rng(2).standard_normal((40, 44))
    image[4:9, 20:25] = np.nan
    image[0, 0] = np.nan
    np.testing.assert_allclose(fill_masked(image), twin.fill_gaps(image, 2.0), rtol=1e-12)
    wide = np.random.default_rng(3).standard_normal((80, 80))
    wide[20:60, 20:60] = np.nan
    np.testing.assert_allclose(fill_masked(wide), twin.fill_gaps(wide, 5.0), rtol=1e-9)
    assert np.isnan(fill_masked(np.full((9, 9), np.nan))).all()


@pytest.mark.parametrize("kind", ["nmse", "redchi", "bic"])
def test_all_orders_and_their_scores(kind):
    rng = np.random.default_rng(4)
    y, x = np.indices((31, 27))
    image = 3.0 + 0.2 * x - 0.01 * y**2 + rng.standard_normal(x.shape)
    image[5:9, 6:12] = np.nan
    shared = rng.standard_normal((20, 18))
    shared[3, 4] = np.nan
    part = np.ascontiguousarray(image[2:22, 5:23])
    room = np.empty((3, image.size))
    n = list_values(image, *room)
    xs, ys, values = room[:, :n]
    low, high = np.percentile(values, [1, 99])
    orders, frame = np.array([2, 0, 1, 7]), np.array([13.0, 15.0, 15.5])
    coefficients, scores = np.zeros((4, 36)), np.empty(4)
    fit_orders(
        xs, ys, values, low, high, orders, frame, part, shared, SCORE_KINDS[kind], coefficients, scores
    )
    keep = (values >= low) & (values <= high)
    there = np.nonzero(np.isfinite(part) & np.isfinite(shared))
    for order, solution, got in zip(orders[:3], coefficients, scores, strict=False):
        wanted = twin.polynomial(xs[keep], ys[keep], values[keep], order)
        drawn = np.zeros(image.shape)
        add_polynomial(drawn, order, frame, solution)
        np.testing.assert_allclose(drawn, wanted(x.astype(float), y.astype(float)), rtol=1e-8)
        rest = wanted(there[1].astype(float), there[0].astype(float)) - part[there]
        n_terms = (order + 1) * (order + 2) // 2
        assert got == pytest.approx(twin.score(rest, values[keep], n_terms, kind), rel=1e-9)


def test_an_order_that_the_values_do_not_fix_has_no_score():
    xs, ys, values = np.arange(4.0), np.zeros(4), np.ones(4)
    coefficients, scores = np.zeros((2, 6)), np.empty(2)
    part = np.ones((3, 3))
    fit_orders(
        xs,
        ys,
        values,
        0.0,
        2.0,
        np.array([0, 2]),
        np.array([0.0, 0.0, 1.0]),
        part,
        part,
        0,
        coefficients,
        scores,
    )
    assert scores[0] == pytest.approx(0.0, abs=1e-12)
    assert scores[1] == np.inf
