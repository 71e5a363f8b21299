"""Flux of a point source: the amplitude of the PSF image that fits the pixels best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.kernels import photometry as kernel
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, error_from, register


def psf_sums(context: MeasurementContext, bad_planes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of PSF times image of all sources, computed once for all plugins that need them.

    The sums for the concentration are made in the same pass, when they are wanted, and kept in the context.

    Returns
    -------
    sums : (n, 8) array
        See :func:`starmill.kernels.photometry.stamp_fits`.
    flags : (n,) int32 array
    """
    key = f"psf_sums {' '.join(bad_planes)}"
    if key not in context.cache:
        sums, flags = np.zeros((context.n, 8)), np.zeros(context.n, np.int32)
        bits = context.set_bits(*bad_planes)
        concentration = context.will_measure("star_probability")
        compact = np.full((context.n, 5), np.nan)
        sigma = context.psf_sigma
        for rows, images, x0, y0 in context.psf_images():
            sums[rows], flags[rows] = kernel.stamp_fits(context.pixels, images, x0, y0, bits, rows.start)
            if concentration:
                compact[rows] = kernel.concentration_sums(
                    context.pixels, images, x0, y0, sigma[rows], rows.start
                )
        context.cache["concentration_sums"] = compact
        sums[~context.on_image] = 0
        flags[~context.on_image] |= kernel.FLAG_NO_GOOD_PIXELS | kernel.FLAG_EDGE
        context.cache[key] = sums, flags
    return context.cache[key]


@register
@dataclass(frozen=True)
class PsfFlux(Plugin):
    """PSF flux at the centroid, all pixels with equal weight: f = sum(P I) / sum(P**2).

    Equal weights make the flux of a bright star insensitive to errors of the PSF model; they lose little
    where the sky dominates the noise. The position is not fitted.

    Parameters
    ----------
    bad_planes : tuple of str
        Pixels with these mask planes are left out.
    """

    name: ClassVar[str] = "psf_flux"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    bad_planes: tuple[str, ...] = ("NO_DATA",)

    def columns(self) -> list[Column]:
        return [
            Column("psf_flux", "f8", "electron", "flux of the PSF fitted with equal weights"),
            Column("psf_flux_err", "f8", "electron", "error of psf_flux"),
            Column("psf_flux_area", "f4", "pixel2", "effective area of the PSF"),
            Column("psf_flux_chi2", "f4", "", "sum of squared residuals over variance"),
            Column("psf_flux_n_pixels", "i4", "", "pixels in the fit"),
            Column("psf_flux_flag", "bool", "", "no PSF flux"),
            Column("psf_flux_flag_no_good_pixels", "bool", "", "no usable pixel under the PSF"),
            Column("psf_flux_flag_edge", "bool", "", "part of the PSF image lies outside the exposure"),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("psf_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        sums, flags = psf_sums(context, self.bad_planes)
        with np.errstate(all="ignore"):
            flux = sums[:, 2] / sums[:, 1]
            area = sums[:, 0] ** 2 / sums[:, 1]
            variance = sums[:, 3] / sums[:, 1] ** 2
            chi2 = sums[:, 6] - 2 * flux * sums[:, 5] + flux**2 * sums[:, 4]
        failed = ((flags & kernel.FLAG_NO_GOOD_PIXELS) != 0) | ~np.isfinite(flux)
        return {
            "psf_flux": np.where(failed, np.nan, flux),
            "psf_flux_err": np.where(failed, np.nan, error_from(variance)),
            "psf_flux_area": area,
            "psf_flux_chi2": chi2,
            "psf_flux_n_pixels": sums[:, 7].astype(np.int32),
            "psf_flux_flag": failed,
            "psf_flux_flag_no_good_pixels": (flags & kernel.FLAG_NO_GOOD_PIXELS) != 0,
            "psf_flux_flag_edge": (flags & kernel.FLAG_EDGE) != 0,
        }


@register
@dataclass(frozen=True)
class WeightedPsfFlux(Plugin):
    """PSF flux with inverse-variance weights: f = sum(P I / V) / sum(P**2 / V).

    The smallest error for a perfect PSF and a variance that does not follow the noise of the pixel itself;
    with a variance taken from the image, faint sources come out slightly too faint.

    Parameters
    ----------
    bad_planes : tuple of str
        Pixels with these mask planes are left out.
    """

    name: ClassVar[str] = "weighted_psf_flux"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    bad_planes: tuple[str, ...] = ("NO_DATA",)

    def columns(self) -> list[Column]:
        return [
            Column(
                "weighted_psf_flux", "f8", "electron", "flux of the PSF fitted with inverse-variance weights"
            ),
            Column("weighted_psf_flux_err", "f8", "electron", "error of weighted_psf_flux"),
            Column("weighted_psf_flux_chi2", "f4", "", "chi square of the fit"),
            Column("weighted_psf_flux_flag", "bool", "", "no weighted PSF flux"),
            Column("weighted_psf_flux_flag_no_good_pixels", "bool", "", "no usable pixel under the PSF"),
            Column(
                "weighted_psf_flux_flag_edge", "bool", "", "part of the PSF image lies outside the exposure"
            ),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("weighted_psf_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        sums, flags = psf_sums(context, self.bad_planes)
        with np.errstate(all="ignore"):
            flux = sums[:, 5] / sums[:, 4]
            variance = 1 / sums[:, 4]
            chi2 = sums[:, 6] - flux * sums[:, 5]
        failed = ((flags & kernel.FLAG_NO_GOOD_PIXELS) != 0) | ~np.isfinite(flux)
        return {
            "weighted_psf_flux": np.where(failed, np.nan, flux),
            "weighted_psf_flux_err": np.where(failed, np.nan, error_from(np.where(failed, np.nan, variance))),
            "weighted_psf_flux_chi2": chi2,
            "weighted_psf_flux_flag": failed,
            "weighted_psf_flux_flag_no_good_pixels": failed,
            "weighted_psf_flux_flag_edge": (flags & kernel.FLAG_EDGE) != 0,
        }
