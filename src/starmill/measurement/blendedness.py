"""How much of the light at a source belongs to its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.kernels.annuli import blended_sums
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, register
from starmill.measurement.shape import inverse_moments, usable_shapes


@register
@dataclass(frozen=True)
class Blendedness(Plugin):
    """One minus the Gaussian-weighted flux of the source alone over that of everything there.

    ``blendedness`` uses the absolute value of the pixels less the mean that noise gives it, which keeps it
    between 0 and 1 for faint sources; ``blendedness_raw`` the pixels as they are.

    Parameters
    ----------
    limit : float
        Radius over that of the one-sigma ellipse of the source.

    References
    ----------
    Bosch et al. 2018, PASJ 70, S5, section 4.9.11.
    """

    name: ClassVar[str] = "blendedness"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    limit: float = 3.0

    def columns(self) -> list[Column]:
        return [
            Column("blendedness", "f8", "", "share of neighbours in the weighted light, absolute values"),
            Column("blendedness_raw", "f8", "", "share of neighbours in the weighted light"),
            Column("blendedness_flag", "bool", "", "no blendedness"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        inverse = inverse_moments(usable_shapes(context)[0])
        image = np.ascontiguousarray(context.exposure.image)
        sums = blended_sums(context.pixels, image, context.array_x, context.array_y, inverse, self.limit)
        with np.errstate(all="ignore"):
            raw = 1 - sums[:, 0] / sums[:, 1]
            absolute = 1 - sums[:, 2] / sums[:, 3]
        raw[~(sums[:, 1] > 0)] = np.nan
        absolute[~(sums[:, 3] > 0)] = np.nan
        return {
            "blendedness": np.clip(absolute, 0, 1),
            "blendedness_raw": raw,
            "blendedness_flag": ~np.isfinite(absolute),
        }
