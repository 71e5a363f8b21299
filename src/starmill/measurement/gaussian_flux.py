"""Flux under the Gaussian that matches the moments of a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.kernels.moments import gaussian_sums
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, error_from, register


@register
@dataclass(frozen=True)
class GaussianFlux(Plugin):
    """Twice the sum of the image under the Gaussian of the shape slot, which is its flux if it is one.

    Biased for other profiles; the aperture correction takes care of stars. The error propagates the variance
    image with the shape held fixed.
    """

    name: ClassVar[str] = "gaussian_flux"
    order: ClassVar[float] = ORDER_FLUX

    def columns(self) -> list[Column]:
        return [
            Column("gaussian_flux", "f8", "electron", "flux under the Gaussian of the shape slot"),
            Column("gaussian_flux_err", "f8", "electron", "error of gaussian_flux"),
            Column("gaussian_flux_flag", "bool", "", "no Gaussian flux"),
            Column("gaussian_flux_flag_bad_shape", "bool", "", "the shape slot is flagged or missing"),
            Column("gaussian_flux_flag_off_image", "bool", "", "the centroid is not inside the image"),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("gaussian_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        shape = np.ascontiguousarray(context.shape)
        flux, variance = gaussian_sums(context.pixels, context.array_x, context.array_y, shape)
        bad_shape = context["slot_shape_flag"] if "slot_shape_flag" in context else np.zeros(context.n, bool)
        return {
            "gaussian_flux": flux,
            "gaussian_flux_err": error_from(variance),
            "gaussian_flux_flag": ~np.isfinite(flux) | bad_shape,
            "gaussian_flux_flag_bad_shape": bad_shape | ~np.isfinite(shape).all(1),
            "gaussian_flux_flag_off_image": ~context.on_image,
        }
