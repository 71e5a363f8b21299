"""Smooth two-dimensional functions on a box: backgrounds, PSF terms, aperture corrections.

A field is evaluated at positions (``field(x, y)``) or on all pixels of a box (``field.image(box)``), in the
parent frame. Fields are immutable, add, multiply, and travel as plain dictionaries. The functions that
*fit* them are in :mod:`starmill.numerics.field_fit` and :mod:`starmill.background.mesh`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box
from starmill.errors import InputError

__all__ = [
    "ChebyshevField",
    "ConstantField",
    "Field",
    "FieldProduct",
    "FieldSum",
    "PolynomialField",
    "field_from_dict",
]

_KINDS: dict[str, type[Field]] = {}


class Field(ABC):
    """A smooth function on a box of pixels.

    Attributes
    ----------
    box : Box
        Where the function is meant to be used; it is defined outside, but extrapolated there.
    """

    kind: ClassVar[str] = ""
    box: Box

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.kind:
            _KINDS[cls.kind] = cls

    @abstractmethod
    def __call__(self, x: Any, y: Any) -> NDArray[np.float64]:
        """Return the values at positions (parent frame); arrays broadcast."""

    @abstractmethod
    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[Any]:
        """Return the values on all pixels of ``box`` (this field's own box by default), ``(height, width)``."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and arrays from which the field can be made again."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: dict[str, Any]) -> Field:
        """Make the field from what :meth:`to_dict` returned."""

    def __add__(self, other: Field | float) -> Field:
        return FieldSum([self, _as_field(other, self.box)])

    __radd__ = __add__

    def __mul__(self, other: Field | float) -> Field:
        return FieldProduct([self, _as_field(other, self.box)])

    __rmul__ = __mul__

    def mean(self) -> float:
        """Return the mean over the box, from at most 64 x 64 pixels spread evenly over it."""
        x = np.linspace(self.box.x0, self.box.x1 - 1, min(64, self.box.width))
        y = np.linspace(self.box.y0, self.box.y1 - 1, min(64, self.box.height))
        return float(np.mean(self(x[None, :], y[:, None])))

    def _repr_html_(self) -> str:
        return f"<b>{type(self).__name__}</b> on {self.box.width} × {self.box.height}, mean {self.mean():.6g}"


def field_from_dict(data: dict[str, Any]) -> Field:
    """Make a field of any kind from what its ``to_dict`` returned.

    Raises
    ------
    InputError
        When the kind is unknown.
    """
    kind = data.get("kind")
    if kind not in _KINDS:
        raise InputError(f"unknown kind of field {kind!r} (known: {', '.join(sorted(_KINDS))})")
    return _KINDS[kind].from_dict(data)


def _as_field(value: Field | float, box: Box) -> Field:
    return value if isinstance(value, Field) else ConstantField(box, float(value))


def _box_list(box: Box) -> list[int]:
    return [box.x0, box.y0, box.width, box.height]


class ConstantField(Field):
    """The same value everywhere.

    Parameters
    ----------
    box : Box
    value : float
    """

    kind = "constant"

    def __init__(self, box: Box, value: float) -> None:
        self.box = box
        self.value = float(value)

    def __call__(self, x: Any, y: Any) -> NDArray[np.float64]:
        return np.full(np.broadcast_shapes(np.shape(x), np.shape(y)), self.value)

    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[Any]:
        return np.full((box or self.box).shape, self.value, dtype)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "box": _box_list(self.box), "value": self.value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ConstantField:
        return cls(Box(*data["box"]), data["value"])

    def __repr__(self) -> str:
        return f"ConstantField({self.value:.6g})"


class ChebyshevField(Field):
    """A sum of products of Chebyshev polynomials of the first kind.

    Parameters
    ----------
    box : Box
        Its pixel edges ``[x0 - 0.5, x1 - 0.5]`` are scaled to ``[-1, 1]``.
    coefficients : (ny, nx) array
        ``coefficients[j, i]`` multiplies ``T_i(x) T_j(y)``.
    """

    kind = "chebyshev"

    def __init__(self, box: Box, coefficients: NDArray[Any] | Sequence[Sequence[float]]) -> None:
        self.box = box
        self.coefficients = np.atleast_2d(np.array(coefficients, np.float64))

    def scaled(self, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return positions scaled to [-1, 1] over the box."""
        cx, cy = self.box.center
        return (
            (np.asarray(x, np.float64) - cx) * (2 / max(self.box.width, 1)),
            (np.asarray(y, np.float64) - cy) * (2 / max(self.box.height, 1)),
        )

    def __call__(self, x: Any, y: Any) -> NDArray[np.float64]:
        u, v = self.scaled(x, y)
        u, v = np.broadcast_arrays(u, v)
        return np.asarray(chebyshev.chebval2d(u, v, self.coefficients.T))

    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[Any]:
        box = box or self.box
        u, v = self.scaled(np.arange(box.x0, box.x1), np.arange(box.y0, box.y1))
        along_x = chebyshev.chebvander(u, self.coefficients.shape[1] - 1)
        along_y = chebyshev.chebvander(v, self.coefficients.shape[0] - 1)
        rows = along_y @ self.coefficients
        return rows.astype(dtype) @ along_x.T.astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "box": _box_list(self.box), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ChebyshevField:
        return cls(Box(*data["box"]), data["coefficients"])

    def __repr__(self) -> str:
        ny, nx = self.coefficients.shape
        return f"ChebyshevField(order {nx - 1} x {ny - 1}, mean {self.mean():.6g})"


class PolynomialField(Field):
    """A polynomial in positions scaled to [-1, 1] over the box.

    Parameters
    ----------
    box : Box
        As for :class:`ChebyshevField`.
    coefficients : (ny, nx) array
        ``coefficients[j, i]`` multiplies ``x^i y^j``.
    """

    kind = "polynomial"

    def __init__(self, box: Box, coefficients: NDArray[Any] | Sequence[Sequence[float]]) -> None:
        self.box = box
        self.coefficients = np.atleast_2d(np.array(coefficients, np.float64))

    def scaled(self, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return positions scaled to [-1, 1] over the box."""
        return ChebyshevField(self.box, [[0.0]]).scaled(x, y)

    def __call__(self, x: Any, y: Any) -> NDArray[np.float64]:
        u, v = self.scaled(x, y)
        u, v = np.broadcast_arrays(u, v)
        return np.asarray(np.polynomial.polynomial.polyval2d(u, v, self.coefficients.T))

    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[Any]:
        box = box or self.box
        u, v = self.scaled(np.arange(box.x0, box.x1), np.arange(box.y0, box.y1))
        along_x = np.vander(u, self.coefficients.shape[1], increasing=True)
        along_y = np.vander(v, self.coefficients.shape[0], increasing=True)
        return (along_y @ self.coefficients).astype(dtype) @ along_x.T.astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "box": _box_list(self.box), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolynomialField:
        return cls(Box(*data["box"]), data["coefficients"])

    def __repr__(self) -> str:
        ny, nx = self.coefficients.shape
        return f"PolynomialField(order {nx - 1} x {ny - 1}, mean {self.mean():.6g})"


class FieldSum(Field):
    """The sum of fields: the total of a list of background models.

    Parameters
    ----------
    fields : sequence of Field
        At least one; the box is that of the first.
    """

    kind = "sum"

    def __init__(self, fields: Sequence[Field]) -> None:
        if not fields:
            raise InputError("a sum of fields needs at least one field")
        self.fields = tuple(fields)
        self.box = self.fields[0].box

    def __call__(self, x: Any, y: Any) -> NDArray[np.float64]:
        total = self.fields[0](x, y)
        for field in self.fields[1:]:
            total = total + field(x, y)
        return total

    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[Any]:
        box = box or self.box
        total = self.fields[0].image(box, dtype)
        for field in self.fields[1:]:
            total += field.image(box, dtype)
        return total

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "fields": [field.to_dict() for field in self.fields]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FieldSum:
        return cls([field_from_dict(item) for item in data["fields"]])

    def __repr__(self) -> str:
        return f"FieldSum({', '.join(map(repr, self.fields))})"


class FieldProduct(Field):
    """The product of fields.

    Parameters
    ----------
    fields : sequence of Field
        At least one; the box is that of the first.
    """

    kind = "product"

    def __init__(self, fields: Sequence[Field]) -> None:
        if not fields:
            raise InputError("a product of fields needs at least one field")
        self.fields = tuple(fields)
        self.box = self.fields[0].box

    def __call__(self, x: Any, y: Any) -> NDArray[np.float64]:
        total = self.fields[0](x, y)
        for field in self.fields[1:]:
            total = total * field(x, y)
        return total

    def image(self, box: Box | None = None, dtype: Any = np.float64) -> NDArray[Any]:
        box = box or self.box
        total = self.fields[0].image(box, dtype)
        for field in self.fields[1:]:
            total *= field.image(box, dtype)
        return total

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "fields": [field.to_dict() for field in self.fields]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FieldProduct:
        return cls([field_from_dict(item) for item in data["fields"]])

    def __repr__(self) -> str:
        return f"FieldProduct({', '.join(map(repr, self.fields))})"
