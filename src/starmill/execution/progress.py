"""Progress of a run on a terminal: one live row per task, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

from starmill.execution.summary import STATES


class ProgressTable:
    """Shows events as a live table; takes the events of the runner.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    live : bool, optional
        Redraw a table; by default when standard error is a terminal.
    """

    def __init__(self, *, quiet: bool = False, live: bool | None = None) -> None:
        self.quiet = quiet
        self.live = sys.stderr.isatty() if live is None else live
        self.counts: dict[str, dict[str, int]] = {}
        self._start = time.monotonic()
        self._drawn = 0.0
        self._display: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        """Take one event of the runner."""
        name = event["event"]
        if name == "run_started":
            self.counts = {label: dict(counts) for label, counts in event["counts"].items()}
            self._open()
        elif name == "quantum_started":
            self._add(event["label"], "running", 1)
        elif name == "quantum_finished":
            self._add(event["label"], "running", -1)
            self._add(event["label"], event["status"], 1)
        elif name == "quantum_settled":
            self._add(event["label"], event["status"], 1)
        elif name == "run_finished":
            self._draw(force=True)
            self._close()
            return
        self._draw()

    def _add(self, label: str, state: str, change: int) -> None:
        counts = self.counts.setdefault(label, {"total": 0})
        counts[state] = counts.get(state, 0) + change

    def _open(self) -> None:
        self._start = time.monotonic()
        if self.live and not self.quiet:
            from rich.console import Console
            from rich.live import Live

            self._display = Live(
                self.table(), console=Console(stderr=True), refresh_per_second=4, transient=True
            )
            self._display.start()

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self.quiet:
            return
        if self._display is not None:
            if force or now - self._drawn > 0.25:
                self._drawn = now
                self._display.update(self.table())
        elif force or now - self._drawn > 10.0:
            self._drawn = now
            sys.stderr.write(" | ".join(self.lines()) + "\n")

    def _close(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def lines(self) -> list[str]:
        """One short text per task."""
        lines = []
        for label, counts in self.counts.items():
            settled = sum(counts.get(state, 0) for state in STATES)
            failed = counts.get("failed", 0) + counts.get("failed_earlier", 0)
            lines.append(
                f"{label} {settled}/{counts.get('total', 0)}" + (f" ({failed} failed)" if failed else "")
            )
        return lines

    def table(self) -> Any:
        """Return a rich table with rate and time left."""
        from rich.table import Table

        table = Table()
        for title in ("task", "done", "cached", "failed", "running", "left", "per min", "time left"):
            table.add_column(title, justify="left" if title == "task" else "right")
        elapsed = max(1e-3, time.monotonic() - self._start)
        for label, counts in self.counts.items():
            done = counts.get("done", 0) + counts.get("no_work", 0)
            failed = counts.get("failed", 0) + counts.get("failed_earlier", 0)
            settled = sum(counts.get(state, 0) for state in STATES)
            left = max(0, counts.get("total", 0) - settled)
            rate = (done + counts.get("failed", 0)) / elapsed
            table.add_row(
                label, str(done), str(counts.get("cached", 0)), str(failed), str(max(0, counts.get("running", 0))),
                str(left), f"{60 * rate:.1f}", _duration(left / rate) if rate > 0 and left else "-",
            )  # fmt: skip
        return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
