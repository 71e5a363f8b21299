"""Journal of changes: one file per writer, one line of JSON per transaction, written before the change is made.

It serves twice. After a crash the last line of a dead writer is done again (staged files renamed, rows
inserted) or, when its files are not complete, undone. And since all lines together say everything that was
ever registered, `rebuild` can make a lost registry anew from them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starmill.errors import RepositoryError
from starmill.repository import crash_points
from starmill.repository.layout import PRIVATE_FOLDER


@dataclass(frozen=True)
class JournalEntry:
    """One transaction: the rows to insert or remove, the files to move to their places, the files to delete."""

    time: float
    payload: dict[str, Any]
    moves: list[tuple[str, str]]
    deletes: list[str]

    def to_line(self) -> bytes:
        """One line of JSON with its own length in front, so that a torn line is noticed."""
        body = json.dumps(
            {"time": self.time, "payload": self.payload, "moves": self.moves, "deletes": self.deletes},
            separators=(",", ":"),
        ).encode()
        return b"%d " % len(body) + body + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> JournalEntry | None:
        """Read a line; None when it is torn."""
        length, _, body = line.partition(b" ")
        if not length.isdigit() or int(length) != len(body.rstrip(b"\n")):
            return None
        try:
            values = json.loads(body)
            moves = [(str(token), str(path)) for token, path in values["moves"]]
            return cls(float(values["time"]), dict(values["payload"]), moves, list(values["deletes"]))
        except (ValueError, KeyError, TypeError):
            return None


class Journal:
    """The journal of this process for one repository; its lock tells others that the process lives.

    Parameters
    ----------
    root : Path
        The repository's folder (for an object store: the local folder of this user that stands for it).
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / PRIVATE_FOLDER / "journal"
        self.writer = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = self.folder / f"{self.writer}.open"
        self._descriptor: int | None = None

    def open(self) -> None:
        """Make and lock the file; without effect when done already."""
        if self._descriptor is not None:
            return
        new = self.path.with_suffix(
            ".new"
        )  # renamed when locked: nobody may take a young journal for a dead one
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(new, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o664)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            new.rename(self.path)
        except OSError as error:
            raise RepositoryError(f"cannot write the journal {self.path}: {error.strerror}") from error

    def append(self, entry: JournalEntry) -> int:
        """Write one transaction durably.

        Parameters
        ----------
        entry : JournalEntry
            The transaction.

        Returns
        -------
        position : int
            Where the line begins; `take_back` needs it.
        """
        self.open()
        assert self._descriptor is not None  # noqa: S101
        position = os.fstat(self._descriptor).st_size
        line = entry.to_line()
        try:
            crash_points.reach("journal: before write")
            _write_whole(self._descriptor, line)
            crash_points.reach("journal: before sync")
            os.fsync(self._descriptor)
            crash_points.reach("journal: after sync")
        except OSError as error:
            self.take_back(position)
            raise RepositoryError(f"cannot write the journal {self.path}: {error.strerror}") from error
        return position

    def take_back(self, position: int) -> None:
        """Remove the last line, whose transaction was refused."""
        assert self._descriptor is not None  # noqa: S101
        os.ftruncate(self._descriptor, position)

    def close(self) -> None:
        """Mark the journal as complete and give the lock back."""
        if self._descriptor is None:
            return
        close_journal(self.path)
        os.close(self._descriptor)
        self._descriptor = None


def _write_whole(descriptor: int, line: bytes) -> None:
    if os.write(descriptor, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def close_journal(path: Path) -> None:
    """Rename a journal to its final name; an empty one is deleted."""
    if path.stat().st_size == 0:
        path.unlink()
    else:
        path.rename(path.with_suffix(".jsonl"))


def read_entries(path: Path) -> Iterator[JournalEntry]:
    """Yield the complete entries of one journal; a torn last line is left out."""
    with path.open("rb") as stream:
        for line in stream:
            entry = JournalEntry.from_line(line)
            if entry is not None:
                yield entry


def all_entries(root: Path) -> list[JournalEntry]:
    """Return the entries of all journals of a repository in order of time."""
    folder = root / PRIVATE_FOLDER / "journal"
    paths = sorted([*folder.glob("*.jsonl"), *folder.glob("*.open")]) if folder.is_dir() else []
    entries = [entry for path in paths for entry in read_entries(path)]
    return sorted(entries, key=lambda entry: entry.time)


def dead_journals(root: Path, own: Path | None = None) -> Iterator[tuple[Path, int]]:
    """Yield the journals whose writer has died, locked, with their file descriptor.

    Parameters
    ----------
    root : Path
        The repository's folder.
    own : Path, optional
        The journal of this process, which is left out.

    Yields
    ------
    path : Path
        The journal.
    descriptor : int
        Open and locked; closed again after the loop body.
    """
    folder = root / PRIVATE_FOLDER / "journal"
    for path in sorted(folder.glob("*.open")) if folder.is_dir() else []:
        if path == own:
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:  # closed, renamed, or recovered by another process just now; or not readable for us
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():
                yield path, descriptor
        except BlockingIOError:  # its writer lives
            continue
        finally:
            os.close(descriptor)
