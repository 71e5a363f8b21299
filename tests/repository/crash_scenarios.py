"""Pieces of work on a small repository that crash tests cut at every point of the file layer."""

from __future__ import annotations

import json
from pathlib import Path

from starmill.execution.local import InProcessExecutor
from starmill.execution.runner import Runner
from starmill.execution.source import RepositorySource
from starmill.pipelines import build_graph, parse_pipeline
from starmill.repository import Repository
from starmill.repository.ingest import ingest
from starmill.repository.prune import prune_collection, prune_datasets
from starmill.repository.transfer import import_datasets
from tests.execution import toy_tasks
from tests.repository.conftest import NUMBER, text_translator


def write_frames(folder: Path, count: int = 5) -> list[Path]:
    """Write small raw frames."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        record = {"instrument": "toycam", "exposure": number, "night": 20260101, "mjd": 61041.0 + number}
        path = folder / f"frame{number}.fits"
        if not path.exists():
            path.write_text(json.dumps(record))
        paths.append(path)
    return paths


def prepare(root: Path, registry: str | None = None) -> None:
    """Make the repository on which all scenarios begin."""
    with Repository.create(root, registry=registry, output="base") as repository:
        repository.register_dataset_types([NUMBER])
        for number in range(4):
            repository.put({"v": number}, "number", instrument="cam", exposure=number)
        repository.make_collection("other")


def put_three(root: Path, work: Path) -> None:
    """Three products, one of which replaces another."""
    with Repository(root, output="put") as repository:
        for number in range(3):
            repository.put({"v": number}, "number", instrument="cam", exposure=number)
        repository.put({"v": "replaced"}, "number", instrument="cam", exposure=1, replace=True)


def put_three_again(root: Path, work: Path) -> None:
    """Like `put_three`, from any state in which it may have been cut."""
    with Repository(root, output="put") as repository:
        for number in range(3):
            known = "put" in repository.collections()
            if not known or not repository.query("number", collections="put", exposure=number):
                repository.put({"v": number}, "number", instrument="cam", exposure=number)
        repository.put({"v": "replaced"}, "number", instrument="cam", exposure=1, replace=True)


def ingest_copies(root: Path, work: Path) -> None:
    """Ingest by copy."""
    with Repository(root) as repository:
        ingest(repository, write_frames(work / "frames"), text_translator)


def ingest_moves(root: Path, work: Path) -> None:
    """Ingest by move: no frame may be lost, wherever it is cut."""
    frames = sorted((work / "frames").glob("*.fits"))
    with Repository(root) as repository:
        ingest(repository, frames, text_translator, mode="move")


def curate(root: Path, work: Path) -> None:
    """Chain, tag, certify."""
    with Repository(root) as repository:
        refs = repository.query("number")
        repository.chain("chain", ["other", "base"])
        repository.chain("chain", ["base", "other"])
        repository.tag("tagged", refs[:2])
        repository.certify("calib", refs[2:], 61000.0, 62000.0)


def prune(root: Path, work: Path) -> None:
    """Remove two data sets and a collection."""
    with Repository(root) as repository:
        prune_datasets(repository, repository.query("number", "exposure < 2"))
        if "other" in repository.collections():
            prune_collection(repository, "other")


def import_some(root: Path, work: Path) -> None:
    """Import what another repository exported."""
    with Repository(root) as repository:
        import_datasets(repository, work / "export.tar")


def run_toys(root: Path, work: Path) -> None:
    """Run a pipeline of two tasks."""
    pipeline = parse_pipeline(toy_tasks.PIPELINE)
    with Repository(root, inputs="base", output="toys") as repository:
        graph = build_graph(pipeline, RepositorySource(repository, pipeline))
        summary = Runner(repository, graph, InProcessExecutor(), "toys").run()
        assert summary.exit_code == 0, summary.errors


#: name: (the work, the same work from any state in which it was cut)
SCENARIOS = {
    "put": (put_three, put_three_again),
    "ingest-copy": (ingest_copies, ingest_copies),
    "ingest-move": (ingest_moves, ingest_moves),
    "curate": (curate, curate),
    "prune": (prune, prune),
    "import": (import_some, import_some),
    "run": (run_toys, run_toys),
}
