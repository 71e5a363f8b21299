"""Photometry of many maps and cubes from one configuration: read, measure, write, merge."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.cube import Beam, SkyMap
from starmill.errors import ConfigError, InputError, StarmillError, StarmillWarning
from starmill.hyper.again import write_record
from starmill.hyper.options import HyperOptions, accurate_config, options_from
from starmill.hyper.products import write_products
from starmill.hyper.resume import fingerprint
from starmill.hyper.surveys import load_surveys, survey_of
from starmill.hyper.tables import centroid_regions, ellipse_regions, hyper_table, merge_tables
from starmill.io.atomic import atomic_write_text
from starmill.io.cubes import read_sky_map
from starmill.io.sky_tables import read_sky_table, write_sky_table
from starmill.numerics.tiles import get_threads, set_threads
from starmill.photocal.units import jansky_per_pixel_factor
from starmill.tasks.compact_sources import CompactSourcesTask

__all__ = ["HyperRun", "MapOutcome", "photometer", "read_map", "run_hyper", "run_maps", "start_hyper"]

_log = logging.getLogger("starmill.hyper")


@dataclass(frozen=True)
class MapOutcome:
    """What became of one map.

    Attributes
    ----------
    name : str
    table : astropy.table.Table or None
        None when the map failed.
    error : str
        Empty when all is well.
    seconds : float
        Wall time.
    files : list of Path
    """

    name: str
    table: Any = None
    error: str = ""
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class HyperRun:
    """The outcome of a run.

    Attributes
    ----------
    table : astropy.table.Table or None
        All maps stacked, in the order of the list.
    outcomes : list of MapOutcome
    files : list of Path
        Merged tables.
    """

    table: Any
    outcomes: list[MapOutcome]
    files: list[Path]

    @property
    def failed(self) -> list[MapOutcome]:
        """Maps that failed."""
        return [outcome for outcome in self.outcomes if outcome.error]

    @property
    def exit_code(self) -> int:
        """0 when every map is done, 1 when some failed, 3 when all failed."""
        return 0 if not self.failed else 1 if len(self.failed) < len(self.outcomes) else 3


def run_hyper(
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    maps: Sequence[str | Path] | None = None,
    **overrides: Any,
) -> Any:
    """Photometer the maps of a configuration file and return the merged table.

    Parameters
    ----------
    config : path or mapping, optional
        A hyper-py YAML file, or its values. Without it and without ``maps`` the file is searched for.
    maps : sequence of paths, optional
        Instead of the maps that the configuration names. With maps and no configuration the defaults are used.
    **overrides
        Values of keys: ``sigma_thres=4`` or ``detection__sigma_thres=4``.

    Returns
    -------
    table : astropy.table.Table
        One row per source; see :data:`starmill.hyper.tables.COLUMNS`.

    Raises
    ------
    StarmillError
        When the configuration cannot be used or no map could be photometered. When some maps fail, a
        :class:`~starmill.errors.StarmillWarning` names them.
    """
    if config is None and maps is not None:
        config = {}
    run = run_maps(options_from(config, overrides), maps)
    if run.table is None:
        raise InputError(
            "no map could be photometered: " + "; ".join(f"{o.name}: {o.error}" for o in run.failed)
        )
    for outcome in run.failed:
        warnings.warn(f"{outcome.name} failed: {outcome.error}", StarmillWarning, stacklevel=2)
    return run.table


start_hyper = run_hyper


def run_maps(
    options: HyperOptions, maps: Sequence[str | Path] | None = None, *,
    advance: Callable[[str], None] | None = None, changes: Mapping[str, Any] | None = None,
) -> HyperRun:  # fmt: skip
    """Photometer maps, write tables and regions, and merge.

    Parameters
    ----------
    options : HyperOptions
    maps : sequence of paths, optional
        Instead of those of the configuration.
    advance : callable, optional
        Called with a sentence when a map is done.
    changes : mapping, optional
        Values of :class:`starmill.tasks.compact_sources_config.CompactSourcesConfig` by dotted name.
    """
    paths = [Path(p) for p in maps] if maps is not None else options.maps()
    with _threads(options["control.n_cores"]), _global_log(options):
        if options["control.datacube"]:
            from starmill.hyper.cube_session import run_cubes

            outcomes = run_cubes(options, paths, advance=advance, changes=changes)
        else:
            from starmill.hyper.many_maps import run_each

            outcomes = run_each(options, paths, advance=advance, changes=changes)
        for outcome in outcomes:
            if outcome.error:
                _log.error("%s failed: %s", outcome.name, outcome.error)
        done = [outcome.table for outcome in outcomes if outcome.table is not None]
        table = merge_tables(done) if done else None
        files = [] if table is None else write_tables(table, options, "ALL", merged=True)
        _log.info(
            "%d of %d maps done, %d sources", len(done), len(outcomes), 0 if table is None else len(table)
        )
    if table is not None:
        write_record(options, paths, changes)
    return HyperRun(table, outcomes, files)


def read_map(path: str | Path, options: HyperOptions, *, name: str | None = None) -> SkyMap:
    """Read one map with the beam, unit, frequency and noise that the configuration says."""
    survey = survey_of(
        options["survey.survey_code"],
        load_surveys(options["survey.table"] and options.input_path(options["survey.table"])),
    )
    beam_arcsec = options["survey.beam_arcsec"]
    beam = Beam(beam_arcsec, beam_arcsec) if beam_arcsec is not None else survey.beam if survey else None
    noise, weight = (options[f"files.{kind}_map"] for kind in ("noise", "weight"))
    sky_map = read_sky_map(
        path, beam=beam, unit=options["units.map_unit"],
        frequency=options["units.frequency_hz"] or (survey.frequency if survey else None),
        noise=None if noise is None else options.input_path(noise),
        weight=None if weight is None else options.input_path(weight),
    )  # fmt: skip
    if name is None:
        return sky_map
    return SkyMap(
        sky_map.image,
        sky_map.wcs,
        sky_map.beam,
        sky_map.unit,
        sky_map.rms,
        name,
        sky_map.frequency,
        sky_map.meta,
    )


def map_outcome(
    read: Callable[[], SkyMap], name: str, options: HyperOptions, changes: Mapping[str, Any] | None = None, *,
    measure: Callable[..., Any] | None = None,
) -> MapOutcome:  # fmt: skip
    """Read, photometer and write one map; a failure is recorded, not raised.

    Parameters
    ----------
    read : callable
        Returns the map.
    name : str
        Of the map, for its log.
    options : HyperOptions
    changes : mapping, optional
        Values of the accurate mode by dotted name.
    measure : callable, optional
        Instead of :func:`photometer`.
    """
    start = time.perf_counter()
    with _map_log(options, name) as log:
        try:
            sky_map = read()
            log.info("map %s: %s pixels, unit %s", name, sky_map.image.shape, sky_map.unit)
            results = [(measure or photometer)(sky_map, options, changes)]
            table, files = _write_map_outputs(sky_map, results, options, changes)
        except StarmillError as error:
            log.error("%s", error)  # noqa: TRY400  the sentence says all
            return MapOutcome(name, error=str(error), seconds=time.perf_counter() - start)
        except Exception as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # compiled code wraps an interrupt
                raise KeyboardInterrupt from error
            log.exception("unexpected failure")
            return MapOutcome(
                name, error=f"{type(error).__name__}: {error}", seconds=time.perf_counter() - start
            )
        seconds = time.perf_counter() - start
        log.info("%d sources in %.2f s", len(table), seconds)
        return MapOutcome(name, table, "", seconds, files)


def photometer(
    sky_map: SkyMap, options: HyperOptions, changes: Mapping[str, Any] | None = None, *,
    known: NDArray[Any] | None = None,
) -> Any:  # fmt: skip
    """Photometer one map in the mode of the configuration; see :class:`CompactSourcesTask` for the result.

    Parameters
    ----------
    sky_map : SkyMap
    options : HyperOptions
    changes : mapping, optional
        Values of the accurate mode by dotted name.
    known : (m, 2) array, pixel, optional
        Where other channels show sources; see :meth:`CompactSourcesTask.run`.
    """
    positions, shapes = _given_sources(sky_map, options)
    if options.compat:
        from starmill.hyper.compat import published_config
        from starmill.tasks.published_photometry import PublishedPhotometryTask

        task: Any = PublishedPhotometryTask(published_config(options, sky_map))
        if sky_map.rms is not None:
            _log.warning("%s: the published rules use one rms for the map, not a noise map", sky_map.name)
        if options["control.detection_only"] and positions is None:
            return task.detect(sky_map=sky_map)
        return task.run(sky_map=sky_map, positions=positions, shapes=shapes)
    extra = dict(changes or {})
    if options["detection.use_manual_rms"]:
        extra["detection.rms"] = _map_units(options["detection.rms_value"] / options.flux_unit[1], sky_map)
    if options["detection.dist_limit_arcsec"] > 0:
        extra["detection.min_separation"] = options["detection.dist_limit_arcsec"] / sky_map.beam.fwhm
    if options["detection.use_fixed_source_table"]:
        extra["fit.vary_position"] = False
    task = CompactSourcesTask(accurate_config(options, extra))
    if options["control.detection_only"]:
        return task.detect(sky_map=sky_map)
    return task.run(sky_map=sky_map, positions=positions, shapes=shapes, known=known)


def _map_units(value: float, sky_map: SkyMap) -> float:
    """Jansky per pixel in the unit of the map."""
    return value / jansky_per_pixel_factor(
        sky_map.unit,
        pixel_sr=sky_map.pixel_area,
        beam_sr=sky_map.beam.solid_angle,
        frequency_hz=sky_map.frequency,
    )


def _given_sources(sky_map: SkyMap, options: HyperOptions) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Pixel positions, and shapes (FWHM major, minor in arcsec, position angle), that the configuration gives."""
    if options["detection.use_fixed_source_table"]:
        path = Path(options["detection.fixed_source_table_path"])
        path = path if path.is_absolute() else options.root / path
        table = read_sky_table(path if path.exists() else options.input_path(path))
        missing = [name for name in ("RA", "DEC") if name not in table.colnames]
        if missing:
            raise InputError(f"the source table has no column {', '.join(missing)}", path=path)
        lon, lat = (np.asarray(table[name], float) for name in ("RA", "DEC"))
        shapes = None
        if {"FWHM_1", "FWHM_2", "PA"} <= set(table.colnames):
            shapes = np.column_stack([np.asarray(table[name], float) for name in ("FWHM_1", "FWHM_2", "PA")])
        from astropy.coordinates import SkyCoord

        return np.column_stack(
            sky_map.wcs.world_to_pixel(SkyCoord(lon, lat, unit="deg", frame="icrs"))
        ), shapes
    if options["detection.fixed_peaks"]:
        lon, lat = options["detection.xcen_fix"], options["detection.ycen_fix"]
        if len(lon) != len(lat) or not lon:
            raise ConfigError(f"detection.xcen_fix has {len(lon)} values and ycen_fix {len(lat)}")
        return np.column_stack(sky_map.wcs.wcs_world2pix(lon, lat, 0)), None
    return None, None


