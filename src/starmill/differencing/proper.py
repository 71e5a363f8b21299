r"""Differences of which the target was blurred first: pre-convolution, dual convolution, the proper difference.

With :math:`D = G \otimes T - K \otimes R` (:math:`G` known, :math:`K` fitted so that stars cancel) the noise has the
power :math:`N = \sigma_T^2 |\hat G|^2 + \sigma_R^2 |\hat K|^2` and a point source the shape :math:`P = G \otimes P_T`. Then

.. math:: \hat\phi = \sqrt{(\sigma_T^2 + \kappa^2 \sigma_R^2) / N}, \qquad
          S = \frac{h \otimes D}{\sqrt{(h \otimes G)^2 \otimes \sigma_T^2 + (h \otimes K)^2 \otimes \sigma_R^2}},
          \qquad \hat h = \hat P^* / N

are the filter to white noise and the signal-to-noise of a point source with the noise of the sources in it
(:math:`\kappa` the kernel sum). With :math:`G = 1` the white difference is the proper image of Zackay, Ofek & Gal-Yam
with the flux-scaled ratio of the PSFs taken from the fit. With :math:`G = P_T` the difference is the score image itself,
up to its norm: nothing is sharpened when the template is the broader one.

References
----------
Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27 (equations 13 to 16 and 25).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from starmill.differencing.convolve import repair_bad
from starmill.differencing.decorrelation import whiten
from starmill.differencing.seeing import Seeing
from starmill.differencing.sides import Side, sky_noise

if TYPE_CHECKING:
    from starmill.datamodel.geometry import Box
    from starmill.datamodel.spatial_kernel import SpatialKernel


__all__ = ["FilteredDifference", "blurred_side", "common_blur", "filter_difference", "sharpening"]

_HALF = 24  # pixels, of the filters
_NARROWEST = 0.1  # pixel**2: a weight of one pixel has no moments
_FLOOR = 1e-5  # of the greatest noise power: where both images are blurred away there is nothing to divide by
_WHITE_FLOOR = 1e-2  # the same for the white image: greater gains would show the error of the convolution


def psf_covariance(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the second moments of a PSF, ``[[xx, xy], [xy, yy]]``, weighted by a Gaussian of its own size."""
    half = image.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    cov = np.eye(2) * 4.0
    for _ in range(50):
        inverse = np.linalg.inv(cov)
        w = np.exp(-(inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y) / 2) * image
        total = w.sum()
        xx, xy, yy = ((w * q).sum() / total for q in (x * x, x * y, y * y))
        values, axes = np.linalg.eigh(
            2 * np.array([[xx, xy], [xy, yy]])
        )  # under a weight of the same size: half
        new = (axes * np.maximum(values, _NARROWEST)) @ axes.T
        if np.allclose(new, cov, rtol=1e-5):
            break
        cov = new
    return cov


def sharpening(reference_psf: NDArray[np.floating], target_psf: NDArray[np.floating]) -> float:
    """Return how many times broader the reference is than the target in the worst direction.

    Parameters
    ----------
    reference_psf, target_psf : (m, m) arrays

    Returns
    -------
    factor : float
        Below 1 when the target is the broader one in every direction: then no kernel has to sharpen.
    """
    ratio = np.linalg.solve(psf_covariance(target_psf), psf_covariance(reference_psf))
    return float(np.sqrt(max(np.linalg.eigvals(ratio).real.max(), 0.0)))


def common_blur(
    reference_psf: NDArray[np.floating], target_psf: NDArray[np.floating], *, margin: float = 0.25
) -> NDArray[np.floating] | None:
    """Return the Gaussian that makes the target broader than the reference in every direction.

    Parameters
    ----------
    reference_psf, target_psf : (m, m) arrays
    margin : float
        Smallest variance of the matching kernel in any direction, pixel**2.

    Returns
    -------
    blur : (k, k) array or None
        Unit sum; None when the target is the broader one in every direction.
    """
    lacking = np.linalg.eigvalsh(psf_covariance(reference_psf) - psf_covariance(target_psf)).max() + margin
    if lacking <= margin:
        return None
    sigma = float(np.sqrt(max(lacking, 0.5)))
    half = int(np.ceil(4 * sigma))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    image = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return image / image.sum()


def _constant(image: NDArray[np.floating], kernel: NDArray[np.floating]) -> NDArray[np.floating]:
    """Convolve an image with one kernel."""
    filters = np.broadcast_to(kernel, (2, 2, *kernel.shape))
    return whiten(image, filters, spacing=max(image.shape))


def blurred_side(side: Side, blur: NDArray[np.floating], *, lost_limit: float) -> Side:
    """Return an image convolved with a known kernel, with its variance, unusable pixels and seeing.

    Parameters
    ----------
    side : Side
    blur : (k, k) array
        Unit sum.
    lost_limit : float
        A pixel with more of the kernel on bad pixels is unusable.
    """
    clean = repair_bad(side.image, side.bad)
    lost = _constant(side.bad.astype(np.float32), np.abs(blur)) / np.abs(blur).sum()
    variance = _constant(side.variance, blur**2)
    np.maximum(variance, 1e-6 * float(np.median(variance)), out=variance)
    psf = _full(side.seeing.psf_image, blur)
    moments = np.linalg.det(psf_covariance(psf)) ** 0.25
    seeing = Seeing(float(moments), psf, side.seeing.stars)
    return replace(
        side, image=_constant(clean, blur), variance=variance, bad=side.bad | (lost > lost_limit), seeing=seeing
    )  # fmt: skip


