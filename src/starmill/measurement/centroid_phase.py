"""What undersampling does to centroids: the measurement of the PSF's own images corrects that of the stars.

The quartic through the nine pixels around a peak is no good model of a star narrower than its pixels: the centroid
is pulled towards the centre of the pixel or away from it, by up to 0.1 pixel. The same measurement of noiseless images
of the PSF at known places in the pixel gives the pull, which is then taken out of every centroid.

Reference
---------
Anderson & King 2000, PASP 112, 1360 (pixel-phase errors of undersampled stars).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import Psf
from starmill.kernels.source_pixels import SourcePixels

Float = NDArray[np.float64]
Measure = Callable[[SourcePixels, Float, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], Float]

N_NODES = 3  # places along each axis of the field
PHASES = np.linspace(-0.49, 0.49, 11)  # places in the pixel
MARGIN = 3  # zeros around each image, pixels
N_ROUNDS = 4  # of the inversion: each is a factor of the slope of the pull nearer


@dataclass(frozen=True)
class PhasePull:
    """By how much a centroid is off, as a function of the place in the pixel and in the field.

    Attributes
    ----------
    x, y : (n_nodes,) array, pixel
        Places in the field, parent frame.
    pull : (n_nodes, n_nodes, 2, n_phases, n_phases) array, pixel
        Measured minus true x and y, at ``[row, column, coordinate, y phase, x phase]``.
    """

    x: Float
    y: Float
    pull: Float

    def true_offset(self, x: Float, y: Float, dx: Float, dy: Float) -> tuple[Float, Float]:
        """Return offsets from the centre of the peak pixel without the pull.

        Parameters
        ----------
        x, y : (n,) array, pixel
            Place in the field, parent frame.
        dx, dy : (n,) array, pixel
            Measured offset from the centre of the peak pixel.

        Returns
        -------
        dx, dy : (n,) array, pixel
        """
        weights = [_hat_weights(nodes, place) for nodes, place in ((self.y, y), (self.x, x))]
        splines = [
            (row, column, c, RectBivariateSpline(PHASES, PHASES, self.pull[row, column, c]))
            for row in range(len(self.y))
            for column in range(len(self.x))
            for c in range(2)
        ]
        fixed_x, fixed_y = dx, dy
        for _ in range(N_ROUNDS):
            pull = np.zeros((2, len(dx)))
            at = np.clip(fixed_y, PHASES[0], PHASES[-1]), np.clip(fixed_x, PHASES[0], PHASES[-1])
            for row, column, c, spline in splines:
                pull[c] += weights[0][row] * weights[1][column] * spline.ev(*at)
            fixed_x, fixed_y = dx - pull[0], dy - pull[1]
        return fixed_x, fixed_y


def measure_phase_pull(psf: Psf, box: Box, measure: Measure) -> PhasePull:
    """Measure the centroids of images of the PSF at known places in the pixel.

    Parameters
    ----------
    psf : Psf
    box : Box
        The field.
    measure : callable
        ``measure(pixels, kernels, kernel_index, peak_x, peak_y)`` returns the centroids (n, 2) as array index.

    Returns
    -------
    pull : PhasePull
    """
    x = np.rint(box.x0 + (box.width - 1) * np.linspace(0.1, 0.9, N_NODES))
    y = np.rint(box.y0 + (box.height - 1) * np.linspace(0.1, 0.9, N_NODES))
    row, column, j, i = (
        a.ravel() for a in np.indices((len(y), len(x), len(PHASES), len(PHASES)), dtype=np.int64)
    )
    images, x0, y0 = psf.images_at(x[column] + PHASES[i], y[row] + PHASES[j])
    n, size = len(images), images.shape[-1]
    tile = size + 2 * MARGIN
    canvas = np.zeros((n, tile, tile), np.float32)
    canvas[:, MARGIN : MARGIN + size, MARGIN : MARGIN + size] = images
    canvas = canvas.reshape(n * tile, tile)
    none = np.zeros(n + 1, np.int64)
    pixels = SourcePixels(
        canvas, np.ones_like(canvas), np.zeros(canvas.shape, np.int32), np.zeros((0, 3), np.int32), none, none,
        np.zeros(0, np.float32), np.zeros(0, np.float32), np.arange(n),
    )  # fmt: skip
    peak_x = (x[column] - x0).astype(np.int64) + MARGIN
    peak_y = (y[row] - y0).astype(np.int64) + MARGIN + tile * np.arange(n)
    nodes_y, nodes_x = np.meshgrid(y, x, indexing="ij")
    kernels = np.ascontiguousarray(psf.kernels_at(nodes_x.ravel(), nodes_y.ravel()), np.float64)
    found = measure(pixels, kernels, row * len(x) + column, peak_x, peak_y)
    pull = np.stack([found[:, 0] - peak_x - PHASES[i], found[:, 1] - peak_y - PHASES[j]])
    pull = np.where(np.isfinite(pull).all(axis=0), pull, 0.0)
    shape = (2, len(y), len(x), len(PHASES), len(PHASES))
    return PhasePull(x, y, np.moveaxis(pull.reshape(shape), 0, 2))


def _hat_weights(nodes: Float, place: Float) -> Float:
    """Return the weights of linear interpolation between nodes, constant outside, (n_nodes, n)."""
    place = np.clip(place, nodes[0], nodes[-1])
    return np.stack([np.interp(place, nodes, unit) for unit in np.eye(len(nodes))])
