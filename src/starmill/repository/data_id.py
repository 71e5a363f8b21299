"""Data identifiers: which exposure, detector, band, patch, map ... a data set belongs to.

A data ID is a small immutable mapping from dimension names to values. Values are validated on entry, because
they become parts of file names, of SQL parameters and of FITS headers.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from starmill.errors import InputError

Value = int | str

#: Every dimension with its Python type, in the order in which paths and tables show them.
DIMENSIONS: dict[str, type] = {
    "instrument": str,
    "night": int,
    "exposure": int,
    "visit": int,
    "detector": int,
    "filter": str,
    "band": str,
    "tract": int,
    "patch": int,
    "map": str,
    "channel": int,
}

_RANK = {name: rank for rank, name in enumerate(DIMENSIONS)}
_MAX_LENGTH = 64
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|\u2028\u2029\ud800-\udfff]")
_MAX_INTEGER = 2**62  # both SQLite and PostgreSQL store 64-bit signed integers


def sort_dimensions(names: Iterable[str]) -> tuple[str, ...]:
    """Return dimension names in their standard order, refusing unknown or repeated ones.

    Parameters
    ----------
    names : iterable of str
        Dimension names.

    Returns
    -------
    names : tuple of str
        The same names in the order of `DIMENSIONS`.
    """
    listed = list(names)
    for name in listed:
        if name not in _RANK:
            near = difflib.get_close_matches(str(name), DIMENSIONS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"unknown dimension {name!r}{hint} (known: {', '.join(DIMENSIONS)})")
    if len(set(listed)) != len(listed):
        raise InputError(f"a dimension is given twice in {listed}")
    return tuple(sorted(listed, key=_RANK.__getitem__))


def validate_value(name: str, value: object) -> Value:
    """Return a dimension value of the right type or raise `InputError` naming the cause.

    Parameters
    ----------
    name : str
        A dimension name.
    value : object
        An integer (or a string of digits) for integer dimensions, a short printable string for the others.

    Returns
    -------
    value : int or str
        The validated value.
    """
    if DIMENSIONS[name] is int:
        return _validate_integer(name, value)
    if not isinstance(value, str):
        raise InputError(f"{name}={value!r} must be a string")
    return validate_name(value, what=name, pattern=None)


def _validate_integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        index = getattr(value, "__index__", None)  # numpy integers
        if isinstance(value, bool) or index is None:
            raise InputError(f"{name}={value!r} must be an integer")
        value = index()
    if isinstance(value, str):
        if not re.fullmatch(r"-?[0-9]{1,19}", value):
            raise InputError(f"{name}={value[:80]!r} must be an integer")
        value = int(value)
    assert isinstance(value, int)  # noqa: S101
    if not 0 <= value < _MAX_INTEGER:
        raise InputError(f"{name}={value} is outside 0 to 2**62")
    return value


@functools.lru_cache(maxsize=4096)
def validate_name(text: str, *, what: str, pattern: str | None = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*") -> str:
    """Return `text` if it may stand in a file name, else raise `InputError`.

    Parameters
    ----------
    text : str
        The proposed name.
    what : str
        What it names; stands in the error message.
    pattern : str or None
        Regular expression that the whole name must match, besides the general rules (1 to 64 characters, no
        path separator, control or shell-hostile character, no leading or trailing blank, not ``.`` or ``..``).

    Returns
    -------
    text : str
        The name, unchanged.
    """
    shown = repr(text if len(text) <= 80 else text[:77] + "...")
    if not text or len(text) > _MAX_LENGTH or len(text.encode("utf-8", "replace")) > 2 * _MAX_LENGTH:
        raise InputError(f"{what} {shown} has {len(text)} characters; 1 to {_MAX_LENGTH} are allowed")
    if _FORBIDDEN.search(text) or not text.isprintable():
        raise InputError(f"{what} {shown} holds a character that may not stand in a file name")
    if text in {".", ".."} or text != text.strip() or text.startswith(("-", "~", ".")):
        raise InputError(f"{what} {shown} may not start with '-', '~', '.' nor begin or end with a blank")
    if pattern is not None and not re.fullmatch(pattern, text):
        raise InputError(f"{what} {shown} does not match {pattern}")
    return text


class DataId(Mapping[str, Value]):
    """An immutable, validated, hashable mapping of dimensions to values.

    Parameters
    ----------
    values : mapping, optional
        Dimension names and values.
    **more
        The same as keywords.
    """

    __slots__ = ("_items", "_values")

    def __init__(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        merged = {**dict(values or {}), **more}
        self._values: dict[str, Value] = {
            name: validate_value(name, merged[name]) for name in sort_dimensions(merged)
        }
        self._items = tuple(self._values.items())

    @classmethod
    def trusted(cls, items: tuple[tuple[str, Value], ...]) -> DataId:
        """Make a data ID from already validated, ordered items (values that come out of the registry)."""
        new = cls.__new__(cls)
        new._values = dict(items)
        new._items = items
        return new

    @classmethod
    def parse(cls, text: str) -> DataId:
        """Read ``exposure=12,detector=3`` (or with blanks instead of commas)."""
        values: dict[str, str] = {}
        for part in re.split(r"[,\s]+", text.strip()):
            name, separator, value = part.partition("=")
            if not separator:
                raise InputError(f"data ID part {part[:80]!r} is not of the form dimension=value")
            if name in values:
                raise InputError(f"dimension {name!r} is given twice in {text[:80]!r}")
            values[name] = value
        return cls(values)

    @property
    def key(self) -> str:
        """Canonical text, ``instrument=cam,exposure=12``: unique for the data ID."""
        return ",".join(f"{name}={value}" for name, value in self._items)

    @property
    def sort_key(self) -> tuple[tuple[str, Value], ...]:
        """Pairs of dimension and value in standard order: unique, and orders data IDs of the same dimensions."""
        return self._items

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of the dimensions, in standard order."""
        return tuple(self._values)

    def subset(self, names: Iterable[str]) -> DataId:
        """Return the data ID with only these dimensions; all must be present."""
        wanted = set(names)
        items = tuple(item for item in self._items if item[0] in wanted)
        if len(items) != len(wanted):
            missing = sorted(wanted - set(self._values))
            raise InputError(f"data ID ({self.key}) has no {', '.join(missing)}")
        return DataId.trusted(items)

    def to_dict(self) -> dict[str, Value]:
        """Return a plain dictionary."""
        return dict(self._values)

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DataId):
            return self._items == other._items
        if isinstance(other, Mapping):
            return self._values == dict(other)
        return NotImplemented

    def __repr__(self) -> str:
        return f"DataId({self.key})"
