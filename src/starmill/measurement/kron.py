"""Fluxes in apertures that follow the source: Kron, elliptical, Petrosian; half-light radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Column
from starmill.datamodel.ellipse import ellipse_axes
from starmill.kernels.annuli import first_moment_radii
from starmill.kernels.overlap import circular_apertures, ellipse_sums
from starmill.kernels.radial_growth import radii_of_light
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, error_from, register
from starmill.measurement.shape import inverse_moments, usable_shapes

GAUSSIAN_KRON = 1.2533141373155001  # sqrt(pi / 2): first-moment radius of a round Gaussian over its sigma
GROWTH_RADII = 1.2 ** np.arange(0.0, 19.5)  # 1 to 32 pixels


@register
@dataclass(frozen=True)
class KronFlux(Plugin):
    """Flux in an ellipse of a multiple of the first-moment radius.

    Parameters
    ----------
    factor : float
        Semi-axes over the Kron radius.
    limit : float
        The radius is measured inside this multiple of the one-sigma ellipse of the source.
    """

    name: ClassVar[str] = "kron_flux"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    factor: float = 2.5
    limit: float = 6.0

    def columns(self) -> list[Column]:
        return [
            Column("kron_flux", "f8", "electron", f"flux within {self.factor:g} Kron radii"),
            Column("kron_flux_err", "f8", "electron", "error of kron_flux"),
            Column("kron_radius", "f4", "pixel", "Kron radius, geometric mean of the axes"),
            Column("kron_psf_radius", "f4", "pixel", "Kron radius of the PSF, the smallest allowed"),
            Column("kron_flux_flag", "bool", "", "no Kron flux"),
            Column(
                "kron_flux_flag_bad_radius",
                "bool",
                "",
                "no radius could be measured, that of the PSF is used",
            ),
            Column(
                "kron_flux_flag_small_radius",
                "bool",
                "",
                "the radius is that of the PSF, the source was smaller",
            ),
            Column("kron_flux_flag_bad_shape", "bool", "", "no shape, the ellipse is that of the PSF"),
            Column("kron_flux_flag_edge", "bool", "", "the ellipse leaves the image"),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("kron_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        moments, bad_shape = usable_shapes(context)
        a, b, theta = ellipse_axes(moments)
        rho = first_moment_radii(
            context.pixels, context.array_x, context.array_y, inverse_moments(moments), self.limit
        )
        size = np.sqrt(a * b)
        smallest = GAUSSIAN_KRON * context.psf_sigma
        with np.errstate(invalid="ignore"):
            bad_radius = ~((rho > 0) & (rho < self.limit))
            rho = np.where(bad_radius, smallest / size, rho)
            small = ~bad_radius & (rho * size < smallest)
            rho = np.where(small, smallest / size, rho)
        flux, variance, _, cut = ellipse_sums(
            context.pixels,
            context.array_x,
            context.array_y,
            self.factor * rho * a,
            self.factor * rho * b,
            theta,
        )
        lost = ~np.isfinite(flux) | ~context.on_image
        return {
            "kron_flux": np.where(lost, np.nan, flux),
            "kron_flux_err": np.where(lost, np.nan, error_from(variance)),
            "kron_radius": rho * size,
            "kron_psf_radius": smallest,
            "kron_flux_flag": lost | bad_radius | cut,
            "kron_flux_flag_bad_radius": bad_radius,
            "kron_flux_flag_small_radius": small,
            "kron_flux_flag_bad_shape": bad_shape,
            "kron_flux_flag_edge": cut,
        }


@register
@dataclass(frozen=True)
class EllipticalApertureFlux(Plugin):
    """Flux in an ellipse of a fixed multiple of the second moments.

    Parameters
    ----------
    factor : float
        Semi-axes over those of the one-sigma ellipse.
    """

    name: ClassVar[str] = "elliptical_flux"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    factor: float = 3.0

    def columns(self) -> list[Column]:
        return [
            Column("elliptical_flux", "f8", "electron", f"flux within {self.factor:g} sigma of the shape"),
            Column("elliptical_flux_err", "f8", "electron", "error of elliptical_flux"),
            Column("elliptical_flux_area", "f4", "pixel2", "area of the ellipse inside the image"),
            Column("elliptical_flux_flag", "bool", "", "no elliptical flux"),
            Column("elliptical_flux_flag_edge", "bool", "", "the ellipse leaves the image"),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("elliptical_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        a, b, theta = ellipse_axes(usable_shapes(context)[0])
        flux, variance, area, cut = ellipse_sums(
            context.pixels, context.array_x, context.array_y, self.factor * a, self.factor * b, theta
        )
        lost = ~np.isfinite(flux) | ~context.on_image
        return {
            "elliptical_flux": np.where(lost, np.nan, flux),
            "elliptical_flux_err": np.where(lost, np.nan, error_from(variance)),
            "elliptical_flux_area": area,
            "elliptical_flux_flag": lost | cut,
            "elliptical_flux_flag_edge": cut,
        }


def growth_curves(context: MeasurementContext) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return fluxes and variances within :data:`GROWTH_RADII` of every source, measured once."""
    if "growth" not in context.cache:
        context.cache["growth"] = circular_apertures(
            context.pixels, context.array_x, context.array_y, GROWTH_RADII
        )
    return context.cache["growth"]


