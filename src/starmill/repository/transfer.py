"""Export and import: data sets with everything known of them, as a folder or tar file for another repository.

An export holds ``export.json`` (the rows, as in a transaction) and the files under their paths. Nothing in it
is executed; paths are checked, checksums compared, and sizes limited before anything enters a repository.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from starmill.errors import InputError, RepositoryError
from starmill.repository import schema
from starmill.repository.collections import RUN, collection_row
from starmill.repository.data_id import DataId
from starmill.repository.layout import check_relative, dataset_path, validate_collection_name
from starmill.repository.sky_regions import tiles_of_circle
from starmill.repository.store import copy_file
from starmill.repository.transaction import chunks

if TYPE_CHECKING:
    from starmill.repository.dataset_ref import StoredDataset
    from starmill.repository.repository import Repository

_MANIFEST = "export.json"
_FORMAT = 1
_GROUP = 200
_MAX_MANIFEST = 2_000_000_000


def export_datasets(repository: Repository, refs: Sequence[StoredDataset], target: str | Path) -> int:
    """Write data sets with their metadata and provenance to a new folder or tar file.

    Parameters
    ----------
    repository : Repository
        Source.
    refs : sequence of StoredDataset
        What to export.
    target : path
        Ending in ``.tar``, ``.tar.gz`` or ``.tgz`` for a tar file, else a folder; must not exist.

    Returns
    -------
    n : int
        Number of data sets.
    """
    target = Path(target)
    if target.exists():
        raise InputError("the export exists already", path=target)
    manifest = {"starmill_export": _FORMAT, "payload": _payload(repository, refs)}
    if not _is_tar(target):
        work = target.with_name(f".{target.name}.part-export")
        shutil.rmtree(work, ignore_errors=True)
        _write_folder(repository, refs, manifest, work)
        work.rename(target)
        return len(refs)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as folder:
        _write_folder(repository, refs, manifest, Path(folder) / "export")
        packed = Path(folder) / "packed"
        mode = "w" if target.suffix == ".tar" else "w:gz"
        with tarfile.open(packed, mode) as archive:  # type: ignore[call-overload]
            archive.add(Path(folder) / "export", arcname="export", filter=_anonymous)
        packed.rename(target)
    return len(refs)


def _is_tar(path: Path) -> bool:
    return path.name.endswith((".tar", ".tar.gz", ".tgz"))


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _write_folder(repository: Repository, refs: Sequence[StoredDataset], manifest: Any, folder: Path) -> None:
    folder.mkdir(parents=True)
    for ref in refs:
        place = folder / "files" / _file_name(ref)
        place.parent.mkdir(parents=True, exist_ok=True)
        with repository.local_file(ref) as path:
            copied = copy_file(path, place)
        if copied != ref.checksum:
            raise RepositoryError(f"{ref.path} is damaged: its checksum is not the registered one")
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _file_name(ref: StoredDataset) -> str:
    return f"{ref.dataset_type}/{ref.id}{''.join(Path(ref.path).suffixes[-2:])}"


def _payload(repository: Repository, refs: Sequence[StoredDataset]) -> dict[str, Any]:
    kinds = [repository.dataset_type(name) for name in sorted({ref.dataset_type for ref in refs})]
    rows = [
        {
            "id": ref.id, "type": ref.dataset_type, "run": ref.run, "data": ref.data_id.to_dict(),
            "implied": dict(ref.implied), "file": _file_name(ref), "size": ref.size, "checksum": ref.checksum,
            "quantum_id": ref.quantum, "corners": ref.corners,
        }
        for ref in refs
    ]  # fmt: skip
    keys = {
        (str(ref.known["instrument"]), int(ref.known["exposure"]))
        for ref in refs
        if "exposure" in ref.known and "instrument" in ref.known
    }
    from starmill.repository.query import exposure_rows

    quanta, documents = _quanta(repository, sorted({ref.quantum for ref in refs if ref.quantum}))
    return {
        "types": [
            {
                "name": k.name,
                "dimensions": k.dimensions_json,
                "storage": k.storage,
                "description": k.description,
            }
            for k in kinds
        ],
        "exposures": list(exposure_rows(repository.registry, keys).values()),
        "regions": _regions(repository, keys),
        "quanta": quanta,
        "documents": documents,
        "datasets": rows,
    }


def _regions(repository: Repository, keys: set[tuple[str, int]]) -> list[dict[str, Any]]:
    table = schema.sky_region
    rows: list[dict[str, Any]] = []
    for part in chunks(sorted(keys)):
        found = repository.registry.fetch(
            sa.select(table).where(sa.tuple_(table.c.instrument, table.c.exposure).in_(list(part)))
        )
        rows += [dict(row._mapping) for row in found]
    return rows


def _quanta(repository: Repository, identifiers: list[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    rows: list[dict[str, Any]] = []
    for part in chunks(identifiers):
        found = repository.registry.fetch(
            sa.select(*schema.quantum.columns, schema.collection.c.name.label("run"))
            .join(schema.collection, schema.collection.c.id == schema.quantum.c.run_id)
            .where(schema.quantum.c.id.in_(part))
        )
        rows += [{name: value for name, value in row._mapping.items() if name != "run_id"} for row in found]
    wanted = sorted({row[name] for row in rows for name in ("config", "versions") if row[name]})
    documents: dict[str, str] = {}
    for part in chunks(wanted):
        table = schema.document.c
        found = repository.registry.fetch(
            sa.select(table.checksum, table.body).where(table.checksum.in_(part))
        )
        documents.update({row.checksum: row.body for row in found})
    return rows, documents


def import_datasets(repository: Repository, source: str | Path, *, run: str | None = None) -> int:
    """Take an export into a repository; what is there already with the same content is passed over.

    Parameters
    ----------
    repository : Repository
        Target, open for writing.
    source : path
        Folder or tar file of `export_datasets`.
    run : str, optional
        Put everything into this run instead of the runs it came from.

    Returns
    -------
    n : int
        Number of data sets in the export.
    """
    with _unpacked(Path(source)) as folder:
        payload = _read_manifest(folder)
        rows = [_checked_row(repository, row, run) for row in payload["datasets"]]
        quanta = [{**row, "run": run} if run else row for row in payload.get("quanta", [])]
        runs = sorted({row["run"] for row in [*rows, *quanta]})
        regions = [
            {**row, "tiles": tiles_of_circle(row["ra"], row["dec"], row["radius"])}
            for row in payload.get("regions", [])
        ]
        repository.commit(
            {"types": payload["types"], "collections": [collection_row(name, RUN) for name in runs]}
        )
        repository.dataset_types().clear()
        repository.commit(
            {
                "documents": payload.get("documents", {}),
                "exposures": payload.get("exposures", []),
                "regions": regions,
            }
        )
        by_quantum = {row["id"]: row for row in quanta}
        for group in chunks(rows, _GROUP):
            made_by = [by_quantum.pop(row["quantum_id"]) for row in group if row["quantum_id"] in by_quantum]
            _bring_group(repository, folder, list(group), made_by)
        return len(rows)


def _bring_group(
    repository: Repository, folder: Path, rows: list[dict[str, Any]], quanta: list[dict[str, Any]]
) -> None:
    moves, staged = [], []
    try:
        for row in rows:
            source = folder / "files" / check_relative(row.pop("file"))
            copy = repository.new_staged_path("".join(source.suffixes[-2:]))
            staged.append(copy)
            if copy_file(source, copy) != row["checksum"]:
                raise InputError("the file of the export is damaged: another checksum", path=source)
            moves.append((repository.store.deliver(copy, repository.journal.writer), row["path"]))
        repository.commit({"quanta": quanta, "datasets": rows}, moves)
    finally:
        for copy in staged:
            copy.unlink(missing_ok=True)


def _checked_row(repository: Repository, row: dict[str, Any], run: str | None) -> dict[str, Any]:
    """Return a row for this repository: identifiers and paths are made here, never taken over."""
    from starmill.repository.layout import dataset_identifier

    try:
        data_id, implied = DataId(row["data"]), DataId(row["implied"])
        target = validate_collection_name(run or row["run"])
        file = check_relative(str(row["file"]))
        extension = "".join(Path(file).suffixes[-2:])
        known = {**implied, **data_id}
        return {
            "id": dataset_identifier(target, row["type"], data_id),
            "type": str(row["type"]),
            "run": target,
            "data": data_id.to_dict(),
            "implied": implied.to_dict(),
            "path": dataset_path(
                repository.config.layout, target, str(row["type"]), data_id, known, extension
            ),
            "file": file,
            "size": int(row["size"]),
            "checksum": str(row["checksum"]),
            "quantum_id": row.get("quantum_id"),
            "corners": row.get("corners"),
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"a row of the export is incomplete: {error}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise InputError(f"no export: {_MANIFEST} is missing", path=folder)
    if path.stat().st_size > _MAX_MANIFEST:
        raise InputError(f"{path.stat().st_size} bytes are too many", path=path)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, payload = manifest["starmill_export"], manifest["payload"]
        if version > _FORMAT:
            raise RepositoryError(f"{path}: format {version} was made by a newer starmill")
        payload["datasets"], payload["types"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"no valid export: {error}", path=path) from error
    return dict(payload)


@contextlib.contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise InputError("the export does not exist", path=source)
    with tempfile.TemporaryDirectory(prefix="starmill-import-") as folder:
        try:
            with tarfile.open(source, "r:*") as archive:
                for member in archive:
                    if not (member.isreg() or member.isdir()):
                        raise InputError(
                            f"the archive holds {member.name[:80]!r}, which is no plain file", path=source
                        )
                    archive.extract(member, folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"no valid archive: {error}", path=source) from error
        yield Path(folder) / "export"
