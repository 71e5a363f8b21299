"""Variance of a pixel from what it counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["poisson_variance"]


def poisson_variance(image: ArrayLike, read_noise: float) -> NDArray[np.float32]:
    """Shot noise of the collected electrons and read noise.

    ``variance = max(image, 0) + read_noise^2`` (Janesick 2001, *Scientific Charge-Coupled Devices*,
    chapter 2, without the fixed-pattern term).

    Parameters
    ----------
    image : array, electron
        All electrons that were collected: sky, objects and dark current, without the bias.
    read_noise : float, electron

    Returns
    -------
    variance : float32 array, electron**2
    """
    return np.maximum(np.asarray(image, np.float32), np.float32(0)) + np.float32(read_noise) ** 2
