"""Tasks on loose files: the work of a repository's quanta, with files named by hand and no registry.

`run_on_files` does one piece of work in this process; `run_messages` gives many to an executor: tasks with their
files (`loose_message`), or programs that know files only (`program_message`).
Products carry the provenance from which ``starmill rerun`` makes them again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import starmill
from starmill.errors import InputError
from starmill.execution.blas_threads import one_blas_thread
from starmill.execution.executor import LOST, Executor
from starmill.execution.local import InProcessExecutor
from starmill.execution.master_cache import MASTERS
from starmill.execution.pool import PoolExecutor
from starmill.execution.provenance import canonical, text_checksum
from starmill.execution.quantum_work import DONE
from starmill.execution.versions import versions
from starmill.repository.loose_files import LooseFile, LooseFiles

_ATTEMPTS = 3  # a frame whose worker dies so often is a failure
_LAST: dict[str, Any] = {}  # the shared input that this worker read last
_COMPANIONS = {"frame": "starmill.execution.frames", "difference": "starmill.execution.differences"}


def run_on_files(task: Any, files: LooseFiles, companions: str = "") -> dict[str, Path]:
    """Read the inputs, run the task, write those of its results that have a file.

    Parameters
    ----------
    task : Task
        Configured.
    files : LooseFiles
        Which files.
    companions : str
        Who writes further files beside the products; pictures are left out.

    Returns
    -------
    written : dict of str to Path
        By result name; a result that the task did not give is left out.
    """
    inputs = files.get_all(read_input)
    with one_blas_thread():
        result = task.run(**inputs)
        if companions:
            write = import_module(_COMPANIONS[companions]).write_companions
            write(result, files, task.full_metadata(), pictures=False)
    return write_outputs(files, result, loose_provenance(task, files, companions))


def loose_message(
    identifier: int, task: str, config: Mapping[str, Any], files: LooseFiles, **more: Any
) -> dict[str, Any]:
    """Return the message that makes a worker run a task on files.

    Parameters
    ----------
    identifier : int
        Of the answer.
    task : str
        Name of the class.
    config : mapping
        All its values.
    files : LooseFiles
        Which files.
    **more
        ``resume`` keeps products that were made from the same; ``companions`` names who draws pictures and
        writes reports, ``settings`` are theirs; ``shared`` names inputs that the next message gives again: a worker
        reads them once and hands the same object to the task.
    """
    return {
        "id": identifier,
        "attempt": 1,
        "task": task,
        "config": canonical(config),
        "loose": {"files": files.to_dict(), **more},
    }


def program_message(identifier: int, module: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message that makes a worker call the function ``work`` of a front door of this package.

    Parameters
    ----------
    identifier : int
        Of the answer.
    module : str
        Name of a module of starmill; its ``work(values)`` reads and writes files itself and returns plain values.
    values : mapping
        Plain values.
    """
    return {"id": identifier, "attempt": 1, "program": module, "values": dict(values)}


def run_program(message: Mapping[str, Any]) -> Any:
    """Do the work of a `program_message` in a worker."""
    name = str(message["program"])
    if not name.startswith("starmill."):
        raise InputError(f"{name!r} is no module of starmill")
    with one_blas_thread():
        return import_module(name).work(message["values"])


