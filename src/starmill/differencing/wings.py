"""Kernel wings: the faint light that the kernel carries beyond its core box.

The light outside a core of 21 pixels is about one per cent of a star; without it the kernel sum is too low by as
much. Every star of the image contributes to it, so it is fitted to the binned difference of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.signal import fftconvolve

from starmill.datamodel.geometry import Box
from starmill.differencing.spatial_terms import SpatialTerms

__all__ = ["KernelWings", "RingLight", "fit_wings"]

BIN = 4  # pixels; wings are smooth on this scale


@dataclass(frozen=True)
class KernelWings:
    """Ring-shaped additions to a kernel, constant over the field.

    Attributes
    ----------
    sigmas : (n,) array
        Widths of the rings ``exp(-r^2 / 2 sigma^2) (1 - exp(-r^2 / 2 inner^2))``, pixels.
    inner : float
        Width of the hole, pixels.
    weights : (n,) array
        Kernel sum carried by each ring.
    error : float
        Standard error of the sum of the weights.
    """

    sigmas: np.ndarray
    inner: float
    weights: np.ndarray
    error: float

    @property
    def total(self) -> float:
        """The kernel sum carried by the wings."""
        return float(self.weights.sum())

    def image(self, light: RingLight) -> NDArray[np.floating]:
        """Return the wings' part of the convolved reference, ``(ny, nx)`` float32."""
        faint = sum(w * carried for w, carried in zip(self.weights, light.carried, strict=True))
        return _enlarge(faint, light.near_bad.shape)

    def kernel_image(self, half_width: int) -> NDArray[np.floating]:
        """Return the wings as a kernel at full resolution, ``(2 h + 1, 2 h + 1)``, cut at the half width."""
        y, x = np.mgrid[-half_width : half_width + 1, -half_width : half_width + 1]
        total = np.zeros(x.shape)
        for weight, sigma in zip(self.weights, self.sigmas, strict=True):
            ring = _ring(x**2 + y**2, sigma, self.inner)
            # the integral of the ring over the plane, 2 pi (s^2 - 1 / (1/s^2 + 1/t^2))
            total += weight * ring / (2 * np.pi * (sigma**2 - 1 / (1 / sigma**2 + 1 / self.inner**2)))
        return total


@dataclass(frozen=True)
class RingLight:
    """What rings carry of one image: all that its wings need and that does not depend on the other image.

    Attributes
    ----------
    sigmas : (n,) array
    inner : float
        As in `KernelWings`.
    carried : (n, ny // BIN, nx // BIN) array
        The binned image convolved with every ring of unit sum.
    near_bad : (ny, nx) bool array
        Pixels into which a ring carries a bad pixel.
    core_half_width : int
    """

    sigmas: np.ndarray
    inner: float
    carried: np.ndarray
    near_bad: np.ndarray
    core_half_width: int

    @classmethod
    def of(cls, reference: NDArray[np.floating], bad: NDArray[np.bool_], core_half_width: int) -> RingLight:
        """Return the light that rings outside a kernel core carry.

        Parameters
        ----------
        reference : (ny, nx) array
            The image that is convolved.
        bad : (ny, nx) bool array
        core_half_width : int
            Half width of the core of the kernel; sets the scale of the rings.
        """
        sigmas, inner = core_half_width * np.array([0.7, 1.4]), 0.5 * core_half_width
        binned = _binned_light(reference, bad)
        carried = np.array([fftconvolve(binned, ring, mode="same") for ring in _rings(sigmas, inner)])
        return cls(sigmas, inner, carried, maximum_filter(bad, 4 * core_half_width + 1), core_half_width)


