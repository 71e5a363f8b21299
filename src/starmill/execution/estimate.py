"""What a run will cost, from what earlier runs of the same tasks have cost or from what is typical of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from starmill.pipelines.graph import Quantum, QuantumGraph
from starmill.repository import schema
from starmill.repository.repository import Repository
from starmill.tasks.base import task_named

BYTES_PER_PIXEL = {"raw": 2, "exposure": 12, "master_frame": 12, "sky_map": 4}
"""Of the storage formats that hold pixels, uncompressed."""

INTERPRETER_MB = 250.0  # Python, libraries and compiled kernels


def estimate_cost(repository: Repository, graph: QuantumGraph) -> dict[str, dict[str, Any]]:
    """Return what the quanta of each task will cost.

    Parameters
    ----------
    repository : Repository
        Its finished quanta tell the cost of a task that has run there before.
    graph : QuantumGraph

    Returns
    -------
    costs : dict of str to dict
        By task label: ``quanta``; ``cpu_seconds`` of all of them and ``max_rss`` of the largest (byte); ``basis``,
        'earlier runs', or 'typical' when the size of the inputs and the task's ``typical_cost`` tell them. All three
        are None for a task that has none and was never run.
    """
    table = schema.quantum.c
    rows = repository.registry.fetch(
        sa.select(
            table.task, sa.func.avg(table.cpu_seconds).label("cpu"), sa.func.max(table.max_rss).label("rss")
        )
        .where(table.status == "done")
        .group_by(table.task)
    )
    known = {row.task: row for row in rows}
    pixels = _input_megapixels(graph)
    costs: dict[str, dict[str, Any]] = {}
    for node in graph.pipeline.nodes:
        count = graph.reports[node.label].quanta
        sizes = pixels.get(node.label, [])
        typical = task_named(node.task).typical_cost
        cost: dict[str, Any] = {"quanta": count, "cpu_seconds": None, "max_rss": None, "basis": None}
        if node.task in known:
            row = known[node.task]
            cost |= {
                "cpu_seconds": round(count * float(row.cpu), 1),
                "max_rss": int(row.rss),
                "basis": "earlier runs",
            }
        elif typical is not None and sizes:
            cpu, memory = typical
            cost |= {
                "cpu_seconds": round(cpu * sum(sizes), 1),
                "max_rss": int(1e6 * (INTERPRETER_MB + memory * max(sizes))),
                "basis": "typical",
            }
        costs[node.label] = cost
    return costs


def _input_megapixels(graph: QuantumGraph) -> dict[str, list[float]]:
    """Return for each task the megapixels of the first input of its quanta; those of a product are its maker's."""
    frame: list[float] = []  # of one product of each quantum
    pixels: dict[str, list[float]] = {}
    for quantum in graph.quanta:
        sizes = [_megapixels(item, frame) for item in _driving_items(quantum)]
        frame.append(max(sizes, default=0.0))
        pixels.setdefault(quantum.node.label, []).append(sum(sizes))
    return pixels


def _driving_items(quantum: Quantum) -> tuple[Any, ...]:
    return quantum.inputs[0][1] if quantum.inputs else ()


def _megapixels(item: Any, frame: list[float]) -> float:
    """Return the megapixels of a stored data set, or of the product of an earlier quantum."""
    if isinstance(item, tuple):
        return frame[item[0]]
    return item.size / BYTES_PER_PIXEL[item.storage] / 1e6 if item.storage in BYTES_PER_PIXEL else 0.0
