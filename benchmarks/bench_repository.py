"""Cost of the repository and of pipelines: per put, per query, per quantum, per planned quantum, of importing.

    python benchmarks/bench_repository.py --size 100000

CPU seconds count, not the clock, so that a busy machine does not matter; the waiting for the disk comes on top.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from starmill.execution.local import InProcessExecutor
from starmill.execution.pool import PoolExecutor, WorkerSettings
from starmill.execution.runner import Runner
from starmill.execution.source import RepositorySource
from starmill.pipelines import build_graph, parse_pipeline
from starmill.repository import Repository, schema
from starmill.repository.ingest import ingest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MODULES = ("tests.execution.toy_tasks",)


class Meter:
    """Measures a block: CPU seconds of this process and its ended children, and the clock."""

    def __enter__(self) -> Self:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self.wall
        self.cpu = time.process_time() - self.cpu


def show(what: str, value: float, unit: str, limit: str, wall: str = "") -> None:
    """Print one row of the table."""
    print(f"{what:58}{value:12.2f} {unit:14}{limit:18}{wall}")


def fill(repository: Repository, name: str, count: int) -> None:
    """Insert rows of data sets without files: ten detectors, 500 exposures a night, five bands."""
    table = schema.dataset
    repository.make_collection("big")
    number = repository.collections()["big"].number
    kind = repository.registry.fetch(
        sa.select(schema.dataset_type.c.id).where(schema.dataset_type.c.name == name)
    )[0][0]
    dimensions = repository.dataset_type(name).dimensions
    rows: list[dict] = []
    for index in range(count):
        exposure, detector = divmod(index, 10)
        if "detector" not in dimensions:
            exposure, detector = index, None
        night = 20260101 + exposure // 500
        key = ",".join(
            f"{d}={v}"
            for d, v in (("instrument", "cam"), ("exposure", exposure), ("detector", detector))
            if v is not None
        )
        rows.append({
            "id": f"{index:032d}", "type_id": kind, "run_id": number, "data_key": key, "instrument": "cam",
            "exposure": exposure, "detector": detector, "visit": exposure, "night": night, "band": "grizy"[exposure % 5],
            "filter": "grizy"[exposure % 5], "path": f"runs/big/{index}", "size": 100, "checksum": "0" * 64, "link": "file",
        })  # fmt: skip
        if len(rows) == 20_000:
            repository.registry.change(
                lambda connection, rows=rows: connection.execute(sa.insert(table), rows)
            )
            rows = []
    if rows:
        repository.registry.change(lambda connection: connection.execute(sa.insert(table), rows))


def bench_import() -> None:
    """CPU seconds of `import starmill.repository`, without those of Python itself."""
    code = "import time; t = time.process_time(); import starmill.repository; print(time.process_time() - t)"
    values = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    show("import starmill.repository", min(values), "CPU s", "<= 0.5")


def bench_query(folder: Path, size: int) -> None:
    """Run queries over many data sets."""
    with Repository.create(folder / "query", output="big") as repository:
        fill(repository, "raw", size)
        for where in (
            "night = 2026-01-03 and band in (g, r)",
            "exposure in (100..150) and detector = 3",
            "exposure = 700",
        ):
            repository.query("raw", where)
            with Meter() as meter:
                found = len(repository.query("raw", where))
            show(
                f"query of {size:,}: {where} ({found})",
                1e3 * meter.cpu,
                "CPU ms",
                "<= 50",
                f"{1e3 * meter.wall:.1f} ms",
            )


def bench_graph(folder: Path, quanta: int) -> None:
    """Planning of many quanta."""
    import resource

    from tests.execution.toy_tasks import PIPELINE

    pipeline = parse_pipeline(PIPELINE)
    with Repository.create(folder / "graph", inputs=None, output="out") as repository:
        repository.register_dataset_types([number_type()])
        fill(repository, "number", quanta)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Meter() as meter:
            graph = build_graph(pipeline, RepositorySource(repository, pipeline))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
        show(
            f"graph of {len(graph):,} quanta",
            meter.cpu,
            "CPU s",
            "<= 10",
            f"{meter.wall:.1f} s, +{grown:.2f} GB",
        )


def number_type():
    """Return the dataset type of the toy pipeline."""
    from starmill.repository import DatasetType

    return DatasetType("number", ("instrument", "exposure"), "json")


def bench_quanta(folder: Path, count: int) -> None:
    """Overhead of a trivial quantum: read JSON, add, write JSON, register."""
    from tests.execution.toy_tasks import PIPELINE

    pipeline = parse_pipeline(PIPELINE).select(["add"])
    with Repository.create(folder / "quanta", output="base") as repository:
        repository.register_dataset_types([number_type()])
        with Meter() as meter:
            for number in range(count):
                repository.put({"v": number}, "number", instrument="cam", exposure=number)
        show(
            "put of a small product",
            1e3 * meter.cpu / count,
            "CPU ms",
            "",
            f"{1e3 * meter.wall / count:.2f} ms",
        )
        with Meter() as meter:
            for number in range(count):
                repository.get("number", instrument="cam", exposure=number)
        show(
            "get of a small product",
            1e3 * meter.cpu / count,
            "CPU ms",
            "",
            f"{1e3 * meter.wall / count:.2f} ms",
        )
    executors: list[tuple[str, Callable[[], object], str]] = [
        ("in process", InProcessExecutor, "<= 5"),
        ("on the pool, 2 workers", lambda: PoolExecutor(2, WorkerSettings(MODULES, (str(ROOT),))), "<= 10"),
    ]
    for name, start, limit in executors:
        executor = start()
        with Repository(folder / "quanta", inputs="base", output=name[:2]) as repository:
            graph = build_graph(pipeline, RepositorySource(repository, pipeline))
            Runner(repository, _part(graph, 20), executor, name[:2]).run()  # warm
            with Meter() as meter:
                summary = Runner(repository, graph, executor, name[:2]).run()
        executor.close()
        done = summary.total("done")
        cpu = meter.cpu + (summary.cpu_seconds if "pool" in name else 0.0)
        show(
            f"trivial quantum {name}", 1e3 * cpu / done, "CPU ms", limit, f"{1e3 * meter.wall / done:.2f} ms"
        )


def _part(graph, count):
    from dataclasses import replace

    return replace(graph, quanta=graph.quanta[:count])


def bench_ingest(folder: Path, count: int) -> None:
    """Ingest of small raw frames by copy."""
    import numpy as np
    from astropy.io import fits

    raw = folder / "frames"
    raw.mkdir()
    header = fits.Header({"EXPTIME": 10.0, "OBSTYPE": "OBJECT", "FILTER": "VR", "LONGITUD": -111.5})
    for number in range(count):
        header["DATE-OBS"] = f"2026-01-02T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}"
        header["OBSERNO"] = number + 1
        fits.PrimaryHDU(np.zeros((8, 8), np.uint16), header).writeto(raw / f"{number:06d}.fits")
    with Repository.create(folder / "ingest") as repository:
        with Meter() as meter:
            report = ingest(repository, [raw], "lowell42")
        assert report.ingested == count, report.refused[:3]
    show(
        f"ingest of {count} small files by copy",
        count / meter.cpu,
        "files/CPU s",
        ">= 1000",
        f"{count / meter.wall:.0f} per s",
    )


def bench_workers(folder: Path, count: int) -> None:
    """Throughput of `process` with one and with two workers, on small exposures, once the workers are warm."""
    import soak_repository as soak

    from starmill.execution.session import run_pipeline

    root = folder / "repo"
    soak.prepare(root, soak.write_frames(folder / "raw", count, 5), {})
    rates = {}
    for workers in (1, 2):
        finished: list[float] = []

        def note(event: dict, finished: list[float] = finished) -> None:
            if event["event"] == "quantum_finished":
                finished.append(time.perf_counter())

        request = soak.request(root, f"workers{workers}", workers=workers, timeout=600.0)
        summary = run_pipeline(request, sinks=[note])
        skip = len(finished) // 10
        rates[workers] = (len(finished) - 2 * skip) / (finished[-skip - 1] - finished[skip]) / 2
        cost = 1e3 * summary.cpu_seconds / count
        show(
            f"process, {workers} worker(s), 128 x 128 pixels",
            rates[workers],
            "exposures/s",
            "",
            f"{cost:.0f} CPU ms each",
        )
    show("two workers against one", rates[2] / rates[1], "times", ">= 1.8")


def main() -> None:
    """Run all benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100_000, help="data sets of the query benchmark")
    parser.add_argument("--quanta", type=int, default=100_000, help="quanta of the planning benchmark")
    parser.add_argument("--count", type=int, default=500, help="files and executed quanta")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="only the throughput of workers, on N exposures"
    )
    arguments = parser.parse_args()
    if arguments.workers:
        with tempfile.TemporaryDirectory() as folder:
            bench_workers(Path(folder), arguments.workers)
        return
    print(f"{'what':58}{'value':>12} {'unit':14}{'wanted':18}clock")
    bench_import()
    with tempfile.TemporaryDirectory() as folder:
        bench_quanta(Path(folder), arguments.count)
        bench_ingest(Path(folder), arguments.count)
        bench_graph(Path(folder), arguments.quanta)
        bench_query(Path(folder), arguments.size)


if __name__ == "__main__":
    main()
