"""Many writers at once, locks held by others, a server that restarts: on both databases."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from starmill.errors import RepositoryError
from starmill.execution.local import InProcessExecutor
from starmill.execution.runner import Runner
from starmill.execution.source import RepositorySource
from starmill.pipelines import build_graph, parse_pipeline
from starmill.repository import DatasetConflictError, Repository, registry
from starmill.repository.migrations import upgrade_registry
from starmill.repository.verify import verify
from tests.execution import toy_tasks
from tests.repository.conftest import NUMBER

ROOT = Path(__file__).resolve().parents[2]
WRITERS, COUNT = 16, 6


def test_sixteen_writers_at_once(tmp_path, repository):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [
        sys.executable,
        "-m",
        "tests.repository.hammer",
        str(tmp_path / "repo"),
        str(WRITERS),
        str(COUNT),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    refs = repository.query("number", collections="hammered")
    assert len(refs) == WRITERS * COUNT + COUNT
    report = verify(repository)
    assert report.is_clean, report
    assert report.checked == WRITERS * COUNT + COUNT


def test_threads_share_one_repository(repository):
    errors = []

    def work(number):
        try:
            for exposure in range(10):
                repository.put({"v": number}, "number", instrument=f"cam{number}", exposure=exposure)
        except RepositoryError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(repository.query("number")) == 40


def test_two_writers_of_different_content_cannot_both_win(tmp_path, repository):
    outcomes = []

    def work(number):
        with Repository(tmp_path / "repo", output="race") as own:
            for exposure in range(20):
                try:
                    own.put({"by": number}, "number", instrument="cam", exposure=exposure)
                    outcomes.append("won")
                except DatasetConflictError:
                    outcomes.append("lost")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("won") == outcomes.count("lost") == 20
    assert verify(repository).is_clean


HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


LONG = pytest.mark.skipif(
    "STARMILL_LONG_TESTS" not in os.environ, reason="a minute: set STARMILL_LONG_TESTS=1"
)


@pytest.mark.parametrize("seconds", [1.0, pytest.param(60.0, marks=[pytest.mark.slow, LONG])])
def test_a_lock_held_by_another_process_is_waited_for(tmp_path, small_repository, seconds):
    database = tmp_path / "repo" / "registry.sqlite3"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    begin = time.monotonic()
    small_repository.put({"v": 1}, "number", instrument="cam", exposure=1)
    assert time.monotonic() - begin > 0.8 * seconds, "the writer must wait"
    holder.communicate(timeout=60)
    assert holder.returncode == 0
    assert small_repository.get("number", exposure=1) == {"v": 1}
    assert verify(small_repository).is_clean
    assert registry.LOCK_TIMEOUT > 60, "a lock held for a minute is waited for"


def test_readers_are_not_kept_waiting_by_a_writer(tmp_path, small_repository):
    small_repository.put({"v": 1}, "number", instrument="cam", exposure=1)
    connection = sqlite3.connect(tmp_path / "repo" / "registry.sqlite3", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    assert small_repository.get("number", exposure=1) == {"v": 1}
    connection.execute("ROLLBACK")
    connection.close()


def test_a_database_restarted_in_mid_run_loses_nothing(tmp_path, postgres):
    url = postgres.new_database("starmill_restart")
    pipeline = parse_pipeline(toy_tasks.PIPELINE)
    with Repository.create(tmp_path / "repo", registry=url, output="base") as repository:
        repository.register_dataset_types([NUMBER])
        for number in range(30):
            repository.put({"v": number}, "number", instrument="cam", exposure=number)
    restarts = []

    def restart(event):
        if event["event"] == "quantum_finished" and len(restarts) < 2:
            restarts.append(True)
            postgres.restart()

    with Repository(tmp_path / "repo", inputs="base", output="toys") as repository:
        graph = build_graph(pipeline, RepositorySource(repository, pipeline))
        summary = Runner(repository, graph, InProcessExecutor(), "toys", sinks=[restart]).run()
        assert len(restarts) == 2
        assert summary.exit_code == 0, summary.errors
        assert repository.get("sum")["n"] == 30
        assert verify(repository).is_clean


def test_migrations_make_the_same_tables(tmp_path, registry_url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from starmill.repository.schema import SCHEMA_VERSION, metadata

    url = registry_url or f"sqlite:///{tmp_path}/fresh.sqlite3"
    assert upgrade_registry(url) == (None, SCHEMA_VERSION)
    assert upgrade_registry(url) == (SCHEMA_VERSION, SCHEMA_VERSION)
    engine = registry.make_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_registry_of_a_newer_schema_is_refused(tmp_path, repository):
    import sqlalchemy as sa

    repository.registry.change(
        lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    )
    with pytest.raises(RepositoryError, match="newer starmill"):
        Repository(tmp_path / "repo")
    with pytest.raises(RepositoryError, match="newer"):
        upgrade_registry(repository.config.registry_url(repository.root))


def test_an_unreachable_database_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "RECONNECT_TIMEOUT", 0.2)
    with pytest.raises(RepositoryError, match="cannot make a registry"):
        Repository.create(tmp_path / "repo", registry="postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert not (tmp_path / "repo" / "repository.yaml").exists()
