"""What a dry run says about cost."""

from types import SimpleNamespace

import pytest

from starmill.execution.estimate import INTERPRETER_MB, estimate_cost
from starmill.pipelines.graph import NodeReport, Quantum
from starmill.tasks.characterize import CharacterizeImageTask
from starmill.tasks.isr import IsrTask

MEGAPIXELS = (4.0, 1.0)


def graph_of(*tasks):
    """Two raw frames, each going through the tasks one after the other."""
    nodes = [SimpleNamespace(label=task.lower(), task=task) for task in tasks]
    quanta = []
    for size in MEGAPIXELS:
        item = SimpleNamespace(storage="raw", size=int(2e6 * size))
        for node in nodes:
            quanta.append(Quantum(len(quanta), node, {}, (("input", (item,), False),)))
            item = (len(quanta) - 1, "exposure")
    reports = {node.label: NodeReport(node.label, quanta=len(MEGAPIXELS)) for node in nodes}
    return SimpleNamespace(pipeline=SimpleNamespace(nodes=nodes), reports=reports, quanta=quanta)


def repository_with(*rows):
    return SimpleNamespace(registry=SimpleNamespace(fetch=lambda _: rows))


@pytest.mark.parametrize("task", [IsrTask, CharacterizeImageTask])
def test_a_task_that_never_ran_costs_what_is_typical_of_its_pixels(task):
    costs = estimate_cost(repository_with(), graph_of("IsrTask", "CharacterizeImageTask"))
    cost = costs[task.__name__.lower()]
    cpu, memory = task.typical_cost
    assert cost["basis"] == "typical"
    assert cost["quanta"] == 2
    assert cost["cpu_seconds"] == pytest.approx(cpu * sum(MEGAPIXELS), abs=0.051)
    assert cost["max_rss"] == pytest.approx(1e6 * (INTERPRETER_MB + memory * max(MEGAPIXELS)))


def test_earlier_runs_are_believed_more():
    row = SimpleNamespace(task="IsrTask", cpu=1.5, rss=400_000_000)
    costs = estimate_cost(repository_with(row), graph_of("IsrTask", "CharacterizeImageTask"))
    assert costs["isrtask"] == {
        "quanta": 2, "cpu_seconds": 3.0, "max_rss": 400_000_000, "basis": "earlier runs",
    }  # fmt: skip
    assert costs["characterizeimagetask"]["basis"] == "typical"


def test_nothing_is_said_about_a_task_of_unknown_cost():
    costs = estimate_cost(repository_with(), graph_of("SourceDetectionTask"))
    assert costs["sourcedetectiontask"] == {"quanta": 2, "cpu_seconds": None, "max_rss": None, "basis": None}
