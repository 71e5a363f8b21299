"""Tasks: the order of steps, with a typed configuration and a record of what it cost.

A task is built once and run many times. ``run`` takes keyword arguments and returns a :class:`Result`; the
names of both are the datasets that the task reads and writes, so that any runner can drive it. A task opens no
file and draws nothing.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from starmill.errors import ConfigError, InputError, nearest_name
from starmill.tasks.config import Config, field, subtask

__all__ = ["Config", "Result", "Task", "field", "subtask", "task_named"]

_TASKS: dict[str, type[Task]] = {}
TaskType = TypeVar("TaskType", bound="Task")


class Result(SimpleNamespace):
    """What a task returns: named results as attributes.

    ``result.catalog``, ``vars(result)`` and ``"catalog" in result`` all work.
    """

    def __contains__(self, name: str) -> bool:
        return name in vars(self)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{name}</th><td>{getattr(value, '_repr_html_', value.__repr__)()}</td></tr>"
            for name, value in vars(self).items()
        )
        return f"<table>{rows}</table>"


class Task:
    """A step of the work, or an order of steps.

    Subclasses give ``Config`` and ``run``; ``reads`` and ``writes`` map the names of the arguments and of the
    results to names of datasets.

    Parameters
    ----------
    config : Config, optional
        Of the class's own ``Config`` type; the defaults when not given.
    name : str, optional
        How the task is called in records; from the class name when not given.
    parent : Task, optional
        The task that this one is a part of.
    debug : callable, optional
        Called as ``debug(name, task=..., **items)`` at the points where a task shows intermediate results;
        parts of a task inherit it.

    Attributes
    ----------
    metadata : dict
        CPU seconds, wall seconds and peak memory (MB) of every timed block of the last run, and numbers
        that the task recorded.
    typical_cost : (float, float) or None
        CPU seconds, and memory in MB above that of the libraries, for a million pixels of the first input; what a
        dry run tells of a task that was never run.
    """

    Config: ClassVar[type[Config]] = Config
    default_name: ClassVar[str] = ""
    reads: ClassVar[dict[str, str]] = {}
    writes: ClassVar[dict[str, str]] = {}
    typical_cost: ClassVar[tuple[float, float] | None] = None

    run: Callable[..., Result]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Parts are attributes that the configuration makes."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _TASKS[cls.__name__] = cls
        if "Config" in cls.__dict__:
            cls.Config.task_name = cls.__name__
        if "run" in cls.__dict__:
            cls.run = _timed(cls.__dict__["run"])

    def __init__(
        self,
        config: Any = None,
        *,
        name: str | None = None,
        parent: Task | None = None,
        debug: Callable[..., None] | None = None,
    ) -> None:
        config = self.Config() if config is None else config
        if not isinstance(config, self.Config):
            raise ConfigError(
                f"{type(self).__name__} needs a {self.Config.__name__}, not a {type(config).__name__}"
            )
        self.config: Any = config
        self.name = name or self.default_name or _snake(type(self).__name__.removesuffix("Task"))
        self.parent = parent
        self.subtasks: dict[str, Task] = {}
        self.metadata: dict[str, Any] = {}
        self._debug: Callable[..., None] | None = (
            debug if debug is not None or parent is None else parent._debug
        )
        self.log = logging.getLogger(f"starmill.{self.full_name}")

    @property
    def full_name(self) -> str:
        """Names of the parents and of this task joined by dots: ``characterize.detect``."""
        return self.name if self.parent is None else f"{self.parent.full_name}.{self.name}"

    def make_subtask(self, name: str) -> Any:
        """Build the part that the configuration field ``name`` describes and keep it as ``self.<name>``.

        The class is the one whose configuration the field holds, so that a configuration replaces it.
        """
        config = getattr(self.config, name)
        task = task_named(config.task_name)(config, name=name, parent=self)
        self.subtasks[name] = task
        setattr(self, name, task)
        return task

    def task_dict(self) -> dict[str, Task]:
        """Return this task and all its parts by full name."""
        found = {self.full_name: self}
        for part in self.subtasks.values():
            found |= part.task_dict()
        return found

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Record what a block costs in :attr:`metadata`: ``<name>_cpu_seconds``, ``_wall_seconds``, ``_peak_mb``.

        The times of blocks of the same name within one run add up.
        """
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            for key, value in (
                (f"{name}_cpu_seconds", time.process_time() - cpu),
                (f"{name}_wall_seconds", time.perf_counter() - wall),
            ):
                self.metadata[key] = self.metadata.get(key, 0.0) + value
            self.metadata[f"{name}_peak_mb"] = peak_memory_mb()
            self.log.debug("%s: %.3f CPU s", name, time.process_time() - cpu)

    def empty_metadata(self) -> None:
        """Forget the records of this task and of its parts."""
        self.metadata.clear()
        for part in self.subtasks.values():
            part.empty_metadata()

    def full_metadata(self) -> dict[str, dict[str, Any]]:
        """Return the records of this task and of its parts by full name, with ``:`` for the dots."""
        return {name.replace(".", ":"): dict(task.metadata) for name, task in self.task_dict().items()}

    def in_place(self, wanted: bool) -> dict[str, bool]:
        """Return the argument that lets :meth:`run` change what it is given, when wanted and when this task knows it."""
        return {"in_place": True} if wanted and "in_place" in inspect.signature(self.run).parameters else {}

    def debug_hook(self, name: str, **items: Any) -> None:
        """Show intermediate results to whoever asked for them when the task was built."""
        if self._debug is not None:
            self._debug(name, task=self, **items)