def fit_wings(
    light: RingLight,
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    *,
    background_order: int = 3,
) -> KernelWings:
    """Fit the wings to a difference image made with the core of the kernel.

    Parameters
    ----------
    light : RingLight
        Of the image that was convolved.
    difference, variance : (ny, nx) arrays
        Target minus convolved reference, and its variance.
    bad : (ny, nx) bool array
        Pixels of the difference that are not usable.
    background_order : int
        Order of the background fitted at the same time.

    Returns
    -------
    wings : KernelWings or None
        None when there is not enough light: the error of the sum is above two per cent of the kernel sum.
    """
    good = ~(bad | light.near_bad)
    share = _bin(good.astype(np.float32))
    usable = share > 0.5
    edge = -(-2 * light.core_half_width // BIN)
    usable[:edge] = usable[-edge:] = False
    usable[:, :edge] = usable[:, -edge:] = False
    share = np.maximum(share, 1e-3)
    values = _bin(np.where(good, difference, 0)) / share
    noise = np.sqrt(_bin_of_neighbours(variance) / (BIN**2 * share))
    usable &= noise > 0
    y, x = np.nonzero(usable)
    terms = SpatialTerms(Box.from_shape(usable.shape), background_order)
    columns = light.carried[:, usable]
    if len(x) < 10 * (len(terms) + 2):
        return None
    design = np.concatenate([columns.T, terms.evaluate(x, y)], axis=1)
    values, weight = values[usable], 1 / noise[usable]
    keep = np.abs(values - np.median(values)) * weight < 8
    for _ in range(4):
        scaled = design[keep]
        scaled *= weight[keep][:, None]
        inverse = np.linalg.pinv(scaled.T @ scaled, rcond=1e-13, hermitian=True)
        coefficients = inverse @ (scaled.T @ (values[keep] * weight[keep]))
        keep = np.abs(values - design @ coefficients) * weight < 4
    error = float(np.sqrt(inverse[:2, :2].sum()))
    return KernelWings(light.sigmas, light.inner, coefficients[:2], error)


def _ring(r2: NDArray[np.integer], sigma: float, inner: float) -> NDArray[np.floating]:
    return np.exp(-r2 / (2 * sigma**2)) * (1 - np.exp(-r2 / (2 * inner**2)))


def _rings(sigmas: NDArray[np.floating], inner: float) -> list[NDArray[np.floating]]:
    """Return the rings on the binned grid, each with unit sum."""
    half = int(np.ceil(4 * max(sigmas) / BIN))
    y, x = np.mgrid[-half : half + 1, -half : half + 1] * BIN
    rings = [_ring(x**2 + y**2, sigma, inner) for sigma in sigmas]
    return [ring / ring.sum() for ring in rings]


def _bin(image: NDArray[np.floating]) -> NDArray[np.floating]:
    ny, nx = (side // BIN * BIN for side in image.shape)
    return image[:ny, :nx].reshape(ny // BIN, BIN, nx // BIN, BIN).mean(axis=(1, 3), dtype=np.float64)


def _bin_of_neighbours(variance: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the binned mean of the eight neighbours of every pixel, which does not know the noise of the pixel itself."""
    nine = _sums_of_three(_sums_of_three(variance).T).T / BIN**2
    return (nine - _bin(variance)) / 8


def _sums_of_three(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return, binned along the first axis, the sum of every row and its two neighbours; rows at the edge repeat."""
    n = len(image) // BIN
    first = BIN * np.arange(n)
    last = first + BIN - 1
    rows = image[: BIN * n].reshape(n, BIN, -1).sum(axis=1, dtype=np.float64)
    return (
        3 * rows - image[first] - image[last] + image[np.maximum(first - 1, 0)]
        + image[np.minimum(last + 1, len(image) - 1)]
    )  # fmt: skip


def _binned_light(reference: NDArray[np.floating], bad: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Return the reference above its median, bad pixels zero, binned."""
    thin = reference[::5, ::5][~bad[::5, ::5]]
    return _bin(np.where(bad, 0, reference - (np.median(thin) if len(thin) else 0)))


def _enlarge(binned: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.floating]:
    """Interpolate a binned image linearly to full resolution, ``shape`` float32."""
    out = np.empty(shape, np.float32)
    ny, nx = (side * BIN for side in binned.shape)
    padded = np.pad(binned, 1, mode="edge").astype(np.float32)
    _stretch(_stretch(padded, np.empty((ny, padded.shape[1]), np.float32)).T, out[:ny, :nx].T)
    out[ny:], out[:, nx:] = out[ny - 1], out[:, nx - 1 : nx]
    return out


def _stretch(padded: NDArray[np.floating], out: NDArray[np.floating]) -> NDArray[np.floating]:
    """Interpolate rows linearly to ``BIN`` times as many; the first and last are borders only."""
    for k in range(BIN):
        offset = np.float32((k + 0.5) / BIN - 0.5)  # of the fine row from the middle of its bin, in bins
        other = padded[:-2] if offset < 0 else padded[2:]
        out[k::BIN] = (1 - abs(offset)) * padded[1:-1] + abs(offset) * other
    return out
