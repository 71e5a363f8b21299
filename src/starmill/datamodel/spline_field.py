"""A field that interpolates a grid of nodes: the background mesh.

Columns of nodes are interpolated along y, then the rows so made along x, by one-dimensional splines
(Akima 1970, JACM 17, 589, by default). Nodes that are NaN are left out line by line; a line with too few
nodes for its spline uses the next simpler one; outside the end nodes the first and second derivative of
the spline at the end node are continued.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator, CubicSpline

from starmill.datamodel.field import Field
from starmill.datamodel.geometry import Box
from starmill.errors import InputError

__all__ = ["SplineField", "interpolate_line"]

_SIMPLER = {1: "constant", 2: "linear", 3: "natural", 4: "natural"}  # number of nodes to the best spline
_RANK = {"constant": 0, "linear": 1, "natural": 2, "akima": 3}


def interpolate_line(
    nodes: NDArray[np.float64], values: NDArray[np.float64], at: NDArray[np.float64], kind: str = "akima"
) -> NDArray[np.float64]:
    """Interpolate node values at positions, continuing quadratically outside the end nodes.

    Parameters
    ----------
    nodes : (n,) array
        Increasing positions.
    values : (n,) or (n, m) array
        No NaN.
    at : (k,) array
        Where to evaluate.
    kind : {'akima', 'natural', 'linear', 'constant'}
        Wanted spline; with fewer nodes than it needs (5, 3, 2, 1) a simpler one is used. 'constant' takes
        the nearest node.

    Returns
    -------
    interpolated : (k,) or (k, m) array
    """
    from_values, from_slopes = _line_weights(nodes, at, kind)
    result = from_values @ values
    if from_slopes is not None:
        result += from_slopes @ _node_slopes(nodes, values, kind)
    return np.asarray(result)


def _possible_kind(n_nodes: int, kind: str) -> str:
    best = _SIMPLER.get(n_nodes, "akima")
    return kind if _RANK[kind] <= _RANK[best] else best


def _node_slopes(nodes: NDArray[np.float64], values: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Return the first derivatives of the spline at its nodes; same shape as the values."""
    if _possible_kind(len(nodes), kind) == "natural":
        return np.asarray(CubicSpline(nodes, values, bc_type="natural")(nodes, 1))
    return np.asarray(Akima1DInterpolator(nodes, values)(nodes, 1))


