"""A repository of the first schema, kept as SQL text and files, is upgraded with everything in it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from starmill.errors import RepositoryError
from starmill.repository import Repository, registry, schema
from starmill.repository.migrations import upgrade_registry
from starmill.repository.prune import prune_datasets
from starmill.repository.verify import verify
from tests.repository import crash_scenarios

OLD = Path(__file__).with_name("version_1")


@pytest.fixture
def old_repository(tmp_path):
    """Give a copy of the old repository, its registry made from the SQL text."""
    root = tmp_path / "repo"
    shutil.copytree(OLD, root)
    connection = sqlite3.connect(root / "registry.sqlite3")
    connection.executescript((root / "registry.sql").read_text())
    connection.close()
    (root / "registry.sql").unlink()
    return root


def _tables(url: str) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, by the columns of the first schema."""
    engine = registry.make_engine(url)
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        found = {}
        for name in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
            columns = [
                column["name"] for column in inspector.get_columns(name) if column["name"] != "corners"
            ]
            rows = connection.execute(sa.text(f"SELECT {', '.join(columns)} FROM {name}"))
            found[name] = sorted(tuple(map(str, row)) for row in rows)
    engine.dispose()
    return found


def test_an_old_registry_must_be_upgraded_and_keeps_everything(old_repository):
    url = f"sqlite:///{old_repository}/registry.sqlite3"
    before = _tables(url)
    assert sum(map(len, before.values())) > 60
    with pytest.raises(RepositoryError, match=r"has schema 0001.*starmill repo upgrade"):
        Repository(old_repository)
    assert upgrade_registry(url) == ("0001", schema.SCHEMA_VERSION)
    assert upgrade_registry(url) == (schema.SCHEMA_VERSION, schema.SCHEMA_VERSION)
    assert _tables(url) == before
    with Repository(old_repository) as repository:
        assert verify(repository).is_clean
        assert [ref.data_id["exposure"] for ref in repository.query("number", collections="base")] == [
            0,
            1,
            2,
            3,
        ]
        assert repository.get("sum", collections="toys") == {"n": 4, "v": 10}
        assert repository.collections()["chain"].members == ("base", "other")
        found = repository.query("raw", collections="raw/all", at=(10.0, 0.2))
        assert [ref.data_id["exposure"] for ref in found] == [101]
        assert repository.calibrations("number", "calib").best({"instrument": "cam"}, 61500.0) is not None


def test_the_work_of_an_old_repository_goes_on_after_the_upgrade(old_repository):
    upgrade_registry(f"sqlite:///{old_repository}/registry.sqlite3")
    with Repository(old_repository, output="later") as repository:
        repository.put({"v": 9}, "number", instrument="cam", exposure=9)
        assert repository.get("number", exposure=9, collections="later") == {"v": 9}
    crash_scenarios.curate(old_repository, old_repository)
    with Repository(old_repository) as repository:
        number = repository.find("number", exposure=3, collections="base")
        assert prune_datasets(repository, [number], force=True) == 1
        report = verify(repository)
        assert report.is_clean, report


def test_the_old_tables_on_postgresql(postgres):
    """The first migration alone makes the tables of the SQL text; the second adds to them."""
    from alembic import command

    from starmill.repository.migrations.upgrade import alembic_config

    url = postgres.new_database("starmill_old_schema")
    command.upgrade(alembic_config(url), "0001")
    engine = registry.make_engine(url)
    row = {
        "id": "a" * 32,
        "type_id": 1,
        "run_id": 1,
        "data_key": "band=r",
        "path": "p",
        "size": 1,
        "checksum": "c",
        "link": "file",
    }
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO dataset_type VALUES (1, 'number', '[\"band\"]', 'json', '')"))
        connection.execute(sa.text("INSERT INTO collection VALUES (1, 'base', 'run', '')"))
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(sa.text(f"INSERT INTO dataset ({names}) VALUES ({values})"), row)
    engine.dispose()
    before = _tables(url)
    assert upgrade_registry(url) == ("0001", schema.SCHEMA_VERSION)
    assert _tables(url) == before


def test_a_failed_upgrade_changes_nothing(old_repository, monkeypatch):
    from alembic import op

    url = f"sqlite:///{old_repository}/registry.sqlite3"
    before = _tables(url)
    original = op.add_column

    def fail(*arguments, **keywords):
        original(*arguments, **keywords)
        raise OSError("no space left on device")

    monkeypatch.setattr(op, "add_column", fail)
    with pytest.raises(OSError, match="no space"):
        upgrade_registry(url)
    monkeypatch.undo()
    assert _tables(url) == before
    assert upgrade_registry(url) == ("0001", schema.SCHEMA_VERSION)