def _write_map_outputs(
    sky_map: SkyMap, results: list[Any], options: HyperOptions, changes: Mapping[str, Any] | None
) -> tuple[Any, list[Path]]:
    """Write everything of one map; the only result is taken out of the list, so that its images can go early."""
    result = results.pop()
    catalog, name = result.catalog, sky_map.name
    notes = {
        "Mode": options["control.mode"], "Survey code": options["survey.survey_code"],
        "Detection threshold": f"{options['detection.sigma_thres']} sigma",
        "Configuration": options.source.name if options.source else "none", **getattr(result, "notes", {}),
        "Fingerprint": fingerprint(sky_map.meta.get("path"), options, changes),
    }  # fmt: skip
    files = []
    if not options["control.detection_only"]:
        files += write_products(sky_map, result, options, _flux_factor(sky_map, options))
    del result
    table = hyper_table(catalog, sky_map, options.flux_unit, notes)
    files += write_tables(table, options, name)
    base = options.output_path("paths.output.dir_region_out") / f"{options['files.file_region_base']}_{name}"
    regions = {"centroids": centroid_regions(catalog, sky_map)}
    if not options["control.detection_only"]:
        regions["ellipses"] = ellipse_regions(catalog, sky_map, options["photometry.fwhm_radius_ratio"])
    for kind, text in regions.items():
        path = base.with_name(f"{base.name}_{kind}.reg")
        atomic_write_text(path, text)
        files.append(path)
    return table, files


