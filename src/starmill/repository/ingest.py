"""Ingest: raw frames enter a repository under the data IDs that their headers give them.

Bringing the same file twice changes nothing; the same data ID with other content is refused, and so is a frame
that contradicts what is registered of its exposure. Files are committed in groups; each group is complete or
absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from starmill.errors import InputError, StarmillError
from starmill.io.checksums import file_checksum
from starmill.repository import crash_points, schema
from starmill.repository.collections import RUN, collection_row
from starmill.repository.dataset_types import DatasetType
from starmill.repository.exposures import ExposureRecord
from starmill.repository.layout import dataset_identifier, validate_collection_name
from starmill.repository.raw_headers import camera_translator
from starmill.repository.store import copy_file
from starmill.repository.transaction import DatasetConflictError, chunks

if TYPE_CHECKING:
    from starmill.repository.repository import Repository

MODES = ("copy", "move", "hardlink", "symlink", "direct")
_GROUP = 256  # files of one transaction
_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fits.bz2", ".fits.fz", ".fit.gz", ".fz")

_LONGEST_FIRST = sorted(_SUFFIXES, key=len, reverse=True)


@dataclass
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    ingested, unchanged : int
        Files that entered; files that were there already with the same content.
    refused : list of (str, str)
        Path and reason of files that could not enter.
    """

    ingested: int = 0
    unchanged: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)


