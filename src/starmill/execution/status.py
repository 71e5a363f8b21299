"""Reads from the registry how runs are going."""

from __future__ import annotations

import json
import time
from typing import Any

import sqlalchemy as sa

from starmill.repository import schema
from starmill.repository.repository import Repository

#: A running session that has registered nothing for so long has probably been killed, second.
SILENCE = 600.0


def sessions(repository: Repository, run: str = "") -> list[dict[str, Any]]:
    """Return the latest session of every run, newest last.

    Parameters
    ----------
    repository : Repository
        Open, also for reading only.
    run : str
        Only this one.

    Returns
    -------
    sessions : list of dict
        ``id``, ``run``, ``state`` (running, finished, interrupted, silent), ``counts`` by task, ``age`` in
        seconds since the last registered result.
    """
    table, collection = schema.session.c, schema.collection.c
    statement = (
        sa.select(table.id, table.state, table.started, table.updated, table.counts, collection.name)
        .join(schema.collection, collection.id == table.run_id)
        .order_by(table.started)
    )
    if run:
        statement = statement.where(collection.name == run)
    latest = {}
    now = time.time()
    for row in repository.registry.fetch(statement):
        age = now - row.updated
        state = "silent" if row.state == "running" and age > SILENCE else row.state
        latest.pop(row.name, None)
        latest[row.name] = {
            "id": row.id, "run": row.name, "state": state, "started": row.started, "age": round(age, 1),
            "counts": json.loads(row.counts),
        }  # fmt: skip
    return list(latest.values())


def failures(repository: Repository, run: str = "") -> list[dict[str, Any]]:
    """Return the failed quanta with type, message, numbers and traceback of their errors."""
    table, collection = schema.quantum.c, schema.collection.c
    statement = (
        sa.select(table.label, table.data_key, table.error, collection.name)
        .join(schema.collection, collection.id == table.run_id)
        .where(table.status == "failed")
        .order_by(collection.name, table.label, table.data_key)
    )
    if run:
        statement = statement.where(collection.name == run)
    return [
        {"run": row.name, "label": row.label, "data_id": row.data_key, **json.loads(row.error or "{}")}
        for row in repository.registry.fetch(statement)
    ]
