"""Frames in loose files through the whole main job: which files, pictures and reports beside the products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starmill.errors import InputError
from starmill.execution.loose import loose_message, outcome_of, run_messages
from starmill.repository.loose_files import LooseFiles

__all__ = ["FrameJob", "frame_name", "process_frames", "write_companions"]

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


def frame_files(job: FrameJob, config: Any) -> LooseFiles:
    """Return the files of one frame: the exposure is written last and stands for a finished frame.

    Parameters
    ----------
    job : FrameJob
    config : ProcessFrameConfig
        Tells which masters are needed.
    """
    inputs: dict[str, Any] = {}
    matching = {}
    if job.camera:
        inputs["raw"] = ("raw", job.path, {"data_id": {"instrument": job.camera}})
        for kind, path in (("bias", job.bias), ("dark", job.dark)):
            if path and getattr(config.isr, kind, False):
                inputs[kind] = ("master_frame", path)
        if job.flats and getattr(config.isr, "flat", False):
            inputs["flat"] = [("master_frame", path) for path in job.flats]
            matching["flat"] = "raw"
    else:
        hdu = int(job.hdu) if job.hdu.isdigit() else job.hdu
        inputs["exposure"] = ("exposure", job.path, {"hdu": hdu} if job.hdu else {})
    stem = str(Path(job.folder) / frame_name(job.path))
    outputs = {
        "catalog": ("catalog", f"{stem}.catalog{job.table_format}"),
        "exposure": ("compressed_exposure" if job.compress else "exposure", f"{stem}.exposure.fits"),
    }
    return LooseFiles(inputs, outputs, matching=matching)


def write_companions(
    result: Any, files: LooseFiles, metadata: Mapping[str, Any], *, pictures: bool = True
) -> dict[str, Any]:
    """Write regions, picture and report of a frame.

    Parameters
    ----------
    result : Result
        Of a ProcessFrameTask.
    files : LooseFiles
        They stand beside the exposure.
    metadata : mapping
        What the task and its parts recorded.
    pictures : bool
        Write PNG and report.

    Returns
    -------
    notes : dict
        ``files``, ``metrics``, ``notes``, ``cpu_seconds`` and ``peak_mb`` of the task.
    """
    from starmill.diagnostics.metrics import exposure_metrics
    from starmill.io.regions import catalog_regions, write_regions
    from starmill.tasks.base import peak_memory_mb

    exposure, catalog = result.exposure, result.catalog
    stem = str(files.outputs["exposure"][1]).removesuffix(".exposure.fits")
    metrics = exposure_metrics(exposure, catalog, result.background)
    notes = [result.message] if result.message else []
    written = {name: str(path) for name, (_, path) in files.outputs.items()} | {"regions": f"{stem}.reg"}
    write_regions(written["regions"], catalog_regions(catalog, origin=exposure.origin))
    if pictures:
        written |= {"picture": f"{stem}.png", "report": f"{stem}.html"}
        _draw(result, written, metadata, metrics, notes)
    return {
        "files": written,
        "metrics": metrics,
        "notes": notes,
        "cpu_seconds": metadata["process"]["run_cpu_seconds"],
        "peak_mb": peak_memory_mb(),
    }


def _draw(result: Any, files: Mapping[str, str], metadata: Any, metrics: Any, notes: list[str]) -> None:
    from starmill.diagnostics.figures import png_bytes, show_exposure
    from starmill.diagnostics.report import SHOWN_PLANES, write_exposure_report
    from starmill.io.atomic import atomic_write_bytes

    exposure, catalog = result.exposure, result.catalog
    name = Path(files["exposure"]).name.removesuffix(".exposure.fits")
    title = f"{name} {exposure.info.object} {exposure.info.filter}"
    drawn = png_bytes(show_exposure(exposure, mask=SHOWN_PLANES, catalog=catalog, title=title))
    atomic_write_bytes(files["picture"], drawn)
    write_exposure_report(
        files["report"], exposure, catalog, background=result.background, psf_stars=result.psf_stars, timings=metadata,
        notes=notes, title=title, picture=drawn, metrics=metrics,
    )  # fmt: skip


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
        In the order of the jobs, plain values: ``frame``, ``state`` ('done', 'kept' or 'failed'), ``files``,
        ``metrics``, ``notes``; of finished frames ``cpu_seconds`` and ``peak_mb``; of failed ones ``error``,
        ``error_type``, ``exit_code``, ``traceback``.

    Raises
    ------
    InputError
        When two frames have the same name.
    """
    from starmill.tasks.process import ProcessFrameConfig

    names = [frame_name(job.path) for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two frames have the same name, so their products would too: {', '.join(twice)}")
    messages = []
    for number, job in enumerate(jobs):
        config = ProcessFrameConfig(**job.config) if job.config else ProcessFrameConfig()
        settings = {"resume": job.resume, "companions": "frame", "settings": {"pictures": job.pictures}}
        files = frame_files(job, config)
        messages.append(loose_message(number, "ProcessFrameTask", config.to_dict(), files, **settings))
    answers = run_messages(messages, processes, lambda answer: report(_summary(names[answer["id"]], answer)))
    return [_summary(name, answer) for name, answer in zip(names, answers, strict=True)]


def _summary(name: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome of a frame as plain values."""
    empty: dict[str, Any] = {"frame": name, "files": {}, "metrics": {}, "notes": []}
    return empty | outcome_of(answer)
