"""What a run of ``hyper`` was made from, and making it again.

The tables of hyper-py have no place for it: ``provenance.json`` lies beside them in the folder of the results.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starmill.errors import InputError
from starmill.hyper.options import HyperOptions
from starmill.io.checksums import file_checksum, remembered_checksum

if TYPE_CHECKING:
    from starmill.execution.rerun import RerunReport

__all__ = ["RECORD_NAME", "read_record", "rerun_product", "write_record"]

RECORD_NAME = "provenance.json"
_FILES = ("files.noise_map", "files.weight_map", "survey.table", "detection.fixed_source_table_path")
_LOGS = "paths.output.dir_log_out"
_ELSEWHERE = ("paths.output.dir_root", "control.resume")  # may be another without changing any result


def write_record(options: HyperOptions, paths: Sequence[Path], changes: Mapping[str, Any] | None) -> Path:
    """Write what the results in the folder of a run were made from.

    Parameters
    ----------
    options : HyperOptions
    paths : sequence of Path
        Maps or cubes.
    changes : mapping, optional
        Values of the accurate mode by dotted name.

    Returns
    -------
    path : Path
        ``provenance.json``.
    """
    from starmill.execution.versions import versions
    from starmill.io.atomic import atomic_write_text

    files = [("map", path) for path in paths]
    files += [(key, options.input_path(options[key])) for key in _FILES if options[key]]
    record = {
        "task": "hyper",
        "config": {key: value for key, value in options.values.items() if key not in _ELSEWHERE},
        "folder": str(Path(options.folder).absolute()),
        "source": options.source and options.source.name,
        "changes": dict(changes or {}),
        "inputs": [
            {
                "keyword": key,
                "file": path.name,
                "path": str(path.absolute()),
                "checksum": remembered_checksum(path),
            }
            for key, path in files
            if path.is_file()
        ],
        "versions": versions(),
    }
    target = options.root / RECORD_NAME
    atomic_write_text(target, json.dumps(record, indent=1, default=str) + "\n")
    return target


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what the run that wrote a file was made from; None when the file is no result of ``hyper``."""
    for folder in list(path.absolute().parents)[:3]:
        place = folder / RECORD_NAME
        if not place.is_file():
            continue
        try:
            record = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"damaged: {error}", path=place) from error
        return {**record, "root": folder} if record.get("task") == "hyper" else None
    return None


def rerun_product(path: Path, folders: Sequence[Path] = (), *, keep: Path | None = None) -> RerunReport:
    """Repeat the run of ``hyper`` that wrote a file, and compare the bytes of all its results but the logs.

    Parameters
    ----------
    path : Path
        Table, region file or other result.
    folders : sequence of Path
        Where maps are looked for, by name and checksum, when they are no longer where they were.
    keep : Path, optional
        Folder that gets the new results.

    Returns
    -------
    report : RerunReport
        Results that are no longer there are left out.

    Raises
    ------
    InputError
        When an input is nowhere to be found with its content, or the recorded run did not write the file.
    """
    from starmill.execution.rerun import RerunReport, changed_versions
    from starmill.hyper.session import run_maps

    record = read_record(path)
    if record is None:
        raise InputError(f"no {RECORD_NAME} beside it says how it was made", path=path)
    found = [(item["keyword"], _found(item, folders, path)) for item in record["inputs"]]
    begin = time.process_time()
    identical: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as scratch:
        values = {**record["config"], **dict(zip(_ELSEWHERE, (scratch, False), strict=True))}
        source = record["source"] and Path(record["source"])
        options = HyperOptions(values, Path(record["folder"]), source)
        run_maps(options, [file for key, file in found if key == "map"], changes=record["changes"])
        for made in sorted(Path(scratch).rglob("*")):
            name = made.relative_to(scratch)
            if not made.is_file() or made.name == RECORD_NAME or options.output_path(_LOGS) in made.parents:
                continue
            if (record["root"] / name).is_file():
                identical[str(name)] = file_checksum(record["root"] / name) == file_checksum(made)
            if keep is not None:
                (keep / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made, keep / name)
    if str(path.absolute().relative_to(record["root"])) not in identical:
        raise InputError(f"was not written by the run that {record['root'] / RECORD_NAME} records", path=path)
    return RerunReport(
        "hyper", path.name, identical, changed_versions(record["versions"]), time.process_time() - begin
    )


def _found(item: Mapping[str, Any], folders: Sequence[Path], product: Path) -> Path:
    from starmill.execution.rerun import find_input

    place = Path(item["path"])
    if item["keyword"] == "map":
        return find_input(item, folders, product.absolute())
    if not place.is_file() or file_checksum(place) != item["checksum"]:
        raise InputError(f"the input {place} ({item['keyword']}) has gone or has other content", path=product)
    return place
