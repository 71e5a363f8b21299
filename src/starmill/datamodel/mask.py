"""Named, documented mask planes packed in the bits of an int32 image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box
from starmill.errors import InputError, nearest_name

__all__ = ["DEFAULT_PLANES", "Mask", "MaskPlanes"]

DEFAULT_PLANES: dict[str, str] = {
    "BAD": "the detector is known to be bad here",
    "SAT": "the pixel or its bleed trail is saturated",
    "INTRP": "the value was interpolated from its neighbours",
    "CR": "hit by a cosmic ray",
    "EDGE": "too close to the edge for the last filter",
    "DETECTED": "part of a detected footprint",
    "DETECTED_NEGATIVE": "part of a footprint below the background",
    "SUSPECT": "in the range where the detector is not trusted to be linear",
    "NO_DATA": "no information here; the value means nothing",
}
"""The planes that every mask has, in bit order from 0, with their meanings."""

EXTRA_PLANES: dict[str, str] = {
    "CROSSTALK": "a bright pixel of another amplifier leaves a ghost here",
    "NOT_DEBLENDED": "part of a parent that the deblender skipped",
    "UNMASKEDNAN": "the value was not a number and no other plane said so",
    "CLIPPED": "an input was clipped when the images were combined",
    "REJECTED": "an input was rejected by its mask when the images were combined",
    "SENSOR_EDGE": "near the edge of an input of the combined image",
    "INEXACT_PSF": "the set of inputs changes here, the point-spread function is approximate",
    "INJECTED": "an artificial source was added",
    "STREAK": "on the trail of a satellite or aircraft",
    "VIGNETTED": "outside the illuminated field",
}
"""Meanings of well-known planes that tasks add when they need them."""

_MAX_PLANES = 31  # bit 31 is the sign of an int32


class MaskPlanes(Mapping[str, int]):
    """The names, bit numbers and meanings of the planes of a mask.

    A mapping from plane name to bit number; :meth:`bits` gives the value to compare pixels with.

    Parameters
    ----------
    planes : mapping of str to str, optional
        Name and meaning, in bit order. The default planes when not given.
    """

    def __init__(self, planes: Mapping[str, str] | None = None) -> None:
        self._descriptions: dict[str, str] = dict(DEFAULT_PLANES if planes is None else planes)
        self._numbers = {name: number for number, name in enumerate(self._descriptions)}
        if len(self._numbers) > _MAX_PLANES:
            raise InputError(f"a mask holds {_MAX_PLANES} planes at most, {len(self._numbers)} were given")

    def __getitem__(self, name: str) -> int:
        try:
            return self._numbers[name]
        except KeyError:
            near = nearest_name(name, self._numbers)
            hint = f"; did you mean {near}?" if near else ""
            raise InputError(f"there is no mask plane {name!r}{hint} (planes: {', '.join(self)})") from None

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return "MaskPlanes(" + ", ".join(f"{name}={bit}" for name, bit in self._numbers.items()) + ")"

    def description(self, name: str) -> str:
        """Return what a set bit of this plane means."""
        self[name]
        return self._descriptions[name]

    @property
    def descriptions(self) -> dict[str, str]:
        """Name and meaning of every plane, in bit order."""
        return dict(self._descriptions)

    def bits(self, *names: str) -> int:
        """Return the integer that has the bits of these planes set."""
        value = 0
        for name in names:
            value |= 1 << self[name]
        return value

    def bits_present(self, *names: str) -> int:
        """Return the bits of those of the planes that exist; unknown names give no bit."""
        return self.bits(*[name for name in names if name in self])

    def names(self, value: int) -> list[str]:
        """Return the names of the planes whose bits are set in ``value``."""
        return [name for name, bit in self._numbers.items() if value >> bit & 1]

    def add(self, name: str, description: str | None = None) -> int:
        """Add a plane if it is not there yet and return its bit number."""
        if name not in self._numbers:
            if len(self._numbers) == _MAX_PLANES:
                raise InputError(f"no bit is left for the mask plane {name!r}: all {_MAX_PLANES} are used")
            self._numbers[name] = len(self._numbers)
            self._descriptions[name] = EXTRA_PLANES.get(name, "") if description is None else description
        return self._numbers[name]

    def copy(self) -> MaskPlanes:
        """Return planes that can be added to without changing these."""
        return MaskPlanes(self._descriptions)


class Mask:
    """Bit planes on a box of pixels.

    Parameters
    ----------
    array : (ny, nx) int32 array
        Shared, not copied, when it is int32 already.
    planes : MaskPlanes, optional
        The default planes when not given. Shared between a mask and its views.
    origin : (x0, y0), optional
        Parent-frame index of the first pixel.
    """

    def __init__(
        self,
        array: NDArray[Any],
        planes: MaskPlanes | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> None:
        array = np.asarray(array)
        if array.ndim != 2:
            raise InputError(f"a mask has two dimensions, the array has {array.ndim}")
        self.array: NDArray[np.int32] = array if array.dtype == np.int32 else array.astype(np.int32)
        self.planes = MaskPlanes() if planes is None else planes
        self.origin = (int(origin[0]), int(origin[1]))

    @classmethod
    def zeros(
        cls, shape: tuple[int, int], planes: MaskPlanes | None = None, origin: tuple[int, int] = (0, 0)
    ) -> Mask:
        """Return a mask with no bit set."""
        return cls(np.zeros(shape, np.int32), planes, origin)

    @property
    def shape(self) -> tuple[int, int]:
        """``(ny, nx)``."""
        return self.array.shape

    @property
    def box(self) -> Box:
        """The pixels of the mask, parent frame."""
        return Box.from_shape(self.shape, self.origin)

    def bits(self, *names: str) -> int:
        """Return the integer that has the bits of these planes set."""
        return self.planes.bits(*names)

    def any(self, *names: str) -> NDArray[np.bool_]:
        """Return where any of these planes is set; any plane at all when no name is given."""
        if not names:
            return self.array != 0
        bits = np.int32(self.bits(*names))
        found = np.empty(self.shape, np.bool_)
        for y0 in range(0, len(found), 256):  # in bands: the integers in between stay in the cache
            rows = slice(y0, y0 + 256)
            np.not_equal(self.array[rows] & bits, 0, out=found[rows])
        return found

    def set(self, name: str, where: Any = slice(None)) -> None:
        """Set a plane on the pixels of ``where`` (a bool array or an index); add it when missing."""
        self.array[where] |= np.int32(1 << self.planes.add(name))

    def clear(self, *names: str, where: Any = slice(None)) -> None:
        """Clear planes on the pixels of ``where``; a plane that does not exist is clear already."""
        self.array[where] &= np.int32(~self.planes.bits_present(*names))

    def add_plane(self, name: str, description: str | None = None) -> int:
        """Add a plane if it is not there yet and return its bit number."""
        return self.planes.add(name, description)

    def fractions(self) -> dict[str, float]:
        """Return the fraction of pixels that have each plane set."""
        if self.array.size == 0:
            return dict.fromkeys(self.planes, 0.0)
        counts = dict.fromkeys(self.planes, 0)
        for y0 in range(0, len(self.array), 64):  # in bands: they stay in the cache for all planes
            band = self.array[y0 : y0 + 64]
            present = int(np.bitwise_or.reduce(band, axis=None))
            for name, number in self.planes.items():
                if present >> number & 1:
                    counts[name] += int(np.count_nonzero(band & np.int32(1 << number)))
        return {name: count / self.array.size for name, count in counts.items()}

    def conformed_array(self, planes: MaskPlanes) -> NDArray[np.int32]:
        """Return the bits re-arranged for other planes, adding the missing ones to them."""
        if planes is self.planes or list(planes) == list(self.planes):
            return self.array
        moved = np.zeros_like(self.array)
        for name, number in self.planes.items():
            target = planes.add(name, self.planes.description(name))
            moved |= (self.array >> number & 1) << target
        return moved

    def __ior__(self, other: Mask) -> Self:
        if other.shape != self.shape:
            raise InputError(f"masks of shapes {self.shape} and {other.shape} cannot be combined")
        self.array |= other.conformed_array(self.planes)
        return self

    def __getitem__(self, box: Box) -> Mask:
        """Return a view of the pixels of a box (parent frame)."""
        if not self.box.contains_box(box):
            raise InputError(f"{box} is not inside the mask's {self.box}")
        return Mask(self.array[box.slices(self.origin)], self.planes, box.origin)

    def copy(self) -> Mask:
        """Return a mask that shares nothing with this one."""
        return Mask(self.array.copy(), self.planes.copy(), self.origin)

    def __repr__(self) -> str:
        used = [f"{name} {100 * value:.2g}%" for name, value in self.fractions().items() if value > 0]
        return f"Mask({self.shape[1]} x {self.shape[0]} at {self.origin}: {', '.join(used) or 'no bit set'})"
