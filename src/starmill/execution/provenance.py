"""How a product was made: documents, content keys, the tree of inputs, and making it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

import starmill
from starmill.errors import RepositoryError
from starmill.repository import schema
from starmill.repository.dataset_ref import StoredDataset
from starmill.repository.repository import Repository


def canonical(values: Any) -> str:
    """Return plain values as the one JSON text that stands for them."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def text_checksum(text: str) -> str:
    """SHA-256 of a text, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def content_key(
    task: str, config: str, inputs: Mapping[str, Sequence[StoredDataset]], outputs: Sequence[str]
) -> str:
    """Return what identifies a piece of work: same key, same result.

    Parameters
    ----------
    task : str
        Name of the class.
    config : str
        Checksum of the configuration.
    inputs : mapping
        Data sets by keyword.
    outputs : sequence of str
        Dataset types that are wanted.

    Returns
    -------
    key : str
        64 hexadecimal digits.
    """
    read = {
        keyword: [[ref.dataset_type, ref.data_id.key, ref.checksum] for ref in refs]
        for keyword, refs in inputs.items()
    }
    return text_checksum(canonical([task, config, starmill.__version__, read, sorted(outputs)]))


def quantum_record(repository: Repository, identifier: str) -> dict[str, Any] | None:
    """Return the record of a quantum as plain values; None when it is not registered."""
    table = schema.quantum
    rows = repository.registry.fetch(sa.select(table).where(table.c.id == identifier))
    if not rows:
        return None
    record = dict(rows[0]._mapping)
    for name in ("inputs", "outputs"):
        record[name] = json.loads(record[name])
    record["error"] = json.loads(record["error"]) if record["error"] else None
    documents = schema.document.c
    for name in ("config", "versions"):
        found = repository.registry.fetch(sa.select(documents.body).where(documents.checksum == record[name]))
        record[f"{name}_text"] = found[0].body if found else None
    return record


def dataset_at(repository: Repository, path: str) -> StoredDataset:
    """Return the registered data set of a file name: relative to the root, or absolute."""
    from pathlib import Path

    wanted = {path}
    absolute = Path(path).absolute()
    if repository.store.is_local and absolute.is_relative_to(repository.root.absolute()):
        wanted.add(absolute.relative_to(repository.root.absolute()).as_posix())
    wanted.add(str(absolute))
    refs = datasets_where(repository, schema.dataset.c.path.in_(wanted))
    if not refs:
        raise RepositoryError(f"{path} is no registered file of {repository.url}")
    return refs[0]


def datasets_where(repository: Repository, condition: Any) -> list[StoredDataset]:
    """Return all data sets, of any type, whose rows fulfil an SQL condition."""
    columns = [column for column in schema.dataset.columns if column.name != "data_key"]
    columns.append(schema.collection.c.name.label("run_name"))
    statement = (
        sa.select(*columns, schema.dataset_type.c.name.label("type_name"))
        .join(schema.collection, schema.collection.c.id == schema.dataset.c.run_id)
        .join(schema.dataset_type, schema.dataset_type.c.id == schema.dataset.c.type_id)
        .where(condition)
    )
    by_type: dict[str, list[Any]] = {}
    for row in repository.registry.fetch(statement):
        by_type.setdefault(row.type_name, []).append(row)
    fields = [column.name for column in columns]
    found: list[StoredDataset] = []
    for name, rows in by_type.items():
        found += StoredDataset.from_rows(rows, fields, repository.dataset_type(name))
    return found


def provenance_tree(repository: Repository, ref: StoredDataset, depth: int = 50) -> dict[str, Any]:
    """Return how a data set was made, down to what was ingested.

    Parameters
    ----------
    repository : Repository
        Where it is registered.
    ref : StoredDataset
        The product.
    depth : int
        How many steps back.

    Returns
    -------
    tree : dict
        The data set's own values, ``made_by`` (task, configuration checksum, versions, cost) and ``inputs``.
    """
    tree: dict[str, Any] = ref.to_dict()
    record = quantum_record(repository, ref.quantum) if ref.quantum else None
    if record is None or depth == 0:
        return tree
    tree["made_by"] = {
        "task": record["task"],
        "label": record["label"],
        "config": record["config"],
        "versions": json.loads(record["versions_text"] or "{}"),
        "cpu_seconds": record["cpu_seconds"],
        "seconds": record["seconds"],
        "max_rss": record["max_rss"],
    }
    identifiers = [item["id"] for item in record["inputs"]]
    known = {item.id: item for item in datasets_where(repository, schema.dataset.c.id.in_(identifiers))}
    tree["inputs"] = []
    for item in record["inputs"]:
        source = known.get(item["id"])
        if source is None or source.checksum != item["checksum"]:
            tree["inputs"].append({**item, "state": "no longer in the repository with this content"})
        else:
            tree["inputs"].append(
                {"keyword": item["keyword"], **provenance_tree(repository, source, depth - 1)}
            )
    return tree


def format_tree(tree: Mapping[str, Any], indent: str = "", seen: set[str] | None = None) -> list[str]:
    """Return a provenance tree as lines of text; what was shown before is not shown again."""
    seen = set() if seen is None else seen
    data_id = ", ".join(f"{name}={value}" for name, value in tree.get("data_id", {}).items())
    what = tree.get("file") or f"{tree.get('dataset_type', tree.get('type'))} ({data_id})"
    head = f"{tree['keyword']}: " if "keyword" in tree else ""
    lines = [f"{indent}{head}{what}  sha256 {tree['checksum'][:12]}"]
    if "state" in tree:
        lines.append(f"{indent}  {tree['state']}")
    made = tree.get("made_by")
    if made and tree["id"] in seen:
        return [lines[0] + "  (as above)"]
    if made:
        seen.add(tree["id"])
        cost = (
            f", {made['cpu_seconds']:.2f} CPU s, {made['max_rss'] / 1e6:.0f} MB" if "max_rss" in made else ""
        )
        version = made["versions"].get("starmill")
        lines.append(f"{indent}  by {made['task']} (config {made['config'][:12]}, starmill {version}){cost}")
    for item in tree.get("inputs", []):
        lines += format_tree(item, indent + "    ", seen)
    return lines
