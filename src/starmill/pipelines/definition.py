"""Pipelines: which tasks run on what, in which order, with which configuration; written as readable YAML.

::

    pipeline: process
    description: Raw frames to characterised exposures and catalogues.
    tasks:
      isr:
        task: IsrTask
        for: [instrument, exposure, detector]
        where: image_type = science
        reads:
          raw: raw
          bias: {dataset: bias, from: calibrations, optional: true}
        writes:
          exposure: post_isr
        config: {overscan.method: median}
        cameras:
          lowell42: {overscan.method: median_per_row}
    subsets:
      detrend: [isr]

The keys under ``reads`` are the keyword arguments of the task's ``run``, those under ``writes`` the names of
its results. Everything is checked when the file is read: names of tasks, arguments, results and configuration.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from starmill.errors import ConfigError, nearest_name
from starmill.io.config import load_yaml, merge, read_yaml_text
from starmill.pipelines.task_names import find_task

DATA, CALIBRATIONS = "data", "calibrations"
_PIPELINE_KEYS = ("pipeline", "description", "datasets", "tasks", "subsets")
_TASK_KEYS = ("task", "description", "for", "where", "reads", "writes", "config", "cameras")
_INPUT_KEYS = ("dataset", "from", "optional", "many", "minimum", "where", "match", "when", "lazy", "overlap")
_OUTPUT_KEYS = ("dataset", "optional")
_DATASET_KEYS = ("dimensions", "storage", "description")


@dataclass(frozen=True)
class InputSpec:
    """One argument of a task.

    Attributes
    ----------
    keyword, dataset : str
        Name of the argument, name of the dataset type.
    source : str
        ``data``, or ``calibrations`` for the best master frame by time.
    optional : bool
        Run without it when there is none.
    many : bool
        A list of all that belong to the quantum.
    minimum : int
        Smallest length of such a list.
    where : str
        Data query that its data sets must fulfil.
    match : tuple of str or None
        Dimensions in which it must agree with the quantum, instead of all that both have; such an input is
        looked up and does not restrict nor drive the quanta.
    when : tuple of str
        Names of configuration fields of the task; the input is read only where all are true, and then needed.
    lazy : bool
        The items of a list are functions that read them, so that one at a time is in memory.
    overlap : bool
        Of the data sets that match, the one that covers most of the quantum's place on the sky (with `many`, all
        that cover a part of it, the best first).
    """

    keyword: str
    dataset: str
    source: str = DATA
    optional: bool = False
    many: bool = False
    minimum: int = 1
    where: str = ""
    match: tuple[str, ...] | None = None
    when: tuple[str, ...] = ()
    lazy: bool = False
    overlap: bool = False

    @property
    def is_driving(self) -> bool:
        """Whether quanta are made from the data sets of this input."""
        looked_up = self.optional or self.match is not None or self.when or self.overlap
        return self.source == DATA and not looked_up


@dataclass(frozen=True)
class OutputSpec:
    """One result of a task: attribute name, dataset type, whether it may be absent."""

    keyword: str
    dataset: str
    optional: bool = False


@dataclass(frozen=True)
class TaskNode:
    """A task in a pipeline.

    Attributes
    ----------
    label, task : str
        Name in the pipeline; name of the class.
    dimensions : tuple of str
        One quantum is run for each combination of their values.
    inputs, outputs : tuple
        Arguments and results.
    where : str
        Data query that quanta must fulfil.
    config : dict
        Changes of the task's configuration.
    cameras : dict
        Further changes by instrument.
    """

    label: str
    task: str
    dimensions: tuple[str, ...]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    where: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    cameras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    description: str = ""

    def task_config(self, instrument: str | None = None) -> Any:
        """Return the resolved configuration for a camera.

        The order is: defaults of the task, the pipeline, the camera's own file, the pipeline's section for the
        camera; later ones win.
        """
        config = find_task(self.task).Config()
        if self.config:
            config = config.override(self.config)
        if instrument is not None:
            config = config.override(_camera_changes(instrument, self.label, type(config)))
            if instrument in self.cameras:
                config = config.override(self.cameras[instrument])
        return config


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline; tasks stand in an order in which they can run.

    Attributes
    ----------
    name, description : str
        For people.
    nodes : tuple of TaskNode
        In order.
    datasets : dict
        Dataset types it brings: name to (dimensions, storage, description).
    subsets : dict
        Names for parts of it.
    """

    name: str
    description: str
    nodes: tuple[TaskNode, ...]
    datasets: Mapping[str, tuple[tuple[str, ...], str, str]] = field(default_factory=dict)
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def select(self, names: Iterable[str]) -> Pipeline:
        """Return the pipeline with only some tasks; names of tasks or of subsets."""
        wanted: set[str] = set()
        known = {node.label for node in self.nodes}
        for name in names:
            if name in self.subsets:
                wanted |= set(self.subsets[name])
            elif name in known:
                wanted.add(name)
            else:
                raise ConfigError(_unknown("task or subset", name, [*known, *self.subsets]))
        return replace(self, nodes=tuple(node for node in self.nodes if node.label in wanted))

    def override(self, changes: Mapping[str, Any]) -> Pipeline:
        """Return the pipeline with configuration changes, ``{"isr.overscan.method": "median"}`` or nested."""
        nested: dict[str, dict[str, Any]] = {}
        known = [node.label for node in self.nodes]
        for path, value in changes.items():
            label, _, rest = path.partition(".")
            if label not in known and label in _PIPELINE_KEYS:
                raise ConfigError(
                    f"'{label}' belongs to a whole pipeline: run that file instead of '{self.name}'"
                )
            if label not in known:
                raise ConfigError(_unknown("task", label, known))
            if rest:
                nested.setdefault(label, {})[rest] = value
            elif isinstance(value, Mapping):
                nested.setdefault(label, {}).update(value)
            else:
                raise ConfigError(
                    f"'{label}' is a task; set one of its parameters, as {label}.parameter=value"
                )
        nodes = []
        for node in self.nodes:
            change = nested.get(node.label)
            if change:
                # what the user says comes last, also after the section of a camera
                cameras = {name: merge(section, change) for name, section in node.cameras.items()}
                node = replace(node, config=merge(node.config, change), cameras=_Everywhere(cameras, change))
                _check_config(node)
            nodes.append(node)
        return replace(self, nodes=tuple(nodes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the YAML file would hold them."""
        return {
            "pipeline": self.name,
            "description": self.description,
            "datasets": {
                name: {"dimensions": list(dimensions), "storage": storage, "description": text}
                for name, (dimensions, storage, text) in self.datasets.items()
            },
            "tasks": {node.label: _node_to_dict(node) for node in self.nodes},
            "subsets": {name: list(labels) for name, labels in self.subsets.items()},
        }


class _Everywhere(dict[str, Mapping[str, Any]]):
    """Changes by instrument that also hold for instruments without a section."""

    def __init__(self, sections: Mapping[str, Mapping[str, Any]], default: Mapping[str, Any]) -> None:
        super().__init__(sections)
        self.default = dict(default)

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Mapping[str, Any]:
        return self.default


def standard_pipelines() -> list[str]:
    """Return the names of the pipelines that come with the package."""
    folder = resources.files("starmill.pipelines") / "standard"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_pipeline(name: str | Path) -> Pipeline:
    """Read a pipeline: the name of a standard one, or a path to a YAML file."""
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return parse_pipeline(load_yaml(text), where=text)
    if text not in standard_pipelines():
        raise ConfigError(_unknown("pipeline", text, standard_pipelines()))
    content = (resources.files("starmill.pipelines") / "standard" / f"{text}.yaml").read_text(
        encoding="utf-8"
    )
    return parse_pipeline(read_yaml_text(content), where=f"{text}.yaml")


def parse_pipeline(values: Any, where: str = "pipeline") -> Pipeline:
    """Check plain values and make a pipeline of them.

    Parameters
    ----------
    values : dict
        As in the example of this module.
    where : str
        File name for messages.

    Returns
    -------
    pipeline : Pipeline
        With tasks in an order in which they can run.
    """
    try:
        return _parse_pipeline(values, where)
    except ConfigError as error:
        raise ConfigError(error.message, path=where) from error


def _parse_pipeline(values: Any, where: str) -> Pipeline:
    _check_keys(values, _PIPELINE_KEYS, "the pipeline")
    tasks = _mapping(values.get("tasks"), "tasks")
    nodes = [_parse_node(str(label), section) for label, section in tasks.items()]
    datasets = {
        str(name): _parse_dataset(str(name), section)
        for name, section in _mapping(values.get("datasets", {}), "datasets").items()
    }
    if not nodes:
        raise ConfigError("the pipeline has no tasks")
    subsets = {
        str(name): tuple(str(label) for label in labels)
        for name, labels in _mapping(values.get("subsets", {}), "subsets").items()
    }
    for name, labels in subsets.items():
        for label in labels:
            if label not in tasks:
                raise ConfigError(f"subset '{name}': " + _unknown("task", label, tasks))
    title = str(values.get("pipeline", Path(where).stem))
    return Pipeline(title, str(values.get("description", "")), _in_order(nodes), datasets, subsets)


def _parse_dataset(name: str, section: Any) -> tuple[tuple[str, ...], str, str]:
    _check_keys(section, _DATASET_KEYS, f"dataset '{name}'")
    if "dimensions" not in section or "storage" not in section:
        raise ConfigError(f"dataset '{name}' needs 'dimensions' and 'storage'")
    dimensions = _words(section["dimensions"], f"dataset '{name}': dimensions")
    return dimensions, str(section["storage"]), str(section.get("description", ""))


def _parse_node(label: str, section: Any) -> TaskNode:
    what = f"task '{label}'"
    if not label.replace("_", "").isalnum() or not label[:1].isalpha():
        raise ConfigError(f"{what}: a label is a word of letters, digits and underscores")
    _check_keys(section, _TASK_KEYS, what)
    for key in ("task", "for"):
        if key not in section:
            raise ConfigError(f"{what} needs '{key}'")
    cls = find_task(str(section["task"]))
    reads = _mapping(section.get("reads", cls.reads), f"{what}: reads")
    writes = _mapping(section.get("writes", cls.writes), f"{what}: writes")
    cameras = _mapping(section.get("cameras", {}), f"{what}: cameras")
    node = TaskNode(
        label=label,
        task=str(section["task"]),
        dimensions=_words(section["for"], f"{what}: for"),
        inputs=tuple(_parse_input(str(name), value, what) for name, value in reads.items()),
        outputs=tuple(_parse_output(str(name), value, what) for name, value in writes.items()),
        where=str(section.get("where", "")),
        config=_mapping(section.get("config", {}), f"{what}: config"),
        cameras={str(name): _mapping(value, f"{what}: {name}") for name, value in cameras.items()},
        description=str(section.get("description", "")),
    )
    _check_arguments(node, cls)
    _check_config(node)
    return node


def _parse_input(keyword: str, value: Any, what: str) -> InputSpec:
    if isinstance(value, str):
        return InputSpec(keyword, value)
    _check_keys(value, _INPUT_KEYS, f"{what}, input '{keyword}'")
    if "dataset" not in value:
        raise ConfigError(f"{what}, input '{keyword}' needs 'dataset'")
    source = str(value.get("from", DATA))
    if source not in {DATA, CALIBRATIONS}:
        raise ConfigError(f"{what}, input '{keyword}': 'from' is {DATA} or {CALIBRATIONS}, not {source!r}")
    minimum = value.get("minimum", 1)
    if not isinstance(minimum, int) or isinstance(minimum, bool) or minimum < 1:
        raise ConfigError(f"{what}, input '{keyword}': minimum must be a positive integer, not {minimum!r}")
    match = value.get("match")
    return InputSpec(
        keyword,
        str(value["dataset"]),
        source,
        _flag(value, "optional", f"{what}, input '{keyword}'"),
        _flag(value, "many", f"{what}, input '{keyword}'"),
        minimum,
        str(value.get("where", "")),
        None if match is None else _words(match, f"{what}, input '{keyword}': match"),
        _words(value["when"], f"{what}, input '{keyword}': when") if "when" in value else (),
        _flag(value, "lazy", f"{what}, input '{keyword}'"),
        _flag(value, "overlap", f"{what}, input '{keyword}'"),
    )


def _parse_output(keyword: str, value: Any, what: str) -> OutputSpec:
    if isinstance(value, str):
        return OutputSpec(keyword, value)
    _check_keys(value, _OUTPUT_KEYS, f"{what}, output '{keyword}'")
    if "dataset" not in value:
        raise ConfigError(f"{what}, output '{keyword}' needs 'dataset'")
    return OutputSpec(keyword, str(value["dataset"]), _flag(value, "optional", f"{what}, output '{keyword}'"))


def _flag(values: Mapping[str, Any], name: str, what: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{what}: '{name}' is true or false, not {value!r}")
    return value


def _check_arguments(node: TaskNode, cls: Any) -> None:
    """Compare the inputs of a node with the keyword arguments of the task."""
    parameters = dict(list(inspect.signature(cls.run).parameters.items())[1:])  # without self
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    given = {spec.keyword for spec in node.inputs}
    for spec in node.inputs:
        if spec.keyword not in names and not takes_any:
            raise ConfigError(
                f"task '{node.label}': {cls.__name__} has no " + _unknown("input", spec.keyword, names)
            )
        may_be_absent = spec.optional or bool(spec.when)
        if (
            may_be_absent
            and spec.keyword in names
            and parameters[spec.keyword].default is inspect.Parameter.empty
        ):
            raise ConfigError(f"task '{node.label}': {cls.__name__} cannot run without '{spec.keyword}'")
    for name in names:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            raise ConfigError(
                f"task '{node.label}': the input '{name}' of {cls.__name__} is not given under 'reads'"
            )
    if not node.inputs or not any(spec.is_driving for spec in node.inputs):
        raise ConfigError(f"task '{node.label}' needs an input that is neither optional nor looked up")
    if not node.outputs:
        raise ConfigError(f"task '{node.label}' writes nothing")
    for spec in node.inputs:
        for name in spec.when:
            if name.partition(".")[0] not in cls.Config.model_fields:
                raise ConfigError(f"task '{node.label}': " + _unknown("field", name, cls.Config.model_fields))
    known = cls.writes
    for output in node.outputs:
        if known and output.keyword not in known:
            raise ConfigError(
                f"task '{node.label}': {cls.__name__} has no " + _unknown("output", output.keyword, known)
            )


def _check_config(node: TaskNode) -> None:
    try:
        node.task_config()
        for name in list(node.cameras):
            node.task_config(name)
    except ConfigError as error:
        raise ConfigError(f"task '{node.label}': {error.message}") from error


def _in_order(nodes: Sequence[TaskNode]) -> tuple[TaskNode, ...]:
    """Sort tasks so that writers come before readers; a cycle or two writers of one dataset are refused."""
    writers: dict[str, str] = {}
    for node in nodes:
        for output in node.outputs:
            if output.dataset in writers:
                raise ConfigError(
                    f"'{output.dataset}' is written by both '{writers[output.dataset]}' and '{node.label}'"
                )
            writers[output.dataset] = node.label
    ordered: list[TaskNode] = []
    waiting = list(nodes)
    while waiting:
        done = {node.label for node in ordered}
        ready = [
            node
            for node in waiting
            if all(writers.get(spec.dataset, node.label) in done | {node.label} for spec in node.inputs)
        ]
        ready = [n for n in ready if not any(writers.get(spec.dataset) == n.label for spec in n.inputs)]
        if not ready:
            raise ConfigError(
                "the tasks " + ", ".join(node.label for node in waiting) + " wait for each other"
            )
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return tuple(ordered)


def _camera_changes(instrument: str, label: str, config: Any) -> dict[str, Any]:
    """Return the changes that a camera's own file makes to a task: under its label, and to its parts of that name."""
    sections = _camera_config(instrument)
    changes = dict(sections.get(label, {}))
    for name, section in sections.items():
        if name != label and name in config.model_fields:
            changes |= {f"{name}.{key}": value for key, value in section.items()}
    return changes


@cache
def _camera_config(instrument: str) -> Mapping[str, Any]:
    """Return the configuration that a camera's own file gives, by task; empty for an unknown camera."""
    from starmill.io.raw import camera_names, load_camera

    if instrument not in camera_names():
        return {}
    return load_camera(instrument).config


def _node_to_dict(node: TaskNode) -> dict[str, Any]:
    reads = {}
    for spec in node.inputs:
        values = {
            "dataset": spec.dataset, "from": spec.source, "optional": spec.optional, "many": spec.many,
            "minimum": spec.minimum, "where": spec.where, "match": None if spec.match is None else list(spec.match),
            "when": list(spec.when), "lazy": spec.lazy, "overlap": spec.overlap,
        }  # fmt: skip
        defaults = {
            "from": DATA, "optional": False, "many": False, "minimum": 1, "where": "", "match": None, "when": [],
            "lazy": False, "overlap": False,
        }  # fmt: skip
        reads[spec.keyword] = {key: value for key, value in values.items() if defaults.get(key, ...) != value}
    return {
        "task": node.task,
        "for": list(node.dimensions),
        **({"where": node.where} if node.where else {}),
        "reads": reads,
        "writes": {out.keyword: {"dataset": out.dataset, "optional": out.optional} for out in node.outputs},
        "config": dict(node.config),
        "cameras": {name: dict(section) for name, section in node.cameras.items()},
    }


def _check_keys(values: Any, known: Sequence[str], what: str) -> None:
    for key in _mapping(values, what):
        if key not in known:
            raise ConfigError(f"{what}: " + _unknown("key", str(key), known))


def _mapping(values: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what}: names and values are needed, not {type(values).__name__}")
    return values


def _words(values: Any, what: str) -> tuple[str, ...]:
    if (
        not isinstance(values, (list, tuple))
        or not all(isinstance(value, str) for value in values)
        or not values
    ):
        raise ConfigError(f"{what}: a list of words is needed")
    return tuple(values)


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = nearest_name(name, names)
    hint = f"; did you mean '{near}'?" if near else f" (known: {', '.join(names)})"
    return f"unknown {what} {name!r}{hint}"
