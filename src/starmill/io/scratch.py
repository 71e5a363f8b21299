"""Images put aside on disk while a calibration is built, and read back band by band."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from starmill.errors import InputError

__all__ = ["ScratchFolder", "StoredImage"]


class StoredImage:
    """One image in a scratch file.

    Parameters
    ----------
    path : Path
    shape : (int, int)
    dtype : numpy dtype
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)

    def rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return the rows from ``y0`` to ``y1`` (exclusive); nothing else is read."""
        count = (y1 - y0) * self.shape[1]
        offset = y0 * self.shape[1] * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=offset).reshape(y1 - y0, self.shape[1])


class ScratchFolder:
    """A temporary folder for images, emptied when the block ends.

    Parameters
    ----------
    parent : path, optional
        Where the folder is made; the system's temporary folder when not given.
    """

    def __init__(self, parent: str | Path | None = None) -> None:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="starmill-", dir=parent)
        except OSError as error:
            raise InputError(f"no scratch folder can be made: {error.strerror}", path=parent) from error
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def keep(self, image: NDArray[Any]) -> StoredImage:
        """Put an image aside."""
        path = Path(self._folder.name) / f"{self._count:05d}.raw"
        self._count += 1
        try:
            np.ascontiguousarray(image).tofile(path)
        except OSError as error:
            raise InputError(f"the scratch file cannot be written: {error}", path=path) from error
        return StoredImage(path, (image.shape[0], image.shape[1]), image.dtype)