def _flux_factor(sky_map: SkyMap, options: HyperOptions) -> float:
    return options.flux_unit[1] / _map_units(1.0, sky_map)


def write_tables(table: Any, options: HyperOptions, name: str, *, merged: bool = False) -> list[Path]:
    """Write one table in every format of the configuration; the merged ``csv`` is plain, as published."""
    stem = options.output_path("paths.output.dir_table_out") / f"{options['files.file_table_base']}_{name}"
    kinds = options["files.table_formats"]
    return [write_sky_table(table, stem, "csv" if merged and kind == "ecsv" else kind) for kind in kinds]


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Spread the work of one map over ``n`` threads for the time of a block."""
    before = get_threads()
    set_threads(n)
    try:
        yield
    finally:
        set_threads(before)


@contextmanager
def _log_file(logger: logging.Logger, path: Path) -> Iterator[None]:
    """Send a logger to a file for the time of a block."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"the log cannot be written: {error.strerror}", path=path) from error
    handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


@contextmanager
def _global_log(options: HyperOptions) -> Iterator[None]:
    """Open the log of the run; its lines reach the handlers of the program only when it wants that much detail."""
    wanted = logging.getLogger("starmill").isEnabledFor(logging.INFO)
    propagate, _log.propagate = _log.propagate, wanted
    try:
        with _log_file(
            _log, options.output_path("paths.output.dir_log_out") / options["files.file_log_name"]
        ):
            yield
    finally:
        _log.propagate = propagate


@contextmanager
def _map_log(options: HyperOptions, name: str) -> Iterator[logging.Logger]:
    """Open a log of its own for one map; its lines also go to the global log."""
    logger = _log.getChild(name.replace(".", "_"))
    with _log_file(logger, options.output_path("paths.output.dir_log_out") / f"Hyper_log_{name}.log"):
        yield logger
