"""Checksums of files."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__all__ = ["file_checksum", "remembered_checksum"]


def file_checksum(path: Path | str) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered_checksum(path: Path | str) -> str:
    """Return :func:`file_checksum`; a file whose size and time are those of the last call is not read again."""
    state = Path(path).stat()
    return _checksum(str(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _checksum(path: str, size: int, time: int) -> str:  # noqa: ARG001  size and time tell when to read again
    return file_checksum(path)
