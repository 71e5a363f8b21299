"""Close pairs against the matrix of all distances."""

import numpy as np
import pytest

from starmill.numerics.close_pairs import close_pairs, next_to
from tests.reference import near_positions


@pytest.mark.parametrize("distance", [0.01, 1.0, 7.0, 500.0])
@pytest.mark.parametrize(("n", "m"), [(300, 200), (1, 1), (0, 5), (5, 0)])
def test_all_pairs_and_no_others(n, m, distance):
    rng = np.random.default_rng(n)
    x, y, other_x, other_y = (rng.uniform(-50, 50, k) for k in (n, n, m, m))
    near = np.hypot(x[:, None] - other_x, y[:, None] - other_y) <= distance
    wanted = np.nonzero(near)
    got = close_pairs(x, y, other_x, other_y, distance)
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_array_equal(got[1], wanted[1])
    np.testing.assert_array_equal(next_to(x, y, other_x, other_y, distance), near.any(axis=1))


def test_positions_on_the_borders_of_cells():
    x, y = (v.ravel().astype(float) for v in np.mgrid[0:6, 0:6])
    first, second = close_pairs(x, y, x, y, 1.0)
    assert (
        len(first) == 36 + 2 * 2 * 30
    )  # themselves, and the neighbours along both axes, seen from both ends
    assert set(np.bincount(first)) == {3, 4, 5}
    assert (np.abs(x[first] - x[second]) + np.abs(y[first] - y[second]) <= 1).all()


def test_one_other_position_may_not_count():
    rng = np.random.default_rng(9)
    x, y = rng.uniform(0, 20, (2, 60))
    skip = np.where(rng.random(60) < 0.7, np.arange(60), -1)
    wanted = near_positions.mark_near(x, y, x, y, skip, 1.3)
    np.testing.assert_array_equal(next_to(x, y, x, y, 1.3, skip=skip), wanted)
    assert 0 < wanted.sum() < 60
    assert not next_to(x, y, x[:0], y[:0], 1.3).any()
