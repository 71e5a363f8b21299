"""What a change of a repository consists of, and how it enters the registry.

A payload is plain data by names, never by row numbers of one database: the same payload is committed, written
into the journal, done again after a crash, replayed by `rebuild`, and carried to another repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from starmill.errors import RepositoryError
from starmill.repository import schema
from starmill.repository.data_id import DIMENSIONS
from starmill.repository.registry import Registry

_CHUNK = 400  # rows named in one IN (...): SQLite's limit of bound parameters is 32766, PostgreSQL's 65535

#: The parts of a payload, in the order in which they are applied.
PARTS = (
    "types", "collections", "documents", "exposures", "regions", "quanta", "remove", "datasets",
    "chains", "validity", "tags", "untag", "sessions", "remove_collections",
)  # fmt: skip


class DatasetConflictError(RepositoryError):
    """The same data ID exists in the run with other content."""


def chunks(items: Sequence[Any], size: int = _CHUNK) -> Iterable[Sequence[Any]]:
    """Cut a sequence into pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def apply_payload(registry: Registry, connection: Connection, payload: dict[str, Any]) -> None:
    """Bring a payload into the registry inside an open transaction; applying it twice changes nothing more.

    Parameters
    ----------
    registry : Registry
        Knows the dialect.
    connection : Connection
        Of the transaction.
    payload : dict
        Parts as in `PARTS`; unknown parts are refused.
    """
    unknown = set(payload) - set(PARTS)
    if unknown:
        raise RepositoryError(f"a change holds unknown parts {sorted(unknown)}; made by a newer starmill?")
    writer = _Writer(registry, connection)
    for part in PARTS:
        if payload.get(part):
            getattr(writer, part)(payload[part])


def rename_replacements(
    registry: Registry, payload: dict[str, Any], moves: list[tuple[str, str]], deletes: list[str]
) -> None:
    """Give data sets that replace others a file name of their own, and delete the old file after the commit.

    A registered file is never overwritten: until the commit the old content is valid, after it the new one.

    Parameters
    ----------
    registry : Registry
        Knows what is there.
    payload : dict
        Its data set rows get the new paths.
    moves, deletes : list
        Changed in place.
    """
    rows = [row for row in payload.get("datasets", []) if row.get("replace")]
    table = schema.dataset.c
    for group in chunks(rows):
        by_id = {row["id"]: row for row in group}
        statement = sa.select(table.id, table.path, table.checksum, table.link).where(table.id.in_(by_id))
        for known in registry.fetch(statement):
            row = by_id[known.id]
            old = row["path"]
            if known.checksum == row["checksum"]:
                row["path"] = known.path
            else:
                folder, _, name = old.rpartition("/")
                stem, dot, suffix = name.partition(".")
                row["path"] = f"{folder}/{stem}-{row['checksum'][:10]}{dot}{suffix}"
                if known.link != "direct":
                    deletes.append(known.path)
            moves[:] = [(token, row["path"] if path == old else path) for token, path in moves]


