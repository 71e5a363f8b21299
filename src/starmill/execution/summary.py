"""What a run has done: counts by task, errors, and the exit code they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: done now, done by an earlier run, nothing to do, failed, failed by an earlier run, not run for lack of inputs
STATES = ("done", "cached", "no_work", "failed", "failed_earlier", "blocked")


@dataclass
class RunSummary:
    """Result of a run.

    Attributes
    ----------
    session, run : str
        Identifier; collection that was written.
    counts : dict
        Task label to counts by state (`STATES`), ``total`` and ``running``.
    errors : list of dict
        Label, data ID, type, message, numbers and traceback of what failed.
    cpu_seconds, seconds : float
        CPU of all quanta; wall time of the run.
    max_rss : int
        Largest memory of a worker, byte.
    interrupted : bool
        Ended before everything was tried.
    """

    session: str
    run: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    max_rss: int = 0
    interrupted: bool = False

    def total(self, state: str) -> int:
        """Return the number of quanta in a state, over all tasks."""
        return sum(counts.get(state, 0) for counts in self.counts.values())

    @property
    def exit_code(self) -> int:
        """0 all good, 1 some failed, 4 nothing to do, 130 interrupted."""
        if self.interrupted:
            return 130
        if self.total("failed") or self.total("failed_earlier"):
            return 1
        return 0 if self.total("done") or self.total("cached") else 4

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "session": self.session,
            "run": self.run,
            "counts": self.counts,
            "errors": self.errors,
            "cpu_seconds": round(self.cpu_seconds, 3),
            "seconds": round(self.seconds, 3),
            "max_rss": self.max_rss,
            "exit_code": self.exit_code,
        }

    def table(self) -> str:
        """Text table: one row per task."""
        width = max([4, *(len(label) for label in self.counts)])
        lines = [f"{'task':{width}}" + "".join(f"{state.replace('_', ' '):>16}" for state in STATES)]
        for label, counts in self.counts.items():
            lines.append(f"{label:{width}}" + "".join(f"{counts.get(state, 0):16d}" for state in STATES))
        lines.append(
            f"{self.cpu_seconds:.1f} CPU s in {self.seconds:.1f} s, largest worker {self.max_rss / 1e6:.0f} MB"
        )
        for error in self.errors[:10]:
            numbers = ", ".join(f"{name}={value}" for name, value in error.get("numbers", {}).items())
            lines.append(
                f"failed: {error['label']} ({error['data_id']}): {error['type']}: {error['message']}"
                + (f" [{numbers}]" if numbers else "")
            )
        if len(self.errors) > 10:
            lines.append(f"and {len(self.errors) - 10} further errors (starmill status --errors shows them)")
        return "\n".join(lines)