@register
@dataclass(frozen=True)
class HalfLightRadius(Plugin):
    """Radius of the circle that holds a fraction of the Kron flux.

    Parameters
    ----------
    fraction : float
    reach : float
        The radius is sought out to this multiple of the Kron radius.
    """

    name: ClassVar[str] = "half_light"
    order: ClassVar[float] = ORDER_FLUX + 0.5
    needs_psf: ClassVar[bool] = True

    fraction: float = 0.5
    reach: float = 3.0

    def columns(self) -> list[Column]:
        return [
            Column("half_light_radius", "f4", "pixel", f"circle with {self.fraction:g} of kron_flux"),
            Column("half_light_flag", "bool", "", "no half-light radius"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        target = self.fraction * np.nan_to_num(context["kron_flux"])
        reach = np.clip(np.nan_to_num(self.reach * context["kron_radius"]), 6.0, 100.0).astype(np.float64)
        radius = radii_of_light(context.pixels, context.array_x, context.array_y, target, reach)
        return {"half_light_radius": radius, "half_light_flag": ~np.isfinite(radius)}


@register
@dataclass(frozen=True)
class PetrosianFlux(Plugin):
    """Flux within a multiple of the radius where the surface brightness falls to a fraction of the mean inside.

    Parameters
    ----------
    ratio : float
        Surface brightness in the ring 0.8 r to 1.25 r over the mean within r.
    factor : float
        Radius of the aperture over the Petrosian radius.

    References
    ----------
    Blanton et al. 2001, AJ 121, 2358, section 2.2.
    """

    name: ClassVar[str] = "petrosian_flux"
    order: ClassVar[float] = ORDER_FLUX + 0.5
    needs_psf: ClassVar[bool] = True

    ratio: float = 0.2
    factor: float = 2.0

    def columns(self) -> list[Column]:
        return [
            Column("petrosian_flux", "f8", "electron", f"flux within {self.factor:g} Petrosian radii"),
            Column("petrosian_flux_err", "f8", "electron", "error of petrosian_flux, radius held fixed"),
            Column("petrosian_radius", "f4", "pixel", "Petrosian radius"),
            Column("petrosian_flux_flag", "bool", "", "no Petrosian flux"),
            Column(
                "petrosian_flux_flag_no_radius",
                "bool",
                "",
                "the profile does not fall to the ratio in the image",
            ),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("petrosian_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        curve, _ = growth_curves(context)
        radius = self.petrosian_radius(curve)
        found = np.isfinite(radius) & context.on_image
        r = np.where(found, self.factor * radius, 1.0)
        x, y = context.array_x, context.array_y
        flux, variance, _, cut = ellipse_sums(context.pixels, x, y, r, r, np.zeros(context.n))
        return {
            "petrosian_flux": np.where(found, flux, np.nan),
            "petrosian_flux_err": np.where(found, error_from(variance), np.nan),
            "petrosian_radius": radius,
            "petrosian_flux_flag": ~found | cut,
            "petrosian_flux_flag_no_radius": ~np.isfinite(radius),
        }

    def petrosian_radius(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the first radius where the brightness ratio falls below the limit, pixels."""
        log_r = np.log(GROWTH_RADII)
        fine = np.linspace(log_r[1], log_r[-1] - np.log(1.25), 96)
        area = np.pi * GROWTH_RADII**2
        mean = curve / area

        def flux_at(r: NDArray[np.float64]) -> NDArray[np.float64]:
            """Return the flux within radii, the mean brightness interpolated in log r."""
            place = np.clip(np.searchsorted(log_r, r) - 1, 0, len(log_r) - 2)
            t = (r - log_r[place]) / (log_r[place + 1] - log_r[place])
            value = mean[:, place] * (1 - t) + mean[:, place + 1] * t
            return value * (np.pi * np.exp(2 * r))

        ring_area = np.pi * (1.25**2 - 0.8**2) * np.exp(2 * fine)
        with np.errstate(all="ignore"):
            ring = (flux_at(fine + np.log(1.25)) - flux_at(fine + np.log(0.8))) / ring_area
            ratio = ring / (flux_at(fine) / (np.pi * np.exp(2 * fine)))
            below = ratio < self.ratio
        k = np.argmax(below, axis=1)
        return np.where(below.any(axis=1), np.exp(fine[k]), np.nan)
