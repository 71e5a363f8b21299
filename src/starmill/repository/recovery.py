"""What a killed process left: its last change is finished, or undone when its files are not complete."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from starmill.repository import schema
from starmill.repository.journal import JournalEntry, close_journal, dead_journals, read_entries
from starmill.repository.transaction import DatasetConflictError

if TYPE_CHECKING:
    from starmill.repository.repository import Repository

log = logging.getLogger(__name__)


def recover(repository: Repository) -> int:
    """Finish or undo the last change of every writer that has died, and clear what it had staged.

    Parameters
    ----------
    repository : Repository
        Open for writing.

    Returns
    -------
    n : int
        Number of dead writers found.
    """
    count = 0
    for path, _descriptor in dead_journals(repository.root, repository.journal.path):
        entries = list(read_entries(path))
        if entries:
            _settle(repository, entries[-1], path)
        repository.store.clear_staging(path.stem)
        _drop_torn_line(path, entries)
        close_journal(path)
        repository.store.keep_journal(path.stem)
        count += 1
    if count:
        log.info("recovered from %d writers that had died", count)
        live = {path.stem for path in repository.journal.folder.glob("*.open")}
        for writer in repository.store.writers_with_staging():
            if writer not in live and not (repository.journal.folder / f"{writer}.new").exists():
                repository.store.clear_staging(writer)
    return count


def _settle(repository: Repository, entry: JournalEntry, path: Path) -> None:
    """Apply the last entry again (harmless when it was complete); undo it when that is impossible."""
    missing = [name for token, name in entry.moves if not _has_content(repository, token, name, entry)]
    if not missing:
        try:
            repository.registry.change(lambda connection: repository.apply_entry(connection, entry))
        except DatasetConflictError as error:  # another writer has put the same data set meanwhile
            log.warning("the last change of %s is undone: %s", path.name, error)
            missing = [name for _, name in entry.moves]
        else:
            for name in entry.deletes:
                repository.store.remove(name)
    if missing:
        undo_entry(repository, entry)


def _has_content(repository: Repository, token: str, name: str, entry: JournalEntry) -> bool:
    """Tell whether the file of a move is staged, or at its final name with the right content."""
    if repository.store.has_token(token):
        return True
    expected = {row["path"]: row for row in entry.payload.get("datasets", [])}.get(name)
    store = repository.store
    return (
        expected is not None
        and store.exists(name)
        and store.size(name) == expected["size"]
        and store.checksum(name) == expected["checksum"]
    )


def undo_entry(repository: Repository, entry: JournalEntry) -> None:
    """Remove files that came to their final names but belong to no registered data set."""
    table = schema.dataset.c
    for row in entry.payload.get("datasets", []):
        registered = repository.registry.fetch(sa.select(table.checksum).where(table.path == row["path"]))
        if not registered and row.get("link", "file") != "direct" and repository.store.exists(row["path"]):
            repository.store.remove(row["path"])


def _drop_torn_line(path: Path, entries: list[JournalEntry]) -> None:
    """Cut the journal after its last complete line; an undone last entry is dropped by `rebuild` itself."""
    length = sum(len(entry.to_line()) for entry in entries)
    if path.stat().st_size != length:
        with path.open("r+b") as stream:
            stream.truncate(length)
