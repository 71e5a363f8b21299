"""Cubes: every channel as a map, a few at a time, with the background written as a cube."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.cube import Beam, SkyMap
from starmill.detection.grouping import link_channels
from starmill.errors import AlgorithmError, StarmillError
from starmill.hyper.options import HyperOptions
from starmill.hyper.resume import earlier_table, fingerprint
from starmill.hyper.session import MapOutcome, map_outcome, photometer, write_tables
from starmill.hyper.surveys import load_surveys, survey_of
from starmill.hyper.tables import merge_tables
from starmill.io.cubes import FitsCube, cube_writer, open_cube, stem_of, write_map
from starmill.io.fits import read_image
from starmill.measurement.known_positions import agreed_positions, missing_positions

__all__ = ["run_cubes"]

SECOND_LOOK = "Second look"  # header line of the tables of channels that other channels had a say in


class _Channels:
    """The work on the channels of one cube: what an earlier run has left is kept, the rest is photometered.

    The background of a channel lies in the folder of the slices until the cube of all of them is complete. It is
    written before the table of its channel, so that a table of a run that was killed never stands alone.
    """

    def __init__(self, cube: FitsCube, options: HyperOptions, changes: Mapping[str, Any] | None) -> None:
        self.cube, self.options, self.changes = cube, options, changes
        self.folder = options.output_path("control.dir_datacube_slices")
        self.full = self.folder / f"{cube.name}_background_cube_fullsize.fits"
        self.mark = fingerprint(cube.path, options, changes)[:32]
        self.complete = self._complete_cube() if options["control.resume"] else None

    def _complete_cube(self) -> FitsCube | None:
        """Return the cube of backgrounds that an earlier run made from the same cube and settings."""
        if not self.full.is_file():
            return None
        earlier = open_cube(self.full, beam=Beam(1.0, 1.0), unit="1")
        return earlier if earlier.header.get("FPRINT") == self.mark and self.mark else None

    def _file(self, sky_map: SkyMap) -> Path:
        return self.folder / f"{sky_map.name}_background.fits"

    def run(self, sky_map: SkyMap, known: NDArray[np.float64] | None = None) -> MapOutcome:
        """Photometer a channel, unless that is done; ``known`` are positions of sources of other channels."""
        if known is None and (earlier := self._earlier(sky_map)) is not None:
            return MapOutcome(sky_map.name, earlier)
        number = int(sky_map.name.rsplit("_", 1)[1])

        def read() -> SkyMap:
            path = self.folder / f"{sky_map.name}.fits"
            write_map(path, sky_map, sky_map.image, sky_map.unit, chan_n=number)
            if not sky_map.valid.any():
                raise AlgorithmError(
                    "the channel has no valid pixel", numbers={"channel": number, "valid": 0}
                )
            return sky_map

        measure = self._photometer if known is None else partial(self._photometer, known=known)
        return map_outcome(read, sky_map.name, self.options, self.changes, measure=measure)

    def _earlier(self, sky_map: SkyMap) -> Any | None:
        """Table of a channel from an earlier run; a second look is made again as long as the cube is not complete."""
        if not self.options["control.resume"]:
            return None
        if self.complete is None and not self._file(sky_map).is_file():
            return None
        table = earlier_table(self.cube.path, sky_map.name, self.options, self.changes)
        if table is None or self.complete is not None:
            return table
        second = any(line.startswith(f"{SECOND_LOOK}:") for line in table.meta.get("comments", []))
        return None if second else table

    def _photometer(
        self, sky_map: SkyMap, options: HyperOptions, changes: Mapping[str, Any] | None,
        known: NDArray[np.float64] | None = None,
    ) -> Any:  # fmt: skip
        """Photometer one channel and put its background aside."""
        if known is None:
            result = photometer(sky_map, options, changes)
        else:
            result = photometer(sky_map, options, changes, known=known)
            result.notes[SECOND_LOOK] = "blends were fitted with the sources that other channels show in them"
        if "background" in result:
            write_map(self._file(sky_map), sky_map, result.background, sky_map.unit)
        return result

    def background(self, channel: int, sky_map: SkyMap) -> NDArray[np.float32]:
        """Return the background of a channel; the median level where the photometry failed."""
        if self._file(sky_map).is_file():
            return np.asarray(read_image(self._file(sky_map))[0], np.float32)
        if self.complete is not None:
            return np.asarray(self.complete[channel].image, np.float32)
        level = float(np.nanmedian(sky_map.image)) if sky_map.valid.any() else np.nan
        return np.where(sky_map.valid, np.float32(level), np.float32(np.nan))

    def tidy(self) -> None:
        """Remove the backgrounds of the single channels: they are in the cube."""
        for channel in range(len(self.cube)):
            (self.folder / f"{self.cube.name}_slice_{channel + 1:03d}_background.fits").unlink(
                missing_ok=True
            )


def run_cubes(
    options: HyperOptions, paths: list[Path], *, advance: Callable[[str], None] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> list[MapOutcome]:  # fmt: skip
    """Photometer every channel of every cube.

    Parameters
    ----------
    options : HyperOptions
    paths : list of Path
    advance : callable, optional
        Called with a sentence when a cube is done.
    changes : mapping, optional
        Values of the accurate mode by dotted name.

    Returns
    -------
    outcomes : list of MapOutcome
        One for each channel, or one for a cube that cannot be opened.
    """
    outcomes: list[MapOutcome] = []
    for path in paths:
        try:
            done = _run_cube(_open(path, options), options, changes)
        except StarmillError as error:
            done = [MapOutcome(stem_of(path), error=str(error))]
        outcomes += done
        if advance is not None:
            sources = sum(len(o.table) for o in done if o.table is not None)
            failed = [o for o in done if o.error]
            advance(f"{stem_of(path)}: {len(done)} channels, {sources} sources, {len(failed)} failed")
    return outcomes


def _open(path: Path, options: HyperOptions) -> FitsCube:
    table = options["survey.table"]
    survey = survey_of(options["survey.survey_code"], load_surveys(table and options.input_path(table)))
    arcsec = options["survey.beam_arcsec"]
    beam = Beam(arcsec, arcsec) if arcsec is not None else survey.beam if survey else None
    frequency = options["units.frequency_hz"] or (survey.frequency if survey else None)
    return open_cube(path, beam=beam, unit=options["units.map_unit"], frequency=frequency)


def _run_cube(cube: FitsCube, options: HyperOptions, changes: Mapping[str, Any] | None) -> list[MapOutcome]:
    """Work through the channels in small batches, then write the cubes."""
    work = _Channels(cube, options, changes)
    workers = max(1, options["control.n_cores"] if options["control.parallel_maps"] else 1)
    outcomes: list[MapOutcome] = []
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(cube), workers):
            maps = [cube[channel] for channel in range(first, min(first + workers, len(cube)))]
            outcomes += pool.map(work.run, maps)
        if work.complete is None and _shares(options):
            known, wanting = _wanting(cube, outcomes)
            for first in range(0, len(wanting), workers):
                some = wanting[first : first + workers]
                done = list(pool.map(partial(work.run, known=known), [cube[channel] for channel in some]))
                for channel, outcome in zip(some, done, strict=True):
                    outcomes[channel] = outcome
    unit, cards = cube[0].unit, {"start_ch": 1, "fprint": work.mark}
    with ExitStack() as files:
        write_background = files.enter_context(cube_writer(work.full, cube, unit, **cards))
        flat = work.folder / f"{cube.name}_background_subtracted.fits"
        write_flat = files.enter_context(cube_writer(flat, cube, unit, **cards))
        for channel, sky_map in enumerate(cube):
            background = work.background(channel, sky_map)
            write_background(background)
            write_flat(np.asarray(sky_map.image, np.float32) - background)
    work.tidy()
    _write_cut(work.full, cube, unit)
    _merge(cube, outcomes, options)
    return outcomes


def _shares(options: HyperOptions) -> bool:
    """Whether the channels of a cube tell each other what their blends hold."""
    given = options["detection.use_fixed_source_table"] or options["detection.fixed_peaks"]
    return bool(
        options["detection.share_channels"] and not options.compat and not given
        and not options["control.detection_only"]
    )  # fmt: skip


def _wanting(cube: FitsCube, outcomes: list[MapOutcome]) -> tuple[NDArray[np.float64], list[int]]:
    """Positions of the sources of all channels, and the channels whose blends lack some of them."""
    found = {i: o.table for i, o in enumerate(outcomes) if o.table is not None and len(o.table)}
    if len(found) < 2:
        return np.zeros((0, 2)), []
    x, y, dx, dy = (
        np.concatenate([np.asarray(table[name], np.float64) for table in found.values()])
        for name in ("X", "Y", "X_ERR", "Y_ERR")
    )
    channel = np.repeat(list(found), [len(table) for table in found.values()])
    sigma = cube[next(iter(found))].beam_in_pixels()
    fwhm = 2.3548 * float(np.sqrt(sigma[0] * sigma[1]))
    known = agreed_positions(x, y, np.nan_to_num(np.hypot(dx, dy), nan=fwhm), channel, fwhm)
    wanting = [i for i in found if len(missing_positions(known, x[channel == i], y[channel == i], fwhm))]
    return known, wanting


def _write_cut(full: Path, cube: FitsCube, unit: str) -> None:
    """Write the background cube again without the empty margins that all channels share."""
    background = open_cube(full, beam=Beam(1.0, 1.0), unit=unit)
    rows, columns = np.zeros(cube.shape[1], bool), np.zeros(cube.shape[2], bool)
    for plane in background:
        rows |= plane.valid.any(axis=1)
        columns |= plane.valid.any(axis=0)
    if not rows.any():
        return
    y, x = np.flatnonzero(rows), np.flatnonzero(columns)
    box = int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)
    path = full.with_name(f"{cube.name}_background_cube_cut.fits")
    with cube_writer(path, cube, unit, box=box, start_ch=1) as write:
        for plane in background:
            write(plane.image[box[1] : box[1] + box[3], box[0] : box[0] + box[2]])


def _merge(cube: FitsCube, outcomes: list[MapOutcome], options: HyperOptions) -> None:
    """Add channel, spectral coordinate and linked source to the tables, and write the table of the cube."""
    found = [(i, o.table) for i, o in enumerate(outcomes) if o.table is not None]
    if not found:
        return
    for channel, table in found:
        table["CHANNEL"] = np.full(len(table), channel + 1)
        table["SPECTRAL"] = np.full(len(table), cube.spectral[channel])
        table["SPECTRAL"].unit = cube.spectral_unit or None
        table["CHANNEL"].description = "Number of the channel, counted from 1"
        table["SPECTRAL"].description = f"Spectral coordinate of the channel ({cube.spectral_type})"
    merged = merge_tables([table for _, table in found])
    sky_map = cube[found[0][0]]
    sigma = sky_map.beam_in_pixels()
    half_beam = 0.5 * 2.3548 * float(np.sqrt(sigma[0] * sigma[1]))
    label = link_channels(
        np.asarray(merged["X"]), np.asarray(merged["Y"]), np.asarray(merged["CHANNEL"]), half_beam
    )
    start = 0
    for _, table in found:
        table["SOURCE"] = label[start : start + len(table)]
        table["SOURCE"].description = "Number of the source that is linked over the channels"
        start += len(table)
    write_tables(merge_tables([table for _, table in found]), options, f"{cube.name}_ALL", merged=True)
