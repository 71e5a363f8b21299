"""How a loose product was made, as a tree: from what it says of itself, and what its inputs say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starmill.errors import InputError
from starmill.execution.provenance import canonical, text_checksum
from starmill.execution.rerun import find_input, provenance_of
from starmill.io.checksums import file_checksum

#: Gives ``task``, ``config``, ``versions`` and ``inputs`` of a file, or None when it does not know it.
Reader = Callable[[Path], Mapping[str, Any] | None]


def read_loose(path: Path) -> Mapping[str, Any] | None:
    """Return what a product of ``process`` or ``difference`` was made from; None for another file."""
    try:
        found = provenance_of(path)
    except InputError:
        return None
    return {**found, "versions": {"starmill": found["starmill"], **found["versions"]}}


def loose_tree(
    path: Path, readers: Sequence[Reader], folders: Sequence[Path] = (), depth: int = 50
) -> dict[str, Any]:
    """Return how a loose product was made.

    Parameters
    ----------
    path : Path
        The product.
    readers : sequence of Reader
        Asked in turn what the file was made from.
    folders : sequence of Path
        Where inputs are looked for, besides the places near the product.
    depth : int
        How many steps back.

    Returns
    -------
    tree : dict
        As `starmill.execution.provenance.provenance_tree`, with ``file`` instead of a data ID; an input that is not
        found with its content has a ``state`` that says so.
    """
    checksum = file_checksum(path)
    tree: dict[str, Any] = {"id": checksum, "file": path.name, "checksum": checksum}
    made = next((found for found in (reader(path) for reader in readers) if found is not None), None)
    if made is None or depth == 0:
        return tree
    config = text_checksum(canonical(made["config"]))
    tree["made_by"] = {"task": made["task"], "config": config, "versions": dict(made["versions"])}
    tree["inputs"] = []
    for item in made["inputs"]:
        try:
            place = find_input(item, folders, path.absolute())
        except InputError:
            below: dict[str, Any] = {
                "file": item["file"],
                "checksum": item["checksum"],
                "state": "not found here",
            }
        else:
            below = loose_tree(place, readers, folders, depth - 1)
        tree["inputs"].append({"keyword": item["keyword"], **below})
    return tree
