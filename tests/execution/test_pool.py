"""Runs on worker processes: same bytes, and workers that die, hang or eat all memory lose nothing."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from starmill.execution import quantum_work
from starmill.execution.messages import MessageBuffer, encode
from starmill.execution.runner import Runner, RunOptions
from starmill.execution.session import plan, run_pipeline
from starmill.repository import Repository
from starmill.repository.verify import verify
from tests.execution.conftest import products


def _run(request, executor, sinks=()):
    with plan(request) as prepared:
        return Runner(prepared.repository, prepared.graph, executor, request.output, sinks=sinks).run()


def test_messages_arrive_whole_in_any_pieces():
    messages = [{"a": 1}, {"text": "ü" * 3000}, {}]
    data = b"".join(encode(message) for message in messages)
    buffer = MessageBuffer()
    received = [
        message for start in range(0, len(data), 7) for message in buffer.feed(data[start : start + 7])
    ]
    assert received == messages


def test_the_pool_gives_the_bytes_of_a_serial_run(make_numbers, request_for, pool):
    serial, parallel = make_numbers(40, name="serial"), make_numbers(40, name="parallel")
    run_pipeline(request_for(serial))
    summary = _run(request_for(parallel), pool(2))
    assert summary.exit_code == 0
    assert products(serial) == products(parallel)


def test_workers_that_are_killed_lose_nothing(make_numbers, request_for, pool):
    root = make_numbers(40)
    executor = pool(2)
    killed = []

    def kill_some(event):
        if event["event"] == "quantum_finished" and len(killed) < 3:
            killed.append(executor.processes()[0])
            os.kill(killed[-1], signal.SIGKILL)

    summary = _run(request_for(root, config={"add.delay": 0.01}), executor, [kill_some])
    assert summary.exit_code == 0
    assert len(killed) == 3
    assert len(products(root)) == 41
    with Repository(root) as repository:
        assert verify(repository).is_clean


def test_a_quantum_that_kills_its_worker_fails_and_the_rest_goes_on(
    make_numbers, request_for, pool, tmp_path
):
    mark = tmp_path / "died"
    root = make_numbers(8, {2: "die", 5: f"die once {mark}"})
    summary = _run(request_for(root), pool(2))
    assert summary.counts["add"]["done"] == 7
    assert mark.exists()
    assert [(error["type"], error["message"]) for error in summary.errors] == [
        ("WorkerLost", "the worker was killed by SIGKILL")
    ]


def test_a_quantum_that_hangs_is_ended(make_numbers, request_for, pool):
    root = make_numbers(4, {1: "hang"})
    with plan(request_for(root)) as prepared:
        options = RunOptions(attempts=1)
        summary = Runner(
            prepared.repository, prepared.graph, pool(2, timeout=4.0), "toys", options=options
        ).run()
    assert summary.counts["add"]["done"] == 3
    assert summary.errors[0]["type"] == "WorkerTimeout"


def test_a_quantum_that_wants_too_much_memory_fails(make_numbers, request_for, pool):
    root = make_numbers(4, {1: "eat"})
    summary = _run(request_for(root), pool(2, memory=1_500_000_000))
    assert summary.counts["add"]["done"] == 3
    assert summary.errors[0]["type"] == "MemoryError"
    assert "the 1500 MB that a worker may use" in summary.errors[0]["message"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory", "library.so"),
        ImportError("library.so: failed to map segment from shared object"),
        ImportError("library.so: cannot map zero-fill pages"),
    ],
)
def test_every_want_of_memory_is_called_so(monkeypatch, error):
    def work(message):
        raise error

    monkeypatch.setattr(quantum_work, "_work", work)
    said = quantum_work.run_quantum({"id": 1, "attempt": 1})["error"]
    assert said["type"] == "MemoryError"
    assert "--mem-limit" in said["message"]
    assert str(error) in said["message"]


def test_the_request_starts_and_ends_a_pool(make_numbers, request_for):
    root = make_numbers(4)
    summary = run_pipeline(request_for(root, workers=2))
    assert summary.exit_code == 0
    assert summary.max_rss > 0
