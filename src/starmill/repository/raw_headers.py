"""Asks the camera's translator what the headers of raw frames mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starmill.errors import InputError
from starmill.repository.exposures import ExposureRecord
from starmill.repository.header_cards import Cards, read_headers
from starmill.repository.sky_overlap import plain_tangent_plane, tangent_corners, wcs_corners
from starmill.repository.sky_regions import SkyRegion

_SHORT_NUMBER = 100_000  # exposure numbers below it count within a night


@functools.cache
def camera_translator(name: str) -> Callable[[Path], list[ExposureRecord]]:
    """Return the function that reads what the raw files of a camera say of themselves.

    Parameters
    ----------
    name : str
        Camera, as ``starmill.io.raw.load_camera`` knows it.

    Returns
    -------
    translate : callable
        Path to records, one per detector in the file.
    """
    from starmill.io.raw import load_camera
    from starmill.io.translators import find_translator

    camera = load_camera(name)
    translator = find_translator(camera)

    def translate(path: Path) -> list[ExposureRecord]:
        headers = read_headers(path)
        images = [header for header in headers if header.one("NAXIS", 0) >= 2] or headers
        primary, first = headers[0], headers[0] | images[0]
        index, detector = _find_detector(camera, first, path)
        try:
            translator.check(first)
            info = translator.observation(first if len(images) == 1 else primary, detector)
            corners = _corners(translator, first, detector, _assembled_shape(images))
        except InputError as error:
            raise InputError(error.message, path=path, hdu=error.hdu) from error
        return [_record(info, index, corners, path)]

    return translate


def _find_detector(camera: Any, header: Cards, path: Path) -> tuple[int, Any]:
    from starmill.datamodel.camera import Amplifier, Detector
    from starmill.datamodel.geometry import Box

    if not camera.detectors:
        box = Box(0, 0, 1, 1)
        return 0, Detector("0", (Amplifier("A", box, box, box),))
    if len(camera.detectors) == 1:
        chosen = (
            camera.detectors[0]
            if not isinstance(camera.detectors, dict)
            else next(iter(camera.detectors.values()))
        )
        return 0, _with_amplifier(chosen)
    wanted = str(header.get("DETECTOR", header.get("CCDNAME", header.get("DETNAME", "")))).strip()
    for index, detector in enumerate(camera.detectors):
        if detector.name == wanted:
            return index, _with_amplifier(detector)
    raise InputError(f"camera {camera.name} has several detectors, none called {wanted!r}", path=path)


def _with_amplifier(detector: Any) -> Any:
    """Return the detector with at least one amplifier: those of header geometry are made when pixels are read."""
    from starmill.datamodel.camera import Amplifier, Detector
    from starmill.datamodel.geometry import Box

    if detector.amplifiers:
        return detector
    box = Box(0, 0, 1, 1)
    return Detector(detector.name, (Amplifier("A", box, box, box),))


def _assembled_shape(images: list[Cards]) -> tuple[int, int]:
    """Return (nx, ny) of the frame; amplifiers in extensions of their own say where they belong."""
    from starmill.datamodel.camera import parse_section

    sections = [image.one("DETSEC") for image in images] if len(images) > 1 else [None]
    if None not in sections:
        boxes = [parse_section(str(section))[0] for section in sections]
        return max(box.x1 for box in boxes), max(box.y1 for box in boxes)
    return int(images[0].one("NAXIS1", 0)), int(images[0].one("NAXIS2", 0))


def _corners(translator: Any, header: Cards, detector: Any, shape: tuple[int, int]) -> Any:
    """Sky positions of the corners of the frame, or None."""
    if "CTYPE1" not in header or "CRVAL1" not in header:
        return None
    plane = plain_tangent_plane(header)
    if plane is not None:
        return tangent_corners(plane, *shape, translator.wcs_shift(detector))
    wcs = translator.wcs(header, detector)
    if wcs is None or not wcs.has_celestial:
        return None
    return wcs_corners(wcs, 0, 0, *shape)


def _record(info: Any, detector: int, corners: Any, path: Path) -> ExposureRecord:
    night = int(info.night.replace("-", "")) if info.night else None
    number = int(info.exposure_id)
    if number <= 0:
        raise InputError(
            "neither an exposure number nor a time in the header: no data ID can be made", path=path
        )
    if number < _SHORT_NUMBER and night is not None:
        number += night * _SHORT_NUMBER  # observatories count anew each night
    finite: dict[str, Any] = {
        name: float(getattr(info, name)) if math.isfinite(getattr(info, name)) else None
        for name in ("mjd", "exposure_time", "airmass", "ra", "dec")
    }
    region = SkyRegion.from_corners(corners) if corners else None
    try:
        return ExposureRecord(
            instrument=info.instrument,
            exposure=number,
            detector=detector,
            visit=number,
            night=night,
            filter=info.filter or None,
            band=info.band or None,
            object=info.object or None,
            image_type=info.kind or None,
            region=region,
            **finite,
        )
    except InputError as error:
        raise InputError(error.message, path=path) from error
