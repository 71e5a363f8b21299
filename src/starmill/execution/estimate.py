"""What a run will cost, from what earlier runs of the same tasks have cost."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from starmill.pipelines.graph import QuantumGraph
from starmill.repository import schema
from starmill.repository.repository import Repository


def estimate_cost(repository: Repository, graph: QuantumGraph) -> dict[str, dict[str, Any]]:
    """Return per task: quanta, expected CPU seconds and largest memory (byte); None where no run is known."""
    table = schema.quantum.c
    rows = repository.registry.fetch(
        sa.select(
            table.task, sa.func.avg(table.cpu_seconds).label("cpu"), sa.func.max(table.max_rss).label("rss")
        )
        .where(table.status == "done")
        .group_by(table.task)
    )
    known = {row.task: row for row in rows}
    costs: dict[str, dict[str, Any]] = {}
    for node in graph.pipeline.nodes:
        count = graph.reports[node.label].quanta
        row = known.get(node.task)
        costs[node.label] = {
            "quanta": count,
            "cpu_seconds": None if row is None else round(count * float(row.cpu), 1),
            "max_rss": None if row is None else int(row.rss),
        }
    return costs