def run_messages(
    messages: Sequence[Mapping[str, Any]],
    processes: int,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Let processes work on messages; one that fails does not stop the others.

    Parameters
    ----------
    messages : sequence of dict
        Numbered from 0.
    processes : int
        Each takes one message after the other; one means the process of the caller.
    report : callable
        Told of every answer when it comes.

    Returns
    -------
    answers : list of dict
        In the order of the messages; a lost worker's work was tried again.
    """
    workers = min(processes, len(messages))
    executor: Executor = PoolExecutor(workers) if workers > 1 else InProcessExecutor()
    found: dict[int, dict[str, Any]] = {}
    try:
        for answer in _answers(messages, executor):
            found[answer["id"]] = answer
            report(answer)
    finally:
        executor.close()
    return [found[number] for number in range(len(messages))]


def _answers(messages: Iterable[Mapping[str, Any]], executor: Executor) -> Iterator[dict[str, Any]]:
    waiting = deque(messages)
    sent: dict[int, Mapping[str, Any]] = {}
    while waiting or executor.running:
        while waiting and executor.free > 0:
            message = waiting.popleft()
            sent[message["id"]] = message
            executor.submit(message)
        for answer in executor.wait(1.0):
            message = sent[answer["id"]]
            if answer["status"] == LOST and message["attempt"] < _ATTEMPTS:
                waiting.append({**message, "attempt": message["attempt"] + 1})
            else:
                yield answer


def outcome_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer says as plain values.

    Returns
    -------
    outcome : dict
        What the work noted, or ``state`` 'failed' with ``error``, ``error_type``, ``exit_code``, ``traceback``.
    """
    if answer["status"] == DONE:
        return dict(answer["metadata"])
    error = answer["error"]
    text = error["message"] if error["exit_code"] != 70 else f"{error['type']}: {error['message']}"
    failure = {"error": text, "error_type": error["type"], "exit_code": error["exit_code"]}
    return {"state": "failed", **failure, "traceback": error["traceback"]}


def exit_code_of_all(outcomes: Sequence[Mapping[str, Any]]) -> int:
    """Return 0 when nothing failed, 1 when something did, the code of the first failure when everything did."""
    failed = [outcome for outcome in outcomes if outcome["state"] == "failed"]
    if not failed:
        return 0
    return int(failed[0]["exit_code"]) if len(failed) == len(outcomes) else 1


def work_on_files(message: Mapping[str, Any], task: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do the work of a message in a worker.

    Returns
    -------
    outputs : dict
        ``path``, ``checksum`` and ``size`` by result name.
    notes : dict
        ``state`` ('done', or 'kept' when a resumed run finds the products), and what the companions tell.
    """
    loose = message["loose"]
    files = LooseFiles.from_dict(loose["files"])
    shared = {file.path for name in loose.get("shared", ()) for file in files.inputs.get(name, ())}
    inputs = files.get_all(lambda file: _read_shared(file) if file.path in shared else read_input(file))
    companions = loose.get("companions", "")
    provenance = loose_provenance(task, files, companions)
    if loose.get("resume") and _is_made(files, provenance):
        recall = (
            getattr(import_module(_COMPANIONS[companions]), "recalled_notes", None) if companions else None
        )
        notes = recall(files) if recall else {}
        if notes is not None:
            return {}, {"state": "kept"} | notes
    with one_blas_thread():
        result = task.run(**inputs)
    notes = {"state": "done"}
    if companions:
        write = import_module(_COMPANIONS[companions]).write_companions
        notes |= write(result, files, task.full_metadata(), **loose.get("settings", {}))
    written = write_outputs(files, result, provenance)
    return {name: {"path": str(path), "size": path.stat().st_size} for name, path in written.items()}, notes


def write_outputs(files: LooseFiles, result: Any, provenance: Mapping[str, Any]) -> dict[str, Path]:
    """Write the results that have a file, in the order of the outputs."""
    written = {}
    for name in files.outputs:
        value = getattr(result, name, None)
        if value is not None:
            written[name] = files.put(name, value, provenance)
    return written


def read_input(file: LooseFile) -> Any:
    """Read one file; master frames are kept, because the next frame needs the same ones."""
    if file.storage == "master_frame" and file.path.is_file():
        return MASTERS.get(file.checksum, file.read)
    return file.read()


def _read_shared(file: LooseFile) -> Any:
    """Read a file, or return what was read of it the last time."""
    if not file.path.is_file():
        return file.read()
    key = (file.checksum, file.storage, json.dumps(file.details, sort_keys=True))
    if _LAST.get("key") != key:
        _LAST.update(key=key, value=file.read())
    return _LAST["value"]


def loose_provenance(task: Any, files: LooseFiles, companions: str = "") -> dict[str, Any]:
    """Return what products are made from; names without folders, so that it holds on any machine."""
    config: Mapping[str, Any] = task.config.to_dict()
    return {
        "task": type(task).__name__,
        "config": dict(config),
        "config_checksum": text_checksum(json.dumps(config, sort_keys=True)),
        "starmill": starmill.__version__,
        "versions": {name: value for name, value in versions().items() if name != "starmill"},
        "many": [name for name in files.many if name not in files.matching],
        "inputs": [
            {
                "keyword": name,
                "storage": file.storage,
                "file": file.path.name,
                "checksum": file.checksum,
                "details": file.details,
            }
            for name, used in sorted(files.used.items())
            for file in used
        ],
        "outputs": {name: [storage, path.name] for name, (storage, path) in files.outputs.items()},
        "companions": companions,
    }


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Return the provenance that a product carries; None when it has none."""
    from starmill.io.exposure_file import read_exposure_component
    from starmill.io.tables import TABLE_SUFFIXES, read_catalog

    if path.suffix == ".fits":
        from starmill.io.fits_blocks import open_blocks

        with open_blocks(path) as hdus:
            is_exposure, is_catalog = "META" in hdus, "NOTES" in hdus
    else:
        is_exposure, is_catalog = False, path.suffix in TABLE_SUFFIXES
    if is_exposure:
        found = read_exposure_component(path, "provenance")
    else:
        found = read_catalog(path).meta.get("provenance") if is_catalog else None
    return found if isinstance(found, dict) and "outputs" in found else None


def _is_made(files: LooseFiles, provenance: Mapping[str, Any]) -> bool:
    """Tell whether all products are there; the last one, written last, says from what they were made."""
    paths = [path for _, path in files.outputs.values()]
    if not all(path.is_file() for path in paths):
        return False
    return read_provenance(paths[-1]) == json.loads(json.dumps(provenance))
