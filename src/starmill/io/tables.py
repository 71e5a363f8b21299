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

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.footprint import FootprintSet
from starmill.errors import InputError
from starmill.io.atomic import atomic_path
from starmill.io.fits import open_fits
from starmill.io.structures import structure_from_hdus, structure_to_hdus

__all__ = ["TABLE_SUFFIXES", "read_catalog", "write_catalog"]


def write_catalog(catalog: Catalog, path: str | Path, *, footprints: bool = True) -> None:
    """Write a catalogue; the file appears complete or not at all.

    Parameters
    ----------
    catalog : Catalog
    path : path
        Its suffix chooses the format: ``.fits``, ``.ecsv``, ``.parquet`` (needs pyarrow), ``.votable``.
    footprints : bool
        False leaves the footprints out.
    """
    path = Path(path)
    writer, _ = _format(path)
    with atomic_path(path) as temporary:
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
    fits.HDUList([fits.PrimaryHDU(), *structure_to_hdus(_footprints_to_dict(footprints), "FOOT")]).writeto(
        buffer
    )
    return base64.b64encode(zlib.compress(buffer.getvalue(), 6)).decode()


def _footprints_from_text(text: str | None) -> FootprintSet | None:
    if not text:
        return None
    with fits.open(io.BytesIO(zlib.decompress(base64.b64decode(text)))) as hdus:
        return _footprints_from_dict(structure_from_hdus(hdus, "FOOT"))


# FITS


def _write_fits(catalog: Catalog, path: Path) -> None:
    flags = [name for name, column in catalog.schema.items() if column.is_flag]
    columns, comments = [], []
    for name, column in catalog.schema.items():
        if column.is_flag:
            continue
        values = catalog[name]
        columns.append(fits.Column(name, _tform(column), unit=column.unit or None, array=values))
        comments.append(column.description)
    if flags:
        packed = np.stack([catalog[name] for name in flags], axis=1)
        columns.append(fits.Column("flags", f"{len(flags)}X", array=packed))
        comments.append("flags, one bit each, named in TFLAG1, TFLAG2, ...")
    table = fits.BinTableHDU.from_columns(columns, nrows=len(catalog), name="CATALOG")
    for i, comment in enumerate(comments, start=1):
        table.header[f"TCOMM{i}"] = comment.encode("ascii", "replace").decode()
    for i, name in enumerate(flags, start=1):
        table.header[f"TFLAG{i}"] = name
    hdus = fits.HDUList([fits.PrimaryHDU(), table, *structure_to_hdus(_annotations(catalog), "NOTES")])
    if catalog.footprints is not None:
        hdus.extend(structure_to_hdus(_footprints_to_dict(catalog.footprints), "FOOTPRINTS"))
    hdus.writeto(path)


def _tform(column: Column) -> str:
    kind = np.dtype(column.dtype)
    if kind.kind == "U":
        return f"{kind.itemsize // 4}A"
    letter = {"f8": "D", "f4": "E", "i8": "K", "i4": "J", "i2": "I", "u1": "B"}.get(kind.str[1:])
    if letter is None:
        raise InputError(f"a column of type {column.dtype} cannot be written to FITS")
    return f"{int(np.prod(column.shape, dtype=int))}{letter}" if column.shape else letter


def _read_fits(path: Path) -> Catalog:
    with open_fits(path) as hdus:
        number = next(
            (i for i, h in enumerate(hdus) if isinstance(h, fits.BinTableHDU | fits.TableHDU)), None
        )
        if number is None:
            raise InputError("the file holds no table")
        data, header = hdus[number].data, hdus[number].header
        if "NOTES" not in hdus:
            from astropy.table import Table

            return Catalog.from_astropy(Table(data))
        notes = structure_from_hdus(hdus, "NOTES")
        columns: dict[str, Any] = {}
        for name, dtype, _, _, shape in notes["schema"]:
            if np.dtype(dtype) != np.bool_:
                columns[name] = np.asarray(data[name]).reshape(len(data), *shape)
        bits = np.asarray(data["flags"], bool) if "flags" in data.names else np.zeros((len(data), 0), bool)
        for i in range(bits.shape[1]):
            columns[header[f"TFLAG{i + 1}"]] = np.ascontiguousarray(bits[:, i])
        footprints = None
        if "FOOTPRINTS" in hdus:
            footprints = _footprints_from_dict(structure_from_hdus(hdus, "FOOTPRINTS"))
        return _annotated(columns, len(data), notes, footprints)


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
