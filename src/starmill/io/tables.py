"""Catalogues in files: FITS, ECSV, Parquet and VOTable, chosen by the suffix.

Units, meanings, slots, other names, metadata and footprints survive in all four. In FITS the flags are packed in
one bit column ``flags`` whose names stand in the cards ``TFLAG1``, ...; footprints are a document of extensions. In the
other formats the footprints are one compressed text in the metadata.
"""

from __future__ import annotations

import base64
import io
import json
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.footprint import FootprintSet
from starmill.errors import InputError
from starmill.io.atomic import atomic_path
from starmill.io.fits import open_fits
from starmill.io.fits_blocks import (
    Card,
    image_extension,
    open_blocks,
    parse_blocks,
    primary_extension,
    table_extension,
    write_blocks,
)
from starmill.io.structures import structure_from_hdus, structure_to_arrays

__all__ = ["TABLE_SUFFIXES", "read_catalog", "write_catalog"]


def write_catalog(
    catalog: Catalog, path: str | Path, *, footprints: bool = True, durable: bool = True
) -> None:
    """Write a catalogue; the file appears complete or not at all.

    Parameters
    ----------
    catalog : Catalog
    path : path
        Its suffix chooses the format: ``.fits``, ``.ecsv``, ``.parquet`` (needs pyarrow), ``.votable``.
    footprints : bool
        False leaves the footprints out.
    durable : bool
        False leaves it to the caller to synchronise the file with the disk.
    """
    path = Path(path)
    writer, _ = _format(path)
    with atomic_path(path, durable=durable) as temporary:
        writer(catalog if footprints else catalog.with_footprints(None), temporary)


def read_catalog(path: str | Path) -> Catalog:
    """Read a catalogue that :func:`write_catalog` wrote, or any table of these formats.

    Raises
    ------
    InputError
        When the file is missing, damaged or of an unknown format.
    """
    path = Path(path)
    _, reader = _format(path)
    if not path.is_file():
        raise InputError("the file does not exist", path=path)
    try:
        return reader(path)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, OSError, IndexError, zlib.error) as error:
        raise InputError(f"the table cannot be read: {error}", path=path) from error


def _format(path: Path) -> tuple[Callable[..., None], Callable[..., Catalog]]:
    if path.suffix not in _FORMATS:
        raise InputError(f"unknown table format {path.suffix!r} (known: {', '.join(_FORMATS)})", path=path)
    return _FORMATS[path.suffix]


def _annotations(catalog: Catalog) -> dict[str, Any]:
    """Return all that a plain table cannot hold, as JSON texts."""
    notes = {
        "slots": catalog.slots,
        "aliases": catalog.aliases,
        "meta": catalog.meta,
        "schema": [[c.name, c.dtype, c.unit, c.description, list(c.shape)] for c in catalog.schema.values()],
    }
    return notes


def _annotated(
    columns: dict[str, Any], n: int, notes: dict[str, Any], footprints: FootprintSet | None
) -> Catalog:
    schema = Schema([Column(*item[:4], tuple(item[4])) for item in notes["schema"]])
    return Catalog(
        schema,
        {name: columns[name] for name in schema},
        n=n,
        footprints=footprints,
        slots=notes["slots"],
        aliases=notes["aliases"],
        meta=notes["meta"],
    )


_FOOTPRINT_PARTS = ("spans", "span_offsets", "peak_offsets", "image", "mask", "variance", "pixel_offsets")


def _footprints_to_dict(footprints: FootprintSet) -> dict[str, Any]:
    parts = {
        name: getattr(footprints, name) for name in _FOOTPRINT_PARTS if getattr(footprints, name) is not None
    }
    parts.update(
        {
            f"peak_{name}": np.ascontiguousarray(footprints.peaks[name])
            for name in footprints.peaks.dtype.names
        }
    )
    return parts


def _footprints_from_dict(parts: dict[str, Any]) -> FootprintSet:
    from starmill.datamodel.footprint import PEAK_DTYPE

    def array(name: str) -> Any:  # an empty array comes back from FITS as no data at all
        value = parts.get(name)
        return np.zeros(0) if value is None or value.dtype == object else value

    peaks = np.zeros(array("peak_x").size, PEAK_DTYPE)
    for name in PEAK_DTYPE.names or ():
        peaks[name] = array(f"peak_{name}")
    heavy = {name: array(name) for name in ("image", "mask", "variance", "pixel_offsets") if name in parts}
    return FootprintSet(array("spans"), array("span_offsets"), peaks, array("peak_offsets"), **heavy)


def _footprints_to_text(footprints: FootprintSet) -> str:
    buffer = io.BytesIO()
    arrays = structure_to_arrays(_footprints_to_dict(footprints), "FOOT")
    write_blocks(buffer, [primary_extension(), *(image_extension(array, name) for name, array in arrays)])
    return base64.b64encode(zlib.compress(buffer.getvalue(), 6)).decode()


