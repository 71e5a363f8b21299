"""Makes a product again from its provenance and tells whether the bytes are the same."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starmill.errors import InputError, RepositoryError
from starmill.execution.loose import read_provenance, run_on_files
from starmill.execution.provenance import datasets_where, quantum_record
from starmill.execution.quantum_work import DONE, run_quantum
from starmill.execution.versions import versions
from starmill.io.checksums import file_checksum
from starmill.repository import schema
from starmill.repository.dataset_ref import StoredDataset
from starmill.repository.loose_files import LooseFiles
from starmill.repository.repository import Repository


@dataclass(frozen=True)
class RerunReport:
    """Outcome of making a product again.

    Attributes
    ----------
    task, data_key : str
        What was run; the name of the file when it is a loose one.
    identical : dict
        Dataset type, or name of the file, to whether the new file has the checksum of the old one.
    other_versions : dict
        Packages whose version differs from then: name to (then, now).
    cpu_seconds : float
        Cost now.
    """

    task: str
    data_key: str
    identical: dict[str, bool]
    other_versions: dict[str, tuple[str, str]]
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self)


def rerun_dataset(repository: Repository, ref: StoredDataset, *, keep: Path | None = None) -> RerunReport:
    """Run the quantum that made a data set once more, without changing the repository.

    Parameters
    ----------
    repository : Repository
        Open for writing: the new files are staged in it.
    ref : StoredDataset
        A product of a pipeline.
    keep : Path, optional
        Folder that gets the new files; they are deleted otherwise.

    Returns
    -------
    report : RerunReport
        Raises `RepositoryError` when an input has gone or changed, or when the task fails.
    """
    record = quantum_record(repository, ref.quantum) if ref.quantum else None
    if record is None:
        raise RepositoryError(f"{ref.path} was not made by a pipeline of this repository")
    message = _message(repository, record)
    answer = run_quantum(message)
    if answer["status"] != DONE:
        raise RepositoryError(
            f"{record['task']} failed: {answer['error']['type']}: {answer['error']['message']}"
        )
    identical = {}
    registered = {item["keyword"]: item for item in record["outputs"]}
    for keyword, output in answer["outputs"].items():
        item = registered[keyword]
        identical[item["type"]] = output["checksum"] == item["checksum"]
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            name = f"{item['type']}_{record['data_key'].replace(',', '_')}{output['extension']}"
            with repository.store.reading(output["token"]) as path:
                shutil.copyfile(path, keep / name)
        repository.store.discard(output["token"])
    changed = changed_versions(json.loads(record["versions_text"] or "{}"))
    return RerunReport(record["task"], record["data_key"], identical, changed, answer["cpu_seconds"])


def rerun_file(path: Path, folders: Sequence[Path] = (), *, keep: Path | None = None) -> RerunReport:
    """Make a loose product, and those that were written with it, once more.

    Parameters
    ----------
    path : Path
        A product that carries its provenance (an exposure or a catalogue), or a file written beside one (a kernel,
        regions).
    folders : sequence of Path
        Where its inputs are looked for, by name and checksum, also in folders below; then follow the folder of the
        product, the one above, and those beside it.
    keep : Path, optional
        Folder that gets the new files; they are deleted otherwise.

    Returns
    -------
    report : RerunReport
        Files that were written with the product but are no longer beside it are left out.

    Raises
    ------
    InputError
        When the file has no provenance, or an input is nowhere to be found with its content.
    """
    from starmill.pipelines.task_names import find_task, resolve_config

    provenance = provenance_of(path)
    inputs: dict[str, Any] = {}
    for item in provenance["inputs"]:
        entry = (item["storage"], find_input(item, folders, path.absolute()), item["details"])
        if item["keyword"] in provenance["many"]:
            inputs.setdefault(item["keyword"], []).append(entry)
        else:
            inputs[item["keyword"]] = entry
    cls = find_task(provenance["task"])
    task = cls(resolve_config(cls, provenance["config"]))
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        outputs = {
            name: (storage, Path(folder) / file) for name, (storage, file) in provenance["outputs"].items()
        }
        run_on_files(task, LooseFiles(inputs, outputs), provenance.get("companions", ""))
        identical = {}
        for made in sorted(Path(folder).iterdir()):
            before = path.parent / made.name
            if before.is_file():
                identical[made.name] = file_checksum(before) == file_checksum(made)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made, keep / made.name)
    then = {"starmill": provenance["starmill"], **provenance["versions"]}
    return RerunReport(
        provenance["task"], path.name, identical, changed_versions(then), time.process_time() - begin
    )


def provenance_of(path: Path) -> dict[str, Any]:
    """Return the provenance of a loose file, or of the product beside which it was written."""
    provenance = read_provenance(path)
    if provenance is not None:
        return provenance
    for other in sorted(path.parent.glob("*.fits")):
        stem = other.name.removesuffix(".fits").removesuffix(".exposure")
        if other != path and path.name.startswith(f"{stem}."):
            provenance = read_provenance(other)
            if provenance is None or not provenance.get("companions"):
                continue
            if path.name not in {item["file"] for item in provenance["inputs"]}:
                return provenance
    raise InputError("neither the file nor a product beside it says how it was made", path=path)


def find_input(item: Mapping[str, Any], folders: Iterable[Path], product: Path) -> Path:
    """Return the file with the name and checksum of an input: where it was, in the folders given, or near."""
    name, above = item["file"], product.parent.parent
    candidates = [Path(item["path"])] if "path" in item else []
    candidates += [candidate for folder in folders for candidate in sorted(folder.rglob(name))]
    candidates += [product.with_name(name), above / name, *sorted(above.glob(f"*/{name}"))]
    there = [candidate for candidate in candidates if candidate.is_file()]
    for candidate in there:
        if file_checksum(candidate) == item["checksum"]:
            return candidate
    found = f"; of this name but other content: {there[0]}" if there else ""
    raise InputError(
        f"the input {name} ({item['keyword']}) was not found near the product nor in the folders given"
        f" (--inputs FOLDER){found}",
        path=product,
    )


def changed_versions(then: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return the packages whose version is another than it was."""
    now = versions()
    return {name: (then.get(name, "absent"), now[name]) for name in now if then.get(name) != now[name]}


