"""Planning: which quanta there are, what they read, and why others are left out."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest

from starmill.errors import InputError
from starmill.pipelines import build_graph, parse_pipeline
from starmill.repository.calibrations import CalibrationTable
from starmill.repository.dataset_types import STANDARD_TYPES, DatasetType
from starmill.repository.expression import parse_expression
from tests.execution.toy_tasks import PIPELINE


@dataclass
class Ref:
    """A data set that exists."""

    dataset_type: str
    known: dict


@dataclass
class Source:
    """A repository made of lists."""

    refs: list = field(default_factory=list)
    records: dict = field(default_factory=dict)
    types: dict = field(default_factory=dict)
    asked: int = 0

    def dataset_type(self, name):
        known = {
            **STANDARD_TYPES,
            "number": DatasetType("number", ("instrument", "exposure"), "json"),
            "total": DatasetType("total", ("instrument", "exposure"), "json"),
            "sum": DatasetType("sum", ("instrument",), "json"),
            **self.types,
        }
        return known[name]

    def find_all(self, dataset_type, conditions):
        self.asked += 1
        found = [ref for ref in self.refs if ref.dataset_type == dataset_type]
        return [ref for ref in found if all(self.matcher(c)(self._everything(ref)) for c in conditions)]

    def _everything(self, ref):
        return {**self.records.get((ref.known.get("instrument"), ref.known.get("exposure")), {}), **ref.known}

    def exposures(self, keys):
        return {key: self.records[key] for key in keys if key in self.records}

    def calibrations(self, dataset_type):
        return CalibrationTable(self.dataset_type(dataset_type), [])

    def matcher(self, condition):
        expression = parse_expression(condition)
        return expression.matches if expression else lambda _: True


def numbers(count, **more):
    return [Ref("number", {"instrument": f"cam{n % 2}", "exposure": n, **more}) for n in range(count)]


def test_quanta_follow_the_data():
    graph = build_graph(parse_pipeline(PIPELINE), Source(numbers(5)))
    assert graph.counts() == {"add": 5, "sum": 2}
    assert [quantum.data_key for quantum in graph.quanta[-2:]] == ["instrument=cam0", "instrument=cam1"]
    assert graph.quanta[5].parents == {0, 2, 4}
    assert graph.children()[1] == [6]


def test_the_query_of_the_user_restricts_what_drives():
    graph = build_graph(parse_pipeline(PIPELINE), Source(numbers(5)), "exposure in (1, 2)")
    assert graph.counts() == {"add": 2, "sum": 2}
    empty = build_graph(parse_pipeline(PIPELINE), Source(numbers(5)), "exposure > 77")
    assert len(empty) == 0
    assert "add: 0 quanta (found 0 number)" in empty.explain()


def test_too_few_items_of_a_list_are_explained():
    values = copy.deepcopy(PIPELINE)
    values["tasks"]["sum"]["reads"]["totals"]["minimum"] = 3
    graph = build_graph(parse_pipeline(values), Source(numbers(5)))
    assert graph.counts() == {"add": 5, "sum": 1}
    assert "1 left out: totals: 2 total, at least 3 are needed" in graph.explain()


def test_missing_calibrations_are_explained():
    from starmill.pipelines import load_pipeline

    known = {"instrument": "lowell42", "exposure": 1, "detector": 0, "night": 20260101, "filter": "VR"}
    records = {("lowell42", 1): {"mjd": 61041.0, "image_type": "science"}}
    process = load_pipeline("process").select(["isr"])
    graph = build_graph(process, Source([Ref("raw", known)], records))
    assert len(graph) == 0
    assert "no calibration collection among the inputs, so no bias" in graph.explain()
    without = process.override({"isr.bias": False, "isr.flat": False})
    assert len(build_graph(without, Source([Ref("raw", known)], records))) == 1  # lowell42 needs no dark
    other = Source([Ref("raw", {**known, "instrument": "generic"})], {("generic", 1): records["lowell42", 1]})
    assert "so no dark" in build_graph(without, other).explain()


def test_only_frames_of_the_right_kind_drive():
    from starmill.pipelines import load_pipeline

    kinds = ["bias"] * 4 + ["flat"] * 3 + ["science"]
    refs = [
        Ref(
            "raw", {"instrument": "lowell42", "exposure": n, "detector": 0, "night": 20260101, "filter": "VR"}
        )
        for n in range(8)
    ]
    records = {("lowell42", n): {"image_type": kind, "mjd": 61041.0} for n, kind in enumerate(kinds)}
    graph = build_graph(load_pipeline("calibs"), Source(refs, records))
    assert graph.counts() == {"bias": 1, "dark": 0, "flat": 1}
    flat = graph.quanta[1]
    assert {keyword: len(items) for keyword, items, _ in flat.inputs} == {"frames": 3, "bias": 1}
    assert flat.parents == {0}


def test_a_looked_up_input_must_be_unique():
    values = copy.deepcopy(PIPELINE)
    values["tasks"]["add"]["reads"] = {"number": "number"}
    values["datasets"]["offset"] = {"dimensions": ["instrument", "night"], "storage": "json"}
    values["tasks"]["sum"]["reads"]["offset"] = {"dataset": "offset", "match": ["instrument"]}
    with pytest.raises(InputError, match="has no unknown input"):
        parse_pipeline(values)


def test_dimensions_of_task_and_product_must_agree():
    values = copy.deepcopy(PIPELINE)
    values["tasks"]["add"]["for"] = ["instrument"]
    with pytest.raises(InputError, match="'total' has the dimensions"):
        build_graph(parse_pipeline(values), Source(numbers(3)))


def test_data_without_a_dimension_are_counted():
    refs = [*numbers(3), Ref("number", {"exposure": 9})]
    graph = build_graph(parse_pipeline(PIPELINE), Source(refs))
    assert "1 left out: number has no instrument" in graph.explain()


def test_many_quanta_are_planned_with_few_questions():
    source = Source(numbers(2000))
    graph = build_graph(parse_pipeline(PIPELINE), source)
    assert len(graph) == 2002
    assert source.asked == 1
