"""Reads the headers of raw frames quickly and asks the camera's translator what they mean.

Ingest looks at thousands of files; it needs some cards of each, not the pixels. The cards are read straight
from the 2880-byte blocks, also of files compressed as a whole, and the data between headers are passed over.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from starmill.errors import InputError
from starmill.repository.exposures import ExposureRecord
from starmill.repository.sky_overlap import wcs_corners
from starmill.repository.sky_regions import SkyRegion

_BLOCK = 2880
_MAX_BLOCKS = 4000  # of one header: 144,000 cards
_MAX_EXTENSIONS = 300
_CARDLESS = {"", "COMMENT", "HISTORY", "CONTINUE", "END"}
_SHORT_NUMBER = 100_000  # exposure numbers below it count within a night
_INTEGER = re.compile(r"[+-]?\d{1,18}")


class Cards(Mapping[str, Any]):
    """The cards of a header; values are made of their text when asked for.

    Parameters
    ----------
    texts : dict of str to str
        What follows ``=``, by keyword.
    """

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def __getitem__(self, keyword: str) -> Any:
        return _value(self.texts[keyword])

    def get(self, keyword: str, default: Any = None) -> Any:
        """Return the value of a card, or the default."""
        text = self.texts.get(keyword)
        return default if text is None else _value(text)

    def __contains__(self, keyword: object) -> bool:
        return keyword in self.texts

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __or__(self, other: Cards) -> Cards:
        return Cards(self.texts | other.texts)


def read_headers(path: Path) -> list[Cards]:
    """Return the cards of all headers of a FITS file, also .gz or .bz2.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    headers : list of Cards
        One per HDU. Raises `InputError` for a file that is not FITS, or shorter than its headers say.
    """
    try:
        with path.open("rb", buffering=_BLOCK * 4) as stream:
            magic = stream.read(3)
            size = stream.seek(0, 2)
            stream.seek(0)
            if not magic:
                raise InputError("the file is empty", path=path)
            if magic[:2] == b"\x1f\x8b":
                return _walk(gzip.open(stream), path, None)
            if magic == b"BZh":
                return _walk(bz2.open(stream), path, None)
            return _walk(stream, path, size)
    except (OSError, EOFError) as error:
        raise InputError(f"the file cannot be read: {error}", path=path) from error


def _walk(stream: Any, path: Path, size: int | None) -> list[Cards]:
    headers: list[Cards] = []
    while len(headers) < _MAX_EXTENSIONS:
        header = _read_header(stream, path, first=not headers)
        if header is None:
            break
        headers.append(header)
        length = _data_length(header, path)
        if length and size is not None:
            if stream.tell() + length > size:
                raise InputError(
                    f"truncated: HDU {len(headers) - 1} needs {stream.tell() + length} bytes, the file has {size}",
                    path=path,
                )
            stream.seek(length, 1)
        elif length and not _skip(stream, length):
            raise InputError(f"truncated in the data of HDU {len(headers) - 1}", path=path)
    return headers


def _skip(stream: Any, length: int) -> bool:
    while length:
        piece = len(stream.read(min(length, 1 << 20)))
        if not piece:
            return False
        length -= piece
    return True


def _read_header(stream: Any, path: Path, *, first: bool) -> Cards | None:
    cards: dict[str, str] = {}
    for number in range(_MAX_BLOCKS):
        block = stream.read(_BLOCK)
        if number == 0:
            if not first and not block.startswith(b"XTENSION"):
                return None  # end of file, or padding that some writers leave behind the last HDU
            if first and not block.startswith(b"SIMPLE  ="):
                raise InputError("not a FITS file: it does not begin with SIMPLE", path=path)
        if len(block) < _BLOCK:
            raise InputError("truncated in a header", path=path)
        text = block.decode("latin-1")
        for start in range(0, _BLOCK, 80):
            keyword = text[start : start + 8].rstrip()
            if keyword == "END":
                return Cards(cards)
            if text[start + 8 : start + 10] == "= " and keyword not in _CARDLESS:
                cards[keyword] = text[start + 10 : start + 80]
    raise InputError(f"a header has more than {_MAX_BLOCKS * 36} cards", path=path)


def _value(text: str) -> Any:
    fixed = text[:20].lstrip()
    if fixed.isdecimal() and text[20:23] in ("   ", " / "):
        return int(fixed)
    text = text.lstrip()
    if text.startswith("'"):
        end = 1
        while True:
            end = text.find("'", end)
            if end < 0:
                return text[1:].rstrip()
            if text[end : end + 2] != "''":
                return text[1:end].replace("''", "'").rstrip()
            end += 2
    text = text.partition("/")[0].strip()
    if text in {"T", "F"}:
        return text == "T"
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return text


def _data_length(header: Cards, path: Path) -> int:
    axes = header.get("NAXIS", 0)
    if not isinstance(axes, int) or not 0 <= axes <= 999:
        raise InputError(f"NAXIS is {axes!r}", path=path)
    lengths: list[Any] = [header.get(f"NAXIS{axis + 1}") for axis in range(axes)]
    for length in [header.get("BITPIX"), *lengths]:
        if not isinstance(length, int) or isinstance(length, bool) or abs(length) > 2**40:
            raise InputError(f"BITPIX or an axis is {length!r}", path=path)
    if any(length < 0 for length in lengths):
        raise InputError(f"negative axes {lengths}", path=path)
    if not lengths:
        return 0
    if header.get("GROUPS") is True and lengths[0] == 0:
        lengths = lengths[1:]
    extra, groups = header.get("PCOUNT", 0), header.get("GCOUNT", 1)
    size = abs(header["BITPIX"]) // 8 * groups * (extra + math.prod(lengths))
    return -(-size // _BLOCK) * _BLOCK


@functools.cache
def camera_translator(name: str) -> Callable[[Path], list[ExposureRecord]]:
    """Return the function that reads what the raw files of a camera say of themselves.

    Parameters
    ----------
    name : str
        Camera, as ``starmill.io.raw.load_camera`` knows it.

    Returns
    -------
    translate : callable
        Path to records, one per detector in the file.
    """
    from starmill.io.raw import load_camera
    from starmill.io.translators import find_translator

    camera = load_camera(name)
    translator = find_translator(camera)

    def translate(path: Path) -> list[ExposureRecord]:
        headers = read_headers(path)
        images = [header for header in headers if header.get("NAXIS", 0) >= 2] or headers
        primary, first = headers[0], headers[0] | images[0]
        index, detector = _find_detector(camera, first, path)
        try:
            info = translator.observation(first if len(images) == 1 else primary, detector)
            corners = _corners(translator, first, detector, _assembled_shape(images))
        except InputError as error:
            raise InputError(error.message, path=path, hdu=error.hdu) from error
        return [_record(info, index, corners, path)]

    return translate


def _find_detector(camera: Any, header: Cards, path: Path) -> tuple[int, Any]:
    from starmill.datamodel.camera import Amplifier, Detector
    from starmill.datamodel.geometry import Box

    if not camera.detectors:
        box = Box(0, 0, 1, 1)
        return 0, Detector("0", (Amplifier("A", box, box, box),))
    if len(camera.detectors) == 1:
        chosen = (
            camera.detectors[0]
            if not isinstance(camera.detectors, dict)
            else next(iter(camera.detectors.values()))
        )
        return 0, _with_amplifier(chosen)
    wanted = str(header.get("DETECTOR", header.get("CCDNAME", header.get("DETNAME", "")))).strip()
    for index, detector in enumerate(camera.detectors):
        if detector.name == wanted:
            return index, _with_amplifier(detector)
    raise InputError(f"camera {camera.name} has several detectors, none called {wanted!r}", path=path)


def _with_amplifier(detector: Any) -> Any:
    """Return the detector with at least one amplifier: those of header geometry are made when pixels are read."""
    from starmill.datamodel.camera import Amplifier, Detector
    from starmill.datamodel.geometry import Box

    if detector.amplifiers:
        return detector
    box = Box(0, 0, 1, 1)
    return Detector(detector.name, (Amplifier("A", box, box, box),))


def _assembled_shape(images: list[Cards]) -> tuple[int, int]:
    """Return (nx, ny) of the frame; amplifiers in extensions of their own say where they belong."""
    from starmill.datamodel.camera import parse_section

    sections = [str(image["DETSEC"]) for image in images if "DETSEC" in image]
    if len(images) > 1 and len(sections) == len(images):
        boxes = [parse_section(section)[0] for section in sections]
        return max(box.x1 for box in boxes), max(box.y1 for box in boxes)
    return int(images[0].get("NAXIS1", 0)), int(images[0].get("NAXIS2", 0))


def _corners(translator: Any, header: Cards, detector: Any, shape: tuple[int, int]) -> Any:
    """Sky positions of the corners of the frame, or None."""
    if "CTYPE1" not in header or "CRVAL1" not in header:
        return None
    wcs = translator.wcs(header, detector)
    if wcs is None or not wcs.has_celestial:
        return None
    return wcs_corners(wcs, 0, 0, *shape)


def _record(info: Any, detector: int, corners: Any, path: Path) -> ExposureRecord:
    night = int(info.night.replace("-", "")) if info.night else None
    number = int(info.exposure_id)
    if number <= 0:
        raise InputError(
            "neither an exposure number nor a time in the header: no data ID can be made", path=path
        )
    if number < _SHORT_NUMBER and night is not None:
        number += night * _SHORT_NUMBER  # observatories count anew each night
    finite: dict[str, Any] = {
        name: float(getattr(info, name)) if math.isfinite(getattr(info, name)) else None
        for name in ("mjd", "exposure_time", "airmass", "ra", "dec")
    }
    region = SkyRegion.from_corners(corners) if corners else None
    try:
        return ExposureRecord(
            instrument=info.instrument,
            exposure=number,
            detector=detector,
            visit=number,
            night=night,
            filter=info.filter or None,
            band=info.band or None,
            object=info.object or None,
            image_type=info.kind or None,
            region=region,
            **finite,
        )
    except InputError as error:
        raise InputError(error.message, path=path) from error
