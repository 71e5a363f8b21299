"""Where files of a repository lie: readable names, one per data ID, always inside the root."""

from __future__ import annotations

import functools
import hashlib
import re
import string
from collections.abc import Mapping
from pathlib import PurePosixPath

from starmill.errors import InputError
from starmill.repository.data_id import DIMENSIONS, DataId, Value, validate_name

#: Names directly under the root.
CONFIG_NAME = "repository.yaml"
PRIVATE_FOLDER = ".starmill"
RUNS_FOLDER = "runs"
SQLITE_NAME = "registry.sqlite3"

DEFAULT_TEMPLATE = "{run}/{dataset_type}/{night}/{name}"
_FIELDS = {"run", "dataset_type", "night", "instrument", "filter", "band", "object", "name"}
_LABELS = {
    "exposure": "exp",
    "visit": "visit",
    "detector": "det",
    "night": "",
    "tract": "tract",
    "patch": "patch",
}
_WIDTHS = {"exposure": 8, "visit": 8, "detector": 3, "patch": 4, "channel": 4}


def validate_collection_name(name: str) -> str:
    """Return a collection name (words separated by ``/``) or raise `InputError`."""
    if not isinstance(name, str) or len(name) > 120:
        raise InputError(f"collection name {str(name)[:60]!r} is longer than 120 characters")
    for part in name.split("/"):
        validate_name(part, what="collection")
    return name


def dataset_identifier(run: str, dataset_type: str, data_id: DataId) -> str:
    """Return the identifier of a data set: 32 hexadecimal digits that follow from run, type and data ID."""
    text = f"{run}\0{dataset_type}\0{data_id.key}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def validate_template(template: str) -> str:
    """Return a path template or raise `InputError` when it is ambiguous, executable, or leaves the root.

    Parameters
    ----------
    template : str
        Words in braces out of run, dataset_type, night, instrument, filter, band, object and name; ``{run}``
        and, at the end, ``{name}`` are compulsory, because together they are unique.

    Returns
    -------
    template : str
        The template, unchanged.
    """
    fields = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"path template {template[:80]!r}: {error}") from None
    for literal, field, format_spec, conversion in parsed:
        if literal and not re.fullmatch(r"[A-Za-z0-9_+./-]*", literal):
            raise InputError(f"path template {template[:80]!r} holds the characters {literal[:40]!r}")
        if field is None:
            continue
        if field not in _FIELDS or format_spec or conversion:
            raise InputError(f"path template {template[:80]!r}: {{{field}}} is none of {sorted(_FIELDS)}")
        fields.append(field)
    if "run" not in fields or not template.endswith("{name}") or fields.count("name") != 1:
        raise InputError(f"path template {template[:80]!r} must hold {{run}} and end with {{name}}")
    if template.startswith("/") or ".." in PurePosixPath(template).parts or "//" in template:
        raise InputError(f"path template {template[:80]!r} may not leave the root")
    return template


def dataset_path(
    template: str,
    run: str,
    dataset_type: str,
    data_id: DataId,
    known: Mapping[str, Value | None],
    extension: str,
) -> str:
    """Return the path of a data set relative to the root.

    Parameters
    ----------
    template : str
        A validated template.
    run, dataset_type : str
        Names.
    data_id : DataId
        The complete data ID; all of it stands in the file name.
    known : mapping
        Further values that follow from the data ID (night, filter, object); a missing one leaves out its part
        of the path.
    extension : str
        With the dot.

    Returns
    -------
    path : str
        Relative, with forward slashes, below ``runs/``.
    """
    values = {"dataset_type": dataset_type, "name": file_name(dataset_type, data_id, extension)}
    for name in _words(template):
        value = data_id[name] if name in data_id else known.get(name)
        if value is not None:
            values[name] = _escape(str(value))
    parts = []
    for piece, fields in _pieces(template):
        if "run" in fields:
            parts.append(piece.replace("{run}", run).format_map(values))
        elif all(field in values for field in fields):
            parts.append(piece.format_map(values))
    return f"{RUNS_FOLDER}/" + "/".join(parts)


@functools.cache
def _pieces(template: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the folders of a template with the words in braces that each holds."""
    return tuple(
        (piece, tuple(field for _, field, _, _ in string.Formatter().parse(piece) if field))
        for piece in template.split("/")
    )


@functools.cache
def _words(template: str) -> tuple[str, ...]:
    """Return the words in braces of a template that a data ID or its exposure gives."""
    words = {field for _, fields in _pieces(template) for field in fields}
    return tuple(sorted(words - {"run", "dataset_type", "name"}))


def file_name(dataset_type: str, data_id: DataId, extension: str) -> str:
    """Return a readable file name, unique for type and data ID, as ``raw_cam_exp00000126_det000.fits``."""
    parts = [dataset_type]
    for name in DIMENSIONS:
        if name not in data_id:
            continue
        value = data_id[name]
        if isinstance(value, int):
            parts.append(f"{_LABELS.get(name, name)}{value:0{_WIDTHS.get(name, 1)}d}")
        elif name == "instrument":
            parts.append(_escape(value))
        else:
            parts.append(f"{name}-{_escape(value)}")
    return "_".join(parts) + extension


@functools.lru_cache(maxsize=4096)
def _escape(text: str) -> str:
    """Write characters that separate or could be misread as ``=`` and their UTF-8 bytes in hexadecimal."""
    return re.sub(
        r"[^A-Za-z0-9.+-]", lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), text
    )


def check_relative(path: str) -> str:
    """Return a stored relative path, refusing one that would leave the root."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or not pure.parts:
        raise InputError(f"path {path[:120]!r} leaves the repository")
    return path
