"""A repository with numbers, and a way to run the toy pipeline on it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from starmill.execution.pool import PoolExecutor, WorkerSettings
from starmill.execution.session import PipelineRequest
from starmill.pipelines import parse_pipeline
from starmill.repository import DatasetType, Repository
from tests.execution.toy_tasks import PIPELINE

NUMBER = DatasetType("number", ("instrument", "exposure"), "json")
ROOT = Path(__file__).resolve().parents[2]
MODULES = ("tests.execution.toy_tasks",)


@pytest.fixture
def make_numbers(tmp_path):
    """Make a repository with numbers; trouble says which ones misbehave."""

    def make(count, trouble=None, name="repo"):
        root = tmp_path / name
        with Repository.create(root, output="base") as repository:
            repository.register_dataset_types([NUMBER])
            for number in range(count):
                value = {"v": number}
                if trouble and number in trouble:
                    value["trouble"] = trouble[number]
                repository.put(value, "number", instrument="cam", exposure=number)
        return root

    return make


@pytest.fixture
def request_for():
    """Make the request of a toy run."""

    def make(root, **more):
        config = more.pop("config", {})
        pipeline = parse_pipeline(copy.deepcopy(PIPELINE)).override(config)
        settings = {"inputs": ("base",), "output": "toys", "modules": MODULES, "paths": (str(ROOT),)}
        return PipelineRequest(repository=str(root), pipeline=pipeline, **{**settings, **more})

    return make


@pytest.fixture
def pool():
    """Start pools that are ended with the test."""
    pools = []

    def start(workers, **settings):
        pools.append(PoolExecutor(workers, WorkerSettings(modules=MODULES, paths=(str(ROOT),), **settings)))
        return pools[-1]

    yield start
    for executor in pools:
        executor.close()


def products(root, run="toys"):
    """Contents of all files of a run by data set."""
    found = {}
    with Repository(root, writable=False) as repository:
        for kind in ("total", "sum"):
            for ref in repository.query(kind, collections=run):
                found[kind, ref.data_id.key] = (Path(root) / ref.path).read_bytes()
    return found