class _Writer:
    """Inserts the parts of one payload; looks up row numbers by name once."""

    def __init__(self, registry: Registry, connection: Connection) -> None:
        self.registry = registry
        self.connection = connection
        self._collections: dict[str, int] = {}
        self._types: dict[str, int] = {}

    def types(self, rows: list[dict[str, Any]]) -> None:
        """Register dataset types; the same name with other dimensions or storage is refused."""
        self.registry.insert_missing(self.connection, schema.dataset_type, rows)
        table = schema.dataset_type.c
        for row in rows:
            known = self.connection.execute(
                sa.select(table.dimensions, table.storage).where(table.name == row["name"])
            ).one()
            if (known.dimensions, known.storage) != (row["dimensions"], row["storage"]):
                raise DatasetConflictError(
                    f"dataset type '{row['name']}' exists with {known.dimensions} {known.storage},"
                    f" not {row['dimensions']} {row['storage']}"
                )

    def collections(self, rows: list[dict[str, Any]]) -> None:
        """Make collections; the same name of another kind is refused."""
        self.registry.insert_missing(self.connection, schema.collection, rows)
        table = schema.collection.c
        for row in rows:
            kind = self.connection.execute(
                sa.select(table.kind).where(table.name == row["name"])
            ).scalar_one()
            if kind != row["kind"]:
                raise DatasetConflictError(f"collection '{row['name']}' is a {kind}, not a {row['kind']}")

    def documents(self, documents: dict[str, str]) -> None:
        """Keep texts (configurations, versions, pipelines) under their checksums."""
        rows = [{"checksum": checksum, "body": body} for checksum, body in sorted(documents.items())]
        self.registry.insert_missing(self.connection, schema.document, rows)

    def exposures(self, rows: list[dict[str, Any]]) -> None:
        """Insert exposure records; contradictory ones are refused."""
        table = schema.exposure
        names = [column.name for column in table.columns]
        complete = [
            {name: row.get(name) for name in names} | {"extra": row.get("extra", "{}")} for row in rows
        ]
        self.registry.insert_missing(self.connection, table, complete)
        for group in chunks(complete):
            keys = [(row["instrument"], row["exposure"]) for row in group]
            found = self.connection.execute(
                sa.select(table).where(sa.tuple_(table.c.instrument, table.c.exposure).in_(keys))
            )
            known = {(row.instrument, row.exposure): row for row in found}
            for row in group:
                _require_same_exposure(row, known[row["instrument"], row["exposure"]])

    def regions(self, rows: list[dict[str, Any]]) -> None:
        """Insert regions on the sky and the tiles that find them; the first region of an exposure stands."""
        plain = [{name: row[name] for name in schema.sky_region.columns.keys()} for row in rows]  # noqa: SIM118
        self.registry.insert_missing(self.connection, schema.sky_region, plain)
        tiles = [
            {"tile": tile, **{name: row[name] for name in ("instrument", "exposure", "detector")}}
            for row in rows
            for tile in row["tiles"]
        ]
        self.registry.insert_missing(self.connection, schema.sky_tile, tiles)

    def quanta(self, rows: list[dict[str, Any]]) -> None:
        """Insert or replace records of executed quanta."""
        values = [
            {
                **{name: value for name, value in row.items() if name != "run"},
                "run_id": self.collection_id(row["run"]),
            }
            for row in rows
        ]
        statement = self.registry.upsert(schema.quantum)
        keys = {"run_id", "label", "data_key"}
        changed = {name: statement.excluded[name] for name in values[0] if name not in keys}
        self.connection.execute(
            statement.on_conflict_do_update(index_elements=sorted(keys), set_=changed), values
        )

    def datasets(self, rows: list[dict[str, Any]]) -> None:
        """Insert data sets; the same one with other content is refused unless the row says ``replace``."""
        table = schema.dataset
        known: dict[str, str] = {}
        for group in chunks(rows):
            found = self.connection.execute(
                sa.select(table.c.id, table.c.checksum).where(table.c.id.in_([row["id"] for row in group]))
            )
            known.update({row.id: row.checksum for row in found})
        new = []
        for row in rows:
            if row["id"] not in known:
                new.append(self._dataset_row(row))
                known[row["id"]] = row["checksum"]
            elif known[row["id"]] != row["checksum"]:
                self._replace_or_refuse(row)
        if new:
            self.registry.insert_missing(self.connection, table, new)
            if not self.registry.is_sqlite:
                self._refuse_lost_race(new)

    def _refuse_lost_race(self, rows: list[dict[str, Any]]) -> None:
        """PostgreSQL lets two writers insert at once; the second waits, inserts nothing, and must notice."""
        table = schema.dataset.c
        for group in chunks(rows):
            wanted = {row["id"]: row["checksum"] for row in group}
            for row in self.connection.execute(
                sa.select(table.id, table.checksum).where(table.id.in_(wanted))
            ):
                if wanted.pop(row.id) != row.checksum:
                    raise DatasetConflictError(
                        f"data set {row.id} was written with other content at the same time"
                    )
            if wanted:
                raise DatasetConflictError(f"the file names of {len(wanted)} data sets are taken by others")

    def _dataset_row(self, row: dict[str, Any]) -> dict[str, Any]:
        values = {**dict.fromkeys(DIMENSIONS), **row["implied"], **row["data"]}
        return {
            **values,
            "id": row["id"],
            "type_id": self.type_id(row["type"]),
            "run_id": self.collection_id(row["run"]),
            "data_key": ",".join(f"{name}={row['data'][name]}" for name in DIMENSIONS if name in row["data"]),
            "path": row["path"],
            "size": row["size"],
            "checksum": row["checksum"],
            "link": row.get("link", "file"),
            "quantum_id": row.get("quantum_id"),
            "corners": row.get("corners"),
        }

    def _replace_or_refuse(self, row: dict[str, Any]) -> None:
        values = self._dataset_row(row)
        if not row.get("replace"):
            raise DatasetConflictError(
                f"'{row['type']}' ({values['data_key']}) exists in run '{row['run']}' with other content:"
                " runs are immutable; use another run or prune it first"
            )
        table = schema.dataset
        self.connection.execute(sa.update(table).where(table.c.id == row["id"]).values(values))

    def remove(self, identifiers: list[str]) -> None:
        """Remove data sets with their tags and validity ranges."""
        for group in chunks(identifiers):
            for table, column in (
                (schema.validity, schema.validity.c.dataset_id),
                (schema.tag, schema.tag.c.dataset_id),
                (schema.dataset, schema.dataset.c.id),
            ):
                self.connection.execute(sa.delete(table).where(column.in_(group)))

    def chains(self, rows: list[dict[str, Any]]) -> None:
        """Set the members of chains."""
        for row in rows:
            chain = self.collection_id(row["name"])
            self.connection.execute(
                sa.delete(schema.chain_member).where(schema.chain_member.c.chain_id == chain)
            )
            members = [
                {"chain_id": chain, "position": position, "member_id": self.collection_id(name)}
                for position, name in enumerate(row["members"])
            ]
            if members:
                self.connection.execute(sa.insert(schema.chain_member), members)

    def validity(self, rows: list[dict[str, Any]]) -> None:
        """Give data sets validity ranges in calibration collections."""
        for row in rows:
            values = {
                "collection_id": self.collection_id(row["collection"]),
                "dataset_id": row["dataset"],
                "begin_mjd": row["begin_mjd"],
                "end_mjd": row["end_mjd"],
            }
            self.connection.execute(
                self.registry.upsert(schema.validity)
                .values(values)
                .on_conflict_do_update(
                    index_elements=["collection_id", "dataset_id", "begin_mjd"],
                    set_={"end_mjd": row["end_mjd"]},
                )
            )

    def tags(self, rows: list[dict[str, Any]]) -> None:
        """Put data sets into tagged collections."""
        values = [
            {"collection_id": self.collection_id(r["collection"]), "dataset_id": r["dataset"]} for r in rows
        ]
        self.registry.insert_missing(self.connection, schema.tag, values)

    def untag(self, rows: list[dict[str, Any]]) -> None:
        """Take data sets out of tagged collections."""
        table = schema.tag.c
        for row in rows:
            self.connection.execute(
                sa.delete(schema.tag).where(
                    table.collection_id == self.collection_id(row["collection"]),
                    table.dataset_id == row["dataset"],
                )
            )

    def sessions(self, rows: list[dict[str, Any]]) -> None:
        """Insert or refresh the records of runner sessions."""
        for row in rows:
            row = {**row, "run_id": self.collection_id(row["run"]), "counts": json.dumps(row["counts"])}
            del row["run"]
            self.connection.execute(
                self.registry.upsert(schema.session)
                .values(row)
                .on_conflict_do_update(
                    index_elements=["id"], set_={name: row[name] for name in ("state", "updated", "counts")}
                )
            )

    def remove_collections(self, names: list[str]) -> None:
        """Remove collections, which must hold no data set any more."""
        for name in names:
            found = self.connection.execute(
                sa.select(schema.collection.c.id).where(schema.collection.c.name == name)
            ).scalar()
            if found is None:
                continue
            for table, column in (
                (schema.chain_member, schema.chain_member.c.chain_id),
                (schema.chain_member, schema.chain_member.c.member_id),
                (schema.validity, schema.validity.c.collection_id),
                (schema.tag, schema.tag.c.collection_id),
                (schema.quantum, schema.quantum.c.run_id),
                (schema.session, schema.session.c.run_id),
                (schema.collection, schema.collection.c.id),
            ):
                self.connection.execute(sa.delete(table).where(column == found))

    def collection_id(self, name: str) -> int:
        """Row number of a collection."""
        return self._number(self._collections, schema.collection, name, "collection")

    def type_id(self, name: str) -> int:
        """Row number of a dataset type."""
        return self._number(self._types, schema.dataset_type, name, "dataset type")

    def _number(self, cache: dict[str, int], table: sa.Table, name: str, what: str) -> int:
        if name not in cache:
            found = self.connection.execute(sa.select(table.c.id).where(table.c.name == name)).scalar()
            if found is None:
                raise RepositoryError(f"{what} '{name}' does not exist")
            cache[name] = found
        return cache[name]


def _require_same_exposure(new: dict[str, Any], known: Any) -> None:
    """Refuse a frame whose metadata contradict what is registered for its exposure (another detector's frame)."""
    for name in ("visit", "night", "filter", "band", "object", "image_type", "exposure_time", "mjd"):
        value, registered = new[name], getattr(known, name)
        if value is None or registered is None or value == registered:
            continue
        if isinstance(value, float) and abs(value - registered) <= 1e-9 * max(abs(value), abs(registered)):
            continue
        raise DatasetConflictError(
            f"exposure {new['instrument']} {new['exposure']} is registered with {name} = {registered!r},"
            f" but this frame says {value!r}"
        )
