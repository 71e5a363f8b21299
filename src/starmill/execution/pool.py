"""Execution on several cores: long-lived worker processes, capped in memory, replaced when they die."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from starmill.errors import RepositoryError
from starmill.execution.executor import LOST
from starmill.execution.messages import MessageBuffer, encode

_START_TIMEOUT = 120.0
_MAX_FAILED_STARTS = 3


@dataclass(frozen=True)
class WorkerSettings:
    """How workers are started.

    Attributes
    ----------
    modules : tuple of str
        Modules with further tasks to import.
    paths : tuple of str
        Folders to append to the import path.
    memory : int or None
        Limit of one worker, byte.
    timeout : float or None
        Longest time of one quantum, second.
    threads : int
        Threads inside one quantum.
    """

    modules: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    memory: int | None = None
    timeout: float | None = None
    threads: int = 1


class _Worker:
    """One worker process with the message it works on."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the worker
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "starmill.execution.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            start_new_session=True,  # an interrupt of the terminal reaches the runner, which ends the workers
        )
        assert self.process.stdout is not None  # noqa: S101
        os.set_blocking(self.process.stdout.fileno(), False)
        self.buffer = MessageBuffer()
        self.message: Mapping[str, Any] | None = None
        self.since = time.monotonic()
        self.is_ready = False
        self.is_retiring = False
        self.send(
            {
                "modules": list(settings.modules),
                "paths": list(settings.paths),
                "memory": settings.memory,
                "threads": settings.threads,
            }
        )

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; a dead worker is noticed when its answers are read."""
        assert self.process.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(encode(dict(message)))
            self.process.stdin.flush()
        self.since = time.monotonic()

    def last_words(self) -> str:
        """Return the end of what the worker wrote to standard error."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 4000))
        return self.errors.read().decode("utf-8", "replace").strip()

    def end(self, *, kill: bool) -> None:
        """End the process and close its pipes."""
        if kill:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


class PoolExecutor:
    """Runs quanta in worker processes.

    Parameters
    ----------
    workers : int
        How many.
    settings : WorkerSettings, optional
        How they are started.
    """

    def __init__(self, workers: int, settings: WorkerSettings | None = None) -> None:
        if workers < 1:
            raise RepositoryError(f"a pool needs at least one worker, not {workers}")
        self.settings = settings or WorkerSettings()
        self.size = workers
        self._queue: deque[Mapping[str, Any]] = deque()
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self.restarts = 0
        for _ in range(workers):
            self._start()

    @property
    def free(self) -> int:
        """Keep a few messages waiting, so that no worker has to wait for the runner."""
        return 2 * self.size - self.running

    @property
    def running(self) -> int:
        """Messages without an answer."""
        return len(self._queue) + sum(worker.message is not None for worker in self._workers)

    def submit(self, message: Mapping[str, Any]) -> None:
        """Take a message; an idle worker begins at once."""
        self._queue.append(message)
        self._feed()

    def wait(self, timeout: float) -> list[dict[str, Any]]:
        """Return the answers that have arrived."""
        answers: list[dict[str, Any]] = []
        for key, _ in self._selector.select(timeout):
            answers += self._listen(key.data)
        answers += self._end_overdue()
        self._feed()
        return answers

    def close(self) -> None:
        """End all workers."""
        self._queue.clear()
        for worker in self._workers:
            worker.end(kill=worker.message is not None)
        self._workers.clear()
        self._selector.close()

    def processes(self) -> list[int]:
        """Process numbers of the workers."""
        return [worker.process.pid for worker in self._workers]

    def _start(self) -> None:
        worker = _Worker(self.settings)
        self._workers.append(worker)
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]

    def _feed(self) -> None:
        for worker in self._workers:
            if self._queue and worker.is_ready and worker.message is None and not worker.is_retiring:
                worker.message = self._queue.popleft()
                worker.send(worker.message)

    def _listen(self, worker: _Worker) -> list[dict[str, Any]]:
        assert worker.process.stdout is not None  # noqa: S101
        answers = []
        ended = False
        try:
            while data := os.read(worker.process.stdout.fileno(), 1 << 20):
                for message in worker.buffer.feed(data):
                    answers += self._hear(worker, message)
            ended = True
        except BlockingIOError:
            ended = False
        if ended:
            answers += self._replace(worker)
        elif worker.is_retiring:
            self._replace(worker)
        return answers

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> list[dict[str, Any]]:
        if "ready" in message:
            worker.is_ready = True
            self._failed_starts = 0
            return []
        worker.message = None
        limit = self.settings.memory
        worker.is_retiring = limit is not None and message.get("memory", 0) > 0.9 * limit
        return [message]

    def _replace(self, worker: _Worker, *, reason: str = "") -> list[dict[str, Any]]:
        """Start a new worker for one that has died or must go; return the loss of its message, if any."""
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        self._workers.remove(worker)
        words = worker.last_words() if not worker.is_retiring else ""
        worker.end(kill=not worker.is_retiring)
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise RepositoryError(f"workers cannot be started: {words or worker.process.returncode}")
        self.restarts += 1
        self._start()
        if worker.message is None:
            return []
        code = worker.process.returncode
        how = reason or (f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}")
        error = {
            "type": "WorkerTimeout" if reason else "WorkerLost",
            "message": f"the worker {how}",
            "numbers": {},
            "exit_code": 70,
            "traceback": words,
        }
        message = worker.message
        return [
            {
                "id": message["id"],
                "attempt": message["attempt"],
                "status": LOST,
                "outputs": {},
                "error": error,
                "seconds": time.monotonic() - worker.since,
                "cpu_seconds": 0.0,
                "max_rss": 0,
            }
        ]

    def _end_overdue(self) -> list[dict[str, Any]]:
        answers = []
        now = time.monotonic()
        for worker in list(self._workers):
            limit = self.settings.timeout if worker.message is not None else None
            if not worker.is_ready:
                limit = _START_TIMEOUT
            if limit is not None and now - worker.since > limit:
                answers += self._replace(worker, reason=f"needed more than {limit:g} s")
        return answers


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
