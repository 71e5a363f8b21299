"""Sources of a difference that are no point sources: narrower than the PSF, or part of extended light."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

__all__ = ["extended_shapes", "shape_score", "spike_shapes"]

_LENGTHS = (4.0, 8.0)  # FWHM: of the trails and arcs that are tried
_DIRECTIONS = 8


def spike_shapes(spike: NDArray[np.floating] | None) -> NDArray[np.floating]:
    """Return what one bright pixel and two neighbours of equal light become, ``(5, k + 2, k + 2)``.

    Parameters
    ----------
    spike : (k, k) array or None
        Of one pixel, any scale; one pixel when None.
    """
    spike = np.pad(np.ones((1, 1)) if spike is None else spike, 1)
    return np.array(
        [spike, *(spike + np.roll(spike, by, (0, 1)) for by in ((0, 1), (1, 0), (1, 1), (1, -1)))]
    )


def extended_shapes(psf_image: NDArray[np.floating], fwhm: float) -> NDArray[np.floating]:
    """Return the PSF smeared along lines of eight directions and two lengths, and blurred, ``(17, m, m)``.

    Parameters
    ----------
    psf_image : (k, k) array
    fwhm : float
        Of the PSF, pixels.
    """
    reach = int(np.ceil((max(_LENGTHS) / 2 + 1.5) * fwhm))
    half = psf_image.shape[0] // 2
    keep = min(half, reach)
    core = psf_image[half - keep : half + keep + 1, half - keep : half + keep + 1]
    core = np.pad(np.maximum(core, 0), reach - keep)
    shapes = [gaussian_filter(core, fwhm)]
    for length in _LENGTHS:
        steps = fwhm * np.linspace(
            -length / 2, length / 2, 2 * int(length) + 1
        )  # two images a FWHM leave no gaps
        for angle in np.pi / _DIRECTIONS * np.arange(_DIRECTIONS):
            moved = (shift(core, (s * np.sin(angle), s * np.cos(angle)), order=1) for s in steps)
            shapes.append(sum(moved))
    return np.array(shapes)


def shape_score(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    shapes: NDArray[np.floating],
    sign: float,
    row: int,
    column: int,
    *,
    reach: int,
) -> float:
    """Return the signal-to-noise of the shape, near a pixel, that is the strongest; 0 without any.

    Parameters
    ----------
    difference, variance : (ny, nx) arrays
    bad : (ny, nx) bool array
    shapes : (n, m, m) array
    sign : float
        1 or -1: of the source.
    row, column : int
    reach : int
        Half width of the square of pixels that the shapes are centred on.
    """
    half, best = shapes.shape[1] // 2, 0.0
    for y in range(row - reach, row + reach + 1):
        for x in range(column - reach, column + reach + 1):
            part = np.s_[y - half : y + half + 1, x - half : x + half + 1]
            if min(y, x) < half or difference[part].shape != shapes.shape[1:]:
                continue
            weight = np.where(bad[part] | (variance[part] <= 0), 0, 1 / np.maximum(variance[part], 1e-30))
            norm = np.tensordot(shapes**2, weight, 2)
            signal = sign * np.tensordot(shapes, difference[part] * weight, 2)
            best = max(best, float((signal / np.sqrt(np.maximum(norm, 1e-300)))[norm > 0].max(initial=0.0)))
    return best