def task_named(name: str) -> type[Task]:
    """Return the task class of a name.

    Classes are known once their module is imported; the modules of this package are imported when a name is not
    known yet, and installed packages make theirs known with an entry point of the group ``starmill.tasks``.

    Raises
    ------
    ConfigError
        When no task has this name.
    """
    if name not in _TASKS:
        import importlib
        import pkgutil

        package = importlib.import_module("starmill.tasks")
        for module in pkgutil.iter_modules(package.__path__, "starmill.tasks."):
            importlib.import_module(module.name)
    if name not in _TASKS:
        from importlib.metadata import entry_points

        for point in entry_points(group="starmill.tasks"):
            if point.name == name:
                point.load()
    if name not in _TASKS:
        near = nearest_name(name, _TASKS)
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(f"there is no task called {name!r}{hint}")
    return _TASKS[name]


def peak_memory_mb() -> float:
    """Return the largest memory this process has held so far, MB; NaN where the system does not tell."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes on macOS, kilobytes elsewhere


OBJECT_INPUTS = ("Exposure", "Catalog")  # annotations of inputs that are objects of the data model
NO_OBJECTS = (type(None), np.ndarray, dict, list, tuple, str, int, float)  # what is given by mistake


def _timed(run: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap ``run``: a top-level run starts with empty records; every run is timed."""
    wrong = [p.name for p in inspect.signature(run).parameters.values() if p.kind is p.VAR_POSITIONAL]
    if wrong:
        raise TypeError("run takes named arguments only")

    wanted = {p.name: p.annotation for p in inspect.signature(run).parameters.values()}
    wanted = {name: kind for name, kind in wanted.items() if kind in OBJECT_INPUTS}

    @functools.wraps(run)
    def timed(self: Task, *args: Any, **inputs: Any) -> Result:
        for name, kind in wanted.items():
            if name in inputs and isinstance(inputs[name], NO_OBJECTS):
                article = "an" if kind[0] in "AEIOU" else "a"
                given = type(inputs[name]).__name__
                raise InputError(
                    f"{type(self).__name__} needs {article} {kind} as {name}, it was given {given}"
                )
        if self.parent is None:
            self.empty_metadata()
        with self.timer("run"):
            return run(self, *args, **inputs)

    return timed


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
