"""Aperture photometry in the ellipses of fitted sources, with companions subtracted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.errors import InputError
from starmill.kernels.elliptical_apertures import ellipse_photometry
from starmill.numerics.tiles import map_tiles

__all__ = ["EllipseSums", "enclosed_fraction", "measure_ellipses"]

FWHM_PER_SIGMA = 2.3548200450309493  # 2 sqrt(2 ln 2)
SOURCES_PER_TILE = 256


@dataclass(frozen=True, slots=True)
class EllipseSums:
    """Sums in ellipses, (n,) float64 arrays.

    Attributes
    ----------
    flux, flux_err : map unit times pixels
        Sum inside the ellipse and its standard error from the noise of the map (NaN when not wanted).
    area : pixel**2
        Part of the ellipse with data.
    missing_area : pixel**2
        Part of the ellipse without data or off the map.
    """

    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    area: NDArray[np.float64]
    missing_area: NDArray[np.float64]


def measure_ellipses(
    residual: NDArray[Any],
    sources: NDArray[np.float64],
    ellipses: NDArray[np.float64],
    *,
    rms: NDArray[Any] | None = None,
    correlation: NDArray[np.float64] | None = None,
) -> EllipseSums:
    """Sum the map in the ellipse of every source, the other sources subtracted.

    Parameters
    ----------
    residual : (ny, nx) array, map unit
        Map minus background minus the models of all sources; NaN is no data and does not count.
    sources : (n, 6) float64 array
        The model of every source, put back in its own ellipse; see
        :class:`starmill.measurement.gaussian_fit.GaussianFit`.
    ellipses : (n, 5) float64 array
        x, y, semi-axes (pixel), angle of the first semi-axis (radian, counter-clockwise from +x).
    rms : (ny, nx) array, optional
        Standard deviation of a pixel; without it no errors are given.
    correlation : (2h + 1, 2h + 1) array, optional
        Noise correlation by lag; independent pixels when not given.

    Returns
    -------
    sums : EllipseSums
        Exact pixel overlaps.
    """
    n = sources.shape[0]
    if ellipses.shape != (n, 5):
        raise InputError(f"{n} sources need an ({n}, 5) array of ellipses, its shape is {ellipses.shape}")
    out = np.zeros((n, 4))
    image = np.ascontiguousarray(residual, np.float32)
    noise = np.ones((1, 1), np.float32) if rms is None else np.ascontiguousarray(rms, np.float32)
    table = np.ones((1, 1)) if correlation is None else np.ascontiguousarray(correlation, np.float64)
    own = np.ascontiguousarray(sources, np.float64)
    outline = np.ascontiguousarray(ellipses, np.float64)

    def run(first: int) -> None:
        part = slice(first, first + SOURCES_PER_TILE)
        ellipse_photometry(image, noise, table, own[part], outline[part], rms is not None, out[part])

    map_tiles(run, range(0, n, SOURCES_PER_TILE))
    return EllipseSums(out[:, 0], np.sqrt(out[:, 1]), out[:, 2], out[:, 3])


def enclosed_fraction(sources: NDArray[np.float64], ellipses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of each Gaussian that lies inside its concentric, aligned ellipse.

    Parameters
    ----------
    sources : (n, 6) array
    ellipses : (n, 5) array
        Same centres and directions as the sources.

    Returns
    -------
    fraction : (n,) array
        ``1 - exp(-k**2 / 2)`` for semi-axes of k sigma along both axes; integrated along the angle otherwise.
    """
    k_major = ellipses[:, 2] / sources[:, 3]
    k_minor = ellipses[:, 3] / sources[:, 4]
    angle = (np.arange(64) + 0.5) * (np.pi / 64)
    # in units of sigma the ellipse has semi-axes k; its radius at a given angle bounds the Gaussian there
    radius2 = 1.0 / ((np.cos(angle) / k_major[:, None]) ** 2 + (np.sin(angle) / k_minor[:, None]) ** 2)
    return (1.0 - np.exp(-0.5 * radius2)).mean(axis=1)
