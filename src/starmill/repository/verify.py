"""Checks that registry and files agree, and repairs what can be repaired."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from starmill.errors import RepositoryError
from starmill.io.checksums import file_checksum
from starmill.repository import schema
from starmill.repository.journal import all_entries
from starmill.repository.recovery import recover
from starmill.repository.registry import Registry
from starmill.repository.transaction import DatasetConflictError, apply_payload, chunks

if TYPE_CHECKING:
    from starmill.repository.repository import Repository


@dataclass
class VerifyReport:
    """What a check found; paths relative to the root.

    Attributes
    ----------
    checked : int
        Number of registered data sets.
    missing : list of str
        Registered, but the file is not there.
    damaged : list of str
        The file has another size or checksum than registered.
    orphaned : list of str
        Files below ``runs/`` that are not registered.
    recovered : int
        Killed writers whose last change was finished or undone.
    repaired : list of str
        What ``--repair`` did.
    """

    checked: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    recovered: int = 0
    repaired: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missing or self.damaged or self.orphaned)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "is_clean": self.is_clean}


def verify(repository: Repository, *, checksums: bool = True, repair: bool = False) -> VerifyReport:
    """Compare registry and files.

    Parameters
    ----------
    repository : Repository
        Open for writing when `repair` is wanted.
    checksums : bool
        Read every file; otherwise compare only sizes.
    repair : bool
        Register orphaned files that the journal describes, and remove the rows of missing and damaged ones, so
        that a run makes them again. No file is deleted: damaged ones, and orphaned ones that nothing describes,
        are set aside in ``.starmill/set_aside/``.

    Returns
    -------
    report : VerifyReport
        As found before the repair.
    """
    report = VerifyReport()
    if repository.writable:
        report.recovered = recover(repository)
    present = dict(repository.store.files())
    bad: list[str] = []
    for row in _registered(repository):
        report.checked += 1
        size = _size(row, present)
        present.pop(row.path, None)
        if size is None:
            report.missing.append(row.path)
        elif size != row.size or (checksums and _checksum(repository, row) != row.checksum):
            report.damaged.append(row.path)
        else:
            continue
        bad.append(row.id)
    report.orphaned = sorted(present)
    if repair:
        _repair(repository, report, bad)
    return report


def _registered(repository: Repository) -> Iterator[Any]:
    table = schema.dataset.c
    last = ""
    while True:
        rows = repository.registry.fetch(
            sa.select(table.id, table.path, table.size, table.checksum, table.link)
            .where(table.id > last)
            .order_by(table.id)
            .limit(10_000)
        )
        yield from rows
        if len(rows) < 10_000:
            return
        last = rows[-1].id


def _size(row: Any, present: dict[str, int]) -> int | None:
    if row.link == "direct":
        path = Path(row.path)
        return path.stat().st_size if path.is_file() else None
    size = present.get(row.path)
    return None if size is None or size < 0 else size


def _checksum(repository: Repository, row: Any) -> str:
    return file_checksum(row.path) if row.link == "direct" else repository.store.checksum(row.path)


def _repair(repository: Repository, report: VerifyReport, bad: list[str]) -> None:
    in_place = {row.path for row in _registered(repository) if row.link == "direct"}
    if bad:
        repository.commit({"remove": bad})
        report.repaired += [
            f"removed from the registry: {path}" for path in [*report.missing, *report.damaged]
        ]
    strangers = sorted({*report.orphaned, *report.damaged} - in_place)
    if not strangers:
        return
    described = {}
    repository.store.fetch_journals()
    for entry in all_entries(repository.root):
        for row in entry.payload.get("datasets", []):
            described[row["path"]] = row
    for path in strangers:
        row = described.get(path)
        if row is not None and row["checksum"] == repository.store.checksum(path) and _adopt(repository, row):
            report.repaired.append(f"registered again: {path}")
        else:
            report.repaired.append(f"set aside: {path}, now {repository.store.set_aside(path)}")


def _adopt(repository: Repository, row: dict[str, Any]) -> bool:
    try:
        repository.commit({"datasets": [row]})
    except (DatasetConflictError, RepositoryError):
        return False
    return True


def rebuild(repository_root: str | Path) -> VerifyReport:
    """Make the registry anew from the journal and the files.

    Parameters
    ----------
    repository_root : path
        Folder whose registry is lost or damaged. An SQLite file that is there is kept under another name; a
        database on a server must be empty.

    Returns
    -------
    report : VerifyReport
        State of the rebuilt repository.
    """
    from starmill.repository.configuration import load_config
    from starmill.repository.layout import SQLITE_NAME
    from starmill.repository.repository import Repository
    from starmill.repository.store import open_store

    store = open_store(repository_root)
    config = load_config(store)
    url = config.registry_url(store.root)
    if config.registry == "sqlite":
        _set_aside(store.root / SQLITE_NAME)
    registry = Registry(url)
    registry.create()
    store.fetch_journals()
    entries = all_entries(store.root)
    for entry in entries:
        registry.change(partial(_replay, registry, entry.payload))
    registry.close()
    with Repository(repository_root) as repository:
        report = verify(repository, checksums=True)
        gone = [row.id for row in _registered(repository) if row.path in {*report.missing, *report.damaged}]
        for part in chunks(gone):
            repository.commit({"remove": list(part)})
        if gone:
            report.repaired.append(f"{len(gone)} data sets have no valid file any more and were left out")
        report.missing, report.damaged = [], []
    return report


def _replay(registry: Registry, payload: dict[str, Any], connection: sa.Connection) -> None:
    """Apply a payload of the past: what it refers to may have gone since, and later content wins."""
    table = schema.dataset.c
    plain = {**payload, "datasets": [{**row, "replace": True} for row in payload.get("datasets", [])]}
    wanted = [row["dataset"] for part in ("validity", "tags") for row in payload.get(part, [])]
    known = {
        row.id
        for part in chunks(wanted)
        for row in connection.execute(sa.select(table.id).where(table.id.in_(part)))
    } | {row["id"] for row in payload.get("datasets", [])}
    for part in ("validity", "tags"):
        plain[part] = [row for row in payload.get(part, []) if row["dataset"] in known]
    apply_payload(registry, connection, plain)


def _set_aside(path: Path) -> None:
    """Keep a damaged database file, with its companions, under another name."""
    mark = uuid.uuid4().hex[:8]
    for suffix in ("", "-wal", "-shm"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.rename(path.with_name(f"damaged-{mark}-{path.name}{suffix}"))
