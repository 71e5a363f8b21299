"""Files appear complete under their final name, or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from starmill.errors import InputError

__all__ = ["TEMPORARY_MARK", "atomic_path", "atomic_write_bytes", "atomic_write_text"]

TEMPORARY_MARK = ".part-"
"""Every unfinished file has this in its name; what carries it may be deleted when no writer runs."""


@contextlib.contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = True, durable: bool = True) -> Iterator[Path]:
    """Give a temporary sibling to write to; on success sync it and rename it to the final name.

    Parameters
    ----------
    path : path
        Final name; missing folders are made.
    overwrite : bool
        False makes an existing file an error.
    durable : bool
        False leaves it to the caller to synchronise file and folder with the disk.

    Yields
    ------
    temporary : Path
        In the same folder, with the same suffixes. Removed when the block raises.

    Raises
    ------
    InputError
        When the file exists and must not be overwritten, or the folder cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError("the file exists already and must not be overwritten", path=path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder cannot be made: {error.strerror}", path=path.parent) from error
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}{TEMPORARY_MARK}{path.name}")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)  # noqa: PTH105  the atomic rename is the point
        if durable:
            _sync(path.parent)
    except OSError as error:
        if isinstance(error, InputError) or error.errno is None:
            raise
        raise InputError(f"the file cannot be written: {error.strerror}", path=path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def atomic_write_bytes(path: str | Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write bytes to a file that appears complete or not at all."""
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: str | Path, content: str, *, overwrite: bool = True) -> None:
    """Write UTF-8 text to a file that appears complete or not at all."""
    atomic_write_bytes(path, content.encode(), overwrite=overwrite)


def _sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there; the rename is journalled
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
