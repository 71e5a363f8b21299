"""Makes the files of a HOTPANTS command line again from what one of them says of itself."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starmill.execution.versions import versions
from starmill.hotpants.options import HotpantsError
from starmill.io.checksums import file_checksum

if TYPE_CHECKING:
    from starmill.execution.rerun import RerunReport

__all__ = ["made_from", "rerun_product", "with_record"]

_INPUTS = ("inim", "tmplim", "tmi", "imi", "tni", "ini", "ki", "ssf", "cmp", "rf")
_OUTPUTS = ("outim", "oni", "omi", "ond", "oci", "oki", "savexy")


def with_record(words: Sequence[str]) -> str:
    """Return names and checksums of the inputs of a command line, and versions, as JSON text for the header."""
    inputs = {
        flag: [Path(words[place]).name, file_checksum(words[place])]
        for flag, place in _places(words, _INPUTS)
    }
    return json.dumps({"inputs": inputs, "versions": versions()}, separators=(",", ":"))


def made_from(path: Path) -> dict[str, Any] | None:
    """Return task, command line, versions and inputs of a file; None when it is no product of ``hotpants``."""
    from starmill.io.hotpants_files import read_record

    if path.suffix != ".fits":
        return None
    cards = read_record(path)
    if not cards["record"]:
        return None
    record = json.loads(cards["record"])
    places = dict(_places(cards["words"], _INPUTS))
    inputs = [
        {"keyword": f"-{flag}", "file": name, "path": cards["words"][places[flag]], "checksum": checksum}
        for flag, (name, checksum) in record["inputs"].items()
    ]
    return {"task": "hotpants", "config": cards["words"], "versions": record["versions"], "inputs": inputs}


def rerun_product(path: Path, folders: Sequence[Path] = (), *, keep: Path | None = None) -> RerunReport:
    """Run the command line that made a file once more and compare the bytes of all its files.

    Parameters
    ----------
    path : Path
        Difference, noise, mask, convolved image or kernel table.
    folders : sequence of Path
        Where the inputs are looked for, by name and checksum, besides the folders near the product.
    keep : Path, optional
        Folder that gets the new files.

    Returns
    -------
    report : RerunReport
        Files that are no longer beside the product are left out.

    Raises
    ------
    InputError, HotpantsError
        When an input is nowhere to be found with its content, or the command line used files without a checksum.
    """
    from starmill.execution.rerun import RerunReport, changed_versions, find_input
    from starmill.hotpants.command import work
    from starmill.io.hotpants_files import read_record

    cards = read_record(path)
    words, record = cards["words"], json.loads(cards["record"])
    if any(word.lower() == "-pca" for word in words):
        raise HotpantsError(
            "the files of -pca have no checksum in the header: the command cannot be repeated"
        )
    for flag, place in _places(words, _INPUTS):
        name, checksum = record["inputs"][flag]
        item = {"keyword": f"-{flag}", "file": name, "path": words[place], "checksum": checksum}
        words[place] = str(find_input(item, folders, path.absolute()))
    begin = time.process_time()
    identical: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for flag, place in _places(words, _OUTPUTS):
            folder = Path(scratch, flag)
            folder.mkdir()
            words[place] = str(folder / Path(words[place]).name)
        work({"words": words, "resume": False, "recorded": cards["recorded"]})
        for made in sorted(Path(scratch).glob("*/*")):
            _compare(made, path.parent / made.name, identical)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made, keep / made.name)
    changed = changed_versions(record["versions"])
    return RerunReport("hotpants", path.name, identical, changed, time.process_time() - begin)


def _compare(made: Path, before: Path, identical: dict[str, bool]) -> None:
    if before.is_file():
        identical[made.name] = file_checksum(before) == file_checksum(made)


def _places(words: Sequence[str], flags: Sequence[str]) -> list[tuple[str, int]]:
    """Return the flags that are given, with the places of their values; the last of a flag counts."""
    found: dict[str, Any] = {}
    for place, word in enumerate(words[:-1]):
        flag = word.lower().lstrip("-")
        if word.startswith("-") and flag in flags:
            found[flag] = place + 1
    return list(found.items())
