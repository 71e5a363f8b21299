"""Master frames in files: an exposure whose META tells kind, camera, filter and validity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.calibration import MasterFrame
from starmill.datamodel.exposure import Exposure, ObservationInfo
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.datamodel.masked_image import MaskedImage
from starmill.errors import InputError
from starmill.io.exposure_file import read_exposure, read_exposure_component, write_exposure

__all__ = ["StoredPixels", "read_master", "write_master"]


def write_master(
    master: MasterFrame,
    path: str | Path,
    *,
    compress: bool = False,
    provenance: Any = None,
    durable: bool = True,
) -> None:
    """Write a master frame; the arguments are those of :func:`starmill.io.exposure_file.write_exposure`."""
    validity = {
        key: value
        for key, value in (("valid_from", master.valid_from), ("valid_to", master.valid_to))
        if np.isfinite(value)
    }
    info = ObservationInfo(
        instrument=master.camera,
        detector=master.detector,
        filter=master.filter,
        kind=f"master {master.kind}",
        extra={"n_frames": master.n_frames, "properties": dict(master.properties), **validity},
    )
    exposure = Exposure(master.pixels, info=info)
    write_exposure(exposure, path, compress=compress, provenance=provenance, durable=durable)


class StoredPixels:
    """Pixels of an exposure that stay in its file: each part is read when it is asked for.

    Parameters
    ----------
    path : path
        A file of :func:`starmill.io.exposure_file.write_exposure`. It must not change while this is in use.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.box: Box = read_exposure_component(path, "box")
        corner = read_exposure(path, box=Box(self.box.x0, self.box.y0, 1, 1))
        self.unit = corner.unit
        self.info = corner.info

    @property
    def origin(self) -> tuple[int, int]:
        """First pixel, parent frame."""
        return self.box.x0, self.box.y0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.box.shape

    def __getitem__(self, box: Box) -> MaskedImage:
        return read_exposure(self.path, box=box).masked_image

    @property
    def image(self) -> NDArray[np.float32]:
        """All pixels, read anew."""
        return self[self.box].image

    @property
    def variance(self) -> NDArray[np.float32]:
        """All variances, read anew."""
        return self[self.box].variance

    @property
    def mask(self) -> Mask:
        """All mask bits, read anew."""
        return self[self.box].mask


def read_master(path: str | Path, kind: str | None = None, *, whole: bool = True) -> MasterFrame:
    """Read a master frame.

    Parameters
    ----------
    path : path
    kind : str, optional
        Wanted kind: bias, dark, flat or fringe.
    whole : bool
        Read all pixels now; else each band of rows when it is used, which needs less memory.

    Raises
    ------
    InputError
        When the file is no master frame, or one of another kind.
    """
    exposure = read_exposure(path) if whole else None
    pixels: Any = StoredPixels(path) if exposure is None else exposure.masked_image
    info = pixels.info if exposure is None else exposure.info
    found = info.kind.removeprefix("master ")
    if info.kind != f"master {found}":
        raise InputError("the file is not a master frame: META says no kind of one", path=path)
    if kind is not None and found != kind:
        raise InputError(f"a master {kind} is needed, the file holds a master {found}", path=path)
    extra = info.extra
    return MasterFrame(
        found,
        pixels,
        camera=info.instrument,
        detector=info.detector,
        filter=info.filter,
        n_frames=int(extra.get("n_frames", 0)),
        valid_from=float(extra.get("valid_from", -np.inf)),
        valid_to=float(extra.get("valid_to", np.inf)),
        properties=dict(extra.get("properties", {})),
    )
