"""Runs in process: results, resume, failures, conflicts, provenance, repetition."""

from __future__ import annotations

import json

import pytest

from starmill.errors import RepositoryError
from starmill.execution.provenance import format_tree, provenance_tree
from starmill.execution.rerun import is_identical, rerun_dataset
from starmill.execution.session import plan, run_pipeline
from starmill.execution.status import failures, sessions
from starmill.repository import Repository
from starmill.repository.verify import verify
from tests.execution.conftest import products


def total(summary, state):
    return summary.total(state)


def test_everything_runs_once(make_numbers, request_for):
    root = make_numbers(6)
    first = run_pipeline(request_for(root))
    assert first.exit_code == 0
    assert first.counts["add"]["done"] == 6
    with Repository(root) as repository:
        assert repository.get("sum") == {"v": 15 + 6, "n": 6}
        assert verify(repository).is_clean
    before = products(root)
    second = run_pipeline(request_for(root))
    assert second.exit_code == 0
    assert total(second, "cached") == 7
    assert total(second, "done") == 0
    assert products(root) == before


def test_more_data_go_on_where_it_was(make_numbers, request_for):
    root = make_numbers(6)
    run_pipeline(request_for(root, where="exposure < 3", output="some"))
    later = run_pipeline(request_for(root, output="some", replace=True))
    assert later.counts["add"]["cached"] == 3
    assert later.counts["add"]["done"] == 3
    with Repository(root) as repository:
        assert repository.get("sum", collections="some")["n"] == 6
        assert verify(repository).is_clean


def test_other_inputs_or_configuration_are_a_conflict(make_numbers, request_for):
    root = make_numbers(2)
    run_pipeline(request_for(root))
    before = products(root)
    other = run_pipeline(request_for(root, config={"add.amount": 5}))
    assert other.exit_code == 1
    assert "another configuration" in other.errors[0]["message"]
    assert products(root) == before
    replaced = run_pipeline(request_for(root, config={"add.amount": 5}, replace=True))
    assert replaced.exit_code == 0
    with Repository(root) as repository:
        assert repository.get("total", exposure=1)["v"] == 6
        assert verify(repository).is_clean


def test_failures_are_recorded_and_the_rest_goes_on(make_numbers, request_for):
    root = make_numbers(5, {1: "fail", 3: "nothing"})
    summary = run_pipeline(request_for(root))
    assert summary.exit_code == 1
    add = summary.counts["add"]
    assert (add["done"], add["failed"], add["no_work"]) == (3, 1, 1)
    assert summary.counts["sum"]["done"] == 1
    error = summary.errors[0]
    assert (error["type"], error["numbers"], error["data_id"]) == (
        "AlgorithmError",
        {"v": 1},
        "instrument=cam,exposure=1",
    )
    assert "toy_tasks.py" in error["traceback"]
    assert "this number cannot be added" in summary.table()
    with Repository(root, writable=False) as repository:
        assert failures(repository)[0]["numbers"] == {"v": 1}
        assert sessions(repository)[0]["state"] == "finished"
        assert sessions(repository)[0]["counts"]["add"]["done"] == 3
    again = run_pipeline(request_for(root))
    assert again.exit_code == 1
    assert again.counts["add"] == {"total": 5, "cached": 3, "no_work": 1, "failed_earlier": 1}
    retried = run_pipeline(request_for(root, retry_failed=True))
    assert retried.counts["add"]["failed"] == 1


def test_fail_fast_stops(make_numbers, request_for):
    root = make_numbers(60, dict.fromkeys(range(60), "fail"))
    summary = run_pipeline(request_for(root, fail_fast=True))
    assert summary.exit_code == 1
    assert summary.total("failed") < 60


def test_what_depends_on_a_failure_is_blocked(make_numbers, request_for):
    root = make_numbers(2, {0: "fail", 1: "fail"})
    summary = run_pipeline(request_for(root))
    assert summary.counts["sum"] == {"total": 1, "blocked": 1}
    assert summary.exit_code == 1


