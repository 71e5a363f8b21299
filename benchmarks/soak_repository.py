"""Soak: many small simulated exposures through the `process` pipeline, on the pool and on Dask with murder.

Prints the numbers as JSON, writes ``soak.json``, the curve ``memory.csv`` and its picture ``soak.png`` into the folder,
and exits with 1 when anything failed, was lost, doubled, registered but missing, or different from a serial run, or
when memory grew. With ``--discard`` the frames and products are deleted afterwards.

    python benchmarks/soak_repository.py --exposures 10000 --dask-exposures 1000 --folder soak
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np

from starmill.execution.distributed import DaskExecutor
from starmill.execution.runner import Runner, RunOptions
from starmill.execution.session import PipelineRequest, plan, run_pipeline
from starmill.pipelines import load_pipeline
from starmill.repository import Repository
from starmill.repository.ingest import ingest
from starmill.repository.verify import verify

SIZE = 128  # pixel: real PSF measurement on about 15 stars, 50 sources
TEMPLATES = 8
SERIAL = 10  # exposures that are also run in one process, for the comparison of bytes


def main() -> int:
    """Run the soak and return the exit code."""
    arguments = parse_arguments()
    folder = Path(arguments.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = {"exposures": arguments.exposures, "dask_exposures": arguments.dask_exposures, "size": SIZE}
    frames = write_frames(folder / "raw", arguments.exposures, arguments.seed)
    root = folder / "repo"
    prepare(root, frames, report)
    memory = MemoryCurve(folder / "memory.csv")
    with memory:
        report["pool"] = run_pool(root, arguments.workers, memory)
        memory.name = "dask"
        if arguments.dask_exposures:
            report["dask"] = run_dask(root, folder, arguments)
    memory.draw(folder / "soak.png")
    report["memory"] = memory.growth()
    report["serial"] = compare_serial(root, arguments, report)
    report["verify"] = check(root)
    (folder / "soak.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))
    if arguments.discard:
        for part in ("raw", "night", "repo"):
            shutil.rmtree(folder / part)
    return 0 if is_good(report) else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exposures", type=int, default=200)
    parser.add_argument("--dask-exposures", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--kill-every", type=int, default=20, help="finished quanta between murders of Dask workers"
    )
    parser.add_argument("--discard", action="store_true", help="keep only the numbers and the curve")
    parser.add_argument("--folder", default="soak")
    parser.add_argument("--seed", type=int, default=5)
    return parser.parse_args()


def write_frames(folder: Path, count: int, seed: int) -> list[Path]:
    """Simulate a few frames and write them many times with other numbers, times and one changed pixel."""
    from astropy.io import fits

    from starmill.io.raw import load_camera
    from starmill.io.simulated_night import write_night
    from starmill.simulation.night import Night, NightSettings

    settings = NightSettings(
        size=SIZE, bands=("r",), epochs=TEMPLATES, n_bias=5, n_dark=3, n_flat=3, seed=seed, density=120.0,
        n_transients=0,
    )  # fmt: skip
    files = write_night(Night(settings, load_camera("simcam")), folder.with_name("night"))
    folder.mkdir(parents=True)
    paths = [path for kind, group in files.items() if not kind.startswith("science") for path in group]
    for number in range(count):
        template = files["science_r"][number % TEMPLATES]
        path = folder / f"science_{number:05d}.fits"
        with fits.open(template) as hdus:
            start = np.datetime64("2026-03-01T00:00:00") + np.timedelta64(number, "s")
            hdus[0].header["DATE-OBS"] = str(start)
            hdus[0].header["MJD-OBS"] = (start - np.datetime64("1858-11-17")) / np.timedelta64(1, "D")
            hdus[0].header["EXPID"] = 1_000_000 + number
            hdus[1].data[5, 5] += number % 7
            hdus.writeto(path)
        paths.append(path)
    return paths


def prepare(root: Path, frames: list[Path], report: dict) -> None:
    """Ingest the frames, build and certify the masters."""
    begin = time.perf_counter()
    with Repository.create(root) as repository:
        done = ingest(repository, frames, "simcam", mode="hardlink")
        assert not done.refused, done.refused[:3]
    report["ingest_per_second"] = round(len(frames) / (time.perf_counter() - begin), 1)
    summary = run_pipeline(PipelineRequest(str(root), load_pipeline("calibs"), ("raw/simcam",), "masters"))
    assert summary.exit_code == 0, summary.errors
    with Repository(root) as repository:
        for kind in ("bias", "dark", "flat"):
            repository.certify("calib", repository.query(kind, collections="masters"))


def request(root: Path, output: str, **more: object) -> PipelineRequest:
    """Return the request of a run of `process`."""
    pipeline = load_pipeline("process")
    return PipelineRequest(str(root), pipeline, ("raw/simcam", "calib"), output, **more)


def run_pool(root: Path, workers: int, memory: MemoryCurve) -> dict:
    """Run everything on the pool."""
    summary = run_pipeline(request(root, "pool", workers=workers, timeout=600.0), sinks=[memory.count])
    return outcome(summary) | {"workers": workers}


def outcome(summary) -> dict:
    """Return the numbers of a run."""
    done = summary.total("done")
    return {
        "counts": summary.counts,
        "failed": [f"{error['data_id']}: {error['message']}" for error in summary.errors[:3]],
        "seconds": round(summary.seconds, 1),
        "cpu_seconds": round(summary.cpu_seconds, 1),
        "quanta_per_second": round(done / max(summary.seconds, 1e-9), 2),
        "max_rss_mb": round(summary.max_rss / 1e6, 1),
    }


class Murderer:
    """Kills a random Dask worker after every few finished quanta, and starts another."""

    def __init__(self, address: str, folder: Path, every: int) -> None:
        self.address, self.folder, self.every = address, folder, every
        self.choose = random.Random(1)
        self.workers = [self.start_worker() for _ in range(2)]
        self.finished = 0
        self.killed = 0

    def start_worker(self) -> subprocess.Popen:
        """Start a worker that nobody restarts."""
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny",
             "--no-dashboard", "--local-directory", str(self.folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __call__(self, event: dict) -> None:
        """Take the events of the runner."""
        if event["event"] != "quantum_finished":
            return
        self.finished += 1
        if self.finished % self.every == 0:
            victim = self.choose.randrange(2)
            self.workers[victim].send_signal(signal.SIGKILL)
            self.workers[victim].wait()
            self.killed += 1
            self.workers[victim] = self.start_worker()

    def end(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.kill()
            worker.wait()


def run_dask(root: Path, folder: Path, arguments: argparse.Namespace) -> dict:
    """Run some exposures on Dask while workers are killed at random."""
    from distributed import LocalCluster

    where = f"exposure < {1_000_000 + arguments.dask_exposures}"
    with LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1", silence_logs=50) as cluster:
        murderer = Murderer(cluster.scheduler_address, folder, arguments.kill_every)
        executor = DaskExecutor(cluster.scheduler_address)
        try:
            with plan(request(root, "dask", where=where)) as prepared:
                runner = Runner(
                    prepared.repository, prepared.graph, executor, "dask",
                    options=RunOptions(attempts=10), sinks=[murderer],
                )  # fmt: skip
                summary = runner.run()
        finally:
            executor.close()
            murderer.end()
    return outcome(summary) | {"workers_killed": murderer.killed}


class MemoryCurve:
    """Samples the memory of this process and its children, and counts finished quanta."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = "pool"
        self.rows: list[tuple[str, float, int, int, float, float]] = []
        self.finished = 0
        self._over = threading.Event()

    def count(self, event: dict) -> None:
        """Take the events of the runner."""
        self.finished += event["event"] == "quantum_finished"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        lines = ["run,seconds,finished,processes,runner_mb,worker_mb"]
        lines += [f"{run},{t:.1f},{done},{n},{own:.1f},{one:.1f}" for run, t, done, n, own, one in self.rows]
        self.path.write_text("\n".join(lines) + "\n")

    def _sample(self) -> None:
        import psutil

        me = psutil.Process()
        begin = time.monotonic()
        while not self._over.wait(1.0):
            sizes = []
            for child in me.children(recursive=True):
                try:
                    sizes.append(child.memory_info().rss / 1e6)
                except psutil.Error:  # it has ended meanwhile
                    continue
            own = me.memory_info().rss / 1e6
            largest = max(sizes, default=0.0)
            self.rows.append((self.name, time.monotonic() - begin, self.finished, len(sizes), own, largest))

    def growth(self) -> dict:
        """Return the memory of the runner and of its largest worker early and late in the run on the pool, MB."""
        busy = np.array([row[2:] for row in self.rows if row[0] == "pool" and row[2] > 0])
        if len(busy) < 8:
            return {}
        parts = {"early": busy[len(busy) // 5 : 2 * len(busy) // 5], "late": busy[-len(busy) // 5 :]}
        return {
            f"{what}_mb_{when}": round(float(np.median(part[:, column])), 1)
            for what, column in (("runner", 2), ("worker", 3))
            for when, part in parts.items()
        }

    def draw(self, path: Path) -> None:
        """Draw memory and finished quanta against time."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        pool = np.array([row[1:] for row in self.rows if row[0] == "pool"])
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
        minutes = (pool[:, 0] - pool[0, 0]) / 60
        top.plot(minutes, pool[:, 1])
        top.set_ylabel("finished quanta")
        bottom.plot(minutes, pool[:, 3], label="runner")
        bottom.plot(minutes, pool[:, 4], label="largest worker")
        bottom.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
        bottom.legend(loc="lower right")
        figure.savefig(path, dpi=90)


def expected(run: dict | None) -> int:
    """Return how many products the quanta that were done should have given."""
    if run is None:
        return 0
    return run["counts"]["isr"].get("done", 0) + 3 * run["counts"]["characterize"].get("done", 0)


def compare_serial(root: Path, arguments: argparse.Namespace, report: dict) -> dict:
    """Run a few exposures in this process and compare the bytes of all runs."""
    count = min(SERIAL, arguments.exposures)
    run_pipeline(request(root, "serial", where=f"exposure < {1_000_000 + count}"))
    kinds = ("post_isr", "characterized", "catalog", "background")
    with Repository(root, writable=False) as repository:
        sums = {
            run: {
                (kind, ref.data_id.key): ref.checksum
                for kind in kinds
                for ref in repository.query(kind, collections=run)
            }
            for run in ("pool", "dask", "serial")
            if run in repository.collections()
        }
    serial_differs = sum(sums["pool"].get(key) != checksum for key, checksum in sums["serial"].items())
    dask = sums.get("dask", {})
    return {
        "compared": len(sums["serial"]) + len(dask),
        "different": serial_differs
        + sum(sums["pool"].get(key) != checksum for key, checksum in dask.items()),
        "lost": expected(report["pool"]) - len(sums["pool"]) + expected(report.get("dask")) - len(dask),
    }


def check(root: Path) -> dict:
    """Verify the repository."""
    with Repository(root) as repository:
        report = verify(repository)
    return {"checked": report.checked, "missing": len(report.missing), "damaged": len(report.damaged),
            "orphaned": len(report.orphaned)}  # fmt: skip


def is_good(report: dict) -> bool:
    """Tell whether nothing failed, was lost, doubled, missing or different, and memory was flat to 10 %."""
    bad = report["verify"]["missing"] + report["verify"]["damaged"] + report["verify"]["orphaned"]
    bad += report["serial"]["different"] + report["serial"]["lost"]
    runs = [report[name] for name in ("pool", "dask") if name in report]
    bad += sum(states["total"] - states.get("done", 0) for run in runs for states in run["counts"].values())
    memory = report["memory"]
    grown = memory and any(
        memory[f"{what}_mb_late"] > 1.1 * memory[f"{what}_mb_early"] for what in ("runner", "worker")
    )
    return bad == 0 and not grown


if __name__ == "__main__":
    sys.exit(main())
