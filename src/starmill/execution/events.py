"""Events of a run as lines of JSON, for machines that watch and for a look afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Protocol

from starmill.repository.layout import PRIVATE_FOLDER

EVENTS_FOLDER = "events"


class EventSink(Protocol):
    """Takes events; each is a mapping of plain values with ``event`` and ``time``."""

    def __call__(self, event: dict[str, Any]) -> None:
        """Take one event."""


class EventWriter:
    """Writes events as lines of JSON to a stream or a file.

    Parameters
    ----------
    target : path or stream
        A path is opened for appending.
    """

    def __init__(self, target: Path | IO[str]) -> None:
        self._owned = isinstance(target, Path)
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._stream: IO[str] = target.open("a", encoding="utf-8", buffering=1)
        else:
            self._stream = target

    def __call__(self, event: dict[str, Any]) -> None:
        """Write one event."""
        self._stream.write(json.dumps(event) + "\n")

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owned:
            self._stream.close()


def broadcast(sinks: Iterable[EventSink], session: str) -> Callable[..., None]:
    """Return a function ``emit(name, **values)`` that gives an event to all sinks."""
    chosen = list(sinks)

    def emit(name: str, **values: Any) -> None:
        event = {"time": round(time.time(), 3), "session": session, "event": name, **values}
        for sink in chosen:
            sink(event)

    return emit


def events_path(root: Path, session: str) -> Path:
    """Return the file that keeps the events of a session."""
    return root / PRIVATE_FOLDER / EVENTS_FOLDER / f"{session}.jsonl"
