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
        Wanted spline; with fewer nodes than it needs (5, 3, 2, 1) a simpler one is used.

    Returns
    -------
    interpolated : (k,) or (k, m) array
    """
    best = _SIMPLER.get(len(nodes), "akima")
    kind = kind if _RANK[kind] <= _RANK[best] else best
    if kind == "constant":
        middle = (nodes[1:] + nodes[:-1]) / 2
        return np.asarray(values)[np.searchsorted(middle, at)]
    if kind == "linear":
        place = np.clip(np.searchsorted(nodes, at) - 1, 0, len(nodes) - 2)
        step = (values[place + 1] - values[place]).T / (nodes[place + 1] - nodes[place])
        return np.asarray((values[place].T + step * (at - nodes[place])).T)
    if kind == "natural":
        spline = CubicSpline(nodes, values, bc_type="natural")
    else:
        spline = Akima1DInterpolator(nodes, values)
    result = np.asarray(spline(np.clip(at, nodes[0], nodes[-1])))
    for end, outside in ((nodes[0], at < nodes[0]), (nodes[-1], at > nodes[-1])):
        if outside.any():
            slope, curve = spline(end, 1), spline(end, 2)
            d = at[outside] - end
            result[outside] += (np.multiply.outer(d, slope) + np.multiply.outer(d**2 / 2, curve)).reshape(
                result[outside].shape
            )
    return result


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

    def _grid(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = self._columns_at(y)
        use = np.isfinite(columns[0]) if len(columns) else np.ones(len(self.x_nodes), bool)
        return interpolate_line(self.x_nodes[use], columns[:, use].T, x, self.spline).T

    def __call__(self, x: Any, y: Any) -> NDArray[np.float64]:
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        flat_x, flat_y = x.ravel(), y.ravel()
        columns = self._columns_at(flat_y)
        if not len(columns):
            return np.zeros(x.shape)
        use = np.isfinite(columns[0])
        nodes = self.x_nodes[use]
        # Each position has a line of its own; lines are handled together where they are the same.
        out = np.array([
            interpolate_line(nodes, row, flat_x[k : k + 1], self.spline)[0] for k, row in enumerate(columns[:, use])
        ])
        return out.reshape(x.shape)

    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[Any]:
        box = box or self.box
        x = np.arange(box.x0, box.x1, dtype=np.float64)
        y = np.arange(box.y0, box.y1, dtype=np.float64)
        return self._grid(x, y).astype(dtype, copy=False)

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
