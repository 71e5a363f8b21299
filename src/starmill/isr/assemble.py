"""From raw amplifier sections to one image in electrons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.camera import Detector
from starmill.errors import InputError
from starmill.kernels.isr import read_amplifier

__all__ = ["assemble_amplifiers"]


def assemble_amplifiers(
    raw: NDArray[Any],
    detector: Detector,
    row_levels: Sequence[NDArray[Any]],
    column_levels: Sequence[NDArray[Any] | None] | None = None,
    *,
    bits: tuple[int, int, int] = (2, 128, 256),
    flag: tuple[bool, bool] = (True, True),
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Subtract the overscan level, convert to electrons, flip and place every amplifier.

    ``image = gain (raw - level)`` (electron); raw values above the amplifier's saturation or
    suspect level, compared before anything is subtracted, are flagged.

    Parameters
    ----------
    raw : (ny, nx) array, adu
        uint16 or float32; NaN becomes 0 and is flagged as missing.
    detector : Detector
        Boxes, flips, gains and levels of the amplifiers.
    row_levels : list of (n_rows,) arrays, adu
        For each amplifier, what to subtract from each raw row of its imaging section.
    column_levels : list of (n_columns,) arrays, adu, optional
        The same for columns (parallel overscan).
    bits : (int, int, int)
        Mask bits for saturated, suspect and missing pixels.
    flag : (bool, bool)
        Whether to flag saturated and suspect pixels.

    Returns
    -------
    image : (height, width) float32 array, electron
        Zero, and missing in the mask, where no amplifier lies.
    mask : (height, width) int32 array
    """
    box = detector.box
    covered = sum(amplifier.box.area for amplifier in detector.amplifiers) == box.area
    image = np.empty(box.shape, np.float32) if covered else np.zeros(box.shape, np.float32)
    mask = np.empty(box.shape, np.int32) if covered else np.full(box.shape, bits[2], np.int32)
    raw = np.ascontiguousarray(raw)
    if raw.dtype not in (np.uint16, np.float32):
        raise InputError(f"raw pixels are uint16 or float32, not {raw.dtype}")
    for k, amplifier in enumerate(detector.amplifiers):
        data = amplifier.raw_data_box
        rows = np.ascontiguousarray(row_levels[k], np.float32)
        columns = np.zeros(data.width, np.float32)
        if column_levels is not None and column_levels[k] is not None:
            columns = np.ascontiguousarray(column_levels[k], np.float32)
        if rows.shape != (data.height,) or columns.shape != (data.width,):
            raise InputError(
                f"amplifier {amplifier.name}: {len(rows)} row and {len(columns)} column levels do not fit "
                f"{data.height} rows and {data.width} columns"
            )
        levels = (
            float(amplifier.saturation if flag[0] else np.inf),
            float(amplifier.suspect_level if flag[1] else np.inf),
        )
        read_amplifier(
            raw, (data.y0, data.y1, data.x0, data.x1), rows, columns, float(amplifier.gain), levels,
            bool(amplifier.flip_x), bool(amplifier.flip_y), image, mask, (amplifier.box.y0, amplifier.box.x0),
            tuple(int(bit) for bit in bits),
        )  # fmt: skip
    return image, mask
