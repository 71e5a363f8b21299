"""A repository on each kind of database: SQLite in the folder, and a private PostgreSQL server."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest

from starmill.repository import DatasetType, ExposureRecord, Repository
from tests.repository.postgres_server import start_postgres

NUMBER = DatasetType("number", ("instrument", "exposure"), "json")

_databases = itertools.count()


@pytest.fixture(scope="session")
def postgres():
    """Give a running private PostgreSQL server, or skip."""
    with tempfile.TemporaryDirectory(prefix="starmill-postgres-") as folder:
        server = start_postgres(Path(folder))
        if isinstance(server, str):
            pytest.skip(server)
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def registry_url(request):
    """URL of an empty database; None for SQLite in the folder."""
    if request.param == "sqlite":
        return None
    server = request.getfixturevalue("postgres")
    return server.new_database(f"starmill_{next(_databases)}")


@pytest.fixture
def repository(tmp_path, registry_url):
    """Give an empty repository that writes to the run ``test``."""
    with Repository.create(tmp_path / "repo", registry=registry_url, output="test") as new:
        new.register_dataset_types([NUMBER])
        yield new


@pytest.fixture
def small_repository(tmp_path):
    """Give the same on SQLite only, for tests in which the database does not matter."""
    with Repository.create(tmp_path / "repo", output="test") as new:
        new.register_dataset_types([NUMBER])
        yield new


def text_translator(path):
    """Read an exposure record from a small JSON file: stands for the translator of a camera."""
    import json

    from starmill.errors import InputError
    from starmill.repository.exposures import record_from_mapping

    try:
        return [record_from_mapping(json.loads(path.read_text()))]
    except ValueError as error:
        raise InputError(f"no toy raw frame: {error}", path=path) from error


@pytest.fixture
def toy_records():
    """Give metadata of 12 exposures: three nights, two filters, along the equator."""
    return [
        {
            "instrument": "toycam",
            "exposure": 100 + number,
            "detector": 0,
            "visit": 100 + number,
            "night": 20260101 + number // 4,
            "filter": "gr"[number % 2] + "_toy",
            "band": "gr"[number % 2],
            "object": "M 31" if number < 6 else "M 33",
            "image_type": "science",
            "mjd": 61041.0 + number // 4 + 0.01 * number,
            "exposure_time": 30.0,
            "airmass": 1.0 + 0.1 * number,
            "ra": 10.0 * number,
            "dec": 0.0,
            "region": [
                [(10.0 * number + x) % 360, y]
                for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
            ],
        }
        for number in range(12)
    ]


@pytest.fixture
def toy_frames(tmp_path, toy_records):
    """Write the records as files that `text_translator` reads."""
    import json

    folder = tmp_path / "frames"
    folder.mkdir()
    paths = []
    for record in toy_records:
        path = folder / f"frame_{record['exposure']}.fits"
        path.write_text(json.dumps(record))
        paths.append(path)
    return paths


__all__ = ["NUMBER", "ExposureRecord", "text_translator"]
