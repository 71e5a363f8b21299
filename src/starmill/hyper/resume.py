"""Which maps an earlier run has already done, told by the fingerprint in their tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starmill import __version__
from starmill.errors import InputError
from starmill.hyper.options import HyperOptions
from starmill.io.checksums import remembered_checksum
from starmill.io.sky_tables import read_sky_table

__all__ = ["earlier_table", "fingerprint"]

WITHOUT_INFLUENCE = ("paths.", "control.n_cores", "control.parallel_maps", "control.resume", "files.file_")


def fingerprint(path: Any, options: HyperOptions, changes: Mapping[str, Any] | None) -> str:
    """Checksum of everything that a table follows from: files, settings, version; empty without a file.

    Parameters
    ----------
    path : path or None
        Of the map.
    options : HyperOptions
    changes : mapping, optional
        Values of the accurate mode by dotted name.
    """
    if not path or not Path(str(path)).is_file():
        return ""
    files = [Path(str(path))]
    names = [options["files.noise_map"], options["files.weight_map"], options["survey.table"]]
    files += [options.input_path(name) for name in names if name]
    if options["detection.use_fixed_source_table"]:
        table = Path(options["detection.fixed_source_table_path"])
        files += [p for p in (options.root / table, options.input_path(table)) if p.is_file()][:1]
    parts = {
        "version": __version__,
        "files": [remembered_checksum(p) for p in files if p.is_file()],
        "options": {k: v for k, v in options.values.items() if not k.startswith(WITHOUT_INFLUENCE)},
        "changes": dict(changes or {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def earlier_table(
    path: Path, name: str, options: HyperOptions, changes: Mapping[str, Any] | None
) -> Any | None:
    """Return the table of a map when an earlier run made it from the same file and settings, else None.

    Parameters
    ----------
    path : Path
        Of the map.
    name : str
        Of the map, as in the names of its tables.
    options : HyperOptions
    changes : mapping, optional
        Values of the accurate mode by dotted name.
    """
    folder = options.output_path("paths.output.dir_table_out")
    file = folder / f"{options['files.file_table_base']}_{name}.csv"
    wanted = fingerprint(path, options, changes)
    if not wanted or not file.is_file():
        return None
    try:
        table = read_sky_table(file)
    except InputError:
        return None  # half a table of a run that was killed: it is made again
    return table if f"Fingerprint: {wanted}" in table.meta.get("comments", []) else None
