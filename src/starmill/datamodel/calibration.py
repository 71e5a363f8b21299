"""Calibration data: master frames, defects, linearity and crosstalk, with their range of validity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box
from starmill.datamodel.masked_image import MaskedImage
from starmill.errors import InputError

__all__ = ["MASTER_KINDS", "MASTER_UNITS", "Crosstalk", "Defects", "Linearity", "MasterFrame"]

MASTER_UNITS: dict[str, str] = {"bias": "electron", "dark": "electron/s", "flat": "", "fringe": "electron"}
"""Unit of each kind of master frame; a flat has none and a mean near one."""

MASTER_KINDS = tuple(MASTER_UNITS)

BAND_ROWS = 256
"""Rows of a master frame that are looked at at a time."""

LINEARITY_KINDS = ("none", "polynomial", "squared", "lookup_table", "spline")


@dataclass(frozen=True)
class MasterFrame:
    """A combined bias, dark, flat or fringe frame of one detector.

    Parameters
    ----------
    kind : str
        ``bias``, ``dark``, ``flat`` or ``fringe``.
    pixels : MaskedImage, or what has its attributes and reads parts from a file
        Assembled frame with variance and mask; electron (bias, fringe), electron per second
        (dark) or dimensionless with a mean near one (flat).
    camera, detector : str
        What it is valid for; empty: anything of the same shape.
    filter : str
        Filter of a flat or fringe frame; empty for the others.
    n_frames : int
        How many raw frames were combined.
    valid_from, valid_to : float
        Range of validity, MJD (UTC).
    properties : mapping of str to float
        Numbers measured while building, e.g. ``gain.A`` in electron/adu, ``read_noise.A`` in electron.
    """

    kind: str
    pixels: MaskedImage
    camera: str = ""
    detector: str = ""
    filter: str = ""
    n_frames: int = 0
    valid_from: float = -np.inf
    valid_to: float = np.inf
    properties: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in MASTER_UNITS:
            raise InputError(f"a master frame is one of {', '.join(MASTER_KINDS)}, not {self.kind!r}")
        if self.valid_to < self.valid_from:
            raise InputError(
                f"a master {self.kind} cannot be valid from {self.valid_from} to {self.valid_to}"
            )

    @property
    def image(self) -> NDArray[np.float32]:
        """Pixels, ``(ny, nx)``, in :attr:`unit`."""
        return self.pixels.image

    @property
    def variance(self) -> NDArray[np.float32]:
        """Variance of the pixels, in :attr:`unit` squared."""
        return self.pixels.variance

    @property
    def mask(self) -> NDArray[np.int32]:
        """Mask bits; BAD and NO_DATA where the frame must not be used."""
        return self.pixels.mask.array

    def rows(self, y0: int, y1: int) -> MaskedImage:
        """Return the rows ``y0`` to ``y1`` (exclusive, array index); of a frame in a file only these are read."""
        x, y = self.pixels.origin
        return self.pixels[Box(x, y + y0, self.shape[1], y1 - y0)]

    @cached_property
    def has_variance(self) -> bool:
        """Whether any pixel has a variance."""
        return any(bool(self.rows(y0, y1).variance.any()) for y0, y1 in self._bands())

    @cached_property
    def has_mask(self) -> bool:
        """Whether any pixel is flagged."""
        return any(bool(self.rows(y0, y1).mask.array.any()) for y0, y1 in self._bands())

    def _bands(self) -> list[tuple[int, int]]:
        ny = self.shape[0]
        return [(y0, min(y0 + BAND_ROWS, ny)) for y0 in range(0, ny, BAND_ROWS)]

    @property
    def shape(self) -> tuple[int, int]:
        """``(ny, nx)``."""
        return self.pixels.shape

    @property
    def unit(self) -> str:
        """Unit of the pixels."""
        return MASTER_UNITS[self.kind]

    def is_valid(self, mjd: float) -> bool:
        """Return whether the frame may be used at this time (MJD, UTC)."""
        return self.valid_from <= mjd <= self.valid_to


@dataclass(frozen=True)
class Defects:
    """Bad rectangles of a detector, in the frame of the assembled image."""

    boxes: tuple[Box, ...] = ()

    @classmethod
    def from_mask(cls, bad: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)) -> Defects:
        """Return the rectangles that cover exactly the true pixels of ``bad``.

        Runs along rows that continue with the same limits in the next row are merged.
        """
        ny, nx = bad.shape
        runs: list[NDArray[np.int64]] = []
        for y0 in range(0, ny, BAND_ROWS):  # in bands: of most frames little is bad
            band = bad[y0 : y0 + BAND_ROWS]
            padded = np.zeros((len(band), nx + 2), np.int8)
            padded[:, 1:-1] = band
            edges = np.diff(padded, axis=1)
            row, start = np.nonzero(edges == 1)
            runs.append(np.stack([row + y0, start, np.nonzero(edges == -1)[1]]))
        rows, starts, ends = np.concatenate(runs, axis=1) if runs else np.zeros((3, 0), np.int64)
        open_runs: dict[tuple[int, int], tuple[int, int]] = {}
        boxes: list[Box] = []
        for y, x0, x1 in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
            first, last = open_runs.get((x0, x1), (y, y - 1))
            if last != y - 1:
                boxes.append(Box(x0 + origin[0], first + origin[1], x1 - x0, last - first + 1))
                first = y
            open_runs[x0, x1] = (first, y)
        for (x0, x1), (first, last) in open_runs.items():
            boxes.append(Box(x0 + origin[0], first + origin[1], x1 - x0, last - first + 1))
        return cls(tuple(sorted(boxes, key=lambda box: (box.y0, box.x0))))

    def mask(self, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> NDArray[np.bool_]:
        """Return a bool image that is true on the defects."""
        bad = np.zeros(shape, bool)
        whole = Box.from_shape(shape, origin)
        for box in self.boxes:
            bad[box.intersection(whole).slices(origin)] = True
        return bad

    def __add__(self, other: Defects) -> Defects:
        return Defects(tuple(dict.fromkeys(self.boxes + other.boxes)))

    def __len__(self) -> int:
        return len(self.boxes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers: ``boxes`` as lists ``[x0, y0, width, height]``."""
        return {"boxes": [[box.x0, box.y0, box.width, box.height] for box in self.boxes]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Defects:
        """Inverse of :meth:`to_dict`."""
        return cls(tuple(Box(*numbers) for numbers in values.get("boxes", ())))


@dataclass(frozen=True)
class Linearity:
    """How the signal of an amplifier is made proportional to the light.

    Parameters
    ----------
    kind : str
        ``none``; ``polynomial``: ``x + sum_k c_k x^(k+2)``; ``squared``: ``x + c_0 x^2``;
        ``lookup_table``: ``x + table(x)``; ``spline``: ``x - spline(x)`` with an Akima spline.
        x is the signal above the overscan in adu.
    coefficients : tuple of float
        Polynomial: ``c_k`` in adu^-(k+1). Table and spline: values in adu at the nodes.
    nodes : tuple of float
        Table and spline: signals in adu, increasing.
    """

    kind: str = "none"
    coefficients: tuple[float, ...] = ()
    nodes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in LINEARITY_KINDS:
            raise InputError(f"linearity is one of {', '.join(LINEARITY_KINDS)}, not {self.kind!r}")
        if self.kind == "squared" and len(self.coefficients) != 1:
            raise InputError(f"a squared linearity has one coefficient, {len(self.coefficients)} were given")
        if self.kind in ("lookup_table", "spline"):
            if len(self.nodes) != len(self.coefficients) or len(self.nodes) < 2:
                raise InputError(
                    f"a {self.kind} linearity needs as many values as nodes and at least two, "
                    f"{len(self.coefficients)} values and {len(self.nodes)} nodes were given"
                )
            if np.any(np.diff(self.nodes) <= 0):
                raise InputError(f"the nodes of a {self.kind} linearity must increase")

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {"kind": self.kind, "coefficients": list(self.coefficients), "nodes": list(self.nodes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Linearity:
        """Inverse of :meth:`to_dict`."""
        return cls(
            str(values.get("kind", "none")),
            tuple(float(value) for value in values.get("coefficients", ())),
            tuple(float(value) for value in values.get("nodes", ())),
        )


@dataclass(frozen=True)
class Crosstalk:
    """What the amplifiers of a detector leak into each other.

    Parameters
    ----------
    linear : tuple of tuple of float
        ``linear[i][j]``: fraction of the signal of amplifier j that appears in amplifier i.
    quadratic : tuple of tuple of float
        The same per electron of signal; empty for none.
    threshold : float, electron
        Source pixels above it flag the ghosts they leave with CROSSTALK.
    """

    linear: tuple[tuple[float, ...], ...]
    quadratic: tuple[tuple[float, ...], ...] = ()
    threshold: float = 45000.0

    def __post_init__(self) -> None:
        for name, matrix in (("linear", self.linear), ("quadratic", self.quadratic)):
            if any(len(row) != len(matrix) for row in matrix):
                raise InputError(f"the {name} crosstalk matrix is not square")
            if any(matrix[i][i] != 0 for i in range(len(matrix))):
                raise InputError(f"the {name} crosstalk matrix has a diagonal that is not zero")
        if self.quadratic and len(self.quadratic) != len(self.linear):
            raise InputError(
                f"the crosstalk matrices have sizes {len(self.linear)} (linear) "
                f"and {len(self.quadratic)} (quadratic)"
            )

    @property
    def size(self) -> int:
        """Number of amplifiers."""
        return len(self.linear)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {
            "linear": [list(row) for row in self.linear],
            "quadratic": [list(row) for row in self.quadratic],
            "threshold": self.threshold,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Crosstalk:
        """Inverse of :meth:`to_dict`."""
        linear, quadratic = (
            tuple(tuple(float(value) for value in row) for row in values.get(name, ()))
            for name in ("linear", "quadratic")
        )
        return cls(linear, quadratic, float(values.get("threshold", 45000.0)))
