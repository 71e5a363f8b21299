"""Ghosts that bright pixels of one amplifier leave in the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.calibration import Crosstalk
from starmill.datamodel.camera import Detector
from starmill.errors import InputError
from starmill.kernels.isr import subtract_crosstalk as _subtract
from starmill.numerics.statistics import clipped_statistics

__all__ = ["measure_crosstalk", "subtract_crosstalk"]


def subtract_crosstalk(
    image: NDArray[Any], mask: NDArray[Any], detector: Detector, crosstalk: Crosstalk, *, bit: int
) -> None:
    """Subtract the ghosts in place.

    ``a_i -= sum_j (c_ij + q_ij a_j) a_j`` where pixels that were read at the same time meet. The
    measured signals stand for the true ones, which is right to first order in c.

    Parameters
    ----------
    image, mask : (ny, nx) float32 and int32 arrays, electron
        Assembled image above the overscan level. Changed.
    detector : Detector
        Amplifiers, all of the same size.
    crosstalk : Crosstalk
        Indexed in the order of the detector's amplifiers.
    bit : int
        Set in ``mask`` where a source above ``crosstalk.threshold`` leaves a ghost.
    """
    amplifiers = detector.amplifiers
    n = len(amplifiers)
    if crosstalk.size != n:
        raise InputError(f"the crosstalk matrix has size {crosstalk.size}, the detector {n} amplifiers")
    shapes = {amplifier.box.shape for amplifier in amplifiers}
    if len(shapes) != 1:
        raise InputError(f"crosstalk needs amplifiers of one size, the detector has {sorted(shapes)}")
    quadratic = (
        np.array(crosstalk.quadratic, np.float32) if crosstalk.quadratic else np.zeros((n, n), np.float32)
    )
    _subtract(
        image,
        mask,
        np.array([(amplifier.box.y0, amplifier.box.x0) for amplifier in amplifiers], np.int64),
        np.array([amplifier.reversed_axes for amplifier in amplifiers], bool),
        shapes.pop(),
        np.array(crosstalk.linear, np.float32),
        quadratic,
        float(crosstalk.threshold),
        int(bit),
    )


def measure_crosstalk(
    images: Sequence[NDArray[Any]],
    detector: Detector,
    *,
    threshold: float = 30000.0,
    n_sigma: float = 2.0,
    iterations: int = 3,
    significance: float = 3.0,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Crosstalk matrix from images with bright sources on a flat background.

    For every pair, the clipped mean of ``(victim - background) / source`` over source pixels
    above ``threshold``.

    Parameters
    ----------
    images : list of (ny, nx) arrays, electron
        Assembled, without crosstalk correction. NaN is ignored.
    detector : Detector
    threshold : float, electron
    n_sigma, iterations : float, int
        Clipping of the ratios.
    significance : float
        Coefficients below this many of their errors are set to zero.

    Returns
    -------
    linear, error : (n, n) float64 arrays, electron/electron
        Zero where a pair has fewer than ten source pixels.
    """
    n = len(detector.amplifiers)
    linear, error = np.zeros((n, n)), np.zeros((n, n))
    readouts = [_in_readout_order(image, detector) for image in images]
    for i in range(n):
        for j in range(n):
            if i != j:
                ratios = [_ratios(amps[i], amps[j], threshold) for amps in readouts]
                found = clipped_statistics(np.concatenate(ratios), n_sigma=n_sigma, n_iterations=iterations)
                if found.n_kept >= 10:  # fewer source pixels say nothing
                    linear[i, j], error[i, j] = found.clipped_mean, found.clipped_mean_err
    weak = np.abs(linear) < significance * error
    return np.where(weak, 0.0, linear), error


def _in_readout_order(image: NDArray[np.floating], detector: Detector) -> list[NDArray[np.floating]]:
    amplifiers = []
    for amplifier in detector.amplifiers:
        pixels = image[amplifier.box.slices()]
        reverse_y, reverse_x = amplifier.reversed_axes
        amplifiers.append(pixels[:: -1 if reverse_y else 1, :: -1 if reverse_x else 1])
    return amplifiers


def _ratios(
    victim: NDArray[np.floating], source: NDArray[np.floating], threshold: float
) -> NDArray[np.floating]:
    background = np.nanmedian(victim)
    bright = (source > threshold) & np.isfinite(victim) & (victim < threshold)
    return (victim[bright] - background) / (source[bright])
