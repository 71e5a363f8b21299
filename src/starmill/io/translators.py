"""What the headers of raw frames mean: observation, sections, WCS.

One translator reads headers of the usual kind tolerantly (quoted numbers, dates without a time, SCAMP
distortion in a TAN header); a camera file tells it which cards differ. A camera whose headers need code gets
a subclass, registered in :data:`TRANSLATORS` or by an entry point of the group ``starmill.translators``.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from starmill.datamodel.camera import Amplifier, Camera, Detector, format_section, parse_section
from starmill.datamodel.exposure import ObservationInfo
from starmill.datamodel.geometry import Box
from starmill.errors import InputError, nearest_name
from starmill.io.fits import wcs_from_header

__all__ = ["TRANSLATORS", "Translator", "clean_wcs_header", "find_translator"]

CARDS: dict[str, tuple[str, ...]] = {
    "exposure_time": ("EXPTIME", "EXPOSURE", "ITIME", "TEXPTIME"),
    "dark_time": ("DARKTIME",),
    "filter": ("FILTER", "FILTNAME", "FILTER1", "FILTERS", "BAND"),
    "object": ("OBJECT", "OBJNAME"),
    "kind": ("IMAGETYP", "OBSTYPE", "IMGTYPE", "FRAME"),
    "date": ("DATE-OBS",),
    "time": ("UTCSTART", "UTC-OBS", "UT", "TIME-OBS", "UTSTART"),
    "mjd_start": ("MJD-OBS", "MJD"),
    "airmass": ("AIRMASS", "SECZ"),
    "ra": ("RA", "OBJCTRA", "TELRA"),
    "dec": ("DEC", "OBJCTDEC", "TELDEC"),
    "longitude": ("LONGITUD", "LONG-OBS", "SITELONG", "OBS-LONG"),
    "exposure_id": ("EXPID", "EXPNUM", "OBSERNO", "FRAMENUM"),
    "gain": ("GAIN", "EGAIN"),
    "read_noise": ("RDNOISE", "READNOIS", "RON"),
    "saturation": ("SATURATE", "SATLEVEL"),
    "suspect_level": ("MAXLIN",),
    "trim": ("TRIMSEC", "DATASEC"),
    "overscan": ("BIASSEC",),
    "section": ("DETSEC",),
}
"""Cards in which each quantity is looked for, in this order, unless the camera names others."""

KINDS = {
    "bias": ("bias", "zero"),
    "dark": ("dark",),
    "flat": ("flat",),
    "science": ("object", "science", "light", "sky", "target"),
}
"""Kind of frame to words that begin or end its name in headers (flats first, as in 'sky flat')."""

_CONTRADICTION = 2.0  # days: a date may be that of the evening, in local time

_WCS_CARD = re.compile(
    r"^(CTYPE[12]|CRVAL[12]|CRPIX[12]|CDELT[12]|CROTA[12]|CUNIT[12]|CD[12]_[12]|PC[12]_[12]|PV[12]_\d+"
    r"|LONPOLE|LATPOLE|EQUINOX|RADESYS|(A|B|AP|BP)_(ORDER|\d_\d))$"
)
_CLOCK = re.compile(r"\d\d?:\d\d:\d\d(\.\d*)?")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d?):(\d\d):(\d\d(?:\.\d*)?))?")
_TEXT_CARD = re.compile(r"^(CTYPE[12]|CUNIT[12]|RADESYS)$")


class Translator:
    """Reads headers of one kind of camera.

    Parameters
    ----------
    camera : Camera
        ``camera.header`` names the cards that differ from :data:`CARDS`: a card or a list of cards.
    """

    def __init__(self, camera: Camera) -> None:
        for quantity in camera.header:
            if quantity not in CARDS:
                near = nearest_name(quantity, CARDS)
                hint = f"; did you mean {near}?" if near else f" (known: {', '.join(CARDS)})"
                raise InputError(f"camera {camera.name}: the header has no quantity {quantity!r}{hint}")
        self.camera = camera
        chosen = {**CARDS, **camera.header}
        self._cards = {
            name: (given,) if isinstance(given, str) else tuple(given) for name, given in chosen.items()
        }

    def cards(self, quantity: str) -> tuple[str, ...]:
        """Return the cards that may hold a quantity."""
        return self._cards[quantity]

    def text(self, header: Mapping[str, Any], quantity: str) -> str:
        """Return the first of the quantity's cards that is not empty, as text."""
        for card in self.cards(quantity):
            value = header.get(card)
            if value is not None and str(value).strip():
                return str(value).strip()
        return ""

    def number(self, header: Mapping[str, Any], quantity: str) -> float:
        """Return the first of the quantity's cards that holds a number, also as a quoted string."""
        for card in self.cards(quantity):
            value = _number(header.get(card))
            if math.isfinite(value):
                return value
        return float("nan")

    def kind(self, header: Mapping[str, Any]) -> str:
        """Return bias, dark, flat, science or an empty text."""
        words = self.text(header, "kind").lower().replace("_", " ")
        compact = words.replace(" ", "").removesuffix("frame").removesuffix("field")
        for kind in ("flat", "bias", "dark", "science"):
            if any(compact.startswith(word) or compact.endswith(word) for word in KINDS[kind]):
                return kind
        return ""

    def date(self, header: Mapping[str, Any]) -> str:
        """Return the start of the exposure, ISO 8601, UTC; the time may stand in a card of its own."""
        date = self.text(header, "date")
        if date and "T" not in date:
            clock = self.text(header, "time")
            if _CLOCK.fullmatch(clock):
                return f"{date}T{clock}"
        return date

    def observation(self, header: Mapping[str, Any], detector: Detector) -> ObservationInfo:
        """Return what the header tells about the observation."""
        exposure_time = self.number(header, "exposure_time")
        dark_time = self.number(header, "dark_time")
        date = self.date(header)
        start = mjd_of(date)
        if not np.isfinite(start):
            start = self.number(header, "mjd_start")
        identifier = self.number(header, "exposure_id")
        if not np.isfinite(identifier):
            # seconds since 1970: unique for one camera, and small enough for the upper bits of source ids
            identifier = round((start - 40587) * 86400) if np.isfinite(start) else 0
        filter_name = self.text(header, "filter")
        half = 0.5 * exposure_time / 86400 if np.isfinite(exposure_time) else 0.0
        gains = [amplifier.gain for amplifier in detector.amplifiers]
        noises = [amplifier.read_noise for amplifier in detector.amplifiers]
        return ObservationInfo(
            instrument=self.camera.name,
            detector=detector.name,
            filter=filter_name,
            band=self.camera.band(filter_name) if filter_name else "",
            object=self.text(header, "object"),
            kind=self.kind(header),
            exposure_id=int(identifier) % 2**31,
            exposure_time=exposure_time,
            dark_time=dark_time if np.isfinite(dark_time) else exposure_time,
            mjd=start + half,
            date=date,
            night=self.night(header, start),
            ra=_degrees(header, self.cards("ra"), 15.0),
            dec=_degrees(header, self.cards("dec"), 1.0),
            airmass=self.number(header, "airmass"),
            gain=_mean(gains),
            read_noise=_mean(noises),
            pixel_scale=self.camera.pixel_scale or float("nan"),
        )

    def check(self, header: Mapping[str, Any]) -> None:
        """Refuse a header of another camera, and one whose times contradict each other.

        Raises
        ------
        InputError
            With the cards.
        """
        for card, wanted in self.camera.identity.items():
            value = str(header.get(card) or "").strip()
            known = [wanted] if isinstance(wanted, str) else list(wanted)
            if value and value.lower() not in [str(name).strip().lower() for name in known]:
                has = f"those of camera {self.camera.name} have " + (" or ".join(map(repr, known)) or "none")
                raise InputError(f"a frame of another camera: {card} is {value!r}, {has}")
        date, start = self.date(header), self.number(header, "mjd_start")
        days = abs(mjd_of(date) - start)
        if days > _CONTRADICTION:
            raise InputError(
                f"contradictory times: the date is {date}, the MJD {start:g}, {days:.0f} days away"
            )

    def night(self, header: Mapping[str, Any], mjd_start: float) -> str:
        """Return the evening date of the night, from local mean time; empty when the date is unknown."""
        if not np.isfinite(mjd_start):
            return ""
        longitude = _degrees(header, self.cards("longitude"), 1.0)
        local = mjd_start - 0.5 + (longitude / 360 if np.isfinite(longitude) else 0.0)
        return str(np.datetime64("1858-11-17") + np.timedelta64(int(np.floor(local)), "D"))

    def detector_from_headers(
        self, headers: list[Mapping[str, Any]], extensions: list[int | str], shapes: list[tuple[int, int]],
        template: Detector, primary: Mapping[str, Any],
    ) -> Detector:  # fmt: skip
        """Return the detector that the sections in the headers describe.

        Several images are one amplifier each, stacked upwards in the raw array in file order.
        """
        amplifiers, y0 = [], 0
        for header, extension, shape in zip(headers, extensions, shapes, strict=True):
            merged = dict(primary) | dict(header)
            amplifiers.append(self._amplifier(merged, extension, shape, y0, len(headers) > 1))
            y0 += shape[0]
        return Detector(
            template.name, tuple(amplifiers), template.crosstalk, template.defects, template.extension
        )

    def _amplifier(
        self, header: Mapping[str, Any], extension: int | str, shape: tuple[int, int], y0: int, several: bool
    ) -> Amplifier:  # fmt: skip
        name = str(header.get("EXTNAME", extension)).strip() if several else "A"
        defaults, given = (dict(self.camera.amplifiers.get(key, {})) for key in ("*", name))
        values: dict[str, Any] = {"name": name, "raw": format_section(Box(0, y0, shape[1], shape[0]))}
        if several:
            values["extension"] = extension
        trim, overscan = self.text(header, "trim"), self.text(header, "overscan")
        if not trim and "data" not in given and "data" not in defaults:
            cards = " nor ".join(self.cards("trim"))
            raise InputError(f"no imaging section: the header has neither {cards}", hdu=extension)
        frame = Box.from_shape(shape)
        for key, text in (("data", trim), ("overscan", overscan)):
            if text:
                box = parse_section(text)[0]
                if not frame.contains_box(box):
                    raise InputError(
                        f"the section {text} leaves the image of {shape[1]} x {shape[0]} pixels",
                        hdu=extension,
                    )
                values[key] = format_section(box.shifted(0, y0))
        if several:
            values["section"] = self.text(header, "section")
            if not values["section"]:
                raise InputError(
                    f"an amplifier in an extension needs {self.cards('section')[0]}", hdu=extension
                )
        for key in ("gain", "read_noise", "saturation", "suspect_level"):
            number = self.number(header, key)
            if np.isfinite(number):
                values[key] = number
            elif key in ("gain", "read_noise") and key not in given and key not in defaults:
                cards = " nor ".join(self.cards(key))
                raise InputError(f"no {key.replace('_', ' ')}: the header has neither {cards}", hdu=extension)
        try:
            return Amplifier.from_dict(defaults | values | given)
        except InputError as error:
            raise InputError(error.message, hdu=extension) from error

    def wcs(self, header: Mapping[str, Any], detector: Detector) -> Any:
        """Return the celestial WCS in the frame of the assembled image, or None."""
        wcs = wcs_from_header(clean_wcs_header(header))
        shift = (0, 0) if wcs is None else self.wcs_shift(detector)
        if shift != (0, 0):
            wcs.wcs.crpix = np.array(wcs.wcs.crpix) - np.array(shift, float)
            wcs.wcs.set()
        return wcs

    def wcs_shift(self, detector: Detector) -> tuple[int, int]:
        """Return (x, y) that the reference pixel of a header moves down when the image is assembled."""
        if self.camera.wcs_frame == "assembled":
            return (0, 0)
        shifts = {
            (amplifier.raw_data_box.x0 - amplifier.box.x0, amplifier.raw_data_box.y0 - amplifier.box.y0)
            for amplifier in detector.amplifiers
        }
        if len(shifts) > 1 or any(amplifier.flip_x or amplifier.flip_y for amplifier in detector.amplifiers):
            raise InputError(
                f"camera {self.camera.name}: a WCS in the raw frame needs amplifiers without gaps and flips"
            )
        return shifts.pop()


