"""Source catalogues: documented columns, flags, slots, parents and children, footprints.

A catalogue is a structure of arrays. It never changes its columns: whatever adds some returns a new
catalogue (:meth:`Catalog.with_columns`), so a catalogue cannot be made "too early" for what is measured later.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from astropy.units import Unit
from numpy.typing import ArrayLike, NDArray

from starmill.datamodel.footprint import Footprint, FootprintSet
from starmill.errors import InputError, nearest_name

__all__ = ["MINIMAL_COLUMNS", "PIXEL_UNIT", "Catalog", "Column", "Record", "Schema", "source_ids"]


@dataclass(frozen=True)
class Column:
    """A column: what it is called and what its numbers mean.

    Attributes
    ----------
    name : str
        snake_case; ``<quantity>``, ``<quantity>_err``, ``<quantity>_flag``, ``<quantity>_flag_<reason>``.
    dtype : str
        numpy type: ``f8``, ``f4``, ``i8``, ``i4``, ``bool``, ``U32``.
    unit : str
        FITS unit string, empty for pure numbers.
    description : str
    shape : tuple of int
        Of one entry; ``()`` for a number.
    """

    name: str
    dtype: str = "f8"
    unit: str = ""
    description: str = ""
    shape: tuple[int, ...] = ()

    @property
    def is_flag(self) -> bool:
        """True for a column of booleans."""
        return np.dtype(self.dtype) == np.bool_

    def blank(self, n: int) -> NDArray[Any]:
        """Return ``n`` entries without information: NaN, 0, False or an empty string."""
        kind = np.dtype(self.dtype)
        return np.full((n, *self.shape), np.nan if kind.kind == "f" else np.zeros((), kind), kind)

    def in_pixel_unit(self, unit: str) -> Column:
        """Return the column of a catalogue of an image in another unit.

        Columns that come from pixel values are declared for pixels in :data:`PIXEL_UNIT`; fluxes are sums of pixel
        values and have the unit of the pixels.

        Parameters
        ----------
        unit : str
            Of the pixels, such as ``MJy/sr``.
        """
        words = self.unit.split()
        powers = [re.fullmatch(PIXEL_UNIT + r"(\d*)", word) for word in words]
        if unit == PIXEL_UNIT or not any(powers):
            return self
        if self.unit == PIXEL_UNIT:
            return replace(self, unit=unit)
        others = [word for word, power in zip(words, powers, strict=True) if power is None]
        return replace(self, unit=_unit_product(unit, sum(int(p[1] or 1) for p in powers if p), others))


def _unit_product(unit: str, power: int, others: list[str]) -> str:
    """Return the FITS string of a unit to a power times other units; of unknown words as they are."""
    try:
        product = Unit(unit) ** power
        for other in others:
            product = product * Unit(other)
        return str(product.to_string("fits"))
    except ValueError:
        plain = unit if unit.isalpha() else f"({unit})"
        raised = plain + ("**" if plain != unit else "") + str(power) if power > 1 else plain
        return " ".join([raised, *others])


PIXEL_UNIT = "electron"
"""Unit of the pixels for which columns are declared; see :meth:`Column.in_pixel_unit`."""

MINIMAL_COLUMNS: tuple[Column, ...] = (
    Column("id", "i8", "", "unique number of the source"),
    Column("parent", "i8", "", "id of the source this one was deblended from; 0 for none"),
    Column("x", "f8", "pixel", "position of the source, parent frame"),
    Column("y", "f8", "pixel", "position of the source, parent frame"),
)
"""What every source catalogue has."""


class Schema(Mapping[str, Column]):
    """The columns of a catalogue, in order, with their meanings; prints as a table.

    Parameters
    ----------
    columns : iterable of Column
        Names must differ; the same column twice is one column.
    """

    def __init__(self, columns: Iterable[Column] = MINIMAL_COLUMNS) -> None:
        self._columns: dict[str, Column] = {}
        for column in columns:
            known = self._columns.setdefault(column.name, column)
            if known is not column and known != column:
                raise InputError(f"two different columns are called {column.name!r}: {known} and {column}")

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def in_pixel_unit(self, unit: str) -> Schema:
        """Return the schema of a catalogue of an image in another unit; see :meth:`Column.in_pixel_unit`."""
        return Schema(column.in_pixel_unit(unit) for column in self.values())

    def __add__(self, columns: Schema | Iterable[Column]) -> Schema:
        extra = columns.values() if isinstance(columns, Schema) else columns
        return Schema([*self.values(), *extra])

    def extract(self, pattern: str) -> dict[str, Column]:
        """Return the columns whose names match a glob such as ``psf_flux*``."""
        return {name: column for name, column in self.items() if fnmatch.fnmatchcase(name, pattern)}

    def __str__(self) -> str:
        width = max([len(name) for name in self] + [4])
        unit = max([len(c.unit) for c in self.values()] + [4])
        lines = [f"{'name':{width}}  {'type':6}  {'unit':{unit}}  meaning"]
        for c in self.values():
            kind = "flag" if c.is_flag else c.dtype + (str(list(c.shape)) if c.shape else "")
            lines.append(f"{c.name:{width}}  {kind:6}  {c.unit:{unit}}  {c.description}")
        return "\n".join(lines)

    __repr__ = __str__


class Catalog:
    """A table of sources.

    Parameters
    ----------
    schema : Schema
    columns : mapping of str to array, optional
        One array per column, all of the same length; missing ones are blank.
    n : int, optional
        Number of rows when no column tells it.
    footprints : FootprintSet, optional
        One footprint per row.
    slots : mapping of str to str, optional
        ``slots['psf_flux'] = 'psf_flux'``: which measurement is the recommended one for a purpose;
        ``catalog['slot_psf_flux_err']`` gives the column ``psf_flux_err``.
    aliases : mapping of str to str, optional
        Other names of columns.
    meta : dict, optional
        Plain values that describe the catalogue.
    """

    def __init__(
        self,
        schema: Schema | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        *,
        n: int = 0,
        footprints: FootprintSet | None = None,
        slots: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.schema = Schema() if schema is None else schema
        given = dict(columns or {})
        unknown = [name for name in given if name not in self.schema]
        if unknown:
            raise InputError(
                f"values were given for columns that the schema does not have: {', '.join(unknown)}"
            )
        lengths = {name: len(np.asarray(values)) for name, values in given.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the columns have different lengths: {lengths}")
        n = next(iter(lengths.values()), n)
        if footprints is not None and len(footprints) != n:
            raise InputError(f"{len(footprints)} footprints were given for {n} sources")
        self._length = n
        self._columns: dict[str, NDArray[Any]] = {}
        for name, column in self.schema.items():
            values = np.asarray(given[name], column.dtype) if name in given else column.blank(n)
            if values.shape[1:] != column.shape:
                raise InputError(
                    f"column {name!r} has entries of shape {values.shape[1:]}, not {column.shape}"
                )
            self._columns[name] = values
        self.footprints = footprints
        self.slots = dict(slots or {})
        self.aliases = dict(aliases or {})
        self.meta = dict(meta or {})

    def __len__(self) -> int:
        return self._length

    @property
    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.schema)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._resolve(name) in self._columns

    def _resolve(self, name: str) -> str:
        if name in self._columns:
            return name
        name = self.aliases.get(name, name)  # another name may be that of a slot
        if name.startswith("slot_"):
            rest = name.removeprefix("slot_")
            for slot in sorted(self.slots, key=len, reverse=True):
                if rest == slot or rest.startswith(slot + "_"):
                    return (self.slots[slot] + rest.removeprefix(slot)).removeprefix("_")
        return name

    @overload
    def __getitem__(self, key: str) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Record: ...
    @overload
    def __getitem__(self, key: slice | NDArray[Any] | Sequence[int]) -> Catalog: ...

    def __getitem__(self, key: Any) -> Any:
        """Return a column (a view), a record, or the catalogue of some rows.

        Raises
        ------
        InputError
            When no column, alias or slot has this name.
        """
        if isinstance(key, str):
            name = self._resolve(key)
            if name not in self._columns:
                near = nearest_name(key, [*self._columns, *self.aliases])
                hint = f" (did you mean {near!r}?)" if near else ""
                raise InputError(
                    f"the catalogue has no column {key!r}{hint}."
                    " A column exists after the task that measures it has run: use the catalogue it returned"
                )
            return self._columns[name]
        if isinstance(key, int | np.integer):
            if not -self._length <= key < self._length:
                raise IndexError(f"source {key} of {self._length}")
            return Record(self, int(key) % self._length)
        return self._rows(np.arange(self._length)[key])

    def __iter__(self) -> Iterator[Record]:
        return (Record(self, i) for i in range(self._length))

    def _rows(self, indices: NDArray[np.int64]) -> Catalog:
        return Catalog(
            self.schema,
            {name: values[indices] for name, values in self._columns.items()},
            n=len(indices),
            footprints=None if self.footprints is None else self.footprints.take(indices),
            slots=self.slots,
            aliases=self.aliases,
            meta=self.meta,
        )

    def with_columns(
        self,
        columns: Mapping[Column, ArrayLike],
        *,
        slots: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> Catalog:
        """Return a catalogue with more columns, or other values in existing ones.

        Parameters
        ----------
        columns : mapping of Column to array
            A column of the same name is replaced.
        slots, aliases : mapping, optional
            Added to those there are.
        """
        replaced = {column.name: column for column in columns}
        schema = Schema([*[replaced.get(name, c) for name, c in self.schema.items()], *columns])
        values: dict[str, Any] = dict(self._columns)
        values.update({column.name: array for column, array in columns.items()})
        return Catalog(
            schema,
            values,
            n=self._length,
            footprints=self.footprints,
            slots={**self.slots, **(slots or {})},
            aliases={**self.aliases, **(aliases or {})},
            meta=self.meta,
        )

    def with_footprints(self, footprints: FootprintSet | None) -> Catalog:
        """Return the catalogue with other footprints."""
        return Catalog(
            self.schema,
            self._columns,
            n=self._length,
            footprints=footprints,
            slots=self.slots,
            aliases=self.aliases,
            meta=self.meta,
        )

    def with_slots(self, **slots: str) -> Catalog:
        """Return the catalogue with slots pointed at other measurements."""
        return self.with_columns({}, slots=slots)

    def without_columns(self, *names: str) -> Catalog:
        """Return the catalogue without some of its columns."""
        return Catalog(
            Schema([c for name, c in self.schema.items() if name not in names]),
            {name: values for name, values in self._columns.items() if name not in names},
            n=self._length,
            footprints=self.footprints,
            slots=self.slots,
            aliases=self.aliases,
            meta=self.meta,
        )

    @classmethod
    def concatenate(cls, catalogs: Sequence[Catalog]) -> Catalog:
        """Join catalogues; columns that one of them does not have are blank there."""
        if not catalogs:
            return cls()
        schema = catalogs[0].schema
        for other in catalogs[1:]:
            schema = schema + other.schema
        columns = {
            name: np.concatenate(
                [c._columns[name] if name in c._columns else column.blank(len(c)) for c in catalogs]
            )
            for name, column in schema.items()
        }
        sets = [c.footprints for c in catalogs]
        joined = (
            FootprintSet.concatenate([s for s in sets if s is not None])
            if all(s is not None for s in sets)
            else None
        )
        return cls(
            schema,
            columns,
            n=sum(map(len, catalogs)),
            footprints=joined,
            slots={k: v for c in catalogs for k, v in c.slots.items()},
            aliases={k: v for c in catalogs for k, v in c.aliases.items()},
            meta={k: v for c in catalogs for k, v in c.meta.items()},
        )

    def extract(self, pattern: str) -> dict[str, NDArray[Any]]:
        """Return the columns whose names, slots or other names match a glob such as ``psf_flux*``."""
        slots = [
            f"slot_{slot}{name.removeprefix(prefix)}"
            for slot, prefix in self.slots.items()
            for name in self._columns
            if name == prefix or name.startswith(prefix + "_")
        ]
        names = [*self._columns, *slots, *self.aliases]
        return {name: self[name] for name in names if name in self and fnmatch.fnmatchcase(name, pattern)}

    def find(self, source_id: int) -> Record:
        """Return the source of an id.

        Raises
        ------
        InputError
            When there is none.
        """
        place = np.flatnonzero(self["id"] == source_id)
        if not len(place):
            raise InputError(f"no source has the id {source_id}")
        return Record(self, int(place[0]))

    def children_of(self, parent_id: int) -> Catalog:
        """Return the sources that were deblended from a parent."""
        return self[self["parent"] == parent_id]

    def sorted(self, name: str, *, descending: bool = False) -> Catalog:
        """Return the catalogue sorted by a column; NaN comes last, equal values keep their order."""
        values = self[name]
        if descending and values.dtype.kind == "f":
            values = -values
        elif descending:  # numbers of the distinct values, from the largest: flags and texts have no negative
            values = -np.unique(values, return_inverse=True)[1]
        return self._rows(np.argsort(values, kind="stable"))

    def copy(self) -> Catalog:
        """Return a catalogue whose columns are contiguous and shared with nobody."""
        return self._rows(np.arange(self._length))

    def to_astropy(self) -> Any:
        """Return an :class:`astropy.table.Table` with units and descriptions; footprints stay behind."""
        from astropy.table import Column as AstropyColumn
        from astropy.table import Table

        table = Table(meta=dict(self.meta))
        for name, column in self.schema.items():
            table[name] = AstropyColumn(
                self._columns[name], unit=column.unit or None, description=column.description
            )
        return table

    @classmethod
    def from_astropy(cls, table: Any) -> Catalog:
        """Make a catalogue from an :class:`astropy.table.Table`; masked entries become blank."""
        columns, values = [], {}
        for name in table.colnames:
            data = table[name]
            array = np.asarray(getattr(data, "value", data))
            dtype = array.dtype.newbyteorder("=")
            if dtype.kind == "O":
                array = array.astype(str)
                dtype = array.dtype
            array = array.astype(dtype)
            column = Column(
                name,
                dtype.str.lstrip("<>|=") if dtype.kind != "b" else "bool",
                str(data.unit or ""),
                str(data.info.description or ""),
                array.shape[1:],
            )
            if getattr(data, "mask", None) is not None and np.any(data.mask):
                array = np.where(data.mask, column.blank(len(array)), array)
            columns.append(column)
            values[name] = array
        return cls(Schema(columns), values, n=len(table), meta=dict(table.meta))

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame; needs pandas. Columns with several values per source are left out."""
        import pandas as pd

        return pd.DataFrame({name: v for name, v in self._columns.items() if v.ndim == 1})

    def __repr__(self) -> str:
        return f"Catalog({self._length} sources, {len(self.schema)} columns)"

    def _repr_html_(self) -> str:
        shown = [
            name for name in self.names if not self.schema[name].is_flag and not self.schema[name].shape
        ][:12]
        head = "".join(f'<th title="{self.schema[n].description}">{n}</th>' for n in shown)
        units = "".join(f"<td><i>{self.schema[n].unit}</i></td>" for n in shown)
        rows = "".join(
            "<tr>" + "".join(f"<td>{self._columns[n][i]:.6g}</td>" if self._columns[n].dtype.kind in "fi"
                             else f"<td>{self._columns[n][i]}</td>" for n in shown) + "</tr>"
            for i in range(min(8, self._length))
        )  # fmt: skip
        return (
            f"<b>{self._length} sources, {len(self.schema)} columns</b>"
            f"<table><tr>{head}</tr><tr>{units}</tr>{rows}</table>"
        )