def test_an_empty_graph_explains_itself(make_numbers, request_for):
    root = make_numbers(2)
    with plan(request_for(root, where="exposure > 10")) as prepared:
        assert len(prepared.graph) == 0
        assert "found 0 number" in prepared.graph.explain()


def test_a_lost_product_is_made_again(make_numbers, request_for):
    root = make_numbers(3)
    run_pipeline(request_for(root))
    before = products(root)
    with Repository(root) as repository:
        ref = repository.find("total", exposure=1)
        (root / ref.path).unlink()
        report = verify(repository)
        assert report.missing == [ref.path]
    again = run_pipeline(request_for(root))
    assert again.counts["add"]["done"] == 1
    assert products(root) == before
    with Repository(root) as repository:
        assert verify(repository).is_clean


def test_provenance_names_task_configuration_and_inputs(make_numbers, request_for):
    root = make_numbers(3)
    run_pipeline(request_for(root, config={"add.amount": 4}))
    with Repository(root) as repository:
        tree = provenance_tree(repository, repository.find("sum"))
        assert tree["made_by"]["task"] == "SumNumbersTask"
        assert [item["inputs"][0]["dataset_type"] for item in tree["inputs"]] == ["number"] * 3
        assert tree["inputs"][0]["made_by"]["versions"]["starmill"]
        assert str(root) not in json.dumps(tree), "provenance holds no machine path"
        text = "\n".join(format_tree(tree))
        assert text.count("number (instrument=cam") == 3


def test_a_product_is_made_again_to_the_same_bytes(make_numbers, request_for, tmp_path):
    root = make_numbers(3)
    run_pipeline(request_for(root))
    with Repository(root) as repository:
        ref = repository.find("total", exposure=2)
        report = rerun_dataset(repository, ref, keep=tmp_path / "kept")
        assert is_identical(report)
        assert report.identical == {"total": True}
        kept = next((tmp_path / "kept").iterdir())
        assert kept.read_bytes() == (root / ref.path).read_bytes()
        with pytest.raises(RepositoryError, match="not made by a pipeline"):
            rerun_dataset(repository, repository.find("number", exposure=2))
        repository.put({"v": 99}, "number", instrument="cam", exposure=2, run="base", replace=True)
        with pytest.raises(RepositoryError, match="no longer there"):
            rerun_dataset(repository, repository.find("total", exposure=2))
        assert verify(repository).is_clean


def test_the_status_is_complete_before_the_first_quantum(make_numbers, request_for):
    root, seen = make_numbers(3), []

    def look(event):
        if event["event"] == "run_started":
            with Repository(root, writable=False) as repository:
                seen.extend(sessions(repository))

    run_pipeline(request_for(root), sinks=[look])
    assert seen[0]["state"] == "running"
    assert seen[0]["counts"]["add"]["total"] == 3


def test_events_tell_the_story(make_numbers, request_for):
    root = make_numbers(2, {1: "fail"})
    events = []
    run_pipeline(request_for(root), sinks=[events.append])
    names = [event["event"] for event in events]
    assert names[0] == "run_started"
    assert names[-1] == "run_finished"
    finished = [event for event in events if event["event"] == "quantum_finished"]
    assert {event["status"] for event in finished} == {"done", "failed"}
    assert all(event["cpu_seconds"] >= 0 and event["max_rss"] > 0 for event in finished)
    lines = next((root / ".starmill" / "events").glob("*.jsonl")).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == names


def test_an_interrupted_run_goes_on(make_numbers, request_for):
    root = make_numbers(200)
    seen = []

    def interrupt(event):
        seen.append(event)
        if len(seen) == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(request_for(root), sinks=[interrupt])
    with Repository(root) as repository:
        assert verify(repository).is_clean
        assert sessions(repository)[0]["state"] == "interrupted"
        assert "running" not in sessions(repository)[0]["counts"]["add"]
    summary = run_pipeline(request_for(root))
    assert summary.exit_code == 0
    assert summary.total("cached") > 0
    reference = make_numbers(200, name="reference")
    run_pipeline(request_for(reference))
    assert products(root) == products(reference)
