"""Execution in the process of the runner itself: the simplest executor, for one core and for debugging."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from starmill.execution.interrupts import noticed_interrupts
from starmill.execution.quantum_work import run_quantum


class InProcessExecutor:
    """Runs one quantum after the other, each when `wait` is called."""

    def __init__(self) -> None:
        self._queue: deque[Mapping[str, Any]] = deque()

    @property
    def free(self) -> int:
        """A short queue is enough to never be idle."""
        return 4 - len(self._queue)

    @property
    def running(self) -> int:
        """Messages in the queue."""
        return len(self._queue)

    def submit(self, message: Mapping[str, Any]) -> None:
        """Put a message into the queue."""
        self._queue.append(message)

    def wait(self, timeout: float) -> list[dict[str, Any]]:  # noqa: ARG002
        """Work on the next message and return its answer."""
        if not self._queue:
            return []
        with noticed_interrupts() as interrupts:
            answer = run_quantum(self._queue.popleft())
        if interrupts:
            raise KeyboardInterrupt
        return [answer]

    def close(self) -> None:
        """Give up what is in the queue."""
        self._queue.clear()
