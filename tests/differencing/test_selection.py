"""Choice of the order of the kernel sum among models of which some cannot be solved."""

from __future__ import annotations

import numpy as np
import pytest

from starmill.differencing.selection import _order_of_sum


@pytest.mark.parametrize(("infinite", "expected"), [((0, 1), 1), ((0, 1, 2), 1), ((2,), 0), ((0,), 1)])
def test_models_that_cannot_be_solved_are_not_compared(infinite, expected):
    """The difference of two infinities was a warning, and warnings are errors here."""
    chi2 = {order: np.full(30, 1.0 + order) for order in range(3)}
    chi2 |= {order: np.full(30, np.inf) for order in infinite}
    assert _order_of_sum(chi2, chi2.__getitem__) == expected
