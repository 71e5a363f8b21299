"""Configuration files: safe YAML with limits, merged in order, printed back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from starmill.errors import ConfigError, InputError

__all__ = ["dump_yaml", "load_yaml", "merge", "parse_assignments", "read_yaml_text"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 100_000


class _SafeLoader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """The safe loader, which also refuses a key that is given twice."""


def _mapping_without_duplicates(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
    seen: set[Any] = set()
    for key in keys:
        if not isinstance(key, str | int | float | bool):
            raise ConfigError(f"a key of a configuration must be a word or a number, not {key!r}")
        if key in seen:
            raise ConfigError(f"the key {key!r} is given twice (line {node.start_mark.line + 1})")
        seen.add(key)
    values = [loader.construct_object(value, deep=True) for _, value in node.value]
    return dict(zip(keys, values, strict=True))


_SafeLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def read_yaml_text(text: str, *, path: str | Path | None = None) -> Any:
    """Parse YAML text that may come from anybody.

    Parameters
    ----------
    text : str
    path : path, optional
        Named in errors.

    Returns
    -------
    values : dict, list or scalar

    Raises
    ------
    InputError
        When the text is too large, too deep, grows too much through aliases, or is not YAML.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"a configuration of {len(text)} bytes is too large (limit {MAX_BYTES})", path=path)
    try:
        _check_size(text, path)
        return yaml.load(text, Loader=_SafeLoader)  # noqa: S506  derived from the safe loader
    except ConfigError as error:
        raise ConfigError(error.message, path=path) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).replace("\n", " ")
        raise InputError(f"not a YAML file: {reason}", path=path) from error


def _check_size(text: str, path: str | Path | None) -> None:
    """Walk the events of a document and refuse it before anything large is built."""
    depth, nodes, sizes, open_anchors = 0, 0, {}, []
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            nodes += sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            open_anchors.append((event.anchor, nodes))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            anchor, before = open_anchors.pop()
            if anchor:
                sizes[anchor] = nodes - before + 1
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            sizes[event.anchor] = 1
        if depth > MAX_DEPTH:
            raise InputError(f"the configuration is nested deeper than {MAX_DEPTH} levels", path=path)
        if nodes > MAX_NODES:
            raise InputError(f"the configuration holds more than {MAX_NODES} values", path=path)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises
    ------
    InputError
        When the file is missing, unreadable, hostile or not a mapping.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"the file has {path.stat().st_size} bytes (limit {MAX_BYTES})", path=path)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError("the configuration file does not exist", path=path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the configuration file cannot be read: {error}", path=path) from error
    values = read_yaml_text(text, path=path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(
            f"a configuration file holds names and values, this one a {type(values).__name__}", path=path
        )
    return values


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings merged; values of ``changes`` win."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn ``step.param=value`` words into a mapping of dotted names; values are read as YAML.

    Raises
    ------
    ConfigError
        When a word has no ``=``.
    """
    values: dict[str, Any] = {}
    for word in assignments:
        name, sign, text = word.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"{word!r} is not of the form step.param=value")
        values[name.strip()] = read_yaml_text(text)
    return values


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return nested plain values as YAML text, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110)
