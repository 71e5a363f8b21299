"""Running pipelines: in process, on a pool of workers, on a Dask cluster; provenance and repetition.

The names below are imported when they are first used: processing loose files needs no database library.
"""

from importlib import import_module
from typing import Any

_PLACES = {
    "PipelineRequest": "session",
    "RunSummary": "summary",
    "format_tree": "provenance",
    "provenance_tree": "provenance",
    "rerun_dataset": "rerun",
    "run_on_files": "loose",
    "run_pipeline": "session",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'starmill.execution' has no attribute {name!r}")
    return getattr(import_module(f"starmill.execution.{_PLACES[name]}"), name)
