"""What the runner asks of an executor: take a message, give answers back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

#: Status of an answer when the worker was lost before it could answer; the runner tries again.
LOST = "lost"


class Executor(Protocol):
    """Runs quanta somewhere.

    Answers are those of `starmill.execution.quantum_work.run_quantum`, or have the status `LOST` with an
    ``error`` that says how the worker was lost.
    """

    @property
    def free(self) -> int:
        """How many further messages make sense to submit now."""

    @property
    def running(self) -> int:
        """How many messages have no answer yet."""

    def submit(self, message: Mapping[str, Any]) -> None:
        """Take a message for execution."""

    def wait(self, timeout: float) -> list[dict[str, Any]]:
        """Return answers that have arrived, waiting up to `timeout` seconds for the first."""

    def close(self) -> None:
        """End all workers; unanswered messages are given up."""
