"""What all verbs share: options, configuration in layers, progress, errors to exit codes."""

from __future__ import annotations

import errno
import functools
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from starmill.errors import StarmillError

__all__ = [
    "Progress",
    "Settings",
    "common_options",
    "exit_code_of",
    "print_json",
    "resolve_config",
]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # the machine's state, no fault of the program


class Settings:
    """The values of the common options of a verb.

    Attributes
    ----------
    config_files : tuple of Path
    assignments : tuple of str
        ``step.param=value``.
    config_dump, as_json, quiet : bool
    jobs : int
        Processes.
    verbosity : int
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.config_files = tuple(Path(p) for p in options["config_files"])
        self.assignments = tuple(options["assignments"])
        self.config_dump = bool(options["config_dump"])
        self.jobs = int(options["jobs"])
        self.as_json = bool(options["as_json"])
        self.quiet = bool(options["quiet"])
        self.verbosity = int(options["verbose"])


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options; it receives them as the keyword ``settings``."""

    @click.option(
        "-c", "--config", "config_files", multiple=True, type=click.Path(), help="YAML file; repeatable."
    )
    @click.option(
        "--set", "assignments", multiple=True, metavar="STEP.PARAM=VALUE", help="One value; repeatable."
    )
    @click.option("--config-dump", is_flag=True, help="Print the full configuration and stop.")
    @click.option("-j", "--jobs", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document with the outcome.")
    @click.option("-q", "--quiet", is_flag=True, help="Only errors.")
    @click.option("-v", "--verbose", count=True, help="More detail; twice for tracebacks.")
    @functools.wraps(function)
    def command(**options: Any) -> Any:
        names = ("config_files", "assignments", "config_dump", "jobs", "as_json", "quiet", "verbose")
        settings = Settings({name: options.pop(name) for name in names})
        _start_logging(settings)
        return function(settings=settings, **options)

    return command


def _start_logging(settings: Settings) -> None:
    level = (
        logging.ERROR
        if settings.quiet
        else (logging.WARNING, logging.INFO, logging.DEBUG)[min(settings.verbosity, 2)]
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("starmill").setLevel(level)


def resolve_config(
    config_class: Any, settings: Settings, *, camera: Mapping[str, Any] | None = None, step: str = ""
) -> Any:
    """Return a configuration: defaults, then the camera's, then files, then ``--set``.

    Parameters
    ----------
    config_class : type[Config]
    settings : Settings
    camera : mapping, optional
        Overrides that come with the camera.
    step : str, optional
        When files and ``--set`` speak of several steps, the one this configuration is for.
    """
    from starmill.io.config import load_yaml, parse_assignments

    def part(values: Mapping[str, Any]) -> dict[str, Any]:
        if not step:
            return dict(values)
        mine = {name.removeprefix(f"{step}."): v for name, v in values.items() if name.startswith(f"{step}.")}
        return {**mine, **dict(values.get(step) or {})}

    config = config_class()
    layers = [
        camera or {},
        *[load_yaml(path) for path in settings.config_files],
        parse_assignments(settings.assignments),
    ]
    for layer, values in enumerate(layers):
        config = config.override(values if layer == 0 else part(values))
    return config


def exit_code_of(call: Callable[[], Any], arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors are explained on standard error.

    Parameters
    ----------
    call : callable
        Returns None or an exit code.
    arguments : sequence of str, optional
        The command line, to see how much detail was asked for.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    detail = any(word == "-vv" for word in words) or words.count("-v") + words.count("--verbose") > 1
    try:
        result = call()
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except click.Abort:
        return _say("interrupted", 130)
    except click.ClickException as error:
        error.show()
        return 2
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone: nothing more can be said to it
        return 0
    except StarmillError as error:
        if detail:
            traceback.print_exc()
        return _say(f"error: {error}", error.exit_code)
    except Exception as error:  # noqa: BLE001  the last line of defence of the command line
        if isinstance(error.__cause__, KeyboardInterrupt):  # compiled code wraps an interrupt
            return _say("interrupted", 130)
        if detail:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            where = f"{error.filename}: " if error.filename else ""
            return _say(
                f"error: {where}{error.strerror}; nothing half written is kept, repeat when there is room", 3
            )
        hint = "" if detail else " (-vv shows where)"
        return _say(f"internal error: {type(error).__name__}: {error}{hint}", 70)
    return result if isinstance(result, int) else 0


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"starmill: {message}\n")
    return code


def print_json(values: Any) -> None:
    """Print one JSON document on standard output; NaN becomes null."""
    sys.stdout.write(json.dumps(_json_value(values), indent=1, ensure_ascii=False) + "\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if hasattr(value, "tolist"):
        return _json_value(value.tolist())
    if isinstance(value, float) and value != value:  # NaN
        return None
    return str(value) if isinstance(value, Path) else value


class Progress:
    """Progress over many items: a live bar on a terminal, a plain line per item otherwise.

    Parameters
    ----------
    title : str
    total : int
    quiet : bool
    """

    def __init__(self, title: str, total: int, *, quiet: bool = False) -> None:
        self.title, self.total, self.quiet = title, total, quiet
        self.done = 0
        self._bar: Any = None
        self._start = time.perf_counter()

    @contextmanager
    def running(self) -> Iterator[Progress]:
        """Show the bar while the block runs."""
        if self.quiet or not sys.stderr.isatty():
            yield self
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            self._bar = bar
            self._task = bar.add_task(self.title, total=self.total)
            yield self
            self._bar = None

    def advance(self, message: str = "") -> None:
        """Count one item as done and say something about it."""
        self.done += 1
        if self.quiet:
            return
        if self._bar is not None:
            if message:
                self._bar.console.print(message, highlight=False, markup=False)
            self._bar.advance(self._task)
        else:
            elapsed = time.perf_counter() - self._start
            sys.stderr.write(f"[{self.done}/{self.total} {elapsed:.1f}s] {message}\n")
