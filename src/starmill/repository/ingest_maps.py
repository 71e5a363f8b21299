"""Ingest of maps and cubes: every map, and every channel of a cube, becomes a data set of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from starmill.errors import InputError
from starmill.repository.collections import RUN, collection_row
from starmill.repository.store import copy_file

if TYPE_CHECKING:
    from starmill.repository.repository import Repository


def ingest_maps(repository: Repository, paths: Iterable[str | Path], *, run: str = "maps") -> int:
    """Bring maps into a repository; the file name without its suffix becomes the name of the map.

    Parameters
    ----------
    repository : Repository
        Open for writing.
    paths : iterable of path
        FITS files with a map, or with a cube, whose channels are numbered from 0.
    run : str
        Collection that takes them.

    Returns
    -------
    n : int
        Number of maps, new or there already with the same content.
    """
    count = 0
    for given in paths:
        path = Path(given)
        name = map_name(path)
        if _is_cube(path):
            from starmill.io.cubes import open_cube

            cube = open_cube(path)
            for channel in range(len(cube)):
                repository.put(cube[channel], "sky_map", {"map": name, "channel": channel}, run=run)
            count += len(cube)
        else:
            _take_file(repository, path, name, run)
            count += 1
    return count


def map_name(path: Path) -> str:
    """Return the name of a map from its file name: letters, digits, dot, plus and minus."""
    stem = re.sub(r"\.(fits|fit|fts)(\.(gz|bz2|fz))?$", "", path.name, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9.+-]+", "-", stem).strip("-.")[:60]
    if not name:
        raise InputError("the file name holds no letter or digit to call the map by", path=path)
    return name


def _is_cube(path: Path) -> bool:
    from starmill.io.fits import open_fits

    with open_fits(path) as hdus:
        shapes = [hdu.shape for hdu in hdus if hdu.is_image and len(hdu.shape) >= 2]
    if not shapes:
        raise InputError("the file holds no map", path=path)
    return len([length for length in shapes[0] if length > 1]) > 2


def _take_file(repository: Repository, path: Path, name: str, run: str) -> None:
    """Copy the file of one map as it is, with whatever noise map it holds, once it could be read."""
    from starmill.io.cubes import read_sky_map

    read_sky_map(path)
    kind = repository.dataset_type("sky_map")
    extension = "".join(path.suffixes[-2:]) if path.suffix in {".gz", ".bz2", ".fz"} else path.suffix
    staged = repository.new_staged_path(extension)
    try:
        checksum = copy_file(path, staged)
        row = repository.dataset_row(
            kind, run, {"map": name, "channel": 0}, checksum, path.stat().st_size, extension
        )
        token = repository.store.deliver(staged, repository.journal.writer)
        repository.commit(
            {"collections": [collection_row(run, RUN)], "datasets": [row]}, [(token, row["path"])]
        )
    finally:
        staged.unlink(missing_ok=True)
