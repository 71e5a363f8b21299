"""Registration of two images on their common stars, for images whose WCS cannot be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree

from starmill.errors import AlgorithmError

__all__ = ["Registration", "find_registration"]


@dataclass(frozen=True)
class Registration:
    """An affine map from positions in the science image to positions in the template.

    Attributes
    ----------
    matrix : (2, 3) array
        ``[x', y'] = matrix @ [x, y, 1]``.
    stars : int
        Pairs of stars in the fit.
    scatter : float
        Robust scatter of one coordinate, pixels.
    """

    matrix: np.ndarray
    stars: int
    scatter: float

    def __call__(
        self, x: NDArray[np.floating], y: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return positions in the template."""
        a = self.matrix
        return a[0, 0] * x + a[0, 1] * y + a[0, 2], a[1, 0] * x + a[1, 1] * y + a[1, 2]


def find_registration(
    science_xy: NDArray[np.floating],
    template_xy: NDArray[np.floating],
    shape: tuple[int, int],
    *,
    tolerance: float = 3.0,
    minimum: int = 6,
) -> Registration:
    """Find the map between two lists of stars that differ by a shift and a small rotation and scale.

    Parameters
    ----------
    science_xy, template_xy : (n, 2) and (m, 2) arrays
        Positions, brightest first.
    shape : (int, int)
        Size of the field; shifts of up to half of it are found.
    tolerance : float
        Pairs are at most this far apart after the shift, pixels.
    minimum : int
        Fewest pairs.

    Returns
    -------
    registration : Registration

    Raises
    ------
    AlgorithmError
        When too few stars agree.
    """
    science_xy, template_xy = np.asarray(science_xy, float), np.asarray(template_xy, float)
    shift = _star_map_shift(science_xy[:400], template_xy[:400], shape)
    matrix = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])
    tree = cKDTree(template_xy)
    design = np.column_stack([science_xy, np.ones(len(science_xy))])
    for radius in (3 * tolerance, tolerance, tolerance, tolerance / 2):
        distance, nearest = tree.query(design @ matrix.T, distance_upper_bound=radius)
        good = np.isfinite(distance)
        if good.sum() < minimum:
            raise AlgorithmError(
                "too few common stars to register the images",
                numbers={
                    "pairs": int(good.sum()),
                    "needed": minimum,
                    "science": len(science_xy),
                    "template": len(template_xy),
                },
            )
        residual = distance[good]
        keep = np.flatnonzero(good)[residual <= 3 * max(np.median(residual), 0.05)]
        matrix = np.linalg.lstsq(design[keep], template_xy[nearest[keep]], rcond=None)[0].T
    offset = design[keep] @ matrix.T - template_xy[nearest[keep]]
    scatter = 1.4826 * float(np.median(np.abs(offset)))  # MAD to sigma
    return Registration(matrix, len(keep), scatter)


def _star_map_shift(
    first: NDArray[np.floating], second: NDArray[np.floating], shape: tuple[int, int], cell: int = 4
) -> tuple[int, int]:
    """Return the shift from the first to the second list at the peak of the correlation of their star maps."""
    size = [fft.next_fast_len(2 * (side // cell + 1), real=True) for side in shape]
    maps = []
    for positions in (first, second):
        plane = np.zeros(size, np.float32)
        index = np.rint(positions / cell).astype(int)
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                np.add.at(
                    plane,
                    ((index[:, 1] + dy) % size[0], (index[:, 0] + dx) % size[1]),
                    1.0 / (1 + abs(dx) + abs(dy)),
                )
        maps.append(fft.rfft2(plane))
    correlation = fft.irfft2(maps[1] * np.conj(maps[0]), size)
    row, column = np.unravel_index(np.argmax(correlation), correlation.shape)
    row = row - size[0] if row > size[0] // 2 else row
    column = column - size[1] if column > size[1] // 2 else column
    return column * cell, row * cell
