"""What a camera is: detectors, their amplifiers, sections, gains and filters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from starmill.datamodel.calibration import Crosstalk, Defects, Linearity
from starmill.datamodel.geometry import Box
from starmill.errors import InputError, nearest_name

__all__ = ["CORNERS", "Amplifier", "Camera", "Detector", "format_section", "parse_section"]

CORNERS = ("lower left", "lower right", "upper left", "upper right")
"""Where the first pixel that an amplifier reads may lie in its raw data section."""

_SECTION = re.compile(r"^\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]$")


def parse_section(text: str) -> tuple[Box, bool, bool]:
    """Return the box of a FITS section ``[x1:x2,y1:y2]`` and whether it runs backwards in x and y.

    FITS sections are 1-based with both ends inclusive; the box is 0-based.
    """
    match = _SECTION.match(str(text).strip())
    if match is None:
        raise InputError(f"{text!r} is not a section of the form [x1:x2,y1:y2]")
    x1, x2, y1, y2 = (int(group) for group in match.groups())
    if min(x1, x2, y1, y2) < 1:
        raise InputError(f"the section {text!r} begins before pixel 1")
    box = Box.from_corners(min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2), max(y1, y2))
    return box, x2 < x1, y2 < y1


def format_section(box: Box, flip_x: bool = False, flip_y: bool = False) -> str:
    """Return the FITS section ``[x1:x2,y1:y2]`` of a box; inverse of :func:`parse_section`."""
    x = (box.x1, box.x0 + 1) if flip_x else (box.x0 + 1, box.x1)
    y = (box.y1, box.y0 + 1) if flip_y else (box.y0 + 1, box.y1)
    return f"[{x[0]}:{x[1]},{y[0]}:{y[1]}]"


@dataclass(frozen=True)
class Amplifier:
    """One readout channel.

    Parameters
    ----------
    name : str
    raw_box : Box
        All its pixels in the raw image (imaging, overscan, prescan).
    raw_data_box : Box
        Its imaging pixels in the raw image.
    box : Box
        Where the imaging pixels go in the assembled image; same shape as ``raw_data_box``.
    raw_overscan_box : Box, optional
        Serial overscan: extra columns, same rows as the imaging pixels.
    raw_parallel_overscan_box : Box, optional
        Parallel overscan: extra rows, same columns as the imaging pixels.
    flip_x, flip_y : bool
        Whether the raw pixels are mirrored on the way into ``box``.
    readout_corner : str
        Corner of ``raw_data_box`` that is read first: "lower left" and so on. Crosstalk couples
        pixels that are read at the same time.
    gain : float, electron/adu
    read_noise : float, electron
    saturation : float, adu
        Raw pixels above it (bias level included) are saturated.
    suspect_level : float, adu
        Raw pixels above it are in the range where the detector is not trusted.
    linearity : Linearity
    extension : str or int, optional
        FITS extension of this amplifier when every amplifier has its own.
    """

    name: str
    raw_box: Box
    raw_data_box: Box
    box: Box
    raw_overscan_box: Box | None = None
    raw_parallel_overscan_box: Box | None = None
    flip_x: bool = False
    flip_y: bool = False
    readout_corner: str = "lower left"
    gain: float = 1.0
    read_noise: float = 0.0
    saturation: float = np.inf
    suspect_level: float = np.inf
    linearity: Linearity = field(default_factory=Linearity)
    extension: str | int | None = None

    def __post_init__(self) -> None:
        if self.raw_data_box.shape != self.box.shape:
            raise InputError(
                f"amplifier {self.name}: {self.raw_data_box.shape} raw imaging pixels (rows, columns) "
                f"do not fill {self.box.shape} assembled ones"
            )
        if not (np.isfinite(self.gain) and self.gain > 0):
            raise InputError(
                f"amplifier {self.name}: the gain must be positive, it is {self.gain} electron/adu"
            )
        if not (np.isfinite(self.read_noise) and self.read_noise >= 0):
            raise InputError(
                f"amplifier {self.name}: the read noise cannot be negative, it is {self.read_noise} electron"
            )
        if self.readout_corner not in CORNERS:
            raise InputError(f"amplifier {self.name}: the readout corner is one of {', '.join(CORNERS)}")
        for label, box in self._sections():
            if not self.raw_box.contains_box(box):
                raise InputError(
                    f"amplifier {self.name}: its {label} {format_section(box)} leaves its raw section "
                    f"{format_section(self.raw_box)}"
                )
        overscan = self.raw_overscan_box
        if overscan is not None and (overscan.y0, overscan.height) != (
            self.raw_data_box.y0,
            self.raw_data_box.height,
        ):
            raise InputError(
                f"amplifier {self.name}: the overscan {format_section(overscan)} and the imaging section "
                f"{format_section(self.raw_data_box)} have different rows"
            )

    def _sections(self) -> list[tuple[str, Box]]:
        named = [
            ("imaging section", self.raw_data_box),
            ("overscan", self.raw_overscan_box),
            ("parallel overscan", self.raw_parallel_overscan_box),
        ]
        return [(label, box) for label, box in named if box is not None]

    @property
    def reversed_axes(self) -> tuple[bool, bool]:
        """Whether the readout runs against the assembled image's y and x axes."""
        return ("upper" in self.readout_corner) != self.flip_y, (
            "right" in self.readout_corner
        ) != self.flip_x

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; sections as FITS text."""
        values: dict[str, Any] = {
            "name": self.name,
            "raw": format_section(self.raw_box),
            "data": format_section(self.raw_data_box),
            "section": format_section(self.box),
            "flip_x": self.flip_x,
            "flip_y": self.flip_y,
            "readout_corner": self.readout_corner,
            "gain": self.gain,
            "read_noise": self.read_noise,
        }
        values |= {
            name: getattr(self, name)
            for name in ("saturation", "suspect_level")
            if np.isfinite(getattr(self, name))
        }
        if self.raw_overscan_box is not None:
            values["overscan"] = format_section(self.raw_overscan_box)
        if self.raw_parallel_overscan_box is not None:
            values["parallel_overscan"] = format_section(self.raw_parallel_overscan_box)
        if self.linearity.kind != "none":
            values["linearity"] = self.linearity.to_dict()
        if self.extension is not None:
            values["extension"] = self.extension
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Amplifier:
        """Inverse of :meth:`to_dict`; ``raw`` defaults to what ``data`` and the overscans span."""
        known = {
            "name", "raw", "data", "section", "overscan", "parallel_overscan", "flip_x", "flip_y",
            "readout_corner", "gain", "read_noise", "saturation", "suspect_level", "linearity", "extension",
        }  # fmt: skip
        _refuse_unknown("amplifier", values, known)
        if "data" not in values:
            raise InputError(f"amplifier {values.get('name', '?')} has no imaging section ('data')")
        data = parse_section(values["data"])[0]
        overscan, parallel = (
            parse_section(values[key])[0] if values.get(key) else None
            for key in ("overscan", "parallel_overscan")
        )
        raw = data
        for box in (overscan, parallel):
            raw = raw if box is None else raw.union(box)
        target, flip_x, flip_y = data.shifted(-data.x0, -data.y0), False, False
        if "section" in values:
            target, flip_x, flip_y = parse_section(values["section"])
        return cls(
            name=str(values.get("name", "A")),
            raw_box=parse_section(values["raw"])[0] if "raw" in values else raw,
            raw_data_box=data,
            box=target,
            raw_overscan_box=overscan,
            raw_parallel_overscan_box=parallel,
            flip_x=bool(values.get("flip_x", False)) != flip_x,
            flip_y=bool(values.get("flip_y", False)) != flip_y,
            readout_corner=str(values.get("readout_corner", "lower left")),
            gain=float(values.get("gain", 1.0)),
            read_noise=float(values.get("read_noise", 0.0)),
            saturation=float(values.get("saturation", np.inf)),
            suspect_level=float(values.get("suspect_level", np.inf)),
            linearity=Linearity.from_dict(values.get("linearity", {})),
            extension=values.get("extension"),
        )


@dataclass(frozen=True)
class Detector:
    """One chip: its amplifiers, crosstalk and defects.

    Parameters
    ----------
    name : str
    amplifiers : tuple of Amplifier
    crosstalk : Crosstalk, optional
        Indexed in the order of ``amplifiers``.
    defects : Defects
        Always bad, in the assembled frame.
    extension : str or int, optional
        FITS extension that holds the raw image.
    """

    name: str
    amplifiers: tuple[Amplifier, ...]
    crosstalk: Crosstalk | None = None
    defects: Defects = field(default_factory=Defects)
    extension: str | int | None = None

    def __post_init__(self) -> None:
        names = [amplifier.name for amplifier in self.amplifiers]
        if len(set(names)) != len(names):
            raise InputError(f"detector {self.name}: amplifier names repeat: {', '.join(names)}")
        if self.crosstalk is not None and self.amplifiers and self.crosstalk.size != len(self.amplifiers):
            raise InputError(
                f"detector {self.name}: the crosstalk matrix has size {self.crosstalk.size}, "
                f"there are {len(self.amplifiers)} amplifiers"
            )

    @property
    def box(self) -> Box:
        """The assembled image."""
        total = Box(0, 0, 0, 0)
        for amplifier in self.amplifiers:
            total = total.union(amplifier.box)
        return Box.from_corners(0, 0, total.x1, total.y1)

    @property
    def raw_shape(self) -> tuple[int, int]:
        """Smallest ``(ny, nx)`` of a raw image that holds all amplifiers."""
        boxes = [amplifier.raw_box for amplifier in self.amplifiers]
        return max(box.y1 for box in boxes), max(box.x1 for box in boxes)

    def amplifier(self, name: str) -> Amplifier:
        """Return an amplifier by name."""
        names = [amplifier.name for amplifier in self.amplifiers]
        if name not in names:
            raise InputError(f"detector {self.name} has no amplifier {name!r} (it has {', '.join(names)})")
        return self.amplifiers[names.index(name)]

    def with_amplifiers(self, **changes: Mapping[str, Any]) -> Detector:
        """Return a detector whose named amplifiers have changed fields, e.g. ``A={"gain": 1.5}``."""
        amplifiers = list(self.amplifiers)
        for name, values in changes.items():
            amplifiers[amplifiers.index(self.amplifier(name))] = replace(self.amplifier(name), **values)
        return replace(self, amplifiers=tuple(amplifiers))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values: dict[str, Any] = {"name": self.name, "amplifiers": [amp.to_dict() for amp in self.amplifiers]}
        if self.crosstalk is not None:
            values["crosstalk"] = self.crosstalk.to_dict()
        if self.defects:
            values["defects"] = self.defects.to_dict()
        if self.extension is not None:
            values["extension"] = self.extension
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Detector:
        """Inverse of :meth:`to_dict`."""
        _refuse_unknown("detector", values, {"name", "amplifiers", "crosstalk", "defects", "extension"})
        return cls(
            name=str(values.get("name", "0")),
            amplifiers=tuple(Amplifier.from_dict(item) for item in values.get("amplifiers", ())),
            crosstalk=Crosstalk.from_dict(values["crosstalk"]) if values.get("crosstalk") else None,
            defects=Defects.from_dict(values.get("defects", {})),
            extension=values.get("extension"),
        )


@dataclass(frozen=True)
class Camera:
    """A camera and how to read its files.

    Parameters
    ----------
    name, description : str
    detectors : tuple of Detector
        When ``geometry`` is "header", their amplifiers come from each file.
    filters : mapping of str to str
        Name of the filter in the header to band.
    geometry : str
        "fixed" (sections in the description) or "header" (DATASEC, BIASSEC, ... of each file).
    wcs_frame : str
        "raw" or "assembled": the pixels that CRPIX of a raw header counts.
    pixel_scale : float, arcsec
        Zero when not known.
    translator : str
        Name of the header translator.
    header : mapping of str to str
        Quantity to header card, where it differs from the usual ones.
    amplifiers : mapping of str to mapping
        For ``geometry`` "header": values by amplifier name, which win over the header, and for "*",
        which hold where the header says nothing.
    config : mapping of str to mapping
        Default configuration of tasks for this camera, by task: ``{"isr": {"dark": False}}``.
    identity : mapping of str to str or list of str
        Header card to the value, or values, that frames of this camera hold there; an empty list for a card that they
        do not have. A frame without these cards may be of any camera.
    """

    name: str
    detectors: tuple[Detector, ...] = ()
    description: str = ""
    filters: Mapping[str, str] = field(default_factory=dict)
    geometry: str = "fixed"
    wcs_frame: str = "assembled"
    pixel_scale: float = 0.0
    translator: str = "generic"
    header: Mapping[str, Any] = field(default_factory=dict)
    amplifiers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.geometry not in ("fixed", "header"):
            raise InputError(f"camera {self.name}: geometry is 'fixed' or 'header', not {self.geometry!r}")
        if self.wcs_frame not in ("raw", "assembled"):
            raise InputError(f"camera {self.name}: wcs_frame is 'raw' or 'assembled', not {self.wcs_frame!r}")
        if self.geometry == "fixed" and not any(detector.amplifiers for detector in self.detectors):
            raise InputError(f"camera {self.name}: a fixed geometry needs a detector with an amplifier")

    def detector(self, name: str | None = None) -> Detector:
        """Return a detector by name; without a name the only one."""
        names = [detector.name for detector in self.detectors]
        if name is None and len(names) == 1:
            return self.detectors[0]
        if name not in names:
            near = nearest_name(str(name), names)
            hint = f"; did you mean {near}?" if near else ""
            raise InputError(f"camera {self.name} has no detector {name!r}{hint} (it has {', '.join(names)})")
        return self.detectors[names.index(name)]

    def band(self, filter_name: str) -> str:
        """Return the band of a filter; the filter's own name when the camera does not say."""
        return self.filters.get(filter_name, filter_name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as written in a camera file."""
        return {
            "name": self.name,
            "description": self.description,
            "geometry": self.geometry,
            "wcs_frame": self.wcs_frame,
            "pixel_scale": self.pixel_scale,
            "translator": self.translator,
            "header": dict(self.header),
            "filters": dict(self.filters),
            "amplifiers": {name: dict(values) for name, values in self.amplifiers.items()},
            "detectors": [detector.to_dict() for detector in self.detectors],
            "config": {task: dict(values) for task, values in self.config.items()},
            "identity": dict(self.identity),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Camera:
        """Inverse of :meth:`to_dict`."""
        _refuse_unknown("camera", values, set(cls.__dataclass_fields__))
        if "name" not in values:
            raise InputError("the camera has no name")
        texts = {
            key: str(values[key]).strip()
            for key in ("name", "description", "geometry", "wcs_frame", "translator")
            if key in values
        }
        return cls(
            **texts,
            detectors=tuple(Detector.from_dict(item) for item in values.get("detectors", ())),
            filters={str(key): str(band) for key, band in values.get("filters", {}).items()},
            pixel_scale=float(values.get("pixel_scale", 0.0)),
            header=dict(values.get("header", {})),
            amplifiers={str(name): dict(given) for name, given in values.get("amplifiers", {}).items()},
            config={str(task): dict(options) for task, options in values.get("config", {}).items()},
            identity={
                str(card): value if isinstance(value, str) else [str(item) for item in value]
                for card, value in values.get("identity", {}).items()
            },
        )


def _refuse_unknown(kind: str, values: Mapping[str, Any], known: set[str]) -> None:
    for key in values:
        if key not in known:
            near = nearest_name(str(key), known)
            hint = f"; did you mean {near}?" if near else ""
            raise InputError(f"{kind} {values.get('name', '')}: unknown key {key!r}{hint}")
