"""Fluxes that do not see a constant background: Gaussian and top-hat weights with a negative ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.kernels.overlap import circular_apertures
from starmill.kernels.photometry import compensated_gaussians, disk_bits
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, error_from, register


def _flux_columns(name: str, what: str) -> list[Column]:
    return [
        Column(name, "f8", "electron", what),
        Column(f"{name}_err", "f8", "electron", f"error of {name}"),
        Column(f"{name}_flag", "bool", "", f"no {name}"),
        Column(f"{name}_flag_bounds", "bool", "", "the weight leaves the image"),
    ]


def _label(size: float) -> str:
    return f"{size:g}".replace(".", "_")


@register
@dataclass(frozen=True)
class CompensatedGaussianFlux(Plugin):
    """Difference of two Gaussian-weighted sums, normalised for a source of the inner width.

    Parameters
    ----------
    widths : tuple of float
        Sigma of the inner Gaussians, pixels.
    outer_scale : float
        Sigma of the outer Gaussian over that of the inner one.
    """

    name: ClassVar[str] = "compensated_gaussian_flux"
    order: ClassVar[float] = ORDER_FLUX

    widths: tuple[float, ...] = (3.0, 5.0)
    outer_scale: float = 2.0

    def prefixes(self) -> list[str]:
        """Return the names of the fluxes."""
        return [f"{self.name}_{_label(w)}" for w in self.widths]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return tuple(self.prefixes())

    def columns(self) -> list[Column]:
        columns = []
        for width, name in zip(self.widths, self.prefixes(), strict=True):
            columns += _flux_columns(name, f"compensated Gaussian flux, sigma {width:g} pixels")
            columns.append(Column(f"{name}_mask_bits", "i4", "", "OR of the mask under the weight"))
        return columns

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for width, name in zip(self.widths, self.prefixes(), strict=True):
            half = int(np.ceil(4 * width * self.outer_scale))
            flux, variance, bits = compensated_gaussians(
                context.pixels, context.array_x, context.array_y, float(width), self.outer_scale, half
            )
            bad = ~np.isfinite(flux)
            values |= {
                name: flux,
                f"{name}_err": error_from(variance),
                f"{name}_flag": bad,
                f"{name}_flag_bounds": bad,
                f"{name}_mask_bits": bits,
            }
        return values


@register
@dataclass(frozen=True)
class CompensatedTophatFlux(Plugin):
    """Circular aperture less the mean brightness of the ring around it times its area.

    Parameters
    ----------
    radii : tuple of float
        Pixels.
    inner_scale, outer_scale : float
        Radii of the ring over that of the aperture.
    """

    name: ClassVar[str] = "compensated_tophat_flux"
    order: ClassVar[float] = ORDER_FLUX

    radii: tuple[float, ...] = (12.0,)
    inner_scale: float = 1.0
    outer_scale: float = 1.7

    def prefixes(self) -> list[str]:
        """Return the names of the fluxes."""
        return [f"{self.name}_{_label(r)}" for r in self.radii]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return tuple(self.prefixes())

    def columns(self) -> list[Column]:
        columns = []
        for radius, name in zip(self.radii, self.prefixes(), strict=True):
            columns += _flux_columns(name, f"compensated top-hat flux, radius {radius:g} pixels")
            columns.append(Column(f"{name}_mask_bits", "i4", "", "OR of the mask under aperture and ring"))
        return columns

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        values: dict[str, Any] = {}
        x, y = context.array_x, context.array_y
        share = 1 / (self.outer_scale**2 - self.inner_scale**2)
        for radius, name in zip(self.radii, self.prefixes(), strict=True):
            radii, place = np.unique(
                radius * np.array([1.0, self.inner_scale, self.outer_scale]), return_inverse=True
            )
            f, v = circular_apertures(context.pixels, x, y, radii)
            (f0, f1, f2), (v0, v1, v2) = f[:, place].T, v[:, place].T
            flux = f0 - share * (f2 - f1)
            bad = ~np.isfinite(flux)
            values |= {
                name: flux,
                f"{name}_err": error_from(v0 + share**2 * (v2 - v1)),
                f"{name}_flag": bad,
                f"{name}_flag_bounds": bad,
                f"{name}_mask_bits": disk_bits(context.exposure.mask.array, x, y, float(radii[-1])),
            }
        return values
