"""Reads the headers of FITS files quickly, without the pixels.

Ingest looks at thousands of files; it needs some cards of each. The cards are read straight from the 2880-byte
blocks, also of files compressed as a whole, and the data between headers are passed over.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from starmill.errors import InputError

_BLOCK = 2880
_WINDOW = 16 * _BLOCK  # read at once: the headers of a small file
_MAX_BLOCKS = 4000  # of one header: 144,000 cards
_MAX_EXTENSIONS = 300
_CARDLESS = ("", "COMMENT", "HISTORY", "CONTINUE", "END")
_INTEGER = re.compile(r"[+-]?\d{1,18}")


class Cards(Mapping[str, Any]):
    """The cards of a header; values are made of their text when asked for.

    Parameters
    ----------
    text : str
        Whole cards of 80 characters, without END. Of cards with the same keyword the last one counts.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @functools.cached_property
    def texts(self) -> dict[str, str]:
        """What follows ``=``, by keyword."""
        text = self._text
        found = {
            text[start : start + 8].rstrip(): text[start + 10 : start + 80]
            for start in range(0, len(text), 80)
            if text[start + 8 : start + 10] == "= "
        }
        for keyword in _CARDLESS:
            found.pop(keyword, None)
        return found

    def one(self, keyword: str, default: Any = None) -> Any:
        """Return the value of a card as `get` does; quicker when few cards of a header are wanted."""
        start = self._text.rfind(f"{keyword:8}= ")
        if start % 80:  # absent, or inside of another card
            return default if start < 0 else self.get(keyword, default)
        return _value(self._text[start + 10 : start + 80])

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
        return Cards(self._text + other._text)


class _Source(Protocol):
    size: int | None

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes at an offset that never decreases; fewer at the end of the file."""


class _PlainFile:
    """An open file; reads some blocks at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size: int | None = os.fstat(descriptor).st_size
        self._begin, self._window = 0, os.pread(descriptor, _WINDOW, 0)

    def read(self, offset: int, length: int) -> bytes:
        start = offset - self._begin
        if start + length > len(self._window):
            self._begin, self._window = offset, os.pread(self._descriptor, max(_WINDOW, length), offset)
            start = 0
        return self._window[start : start + length]


class _PackedFile:
    """The content of a compressed file, whose length is not known beforehand."""

    size: int | None = None

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0

    def read(self, offset: int, length: int) -> bytes:
        while self._position < offset:
            passed = len(self._stream.read(min(offset - self._position, 1 << 20)))
            if not passed:
                raise EOFError("truncated")
            self._position += passed
        found = self._stream.read(length)
        self._position += len(found)
        return found


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
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"the file cannot be read: {error}", path=path) from error
    try:
        plain = _PlainFile(descriptor)
        magic = plain.read(0, 3)
        if not magic:
            raise InputError("the file is empty", path=path)
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(path) as packed:
                return _walk(_PackedFile(cast("BinaryIO", packed)), path)
        if magic == b"BZh":
            with bz2.open(path) as packed:
                return _walk(_PackedFile(cast("BinaryIO", packed)), path)
        return _walk(plain, path)
    except (OSError, EOFError) as error:
        raise InputError(f"the file cannot be read: {error}", path=path) from error
    finally:
        os.close(descriptor)


def _walk(source: _Source, path: Path) -> list[Cards]:
    headers: list[Cards] = []
    offset = 0
    while len(headers) < _MAX_EXTENSIONS:
        header, offset = _read_header(source, offset, path, first=not headers)
        if header is None:
            break
        headers.append(header)
        offset += _data_length(header, path)
        if source.size is not None and offset > source.size:
            raise InputError(
                f"truncated: HDU {len(headers) - 1} needs {offset} bytes, the file has {source.size}",
                path=path,
            )
    return headers


def _read_header(source: _Source, offset: int, path: Path, *, first: bool) -> tuple[Cards | None, int]:
    """Return the next header and where it ends; None at the end of the file."""
    texts: list[str] = []
    while len(texts) < _MAX_BLOCKS:
        block = source.read(offset, _BLOCK)
        offset += _BLOCK
        if not texts:
            if not first and not block.startswith(b"XTENSION"):
                return None, offset  # end of file, or padding that some writers leave behind the last HDU
            if first and not block.startswith(b"SIMPLE  ="):
                raise InputError("not a FITS file: it does not begin with SIMPLE", path=path)
        if len(block) < _BLOCK:
            raise InputError("truncated in a header", path=path)
        text = block.decode("latin-1")
        end = text.find("END     ")
        while end % 80:  # inside of a card, or -1
            if end < 0:
                break
            end = text.find("END     ", end + 1)
        if end >= 0:
            texts.append(text[:end])
            return Cards("".join(texts)), offset
        texts.append(text)
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
    axes = header.one("NAXIS", 0)
    if not isinstance(axes, int) or not 0 <= axes <= 999:
        raise InputError(f"NAXIS is {axes!r}", path=path)
    lengths: list[Any] = [header.one(f"NAXIS{axis + 1}") for axis in range(axes)]
    bits = header.one("BITPIX")
    for length in [bits, *lengths]:
        if not isinstance(length, int) or isinstance(length, bool) or abs(length) > 2**40:
            raise InputError(f"BITPIX or an axis is {length!r}", path=path)
    if any(length < 0 for length in lengths):
        raise InputError(f"negative axes {lengths}", path=path)
    if not lengths:
        return 0
    if lengths[0] == 0 and header.one("GROUPS") is True:
        lengths = lengths[1:]
    extra, groups = header.one("PCOUNT", 0), header.one("GCOUNT", 1)
    size = abs(bits) // 8 * groups * (extra + math.prod(lengths))
    return -(-size // _BLOCK) * _BLOCK