def _message(repository: Repository, record: dict[str, Any]) -> dict[str, Any]:
    wanted = [item["id"] for item in record["inputs"]]
    known = {ref.id: ref for ref in datasets_where(repository, schema.dataset.c.id.in_(wanted))}
    inputs: dict[str, list[dict[str, Any]]] = {}
    described = []
    for item in record["inputs"]:
        source = known.get(item["id"])
        if source is None or source.checksum != item["checksum"]:
            raise RepositoryError(
                f"the input '{item['keyword']}' ({item['type']}) is no longer there with this content"
            )
        file = {
            "storage": source.storage,
            "path": source.path,
            "link": source.link,
            "data_id": source.data_id.to_dict(),
            "checksum": source.checksum,
        }
        inputs.setdefault(item["keyword"], []).append(file)
        described.append(
            {
                "keyword": item["keyword"],
                "type": source.dataset_type,
                "data_id": source.data_id.key,
                "checksum": source.checksum,
            }
        )
    shape = json.loads(record["shape"])
    repository.journal.open()
    return {
        "id": 0,
        "attempt": 1,
        "store": repository.url,
        "writer": repository.journal.writer,
        "task": record["task"],
        "config": record["config_text"],
        "inputs": inputs,
        "many": shape["many"],
        "lazy": shape["lazy"],
        "outputs": shape["outputs"],
        "provenance": {
            "task": record["task"],
            "label": record["label"],
            "data_id": record["data_key"],
            "config": json.loads(record["config_text"]),
            "config_checksum": record["config"],
            "starmill": json.loads(record["versions_text"])["starmill"],
            "inputs": described,
        },
    }


def is_identical(report: RerunReport) -> bool:
    """Tell whether all products came out with the same bytes."""
    return bool(report.identical) and all(report.identical.values())
