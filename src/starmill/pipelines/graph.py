"""The graph of quanta: every single run of every task, with what it reads from the repository or from others.

The graph is made from metadata only; no file is opened. It reads the repository through `DatasetSource`, so
that the same code plans work for any place that can answer these four questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starmill.errors import InputError
from starmill.pipelines.definition import CALIBRATIONS, InputSpec, Pipeline, TaskNode


class DatasetSource(Protocol):
    """What planning asks of a repository."""

    def dataset_type(self, name: str) -> Any:
        """Return name, dimensions and storage of a dataset type, or raise."""

    def find_all(self, dataset_type: str, conditions: Sequence[str]) -> Sequence[Any]:
        """Return references of all data sets that fulfil all conditions."""

    def exposures(self, keys: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], Mapping[str, Any]]:
        """Return the exposure records of (instrument, exposure) pairs."""

    def calibrations(self, dataset_type: str) -> Any:
        """Return a table with ``best(known, mjd)`` and ``reason(known, mjd)``."""

    def regions(self, items: Sequence[tuple[Mapping[str, Any], Any]]) -> Sequence[Any]:
        """Return the regions on the sky (or None) of data sets given by dimension values and reference."""

    def matcher(self, condition: str) -> Any:
        """Return a function that tests a mapping of values against a data query."""


class Quantum:
    """One run of one task.

    Attributes
    ----------
    index : int
        Position in the graph.
    node : TaskNode
        Task.
    known : dict
        Dimension values, identifying and implied.
    inputs : tuple of (keyword, tuple of items, is_list)
        Items are references of the repository, or `(index, keyword)` of the quantum that will make them.
    """

    __slots__ = ("index", "inputs", "known", "node")

    def __init__(self, index: int, node: TaskNode, known: Mapping[str, Any], inputs: tuple[Any, ...]) -> None:
        self.index = index
        self.node = node
        self.known = known
        self.inputs = inputs

    @property
    def data_key(self) -> str:
        """Canonical text of the identifying dimensions."""
        return ",".join(f"{name}={self.known[name]}" for name in self.node.dimensions)

    @property
    def parents(self) -> set[int]:
        """Indices of the quanta whose products it reads."""
        return {item[0] for _, items, _ in self.inputs for item in items if isinstance(item, tuple)}


@dataclass
class NodeReport:
    """Why a task has as many quanta as it has.

    Attributes
    ----------
    label : str
        Of the task.
    quanta : int
        How many will run.
    candidates : dict
        Number of data sets found for each driving input, by keyword.
    dropped : Counter
        Number of combinations left out, by reason.
    """

    label: str
    quanta: int = 0
    candidates: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class QuantumGraph:
    """All quanta in an order in which they can run, and a report for each task."""

    pipeline: Pipeline
    quanta: list[Quantum]
    reports: dict[str, NodeReport]
    where: str = ""

    def __len__(self) -> int:
        return len(self.quanta)

    def children(self) -> list[list[int]]:
        """Return for each quantum the quanta that read its products."""
        lists: list[list[int]] = [[] for _ in self.quanta]
        for quantum in self.quanta:
            for parent in quantum.parents:
                lists[parent].append(quantum.index)
        return lists

    def counts(self) -> dict[str, int]:
        """Return the number of quanta of each task."""
        return {label: report.quanta for label, report in self.reports.items()}

    def explain(self, *, reasons: int = 4) -> str:
        """Return lines that say how many quanta each task has and why others were left out."""
        lines = []
        for label, report in self.reports.items():
            found = ", ".join(f"{n} {name}" for name, n in report.candidates.items())
            lines.append(f"{label}: {report.quanta} quanta (found {found or 'nothing'})")
            if report.candidates and not any(report.candidates.values()):
                names = " or ".join(report.candidates)
                query = f" for the query '{self.where}'" if self.where else ""
                lines.append(f"  the input collections hold no {names}{query}")
            ranked = report.dropped.most_common()
            lines += [f"  {count} left out: {reason}" for reason, count in ranked[:reasons]]
            if len(ranked) > reasons:
                lines.append(f"  and {len(ranked) - reasons} further reasons")
        return "\n".join(lines)


def build_graph(pipeline: Pipeline, source: DatasetSource, where: str = "") -> QuantumGraph:
    """Plan a pipeline.

    Parameters
    ----------
    pipeline : Pipeline
        Checked.
    source : DatasetSource
        Where data sets are looked up.
    where : str
        Data query of the user; restricts the data sets from outside that drive quanta.

    Returns
    -------
    graph : QuantumGraph
        Possibly empty; `QuantumGraph.explain` says why.
    """
    builder = _Builder(pipeline, source, where)
    for node in pipeline.nodes:
        builder.add(node)
    return QuantumGraph(pipeline, builder.quanta, builder.reports, where)


@dataclass
class _Item:
    """A data set that exists or will exist: its values, and how a quantum refers to it."""

    __slots__ = ("known", "reference")

    known: Mapping[str, Any]
    reference: Any


class _Builder:
    """Adds the quanta of one task after the other."""

    def __init__(self, pipeline: Pipeline, source: DatasetSource, where: str) -> None:
        self.source = source
        self.where = where
        self.quanta: list[Quantum] = []
        self.reports: dict[str, NodeReport] = {}
        self.made_here = {output.dataset for node in pipeline.nodes for output in node.outputs}
        self.produced: dict[str, list[_Item]] = {}
        self._exposures: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._configs: dict[tuple[str, str | None], Any] = {}
        self._places: dict[int, Any] = {}

    def add(self, node: TaskNode) -> None:
        """Plan one task."""
        report = self.reports[node.label] = NodeReport(node.label)
        self._check_types(node)
        self._places.clear()
        driving = [spec for spec in node.inputs if spec.is_driving]
        groups = {spec.keyword: self._grouped(node, spec, report) for spec in driving}
        lookups = {spec.keyword: self._lookup(node, spec) for spec in node.inputs if not spec.is_driving}
        first = groups[driving[0].keyword]
        if any(spec.overlap for spec in node.inputs):
            self._load_places([item for items in first.values() for item in items[:1]])
        for other in driving[1:]:
            for key in groups[other.keyword].keys() - first.keys():
                report.dropped[f"no {driving[0].dataset} for it"] += 1
                del key
        for key, items in first.items():
            self._add_quantum(node, key, items, groups, lookups, report)

    def _check_types(self, node: TaskNode) -> None:
        for spec in node.inputs:
            self.source.dataset_type(spec.dataset)
        for output in node.outputs:
            dimensions = set(self.source.dataset_type(output.dataset).dimensions)
            if dimensions != set(node.dimensions):
                raise InputError(
                    f"task '{node.label}' runs for {', '.join(node.dimensions)}, but '{output.dataset}' has the"
                    f" dimensions {', '.join(sorted(dimensions))}"
                )

    def _grouped(
        self, node: TaskNode, spec: InputSpec, report: NodeReport
    ) -> dict[tuple[Any, ...], list[_Item]]:
        """Return the data sets of a driving input by the values of the task's dimensions."""
        items = self._items(spec, node.where, driving=True)
        report.candidates[spec.keyword] = len(items)
        if any(other.source == CALIBRATIONS for other in node.inputs):
            self._load_records(items)
        groups: dict[tuple[Any, ...], list[_Item]] = {}
        for item in items:
            key = tuple(item.known.get(name) for name in node.dimensions)
            if None in key:
                missing = [name for name, value in zip(node.dimensions, key, strict=True) if value is None]
                report.dropped[f"{spec.dataset} has no {', '.join(missing)}"] += 1
                continue
            groups.setdefault(key, []).append(item)
        return groups

    def _items(self, spec: InputSpec, node_where: str, *, driving: bool) -> list[_Item]:
        conditions = [condition for condition in (spec.where, node_where if driving else "") if condition]
        if spec.dataset in self.made_here:
            items = self.produced.get(spec.dataset, [])
            if conditions:
                self._load_records(items)
            for condition in conditions:
                matches = self.source.matcher(condition)
                items = [item for item in items if matches(self._everything(item.known))]
            return items
        if driving and self.where:
            conditions.append(self.where)
        refs = self.source.find_all(spec.dataset, conditions)
        return [_Item(ref.known, ref) for ref in refs]

    def _everything(self, known: Mapping[str, Any]) -> Mapping[str, Any]:
        """Dimension values with the columns of the exposure record."""
        record = self._record(known)
        return {**record, **known} if record else known

    def _record(self, known: Mapping[str, Any]) -> Mapping[str, Any]:
        if "exposure" not in known or "instrument" not in known:
            return {}
        key = (known["instrument"], known["exposure"])
        if key not in self._exposures:
            self._exposures.update(self.source.exposures([key]))
            self._exposures.setdefault(key, {})
        return self._exposures[key]

    def _load_records(self, items: Iterable[_Item]) -> None:
        keys = {
            (item.known["instrument"], item.known["exposure"])
            for item in items
            if "exposure" in item.known and "instrument" in item.known
        }
        wanted = keys - self._exposures.keys()
        if wanted:
            self._exposures.update(self.source.exposures(wanted))

    def _lookup(self, node: TaskNode, spec: InputSpec) -> Any:
        """Prepare look-ups of an input that does not drive quanta."""
        if spec.source == CALIBRATIONS and spec.dataset not in self.made_here:
            return self.source.calibrations(spec.dataset)
        shared = spec.match
        if shared is None:
            dimensions = self.source.dataset_type(spec.dataset).dimensions
            shared = tuple(name for name in dimensions if name in node.dimensions)
        groups: dict[tuple[Any, ...], list[_Item]] = {}
        items = self._items(spec, "", driving=False)
        if spec.overlap:
            self._load_places(items)
        for item in items:
            groups.setdefault(tuple(item.known.get(name) for name in shared), []).append(item)
        return shared, groups

    def _add_quantum(
        self,
        node: TaskNode,
        key: tuple[Any, ...],
        items: list[_Item],
        groups: Mapping[str, dict[tuple[Any, ...], list[_Item]]],
        lookups: Mapping[str, Any],
        report: NodeReport,
    ) -> None:
        known = self._common(node, key, items)
        config = self._config(node, known.get("instrument"))
        inputs = []
        for spec in node.inputs:
            if not all(_config_value(config, name) for name in spec.when):
                continue
            if spec.is_driving:
                found, reason = groups[spec.keyword].get(key, []), f"no {spec.dataset} for it"
            else:
                found, reason = self._look_up(spec, lookups[spec.keyword], known, items)
            reason = _check_count(spec, found, reason)
            if reason and (found or not spec.optional):
                report.dropped[f"{spec.keyword}: {reason}"] += 1
                return
            if found:
                inputs.append((spec.keyword, tuple(item.reference for item in found), spec.many))
        quantum = Quantum(len(self.quanta), node, known, tuple(inputs))
        self.quanta.append(quantum)
        report.quanta += 1
        for output in node.outputs:
            self.produced.setdefault(output.dataset, []).append(_Item(known, (quantum.index, output.keyword)))

    def _common(self, node: TaskNode, key: tuple[Any, ...], items: list[_Item]) -> Mapping[str, Any]:
        """Values that hold for the whole quantum: its key, and whatever all its driving data sets agree in."""
        first = items[0].known
        if len(items) == 1 and set(first) >= set(node.dimensions):
            return first
        agreed = {
            name: value
            for name, value in first.items()
            if name not in {"exposure", "visit"} and all(item.known.get(name) == value for item in items)
        }
        return {**agreed, **dict(zip(node.dimensions, key, strict=True))}

    def _config(self, node: TaskNode, instrument: str | None) -> Any:
        if not any(spec.when for spec in node.inputs):
            return None
        if (node.label, instrument) not in self._configs:
            self._configs[node.label, instrument] = node.task_config(instrument)
        return self._configs[node.label, instrument]

    def _look_up(
        self, spec: InputSpec, lookup: Any, known: Mapping[str, Any], items: list[_Item]
    ) -> tuple[list[_Item], str]:
        if isinstance(lookup, tuple):
            shared, groups = lookup
            values = tuple(known.get(name) for name in shared)
            shown = ", ".join(f"{name}={value}" for name, value in zip(shared, values, strict=True))
            found, reason = groups.get(values, []), f"no {spec.dataset} with {shown}"
            return self._overlapping(spec, found, items[0]) if spec.overlap and found else (found, reason)
        times = [
            record["mjd"] for record in map(self._record, (item.known for item in items)) if record.get("mjd")
        ]
        mjd = sum(times) / len(times) if times else None
        ref = lookup.best(known, mjd)
        return ([], lookup.reason(known, mjd)) if ref is None else ([_Item(ref.known, ref)], "")

    def _load_places(self, items: Sequence[_Item]) -> None:
        """Look up where data sets lie on the sky, all at once."""
        places = self.source.regions([(item.known, item.reference) for item in items])
        self._places.update({id(item): place for item, place in zip(items, places, strict=True)})

    def _overlapping(self, spec: InputSpec, found: list[_Item], driving: _Item) -> tuple[list[_Item], str]:
        """Return the data sets that cover a part of the quantum's place: the best, or all with the best first."""
        place = self._places.get(id(driving))
        if place is None:
            return [], "its place on the sky is not known"
        covered = [
            (-place.covered_by(self._places[id(item)]), rank, item)
            for rank, item in enumerate(found)
            if self._places[id(item)] is not None
        ]
        best = [item for fraction, _, item in sorted(covered, key=lambda entry: entry[:2]) if fraction < 0]
        if not best:
            return [], f"none of {len(found)} {spec.dataset} overlaps it on the sky"
        return best if spec.many else best[:1], ""


def _config_value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _check_count(spec: InputSpec, found: list[_Item], reason: str) -> str:
    """Say why the number of data sets does not do; empty when it does."""
    if not found:
        return reason
    if spec.many and len(found) < spec.minimum:
        return f"{len(found)} {spec.dataset}, at least {spec.minimum} are needed"
    if not spec.many and len(found) > 1:
        return f"{len(found)} {spec.dataset} belong to it, but the task takes one"
    return ""
