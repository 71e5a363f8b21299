"""Whether a position has another one near it."""

from __future__ import annotations

from starmill.kernels._jit import njit


@njit
def mark_near(x, y, other_x, other_y, order, first, last, skip, distance, near):
    """Mark the positions that have another one within ``distance``; the search ends with the first one found.

    Parameters
    ----------
    x, y : (n,) float64
    other_x, other_y : (m,) float64
    order : (m,) int64
        Numbers of the others, those of one cell after each other.
    first, last : (3, n) int64
        Ranges of ``order`` that can be near to each position.
    skip : (n,) int64
        Number of one other position that does not count; -1 for none.
    distance : float
    near : (n,) bool, filled
    """
    limit = distance * distance
    for i in range(x.size):
        near[i] = False
        for step in range(3):
            if near[i]:
                break
            for k in range(first[step, i], last[step, i]):
                j = order[k]
                dx, dy = x[i] - other_x[j], y[i] - other_y[j]
                if dx * dx + dy * dy <= limit and j != skip[i]:
                    near[i] = True
                    break