def _footprints_from_text(text: str | None) -> FootprintSet | None:
    if not text:
        return None
    content = zlib.decompress(base64.b64decode(text))
    plain = parse_blocks(content)
    if plain is not None:
        return _footprints_from_dict(structure_from_hdus(plain, "FOOT"))
    with fits.open(io.BytesIO(content)) as hdus:
        return _footprints_from_dict(structure_from_hdus(hdus, "FOOT"))


# FITS


def _write_fits(catalog: Catalog, path: Path) -> None:
    flags = [name for name, column in catalog.schema.items() if column.is_flag]
    columns = {name: column for name, column in catalog.schema.items() if not column.is_flag}
    forms = [_tform(column) for column in columns.values()]
    fields: list[tuple[Any, ...]] = [
        (name, _row_type(column), column.shape) for name, column in columns.items()
    ]
    cards: list[Card] = []
    for i, column in enumerate(columns.values(), start=1):
        cards += [(f"TUNIT{i}", column.unit, "")] if column.unit else []
        cards += [(f"TCOMM{i}", column.description, "")] if column.description else []
    if flags:
        fields.append(("flags", "u1", (-(-len(flags) // 8),)))
        forms.append(f"{len(flags)}X")
        cards.append((f"TCOMM{len(fields)}", "flags, one bit each, named in TFLAG1, TFLAG2, ...", ""))
    cards += [(f"TFLAG{i}", name, "") for i, name in enumerate(flags, start=1)]
    rows = np.zeros(len(catalog), np.dtype(fields))
    for name, column in columns.items():
        text = np.dtype(column.dtype).kind == "U"
        rows[name] = np.char.encode(catalog[name], "ascii", "replace") if text else catalog[name]
    if flags:
        rows["flags"] = np.packbits(np.stack([catalog[name] for name in flags], axis=1), axis=1)
    arrays = structure_to_arrays(_annotations(catalog), "NOTES")
    if catalog.footprints is not None:
        arrays += structure_to_arrays(_footprints_to_dict(catalog.footprints), "FOOTPRINTS")
    table = table_extension(rows, forms, "CATALOG", cards)
    with path.open("wb") as stream:
        write_blocks(
            stream, [primary_extension(), table, *(image_extension(array, name) for name, array in arrays)]
        )


def _row_type(column: Column) -> str:
    """Return the type of a column in the file: big-endian numbers, ASCII text."""
    kind = np.dtype(column.dtype)
    return f"S{max(1, kind.itemsize // 4)}" if kind.kind == "U" else kind.newbyteorder(">").str


def _tform(column: Column) -> str:
    kind = np.dtype(column.dtype)
    if kind.kind == "U":
        return f"{max(1, kind.itemsize // 4)}A"
    letter = {"f8": "D", "f4": "E", "i8": "K", "i4": "J", "i2": "I", "u1": "B"}.get(kind.str[1:])
    if letter is None:
        raise InputError(f"a column of type {column.dtype} cannot be written to FITS")
    return f"{int(np.prod(column.shape, dtype=int))}{letter}" if column.shape else letter


def _read_fits(path: Path) -> Catalog:
    with open_blocks(path) as hdus:
        if "NOTES" not in hdus or "CATALOG" not in hdus:
            return _read_foreign_fits(path)
        data, header = hdus["CATALOG"].data, hdus["CATALOG"].header
        notes = structure_from_hdus(hdus, "NOTES")
        columns: dict[str, Any] = {}
        for name, dtype, _, _, shape in notes["schema"]:
            if np.dtype(dtype) != np.bool_:
                values = np.asarray(data[name])
                if values.dtype.kind == "S":
                    values = np.char.decode(values, "ascii")
                columns[name] = values.astype(dtype).reshape(len(data), *shape)
        bits = _read_flags(data, header)
        for i in range(bits.shape[1]):
            columns[header[f"TFLAG{i + 1}"]] = np.ascontiguousarray(bits[:, i])
        footprints = None
        if "FOOTPRINTS" in hdus:
            footprints = _footprints_from_dict(structure_from_hdus(hdus, "FOOTPRINTS"))
        return _annotated(columns, len(data), notes, footprints)


def _read_flags(data: Any, header: Any) -> NDArray[np.bool_]:
    """Return the packed flags of a table, (n, n_flags)."""
    if "flags" not in data.dtype.names:
        return np.zeros((len(data), 0), np.bool_)
    if isinstance(data, fits.FITS_rec):
        return np.asarray(data["flags"], np.bool_)
    count = int(str(header[f"TFORM{len(data.dtype.names)}"]).removesuffix("X"))
    return np.unpackbits(data["flags"], axis=1, count=count).astype(np.bool_)


def _read_foreign_fits(path: Path) -> Catalog:
    from astropy.table import Table

    with open_fits(path) as hdus:
        table = next((h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)), None)
        if table is None:
            raise InputError("the file holds no table")
        return Catalog.from_astropy(Table(table.data))


# ECSV and VOTable, through astropy tables


def _table_with_notes(catalog: Catalog) -> Any:
    table = catalog.to_astropy()
    table.meta = {"starmill": json.dumps(_annotations(catalog))}
    if catalog.footprints is not None:
        table.meta["footprints"] = _footprints_to_text(catalog.footprints)
    return table


def _from_table(table: Any, notes: str | None, footprints: str | None) -> Catalog:
    if notes is None:
        return Catalog.from_astropy(table)
    document = json.loads(notes)
    columns = {
        item[0]: _column_values(table[item[0]], Column(*item[:4], tuple(item[4])))
        for item in document["schema"]
    }
    return _annotated(columns, len(table), document, _footprints_from_text(footprints))


def _column_values(values: Any, column: Column) -> Any:
    """Return a column of a table; entries that a format calls missing are blank again."""
    array = np.ma.asarray(values)
    filled = array.filled(column.blank(1).ravel()[0]) if np.ma.is_masked(array) else np.asarray(array)
    return filled.astype(column.dtype).reshape(len(values), *column.shape)


def _write_ecsv(catalog: Catalog, path: Path) -> None:
    table = _table_with_notes(catalog)
    if not len(catalog):
        for name, column in catalog.schema.items():
            if column.shape:
                table[name] = table[name].reshape(0)  # astropy cannot read back an empty column of arrays
    table.write(path, format="ascii.ecsv")


def _read_ecsv(path: Path) -> Catalog:
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    return _from_table(table, table.meta.get("starmill"), table.meta.get("footprints"))


def _write_votable(catalog: Catalog, path: Path) -> None:
    from astropy.io.votable import from_table
    from astropy.io.votable.exceptions import VOWarning
    from astropy.io.votable.tree import Info

    table = _table_with_notes(catalog)
    notes = dict(table.meta)
    table.meta.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VOWarning)  # "electron" is a FITS unit, not one of the VO
        document = from_table(table)
        resource = document.resources[0]
        for name, text in notes.items():
            resource.infos.append(Info(name=f"starmill_{name}", value=text))
        document.to_xml(str(path), tabledata_format="binary2")


def _read_votable(path: Path) -> Catalog:
    from astropy.io.votable import parse
    from astropy.io.votable.exceptions import VOWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VOWarning)
        document = parse(str(path))
        infos = {info.name: info.value for resource in document.resources for info in resource.infos}
        table = document.get_first_table().to_table(use_names_over_ids=True)
    return _from_table(table, infos.get("starmill_starmill"), infos.get("starmill_footprints"))


# Parquet


def _pyarrow() -> Any:
    try:
        from importlib import import_module

        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise InputError("Parquet files need pyarrow: install starmill[parquet]") from error


def _write_parquet(catalog: Catalog, path: Path) -> None:
    arrow = _pyarrow()
    arrays, columns = [], []
    for name, column in catalog.schema.items():
        values = catalog[name]
        if column.shape:
            flat = arrow.array(np.ascontiguousarray(values).ravel())
            array = arrow.FixedSizeListArray.from_arrays(flat, int(np.prod(column.shape)))
        else:
            array = arrow.array(values.tolist() if values.dtype.kind == "U" else values)
        arrays.append(array)
        notes = {"unit": column.unit, "description": column.description}
        columns.append(arrow.field(name, array.type, metadata=notes))
    metadata = {"starmill": json.dumps(_annotations(catalog))}
    if catalog.footprints is not None:
        metadata["footprints"] = _footprints_to_text(catalog.footprints)
    table = arrow.Table.from_arrays(arrays, schema=arrow.schema(columns, metadata=metadata))
    arrow.parquet.write_table(table, path)


def _read_parquet(path: Path) -> Catalog:
    arrow = _pyarrow()
    try:
        table = arrow.parquet.read_table(path)
    except arrow.ArrowException as error:
        raise InputError(f"the table cannot be read: {error}", path=path) from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if "starmill" not in metadata:
        from astropy.table import Table

        return Catalog.from_astropy(Table({name: table[name].to_numpy() for name in table.column_names}))
    document = json.loads(metadata["starmill"])
    columns: dict[str, Any] = {}
    for name, dtype, _, _, shape in document["schema"]:
        values = table[name].combine_chunks()
        if shape:
            values = values.flatten().to_numpy(zero_copy_only=False)
        elif np.dtype(dtype).kind == "U":
            values = np.array(values.to_pylist(), dtype)
        else:
            values = values.to_numpy(zero_copy_only=False)
        columns[name] = np.asarray(values, dtype).reshape(len(table), *shape)
    return _annotated(columns, len(table), document, _footprints_from_text(metadata.get("footprints")))


_FORMATS: dict[str, tuple[Callable[..., None], Callable[..., Catalog]]] = {
    ".fits": (_write_fits, _read_fits),
    ".ecsv": (_write_ecsv, _read_ecsv),
    ".parquet": (_write_parquet, _read_parquet),
    ".votable": (_write_votable, _read_votable),
    ".vot": (_write_votable, _read_votable),
}
TABLE_SUFFIXES = tuple(_FORMATS)
"""The formats that catalogues are kept in."""
