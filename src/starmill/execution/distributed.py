"""Execution on a Dask cluster: only messages of plain text travel, never pixels and never our objects.

Workers need the same installation of starmill and a file system (or object store) in common with the runner.
A worker that dies gives its quanta back; a scheduler that restarts is connected to again, and what had no
answer is submitted again. An answer that comes twice is dropped by the runner.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starmill.errors import ConfigError, RepositoryError
from starmill.execution.executor import LOST
from starmill.execution.pool import WorkerSettings

log = logging.getLogger(__name__)

_CLUSTER_KEYS = ("cluster", "workers", "adapt", "options")
_CLUSTERS = (
    "SLURMCluster",
    "PBSCluster",
    "SGECluster",
    "LSFCluster",
    "HTCondorCluster",
    "OARCluster",
    "MoabCluster",
)
_CONNECT = 30.0  # second: how long a scheduler is waited for at the start
_RECONNECT = 300.0  # second: how long a restarting scheduler is waited for
_PREPARED: set[str] = set()


def run_text(settings: str, message: str) -> str:
    """Do one quantum on a Dask worker: JSON text in, JSON text out."""
    import sys

    from starmill.execution.quantum_work import run_quantum
    from starmill.execution.worker import set_threads
    from starmill.pipelines.task_names import import_task_modules

    if settings not in _PREPARED:
        values = json.loads(settings)
        sys.path.extend(path for path in values["paths"] if path not in sys.path)
        import_task_modules(values["modules"])
        set_threads(values["threads"])
        _PREPARED.add(settings)
    return json.dumps(run_quantum(json.loads(message)))


def read_cluster_file(path: str | Path) -> dict[str, Any]:
    """Read the YAML file of a batch-system cluster.

    Parameters
    ----------
    path : path
        ``cluster`` (a class of dask-jobqueue, as SLURMCluster), ``workers`` or ``adapt`` ({minimum, maximum}),
        ``options`` (keywords of the class: queue, cores, memory, walltime, ...).

    Returns
    -------
    values : dict
        Checked.
    """
    from starmill.errors import nearest_name
    from starmill.io.config import load_yaml

    values = load_yaml(path)
    for key in values:
        if key not in _CLUSTER_KEYS:
            near = nearest_name(key, _CLUSTER_KEYS)
            raise ConfigError(
                f"unknown key {key!r}" + (f"; did you mean '{near}'?" if near else ""), path=path
            )
    if values.get("cluster") not in _CLUSTERS:
        raise ConfigError(
            f"cluster is one of {', '.join(_CLUSTERS)}, not {values.get('cluster')!r}", path=path
        )
    if not isinstance(values.get("options", {}), dict) or not isinstance(values.get("adapt", {}), dict):
        raise ConfigError("'options' and 'adapt' hold names and values", path=path)
    if ("workers" in values) == ("adapt" in values):
        raise ConfigError("give either 'workers' or 'adapt'", path=path)
    return values


class DaskExecutor:
    """Runs quanta on the workers of a Dask cluster.

    Parameters
    ----------
    target : str
        Address of a running scheduler (``tcp://host:8786``), path of a cluster file, or ``local`` for a cluster
        of processes on this machine.
    settings : WorkerSettings, optional
        Task modules and threads; memory and time limits are those of the cluster.
    workers : int
        Processes of a local cluster.
    """

    def __init__(self, target: str, settings: WorkerSettings | None = None, *, workers: int = 2) -> None:
        try:
            import distributed
        except ImportError as error:
            raise ConfigError("Dask is not installed; install starmill[dask]") from error
        self._distributed = distributed
        logging.getLogger("distributed").setLevel(logging.ERROR)  # losses are reported by the runner
        self.settings = settings or WorkerSettings()
        self._prepared = json.dumps(
            {
                "modules": list(self.settings.modules),
                "paths": list(self.settings.paths),
                "threads": self.settings.threads,
            }
        )
        self._cluster = self._start_cluster(target, workers)
        self._address = target if self._cluster is None else self._cluster.scheduler_address
        self._client = self._connect(_CONNECT)
        self._futures: dict[Any, Mapping[str, Any]] = {}
        self._since: dict[Any, float] = {}
        self._threads_known = 0.0
        self._capacity = 4

    def _start_cluster(self, target: str, workers: int) -> Any:
        if "://" in target:
            return None
        if target == "local":
            return self._distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                host="127.0.0.1",
                silence_logs=50,
            )
        values = read_cluster_file(target)
        try:
            import dask_jobqueue
        except ImportError as error:
            raise ConfigError("dask-jobqueue is not installed; install starmill[dask]") from error
        cluster = getattr(dask_jobqueue, values["cluster"])(**values.get("options", {}))
        if "workers" in values:
            cluster.scale(int(values["workers"]))
        else:
            cluster.adapt(**values["adapt"])
        return cluster

    def _connect(self, patience: float) -> Any:
        deadline = time.monotonic() + patience
        while True:
            left = max(0.1, min(10.0, deadline - time.monotonic()))
            try:
                return self._distributed.Client(self._address, timeout=left, set_as_default=False)
            except (OSError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    message = f"no Dask scheduler answers at {self._address} within {patience:.0f} s: is it running?"
                    raise RepositoryError(message) from error
                time.sleep(min(1.0, left))

    @property
    def free(self) -> int:
        """Two messages per thread of the cluster are kept on their way."""
        now = time.monotonic()
        if now - self._threads_known > 2.0:
            self._threads_known = now
            with contextlib.suppress(OSError, TimeoutError, AttributeError):
                workers = self._client.scheduler_info(n_workers=-1).get("workers", {})
                self._capacity = max(4, 2 * sum(worker["nthreads"] for worker in workers.values()))
        return self._capacity - len(self._futures)

    @property
    def running(self) -> int:
        """Messages without an answer."""
        return len(self._futures)

    def submit(self, message: Mapping[str, Any]) -> None:
        """Send a message to the cluster."""
        text = json.dumps(dict(message))
        name = f"{message['label']}-{message['id']}-{message['attempt']}-{time.monotonic_ns()}"
        future = self._client.submit(run_text, self._prepared, text, key=name, pure=False, retries=0)
        self._futures[future] = message
        self._since[future] = time.monotonic()

    def wait(self, timeout: float) -> list[dict[str, Any]]:
        """Return answers that have arrived."""
        if self._client.status not in {"running", "connecting"}:
            return self._reconnect()
        deadline = time.monotonic() + timeout
        finished = [future for future in self._futures if future.done()]
        while not finished and time.monotonic() < deadline:
            time.sleep(0.002)
            finished = [future for future in self._futures if future.done()]
        answers = [self._answer(future) for future in finished]
        return answers + self._end_overdue()

    def _answer(self, future: Any) -> dict[str, Any]:
        message = self._futures.pop(future)
        began = self._since.pop(future)
        try:
            answer: dict[str, Any] = json.loads(future.result(timeout=30))
        except Exception as error:  # noqa: BLE001  whatever the cluster did: the worker is lost, the runner tries again
            answer = _lost(message, type(error).__name__, str(error)[:500], time.monotonic() - began)
        future.release()
        return answer

    def _end_overdue(self) -> list[dict[str, Any]]:
        limit = self.settings.timeout
        if limit is None:
            return []
        now = time.monotonic()
        overdue = [future for future, began in self._since.items() if now - began > 4 * limit]
        answers = []
        for future in overdue:  # waiting in the cluster's queue counts as well, hence the factor
            message = self._futures.pop(future)
            answers.append(
                _lost(message, "WorkerTimeout", "no answer in time", now - self._since.pop(future))
            )
            future.cancel()
        return answers

    def _reconnect(self) -> list[dict[str, Any]]:
        """Connect again after the scheduler has gone; everything without an answer counts as lost."""
        log.warning("the Dask scheduler %s has gone; connecting again", self._address)
        lost = [
            _lost(message, "SchedulerLost", "the scheduler has gone", 0.0)
            for message in self._futures.values()
        ]
        self._futures.clear()
        self._since.clear()
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close(timeout=1)
        self._client = self._connect(_RECONNECT)
        return lost

    def close(self) -> None:
        """Cancel what is on its way, and end a cluster that was started here."""
        with contextlib.suppress(OSError, TimeoutError):
            for future in self._futures:
                future.cancel()
            self._client.close(timeout=10)
        if self._cluster is not None:
            self._cluster.close(timeout=20)


def _lost(message: Mapping[str, Any], kind: str, text: str, seconds: float) -> dict[str, Any]:
    return {
        "id": message["id"],
        "attempt": message["attempt"],
        "status": LOST,
        "outputs": {},
        "error": {"type": kind, "message": text, "numbers": {}, "exit_code": 70, "traceback": ""},
        "seconds": seconds,
        "cpu_seconds": 0.0,
        "max_rss": 0,
    }
