"""Frames in loose files through the whole main job, one by one or on several processes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from starmill import __version__
from starmill.errors import InputError, StarmillError

__all__ = ["FrameJob", "frame_name", "process_frame", "process_frames"]

_SUFFIXES = (".fits", ".fit", ".fts", ".FITS", ".FIT")
_PACKED = (".bz2", ".gz", ".fz", ".Z")


@dataclass(frozen=True)
class FrameJob:
    """What to do with one frame.

    Attributes
    ----------
    path : str
        The frame.
    folder : str
        Where the products go.
    camera : str
        Name or file of the camera; empty for a detrended image.
    config : dict
        Nested values of a ProcessFrameConfig.
    bias, dark, flats : str, str, tuple of str
        Master frames; empty for none. The flat of the frame's filter is taken.
    hdu : str
        Extension of a detrended image; empty for the first that fits.
    table_format : str
        Suffix of the catalogue.
    pictures, compress, resume : bool
        Write PNG and report; compress the exposure; keep products that were made before from the same input with the
        same configuration and version.
    """

    path: str
    folder: str
    camera: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    bias: str = ""
    dark: str = ""
    flats: tuple[str, ...] = ()
    hdu: str = ""
    table_format: str = ".fits"
    pictures: bool = True
    compress: bool = False
    resume: bool = False


def frame_name(path: str | Path) -> str:
    """Return the name of a frame without folder and without the suffixes of FITS and of compression."""
    name = Path(path).name
    for packed in _PACKED:
        name = name.removesuffix(packed)
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def process_frame(job: FrameJob) -> dict[str, Any]:
    """Process one frame and write its products.

    Returns
    -------
    summary : dict
        Plain values: ``frame``, ``state`` ('done' or 'kept'), ``files``, ``metrics``, ``cpu_seconds``, ``peak_mb``,
        ``notes``.

    Raises
    ------
    StarmillError
        When the frame cannot be processed; nothing was written then.
    """
    from starmill.tasks.base import peak_memory_mb
    from starmill.tasks.process import ProcessFrameConfig, ProcessFrameTask

    config = ProcessFrameConfig(**job.config) if job.config else ProcessFrameConfig()
    inputs = _inputs(job, config)
    files = _files(job)
    provenance = _provenance(job, config, inputs)
    if job.resume and _is_made(files, provenance):
        return {"frame": frame_name(job.path), "state": "kept", "files": files, "metrics": {}, "notes": []}
    task = ProcessFrameTask(config)
    result = task.run(**inputs)
    metadata = task.full_metadata()
    metrics = _write(job, result, files, provenance, metadata)
    return {
        "frame": frame_name(job.path),
        "state": "done",
        "files": files,
        "metrics": metrics,
        "cpu_seconds": metadata["process"]["run_cpu_seconds"],
        "peak_mb": peak_memory_mb(),
        "notes": [result.message] if result.message else [],
    }


def _inputs(job: FrameJob, config: Any) -> dict[str, Any]:
    """Read the frame and the master frames that its configuration asks for."""
    if not job.camera:
        from starmill.io.exposure_file import read_exposure

        hdu: int | str | None = int(job.hdu) if job.hdu.isdigit() else job.hdu or None
        return {"exposure": read_exposure(job.path, hdu)}
    from starmill.io.raw import read_raw

    raw = read_raw(job.path, job.camera)
    inputs: dict[str, Any] = {"raw": raw}
    for kind, path in (("bias", job.bias), ("dark", job.dark)):
        if path and getattr(config.isr, kind, False):
            inputs[kind] = _master(path, kind)
    if job.flats and getattr(config.isr, "flat", False):
        inputs["flat"] = _matching_flat(job.flats, raw.info.filter)
    return inputs


@functools.lru_cache(maxsize=8)
def _master(path: str, kind: str) -> Any:
    from starmill.io.calibration import read_master

    return read_master(path, kind)


def _matching_flat(paths: Sequence[str], name: str) -> Any:
    """Return the flat of a filter; the only one when it does not say its filter."""
    flats = [_master(path, "flat") for path in paths]
    matching = [flat for flat in flats if flat.filter == name]
    if not matching:
        matching = [flat for flat in flats if not flat.filter or not name]
    if not matching:
        known = ", ".join(repr(flat.filter) for flat in flats)
        raise InputError(f"no master flat is of the frame's filter {name!r} (given: {known})")
    return matching[0]


def _files(job: FrameJob) -> dict[str, str]:
    stem = str(Path(job.folder) / frame_name(job.path))
    files = {
        "exposure": f"{stem}.exposure.fits",
        "catalog": f"{stem}.catalog{job.table_format}",
        "regions": f"{stem}.reg",
    }
    if job.pictures:
        files |= {"picture": f"{stem}.png", "report": f"{stem}.html"}
    return files


@functools.lru_cache(maxsize=64)
def _checksum(path: str, size: int, time: int) -> str:  # noqa: ARG001  size and time tell when to read again
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _provenance(job: FrameJob, config: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the products were made from; names without folders, so that it holds on any machine."""
    used = [
        job.path,
        *(p for p in (job.bias if "bias" in inputs else "", job.dark if "dark" in inputs else "") if p),
    ]
    used += job.flats if "flat" in inputs else ()
    sums = {}
    for path in used:
        status = os.stat(path)  # noqa: PTH116
        sums[Path(path).name] = _checksum(path, status.st_size, status.st_mtime_ns)
    return {
        "task": "ProcessFrameTask",
        "version": __version__,
        "config": config.to_dict(),
        "inputs": sums,
        "camera": job.camera,
    }


