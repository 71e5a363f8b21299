"""Integer boxes and the pixel convention.

The centre of the first pixel of an array is at (0, 0); pixel ``i`` covers ``[i - 0.5, i + 0.5)``.
An image has an integer *origin* ``(x0, y0)``; positions are given in the *parent frame*,
that is array index + origin, so that a cut-out keeps the coordinates of the image it was cut from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from starmill.errors import InputError

__all__ = ["Box", "pixel_index"]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels: ``x0 <= x < x0 + width``, ``y0 <= y < y0 + height``.

    Parameters
    ----------
    x0, y0 : int
        Indices of the lower left pixel, parent frame.
    width, height : int
        Number of pixels along x and y; never negative.
    """

    x0: int
    y0: int
    width: int
    height: int

    def __post_init__(self) -> None:
        for name in ("x0", "y0", "width", "height"):
            object.__setattr__(self, name, int(getattr(self, name)))
        if self.width < 0 or self.height < 0:
            raise InputError(f"a box cannot have the negative size {self.width} x {self.height}")

    @classmethod
    def from_shape(cls, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> Box:
        """Return the box of an array of this ``(ny, nx)`` shape with its origin ``(x0, y0)``."""
        return cls(origin[0], origin[1], shape[1], shape[0])

    @classmethod
    def from_corners(cls, x0: int, y0: int, x1: int, y1: int) -> Box:
        """Return the box between inclusive first and exclusive last pixels."""
        return cls(x0, y0, max(0, x1 - x0), max(0, y1 - y0))

    @classmethod
    def centered(cls, x: float, y: float, size: int) -> Box:
        """Return the square box of odd ``size`` around the pixel that holds ``(x, y)``."""
        half = size // 2
        return cls(pixel_index(x) - half, pixel_index(y) - half, size, size)

    @property
    def x1(self) -> int:
        """First pixel to the right of the box."""
        return self.x0 + self.width

    @property
    def y1(self) -> int:
        """First pixel above the box."""
        return self.y0 + self.height

    @property
    def origin(self) -> tuple[int, int]:
        """``(x0, y0)``."""
        return self.x0, self.y0

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``, the shape of an array that fills the box."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def is_empty(self) -> bool:
        """True when the box holds no pixel."""
        return self.width == 0 or self.height == 0

    @property
    def center(self) -> tuple[float, float]:
        """Centre ``(x, y)`` in the parent frame."""
        return self.x0 + (self.width - 1) / 2, self.y0 + (self.height - 1) / 2

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top edges: the ``extent`` of an image plot with the origin below."""
        return self.x0 - 0.5, self.x1 - 0.5, self.y0 - 0.5, self.y1 - 0.5

    def grow(self, pixels: int) -> Box:
        """Return the box with ``pixels`` more (or fewer, when negative) on every side."""
        width, height = self.width + 2 * pixels, self.height + 2 * pixels
        if width <= 0 or height <= 0:
            x, y = self.x0 + self.width // 2, self.y0 + self.height // 2
            return Box(x, y, 0, 0)
        return Box(self.x0 - pixels, self.y0 - pixels, width, height)

    def shifted(self, dx: int, dy: int) -> Box:
        """Return the box moved by whole pixels."""
        return Box(self.x0 + dx, self.y0 + dy, self.width, self.height)

    def intersection(self, other: Box) -> Box:
        """Return the common part, an empty box when there is none."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box.from_corners(x0, y0, min(self.x1, other.x1), min(self.y1, other.y1))

    def union(self, other: Box) -> Box:
        """Return the smallest box that holds both."""
        if self.is_empty:
            return other
        if other.is_empty:
            return self
        x0, y0 = min(self.x0, other.x0), min(self.y0, other.y0)
        return Box.from_corners(x0, y0, max(self.x1, other.x1), max(self.y1, other.y1))

    def overlaps(self, other: Box) -> bool:
        """Return whether the boxes share a pixel."""
        return not self.intersection(other).is_empty

    def contains(self, x: Any, y: Any) -> Any:
        """Return whether positions lie on a pixel of the box.

        Parameters
        ----------
        x, y : float or array
            Positions, parent frame. NaN is outside.

        Returns
        -------
        inside : bool or bool array
        """
        x, y = np.asarray(x), np.asarray(y)
        inside = (x >= self.x0 - 0.5) & (x < self.x1 - 0.5) & (y >= self.y0 - 0.5) & (y < self.y1 - 0.5)
        return bool(inside) if inside.ndim == 0 else inside

    def contains_box(self, other: Box) -> bool:
        """Return whether every pixel of ``other`` is a pixel of this box."""
        return self.intersection(other) == other

    def slices(self, origin: tuple[int, int] = (0, 0)) -> tuple[slice, slice]:
        """Return ``(slice_y, slice_x)`` into an array whose first pixel is ``origin`` (x0, y0)."""
        x, y = self.x0 - origin[0], self.y0 - origin[1]
        return slice(y, y + self.height), slice(x, x + self.width)

    def tiles(self, width: int, height: int | None = None) -> Iterator[Box]:
        """Yield boxes of at most this size that cover the box, row by row."""
        height = width if height is None else height
        for y in range(self.y0, self.y1, height):
            for x in range(self.x0, self.x1, width):
                yield Box(x, y, min(width, self.x1 - x), min(height, self.y1 - y))


def pixel_index(position: float) -> int:
    """Return the index of the pixel that a position lies on: ``floor(position + 0.5)``."""
    return int(np.floor(position + 0.5))