def clean_wcs_header(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the WCS cards of a header in standard form.

    Numbers in quotes become numbers; TAN with the polynomial PV cards of SCAMP becomes TPV; CDELT and CROTA
    beside a CD matrix are dropped; RADECSYS becomes RADESYS.
    """
    clean: dict[str, Any] = {}
    for name in header:
        key = "RADESYS" if name == "RADECSYS" else name
        if not _WCS_CARD.match(key) or key in clean:
            continue
        value = header[name]
        if _TEXT_CARD.match(key):
            clean[key] = str(value).strip()
        elif np.isfinite(_number(value)):
            number = _number(value)
            clean[key] = int(number) if key.endswith("ORDER") else number
    if any(key.startswith(("CD1_", "CD2_")) for key in clean):
        for key in ("CDELT1", "CDELT2", "CROTA1", "CROTA2", "PC1_1", "PC1_2", "PC2_1", "PC2_2"):
            clean.pop(key, None)
    distorted = any(re.match(r"^PV\d_\d+$", key) for key in clean) and "PV1_1" in clean and "PV2_1" in clean
    if distorted and str(clean.get("CTYPE1", "")).endswith("TAN"):
        for axis in ("1", "2"):
            clean[f"CTYPE{axis}"] = clean[f"CTYPE{axis}"][:-3] + "TPV"
    return clean


@functools.lru_cache(maxsize=64)
def mjd_of(date: str) -> float:
    """Return the modified Julian date of an ISO 8601 date; NaN when it is none."""
    match = _DATE.match(date)
    if not match:
        return float("nan")
    try:
        day = np.datetime64(f"{match[1]}-{match[2]}-{match[3]}") - np.datetime64("1858-11-17")
    except ValueError:
        return float("nan")
    seconds = sum(float(match[i] or 0) * unit for i, unit in ((4, 3600), (5, 60), (6, 1)))
    return float(day / np.timedelta64(1, "D")) + seconds / 86400


def find_translator(camera: Camera) -> Translator:
    """Return the translator that a camera names."""
    if camera.translator not in TRANSLATORS:
        from importlib.metadata import entry_points

        for point in entry_points(group="starmill.translators"):
            if point.name == camera.translator:
                TRANSLATORS[point.name] = point.load()
    if camera.translator not in TRANSLATORS:
        near = nearest_name(camera.translator, TRANSLATORS)
        hint = f"; did you mean {near}?" if near else ""
        raise InputError(f"camera {camera.name}: there is no translator {camera.translator!r}{hint}")
    return TRANSLATORS[camera.translator](camera)


def _mean(values: list[float]) -> float:
    return float(values[0]) if len(values) == 1 else float(np.mean(values))


def _number(value: Any) -> float:
    if value is None or isinstance(value, bool):
        return float("nan")
    try:
        return float(value.strip()) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _degrees(header: Mapping[str, Any], cards: tuple[str, ...], per_hour: float) -> float:
    """Return an angle in degrees from decimal degrees or sexagesimal text (hours when ``per_hour`` is 15)."""
    for card in cards:
        value = header.get(card)
        number = _number(value)
        if math.isfinite(number):
            return number
        parts = re.split(r"[:\s]+", str(value or "").strip())
        if len(parts) == 3 and all(math.isfinite(_number(part)) for part in parts):
            sign = -1.0 if parts[0].startswith("-") else 1.0
            hours, minutes, seconds = (abs(_number(part)) for part in parts)
            return sign * per_hour * (hours + minutes / 60 + seconds / 3600)
    return float("nan")


TRANSLATORS: dict[str, type[Translator]] = {"generic": Translator}
"""Translators by the name that camera files use."""
