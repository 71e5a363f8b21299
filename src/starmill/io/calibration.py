"""Master frames in files: an exposure whose META tells kind, camera, filter and validity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from starmill.datamodel.calibration import MasterFrame
from starmill.datamodel.exposure import Exposure, ObservationInfo
from starmill.errors import InputError
from starmill.io.exposure_file import read_exposure, write_exposure

__all__ = ["read_master", "write_master"]


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


def read_master(path: str | Path, kind: str | None = None) -> MasterFrame:
    """Read a master frame.

    Parameters
    ----------
    path : path
    kind : str, optional
        Wanted kind: bias, dark, flat or fringe.

    Raises
    ------
    InputError
        When the file is no master frame, or one of another kind.
    """
    exposure = read_exposure(path)
    found = exposure.info.kind.removeprefix("master ")
    if exposure.info.kind != f"master {found}":
        raise InputError("the file is not a master frame: META says no kind of one", path=path)
    if kind is not None and found != kind:
        raise InputError(f"a master {kind} is needed, the file holds a master {found}", path=path)
    extra = exposure.info.extra
    return MasterFrame(
        found,
        exposure.masked_image,
        camera=exposure.info.instrument,
        detector=exposure.info.detector,
        filter=exposure.info.filter,
        n_frames=int(extra.get("n_frames", 0)),
        valid_from=float(extra.get("valid_from", -np.inf)),
        valid_to=float(extra.get("valid_to", np.inf)),
        properties=dict(extra.get("properties", {})),
    )
