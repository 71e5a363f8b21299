"""Plain FITS without detours: cards as text, pixels and tables as blocks of big-endian numbers.

Products of this package are many small files with hundreds of cards, for which a general library spends far more time
on cards than on pixels. What is written here is standard FITS that every program reads; what is read here are plain
files only: everything else (compressed, scaled, with unusual cards) is left to :func:`starmill.io.fits.open_fits`.

References
----------
Pence et al. 2010, A&A 524, A42 (FITS 3.0), sections 3.3 (blocks), 4.2 (values), 7.3 (binary tables).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starmill.errors import InputError
from starmill.io.fits import READ_ERRORS, open_fits

__all__ = [
    "Extension",
    "PlainFile",
    "PlainHdu",
    "card",
    "image_extension",
    "open_blocks",
    "parse_blocks",
    "primary_extension",
    "table_extension",
    "write_blocks",
]

BLOCK = 2880
_CARD = 80
_PART = 1 << 22  # byte: written at a time
_MAPPED = 1 << 22  # byte: smaller files are read as a whole
_BITPIX = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}
_PIXELS = {bitpix: np.dtype(">" + code) for code, bitpix in _BITPIX.items()}
_TFORM = {"D": ">f8", "E": ">f4", "K": ">i8", "J": ">i4", "I": ">i2", "B": "u1"}

Card = tuple[str, Any, str]


# ---- writing


@dataclass(frozen=True)
class Extension:
    """Header and data of one extension, ready to be written.

    Attributes
    ----------
    cards : list of str
        Without END, a multiple of 80 characters each.
    data : contiguous array
        Images in any byte order, rows of a table in that of the file.
    """

    cards: list[str]
    data: NDArray[Any]


def card(keyword: str, value: Any, comment: str = "") -> str:
    """Return one card, 80 characters; a multiple of that for a long text.

    Parameters
    ----------
    keyword : str
        At most 8 characters, or ``HIERARCH`` and a long name.
    value : bool, int, float or str
        Real numbers are written with all their digits.
    comment : str
        Cut where the card ends.

    Raises
    ------
    InputError
        For a number that is not finite: FITS has no card for it.
    """
    if isinstance(value, str):
        return _text_card(keyword, _printable(value), comment)
    if isinstance(value, bool | np.bool_):
        value = "T" if value else "F"
    elif isinstance(value, int | np.integer):
        value = str(int(value))
    else:
        number = float(value)
        if not math.isfinite(number):
            raise InputError(f"the card {keyword} cannot hold {number}")
        value = repr(number).upper()
    start = f"{keyword} = {value}" if _is_long(keyword) else f"{keyword:8}= {value:>20}"
    return _with_comment(start, comment)


def _is_long(keyword: str) -> bool:
    if len(keyword) > 8 and not keyword.startswith("HIERARCH "):
        raise InputError(f"the keyword {keyword} is too long for FITS")
    return len(keyword) > 8


def _text_card(keyword: str, text: str, comment: str) -> str:
    """Return a card of a text, continued on further cards when it is long."""
    start = f"{keyword} = " if _is_long(keyword) else f"{keyword:8}= "
    lines = []
    while True:
        room = _CARD - len(start) - 2
        if len(text) + text.count("'") <= room:
            quoted = f"'{text.replace(chr(39), chr(39) * 2):8}'"
            return "".join(lines) + _with_comment(start + f"{quoted:<20}", comment)
        length = room - 1
        while length + text[:length].count("'") > room - 1:
            length -= 1
        lines.append(f"{start}'{text[:length].replace(chr(39), chr(39) * 2)}&'".ljust(_CARD))
        text, start = text[length:], "CONTINUE  "


def _with_comment(start: str, comment: str) -> str:
    text = f"{start} / {_printable(comment)}" if comment else start
    return f"{text[:_CARD]:{_CARD}}"


def _printable(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def primary_extension(cards: Iterable[Card] = ()) -> Extension:
    """Return a primary header without pixels."""
    fixed = [
        card("SIMPLE", True, "conforms to FITS standard"),
        card("BITPIX", 8, "array data type"),
        card("NAXIS", 0, "number of array dimensions"),
        card("EXTEND", True),
    ]
    return Extension([*fixed, *(card(*item) for item in cards)], np.zeros(0, np.uint8))


def image_extension(array: NDArray[Any], name: str, cards: Iterable[Card] = ()) -> Extension:
    """Return an image extension.

    Parameters
    ----------
    array : array of uint8, int16, int32, int64, float32 or float64
        A dimension of length zero makes an extension without data.
    name : str
        EXTNAME.
    cards : iterable of (keyword, value, comment)
    """
    array = np.asarray(array)
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    code = array.dtype.str[1:]
    if code not in _BITPIX:
        raise InputError(f"an array of type {array.dtype} cannot be written to FITS", hdu=name)
    fixed = [
        card("XTENSION", "IMAGE", "Image extension"),
        card("BITPIX", _BITPIX[code], "array data type"),
        card("NAXIS", array.ndim, "number of array dimensions"),
    ]
    fixed += [card(f"NAXIS{i}", length) for i, length in enumerate(reversed(array.shape), start=1)]
    fixed += [card("PCOUNT", 0), card("GCOUNT", 1), card("EXTNAME", name, "extension name")]
    return Extension([*fixed, *(card(*item) for item in cards)], np.ascontiguousarray(array))


def table_extension(
    rows: NDArray[Any], forms: Sequence[str], name: str, cards: Iterable[Card] = ()
) -> Extension:
    """Return a binary table.

    Parameters
    ----------
    rows : (n,) structured array
        Fields in the byte order of the file, without gaps.
    forms : sequence of str
        TFORM of every field.
    name : str
        EXTNAME.
    cards : iterable of (keyword, value, comment)
    """
    names = rows.dtype.names or ()
    fixed = [
        card("XTENSION", "BINTABLE", "binary table extension"),
        card("BITPIX", 8, "array data type"),
        card("NAXIS", 2, "number of array dimensions"),
        card("NAXIS1", rows.dtype.itemsize, "length of dimension 1"),
        card("NAXIS2", len(rows), "length of dimension 2"),
        card("PCOUNT", 0, "number of group parameters"),
        card("GCOUNT", 1, "number of groups"),
        card("TFIELDS", len(names), "number of table fields"),
        card("EXTNAME", name, "extension name"),
    ]
    for i, (field, form) in enumerate(zip(names, forms, strict=True), start=1):
        fixed += [card(f"TTYPE{i}", field), card(f"TFORM{i}", form)]
    return Extension([*fixed, *(card(*item) for item in cards)], np.ascontiguousarray(rows))


def write_blocks(stream: BinaryIO, extensions: Iterable[Extension]) -> None:
    """Write extensions into a binary stream; the first must be a primary one."""
    for extension in extensions:
        header = "".join(extension.cards) + f"{'END':80}"
        stream.write(header.encode("ascii"))
        stream.write(b" " * (-len(header) % BLOCK))
        size = extension.data.nbytes
        if size:
            stream.writelines(part.view(np.uint8).data for part in _in_file_order(extension.data.reshape(-1)))
            stream.write(b"\0" * (-size % BLOCK))


def _in_file_order(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the values in parts, big-endian: no second copy of a whole image is made."""
    order = values.dtype.newbyteorder(">")
    step = max(1, _PART // values.dtype.itemsize)
    for first in range(0, len(values), step):
        yield np.ascontiguousarray(values[first : first + step], order)


# ---- reading

_STRING = re.compile(r" *'((?:[^']|'')*)' *(?:/.*)?")
_INTEGER = re.compile(r" *([+-]?\d{1,18}) *(?:/.*)?")
_REAL = re.compile(r" *([+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d{1,3})?) *(?:/.*)?")
_LOGICAL = re.compile(r" *([TF]) *(?:/.*)?")
_SPECIAL = ("BLANK", "ZIMAGE", "THEAP", "GROUPS")


class PlainHeader(Mapping[str, Any]):
    """The cards of one plain extension by keyword; their values are made when asked for.

    Parameters
    ----------
    cards : dict of str to str
        Text of every card.
    """

    def __init__(self, cards: dict[str, str]) -> None:
        self.text_cards = cards

    def __getitem__(self, keyword: str) -> Any:
        text = self.text_cards[keyword]
        if len(text) > _CARD:
            return fits.Card.fromstring(text).value
        start = text.index("=") + 1 if text.startswith("HIERARCH") else 10
        return _value(text[start:], keyword)

    def __iter__(self) -> Iterator[str]:
        return iter(self.text_cards)

    def __len__(self) -> int:
        return len(self.text_cards)

    def __contains__(self, keyword: object) -> bool:
        return keyword in self.text_cards

    @property
    def is_plain(self) -> bool:
        """Whether every value is a logical, a number or a text of one card."""
        return all(len(text) == _CARD and _is_value(text[10:]) for text in self.text_cards.values())

    def merged_with(self, other: PlainHeader) -> PlainHeader:
        """Return a header of these cards and, on top, those of another one."""
        return PlainHeader(self.text_cards | other.text_cards)

    def to_fits(self) -> fits.Header:
        """Return the same cards as the general library holds them."""
        return fits.Header.fromstring("".join(self.text_cards.values()))


def _value(text: str, keyword: str) -> Any:
    if match := _STRING.fullmatch(text):
        return match[1].replace("''", "'").rstrip()
    if match := _INTEGER.fullmatch(text):
        return int(match[1])
    if match := _REAL.fullmatch(text):
        return float(match[1].upper().replace("D", "E"))
    if match := _LOGICAL.fullmatch(text):
        return match[1] == "T"
    raise ValueError(f"the value of the card {keyword} cannot be read: {text.strip()[:40]}")


def _is_value(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in (_STRING, _REAL, _LOGICAL))


class PlainHdu:
    """One extension of a plain file.

    Attributes
    ----------
    header : PlainHeader
    name : str
        EXTNAME.
    is_image : bool
    shape : tuple of int
        Of an image, slowest axis first; (rows,) of a table.
    """

    def __init__(self, header: PlainHeader, buffer: Any, offset: int) -> None:
        self.header = header
        self.name = str(header.get("EXTNAME", "PRIMARY" if "SIMPLE" in header else ""))
        self.is_image = header.get("XTENSION", "IMAGE") == "IMAGE"
        axes = [int(header[f"NAXIS{i}"]) for i in range(int(header["NAXIS"]), 0, -1)]
        if min(axes, default=0) < 0:
            raise ValueError("a negative length of an axis")
        self.shape = tuple(axes) if self.is_image else (axes[0],)
        self.dtype = _PIXELS[int(header["BITPIX"])] if self.is_image else self._row_type(axes[1])
        self.nbytes = math.prod(axes) * _PIXELS[int(header["BITPIX"])].itemsize if axes else 0
        self._buffer, self._offset = buffer, offset
        scaling = float(header.get("BSCALE", 1)), float(header.get("BZERO", 0))
        self._is_unsigned = scaling == (1.0, 32768.0) and self.is_image and self.dtype == np.dtype(">i2")
        if scaling != (1.0, 0.0) and not self._is_unsigned:
            raise ValueError("scaled pixels are not plain")

    def _row_type(self, length: int) -> np.dtype[Any]:
        names, formats = [], []
        for i in range(1, int(self.header["TFIELDS"]) + 1):
            form = str(self.header[f"TFORM{i}"])
            count, letter = int(form[:-1] or 1), form[-1]
            names.append(str(self.header[f"TTYPE{i}"]))
            if letter == "X":
                formats.append(("u1", (-(-count // 8),)))
            elif letter == "A":
                formats.append((f"S{count}", ()))
            else:
                formats.append((_TFORM[letter], (count,) if form[:-1] else ()))
        dtype = np.dtype({"names": names, "formats": formats})
        if dtype.itemsize != length:
            raise ValueError(f"rows of {length} byte have columns of {dtype.itemsize}")
        return dtype

    @cached_property
    def data(self) -> NDArray[Any] | None:
        """Pixels or rows, in the byte order of the file; None without axes."""
        if not self.nbytes:
            return np.zeros(self.shape, self.dtype) if self.shape else None
        count = math.prod(self.shape)
        values = np.frombuffer(self._buffer, self.dtype, count, self._offset).reshape(self.shape)
        if self._is_unsigned:
            return values.view(">u2").astype(np.uint16) ^ np.uint16(0x8000)
        return values

    @property
    def section(self) -> NDArray[Any] | None:
        """The same; parts of it touch only their part of the file."""
        return self.data


class PlainFile(Sequence[PlainHdu]):
    """The extensions of a plain FITS file, by number or name."""

    def __init__(self, hdus: list[PlainHdu]) -> None:
        self._hdus = hdus
        self._names: dict[str, int] = {}
        for number, hdu in enumerate(hdus):
            self._names.setdefault(hdu.name, number)

    def __len__(self) -> int:
        return len(self._hdus)

    def __contains__(self, item: object) -> bool:
        return item in self._names

    def __getitem__(self, item: Any) -> Any:
        return self._hdus[self.index_of(item)]

    def index_of(self, item: int | str) -> int:
        """Return the number of an extension."""
        if isinstance(item, str):
            return self._names[item.upper()] if item.upper() in self._names else self._names[item]
        return item


@contextlib.contextmanager
def open_blocks(path: str | Path, *, foreign: bool = False) -> Iterator[PlainFile | fits.HDUList]:
    """Open a FITS file for reading: directly when it is plain, else as :func:`starmill.io.fits.open_fits` does.

    Both results are indexed by number or name and have ``header``, ``data``, ``section``, ``shape``, ``name``.

    Parameters
    ----------
    path : path
    foreign : bool
        The file may hold anything: it is plain only when the values of all its cards are.

    Raises
    ------
    InputError
        When the file is missing, damaged or not FITS, or when reading inside the block fails.
    """
    path = Path(path)
    plain = _read_plain(path)
    if plain is None or (foreign and not all(hdu.header.is_plain for hdu in plain)):
        with open_fits(path) as hdus:
            yield hdus
        return
    try:
        yield plain
    except InputError as error:
        if error.path is None:
            raise type(error)(error.message, path=path, hdu=error.hdu) from error
        raise
    except READ_ERRORS as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"the file cannot be read as FITS: {reason}", path=path) from error


def _read_plain(path: Path) -> PlainFile | None:
    """Return the extensions of a plain file that ends where its last one does; None for any other."""
    try:
        with path.open("rb") as stream:
            if stream.read(6) != b"SIMPLE":
                return None
            size = stream.seek(0, 2)
            stream.seek(0)
            buffer: Any = (
                stream.read() if size < _MAPPED else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            )
    except OSError:
        return None  # the other reader says why
    return parse_blocks(buffer)


def parse_blocks(buffer: Any) -> PlainFile | None:
    """Return the extensions of the bytes of a plain file; None when it is not plain or does not end with them."""
    size = len(buffer)
    hdus: list[PlainHdu] = []
    offset = 0
    try:
        while offset < size:
            header, offset = _read_header(buffer, offset)
            if header is None:
                return None
            hdu = PlainHdu(header, buffer, offset)
            offset += -(-hdu.nbytes // BLOCK) * BLOCK
            hdus.append(hdu)
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return PlainFile(hdus) if offset == size and hdus else None


def _read_header(buffer: Any, offset: int) -> tuple[PlainHeader | None, int]:
    """Return the cards that begin at an offset and where the data begin; no cards when some are unusual."""
    cards: dict[str, str] = {}
    last = ""
    while True:
        block = bytes(buffer[offset : offset + BLOCK])
        if len(block) < BLOCK:
            return None, offset
        offset += BLOCK
        text = block.decode("ascii")
        for start in range(0, BLOCK, _CARD):
            line = text[start : start + _CARD]
            keyword = line[:8].rstrip()
            if keyword == "END":
                plain = not any(name in cards for name in _SPECIAL)
                plain &= "SIMPLE" in cards or (cards["PCOUNT"][10:30].strip() == "0")
                return (PlainHeader(cards) if plain else None), offset
            if keyword == "CONTINUE":
                cards[last] += line
                continue
            if keyword == "HIERARCH":
                keyword = line[9 : line.index("=")].strip()
            elif line[8:10] != "= ":
                if keyword in ("", "COMMENT", "HISTORY"):
                    continue
                return None, offset
            if keyword in cards:
                return None, offset
            cards[keyword] = line
            last = keyword
