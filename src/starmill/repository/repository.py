"""A data repository: put and get products by dataset type and data ID instead of by file name."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from starmill.errors import InputError, RepositoryError, nearest_name
from starmill.io.checksums import file_checksum
from starmill.repository import crash_points, schema
from starmill.repository.calibrations import CalibrationTable, load_calibrations
from starmill.repository.collections import (
    CALIBRATION,
    RUN,
    CollectionInfo,
    collection_row,
    find_collection,
    flatten,
    list_collections,
)
from starmill.repository.configuration import RepositoryConfig, clean_registry_url, load_config
from starmill.repository.curation import Curation
from starmill.repository.data_id import DataId, Value, validate_value
from starmill.repository.dataset_ref import DataRef, StoredDataset
from starmill.repository.dataset_types import STANDARD_TYPES, DatasetType
from starmill.repository.formatters import formatter, read_dataset
from starmill.repository.journal import Journal, JournalEntry
from starmill.repository.layout import (
    CONFIG_NAME,
    DEFAULT_TEMPLATE,
    PRIVATE_FOLDER,
    dataset_identifier,
    dataset_path,
    validate_collection_name,
    validate_template,
)
from starmill.repository.query import SkySearch, exposure_rows, search
from starmill.repository.recovery import recover, undo_entry
from starmill.repository.registry import Registry, can_write
from starmill.repository.sky_overlap import corners_of
from starmill.repository.store import open_store
from starmill.repository.transaction import apply_payload, rename_replacements

_IMPLIED = ("night", "visit", "filter", "band")


class Repository(Curation):
    """A repository of data sets.

    Parameters
    ----------
    root : path
        Folder made by `Repository.create` (``starmill repo init``), or the URL of an object store.
    inputs : str or sequence of str, optional
        Collections to search, in order. By default everything, newest run first.
    output : str, optional
        Run that `put` writes to; it is searched first, and made when it does not exist.
    writable : bool
        False never changes anything, not even to finish what a killed process left.
    defaults : mapping, optional
        Dimension values to assume where a data ID has none, as ``{"instrument": "lowell42"}``.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        inputs: str | Sequence[str] | None = None,
        output: str | None = None,
        writable: bool = True,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.store = open_store(root)
        self.root: Path = self.store.root
        self.config = load_config(self.store)
        self.url = str(root)
        self.writable = writable
        self.defaults = {name: validate_value(name, value) for name, value in dict(defaults or {}).items()}
        self.registry = Registry(self.config.registry_url(self.root), read_only=not writable)
        self.registry.check_version()
        self.journal = Journal(self.root)
        self._types: dict[str, DatasetType] = {}
        self.output = None if output is None else validate_collection_name(output)
        self.inputs = [inputs] if isinstance(inputs, str) else list(inputs) if inputs is not None else None
        if writable and can_write(self.root / PRIVATE_FOLDER):
            recover(self)
        if self.inputs is not None:
            known = self.collections()
            for name in self.inputs:
                find_collection(known, name)

    @classmethod
    def create(
        cls, root: str | Path, *, registry: str | None = None, layout: str = DEFAULT_TEMPLATE, **more: Any
    ) -> Repository:
        """Make an empty repository.

        Parameters
        ----------
        root : path
            Folder; it may exist when it is empty. Or the URL of an object store.
        registry : str, optional
            URL of a database, ``postgresql+psycopg://user@host/name``; SQLite in the folder by default.
        layout : str
            Path template.
        **more
            Passed to `Repository`.

        Returns
        -------
        repository : Repository
            Open, with the standard dataset types.
        """
        config = RepositoryConfig(clean_registry_url(registry), validate_template(layout))
        store = open_store(root)
        store.initialise(CONFIG_NAME)
        database = Registry(
            registry if registry and config.registry != "sqlite" else config.registry_url(store.root)
        )
        try:
            database.create()
        finally:
            database.close()
        crash_points.reach("create: before the configuration is written")
        store.write_text(CONFIG_NAME, config.to_text())
        repository = cls(root, **more)
        for kind in STANDARD_TYPES.values():
            repository._types.pop(kind.name, None)
        repository.register_dataset_types(STANDARD_TYPES.values())
        return repository

    # ---- changes -------------------------------------------------------------------------------------------

    def commit(
        self,
        payload: dict[str, Any],
        moves: Iterable[tuple[str, str]] = (),
        deletes: Iterable[str] = (),
    ) -> None:
        """Make one change: rows of the registry, staged files to their final names, files to delete.

        Parameters
        ----------
        payload : dict
            As in `starmill.repository.transaction`.
        moves : iterable of (token, path)
            Delivered files and their final names.
        deletes : iterable of str
            Paths to delete once the rows are gone.
        """
        if not self.writable:
            raise RepositoryError(f"repository {self.url} is open for reading only")
        moved, deleted = list(moves), list(deletes)
        rename_replacements(self.registry, payload, moved, deleted)
        entry = JournalEntry(time.time(), payload, moved, deleted)
        position = self.journal.append(entry)
        try:
            self.registry.change(lambda connection: self.apply_entry(connection, entry))
        except BaseException as error:
            undo_entry(self, entry)
            self.journal.take_back(position)
            if isinstance(error, OSError) and not isinstance(error, RepositoryError):
                raise RepositoryError(f"cannot write to {self.url}: {error.strerror or error}") from error
            raise
        for path in entry.deletes:
            self.store.remove(path)

    def apply_entry(self, connection: sa.Connection, entry: JournalEntry) -> None:
        """Apply the rows and the renames of a change inside a transaction."""
        apply_payload(self.registry, connection, entry.payload)
        self.store.publish(entry.moves)

    def register_dataset_types(self, kinds: Iterable[DatasetType]) -> None:
        """Make dataset types known; the same name with other dimensions or storage is refused."""
        rows = []
        known = self.dataset_types()
        for kind in kinds:
            formatter(kind.storage)
            if known.get(kind.name) != kind:
                row = {"name": kind.name, "dimensions": kind.dimensions_json, "storage": kind.storage}
                rows.append(row | {"description": kind.description})
        if rows:
            self.commit({"types": rows})
            self._types.clear()

    # ---- products ------------------------------------------------------------------------------------------

    def put(
        self,
        value: Any,
        dataset_type: str | DatasetType,
        data_id: Mapping[str, Any] | None = None,
        *,
        run: str | None = None,
        replace: bool = False,
        **dimensions: Any,
    ) -> StoredDataset:
        """Write a product: a complete file and a registry row, or neither.

        Parameters
        ----------
        value : object
            What the dataset type's storage takes.
        dataset_type : str or DatasetType
            Kind of product; a new `DatasetType` is registered.
        data_id : mapping, optional
            Dimension values, also as keywords.
        run : str, optional
            Run to write to; the repository's `output` by default.
        replace : bool
            Allow other content under an existing data ID.
        **dimensions
            Dimension values.

        Returns
        -------
        ref : StoredDataset
            What was written.
        """
        if isinstance(dataset_type, DatasetType):
            self.register_dataset_types([dataset_type])
        kind = self.dataset_type(dataset_type if isinstance(dataset_type, str) else dataset_type.name)
        run = self._require_run(run)
        known = self.known_values(kind, {**dict(data_id or {}), **dimensions})
        chosen = formatter(kind.storage)
        staged = self.new_staged_path(chosen.extension)
        try:
            chosen.write(value, staged, None)
            checksum, size = file_checksum(staged), staged.stat().st_size
            row = self.dataset_row(kind, run, known, checksum, size, chosen.extension)
            token = self.store.deliver(staged, self.journal.writer)
            row |= {"replace": replace, "corners": None if "exposure" in known else corners_of(value)}
            self.commit(
                {"collections": [collection_row(run, RUN)], "datasets": [row]}, [(token, row["path"])]
            )
        finally:
            staged.unlink(missing_ok=True)
        return self.ref_from_row(kind, row)

    def new_staged_path(self, extension: str) -> Path:
        """Return a fresh local path for a file that is being written."""
        if not self.writable:
            raise RepositoryError(f"repository {self.url} is open for reading only")
        self.journal.open()
        return self.store.staging_folder(self.journal.writer) / f"{uuid.uuid4().hex}{extension}"

    def dataset_row(
        self,
        kind: DatasetType,
        run: str,
        known: Mapping[str, Value],
        checksum: str,
        size: int,
        extension: str,
    ) -> dict[str, Any]:
        """Return the payload row of a data set of this repository."""
        data_id = DataId.trusted(tuple((name, known[name]) for name in kind.dimensions))
        implied = {name: value for name, value in known.items() if name not in data_id}
        return {
            "id": dataset_identifier(run, kind.name, data_id),
            "type": kind.name,
            "run": run,
            "data": data_id.to_dict(),
            "implied": implied,
            "path": dataset_path(self.config.layout, run, kind.name, data_id, known, extension),
            "size": size,
            "checksum": checksum,
        }

    def ref_from_row(self, kind: DatasetType, row: Mapping[str, Any]) -> StoredDataset:
        """Return the reference of a payload row."""
        return StoredDataset(
            row["id"], kind.name, kind.storage, row["run"], DataId(row["data"]), row["path"], row["checksum"],
            row["size"], row.get("link", "file"), tuple(row["implied"].items()), row.get("quantum_id"),
            row.get("corners"),
        )  # fmt: skip

    def get(
        self,
        dataset_type: str,
        data_id: Mapping[str, Any] | None = None,
        *,
        collections: str | Sequence[str] | None = None,
        component: str | None = None,
        box: Any = None,
        **dimensions: Any,
    ) -> Any:
        """Read a product, a component of it (``"characterized.wcs"``), or a cutout.

        Parameters
        ----------
        dataset_type : str
            Kind of product, with a component after a dot if wanted.
        data_id : mapping, optional
            Dimension values, also as keywords; as many as make it unique.
        collections : str or sequence of str, optional
            Where to search instead of the repository's own path.
        component : str, optional
            Part to read.
        box : Box, optional
            Cutout, pixels of the parent frame.
        **dimensions
            Dimension values.

        Returns
        -------
        value : object
            As the storage's reader gives it.
        """
        dataset_type, _, part = dataset_type.partition(".")
        ref = self.find(dataset_type, {**dict(data_id or {}), **dimensions}, collections=collections)
        return self.read(ref, component=component or part or None, box=box)

    def read(self, ref: StoredDataset, *, component: str | None = None, box: Any = None) -> Any:
        """Read a registered data set."""
        with self.local_file(ref) as path:
            return read_dataset(ref.storage, path, component, box, data_id=ref.data_id)

    @contextlib.contextmanager
    def local_file(self, ref: StoredDataset) -> Iterator[Path]:
        """Give a local path of a data set's file, for reading only."""
        if ref.link == "direct":
            path = Path(ref.path)
            if not path.is_file():
                raise RepositoryError(f"'{ref.dataset_type}' ({ref.data_id.key}): its file {path} is missing")
            yield path
            return
        if not self.store.exists(ref.path):
            raise RepositoryError(
                f"'{ref.dataset_type}' ({ref.data_id.key}): its file {ref.path} is missing; run 'starmill repo verify'"
            )
        with self.store.reading(ref.path, linked=ref.link == "symlink") as path:
            yield path

    def exists(self, dataset_type: str, data_id: Mapping[str, Any] | None = None, **dimensions: Any) -> bool:
        """Tell whether a data set is registered on the search path and its file is there."""
        found = self._lookup(self.dataset_type(dataset_type), {**dict(data_id or {}), **dimensions}, None)
        return len(found) == 1 and self.has_file(found[0])

    def has_file(self, ref: StoredDataset) -> bool:
        """Tell whether the file of a data set is there."""
        return Path(ref.path).is_file() if ref.link == "direct" else self.store.exists(ref.path)

    def data_ref(
        self, dataset_type: str, data_id: Mapping[str, Any] | None = None, **dimensions: Any
    ) -> DataRef:
        """Return a reference that reads and writes products of one data ID.

        An existing data set completes a partial data ID.
        """
        values = {**dict(data_id or {}), **dimensions}
        kind = self.dataset_type(dataset_type)
        found = self._lookup(kind, values, None)
        if len(found) == 1:
            return DataRef(self, dataset_type, DataId({**found[0].known, **kind.data_id(found[0].data_id)}))
        return DataRef(self, dataset_type, DataId(self.known_values(kind, values)))

    # ---- searching -----------------------------------------------------------------------------------------

    def find(
        self,
        dataset_type: str,
        data_id: Mapping[str, Any] | None = None,
        *,
        collections: str | Sequence[str] | None = None,
        **dimensions: Any,
    ) -> StoredDataset:
        """Return the one data set that has these values, or raise `RepositoryError` that says why not."""
        values = {**dict(data_id or {}), **dimensions}
        kind = self.dataset_type(dataset_type)
        found = self._lookup(kind, values, collections)
        if len(found) == 1:
            return found[0]
        shown = ", ".join(f"{name}={value}" for name, value in values.items()) or "no values"
        if found:
            examples = "; ".join(ref.data_id.key for ref in found[:3])
            raise RepositoryError(f"{len(found)} data sets '{dataset_type}' have {shown}: {examples} ...")
        path = ", ".join(info.name for info in self.search_path(collections)) or "none"
        raise RepositoryError(f"no data set '{dataset_type}' has {shown} in the collections {path}")

    def _lookup(
        self, kind: DatasetType, values: Mapping[str, Any], collections: str | Sequence[str] | None
    ) -> list[StoredDataset]:
        wanted = dict(DataId({**self.defaults, **values}))
        path = self.search_path(collections)
        master = self._valid_calibration(kind, wanted, path)
        if master is not None:
            return [master]
        given = {name: value for name, value in wanted.items() if name in values or name in kind.dimensions}
        # what a data ID says beyond the dimensions of the type restricts only by what is known of the rows
        given = {name: value for name, value in given.items() if name in kind.dimensions or name in _IMPLIED}
        return search(self.registry, kind, path, values=given)

    def _valid_calibration(
        self, kind: DatasetType, wanted: Mapping[str, Value], path: Sequence[CollectionInfo]
    ) -> StoredDataset | None:
        """Return the master frame for an exposure when `wanted` names one and the type has no exposures."""
        names_exposure = "exposure" in wanted or "visit" in wanted
        if (
            not names_exposure
            or "exposure" in kind.dimensions
            or not any(i.kind == CALIBRATION for i in path)
        ):
            return None
        record = self.exposure_record(wanted)
        known = {**{name: record[name] for name in _IMPLIED}, "instrument": record["instrument"], **wanted}
        return load_calibrations(self.registry, kind, path).best(known, record["mjd"])

    def query(
        self,
        dataset_type: str,
        where: str | None = None,
        *,
        collections: str | Sequence[str] | None = None,
        at: tuple[float, float] | None = None,
        radius: float = 0.0,
        ra_range: tuple[float, float] | None = None,
        dec_range: tuple[float, float] | None = None,
        limit: int | None = None,
        **values: Any,
    ) -> list[StoredDataset]:
        """Return all data sets of a type that fulfil an expression, have some values, and lie at a place.

        Parameters
        ----------
        dataset_type : str
            Kind of product.
        where : str, optional
            Data query, as ``night = 2019-03-26 and band in (g, r)``.
        collections : str or sequence of str, optional
            Where to search instead of the repository's own path.
        at : (ra, dec), optional
            Position on the sky, degree.
        radius : float
            Around it, degree.
        ra_range, dec_range : (low, high), optional
            Box on the sky, degree.
        limit : int, optional
            Largest number of rows.
        **values
            Dimension values that must match.

        Returns
        -------
        found : list of StoredDataset
            Ordered by data ID.
        """
        sky = SkySearch(at, radius, ra_range, dec_range) if at is not None or ra_range or dec_range else None
        return search(
            self.registry,
            self.dataset_type(dataset_type),
            self.search_path(collections),
            where=where,
            values=DataId(values),
            sky=sky,
            limit=limit,
        )

    def calibrations(
        self, dataset_type: str, collections: str | Sequence[str] | None = None
    ) -> CalibrationTable:
        """Return everything certified of one type on the search path, for many look-ups."""
        return load_calibrations(
            self.registry, self.dataset_type(dataset_type), self.search_path(collections)
        )

    def search_path(self, collections: str | Sequence[str] | None = None) -> list[CollectionInfo]:
        """Return the collections that a search passes through, in order."""
        known = self.collections()
        if collections is not None:
            return flatten(known, [collections] if isinstance(collections, str) else collections)
        first = [self.output] if self.output in known else []
        if self.inputs is not None:
            return flatten(known, [*first, *self.inputs])
        newest_first = sorted(known.values(), key=lambda info: (info.kind != RUN, -info.number))
        return flatten(
            known, [*first, *(info.name for info in newest_first if info.kind in {RUN, CALIBRATION})]
        )

    def collections(self) -> dict[str, CollectionInfo]:
        """Return all collections by name."""
        return list_collections(self.registry)

    def dataset_types(self) -> dict[str, DatasetType]:
        """Return all dataset types by name."""
        if not self._types:
            from json import loads

            for row in self.registry.fetch(sa.select(schema.dataset_type)):
                self._types[row.name] = DatasetType(
                    row.name, tuple(loads(row.dimensions)), row.storage, row.description
                )
        return self._types

    def dataset_type(self, name: str) -> DatasetType:
        """Return a dataset type by name or raise `InputError` with the nearest name."""
        if name not in self.dataset_types():
            self._types.clear()  # another process may have registered it
        known = self.dataset_types()
        if name not in known:
            near = nearest_name(str(name), known)
            raise InputError(
                f"unknown dataset type {str(name)[:80]!r}" + (f"; did you mean '{near}'?" if near else "")
            )
        return known[name]

    def exposure_record(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metadata of one exposure, found by exposure or visit, with or without instrument."""
        table = schema.exposure
        data_id = DataId({**self.defaults, **values})
        names = [name for name in ("instrument", "exposure", "visit") if name in data_id]
        rows = self.registry.fetch(
            sa.select(table).where(*(table.c[name] == data_id[name] for name in names))
        )
        if len(rows) != 1:
            raise RepositoryError(f"{len(rows)} exposures are registered for ({data_id.key})")
        return dict(rows[0]._mapping)

    def known_values(self, kind: DatasetType, values: Mapping[str, Any]) -> dict[str, Value]:
        """Return the complete data ID of a type with what follows from the exposure; missing values are named."""
        known = dict(DataId({**self.defaults, **values}))
        if "instrument" in kind.dimensions and "instrument" not in known:
            known.update(self._only_instrument())
        if "exposure" in kind.dimensions and "exposure" not in known and "visit" in known:
            known["exposure"] = self.exposure_record(known)["exposure"]
        if "exposure" in known and "instrument" in known:
            key = (str(known["instrument"]), int(known["exposure"]))
            record = exposure_rows(self.registry, [key]).get(key, {})
            for name in _IMPLIED:
                value = record.get(name)
                if value is not None and known.setdefault(name, value) != value:
                    raise InputError(f"{name}={known[name]}, but exposure {key[1]} has {name}={value}")
        kind.data_id(DataId(known))
        kept = {*kind.dimensions, *(_IMPLIED if "exposure" in kind.dimensions else ())}
        return {name: value for name, value in DataId(known).items() if name in kept}

    def _only_instrument(self) -> dict[str, str]:
        rows = self.registry.fetch(sa.select(schema.exposure.c.instrument).distinct().limit(2))
        return {"instrument": rows[0].instrument} if len(rows) == 1 else {}

    def _require_run(self, run: str | None) -> str:
        chosen = self.output if run is None else run
        if chosen is None:
            raise InputError("no run to write to: give run=... or open the repository with output=...")
        return validate_collection_name(chosen)

    # ---- life ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the work: clear the staging folder, close journal and registry."""
        if self.writable:
            self.store.clear_staging(self.journal.writer)
            self.journal.close()
            self.store.keep_journal(self.journal.writer)
        self.registry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Repository({self.url!r}, registry={self.registry.display_url!r})"

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(info.name)}</td><td>{info.kind}</td><td>{escape(', '.join(info.members))}</td></tr>"
            for info in self.collections().values()
        )
        head = "<tr><th>collection</th><th>kind</th><th>members</th></tr>"
        return f"<b>Repository {escape(self.url)}</b><table>{head}{rows}</table>"
