"""Master bias, dark and flat, with the variance, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.calibration import BAND_ROWS, MasterFrame
from starmill.datamodel.geometry import Box
from starmill.errors import InputError
from starmill.kernels.isr import apply_masters as _apply

__all__ = ["apply_masters"]

_NO_IMAGE = np.empty((0, 0), np.float32)
_NO_MASK = np.empty((0, 0), np.int32)


def apply_masters(
    image: NDArray[Any],
    mask: NDArray[Any],
    variance: NDArray[Any],
    regions: Sequence[tuple[Box, float | None]],
    *,
    bias: MasterFrame | None = None,
    dark: MasterFrame | None = None,
    flat: MasterFrame | None = None,
    dark_time: float = 0.0,
    minimum_flat: float = 0.01,
    low_flat_bit: int = 256,
    mask_bits: int = -1,
    uncertainty: bool = True,
) -> None:
    """Subtract bias and dark, compute the variance and divide by the flat, in place.

    With counts ``c`` (electron), bias ``b``, dark rate ``d``, time ``t`` and flat ``f``::

        s        = c - b
        variance = [max(s, 0) + read_noise^2 + (1 - 2 t / T) var(b) + t^2 var(d)] / f^2 + (image / f)^2 var(f)
        image    = (s - t d) / f

    so the shot noise of the dark current counts, although its mean is subtracted. T is the dark time of
    the frames the dark was made of: their bias was subtracted too, with the covariance ``-var(b) / T``.
    It stands in ``dark.properties["dark_time"]``; without it the term is left out.

    Parameters
    ----------
    image, mask, variance : (ny, nx) arrays, float32 electron, int32, float32 electron**2
        Changed. Without variance pass an array of shape (0, 0).
    regions : list of (Box, float or None)
        Amplifier boxes and read noise (electron). None: ``variance`` is taken as it stands
        instead of being computed.
    bias, dark, flat : MasterFrame, optional
        electron, electron/s, dimensionless.
    dark_time : float, second
    minimum_flat : float
        Pixels with a smaller flat, and those where it is no number, get ``low_flat_bit``. Below
        0.01 the division is left out.
    low_flat_bit : int
    mask_bits : int
        Which bits of the masters' masks are passed on.
    uncertainty : bool
        Whether the variances of the masters are propagated.

    References
    ----------
    Janesick 2001, *Scientific Charge-Coupled Devices*, chapter 2.
    """
    frames = [bias, dark, flat]
    for frame in frames:
        if frame is not None and frame.shape != image.shape:
            raise InputError(f"the master {frame.kind} has shape {frame.shape}, the image {image.shape}")
    used = [(frame, frame is not None and frame.has_mask,
             frame is not None and uncertainty and frame.has_variance) for frame in frames]  # fmt: skip
    built_of = dark.properties.get("dark_time", np.inf) if dark is not None else np.inf
    settings = (float(dark_time), float(minimum_flat), 1.0 - 2.0 * float(dark_time) / built_of)
    bits = (int(low_flat_bit), int(mask_bits))
    for y0 in range(0, image.shape[0], BAND_ROWS):
        y1 = min(y0 + BAND_ROWS, image.shape[0])
        parts = [(None if frame is None else frame.rows(y0, y1), *rest) for frame, *rest in used]
        masters = (
            tuple(_NO_IMAGE if part is None else _contiguous(part.image) for part, _, _ in parts),
            tuple(np.ascontiguousarray(part.mask.array, np.int32) if flagged else _NO_MASK
                  for part, flagged, _ in parts),
            tuple(_contiguous(part.variance) if spread else _NO_IMAGE for part, _, spread in parts),
        )  # fmt: skip
        band = image[y0:y1], mask[y0:y1], variance[y0:y1]
        for box, read_noise in regions:
            limits = (max(box.y0 - y0, 0), min(box.y1, y1) - y0, box.x0, box.x1)
            if limits[0] < limits[1]:
                noise = -1.0 if read_noise is None else float(read_noise)
                _apply(*band, limits, noise, *masters, settings, bits)


def _contiguous(array: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.ascontiguousarray(array, np.float32)
