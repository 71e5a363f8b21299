"""A raw frame: what came off the detector, before any correction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.camera import Camera, Detector
from starmill.errors import InputError

__all__ = ["RawFrame"]


@dataclass(frozen=True)
class RawFrame:
    """Pixels of one detector as read, with what is known about them.

    Parameters
    ----------
    array : (ny, nx) array, adu
        uint16 or float32; NaN means no data. Amplifiers lie at their raw boxes.
    detector : Detector
        Geometry, gain and noise of this very frame.
    info : ObservationInfo
        Exposure time, dark time, date, filter, ...
    wcs : astropy WCS or None
        In the frame of the assembled image, 0-based.
    header : mapping of str to object
        Cards of the raw file.
    camera : Camera or None
    path : str
        Where it came from, for messages.
    """

    array: NDArray[Any]
    detector: Detector
    info: Any
    wcs: Any = None
    header: Mapping[str, Any] = field(default_factory=dict)
    camera: Camera | None = None
    path: str = ""

    def __post_init__(self) -> None:
        if self.array.ndim != 2:
            raise InputError(
                f"a raw frame has two dimensions, this one has {self.array.ndim}", path=self.path or None
            )
        need = self.detector.raw_shape
        if self.array.shape[0] < need[0] or self.array.shape[1] < need[1]:
            raise InputError(
                f"the raw frame has shape {self.array.shape}, detector {self.detector.name} needs {need}",
                path=self.path or None,
            )
        if self.array.dtype not in (np.uint16, np.float32):
            kind = self.array.dtype
            raise InputError(f"raw pixels are uint16 or float32, not {kind}", path=self.path or None)
