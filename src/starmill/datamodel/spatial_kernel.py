"""A convolution kernel that changes over the field: basis images times smooth fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev, polynomial
from numpy.typing import NDArray

from starmill.datamodel.field import ChebyshevField, Field, PolynomialField, field_from_dict
from starmill.datamodel.geometry import Box
from starmill.errors import InputError

__all__ = ["SpatialKernel"]


class SpatialKernel:
    """A kernel ``K(u, v; x, y) = sum_i field_i(x, y) basis_i(u, v)``.

    Parameters
    ----------
    basis : (n, size, size) array
        Basis images, dimensionless, ``size`` odd, indexed ``[u, v]`` = (y, x) offsets from the centre.
    fields : sequence of Field
        One coefficient field for each basis image; all in one parent frame.

    Notes
    -----
    Convolution follows the usual sign: ``out(y, x) = sum K(u, v; x, y) image(y - u, x - v)``, with the kernel
    taken at the output pixel.
    """

    def __init__(self, basis: NDArray[Any], fields: Sequence[Field]) -> None:
        self.basis = np.asarray(basis, np.float64)
        self.fields = tuple(fields)
        if self.basis.ndim != 3 or self.basis.shape[1] != self.basis.shape[2] or self.basis.shape[1] % 2 == 0:
            raise InputError(f"kernel basis must be (n, size, size) with odd size, not {self.basis.shape}")
        if len(self.fields) != len(self.basis):
            raise InputError(f"{len(self.basis)} basis images but {len(self.fields)} fields")
        self._sums = self.basis.sum(axis=(1, 2))
        self._grid = self._common_coefficients()

    def _common_coefficients(self) -> NDArray[np.float64] | None:
        """Return the coefficients of all fields when they are one family on one box, ``(n, ny, nx)``."""
        first = self.fields[0]
        if not isinstance(first, ChebyshevField | PolynomialField):
            return None
        alike = [f for f in self.fields if type(f) is type(first) and f.box == first.box]
        if len(alike) < len(self.fields):
            return None
        arrays = [f.coefficients for f in alike if isinstance(f, ChebyshevField | PolynomialField)]
        grid = np.zeros((len(arrays), max(a.shape[0] for a in arrays), max(a.shape[1] for a in arrays)))
        for out, array in zip(grid, arrays, strict=True):
            out[: array.shape[0], : array.shape[1]] = array
        return grid

    def _scaled(self, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        box = self.box
        return (
            (np.asarray(x, np.float64) - box.center[0]) * (2 / max(box.width, 1)),
            (np.asarray(y, np.float64) - box.center[1]) * (2 / max(box.height, 1)),
        )

    @property
    def box(self) -> Box:
        """The box of the field on which the kernel was fitted."""
        return self.fields[0].box

    @property
    def size(self) -> int:
        """The side of the kernel in pixels, odd."""
        return int(self.basis.shape[1])

    @property
    def half_width(self) -> int:
        """``(size - 1) / 2`` in pixels."""
        return self.size // 2

    def coefficients_at(self, x: Any, y: Any) -> NDArray[np.float64]:
        """Return the coefficients of the basis images at positions, ``(..., n)``."""
        if self._grid is None:
            return np.stack([field(x, y) for field in self.fields], axis=-1)
        u, v = np.broadcast_arrays(*self._scaled(x, y))
        make = chebyshev.chebvander if isinstance(self.fields[0], ChebyshevField) else polynomial.polyvander
        along_x = make(u, self._grid.shape[2] - 1).reshape(*u.shape, -1)
        along_y = make(v, self._grid.shape[1] - 1).reshape(*v.shape, -1)
        terms = along_y[..., :, None] * along_x[..., None, :]
        return np.asarray(terms.reshape(*u.shape, -1) @ self._grid.reshape(len(self._grid), -1).T)

    def kernels_at(self, x: Any, y: Any) -> NDArray[np.float64]:
        """Return kernels at positions (parent frame), ``(..., size, size)``."""
        values = self.coefficients_at(x, y)
        flat = self.basis.reshape(len(self.basis), -1)
        return (values @ flat).reshape(*values.shape[:-1], self.size, self.size)

    def kernel_at(self, x: float, y: float) -> NDArray[np.float64]:
        """Return the kernel at one position, ``(size, size)``."""
        return self.kernels_at(float(x), float(y))

    def sum_at(self, x: Any, y: Any) -> NDArray[np.float64]:
        """Return the kernel sum (the photometric ratio) at positions."""
        return self.coefficients_at(x, y) @ self._sums

    def scaled(self, factor: float | Field) -> SpatialKernel:
        """Return the kernel times a number or a field."""
        return SpatialKernel(self.basis, [field * factor for field in self.fields])

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and arrays from which the kernel can be made again."""
        return {"basis": self.basis, "fields": [field.to_dict() for field in self.fields]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SpatialKernel:
        """Make the kernel from what :meth:`to_dict` returned."""
        return cls(np.asarray(data["basis"]), [field_from_dict(item) for item in data["fields"]])

    def __repr__(self) -> str:
        x, y = self.box.center
        return f"SpatialKernel({len(self.basis)} basis images of {self.size} px, sum {self.sum_at(x, y):.5f} at the centre)"
