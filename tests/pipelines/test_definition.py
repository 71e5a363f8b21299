"""Pipelines as YAML: what is accepted, and how every mistake is named."""

from __future__ import annotations

import copy

import pytest

from starmill.errors import ConfigError
from starmill.io.config import read_yaml_text
from starmill.io.raw import load_camera
from starmill.pipelines import load_pipeline, parse_pipeline, standard_pipelines
from starmill.pipelines.picture import mermaid, svg
from starmill.tasks.isr import IsrTask
from tests.execution.toy_tasks import PIPELINE


def test_tasks_come_in_the_order_in_which_they_can_run():
    pipeline = parse_pipeline(PIPELINE)
    assert [node.label for node in pipeline.nodes] == ["add", "sum"]
    assert pipeline.select(["first"]).nodes == pipeline.nodes[:1]
    assert parse_pipeline(pipeline.to_dict()).to_dict() == pipeline.to_dict()


def test_every_standard_pipeline_is_valid():
    for name in standard_pipelines():
        pipeline = load_pipeline(name)
        assert pipeline.description
        assert parse_pipeline(pipeline.to_dict()).nodes == pipeline.nodes


def test_configuration_comes_in_layers():
    values = copy.deepcopy(PIPELINE)
    values["tasks"]["add"] |= {"config": {"amount": 2}, "cameras": {"toycam": {"amount": 3}}}
    pipeline = parse_pipeline(values)
    add = pipeline.nodes[0]
    assert [add.task_config(name).amount for name in (None, "other", "toycam")] == [2, 2, 3]
    mine = pipeline.override({"add.amount": 7}).nodes[0]
    assert [mine.task_config(name).amount for name in (None, "other", "toycam")] == [7, 7, 7]
    with pytest.raises(ConfigError, match="did you mean 'amount'"):
        pipeline.override({"add.amoun": 1})
    with pytest.raises(ConfigError, match="did you mean 'add'"):
        pipeline.override({"ad.amount": 1})
    with pytest.raises(ConfigError, match="belongs to a whole pipeline: run that file"):
        pipeline.override(pipeline.to_dict())


def test_the_file_of_a_camera_configures_tasks_and_their_parts():
    calibs = {node.label: node for node in load_pipeline("calibs").nodes}
    method = IsrTask.Config().override(load_camera("lowell42").config["isr"]).overscan.method
    assert calibs["flat"].task_config("lowell42").isr.overscan.method == method
    assert calibs["flat"].task_config("generic").isr.overscan.method != method
    assert calibs["flat"].task_config("lowell42").isr.dark is False
    process = {node.label: node for node in load_pipeline("process").nodes}
    assert process["isr"].task_config("lowell42").dark is False
    assert process["isr"].task_config("generic").dark is True


def _reading(**how):
    reads = {"number": {"dataset": "number", **how}}
    return {"tasks": {"add": {"task": "AddNumberTask", "for": ["exposure"], "reads": reads}}}


MISTAKES = [
    ({"tasks": {}}, "no tasks"),
    ({"taks": {}}, "did you mean 'tasks'"),
    ({"tasks": {"add": {"task": "AddNumbersTask", "for": ["instrument"]}}}, "did you mean AddNumberTask"),
    ({"tasks": {"add": {"task": "../evil", "for": ["instrument"]}}}, "no name of a task"),
    ({"tasks": {"add": {"task": "os.system", "for": ["instrument"]}}}, "no name of a task"),
    ({"tasks": {"add": {"task": "AddNumberTask"}}}, "needs 'for'"),
    ({"tasks": {"add": {"task": "AddNumberTask", "for": ["exposure"], "reads": {"numer": "number"}}}}, "'number'"),
    ({"tasks": {"add": {"task": "AddNumberTask", "for": ["exposure"], "writes": {"totl": "total"}}}}, "'total'"),
    ({"tasks": {"add": {"task": "AddNumberTask", "for": ["exposure"], "config": {"amont": 3}}}}, "'amount'"),
    ({"tasks": {"add": {"task": "AddNumberTask", "for": ["exposure"], "config": {"amount": "x"}}}}, "amount"),
    (_reading(optional="no"), "true or false"),
    (_reading(optional=True), "cannot run without"),
    (_reading(**{"from": "moon"}), "calibrations"),
    ({"tasks": {"add": {"task": "AddNumberTask", "for": ["exposure"], "writes": {}}}}, "writes nothing"),
    ({"tasks": {"a-b": {"task": "AddNumberTask", "for": ["exposure"]}}}, "label"),
    ({"tasks": [1, 2]}, "names and values"),
    ({"tasks": {"add": {"task": "AddNumberTask", "for": "exposure"}}}, "list of words"),
    ({"subsets": {"x": ["nobody"]}}, "unknown task 'nobody'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_mistakes_are_named(change, message):
    values = {**copy.deepcopy(PIPELINE), **change}
    with pytest.raises(ConfigError, match=message):
        parse_pipeline(values, where="my.yaml")


def test_two_writers_and_circles_are_refused():
    values = copy.deepcopy(PIPELINE)
    values["tasks"]["again"] = values["tasks"]["add"]
    with pytest.raises(ConfigError, match="'total' is written by both"):
        parse_pipeline(values)
    circle = copy.deepcopy(PIPELINE)
    circle["tasks"]["add"]["reads"] = {"number": "sum"}
    with pytest.raises(ConfigError, match="wait for each other"):
        parse_pipeline(circle)


def test_executable_yaml_is_refused():
    from starmill.errors import InputError

    with pytest.raises(InputError):
        read_yaml_text("pipeline: !!python/object/apply:os.system [echo]")
    with pytest.raises(ConfigError, match="did you mean 'process'"):
        load_pipeline("proces")


def test_pictures_name_every_task_and_data_set():
    pipeline = load_pipeline("process")
    for text in (mermaid(pipeline), svg(pipeline, {"isr": 5, "characterize": 5})):
        for word in ("isr", "characterize", "raw", "bias", "catalog"):
            assert word in text
    assert svg(pipeline).count("<rect") == 2 + 8