def _is_made(files: Mapping[str, str], provenance: Mapping[str, Any]) -> bool:
    from starmill.io.exposure_file import read_exposure_component

    if not all(Path(path).is_file() for path in files.values()):
        return False
    before = read_exposure_component(files["exposure"], "provenance")
    return bool(before == json.loads(json.dumps(provenance)))


def _write(
    job: FrameJob, result: Any, files: Mapping[str, str], provenance: Any, metadata: Any
) -> dict[str, Any]:
    """Write the products of a frame; the exposure comes last and stands for a finished frame."""
    from starmill.diagnostics.figures import png_bytes, show_exposure
    from starmill.diagnostics.metrics import exposure_metrics
    from starmill.diagnostics.report import SHOWN_PLANES, write_exposure_report
    from starmill.io.atomic import atomic_write_bytes
    from starmill.io.exposure_file import write_exposure
    from starmill.io.regions import catalog_regions, write_regions
    from starmill.io.tables import write_catalog

    exposure, catalog = result.exposure, result.catalog
    metrics = exposure_metrics(exposure, catalog, result.background)
    write_catalog(catalog, files["catalog"])
    write_regions(files["regions"], catalog_regions(catalog, origin=exposure.origin))
    if job.pictures:
        title = f"{frame_name(job.path)} {exposure.info.object} {exposure.info.filter}"
        drawn = png_bytes(show_exposure(exposure, mask=SHOWN_PLANES, catalog=catalog, title=title))
        atomic_write_bytes(files["picture"], drawn)
        write_exposure_report(
            files["report"], exposure, catalog, background=result.background, psf_stars=result.psf_stars,
            timings=metadata, notes=[result.message] if result.message else [], title=title, picture=drawn, metrics=metrics,
        )  # fmt: skip
    write_exposure(exposure, files["exposure"], compress=job.compress, provenance=provenance)
    return metrics


def process_frames(
    jobs: Sequence[FrameJob], *, processes: int = 1, report: Callable[[dict[str, Any]], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Process many frames; one that fails does not stop the others.

    Parameters
    ----------
    jobs : sequence of FrameJob
        Their products must have different names.
    processes : int
        Each takes one frame after the other.
    report : callable
        Told of every frame when it is finished.

    Returns
    -------
    summaries : list of dict
        In the order of the jobs: as :func:`process_frame`, or ``state`` 'failed' with ``error``, ``error_type``,
        ``exit_code``.

    Raises
    ------
    InputError
        When two frames have the same name.
    """
    names = [frame_name(job.path) for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two frames have the same name, so their products would too: {', '.join(twice)}")
    found: dict[int, dict[str, Any]] = {}
    for number, summary in _outcomes(jobs, processes):
        found[number] = summary
        report(summary)
    return [found[number] for number in range(len(jobs))]


def _outcomes(jobs: Sequence[FrameJob], processes: int) -> Iterator[tuple[int, dict[str, Any]]]:
    if processes == 1 or len(jobs) == 1:
        with _noticed_interrupts() as interrupts:
            for number, job in enumerate(jobs):
                outcome = _safely(asdict(job))
                if interrupts:
                    raise KeyboardInterrupt
                yield number, outcome
        return
    with ProcessPoolExecutor(
        min(processes, len(jobs)), mp_context=get_context("spawn"), initializer=_one_thread
    ) as pool:
        waiting: dict[Future[dict[str, Any]], int] = {
            pool.submit(_safely, asdict(job)): n for n, job in enumerate(jobs)
        }
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _noticed_interrupts() -> Iterator[list[int]]:
    """Give a list that gets an entry for every Ctrl-C.

    Compiled code turns an interrupt that reaches it into another error, which would pass for a bad frame.
    """
    interrupts: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def notice(number: int, frame: Any) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, notice)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _one_thread() -> None:
    """Leave the processors to the processes: each works on one thread."""
    from starmill.numerics.tiles import set_threads

    set_threads(1)


def _safely(values: dict[str, Any]) -> dict[str, Any]:
    """Process a frame; an error of this frame becomes its outcome."""
    job = FrameJob(**values)
    try:
        return process_frame(job)
    except StarmillError as error:
        outcome = {"error": str(error), "error_type": type(error).__name__, "exit_code": error.exit_code}
    except Exception as error:  # noqa: BLE001  one frame must not stop the night; the cause is reported
        outcome = {
            "error": f"{type(error).__name__}: {error}",
            "error_type": type(error).__name__,
            "exit_code": 70,
            "traceback": traceback.format_exc(),
        }
    return {
        "frame": frame_name(job.path),
        "state": "failed",
        "files": {},
        "metrics": {},
        "notes": [],
        **outcome,
    }
