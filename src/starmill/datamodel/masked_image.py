"""An image with its mask and variance; arithmetic carries all three."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.errors import InputError

__all__ = ["MaskedImage"]


class MaskedImage:
    r"""Pixels, mask and variance on one box.

    Parameters
    ----------
    image : (ny, nx) array, in ``unit``
        Kept as float32 (shared when it is float32 already). Pixels that are not finite are
        flagged NO_DATA when no mask is given, and set to zero so that they cannot spread.
    mask : Mask or (ny, nx) int array, optional
        No bit set when not given.
    variance : (ny, nx) array, in the square of ``unit``, optional
        Zero when not given; zero means *unknown*.
    origin : (x0, y0)
        Parent-frame index of the first pixel.
    unit : str
        Unit of the image.

    Notes
    -----
    Errors are taken as independent: ``a ± b`` has variance ``va + vb``, ``a b`` has
    ``a² vb + b² va``, ``a / b`` has ``(va b² + vb a²) / b⁴``. The masks are OR-ed. Division by zero
    gives zero and NO_DATA.
    """

    def __init__(
        self,
        image: NDArray[Any],
        mask: Mask | NDArray[Any] | None = None,
        variance: NDArray[Any] | None = None,
        *,
        origin: tuple[int, int] = (0, 0),
        unit: str = "electron",
    ) -> None:
        image = np.asarray(image)
        if image.ndim != 2:
            raise InputError(f"an image has two dimensions, the array has {image.ndim}")
        if image.dtype.kind not in "fiub":
            raise InputError(f"an image needs real numbers, the array holds {image.dtype}")
        self.image: NDArray[np.float32] = _as_float32(image)
        self.origin = (int(origin[0]), int(origin[1]))
        self.unit = unit
        if mask is None:
            mask = Mask.zeros(self.shape, origin=self.origin)
            bad = ~np.isfinite(self.image)
            if bad.any():
                self.image = np.where(bad, np.float32(0), self.image)
                mask.set("NO_DATA", bad)
        elif not isinstance(mask, Mask):
            mask = Mask(mask, origin=self.origin)
        self.mask: Mask = mask
        if variance is None:
            variance = np.zeros(self.shape, np.float32)
        self.variance: NDArray[np.float32] = _as_float32(np.asarray(variance))
        for name, plane in (("mask", self.mask.array), ("variance", self.variance)):
            if plane.shape != self.image.shape:
                raise InputError(f"the {name} has shape {plane.shape}, the image {self.image.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """``(ny, nx)``."""
        return self.image.shape

    @property
    def box(self) -> Box:
        """The pixels, parent frame."""
        return Box.from_shape(self.shape, self.origin)

    def __getitem__(self, box: Box) -> MaskedImage:
        """Return a view of the pixels of a box (parent frame): all three planes are shared."""
        if not self.box.contains_box(box):
            raise InputError(f"{box} is not inside the image's {self.box}")
        rows = box.slices(self.origin)
        return MaskedImage(
            self.image[rows], self.mask[box], self.variance[rows], origin=box.origin, unit=self.unit
        )

    def copy(self) -> MaskedImage:
        """Return an image that shares nothing with this one."""
        return MaskedImage(
            self.image.copy(), self.mask.copy(), self.variance.copy(), origin=self.origin, unit=self.unit
        )

    def _combined(self, image: Any, variance: Any, other: MaskedImage | None, bad: Any = None) -> MaskedImage:
        mask = self.mask.copy()
        if other is not None:
            mask |= other.mask
        if bad is not None:
            mask.set("NO_DATA", bad)
        return MaskedImage(image, mask, variance, origin=self.origin, unit=self.unit)

    def _check(self, other: MaskedImage) -> None:
        if other.box != self.box:
            raise InputError(f"the images do not cover the same pixels: {self.box} and {other.box}")

    def __add__(self, other: MaskedImage | float | NDArray[Any]) -> MaskedImage:
        if isinstance(other, MaskedImage):
            self._check(other)
            return self._combined(self.image + other.image, self.variance + other.variance, other)
        return self._combined(self.image + other, self.variance.copy(), None)

    __radd__ = __add__

    def __sub__(self, other: MaskedImage | float | NDArray[Any]) -> MaskedImage:
        if isinstance(other, MaskedImage):
            self._check(other)
            return self._combined(self.image - other.image, self.variance + other.variance, other)
        return self._combined(self.image - other, self.variance.copy(), None)

    def __rsub__(self, other: float | NDArray[Any]) -> MaskedImage:
        return (-self) + other

    def __neg__(self) -> MaskedImage:
        return self._combined(-self.image, self.variance.copy(), None)

    def __mul__(self, other: MaskedImage | float | NDArray[Any]) -> MaskedImage:
        if isinstance(other, MaskedImage):
            self._check(other)
            variance = self.image**2 * other.variance + other.image**2 * self.variance
            return self._combined(self.image * other.image, variance, other)
        factor = np.asarray(other, np.float32)
        return self._combined(self.image * factor, self.variance * factor**2, None)

    __rmul__ = __mul__

    def __truediv__(self, other: MaskedImage | float | NDArray[Any]) -> MaskedImage:
        if isinstance(other, MaskedImage):
            self._check(other)
            zero = other.image == 0
            divisor = np.where(zero, np.float32(1), other.image)
            variance = (self.variance + other.variance * (self.image / divisor) ** 2) / divisor**2
            quotient = np.where(zero, np.float32(0), self.image / divisor)
            return self._combined(quotient, np.where(zero, np.float32(0), variance), other, zero)
        factor = np.asarray(other, np.float32)
        zero = np.broadcast_to(factor == 0, self.shape)
        divisor = np.where(factor == 0, np.float32(1), factor)
        image = np.where(zero, np.float32(0), self.image / divisor)
        return self._combined(image, np.where(zero, np.float32(0), self.variance / divisor**2), None, zero)

    def __repr__(self) -> str:
        return f"MaskedImage({self.shape[1]} x {self.shape[0]} at {self.origin}, {self.unit})"


def _as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return native float32, sharing memory when the array is that already."""
    return array if array.dtype == np.float32 and array.dtype.isnative else array.astype(np.float32)