@dataclass(frozen=True)
class FilteredDifference:
    """A filtered difference and its score.

    Attributes
    ----------
    image, variance : (ny, nx) arrays
        White, on the flux scale of the difference that was filtered.
    psf : (m, m) array
        Of the white difference.
    flux, score : (ny, nx) arrays
        Flux of a point source at every pixel and its signal-to-noise, of unit width on empty sky.
    """

    image: np.ndarray
    variance: np.ndarray
    psf: np.ndarray
    flux: np.ndarray
    score: np.ndarray


def filter_difference(
    difference: NDArray[np.floating],
    bad: NDArray[np.bool_],
    reference: Side,
    target: Side,
    kernel: SpatialKernel,
    box: Box,
    blur: NDArray[np.floating] | None = None,
) -> FilteredDifference:
    """Filter a difference to white noise and to the signal-to-noise of point sources.

    Parameters
    ----------
    difference : (ny, nx) array
        Blurred target minus matched reference.
    bad : (ny, nx) bool array
    reference, target : Side
        As they were before the blur.
    kernel : SpatialKernel
        From the reference to the blurred target.
    box : Box
        Of the image.
    blur : (k, k) array, optional
        With which the target was convolved.
    """
    noise = sky_noise(target, reference)
    blur = np.ones((1, 1)) if blur is None else blur
    half = min(_HALF, min(difference.shape) // 4)
    spacing = max(64, -(-max(difference.shape) // 4))
    x = box.x0 + spacing * np.arange(-(-(box.width - 1) // spacing) + 1)
    y = box.y0 + spacing * np.arange(-(-(box.height - 1) // spacing) + 1)
    images = kernel.kernels_at(x[None, :], y[:, None])
    central = _filters(kernel.kernel_at(*box.center), noise, target.seeing.psf_image, blur, half)
    nodes = [[_filters(image, noise, target.seeing.psf_image, blur, half) for image in row] for row in images]

    def at_nodes(name: str) -> NDArray[np.floating]:
        return np.array([[filters[name] for filters in row] for row in nodes])

    clean = np.where(bad, 0, difference).astype(np.float32)
    variances = np.ascontiguousarray(target.variance), np.ascontiguousarray(reference.variance)

    def noise_behind(name: str) -> NDArray[np.floating]:
        return sum(
            whiten(variance, at_nodes(f"{name}_{of}") ** 2, spacing=spacing)
            for variance, of in zip(variances, ("target", "reference"), strict=True)
        )

    variance = np.maximum(noise_behind("white"), 1e-3 * noise[0])
    signal = whiten(clean, at_nodes("score"), spacing=spacing)
    spread = np.maximum(noise_behind("score"), 1e-12)
    gain = float(central["gain"])
    score = np.where(bad, 0, signal / np.sqrt(spread)).astype(np.float32)
    return FilteredDifference(
        whiten(clean, at_nodes("white"), spacing=spacing), variance, central["psf"],
        (signal / np.float32(gain)).astype(np.float32), score,
    )  # fmt: skip


def _filters(
    kernel_image: NDArray[np.floating],
    noise: tuple[float, float],
    psf: NDArray[np.floating],
    blur: NDArray[np.floating],
    half: int,
) -> dict[str, NDArray[np.floating]]:
    """Return the filters of one position and what they make of both noises."""
    side = 4 * half + 1
    transforms = [fft.rfft2(_wrapped(image, side)) for image in (kernel_image, psf, blur)]
    k, p, g = transforms
    power = noise[0] * np.abs(g) ** 2 + noise[1] * np.abs(k) ** 2
    power = np.maximum(power, _FLOOR * power.max())
    limited = np.maximum(power, _WHITE_FLOOR * power.max())
    white = np.sqrt((noise[0] + kernel_image.sum() ** 2 * noise[1]) / limited)
    score = np.conj(p * g) / power
    white_image = _cut(white, side, half)
    scale = 1 / white_image.sum()  # the flux of a source is kept
    white = fft.rfft2(_wrapped(white_image * scale, side))
    score_image = _cut(score, side, half)
    norm = np.abs(score_image).max()
    score = fft.rfft2(_wrapped(score_image / norm, side))
    return {
        "white": white_image * scale, "score": score_image / norm, "psf": _cut(white * p * g, side, half),
        "white_target": _cut(white * g, side, half), "white_reference": _cut(white * k, side, half),
        "score_target": _cut(score * g, side, half), "score_reference": _cut(score * k, side, half),
        "gain": fft.irfft2(score * p * g, s=(side, side))[0, 0],
    }  # fmt: skip


def _wrapped(image: NDArray[np.floating], side: int) -> NDArray[np.floating]:
    """Return an image on a periodic square with its centre at pixel (0, 0); what does not fit is cut."""
    size = image.shape[0]
    if size > side:
        edge = (size - side + 1) // 2
        image = image[edge : size - edge, edge : size - edge]
        size = image.shape[0]
    out = np.zeros((side, side))
    out[:size, :size] = image
    return np.roll(out, (-(size // 2), -(size // 2)), (0, 1))


def _cut(transform: NDArray[Any], side: int, half: int) -> NDArray[np.floating]:
    """Return the central part of the image of a transform."""
    image = fft.fftshift(fft.irfft2(transform, s=(side, side)))
    middle = side // 2
    return image[middle - half : middle + half + 1, middle - half : middle + half + 1]


def _full(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the convolution of two odd images, cut to the size of the greater one plus the other's half."""
    side = one.shape[0] + other.shape[0] - 1
    return _cut(fft.rfft2(_wrapped(one, side)) * fft.rfft2(_wrapped(other, side)), side, side // 2)
