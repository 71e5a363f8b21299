"""What shines: stars and galaxies with number counts, the seeing, the sky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box

__all__ = ["Seeing", "Sky", "SourceList", "add_sources", "draw_sources", "flux_of_magnitude", "moffat_stamps"]

_HALF_SIZES = (10, 16, 26, 44, 76, 130)
"""Half sides of the stamps; each source gets the smallest one that holds it down to the noise."""


@dataclass(frozen=True)
class SourceList:
    """Sources on the sky; arrays of one length.

    Attributes
    ----------
    ra, dec : degree, ICRS
    magnitude : dict of str to array
        AB magnitude by band.
    galaxy : bool
    size : arcsec
        FWHM of the galaxy before the seeing; zero for stars.
    e1, e2 : dimensionless
        Ellipticity of the galaxy, in pixel axes.
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    magnitude: dict[str, NDArray[np.float64]]
    galaxy: NDArray[np.bool_]
    size: NDArray[np.float64]
    e1: NDArray[np.float64]
    e2: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ra)


@dataclass(frozen=True)
class Seeing:
    """A Moffat point-spread function that varies over the field.

    ``FWHM = fwhm (1 + curvature r^2 + tilt_x u + tilt_y v)`` with u, v from -1 to 1 over the frame and
    r^2 = (u^2 + v^2) / 2; the ellipticity is ``e + de . (u, v)``.

    Attributes
    ----------
    fwhm : float, pixel
    beta : float
        Exponent of the Moffat profile.
    curvature, tilt_x, tilt_y : float
    e1, e2 : (constant, along u, along v)
    """

    fwhm: float
    beta: float = 3.0
    curvature: float = 0.04
    tilt_x: float = 0.02
    tilt_y: float = -0.01
    e1: tuple[float, float, float] = (0.02, 0.015, 0.0)
    e2: tuple[float, float, float] = (-0.01, 0.0, 0.015)

    def at(
        self, x: NDArray[np.float64], y: NDArray[np.float64], box: Box
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return FWHM (pixel), e1 and e2 at positions of a frame."""
        u = (x - box.center[0]) / (0.5 * box.width)
        v = (y - box.center[1]) / (0.5 * box.height)
        fwhm = self.fwhm * (1 + self.curvature * (u**2 + v**2) / 2 + self.tilt_x * u + self.tilt_y * v)
        e1, e2 = (e[0] + e[1] * u + e[2] * v for e in (self.e1, self.e2))
        return fwhm, e1, e2


@dataclass(frozen=True)
class Sky:
    """Background with a gradient and waves of airglow.

    Attributes
    ----------
    level : float, electron/pixel/s
    gradient : (float, float)
        Relative change from the centre to the edge along x and y.
    airglow : float
        Relative amplitude of the waves.
    wavelength : float, pixel
    angle : float, radian
        Direction of the waves, counter-clockwise from +x.
    phase : float, radian
    """

    level: float
    gradient: tuple[float, float] = (0.05, -0.03)
    airglow: float = 0.01
    wavelength: float = 700.0
    angle: float = 0.5
    phase: float = 0.0

    def image(self, box: Box) -> NDArray[np.float32]:
        """Return the sky on the pixels of a box, electron/pixel/s."""
        x = np.arange(box.x0, box.x1, dtype=np.float32)
        y = np.arange(box.y0, box.y1, dtype=np.float32)
        u = (x - box.center[0]) / (0.5 * box.width)
        v = (y - box.center[1]) / (0.5 * box.height)
        wave_x = 2 * np.pi * np.cos(self.angle) / self.wavelength * x
        wave_y = 2 * np.pi * np.sin(self.angle) / self.wavelength * y + self.phase
        # sin(a + b) from sines and cosines of the rows and columns: no sine per pixel
        wave = np.outer(np.sin(wave_y), np.cos(wave_x)) + np.outer(np.cos(wave_y), np.sin(wave_x))
        plane = (1 + self.gradient[1] * v)[:, None] + self.gradient[0] * u[None, :]
        return np.asarray(self.level * (plane + self.airglow * wave), np.float32)


def flux_of_magnitude(magnitude: Any, zero_point: float, exposure_time: float) -> Any:
    """Return electrons collected from a source; the zero point gives one electron per second."""
    return exposure_time * 10 ** (-0.4 * (np.asarray(magnitude) - zero_point))


def draw_sources(
    rng: np.random.Generator,
    wcs: Any,
    box: Box,
    bands: Sequence[str],
    *,
    density: float = 20.0,
    galaxy_fraction: float = 0.4,
    bright: float = 13.0,
    faint: float = 24.0,
) -> SourceList:
    """Draw stars and galaxies, uniform on the pixels of a box.

    Parameters
    ----------
    rng : numpy Generator
    wcs : astropy WCS
        Of the frame that ``box`` counts.
    box : Box
        Somewhat larger than the frame, so that dithered exposures find sources at their edges.
    bands : sequence of str
        Colours shift the magnitudes from band to band.
    density : float, 1/arcmin^2
    galaxy_fraction : float
    bright, faint : float
        Range of magnitudes in the first band. Counts grow as 10^(0.25 m) for stars and 10^(0.4 m) for
        galaxies.

    Returns
    -------
    sources : SourceList
    """
    from astropy.wcs.utils import proj_plane_pixel_area

    n = int(rng.poisson(density * box.area * proj_plane_pixel_area(wcs) * 3600))
    galaxy = rng.random(n) < galaxy_fraction
    x = rng.uniform(box.x0 - 0.5, box.x1 - 0.5, n)
    y = rng.uniform(box.y0 - 0.5, box.y1 - 0.5, n)
    sky = wcs.pixel_to_world(x, y)
    slope = np.where(galaxy, 0.4, 0.25)
    first = np.where(galaxy, bright + 3, bright)
    # inverse of the cumulative counts N(<m) ~ 10^(slope m) between the limits
    low, high = 10 ** (slope * (first - faint)), 1.0
    base = faint + np.log10(low + rng.random(n) * (high - low)) / slope
    colour = np.where(galaxy, rng.normal(0.8, 0.3, n), rng.normal(0.6, 0.35, n))
    steps = np.arange(len(bands)) * 0.6  # redder bands are brighter by a share of the colour
    magnitude = {band: base - colour * step for band, step in zip(bands, steps, strict=True)}
    size = np.where(galaxy, 0.4 + rng.gamma(2.0, 0.5, n), 0.0)
    e1, e2 = (np.where(galaxy, rng.normal(0, 0.2, n).clip(-0.5, 0.5), 0.0) for _ in range(2))
    return SourceList(np.asarray(sky.ra.deg), np.asarray(sky.dec.deg), magnitude, galaxy, size, e1, e2)


def add_sources(
    image: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    fwhm: NDArray[np.float64],
    e1: NDArray[np.float64],
    e2: NDArray[np.float64],
    beta: float,
    *,
    noise: float,
) -> None:
    """Add Moffat profiles to an image, in place.

    Parameters
    ----------
    image : (ny, nx) float32 array, electron
        Its first pixel is (0, 0).
    x, y : (n,) arrays, pixel
    flux : (n,) array, electron
        Of the whole profile.
    fwhm, e1, e2 : (n,) arrays
    beta : float
    noise : float, electron
        Stamps reach to where the profile is a twentieth of it.
    """
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    peak = flux * (beta - 1) / (np.pi * alpha**2)
    reach = alpha * np.sqrt(np.maximum((20 * peak / noise) ** (1 / beta) - 1, 1.0))
    sizes = np.array(_HALF_SIZES)
    group = np.minimum(np.searchsorted(sizes, reach), len(sizes) - 1)
    ny, nx = image.shape
    for number, half in enumerate(sizes):
        near = (x > -half) & (x < nx + half) & (y > -half) & (y < ny + half)
        members = np.flatnonzero((group == number) & near & (flux > 0))
        for start in range(0, len(members), 128):
            part = members[start : start + 128]
            ix, iy = np.floor(x[part] + 0.5).astype(int), np.floor(y[part] + 0.5).astype(int)
            stamps = moffat_stamps(
                x[part] - ix, y[part] - iy, alpha[part], e1[part], e2[part], beta, int(half)
            )
            stamps *= peak[part, None, None].astype(np.float32)
            for stamp, cx, cy in zip(stamps, ix.tolist(), iy.tolist(), strict=True):
                _add_stamp(image, stamp, cx - int(half), cy - int(half))


def moffat_stamps(
    dx: NDArray[np.float64],
    dy: NDArray[np.float64],
    alpha: NDArray[np.float64],
    e1: NDArray[np.float64],
    e2: NDArray[np.float64],
    beta: float,
    half: int,
) -> NDArray[np.float32]:
    """Return Moffat profiles with peak one, ``(n, 2 half + 1, 2 half + 1)``.

    ``(1 + r^2 / alpha^2)^-beta`` with ``r^2 = [(1 - e1) u^2 + (1 + e1) v^2 - 2 e2 u v] / sqrt(1 - e1^2 - e2^2)``,
    whose integral over the plane is ``pi alpha^2 / (beta - 1)`` whatever the ellipticity
    (Moffat 1969, A&A 3, 455).
    """
    r = np.arange(-half, half + 1, dtype=np.float32)
    u = r[None, None, :] - dx[:, None, None].astype(np.float32)
    v = r[None, :, None] - dy[:, None, None].astype(np.float32)
    scale = 1 / (np.sqrt(1 - e1**2 - e2**2) * alpha**2)
    a, b, c = ((k * scale)[:, None, None].astype(np.float32) for k in (1 - e1, 1 + e1, -2 * e2))
    r2 = a * u * u + b * v * v + c * u * v
    return np.asarray((1 + r2) ** np.float32(-beta), np.float32)


def _add_stamp(image: NDArray[np.float32], stamp: NDArray[np.float32], x0: int, y0: int) -> None:
    ny, nx = image.shape
    size = stamp.shape[0]
    top, left = max(0, -y0), max(0, -x0)
    bottom, right = min(size, ny - y0), min(size, nx - x0)
    if top < bottom and left < right:
        image[y0 + top : y0 + bottom, x0 + left : x0 + right] += stamp[top:bottom, left:right]
