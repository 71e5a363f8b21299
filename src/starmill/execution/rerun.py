"""Makes a product again from its provenance and tells whether the bytes are the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starmill.errors import RepositoryError
from starmill.execution.provenance import datasets_where, quantum_record, versions
from starmill.execution.quantum_work import DONE, run_quantum
from starmill.repository import schema
from starmill.repository.dataset_ref import StoredDataset
from starmill.repository.repository import Repository


@dataclass(frozen=True)
class RerunReport:
    """Outcome of making a quantum again.

    Attributes
    ----------
    task, data_key : str
        What was run.
    identical : dict
        Dataset type to whether the new file has the registered checksum.
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
    then, now = json.loads(record["versions_text"] or "{}"), versions()
    changed = {name: (then.get(name, "absent"), now[name]) for name in now if then.get(name) != now[name]}
    return RerunReport(record["task"], record["data_key"], identical, changed, answer["cpu_seconds"])


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
