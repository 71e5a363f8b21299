"""The work of one quantum: read the inputs, run the task, write the outputs where the runner takes them.

This is the only code that runs in workers. It gets a message of plain data (which task, configuration, files)
and answers with another (what was written, what it cost, what went wrong). It needs the store, not the registry.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import resource
import time
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starmill.errors import NoDataError, StarmillError
from starmill.execution.blas_threads import one_blas_thread
from starmill.execution.master_cache import MASTERS
from starmill.io.checksums import file_checksum
from starmill.repository.data_id import DataId
from starmill.repository.formatters import formatter, read_dataset
from starmill.repository.sky_overlap import corners_of
from starmill.repository.store import open_store

DONE, FAILED, NO_WORK = "done", "failed", "no_work"


def run_quantum(message: Mapping[str, Any]) -> dict[str, Any]:
    """Do the work that a message describes; errors become part of the answer.

    Parameters
    ----------
    message : mapping
        ``store`` (URL), ``writer`` (staging folder), ``task``, ``config`` (JSON text), ``inputs`` (keyword to
        list of file descriptions), ``many`` (keywords that take a list), ``lazy`` (a list of functions),
        ``outputs`` (keyword, storage, optional), ``provenance`` (plain values kept in the files), ``id`` and
        ``attempt``. With ``loose`` or ``program`` instead of a store:
        see `starmill.execution.loose`.

    Returns
    -------
    answer : dict
        ``id``, ``attempt``, ``status``, ``outputs`` (keyword to token, checksum, size), ``seconds``,
        ``cpu_seconds``, ``max_rss`` (byte), ``metadata``, ``error``.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    answer: dict[str, Any] = {
        "id": message["id"],
        "attempt": message["attempt"],
        "status": DONE,
        "error": None,
    }
    try:
        answer["outputs"], answer["metadata"] = _work(message)
    except NoDataError as error:
        answer |= {"status": NO_WORK, "outputs": {}, "error": describe_error(error)}
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # compiled code wraps an interrupt
            raise KeyboardInterrupt from error
        said = describe_error(error)
        if _is_want_of_memory(error):
            said |= {"type": "MemoryError", "message": _memory_text(str(error))}
        answer |= {"status": FAILED, "outputs": {}, "error": said}
    answer["seconds"] = time.perf_counter() - wall
    answer["cpu_seconds"] = time.process_time() - cpu
    answer["max_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return answer


def _is_want_of_memory(error: Exception) -> bool:
    """Tell whether memory was missing: for an array, for the system, or for a library that was to be loaded."""
    if isinstance(error, ImportError):
        return any(words in str(error) for words in ("failed to map", "cannot map", "annot allocate"))
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def _memory_text(said: str) -> str:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    what = f"the {limit / 1e6:.0f} MB" if limit != resource.RLIM_INFINITY else "the memory"
    text = f"more was needed than {what} that a worker may use (--mem-limit, divided by -j)"
    return f"{text}: {said}"[:2000] if said else text


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return type, message, numbers and traceback of an error as plain values."""
    numbers = getattr(error, "numbers", None)
    return {
        "type": type(error).__name__,
        "message": str(error)[:2000],
        "numbers": {str(name): _plain(value) for name, value in numbers.items()} if numbers else {},
        "exit_code": getattr(error, "exit_code", 70) if isinstance(error, StarmillError) else 70,
        "traceback": "".join(traceback.format_exception(error))[-8000:],
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value if isinstance(value, (str, int, float, bool, list, type(None))) else repr(value)


def _work(message: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if "program" in message:
        from starmill.execution.loose import run_program

        return {}, run_program(message)
    task = _task(message["task"], message["config"])
    if "loose" in message:
        from starmill.execution.loose import work_on_files

        return work_on_files(message, task)
    store = open_store(message["store"])
    with contextlib.ExitStack() as stack:
        inputs = {}
        for keyword, files in message["inputs"].items():
            if keyword in message["lazy"]:
                inputs[keyword] = [functools.partial(_read, store, file, stack) for file in files]
                continue
            values = [_read(store, file, stack) for file in files]
            inputs[keyword] = values if keyword in message["many"] else values[0]
        with one_blas_thread():
            result = task.run(**inputs)  # inside the block: lazy inputs are read while it runs
    outputs: dict[str, Any] = {}
    try:
        for keyword, storage, optional in message["outputs"]:
            value = _result(result, keyword, message["task"], optional=optional)
            if value is None:
                continue
            outputs[keyword] = _write(store, message, storage, value)
    except BaseException:
        for output in outputs.values():
            store.discard(output["token"])
        raise
    return outputs, _cost(task)


def _result(result: Any, keyword: str, task: str, *, optional: bool) -> Any:
    value = getattr(result, keyword, None)
    if value is None and not optional:
        raise StarmillError(f"{task} gave no result '{keyword}'")
    return value


@functools.lru_cache(maxsize=64)
def _task(name: str, config: str) -> Any:
    """Return the task, kept between quanta: its construction may be slow, its kernels stay warm."""
    from starmill.pipelines.task_names import find_task, resolve_config

    cls = find_task(name)
    return cls(resolve_config(cls, json.loads(config)))


def _read(store: Any, file: Mapping[str, Any], stack: contextlib.ExitStack) -> Any:
    if file["storage"] == "master_frame":
        return MASTERS.get(file["checksum"], lambda: _read_file(store, file, stack))
    return _read_file(store, file, stack)


def _read_file(store: Any, file: Mapping[str, Any], stack: contextlib.ExitStack) -> Any:
    data_id = DataId(file["data_id"])
    if file["link"] == "direct":
        path = Path(file["path"])
    else:
        path = stack.enter_context(store.reading(file["path"], linked=file["link"] == "symlink"))
    return read_dataset(file["storage"], path, data_id=data_id)


def _write(store: Any, message: Mapping[str, Any], storage: str, value: Any) -> dict[str, Any]:
    chosen = formatter(storage)
    staged = store.staging_folder(message["writer"]) / f"{uuid.uuid4().hex}{chosen.extension}"
    try:
        chosen.write(value, staged, message.get("provenance"))
        written: dict[str, Any] = {
            "checksum": file_checksum(staged),
            "size": staged.stat().st_size,
            "extension": chosen.extension,
        }
        if "exposure=" not in message.get("data_key", ""):
            written["corners"] = corners_of(value)
        return {"token": store.deliver(staged, message["writer"]), **written}
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def _cost(task: Any) -> dict[str, Any]:
    """Numbers that the task recorded, at most 200 of them."""
    flat = {
        f"{name}:{key}": value
        for name, values in task.full_metadata().items()
        for key, value in values.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    }
    return dict(list(flat.items())[:200])