def find_raw_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield files; of a folder, all files below it that look like FITS, in order of name."""
    for given in paths:
        path = Path(given)
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                yield from (Path(folder) / name for name in sorted(names) if name.lower().endswith(_SUFFIXES))
        elif path.is_file():
            yield path
        else:
            raise InputError("the file does not exist", path=path)


def ingest(
    repository: Repository,
    paths: Iterable[str | Path],
    camera: str | Callable[[Path], list[ExposureRecord]],
    *,
    mode: str = "copy",
    run: str | None = None,
    dataset_type: str = "raw",
    keep_going: bool = True,
) -> IngestReport:
    """Bring raw frames into a repository.

    Parameters
    ----------
    repository : Repository
        Open for writing.
    paths : iterable of path
        Files, or folders that are searched for FITS files.
    camera : str or callable
        Name of a camera, or a function from a path to `ExposureRecord` objects.
    mode : {"copy", "move", "hardlink", "symlink", "direct"}
        What happens to the files; ``direct`` leaves them in place and registers their absolute path.
    run : str, optional
        Collection that takes them; ``raw/<camera>`` by default.
    dataset_type : str
        Usually ``raw``.
    keep_going : bool
        Report refused files and go on; otherwise the first one raises.

    Returns
    -------
    report : IngestReport
        Counts and refused files.
    """
    if mode not in MODES:
        raise InputError(f"ingest mode {mode!r} is none of {', '.join(MODES)}")
    if mode != "copy" and not repository.store.is_local:
        raise InputError(f"files cannot be ingested by {mode} into an object store; use copy")
    translate = camera_translator(camera) if isinstance(camera, str) else camera
    if run is None:
        run = f"raw/{camera}" if isinstance(camera, str) else "raw/all"
    job = _Ingest(
        repository, validate_collection_name(run), repository.dataset_type(dataset_type), mode, keep_going
    )
    group: list[tuple[Path, ExposureRecord]] = []
    for path in find_raw_files(paths):
        try:
            group.extend((path, record) for record in translate(path))
        except StarmillError as error:
            job.refuse(path, error)
        if len(group) >= _GROUP:
            job.take(group)
            group = []
    job.take(group)
    return job.report


class _Ingest:
    """Takes groups of files with their records into one run."""

    def __init__(
        self, repository: Repository, run: str, kind: DatasetType, mode: str, keep_going: bool
    ) -> None:
        self.repository = repository
        self.run = run
        self.kind = kind
        self.mode = mode
        self.keep_going = keep_going
        self.report = IngestReport()

    def refuse(self, path: Path, error: Exception) -> None:
        """Record a refused file, or raise."""
        if not self.keep_going:
            raise error
        message = str(error).removeprefix(f"{path}: ")
        self.report.refused.append((str(path), message))

    def take(self, group: Sequence[tuple[Path, ExposureRecord]]) -> None:
        """Ingest a group in one transaction; on a conflict one by one, so that only the culprit is refused."""
        fresh = self._without_known(group)
        try:
            self._commit(fresh)
        except (DatasetConflictError, InputError) as error:
            if len(fresh) == 1:
                self.refuse(fresh[0][0], error)
                return
            for item in fresh:
                self.take([item])

    def _without_known(
        self, group: Sequence[tuple[Path, ExposureRecord]]
    ) -> list[tuple[Path, ExposureRecord]]:
        """Leave out files that are registered with the same content; of two names for one frame keep one."""
        fresh: dict[Any, tuple[Path, ExposureRecord]] = {}
        for path, record in group:
            if record.data_id in fresh:
                first = fresh[record.data_id][0]
                if file_checksum(first) == file_checksum(path):
                    self.report.unchanged += 1
                else:
                    message = f"({record.data_id.key}) is also the data ID of {first}, with other content"
                    self.refuse(path, DatasetConflictError(message))
                continue
            fresh[record.data_id] = (path, record)
        identifiers = {
            dataset_identifier(
                self.run, self.kind.name, record.data_id.subset(self.kind.dimensions)
            ): record.data_id
            for _, record in fresh.values()
        }
        known = self._known_checksums(list(identifiers))
        for identifier, checksum in known.items():
            path, record = fresh.pop(identifiers[identifier])
            if file_checksum(path) == checksum:
                self.report.unchanged += 1
                if self.mode == "move":  # an earlier move was killed before it removed the source
                    path.unlink()
            else:
                message = f"({record.data_id.key}) is registered in run '{self.run}' with other content"
                self.refuse(path, DatasetConflictError(message))
        return list(fresh.values())

    def _known_checksums(self, identifiers: list[str]) -> dict[str, str]:
        table = schema.dataset.c
        known: dict[str, str] = {}
        for part in chunks(identifiers):
            rows = self.repository.registry.fetch(
                sa.select(table.id, table.checksum).where(table.id.in_(part))
            )
            known.update({row.id: row.checksum for row in rows})
        return known

    def _row(self, record: ExposureRecord, checksum: str, size: int, extension: str) -> dict[str, Any]:
        known = {**record.implied, **record.data_id.to_dict()}
        return self.repository.dataset_row(self.kind, self.run, known, checksum, size, extension)

    def _commit(self, group: Sequence[tuple[Path, ExposureRecord]]) -> None:
        if not group:
            return
        rows, moves, staged = [], [], []
        try:
            for path, record in group:
                copy, checksum = self._bring(path)
                row = self._row(record, checksum, path.stat().st_size, _extension(path))
                if self.mode == "direct":
                    row |= {"path": str(path.absolute()), "link": "direct"}
                elif self.mode == "symlink":
                    row["link"] = "symlink"
                if copy is not None:
                    staged.append(copy)
                    token = self.repository.store.deliver(copy, self.repository.journal.writer)
                    moves.append((token, row["path"]))
                rows.append(row)
            records = [record for _, record in group]
            self.repository.commit(
                {
                    "collections": [collection_row(self.run, RUN)],
                    "exposures": _once_per_exposure(records),
                    "regions": [
                        row for row in (record.region_row() for record in records) if row is not None
                    ],
                    "datasets": rows,
                },
                moves,
            )
        finally:
            for copy in staged:
                copy.unlink(missing_ok=True)
        self.report.ingested += len(group)
        if self.mode == "move":
            for path, _ in group:
                crash_points.reach("ingest: before the source is removed")
                path.unlink()

    def _bring(self, path: Path) -> tuple[Path | None, str]:
        """Make a staged copy or link of a file; return it with the checksum of its content."""
        if self.mode == "direct":
            return None, file_checksum(path)
        staged = self.repository.new_staged_path(_extension(path))
        if self.mode == "symlink":
            staged.symlink_to(path.absolute())
            return staged, file_checksum(path)
        if self.mode in {"hardlink", "move"}:
            try:
                staged.hardlink_to(path)
                return staged, file_checksum(path)
            except OSError:
                if self.mode == "hardlink":
                    raise InputError("cannot be hard-linked: another file system?", path=path) from None
        return staged, copy_file(path, staged)


def _once_per_exposure(records: Sequence[ExposureRecord]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        row = record.to_row()
        first = rows.setdefault((record.instrument, record.exposure), row)
        for name, value in row.items():
            if name in {"visit", "night", "filter", "band", "image_type"} and first[name] != value:
                raise DatasetConflictError(
                    f"frames of exposure {record.exposure} contradict each other: {name} {first[name]} and {value}"
                )
    return list(rows.values())


def _extension(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in _LONGEST_FIRST if name.endswith(suffix)), path.suffix)
