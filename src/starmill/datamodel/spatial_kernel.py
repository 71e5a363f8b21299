"""A convolution kernel that changes over the field: basis images times smooth fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import Field, field_from_dict
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
        return np.stack([field(x, y) for field in self.fields], axis=-1)

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
