"""Which mask planes a source touches, anywhere in its footprint and at its centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.kernels.photometry import footprint_bits
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, register

PLANE_FLAGS = {
    "EDGE": ("edge", "at the edge"),
    "NO_DATA": ("no_data", "without data"),
    "INTRP": ("interpolated", "interpolated"),
    "SAT": ("saturated", "saturated"),
    "CR": ("cr", "hit by a cosmic ray"),
    "BAD": ("bad", "bad on the detector"),
    "SUSPECT": ("suspect", "in the suspect range"),
}


@register
@dataclass(frozen=True)
class PixelFlags(Plugin):
    """Flags from the mask: pixels of the footprint, and the 3 x 3 pixels around the centroid.

    Parameters
    ----------
    extra_planes : tuple of str
        More mask planes to report, such as CLIPPED or STREAK; a plane that the mask does not have gives no flag.
    """

    name: ClassVar[str] = "pixel"
    order: ClassVar[float] = ORDER_FLUX

    extra_planes: tuple[str, ...] = ()

    def _planes(self) -> dict[str, tuple[str, str]]:
        return PLANE_FLAGS | {p: (p.lower(), f"in the plane {p}") for p in self.extra_planes}

    def columns(self) -> list[Column]:
        columns = [
            Column("pixel_flag", "bool", "", "the mask could not be read"),
            Column("pixel_flag_off_image", "bool", "", "the centroid is not inside the image"),
        ]
        for name, what in self._planes().values():
            columns += [
                Column(f"pixel_flag_{name}", "bool", "", f"a pixel of the footprint is {what}"),
                Column(f"pixel_flag_{name}_center", "bool", "", f"one of the 3 x 3 central pixels is {what}"),
                Column(f"pixel_flag_{name}_center_all", "bool", "", f"all 3 x 3 central pixels are {what}"),
            ]
        return columns

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        anywhere, centre, centre_all, off_image = footprint_bits(
            context.pixels.mask, context.spans, context.span_offsets, context.array_x, context.array_y
        )
        values: dict[str, Any] = {"pixel_flag": np.zeros(context.n, bool), "pixel_flag_off_image": off_image}
        for plane, (name, _) in self._planes().items():
            bit = context.mask_bits(plane)
            values[f"pixel_flag_{name}"] = (anywhere & bit) != 0
            values[f"pixel_flag_{name}_center"] = (centre & bit) != 0
            values[f"pixel_flag_{name}_center_all"] = (centre_all & bit) != 0
        values["pixel_flag_edge"] |= off_image  # a source without place on the image is at its edge
        return values
