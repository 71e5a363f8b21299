"""A repository in an S3-compatible object store, on a local server."""

from __future__ import annotations

import copy

import pytest

from starmill.errors import InputError, RepositoryError
from starmill.execution.session import PipelineRequest, run_pipeline
from starmill.pipelines import parse_pipeline
from starmill.repository import DatasetConflictError, Repository
from starmill.repository.ingest import ingest
from starmill.repository.prune import prune_datasets
from starmill.repository.verify import rebuild, verify
from tests.execution.conftest import MODULES, ROOT
from tests.execution.toy_tasks import PIPELINE
from tests.repository.conftest import NUMBER, text_translator

pytest.importorskip("moto.server", reason="moto is not installed (extra 'test')")
pytest.importorskip("s3fs", reason="s3fs is not installed (extra 's3')")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the asynchronous drivers


@pytest.fixture(scope="module")
def server():
    """Give the address of a running S3 server."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """Give the URL of an empty place on the server, with a registry file beside the test."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "STARMILL_STATE": str(tmp_path / "state"),
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{abs(hash(str(tmp_path))) % 10**8}"
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket=name)
    return f"s3://{name}/repo"


@pytest.fixture
def stored(bucket, tmp_path):
    """Give an empty repository in the object store."""
    with Repository.create(
        bucket, registry=f"sqlite:///{tmp_path}/registry.sqlite3", output="base"
    ) as repository:
        repository.register_dataset_types([NUMBER])
        yield repository


def test_products_travel_through_the_store(stored, bucket, toy_frames):
    stored.put({"v": 1}, "number", instrument="cam", exposure=3)
    with pytest.raises(DatasetConflictError):
        stored.put({"v": 2}, "number", instrument="cam", exposure=3)
    stored.put({"v": 3}, "number", instrument="cam", exposure=3, replace=True)
    assert ingest(stored, toy_frames[:3], text_translator).ingested == 3
    with pytest.raises(InputError, match="object store"):
        ingest(stored, toy_frames[:3], text_translator, mode="symlink")
    with Repository(bucket, writable=False) as other:
        assert other.get("number", exposure=3) == {"v": 3}
        assert len(other.query("raw")) == 3
    assert verify(stored).is_clean
    prune_datasets(stored, stored.query("raw"))
    assert verify(stored).is_clean
    with pytest.raises(RepositoryError, match="already"):
        Repository.create(bucket)


def test_what_was_lost_or_left_in_the_store_is_found(stored):
    ref = stored.put({"v": 1}, "number", instrument="cam", exposure=3)
    stored.store.remove(ref.path)
    stored.store.write_text("runs/base/stranger.json", "{}")
    report = verify(stored)
    assert report.missing == [ref.path]
    assert report.orphaned == ["runs/base/stranger.json"]
    verify(stored, repair=True)
    assert verify(stored).is_clean


def test_a_lost_registry_is_rebuilt_on_another_machine(bucket, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/registry.sqlite3"
    with Repository.create(bucket, registry=url, output="base") as repository:
        repository.register_dataset_types([NUMBER])
        repository.put({"v": 1}, "number", instrument="cam", exposure=3)
    (tmp_path / "registry.sqlite3").unlink()
    monkeypatch.setenv("STARMILL_STATE", str(tmp_path / "elsewhere"))
    assert rebuild(bucket).is_clean
    with Repository(bucket, writable=False) as repository:
        assert repository.get("number", exposure=3) == {"v": 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_pipelines_run_on_the_store(stored, bucket, workers):
    for number in range(4):
        stored.put({"v": number}, "number", instrument="cam", exposure=number)
    request = PipelineRequest(
        repository=bucket, pipeline=parse_pipeline(copy.deepcopy(PIPELINE)), inputs=("base",), output="toys",
        modules=MODULES, paths=(str(ROOT),), workers=workers,
    )  # fmt: skip
    assert run_pipeline(request).exit_code == 0
    assert run_pipeline(request).total("cached") == 5
    with Repository(bucket, writable=False) as other:
        assert other.get("sum")["v"] == 6 + 4
        assert verify(other).is_clean
