"""Runs on a local Dask cluster: same bytes as a serial run, also when workers or the scheduler die."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from starmill.errors import ConfigError
from starmill.execution.distributed import DaskExecutor, read_cluster_file
from starmill.execution.pool import WorkerSettings
from starmill.execution.runner import Runner
from starmill.execution.session import plan, run_pipeline
from starmill.repository import Repository
from starmill.repository.verify import verify
from tests.execution.conftest import MODULES, ROOT, products

pytest.importorskip("distributed", reason="Dask is not installed (extra 'dask')")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Dask's own warnings about ports and slow disks
]


class Cluster:
    """A scheduler and workers as processes of their own, so that each can be killed."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
        }
        self.scheduler = self.start_scheduler()
        self.workers = [self.start_worker() for _ in range(2)]

    def start_scheduler(self):
        """Start the scheduler on its port."""
        return self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def start_worker(self):
        """Start one worker with one thread; nobody restarts it."""
        return self._start(
            "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60",
            "--local-directory", str(self.folder),
        )  # fmt: skip

    def _start(self, *words):
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder,
        )  # fmt: skip

    def stop(self):
        """End everything."""
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    """Give a running cluster."""
    new = Cluster(tmp_path)
    yield new
    new.stop()


def _run(request, cluster, sinks=()):
    executor = DaskExecutor(cluster.address, WorkerSettings(modules=MODULES, paths=(str(ROOT),)))
    try:
        with plan(request) as prepared:
            return Runner(prepared.repository, prepared.graph, executor, request.output, sinks=sinks).run()
    finally:
        executor.close()


def test_dask_gives_the_bytes_of_a_serial_run_with_workers_killed(make_numbers, request_for, cluster):
    serial, parallel = make_numbers(60, name="serial"), make_numbers(60, name="parallel")
    run_pipeline(request_for(serial))
    killed = []

    def kill_some(event):
        if event["event"] == "quantum_finished" and len(killed) < 3:
            victim = cluster.workers[len(killed) % 2]
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            killed.append(victim.pid)
            cluster.workers[(len(killed) - 1) % 2] = cluster.start_worker()

    summary = _run(request_for(parallel), cluster, [kill_some])
    assert summary.exit_code == 0, summary.errors
    assert len(killed) == 3
    assert products(parallel) == products(serial)
    with Repository(parallel) as repository:
        assert verify(repository).is_clean


def test_a_restarted_scheduler_loses_nothing(make_numbers, request_for, cluster):
    root = make_numbers(40)
    restarted = []

    def restart(event):
        if event["event"] == "quantum_finished" and not restarted:
            restarted.append(True)
            cluster.scheduler.send_signal(signal.SIGKILL)
            cluster.scheduler.wait()
            for worker in cluster.workers:
                worker.kill()
                worker.wait()
            time.sleep(0.3)
            cluster.scheduler = cluster.start_scheduler()
            cluster.workers = [cluster.start_worker() for _ in range(2)]

    summary = _run(request_for(root, config={"add.delay": 0.02}), cluster, [restart])
    assert restarted
    assert summary.exit_code == 0, summary.errors
    assert len(products(root)) == 41
    with Repository(root) as repository:
        assert verify(repository).is_clean


def test_cluster_files_are_checked(tmp_path):
    path = tmp_path / "slurm.yaml"
    path.write_text("cluster: SLURMCluster\nworkers: 4\noptions: {queue: short, cores: 8, memory: 32GB}\n")
    assert read_cluster_file(path)["options"]["queue"] == "short"
    for text, message in (
        ("cluster: os.system\nworkers: 1\n", "cluster is one of"),
        ("cluster: SLURMCluster\n", "either 'workers' or 'adapt'"),
        ("cluster: SLURMCluster\nworker: 1\n", "did you mean 'workers'"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_cluster_file(path)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    from starmill.errors import RepositoryError
    from starmill.execution import distributed

    monkeypatch.setattr(distributed, "_CONNECT", 0.3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(RepositoryError, match=f"no Dask scheduler answers at {address}"):
        DaskExecutor(address, WorkerSettings(), workers=1)
