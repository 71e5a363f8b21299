"""Finds task classes by name, in the package's own tasks, in installed plug-ins, and where a program says."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from starmill.errors import ConfigError
from starmill.tasks.base import Task, task_named


def import_task_modules(modules: Iterable[str]) -> None:
    """Import modules whose tasks pipelines may use.

    The names come from the command line or a program, never from a pipeline or configuration file.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"the task module {name!r} cannot be imported: {error}") from error


def find_task(name: str) -> type[Task]:
    """Return a task class by its name, importing the file it stands in.

    Parameters
    ----------
    name : str
        As ``CharacterizeTask``.

    Returns
    -------
    task : type
        Raises `ConfigError` with the nearest name when there is none.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,80}", name):
        raise ConfigError(f"{name[:80]!r} is no name of a task")
    module = _module_of(name)
    if module is not None:
        importlib.import_module(module)
    return task_named(name)


@cache
def _module_of(name: str) -> str | None:
    """Return the module of the package that defines a class, found without importing any."""
    import starmill.tasks as package

    for folder in package.__path__:
        for path in sorted(Path(folder).glob("*.py")):
            if f"\nclass {name}(" in path.read_text(encoding="utf-8"):
                return f"starmill.tasks.{path.stem}"
    return None


def resolve_config(task: type[Task], values: dict[str, Any]) -> Any:
    """Return the configuration object of plain values that a `Config.to_dict` gave."""
    return task.Config(**values)