def _line_weights(
    nodes: NDArray[np.float64], at: NDArray[np.float64], kind: str
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the weights of the node values and of the node slopes in the result, (k, n) each.

    A cubic in Hermite form is linear in both, and so is its continuation outside the end nodes with the
    first and second derivative found there.
    """
    kind = _possible_kind(len(nodes), kind)
    at = np.asarray(at, np.float64)
    k = np.arange(len(at))
    from_values = np.zeros((len(at), len(nodes)))
    if kind == "constant":
        from_values[k, np.searchsorted((nodes[1:] + nodes[:-1]) / 2, at)] = 1.0
        return from_values, None
    left = np.clip(np.searchsorted(nodes, at) - 1, 0, len(nodes) - 2)
    width = nodes[left + 1] - nodes[left]
    t = (at - nodes[left]) / width
    if kind == "linear":
        from_values[k, left], from_values[k, left + 1] = 1 - t, t
        return from_values, None
    from_slopes = np.zeros_like(from_values)
    up = np.where(t < 0, 3 * t**2, np.where(t > 1, 1 - 3 * (t - 1) ** 2, t**2 * (3 - 2 * t)))
    first = np.where(t < 0, t - 2 * t**2, np.where(t > 1, (t - 1) ** 2, t * (1 - t) ** 2))
    last = np.where(t < 0, -(t**2), np.where(t > 1, (t - 1) + 2 * (t - 1) ** 2, t**2 * (t - 1)))
    from_values[k, left], from_values[k, left + 1] = 1 - up, up
    from_slopes[k, left], from_slopes[k, left + 1] = first * width, last * width
    return from_values, from_slopes


class SplineField(Field):
    """A grid of nodes joined by splines.

    Parameters
    ----------
    box : Box
    x_nodes : (nx,) array
        Increasing positions of the columns of nodes, parent frame.
    y_nodes : (ny,) array
        Increasing positions of the rows of nodes, parent frame.
    values : (ny, nx) array
        NaN where a node has no data; at least one node is needed.
    spline : {'akima', 'natural', 'linear', 'constant'}

    Raises
    ------
    InputError
        When the shapes disagree, the spline is unknown or every node is NaN.
    """

    kind = "spline"

    def __init__(self, box: Box, x_nodes: Any, y_nodes: Any, values: Any, spline: str = "akima") -> None:
        self.box = box
        self.x_nodes = np.array(x_nodes, np.float64)
        self.y_nodes = np.array(y_nodes, np.float64)
        self.values = np.array(values, np.float64)
        self.spline = spline
        if self.values.shape != (len(self.y_nodes), len(self.x_nodes)):
            raise InputError(
                f"the nodes have shape {self.values.shape}, their positions"
                f" {(len(self.y_nodes), len(self.x_nodes))}"
            )
        if spline not in _RANK:
            raise InputError(f"unknown spline {spline!r} (known: {', '.join(_RANK)})")
        if not np.isfinite(self.values).any():
            raise InputError("no node of the mesh has data")

    def _columns_at(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values of the columns of nodes at heights ``y``: (len(y), nx); NaN where empty."""
        good = np.isfinite(self.values)
        if good.all():
            return interpolate_line(self.y_nodes, self.values, y, self.spline)
        columns = np.full((len(y), len(self.x_nodes)), np.nan)
        for i in range(len(self.x_nodes)):
            use = good[:, i]
            if use.any():
                columns[:, i] = interpolate_line(self.y_nodes[use], self.values[use, i], y, self.spline)
        return columns

    def __call__(self, x: Any, y: Any) -> NDArray[np.float64]:
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        columns = self._columns_at(y.ravel())
        if not len(columns):
            return np.zeros(x.shape)
        use = np.isfinite(columns[0])
        nodes, lines = self.x_nodes[use], columns[:, use]
        from_values, from_slopes = _line_weights(nodes, x.ravel(), self.spline)
        out = np.einsum("pn,pn->p", from_values, lines)
        if from_slopes is not None:
            out += np.einsum("pn,pn->p", from_slopes, _node_slopes(nodes, lines.T, self.spline).T)
        return out.reshape(x.shape)

    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[Any]:
        box = box or self.box
        columns = self._columns_at(np.arange(box.y0, box.y1, dtype=np.float64))
        if not len(columns):
            return np.zeros(box.shape, dtype)
        use = np.isfinite(columns[0])
        nodes, lines = self.x_nodes[use], columns[:, use]
        from_values, from_slopes = _line_weights(
            nodes, np.arange(box.x0, box.x1, dtype=np.float64), self.spline
        )
        if from_slopes is not None:
            lines = np.hstack([lines, _node_slopes(nodes, lines.T, self.spline).T])
            from_values = np.hstack([from_values, from_slopes])
        return lines.astype(dtype, copy=False) @ from_values.T.astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "box": [self.box.x0, self.box.y0, self.box.width, self.box.height],
            "x_nodes": self.x_nodes.tolist(),
            "y_nodes": self.y_nodes.tolist(),
            "values": self.values.tolist(),
            "spline": self.spline,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SplineField:
        return cls(Box(*data["box"]), data["x_nodes"], data["y_nodes"], data["values"], data["spline"])

    def __repr__(self) -> str:
        ny, nx = self.values.shape
        return f"SplineField({nx} x {ny} nodes, {self.spline}, mean {self.mean():.6g})"
