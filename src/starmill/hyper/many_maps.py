"""Many maps, several at a time in processes of their own, with what became of each."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from starmill.hyper.options import HyperOptions
from starmill.hyper.resume import earlier_table
from starmill.hyper.session import MapOutcome, map_outcome, read_map
from starmill.io.cubes import stem_of

__all__ = ["run_each", "work"]

_log = logging.getLogger("starmill.hyper")


def run_each(
    options: HyperOptions, paths: list[Path], *, advance: Callable[[str], None] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> list[MapOutcome]:  # fmt: skip
    """Photometer every map; one that fails, or kills its process, does not stop the others.

    Parameters
    ----------
    options : HyperOptions
        With ``control.parallel_maps``, ``control.n_cores`` maps at a time.
    paths : list of Path
    advance : callable, optional
        Called with a sentence when a map is done.
    changes : mapping, optional
        Values of the accurate mode by dotted name.

    Returns
    -------
    outcomes : list of MapOutcome
        In the order of the paths.
    """
    names = _unique_stems(paths)

    def tell(outcome: MapOutcome, *, kept: bool) -> None:
        found = outcome.error or f"{len(outcome.table)} sources"
        _log.info("%s: %s%s", outcome.name, found, ", kept from an earlier run" if kept else "")
        if advance is not None:
            advance(f"{outcome.name}: {found}{', kept' if kept else f' ({outcome.seconds:.1f} s)'}")

    workers = min(options["control.n_cores"], len(paths)) if options["control.parallel_maps"] else 1
    if workers <= 1:
        outcomes = []
        for path, name in zip(paths, names, strict=True):
            outcome, kept = _one(path, name, options, changes)
            tell(outcome, kept=kept)
            outcomes.append(outcome)
        return outcomes
    return _in_processes(options, paths, names, changes, workers, tell)


def _in_processes(
    options: HyperOptions, paths: list[Path], names: list[str], changes: Mapping[str, Any] | None, workers: int,
    tell: Callable[..., None],
) -> list[MapOutcome]:  # fmt: skip
    from starmill.execution.loose import (  # one map or one process needs nothing of it
        outcome_of,
        program_message,
        run_messages,
    )

    shared = {"options": options.values, "folder": str(options.folder), "changes": dict(changes or {})}
    shared = json.loads(json.dumps({**shared, "source": options.source and str(options.source)}, default=str))
    messages = [
        program_message(number, "starmill.hyper.many_maps", {**shared, "path": str(path), "name": name})
        for number, (path, name) in enumerate(zip(paths, names, strict=True))
    ]

    def told(answer: dict[str, Any]) -> None:
        tell(_outcome(names[answer["id"]], answer), kept=outcome_of(answer)["state"] == "kept")

    answers = run_messages(messages, workers, told)
    return [_outcome(name, answer) for name, answer in zip(names, answers, strict=True)]


def work(values: Mapping[str, Any]) -> dict[str, Any]:
    """Photometer one map in a worker.

    Parameters
    ----------
    values : mapping
        ``path``, ``name``, ``options``, ``folder``, ``source``, ``changes``.

    Returns
    -------
    outcome : dict
        ``state`` ('done' or 'kept'), ``table`` as text in ECSV, ``error``, ``seconds``, ``files``.
    """
    source = values["source"]
    options = HyperOptions(dict(values["options"]), Path(values["folder"]), source and Path(source))
    outcome, kept = _one(Path(values["path"]), values["name"], options, values["changes"])
    text = None
    if outcome.table is not None:
        stream = StringIO()
        outcome.table.write(stream, format="ascii.ecsv")
        text = stream.getvalue()
    return {
        "state": "kept" if kept else "done", "table": text, "error": outcome.error, "seconds": outcome.seconds,
        "files": [str(path) for path in outcome.files],
    }  # fmt: skip


def _one(
    path: Path, name: str, options: HyperOptions, changes: Mapping[str, Any] | None
) -> tuple[MapOutcome, bool]:
    """Return what became of a map, and whether it was kept from an earlier run."""
    earlier = earlier_table(path, name, options, changes) if options["control.resume"] else None
    if earlier is not None:
        return MapOutcome(name, earlier), True
    return map_outcome(lambda: read_map(path, options, name=name), name, options, changes), False


def _outcome(name: str, answer: Mapping[str, Any]) -> MapOutcome:
    from starmill.execution.loose import outcome_of

    told = outcome_of(answer)
    if told["state"] == "failed":
        return MapOutcome(name, error=told["error"])
    table = None
    if told["table"] is not None:
        from astropy.table import Table

        table = Table.read(told["table"], format="ascii.ecsv")
    return MapOutcome(name, table, told["error"], told["seconds"], [Path(file) for file in told["files"]])


def _unique_stems(paths: list[Path]) -> list[str]:
    """Names of the maps; equal ones are numbered so that no output is overwritten."""
    stems: list[str] = []
    for path in paths:
        stem, number = stem_of(path), 2
        name = stem
        while name in stems:
            name, number = f"{stem}_{number}", number + 1
        stems.append(name)
    return stems
