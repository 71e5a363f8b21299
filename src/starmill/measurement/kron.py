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
RING = np.array([0.8, 1.0, 1.25])  # of the Petrosian ratio, over its radius
SLOPE_STEPS = 4  # of the 96 between the growth radii: 14 per cent of the radius to each side


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
            Column(
                "kron_radius_err",
                "f4",
                "pixel",
                "error of the measured radius, also of one smaller than the PSF",
            ),
            Column("kron_psf_radius", "f4", "pixel", "Kron radius of the PSF, the smallest allowed"),
            Column("kron_flux_flag", "bool", "", "no Kron flux"),
            Column(
                "kron_flux_flag_bad_radius",
                "bool",
                "",
                "no radius could be measured, that of the PSF is used; no flux if no pixel has data",
            ),
            Column(
                "kron_flux_flag_small_radius",
                "bool",
                "",
                "the radius is that of the PSF, the source was smaller",
            ),
            Column("kron_flux_flag_bad_shape", "bool", "", "no shape, the ellipse is that of the PSF"),
            Column("kron_flux_flag_edge", "bool", "", "the ellipse leaves the image"),
            Column("kron_flux_flag_off_image", "bool", "", "the centroid is not inside the image"),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("kron_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        moments, bad_shape = usable_shapes(context)
        a, b, theta = ellipse_axes(moments)
        rho, noise = first_moment_radii(
            context.pixels, context.array_x, context.array_y, inverse_moments(moments), self.limit
        )
        size = np.sqrt(a * b)
        smallest = GAUSSIAN_KRON * context.psf_sigma
        with np.errstate(invalid="ignore"):
            no_data = _without_data(context, noise)
            bad_radius = ~((rho > 0) & (rho < self.limit)) | no_data
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
        outside = ~context.on_image
        lost = ~np.isfinite(flux) | outside | (no_data & ~(variance > 0))
        return {
            "kron_flux": np.where(lost, np.nan, flux),
            "kron_flux_err": np.where(lost, np.nan, error_from(variance)),
            "kron_radius": rho * size,
            "kron_radius_err": np.where(bad_radius, np.nan, error_from(noise) * size),
            "kron_psf_radius": smallest,
            "kron_flux_flag": lost | bad_radius | cut,
            "kron_flux_flag_bad_radius": bad_radius,
            "kron_flux_flag_small_radius": small,
            "kron_flux_flag_bad_shape": bad_shape,
            "kron_flux_flag_edge": cut,
            "kron_flux_flag_off_image": outside,
        }


def _without_data(context: MeasurementContext, noise: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether no pixel of a source has a variance, (n,); never when the exposure has none at all."""
    missing = noise <= 0
    return missing & bool(missing.any() and context.pixels.variance.any())


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
            Column("elliptical_flux_flag_no_data", "bool", "", "no pixel of the ellipse has a variance"),
            Column("elliptical_flux_flag_edge", "bool", "", "the ellipse leaves the image"),
            Column("elliptical_flux_flag_bad_shape", "bool", "", "no shape, the ellipse is that of the PSF"),
            Column("elliptical_flux_flag_off_image", "bool", "", "the centroid is not inside the image"),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("elliptical_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        moments, bad_shape = usable_shapes(context)
        a, b, theta = ellipse_axes(moments)
        flux, variance, area, cut = ellipse_sums(
            context.pixels, context.array_x, context.array_y, self.factor * a, self.factor * b, theta
        )
        outside = ~context.on_image
        lost = ~np.isfinite(flux) | outside
        error = error_from(variance)
        no_data = ~np.isfinite(error) & ~outside
        return {
            "elliptical_flux": np.where(lost, np.nan, flux),
            "elliptical_flux_err": np.where(lost, np.nan, error),
            "elliptical_flux_area": area,
            "elliptical_flux_flag": lost | cut | no_data,
            "elliptical_flux_flag_no_data": no_data,
            "elliptical_flux_flag_edge": cut,
            "elliptical_flux_flag_bad_shape": bad_shape,
            "elliptical_flux_flag_off_image": outside,
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

    Notes
    -----
    The radius solves F(r) = f K, F the flux in the circle and K the Kron flux. Noise moves it by
    (f dK - dF) / F'(r); the circle lies inside the Kron ellipse, so cov(F, K) = var(F) and

        var(r) = (f**2 var(K) + (1 - 2 f) var(F)) / F'(r)**2,

    of which only the first term is left for half of the light. The Kron ellipse is held fixed.
    """

    name: ClassVar[str] = "half_light"
    order: ClassVar[float] = ORDER_FLUX + 0.5
    needs_psf: ClassVar[bool] = True

    fraction: float = 0.5
    reach: float = 3.0

    def columns(self) -> list[Column]:
        return [
            Column("half_light_radius", "f4", "pixel", f"circle with {self.fraction:g} of kron_flux"),
            Column("half_light_radius_err", "f4", "pixel", "error of half_light_radius"),
            Column("half_light_flag", "bool", "", "no half-light radius"),
            Column("half_light_flag_no_flux", "bool", "", "kron_flux is missing or not positive"),
            Column("half_light_flag_not_reached", "bool", "", "no circle within reach holds that flux"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        target = self.fraction * np.nan_to_num(context["kron_flux"])
        reach = np.clip(np.nan_to_num(self.reach * context["kron_radius"]), 6.0, 100.0).astype(np.float64)
        radius, slope = radii_of_light(context.pixels, context.array_x, context.array_y, target, reach)
        lost = ~np.isfinite(radius)
        return {
            "half_light_radius": radius,
            "half_light_radius_err": self._errors(context, radius, slope),
            "half_light_flag": lost,
            "half_light_flag_no_flux": ~(target > 0),
            "half_light_flag_not_reached": lost & (target > 0),
        }

    def _errors(
        self, context: MeasurementContext, radius: NDArray[np.float64], slope: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        variance = (self.fraction * context["kron_flux_err"]) ** 2
        if self.fraction != 0.5:
            r = np.where(np.isfinite(radius), radius, 1.0)
            x, y = context.array_x, context.array_y
            variance += (1 - 2 * self.fraction) * ellipse_sums(context.pixels, x, y, r, r, 0 * r)[1]
        with np.errstate(all="ignore"):
            return np.where(slope > 0, error_from(variance) / slope, np.nan)


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

    Notes
    -----
    The brightness ratio is (F(1.25 r) - F(0.8 r)) / (k F(r)), k = 1.25**2 - 0.8**2, with F the flux within a radius,
    interpolated between measured ones. Its variance follows from those of the rings between them, and that of the
    radius from the slope of the ratio there.

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
            Column("petrosian_radius_err", "f4", "pixel", "error of petrosian_radius"),
            Column("petrosian_flux_flag", "bool", "", "no Petrosian flux"),
            Column(
                "petrosian_flux_flag_no_radius",
                "bool",
                "",
                "the profile does not fall to the ratio within the largest radius",
            ),
            Column("petrosian_flux_flag_no_data", "bool", "", "no pixel of the circle has a variance"),
            Column("petrosian_flux_flag_edge", "bool", "", "the circle leaves the image"),
            Column("petrosian_flux_flag_off_image", "bool", "", "the centroid is not inside the image"),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("petrosian_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        curve, noise = growth_curves(context)
        radius, radius_error = self.petrosian_radius(curve, noise)
        outside = ~context.on_image
        found = np.isfinite(radius) & ~outside
        r = np.where(found, self.factor * radius, 1.0)
        x, y = context.array_x, context.array_y
        flux, variance, _, cut = ellipse_sums(context.pixels, x, y, r, r, np.zeros(context.n))
        error = error_from(variance)
        no_data = found & ~np.isfinite(error)
        return {
            "petrosian_flux": np.where(found, flux, np.nan),
            "petrosian_flux_err": np.where(found, error, np.nan),
            "petrosian_radius": radius,
            "petrosian_radius_err": radius_error,
            "petrosian_flux_flag": ~found | cut | no_data,
            "petrosian_flux_flag_no_data": no_data,
            "petrosian_flux_flag_no_radius": ~np.isfinite(radius) & ~outside,
            "petrosian_flux_flag_edge": cut,
            "petrosian_flux_flag_off_image": outside,
        }

    def petrosian_radius(
        self, curve: NDArray[np.float64], noise: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the first radius where the brightness ratio falls below the limit, and its error, pixels.

        ``curve`` and ``noise`` are flux and variance within the radii of the growth curve.
        """
        fine = np.linspace(np.log(GROWTH_RADII[1]), np.log(GROWTH_RADII[-1] / 1.25), 96)
        inner, middle, outer = (_within(curve, fine + np.log(s)) for s in RING)
        scale = RING[2] ** 2 - RING[0] ** 2
        with np.errstate(all="ignore"):
            ratio = (outer - inner) / (scale * middle)
            below = ratio < self.ratio
        k, found = np.argmax(below, axis=1), below.any(axis=1)
        rows = np.arange(len(k))
        before, after = np.maximum(k - SLOPE_STEPS, 0), np.minimum(k + SLOPE_STEPS, len(fine) - 1)
        with np.errstate(all="ignore"):
            back = (self.ratio - ratio[rows, k]) / (ratio[rows, np.maximum(k - 1, 0)] - ratio[rows, k])
        radius = np.exp(fine[k] - np.clip(np.nan_to_num(back), 0, 1) * (fine[1] - fine[0]))
        with np.errstate(all="ignore"):
            slope = (ratio[rows, after] - ratio[rows, before]) / (np.exp(fine[after]) - np.exp(fine[before]))
            total = middle[rows, k]
            shares = [-1 / (scale * total), -ratio[rows, k] / total, 1 / (scale * total)]
            variance = _variance_of_sum(noise, [fine[k] + np.log(s) for s in RING], shares)
            error = error_from(variance) / np.abs(slope)
        return np.where(found, radius, np.nan), np.where(found & (slope < 0), error, np.nan)


def _nodes(log_r: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the growth radius below, its weight and that of the next: mean brightness interpolated in log r."""
    nodes = np.log(GROWTH_RADII)
    place = np.clip(np.searchsorted(nodes, log_r) - 1, 0, len(nodes) - 2)
    t = (log_r - nodes[place]) / (nodes[place + 1] - nodes[place])
    return place, (1 - t) * np.exp(2 * (log_r - nodes[place])), t * np.exp(2 * (log_r - nodes[place + 1]))


def _within(curve: NDArray[np.float64], log_r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all growth curves at radii, (n, n_radii)."""
    place, below, above = _nodes(log_r)
    return curve[:, place] * below + curve[:, place + 1] * above


def _variance_of_sum(
    noise: NDArray[np.float64], log_r: list[NDArray[np.float64]], shares: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the variance of sums of shares of the flux within radii, one of each for every curve, (n,).

    A ring between two growth radii, which has noise of its own, is in the flux within all radii beyond it.
    """
    weights = np.zeros_like(noise)
    rows = np.arange(len(noise))
    for radius, share in zip(log_r, shares, strict=True):
        place, below, above = _nodes(radius)
        weights[rows, place] += share * below
        weights[rows, place + 1] += share * above
    beyond = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    rings = np.diff(noise, axis=1, prepend=0.0)
    return np.asarray(
        np.where(beyond == 0, 0.0, beyond**2 * rings).sum(1)
    )  # NaN beyond the image does not count
