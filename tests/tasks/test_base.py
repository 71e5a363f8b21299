"""Tasks: configuration, parts, records, replaceability."""

import numpy as np
import pytest

from starmill.errors import ConfigError
from starmill.tasks.base import Config, Result, Task, field, subtask, task_named
from starmill.tasks.config import SubtaskConfig
from starmill.tasks.measure import SingleFrameMeasurementConfig


class ScaleConfig(Config):
    factor: float = field(5.0, "multiplies the input", unit="electron/ADU", gt=0)


class ScaleTask(Task):
    Config = ScaleConfig

    def run(self, *, image):
        self.metadata["pixels"] = image.size
        self.debug_hook("scaled", image=image)
        return Result(image=image * self.config.factor)


class NegateConfig(Config):
    offset: float = field(1.0, "added afterwards")


class NegateTask(Task):
    Config = NegateConfig

    def run(self, *, image):
        return Result(image=self.config.offset - image)


class ChainConfig(Config):
    scale: SubtaskConfig = subtask(ScaleConfig, "the first step", factor=2)
    repeats: int = field(1, "number of times", ge=1, le=5)


class ChainTask(Task):
    Config = ChainConfig

    def __init__(self, config=None, **keywords):
        super().__init__(config, **keywords)
        self.make_subtask("scale")

    def run(self, *, image):
        for _ in range(self.config.repeats):
            with self.timer("loop"):
                image = self.scale.run(image=image).image
        return Result(image=image)


def test_parts_are_built_from_the_configuration_and_named():
    task = ChainTask(name="chain")
    assert task.scale.full_name == "chain.scale"
    assert task.run(image=np.ones(2)).image.tolist() == [2, 2]
    assert ChainTask(ChainConfig(repeats=3)).run(image=np.ones(1)).image.tolist() == [8]
    assert set(task.task_dict()) == {"chain", "chain.scale"}


def test_a_part_is_replaced_by_configuration():
    config = ChainConfig().override({"scale": {"task": "NegateTask", "offset": 4}})
    task = ChainTask(config)
    assert isinstance(task.scale, NegateTask)
    assert task.run(image=np.ones(1)).image.tolist() == [3]
    again = ChainConfig(**config.to_dict())
    assert again == config
    assert task_named("NegateTask") is NegateTask


def test_runs_start_with_empty_records_and_add_up_inside():
    task = ChainTask(ChainConfig(repeats=3))
    task.run(image=np.ones(4))
    first = task.full_metadata()
    task.run(image=np.ones(9))
    second = task.full_metadata()
    assert set(first) == set(second) == {"chain", "chain:scale"}
    assert second["chain:scale"]["pixels"] == 9
    assert second["chain"]["run_cpu_seconds"] >= second["chain:scale"]["run_cpu_seconds"]
    assert second["chain"]["loop_wall_seconds"] <= second["chain"]["run_wall_seconds"]
    assert second["chain"]["run_peak_mb"] > 1


def test_the_debug_hook_of_the_top_sees_the_parts():
    seen = []
    task = ChainTask(
        debug=lambda name, task, **items: seen.append((name, task.full_name, items["image"].size))
    )
    task.run(image=np.ones(3))
    assert seen == [("scaled", "chain.scale", 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale.factr": 1}, "did you mean 'factor'"),
        ({"scale.factor": 0}, "greater than 0"),
        ({"repeats": 9}, "less than or equal to 5"),
        ({"scale.factor.deep": 1}, "is a value"),
        ({"scale": {"task": "NegatTask"}}, "did you mean NegateTask"),
        ({"nothing": 1}, "unknown configuration key 'nothing'"),
    ],
)
def test_wrong_configurations_explain_themselves(changes, message):
    with pytest.raises(ConfigError, match=message):
        ChainConfig().override(changes)


def test_mappings_that_are_empty_by_default_take_new_keys():
    expected = {"aperture_flux": {"radii": [3.0, 5.0]}, "centroid": {"max_bin": 2}}
    config = SingleFrameMeasurementConfig()
    assert config.options == {}
    for changes in (
        {"options": expected},
        {"options.aperture_flux.radii": [3.0, 5.0], "options.centroid": {"max_bin": 2}},
    ):
        assert config.override(changes).options == expected
    with pytest.raises(ConfigError, match="did you mean 'options'"):
        config.override({"option": expected})


def test_a_part_is_replaced_and_then_set():
    config = ChainConfig().override({"scale.task": "NegateTask", "scale.offset": 4})
    assert config.scale.task_name == "NegateTask"
    assert config.scale.offset == 4


def test_help_names_every_field_with_unit_and_bounds():
    text = ChainConfig.help()
    for word in ("scale.factor", "electron/ADU", "> 0", "multiplies the input", "≥ 1, ≤ 5"):
        assert word in text


def test_wrong_configuration_class():
    with pytest.raises(ConfigError, match="needs a ChainConfig"):
        ChainTask(ScaleConfig())
