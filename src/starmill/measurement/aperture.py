"""Fluxes in circles: exact pixel overlap, or the band-limited form for small radii."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from starmill.datamodel.catalog import Column
from starmill.datamodel.psf import shift_images
from starmill.errors import ConfigError
from starmill.kernels.overlap import circular_apertures
from starmill.kernels.photometry import stamp_sums
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, error_from, register

DEFAULT_RADII = (3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0)


def radius_name(radius: float) -> str:
    """Return a radius as part of a column name: 4.5 -> ``4_5``."""
    return f"{radius:.1f}".replace(".", "_")


def sinc_coefficients(radius: float) -> NDArray[np.complex128]:
    """Fourier coefficients of a circular aperture on the grid that represents it.

    Parameters
    ----------
    radius : float, pixels

    Returns
    -------
    spectrum : (n, n) array
        In the order of :func:`numpy.fft.fftfreq`; n is odd, at least 15.

    References
    ----------
    Bickerton & Lupton 2013, MNRAS 431, 1275: the sum over pixels with these coefficients is the integral
    of the band-limited image over the exact circle.
    """
    n = 2 * 2 ** max(3, int(np.ceil(np.log2(2 * radius)))) - 1
    k = np.fft.fftfreq(n)
    kr = np.hypot(k[:, None], k[None, :])
    kr[0, 0] = 1.0
    spectrum = radius * j1(2 * np.pi * radius * kr) / kr
    spectrum[0, 0] = np.pi * radius**2
    return spectrum.astype(complex)


def sinc_weights(
    radius: float, dx: NDArray[np.float64], dy: NDArray[np.float64], *, lanczos: bool = False
) -> NDArray[np.float64]:
    """Pixel weights of the band-limited aperture at sub-pixel positions.

    Parameters
    ----------
    radius : float, pixels
    dx, dy : (n,) array
        Centre minus the central pixel, within half a pixel.
    lanczos : bool
        Shift the weights of a centred aperture with a Lanczos kernel of order 5 and leave a border of four
        or five pixels where it was, as the LSST stack does; exact otherwise.

    Returns
    -------
    weights : (n, m, m) array
    """
    spectrum = sinc_coefficients(radius)
    size = len(spectrum)
    if not lanczos:
        k = np.fft.fftfreq(size)
        phase_y = np.exp(-2j * np.pi * k[None, :] * dy[:, None])
        phase_x = np.exp(-2j * np.pi * k[None, :] * dx[:, None])
        shifted = spectrum[None] * phase_y[:, :, None] * phase_x[:, None, :]
        return np.fft.fftshift(np.fft.ifft2(shifted).real, axes=(1, 2))
    centred = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    weights = np.tile(centred, (len(dx), 1, 1))
    moved = shift_images(weights, dx, dy)
    index = np.arange(size)
    first_x, first_y = (np.where(d <= 0, 4, 5)[:, None] for d in (dx, dy))
    inside_x = (index >= first_x) & (index < size - (9 - first_x))
    inside_y = (index >= first_y) & (index < size - (9 - first_y))
    inside = inside_y[:, :, None] & inside_x[:, None, :]
    weights[inside] = moved[inside]
    return weights


def sinc_fluxes(
    context: MeasurementContext, radius: float, *, lanczos: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Band-limited aperture fluxes of all sources and their variances; NaN where the weights leave the image."""
    flux, variance = np.full((2, context.n), np.nan)
    good = context.on_image
    x, y = np.where(good, context.array_x, 0.0), np.where(good, context.array_y, 0.0)
    ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
    half = len(sinc_coefficients(radius)) // 2
    for rows in context.blocks():
        weights = sinc_weights(radius, x[rows] - ix[rows], y[rows] - iy[rows], lanczos=lanczos)
        index = np.arange(len(weights))
        flux[rows], variance[rows], _ = stamp_sums(
            context.pixels, np.ascontiguousarray(weights), index, ix[rows] - half, iy[rows] - half, rows.start
        )
    flux[~good] = np.nan
    return flux, variance


@register
@dataclass(frozen=True)
class CircularApertureFlux(Plugin):
    """Fluxes in circles around the centroid.

    Parameters
    ----------
    radii : tuple of float
        Pixels.
    max_sinc_radius : float
        Radii up to this one use the band-limited (sinc) weights instead of the pixel overlap; 0 for none.
    lanczos_sinc : bool
        Shift the band-limited weights as the LSST stack does instead of exactly.
    """

    name: ClassVar[str] = "aperture_flux"
    order: ClassVar[float] = ORDER_FLUX

    radii: tuple[float, ...] = DEFAULT_RADII
    max_sinc_radius: float = 0.0
    lanczos_sinc: bool = False

    def __post_init__(self) -> None:
        if not self.radii or min(self.radii) <= 0:
            raise ConfigError(f"aperture radii must be positive, not {self.radii}")

    def prefixes(self) -> list[str]:
        """Return the names of the fluxes, in ascending radius."""
        return [f"aperture_flux_{radius_name(r)}" for r in sorted(self.radii)]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return tuple(self.prefixes())

    def columns(self) -> list[Column]:
        columns = []
        for radius, name in zip(sorted(self.radii), self.prefixes(), strict=True):
            columns += [
                Column(name, "f8", "electron", f"flux within {radius:g} pixels"),
                Column(f"{name}_err", "f8", "electron", f"error of {name}"),
                Column(f"{name}_flag", "bool", "", f"no flux within {radius:g} pixels"),
                Column(f"{name}_flag_truncated", "bool", "", "the circle, or its weights, leave the image"),
            ]
        return columns

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        radii = np.array(sorted(self.radii), np.float64)
        flux, variance = circular_apertures(context.pixels, context.array_x, context.array_y, radii)
        values: dict[str, Any] = {}
        for k, (radius, name) in enumerate(zip(radii, self.prefixes(), strict=True)):
            f, v = flux[:, k], variance[:, k]
            if radius <= self.max_sinc_radius:
                f, v = sinc_fluxes(context, float(radius), lanczos=self.lanczos_sinc)
            bad = ~np.isfinite(f)
            values[name] = f
            values[f"{name}_err"] = error_from(v)
            values[f"{name}_flag"] = bad
            values[f"{name}_flag_truncated"] = bad
        return values
