"""Typed, documented, nested configurations.

A configuration is frozen: :meth:`Config.override` returns another one. Every field has a default, bounds where it
can have them, a unit and a description; command-line help and the reference pages are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError

from starmill.errors import ConfigError, nearest_name

__all__ = ["Config", "field", "subtask"]


def field(default: Any, description: str, *, unit: str = "", **bounds: Any) -> Any:
    """Declare a configuration field.

    Parameters
    ----------
    default : object
        Value when nothing is said; a callable such as ``list`` makes a new one each time.
    description : str
        What it does.
    unit : str
        Empty for pure numbers.
    **bounds
        ``ge``, ``gt``, ``le``, ``lt``, ``min_length``, ... of :func:`pydantic.Field`.
    """
    extra: Any = {"unit": unit} if unit else None
    if callable(default):
        return Field(default_factory=default, description=description, json_schema_extra=extra, **bounds)
    return Field(default=default, description=description, json_schema_extra=extra, **bounds)


class Config(BaseModel):
    """The base of all configurations: frozen, no unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="constants"
    )

    task_name: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error)) from error

    def override(self, changes: Mapping[str, Any]) -> Any:
        """Return the configuration with other values.

        Parameters
        ----------
        changes : mapping
            Nested mappings, or dotted names: ``{"detect.threshold": 10}``. The value of a sub-task may name
            another task: ``{"detect": {"task": "OtherTask", ...}}``.

        Raises
        ------
        ConfigError
            For unknown names, with the nearest known one, and for values out of bounds.
        """
        values = self.to_dict()
        for path, value in changes.items():
            _insert(self, values, path.split("."), value)
        return type(self)(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values; parts that are tasks carry their ``task`` name."""
        values: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Config):
                nested = value.to_dict()
                values[name] = {"task": value.task_name, **nested} if value.task_name else nested
            else:
                values[name] = _plain(value)
        return values

    @classmethod
    def describe(cls, prefix: str = "") -> list[dict[str, str]]:
        """Return name, default, bounds, unit and description of every field, nested ones with dotted names."""
        rows: list[dict[str, str]] = []
        defaults = cls()
        for name, info in cls.model_fields.items():
            value = getattr(defaults, name)
            if isinstance(value, Config):
                rows += type(value).describe(f"{prefix}{name}.")
                continue
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            rows.append(
                {
                    "name": prefix + name,
                    "default": str(_plain(value)),
                    "bounds": _bounds(info),
                    "unit": str(extra.get("unit", "")),
                    "description": info.description or "",
                }
            )
        return rows

    @classmethod
    def help(cls) -> str:
        """Return a table that explains every field."""
        rows = cls.describe()
        if not rows:
            return f"{cls.__name__} has no fields"
        widths = {
            key: max(len(key), *(len(row[key]) for row in rows))
            for key in ("name", "default", "bounds", "unit")
        }
        lines = ["  ".join(f"{key:{width}}" for key, width in widths.items()) + "  description"]
        lines += [
            "  ".join(f"{row[key]:{width}}" for key, width in widths.items()) + "  " + row["description"]
            for row in rows
        ]
        return "\n".join(lines)


def subtask(config_class: type[Config], description: str = "", **defaults: Any) -> Any:
    """Return the annotation and default of a field that holds the configuration of a part.

    Use it as ``detect: Any = subtask(DetectConfig, "finds the sources", threshold=10)``: the field then takes a
    configuration, or a mapping that may name another task.
    """
    default = config_class(**defaults)
    return Field(
        default=default, description=description, json_schema_extra={"subtask": config_class.__name__}
    )


def _read_subtask(value: Any) -> Any:
    """Turn a mapping that names its task into the configuration of that task."""
    if not isinstance(value, Mapping):
        return value
    values = dict(value)
    name = values.pop("task", None)
    if name is None:
        raise ConfigError(f"a part of a task is given as a mapping without its 'task' name: {values}")
    from starmill.tasks.base import task_named

    return task_named(str(name)).Config(**values)


SubtaskConfig = Annotated[SerializeAsAny[Config], BeforeValidator(_read_subtask)]
"""The type of a configuration field that describes a part: ``detect: SubtaskConfig = subtask(DetectConfig)``."""


def _insert(owner: Config | None, values: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value at a path into the plain values of a configuration, or of a mapping (no owner) with any keys."""
    head, *rest = path
    if owner is not None and head not in values and head != "task":
        near = nearest_name(head, values)
        hint = f"; did you mean {near!r}?" if near else f" (known: {', '.join(values)})"
        raise ConfigError(f"unknown configuration key {head!r}{hint}")
    old = getattr(owner, head, None) if owner is not None else values.get(head)
    part = old if isinstance(old, Config) else None
    if part is not None and values[head].get("task", part.task_name) != part.task_name:
        part = None  # replaced before: the fields of the new task are checked when it is made
    if rest:
        if owner is None:
            values.setdefault(head, {})
        if not isinstance(values[head], dict):
            raise ConfigError(f"the configuration key {head!r} is a value and has no part {'.'.join(rest)!r}")
        _insert(part, values[head], rest, value)
    elif isinstance(value, Mapping) and isinstance(values.get(head), dict):
        if part is not None and value.get("task", part.task_name) != part.task_name:
            values[head] = dict(value)  # another task: its own defaults hold
            return
        for key, item in value.items():
            _insert(part, values[head], str(key).split(".") if part is not None else [str(key)], item)
    elif head == "task" and owner is not None and value != owner.task_name:
        values.clear()  # the fields of the task before mean nothing to this one
        values[head] = value
    else:
        values[head] = value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.to_dict() if isinstance(value, Config) else value


def _bounds(info: Any) -> str:
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    found = [
        f"{sign} {getattr(item, attribute)}"
        for item in info.metadata
        for attribute, sign in signs
        if hasattr(item, attribute)
    ]
    choices = getattr(info.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        found.append(" | ".join(choices))
    return ", ".join(found)


def _explain(cls: type[Config], error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = nearest_name(str(item["loc"][-1]), cls.model_fields)
            hint = f"; did you mean {near!r}?" if near else ""
            lines.append(f"unknown configuration key {path!r}{hint}")
        else:
            value = item["input"]  # of a group of values the message inside names the wrong one
            got = "" if isinstance(value, dict) else f" (got {value!r})"
            lines.append(f"{path}: {item['msg']}{got}")
    return f"{cls.__name__}: " + "; ".join(lines)
