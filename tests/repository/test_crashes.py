"""Wherever a process is killed or the disk is full, nothing is half done and the same work ends the same.

Every write, rename, sync and commit of the file layer is a point; each scenario is cut at every one of them.
The process that is killed is a fork of this one, so that a point costs milliseconds.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from starmill.errors import StarmillError
from starmill.repository import Repository, crash_points, schema
from starmill.repository.prune import prune_collection
from starmill.repository.transfer import export_datasets
from starmill.repository.verify import rebuild, verify
from tests.repository import crash_scenarios
from tests.repository.crash_scenarios import SCENARIOS


@pytest.fixture
def scratch():
    """Give a folder in memory where there is one: the order of writes is tested, not the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def _state(root: Path, where: str = "") -> dict[str, object]:
    """Everything that counts: data sets with checksums and file contents, collections with members.

    With `where`, also check that registry and files agree.
    """
    table = schema.dataset.c
    with Repository(root) as repository:
        if where:
            _check(repository, where)
        known = repository.collections()
        state: dict[str, object] = {name: (info.kind, info.members) for name, info in known.items()}
        rows = repository.registry.fetch(sa.select(table.id, table.data_key, table.path, table.checksum))
        for row in rows:
            state[row.id] = (row.data_key, row.checksum, (root / row.path).read_bytes())
        for member in (schema.tag, schema.validity):
            state[member.name] = sorted(tuple(row) for row in repository.registry.fetch(sa.select(member)))
    return state


def _check(repository: Repository, where: str) -> None:
    report = verify(repository)
    assert report.is_clean, (where, report)
    staging = repository.root / ".starmill" / "staging"
    left = [path for path in staging.rglob("*") if path.is_file()] if staging.exists() else []
    assert not left, (where, left)


def _assert_clean(root: Path, where: str) -> None:
    with Repository(root) as repository:
        _check(repository, where)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """Give the state on which every scenario begins: a repository, raw frames, and an export."""
    folder = tmp_path_factory.mktemp("template")
    crash_scenarios.prepare(folder / "repo")
    work = folder / "work"
    crash_scenarios.write_frames(work / "frames")
    with Repository.create(folder / "donor", output="donated") as donor:
        donor.register_dataset_types([crash_scenarios.NUMBER])
        for number in range(3):
            donor.put({"v": -number}, "number", instrument="cam", exposure=number)
        export_datasets(donor, donor.query("number"), work / "export.tar")
    return folder


def _fresh(templates: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copytree(templates / "repo", target / "repo")
    shutil.copytree(templates / "work", target / "work")


def _needs_no_space(point: str) -> bool:
    return "delete" in point or "removed" in point or "after commit" in point


def _count_points(scenario, target: Path) -> list[str]:
    points: list[str] = []
    crash_points.install(points.append)
    try:
        scenario(target / "repo", target / "work")
    finally:
        crash_points.install(None)
    return points


def _run_and_die(scenario, target: Path, point: int) -> None:
    """Run a scenario in a fork that kills itself at a point."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(_name: str) -> None:
            nonlocal seen
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

        crash_points.install(hook)
        try:
            scenario(target / "repo", target / "work")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"point {point} was not reached"


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_point(templates, scratch, name):
    first, again = SCENARIOS[name]
    target = scratch / "work"
    _fresh(templates, target)
    points = _count_points(first, target)
    reference = _state(target / "repo")
    assert len(points) > 5
    for point in range(1, len(points) + 1):
        _fresh(templates, target)
        _run_and_die(first, target, point)
        where = f"{name}, point {point}: {points[point - 1]}"
        _assert_clean(target / "repo", where)
        again(target / "repo", target / "work")
        assert _state(target / "repo", where) == reference, where


def test_the_scenarios_have_enough_points(templates, tmp_path):
    total = 0
    for first, _ in SCENARIOS.values():
        _fresh(templates, tmp_path / "work")
        total += len(_count_points(first, tmp_path / "work"))
    assert total >= 200


@pytest.mark.parametrize("name", SCENARIOS)
def test_disk_full_at_every_point(templates, scratch, name):
    first, again = SCENARIOS[name]
    target = scratch / "work"
    _fresh(templates, target)
    points = _count_points(first, target)
    reference = _state(target / "repo")
    for point in range(1, len(points) + 1):
        _fresh(templates, target)
        seen = 0

        def hook(name: str, point: int = point) -> None:
            nonlocal seen
            seen += 1
            if seen >= point and not _needs_no_space(name):  # a full disk stays full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        where = f"{name}, point {point}: {points[point - 1]}"
        crash_points.install(hook)
        try:
            first(target / "repo", target / "work")
        except (OSError, StarmillError, AssertionError):
            failed = True
        else:
            failed = False
        finally:
            crash_points.install(None)
        assert failed or all(_needs_no_space(name) for name in points[point - 1 :]), where
        _assert_clean(target / "repo", where)
        again(target / "repo", target / "work")
        assert _state(target / "repo", where) == reference, where


@pytest.mark.parametrize("name", ["put", "ingest-copy", "run", "curate", "import"])
def test_a_lost_registry_is_rebuilt_from_the_files(templates, tmp_path, name):
    first, _ = SCENARIOS[name]
    target = tmp_path / "work"
    _fresh(templates, target)
    first(target / "repo", target / "work")
    reference = _state(target / "repo")
    for path in (target / "repo").glob("registry.sqlite3*"):
        path.write_bytes(b"this is no database any more" * 40)
    with pytest.raises(StarmillError, match="rebuild"):
        Repository(target / "repo")
    report = rebuild(target / "repo")
    assert report.is_clean, report
    assert _state(target / "repo") == reference
    if name == "run":
        first(target / "repo", target / "work")  # everything is known to be done
        assert _state(target / "repo") == reference


def test_creation_that_was_killed_can_be_repeated(tmp_path):
    root = tmp_path / "new"
    points: list[str] = []
    crash_points.install(points.append)
    try:
        crash_scenarios.prepare(tmp_path / "count")
    finally:
        crash_points.install(None)
    for point in range(1, 6):
        shutil.rmtree(root, ignore_errors=True)
        _run_and_die(lambda repo, _work: Repository.create(repo).close(), tmp_path / "new", point)
        if not (root / "repo" / "repository.yaml").exists():
            Repository.create(root / "repo").close()
        with Repository(root / "repo") as repository:
            assert verify(repository).is_clean


def test_pruned_runs_leave_no_file(templates, tmp_path):
    _fresh(templates, tmp_path / "work")
    root = tmp_path / "work" / "repo"
    crash_scenarios.run_toys(root, tmp_path / "work" / "work")
    with Repository(root) as repository:
        assert prune_collection(repository, "toys") == 5
        assert not (root / "runs" / "toys").exists()
        assert verify(repository).is_clean
