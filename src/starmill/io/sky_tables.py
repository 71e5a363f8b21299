"""Plain tables of sky sources in the formats astronomers exchange: IPAC, ECSV, CSV, FITS, VOTable, Parquet."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starmill.errors import InputError
from starmill.io.atomic import atomic_path

__all__ = ["TABLE_FORMATS", "read_sky_table", "write_sky_table"]

TABLE_FORMATS = {
    "ipac": (".txt", "ascii.ipac"), "ecsv": (".csv", "ascii.ecsv"), "csv": (".csv", "ascii.csv"),
    "fits": (".fits", "fits"), "votable": (".xml", "votable"), "parquet": (".parquet", "parquet"),
}  # fmt: skip
"""Name of a format: ending of its files and name in astropy."""


def write_sky_table(table: Any, stem: str | Path, kind: str) -> Path:
    """Write an astropy table; the file appears complete or not at all.

    Parameters
    ----------
    table : astropy.table.Table
        ``meta['comments']`` (list of str) becomes the header comments of text formats.
    stem : path
        Without ending.
    kind : str
        One of :data:`TABLE_FORMATS`.

    Returns
    -------
    path : Path
    """
    if kind not in TABLE_FORMATS:
        raise InputError(f"unknown table format {kind!r} (known: {', '.join(TABLE_FORMATS)})")
    ending, name = TABLE_FORMATS[kind]
    path = Path(f"{stem}{ending}")
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _WRITERS.get(kind, _write_plain)(table, temporary, name)
    return path


def _write_plain(table: Any, path: Path, name: str) -> None:
    table.write(path, format=name, overwrite=True)


def _write_ipac(table: Any, path: Path, name: str) -> None:
    copy = table.copy()
    comments = [
        line[i : i + 76] for line in copy.meta.get("comments", []) for i in range(0, max(len(line), 1), 76)
    ]
    copy.meta = {"comments": comments}
    for column in copy.itercols():
        if column.dtype.kind == "b":
            copy[column.name] = column.astype(int)
    copy.write(path, format=name, overwrite=True)


def _write_binary(table: Any, path: Path, name: str) -> None:
    copy = table.copy()
    notes = copy.meta.pop("comments", [])
    if name == "fits":
        copy.meta = {"comments": notes}
    else:
        copy.meta = {}
        for column in copy.itercols():
            column.info.format = None
    if name == "parquet":
        try:
            import pyarrow as pa  # noqa: F401
        except ImportError as error:
            raise InputError("Parquet needs pyarrow: pip install 'starmill[parquet]'", path=path) from error
    copy.write(path, format=name, overwrite=True)


def _write_csv(table: Any, path: Path, name: str) -> None:
    copy = table.copy()
    copy.meta = {}
    copy.write(path, format=name, overwrite=True)


_WRITERS: dict[str, Callable[[Any, Path, str], None]] = {
    "ipac": _write_ipac, "fits": _write_binary, "votable": _write_binary, "parquet": _write_binary, "csv": _write_csv,
}  # fmt: skip


def read_sky_table(path: str | Path) -> Any:
    """Read a table of sources (IPAC, ECSV, CSV, FITS, VOTable, Parquet), told apart by ending and content.

    Raises
    ------
    InputError
        When the file is missing or not a table.
    """
    from astropy.table import Table

    path = Path(path)
    if not path.is_file():
        raise InputError("the table does not exist", path=path)
    kinds = {
        ".txt": ["ascii.ipac", "ascii.basic"], ".tbl": ["ascii.ipac"], ".ecsv": ["ascii.ecsv"], ".dat": ["ascii.basic"],
        ".csv": ["ascii.ecsv", "ascii.csv"], ".xml": ["votable"], ".vot": ["votable"], ".parquet": ["parquet"],
    }.get(path.suffix.lower(), ["fits"])  # fmt: skip
    reasons = []
    for kind in kinds:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return Table.read(path, format=kind)
        except Exception as error:  # noqa: BLE001  readers of other packages raise anything
            reasons.append(f"{kind}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise InputError(f"the table cannot be read ({'; '.join(reasons)})", path=path)
