"""Runs a task on loose files, with the provenance that a product of a repository has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import starmill
from starmill.execution.blas_threads import one_blas_thread
from starmill.execution.provenance import text_checksum
from starmill.repository.loose_files import LooseFiles
from starmill.repository.store import file_checksum


def run_on_files(task: Any, files: LooseFiles) -> dict[str, Path]:
    """Read the inputs, run the task, write those of its results that have a file.

    Parameters
    ----------
    task : Task
        Configured.
    files : LooseFiles
        Which files.

    Returns
    -------
    written : dict of str to Path
        By result name; a result that the task did not give is left out.
    """
    with one_blas_thread():
        result = task.run(**files.get_all())
    provenance = _provenance(task, files)
    written = {}
    for name in files.outputs:
        value = getattr(result, name, None)
        if value is not None:
            written[name] = files.put(name, value, provenance)
    return written


def _provenance(task: Any, files: LooseFiles) -> dict[str, Any]:
    config: Mapping[str, Any] = task.config.to_dict()
    inputs = []
    for name, entry in files.inputs.items():
        pairs = [entry] if isinstance(entry, tuple) and isinstance(entry[0], str) else list(entry)
        inputs += [
            {"keyword": name, "file": Path(str(path)).name, "checksum": file_checksum(str(path))}
            for _, path in pairs  # type: ignore[misc]
        ]
    return {
        "task": type(task).__name__,
        "config": dict(config),
        "config_checksum": text_checksum(json.dumps(config, sort_keys=True)),
        "starmill": starmill.__version__,
        "inputs": inputs,
    }
