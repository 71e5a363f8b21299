"""Make the signal proportional to the light."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import Akima1DInterpolator

from starmill.datamodel.calibration import Linearity
from starmill.datamodel.camera import Amplifier
from starmill.errors import AlgorithmError
from starmill.kernels.isr import add_polynomial, add_table

__all__ = ["correct_linearity", "fit_linearity", "linearity_correction"]

_STEP = 4.0  # adu between table nodes: the error of a smooth correction is far below 0.01 adu


def linearity_correction(signal: ArrayLike, linearity: Linearity) -> NDArray[Any]:
    """Return what must be added to signals above the overscan, adu.

    Parameters
    ----------
    signal : array, adu
    linearity : Linearity

    Returns
    -------
    correction : array, adu
        Constant beyond the ends of a table or spline.
    """
    signal = np.asarray(signal, np.float64)
    if linearity.kind in ("polynomial", "squared"):
        powers = np.polynomial.polynomial.polyval(signal, np.array(linearity.coefficients))
        return powers * signal**2
    if linearity.kind == "lookup_table":
        return np.interp(signal, linearity.nodes, linearity.coefficients)
    if linearity.kind == "spline":
        return -_spline(linearity)(np.clip(signal, linearity.nodes[0], linearity.nodes[-1]))
    return np.zeros_like(signal)


def correct_linearity(image: NDArray[Any], amplifier: Amplifier, linearity: Linearity | None = None) -> None:
    """Correct the pixels of one amplifier in place.

    Parameters
    ----------
    image : (ny, nx) float32 array, electron
        Assembled image above the overscan level. Changed in ``amplifier.box``.
    amplifier : Amplifier
        Box and gain; the correction is defined in adu.
    linearity : Linearity, optional
        Instead of the amplifier's own.
    """
    linearity = amplifier.linearity if linearity is None else linearity
    box = amplifier.box
    limits = (box.y0, box.y1, box.x0, box.x1)
    gain = float(amplifier.gain)
    if linearity.kind in ("polynomial", "squared"):
        add_polynomial(image, limits, np.array(linearity.coefficients, np.float32), gain)
    elif linearity.kind != "none":
        start, stop = linearity.nodes[0], linearity.nodes[-1]
        count = max(2, int(np.ceil((stop - start) / _STEP)) + 1)
        nodes = np.linspace(start, stop, count)
        table = linearity_correction(nodes, linearity).astype(np.float32)
        add_table(image, limits, table, float(start), float(nodes[1] - nodes[0]), gain)


def fit_linearity(signal: ArrayLike, light: ArrayLike, *, order: int = 2) -> NDArray[Any]:
    """Polynomial linearity from a series of exposures of a steady lamp.

    Finds the rate k and the coefficients that minimise the relative residuals of
    ``signal + sum_j c_j signal^(j+2) = k light``; faint signals stay as they are.

    Parameters
    ----------
    signal : (n,) array, adu
        Level above overscan, bias and dark; positive.
    light : (n,) array
        Exposure time or photodiode charge.
    order : int
        Number of coefficients.

    Returns
    -------
    coefficients : (order,) array, adu^-(j+1)
    """
    signal, light = np.asarray(signal, np.float64), np.asarray(light, np.float64)
    if signal.size <= order + 1 or not (signal > 0).all():
        raise AlgorithmError(
            "too few exposures for a linearity fit",
            numbers={"exposures": signal.size, "positive": int((signal > 0).sum()), "needed": order + 2},
        )
    unit, rate = signal.max(), np.median(signal / light)
    columns = [rate * light / signal, *(-((signal / unit) ** (j + 1)) for j in range(order))]
    solution = np.linalg.lstsq(np.stack(columns, axis=1), np.ones(signal.size), rcond=None)[0]
    return np.asarray(solution[1:] / unit ** np.arange(1, order + 1))


def _spline(linearity: Linearity) -> Callable[..., Any]:
    return Akima1DInterpolator(np.array(linearity.nodes), np.array(linearity.coefficients))
