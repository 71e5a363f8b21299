"""Maps of fitted Gaussians: the model, the residual, and one source without its companions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.kernels.gaussians import add_gaussians

__all__ = ["REACH", "alone", "draw_sources", "source_pixels"]

REACH = 5.0
"""Half size of the drawn box in sigma; the Gaussian is 4e-6 of its peak there."""


def draw_sources(
    shape: tuple[int, ...],
    sources: NDArray[np.float64],
    *,
    out: NDArray[Any] | None = None,
    sign: float = 1.0,
) -> NDArray[Any]:
    """Draw elliptical Gaussians.

    Parameters
    ----------
    shape : (ny, nx)
    sources : (n, 6) float64 array
        peak (map unit), x, y, sigma_major, sigma_minor (pixel), theta (radian, counter-clockwise from +x).
    out : (ny, nx) array, optional
        Added to; a new float64 map of zeros when not given.
    sign : float
        -1 takes the sources out of ``out``.
    """
    image = np.zeros(shape) if out is None else out
    usable = np.isfinite(sources).all(axis=1) & (sources[:, 4] > 0)
    add_gaussians(image, np.ascontiguousarray(sources[usable]), sign, REACH)
    return image


def alone(
    residual: NDArray[Any], sources: NDArray[np.float64], keep: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Map with only some of the sources left in: residual (all sources subtracted) plus the chosen ones.

    Parameters
    ----------
    residual : (ny, nx) array
        Map minus all sources.
    sources : (n, 6) array
    keep : (k,) int array
        Rows of ``sources`` to put back.
    """
    return draw_sources(residual.shape, sources[keep], out=np.array(residual, np.float64))


def source_pixels(
    shape: tuple[int, ...], sources: NDArray[np.float64], beam_sigma: float, radius: float
) -> NDArray[np.bool_]:
    """Mark the pixels within ``radius`` beams (FWHM) of any source position.

    Parameters
    ----------
    shape : (ny, nx)
    sources : (n, 6) array
    beam_sigma : float, pixel
    radius : float
        In units of the beam's FWHM.
    """
    marks = np.zeros(shape, np.float32)
    discs = np.array(sources, np.float64)
    discs[:, 0], discs[:, 3], discs[:, 4], discs[:, 5] = 1.0, beam_sigma, beam_sigma, 0.0
    draw_sources(shape, discs, out=marks)
    return marks > np.exp(-0.5 * (2.3548200450309493 * radius) ** 2)
