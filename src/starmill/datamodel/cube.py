"""Maps of the sky with a beam, and cubes: stacks of such maps along a spectral axis.

Positions are pixel positions of the array; the first pixel is (0, 0). NaN means no data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.psf import FWHM_PER_SIGMA
from starmill.errors import InputError

__all__ = ["Beam", "MapCube", "SkyMap", "sky_jacobian"]

ARCSEC_PER_RADIAN = 180.0 * 3600.0 / math.pi


@dataclass(frozen=True, slots=True)
class Beam:
    """A Gaussian beam.

    Parameters
    ----------
    major, minor : float, arcsec
        Full widths at half maximum.
    position_angle : float, degree
        Of the major axis, east of north.
    """

    major: float
    minor: float
    position_angle: float = 0.0

    def __post_init__(self) -> None:
        good = all(math.isfinite(v) for v in (self.major, self.minor, self.position_angle))
        if not good or not self.major >= self.minor > 0:
            raise InputError(
                f"a beam needs positive axes, the major one first: {self.major} x {self.minor} arcsec, "
                f"{self.position_angle} degrees"
            )

    @property
    def fwhm(self) -> float:
        """Geometric mean of the axes, arcsec."""
        return math.sqrt(self.major * self.minor)

    @property
    def solid_angle(self) -> float:
        """Integral of the beam normalised to one, steradian."""
        return math.pi / (4.0 * math.log(2.0)) * self.major * self.minor / ARCSEC_PER_RADIAN**2


@dataclass(frozen=True)
class SkyMap:
    """One map of the sky.

    Parameters
    ----------
    image : (ny, nx) float array, in ``unit``
        NaN is no data.
    wcs : astropy.wcs.WCS
        Of two celestial axes.
    beam : Beam
    unit : str
    rms : (ny, nx) array, optional
        Noise of every pixel, in ``unit``.
    name : str
        Used in tables and file names.
    frequency : float, Hz, optional
    meta : mapping
        Where it came from.
    """

    image: NDArray[Any]
    wcs: Any
    beam: Beam
    unit: str
    rms: NDArray[Any] | None = None
    name: str = "map"
    frequency: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.size == 0:
            raise InputError(f"a map has two dimensions, this array has the shape {self.image.shape}")
        if self.rms is not None and self.rms.shape != self.image.shape:
            raise InputError(f"the map has shape {self.image.shape}, its noise {self.rms.shape}")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Pixels with data."""
        return np.isfinite(self.image)

    def pixel_matrix(self, x: float | None = None, y: float | None = None) -> NDArray[np.float64]:
        """Return the 2 x 2 matrix from pixels (x, y) to arcsec (east, north) at a position (default: centre)."""
        ny, nx = self.image.shape
        place = (nx - 1) / 2 if x is None else x, (ny - 1) / 2 if y is None else y
        return sky_jacobian(self.wcs, np.array([place[0]]), np.array([place[1]]))[0]

    @property
    def pixel_area(self) -> float:
        """Solid angle of the central pixel, steradian."""
        return float(abs(np.linalg.det(self.pixel_matrix()))) / ARCSEC_PER_RADIAN**2

    @property
    def beam_pixels(self) -> float:
        """Pixels per beam solid angle."""
        return self.beam.solid_angle / self.pixel_area

    def beam_in_pixels(self) -> tuple[float, float, float]:
        """Return the beam in the pixel grid: sigma major, sigma minor (pixel), theta (radian, ccw from +x)."""
        inverse = np.linalg.inv(self.pixel_matrix())
        angle = math.radians(self.beam.position_angle)
        along = np.array([math.sin(angle), math.cos(angle)])  # east, north
        across = np.array([along[1], -along[0]])
        a, b = self.beam.major / FWHM_PER_SIGMA, self.beam.minor / FWHM_PER_SIGMA
        covariance = inverse @ (a * a * np.outer(along, along) + b * b * np.outer(across, across)) @ inverse.T
        values, vectors = np.linalg.eigh(covariance)
        return math.sqrt(values[1]), math.sqrt(values[0]), math.atan2(vectors[1, 1], vectors[0, 1])

    def check_beam(self, smallest: float = 0.0) -> None:
        """Refuse a beam that cannot be that of this map.

        Parameters
        ----------
        smallest : float, pixel
            Smallest FWHM (geometric mean of the axes) that is of use.

        Raises
        ------
        InputError
            For a beam below ``smallest``, or wider than half of the map, as when it is given in the wrong unit.
        """
        axes = self.beam_in_pixels()
        fwhm = FWHM_PER_SIGMA * math.sqrt(axes[0] * axes[1])
        if fwhm < smallest:
            raise InputError(
                f"the beam is {fwhm:.2f} pixels wide (FWHM); Gaussians need at least {smallest:g}"
            )
        if fwhm > 0.5 * min(self.image.shape):
            ny, nx = self.image.shape
            raise InputError(
                f"the beam of {self.beam.fwhm:.4g} arcsec is {fwhm:.0f} pixels wide (FWHM), more than half of the map "
                f"of {nx} x {ny} pixels; is the survey right, and BMAJ in degrees?"
            )


def sky_jacobian(wcs: Any, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Local matrices from pixel offsets to sky offsets.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    x, y : (n,) arrays, pixel

    Returns
    -------
    jacobian : (n, 2, 2) float64 array, arcsec per pixel
        ``jacobian @ (dx, dy)`` is (east, north) in the frame of the map. Where the projection is not defined, the
        matrix of the reference point.
    """
    linear = np.asarray(wcs.pixel_scale_matrix, float) * 3600.0
    out = np.broadcast_to(linear, (len(x), 2, 2)).copy()
    step = 0.5
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) == 0:
        return out
    px = np.stack([x - step, x + step, x, x]).ravel()
    py = np.stack([y, y, y - step, y + step]).ravel()
    lon, lat = (np.asarray(v, float).reshape(4, -1) for v in wcs.wcs_pix2world(px, py, 0))
    cos = np.cos(np.radians(lat.mean(axis=0)))
    for axis in range(2):
        dlon = (lon[2 * axis + 1] - lon[2 * axis] + 180.0) % 360.0 - 180.0
        east, north = dlon * cos * 3600.0, (lat[2 * axis + 1] - lat[2 * axis]) * 3600.0
        good = np.isfinite(east) & np.isfinite(north)
        out[good, 0, axis], out[good, 1, axis] = east[good] / (2 * step), north[good] / (2 * step)
    singular = ~(np.abs(np.linalg.det(out)) > 0)
    out[singular] = linear
    return out


@runtime_checkable
class MapCube(Protocol):
    """A stack of maps along a spectral axis, read channel by channel."""

    name: str

    def __len__(self) -> int:
        """Return the number of channels."""

    def __getitem__(self, channel: int) -> SkyMap:
        """Read one channel."""

    def __iter__(self) -> Iterator[SkyMap]:
        """Read the channels one after the other."""
