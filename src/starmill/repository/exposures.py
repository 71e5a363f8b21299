"""Metadata of exposures: what a camera's translator says about a raw frame, and how it enters the registry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from starmill.errors import InputError
from starmill.repository.data_id import DataId, validate_value
from starmill.repository.sky_regions import SkyRegion

_IMPLIED = ("night", "visit", "filter", "band")


@dataclass(frozen=True)
class ExposureRecord:
    """What is known of one raw frame before its pixels are looked at.

    Attributes
    ----------
    instrument : str
        Name of the camera.
    exposure, detector : int
        Which frame.
    visit, night : int or None
        Night as YYYYMMDD.
    filter, band, object, image_type : str or None
        Image type is one of science, bias, dark, flat, or another lower-case word.
    mjd : float or None
        Middle of the exposure, modified Julian date (UTC).
    exposure_time : float or None
        Second.
    airmass, ra, dec : float or None
        Dimensionless, degree, degree.
    region : SkyRegion or None
        Where the detector looked.
    extra : dict
        Further plain values worth keeping.
    """

    instrument: str
    exposure: int
    detector: int = 0
    visit: int | None = None
    night: int | None = None
    filter: str | None = None
    band: str | None = None
    object: str | None = None
    image_type: str | None = None
    mjd: float | None = None
    exposure_time: float | None = None
    airmass: float | None = None
    ra: float | None = None
    dec: float | None = None
    region: SkyRegion | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("instrument", "exposure", "detector", *_IMPLIED):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, validate_value(name, value))
        for name in ("mjd", "exposure_time", "airmass", "ra", "dec"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InputError(f"{name} of exposure {self.exposure} is {value}")
        if self.exposure_time is not None and self.exposure_time < 0:
            raise InputError(f"exposure time of exposure {self.exposure} is {self.exposure_time} s")
        for name in ("object", "image_type"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, " ".join(str(value).split())[:100])

    @cached_property
    def data_id(self) -> DataId:
        """Data ID of the raw frame."""
        return DataId(instrument=self.instrument, exposure=self.exposure, detector=self.detector)

    @property
    def implied(self) -> dict[str, Any]:
        """Dimension values that follow from the exposure."""
        return {name: getattr(self, name) for name in _IMPLIED if getattr(self, name) is not None}

    def to_row(self) -> dict[str, Any]:
        """Row of the exposure table."""
        names = (
            "instrument", "exposure", *_IMPLIED, "object", "image_type", "mjd", "exposure_time", "airmass", "ra", "dec",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "extra": json.dumps(self.extra, sort_keys=True)
        }

    def region_row(self) -> dict[str, Any] | None:
        """Row of the region table with its tiles; None when the frame has no place on the sky."""
        if self.region is None:
            return None
        return {
            "instrument": self.instrument,
            "exposure": self.exposure,
            "detector": self.detector,
            "ra": self.region.ra,
            "dec": self.region.dec,
            "radius": self.region.radius,
            "corners": json.dumps(self.region.corners),
            "tiles": self.region.tiles,
        }


class Translator(Protocol):
    """Reads the header of a raw file of one or several cameras."""

    def __call__(self, path: Path) -> list[ExposureRecord]:
        """Return one record per detector in the file, or raise `InputError` for an unknown or broken file."""


def record_from_mapping(values: Mapping[str, Any]) -> ExposureRecord:
    """Make a record from plain values (a JSON document), refusing unknown names."""
    known = set(ExposureRecord.__dataclass_fields__)
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"exposure record holds unknown names {unknown}")
    plain = dict(values)
    if plain.get("region") is not None:
        plain["region"] = SkyRegion.from_corners(plain["region"])
    return ExposureRecord(**plain)