class Record:
    """One source of a catalogue: a view; assigning changes the catalogue.

    Parameters
    ----------
    catalog : Catalog
    index : int
    """

    __slots__ = ("catalog", "index")

    def __init__(self, catalog: Catalog, index: int) -> None:
        self.catalog = catalog
        self.index = index

    def __getitem__(self, name: str) -> Any:
        return self.catalog[name][self.index]

    def __setitem__(self, name: str, value: Any) -> None:
        self.catalog[name][self.index] = value

    @property
    def footprint(self) -> Footprint | None:
        """The footprint of the source, when the catalogue has footprints."""
        return None if self.catalog.footprints is None else self.catalog.footprints[self.index]

    def extract(self, pattern: str) -> dict[str, Any]:
        """Return the values of the columns that match a glob."""
        return {name: values[self.index] for name, values in self.catalog.extract(pattern).items()}

    def __repr__(self) -> str:
        return f"Record(id {self['id']}, x {self['x']:.2f}, y {self['y']:.2f})"


def source_ids(n: int, exposure_id: int = 0, start: int = 1) -> NDArray[np.int64]:
    """Return ids that are unique among all sources of all exposures.

    Parameters
    ----------
    n : int
        Number of ids.
    exposure_id : int
        Takes the upper bits; below 2**31.
    start : int
        First running number; the numbers stay below 2**32.

    Returns
    -------
    ids : (n,) int64 array
        ``exposure_id * 2**32 + start, ...``; never 0, which means *no parent*.
    """
    if not 0 <= exposure_id < 2**31:
        raise InputError(f"an exposure id must be between 0 and 2**31 - 1, not {exposure_id}")
    if start < 1 or start + n > 2**32:
        raise InputError(f"source numbers must lie between 1 and 2**32 - 1, not {start} to {start + n}")
    return np.int64(exposure_id) * np.int64(2**32) + np.arange(start, start + n, dtype=np.int64)
