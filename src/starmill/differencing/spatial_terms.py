"""Families of smooth functions over a field, used for kernel, photometric scale and background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from starmill.datamodel.field import ChebyshevField, Field, PolynomialField
from starmill.datamodel.geometry import Box
from starmill.errors import InputError

__all__ = ["BSplineField", "SpatialTerms"]


@dataclass(frozen=True)
class SpatialTerms:
    """Terms ``P_j(x, y)`` on a box.

    Attributes
    ----------
    box : Box
        Scaled to [-1, 1] in both directions.
    order : int
        Highest total degree (polynomials) or number of spline intervals per side (at least 1).
    family : {"chebyshev", "polynomial", "bspline"}
        Chebyshev and plain polynomials span the same functions; cubic B-splines are local.
    """

    box: Box
    order: int
    family: str = "chebyshev"

    def __post_init__(self) -> None:
        if self.family not in {"chebyshev", "polynomial", "bspline"}:
            raise InputError(f"unknown family of spatial terms {self.family!r}")
        if self.order < 0:
            raise InputError(f"spatial order must be >= 0, not {self.order}")

    @property
    def degrees(self) -> list[tuple[int, int]]:
        """The powers ``(i, j)`` of x and y of each term, in order of total degree for polynomials."""
        if self.is_local:
            side = self.order + 3
            return [(i, j) for i in range(side) for j in range(side)]
        return [(i, total - i) for total in range(self.order + 1) for i in range(total, -1, -1)]

    @property
    def orders(self) -> NDArray[np.integer]:
        """The sum of both powers of each term, ``(n,)`` ints."""
        return np.array([i + j for i, j in self.degrees])

    @property
    def is_local(self) -> bool:
        """The terms are splines."""
        return self.family == "bspline" and self.order > 0

    def __len__(self) -> int:
        return len(self.degrees)

    def evaluate(self, x: NDArray[Any] | float, y: NDArray[Any] | float) -> NDArray[np.floating]:
        """Return the terms at positions, ``(..., n_terms)``."""
        along_x, along_y = (
            self._sides(x, self.box.center[0], self.box.width),
            self._sides(y, self.box.center[1], self.box.height),
        )
        i, j = np.array(self.degrees).T
        return along_x[..., i] * along_y[..., j]

    def field(
        self, coefficients: NDArray[np.floating] | list[float]
    ) -> ChebyshevField | PolynomialField | BSplineField:
        """Return the field ``sum_j coefficients[j] P_j``."""
        degrees = np.array(self.degrees)
        grid = np.zeros((degrees[:, 1].max() + 1, degrees[:, 0].max() + 1))
        grid[degrees[:, 1], degrees[:, 0]] = coefficients
        if self.is_local:
            return BSplineField(self.box, grid)
        return (PolynomialField if self.family == "polynomial" else ChebyshevField)(self.box, grid)

    def _sides(self, at: NDArray[Any] | float, center: float, length: int) -> NDArray[np.floating]:
        scaled = (np.asarray(at, np.float64) - center) * (2 / length)
        if self.is_local:
            return _spline_terms(scaled, self.order)
        if self.family == "polynomial":
            return scaled[..., None] ** np.arange(self.order + 1)
        return chebyshev.chebvander(scaled, self.order).reshape(*scaled.shape, self.order + 1)


def _spline_terms(scaled: NDArray[np.floating] | float, intervals: int) -> NDArray[np.floating]:
    """Return the cubic B-splines of ``intervals`` equal intervals of [-1, 1] at positions, ``(..., n + 3)``."""
    from scipy.interpolate import BSpline  # forty megabytes that no other family needs

    step = 2 / intervals
    knots = -1 + step * np.arange(-3, intervals + 4)
    inside = np.clip(np.atleast_1d(scaled), -1, 1 - 1e-12)
    design = BSpline.design_matrix(inside.ravel(), knots, 3).toarray()
    return design.reshape(*np.shape(scaled), intervals + 3)


class BSplineField(Field):
    """A tensor product of uniform cubic B-splines.

    Parameters
    ----------
    box : Box
        Divided into equal intervals; outside, the value at the edge holds.
    coefficients : (ny + 3, nx + 3) array
        For ``ny`` x ``nx`` intervals.
    """

    kind = "bspline"

    def __init__(self, box: Box, coefficients: NDArray[np.floating] | list[list[float]]) -> None:
        self.box = box
        self.coefficients = np.array(coefficients, np.float64)

    def _terms(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        ny, nx = self.coefficients.shape
        cx, cy = self.box.center
        return (
            _spline_terms((np.asarray(x, np.float64) - cx) * (2 / self.box.width), nx - 3),
            _spline_terms((np.asarray(y, np.float64) - cy) * (2 / self.box.height), ny - 3),
        )

    def __call__(self, x: Any, y: Any) -> NDArray[np.floating] | float:
        x, y = np.broadcast_arrays(x, y)
        along_x, along_y = self._terms(x, y)
        return np.einsum("...j,ji,...i->...", along_y, self.coefficients, along_x)

    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[np.floating]:
        box = box or self.box
        along_x, along_y = self._terms(np.arange(box.x0, box.x1), np.arange(box.y0, box.y1))
        return (along_y @ self.coefficients).astype(dtype) @ along_x.T.astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        box = self.box
        return {
            "kind": self.kind,
            "box": [box.x0, box.y0, box.width, box.height],
            "coefficients": self.coefficients.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BSplineField:
        return cls(Box(*data["box"]), data["coefficients"])
