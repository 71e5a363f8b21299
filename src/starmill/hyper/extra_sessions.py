"""Forced photometry of one list on several maps, and completeness curves, from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from starmill.datamodel.cube import Beam, SkyMap
from starmill.errors import InputError
from starmill.hyper.options import HyperOptions, accurate_config
from starmill.hyper.session import read_map
from starmill.io.sky_tables import read_sky_table
from starmill.io.tables import write_catalog
from starmill.tasks.completeness import CompletenessConfig, CompletenessTask
from starmill.tasks.forced_maps import ForcedMapsConfig, ForcedMapsTask

__all__ = ["completeness_run", "forced_run"]


def forced_run(
    options: HyperOptions, maps: list[Path] | None, table_path: Path, changes: Mapping[str, Any] | None = None
) -> list[Path]:
    """Measure the sources of a table on all maps and write one matched table.

    Parameters
    ----------
    options : HyperOptions
    maps : list of Path or None
        Those of the configuration when not given.
    table_path : Path
        With RA and DEC (degrees), and optionally FWHM_1, FWHM_2, PA as observed with the beam of the columns BEAM_1,
        BEAM_2, BEAM_PA (arcsec, arcsec, degree). The sizes in tables of this program are those observed with the beam
        of their map. Sizes of other tables without a beam are intrinsic.
    changes : mapping, optional
        Values of the accurate mode.

    Returns
    -------
    files : list of Path
    """
    table = read_sky_table(table_path)
    names = {name.upper(): name for name in table.colnames}
    if not {"RA", "DEC"} <= set(names):
        raise InputError("the table of positions needs the columns RA and DEC", path=table_path)

    def column(name: str) -> Any:
        return np.asarray(table[names[name]], float)

    shapes = None
    if {"FWHM_1", "FWHM_2", "PA"} <= set(names):
        shapes = np.column_stack([column(name) for name in ("FWHM_1", "FWHM_2", "PA")])
    sky_maps = [read_map(path, options) for path in (maps or options.maps())]
    reference = None
    if "BEAM_1" in names:
        minor = column("BEAM_2")[0] if "BEAM_2" in names else column("BEAM_1")[0]
        reference = Beam(column("BEAM_1")[0], minor, column("BEAM_PA")[0] if "BEAM_PA" in names else 0.0)
    elif shapes is not None and "HYPER_ID" in names:
        reference = _beam_of_table(table, names, sky_maps, table_path)
    task = ForcedMapsTask(ForcedMapsConfig(photometry=accurate_config(options, changes)))
    catalog = task.run(
        sky_maps=sky_maps, ra=column("RA"), dec=column("DEC"), shapes=shapes, reference=reference
    ).catalog
    path = (
        options.output_path("paths.output.dir_table_out") / f"{options['files.file_table_base']}_forced.ecsv"
    )
    write_catalog(catalog, path)
    return [path]


def _beam_of_table(table: Any, names: Mapping[str, str], sky_maps: list[SkyMap], path: Path) -> Beam:
    """Beam with which the sizes of a table of ``hyper`` were observed: that of its only map.

    Raises
    ------
    InputError
        When the table has rows of several maps, or tells no beam.
    """
    stems = {str(name).strip() for name in table[names["MAP_ID"]]} if "MAP_ID" in names else set()
    if len(stems) <= 1:
        for sky_map in sky_maps:
            if sky_map.name in stems:
                return sky_map.beam
        for line in table.meta.get("comments", []):
            found = re.match(r"Beam: (\S+) x (\S+) arcsec, PA (\S+) deg", str(line))
            if found:
                return Beam(*(float(number) for number in found.groups()))
    raise InputError(
        f"FWHM_1 and FWHM_2 of this table are sizes as observed in {len(stems)} map(s) whose beam is not known; "
        "add the columns BEAM_1, BEAM_2, BEAM_PA, or remove the sizes to measure point sources", path=path,
    )  # fmt: skip


def completeness_run(
    options: HyperOptions, maps: list[Path] | None, n_sources: int, changes: Mapping[str, Any] | None = None
) -> list[Path]:
    """Inject sources into every map; writes one curve for each."""
    files = []
    for path in maps or options.maps():
        sky_map = read_map(path, options)
        config = CompletenessConfig(n_sources=n_sources, photometry=accurate_config(options, changes))
        curve = CompletenessTask(config).run(sky_map=sky_map).curve
        folder = options.output_path("paths.output.dir_table_out")
        target = folder / f"{options['files.file_table_base']}_{sky_map.name}_completeness.ecsv"
        write_catalog(curve, target)
        files.append(target)
    return files
