"""Writes a simulated night: raw frames, reference catalogue and truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from starmill.datamodel.camera import Detector, format_section
from starmill.io.atomic import atomic_path, atomic_write_text
from starmill.io.config import dump_yaml
from starmill.io.fits import wcs_header
from starmill.io.tables import write_catalog
from starmill.simulation.night import Night, SimulatedFrame

__all__ = ["write_night", "write_simulated_frame"]


def write_night(
    night: Night, folder: str | Path, *, report: Callable[[SimulatedFrame], None] | None = None
) -> dict[str, list[Path]]:
    """Write all frames of a night and the truth.

    Parameters
    ----------
    night : Night
    folder : path
        Gets ``raw/`` (one file per frame), ``truth/`` (a catalogue and a flag image per science frame,
        ``variables.fits``), ``reference.fits`` and ``night.yaml``.
    report : callable, optional
        Called with every frame once it is written.

    Returns
    -------
    files : dict of str to list of Path
        Raw files by kind: ``bias``, ``dark``, ``flat_<band>``, ``science_<band>``.
    """
    folder = Path(folder)
    files: dict[str, list[Path]] = {}
    write_catalog(night.reference(), folder / "reference.fits")
    write_catalog(night.variables(), folder / "truth" / "variables.fits")
    for frame in night.frames():
        path = folder / "raw" / f"{frame.name}.fits"
        write_simulated_frame(frame, night.model.detector, path)
        band = frame.header.get("FILTER")
        files.setdefault(f"{frame.kind}_{band}" if band else frame.kind, []).append(path)
        if frame.truth is not None:
            write_catalog(frame.truth, folder / "truth" / f"{frame.name}.fits")
        if frame.flags is not None:
            _write_flags(frame.flags, folder / "truth" / f"{frame.name}.flags.fits")
        if report is not None:
            report(frame)
    summary: dict[str, Any] = {"camera": night.camera.name, "settings": asdict(night.settings)}
    summary["settings"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in summary["settings"].items()
    }
    summary["frames"] = {kind: [path.name for path in paths] for kind, paths in files.items()}
    atomic_write_text(folder / "night.yaml", dump_yaml(summary))
    return files


def write_simulated_frame(frame: SimulatedFrame, detector: Detector, path: str | Path) -> None:
    """Write a raw frame: an empty primary extension and one extension for each amplifier."""
    primary = fits.PrimaryHDU()
    if frame.wcs is not None:
        primary.header.update(wcs_header(frame.wcs))
    for key, value in frame.header.items():
        primary.header[key] = value
    hdus = fits.HDUList([primary])
    for amplifier in detector.amplifiers:
        raw = amplifier.raw_box
        header = fits.Header()
        data, overscan = (
            box.shifted(-raw.x0, -raw.y0)
            for box in (amplifier.raw_data_box, amplifier.raw_overscan_box or raw)
        )
        header["DATASEC"] = (format_section(data), "imaging pixels")
        header["BIASSEC"] = (format_section(overscan), "overscan")
        section = format_section(amplifier.box, amplifier.flip_x, amplifier.flip_y)
        header["DETSEC"] = (section, "backwards where mirrored")
        header["GAIN"] = (amplifier.gain, "[electron/adu]")
        header["RDNOISE"] = (amplifier.read_noise, "[electron]")
        header["SATURATE"] = (amplifier.saturation, "[adu]")
        header["BUNIT"] = "adu"
        pixels = np.ascontiguousarray(frame.raw[raw.slices()])
        hdus.append(fits.ImageHDU(pixels, header, name=amplifier.name))
    with atomic_path(path) as temporary:
        hdus.writeto(temporary)


def _write_flags(flags: Any, path: Path) -> None:
    header = fits.Header({"BIT0": "hit by a cosmic ray", "BIT1": "saturated"})
    hdus = fits.HDUList(
        [fits.PrimaryHDU(), fits.CompImageHDU(flags, header, name="FLAGS", compression_type="GZIP_1")]
    )
    with atomic_path(path) as temporary:
        hdus.writeto(temporary)
