"""Cosmic rays as pixels that are sharper than the point-spread function (R. Lupton's algorithm for SDSS).

A pixel is a cosmic ray when it stands out of the mean of two opposite neighbours by many sigma, and when the
ratio of that mean to the pixel is smaller than a star centred on the pixel could make it. Touching pixels form
one event, weak events are dropped, and the pixels around an event are tested again with half the threshold and
no allowance for noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.events import (
    CosmicRays,
    collect,
    join_touching,
    no_cosmic_rays,
    noisy_background,
    pixels_of,
    replacement,
    spans_of,
)
from starmill.errors import InputError, TooManyCosmicRaysError
from starmill.kernels import cosmic_rays as kernel
from starmill.numerics.tiles import row_bands

REMOVALS = ("predict", "noise")


def contrast_limits(psf_image: NDArray[np.floating], factor: float) -> NDArray[np.float64]:
    """Largest ratio of neighbour to centre that a cosmic ray may have: along y, along x, diagonally.

    Parameters
    ----------
    psf_image : (n, n) array
        Point-spread function centred on the central pixel, odd n >= 3.
    factor : float
        Multiplies the ratios of the point-spread function.
    """
    image = np.asarray(psf_image, dtype=np.float64)
    if image.ndim != 2 or min(image.shape) < 3 or image.shape[0] % 2 == 0 or image.shape[1] % 2 == 0:
        raise InputError(f"the PSF image needs an odd size of at least 3 x 3, it has shape {image.shape}")
    cy, cx = image.shape[0] // 2, image.shape[1] // 2
    box = image[cy - 1 : cy + 2, cx - 1 : cx + 2]
    if not (np.isfinite(box).all() and box[1, 1] > 0):
        raise InputError(f"the centre of the PSF image is not positive: {box[1, 1]}")
    along_y = (box[0, 1] + box[2, 1]) / 2
    along_x = (box[1, 0] + box[1, 2]) / 2
    diagonal = (box[0, 0] + box[0, 2] + box[2, 0] + box[2, 2]) / 4
    return factor * np.array([along_y, along_x, diagonal]) / box[1, 1]


def star_contrast(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    mask: NDArray[np.integer],
    *,
    reject_bits: int = 0,
    background: float = 0.0,
    least_snr: float = 30.0,
    least_ratio: float = 0.1,
    fraction: float = 0.05,
    least_peaks: int = 30,
) -> NDArray[np.float64]:
    """Ratio of neighbours to centre that nearly all stars of an image exceed: along y, along x, diagonally.

    Of the bright peaks those are left out that have a pair of opposite neighbours near the background, as cosmic
    rays do; of the others a low quantile is taken. It does not need the point-spread function, so it shows when
    the one in use is wider than the stars.

    Parameters
    ----------
    image, variance, mask, reject_bits, background
        As for :func:`find_cosmic_rays`.
    least_snr : float
        Least height of a peak in sigma of its pixel.
    least_ratio : float
        Least ratio of the faintest pair of a star to the peak.
    fraction : float
        The quantile.
    least_peaks : int
        With fewer peaks the result is infinite: nothing is known.

    Returns
    -------
    ratios : (3,) array
    """
    y, x = _bright_pixels(image, variance, background, least_snr).T
    around = np.array([image[y + j, x + i] for j in (-1, 0, 1) for i in (-1, 0, 1)], np.float64) - background
    flags = np.bitwise_or.reduce([mask[y + j, x + i] for j in (-1, 0, 1) for i in (-1, 0, 1)])
    peak = (around[4] >= around.max(axis=0)) & (flags & reject_bits == 0) & (variance[y, x] > 0)
    around = around[:, peak]
    ratios = (
        np.array([around[[1, 7]], around[[3, 5]], around[[0, 8]], around[[2, 6]]]).mean(axis=1) / around[4]
    )
    stars = ratios[:, ratios.min(axis=0) > least_ratio] if ratios.size else ratios
    if stars.shape[1] < least_peaks:
        return np.full(3, np.inf)
    along_y, along_x = np.quantile(stars[:2], fraction, axis=1)
    return np.array([along_y, along_x, np.quantile(stars[2:].min(axis=0), fraction)])


def find_cosmic_rays(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    mask: NDArray[np.integer] | None = None,
    *,
    psf_image: NDArray[np.floating],
    reject_bits: int = 0,
    interpolated_bit: int = 0,
    background: float = 0.0,
    n_sigma: float = 6.0,
    min_counts: float = 150.0,
    noise_factor: float = 2.0,
    contrast_factor: float = 0.35,
    contrast_limit: NDArray[np.float64] | None = None,
    n_iterations: int = 6,
    max_pixels: int = 1_000_000,
    removal: str = "predict",
    seed: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> CosmicRays:
    """Find cosmic rays by their contrast and compute the values that replace them.

    Parameters
    ----------
    image : (ny, nx) array, electron
        Background subtracted, or with ``background`` in it. NaN is never a cosmic ray.
    variance : (ny, nx) array, electron**2
    mask : (ny, nx) int array, optional
    psf_image : (n, n) array
        Point-spread function, centred on the central pixel.
    reject_bits : int
        Mask planes whose pixels are never taken (bad, saturated, interpolated, no data) nor used in the
        prediction.
    interpolated_bit : int
        Plane of interpolated pixels; their neighbours are not taken either.
    background : float, electron
        Level under the image.
    n_sigma : float
        Least excess over the mean of two opposite neighbours, in sigma of the pixel. Negative: least value
        of the pixel instead.
    min_counts : float, electron
        Least sum of an event over the background.
    noise_factor : float
        Allowance for noise in the contrast test, sigma.
    contrast_factor : float
        Allowed neighbour-to-centre ratio in units of that of the point-spread function.
    contrast_limit : (3,) array, optional
        Largest ratios along y, along x, and diagonally, whatever the point-spread function says; a safe part of
        :func:`star_contrast`.
    n_iterations : int
        Largest number of passes that let events grow.
    max_pixels : int
        Limit on the number of pixels of the first scan.
    removal : {'predict', 'noise'}
        Replace pixels by linear prediction along four lines, or by the background with Gaussian noise
        (what the LSST stack does today; it leaves a hole under an event that lies on a star).
    seed : int
        Of the noise of ``removal='noise'``.
    origin : (x0, y0)
        Parent-frame index of the first pixel.

    Returns
    -------
    cosmic_rays : CosmicRays
        The image itself is not changed.

    Raises
    ------
    TooManyCosmicRaysError
        When the first scan reaches ``max_pixels``.

    References
    ----------
    Lupton et al. 2001, ASP Conf. Ser. 238, 269 (SDSS imaging pipelines).
    """
    if removal not in REMOVALS:
        raise InputError(f"unknown removal {removal!r} (known: {', '.join(REMOVALS)})")
    _check_shapes(image, variance, mask)
    contrast = contrast_limits(psf_image, contrast_factor)
    if contrast_limit is not None:
        contrast = np.minimum(contrast, contrast_limit)
    work = np.array(image, dtype=np.float32)
    noise = np.ascontiguousarray(variance, dtype=np.float32)
    planes = np.zeros(work.shape, np.int32) if mask is None else np.asarray(mask, dtype=np.int32)
    bits = (np.int32(reject_bits), np.int32(interpolated_bit))
    if min(work.shape) < 3:
        return no_cosmic_rays()
    pixels, values, complete = kernel.find_sharp_pixels(
        work,
        noise,
        planes,
        *bits,
        float(n_sigma),
        contrast,
        float(noise_factor),
        float(background),
        int(max_pixels),
    )
    if not complete:
        raise TooManyCosmicRaysError(
            "too many pixels look like cosmic rays",
            numbers={"limit": int(max_pixels), "pixels": int(work.size)},
        )
    work[pixels[:, 0], pixels[:, 1]] = values
    spans, owners = _strong_events(pixels, values.astype(np.float64) - background, min_counts)
    if len(spans) == 0:
        return no_cosmic_rays()
    random = np.random.default_rng(seed) if removal == "noise" else None
    bad = (planes & bits[0]) != 0
    taken = pixels_of(spans)[0]
    bad[taken[:, 0], taken[:, 1]] = True
    if random is None:
        work[taken[:, 0], taken[:, 1]], _ = replacement(work, noise, bad, taken, background)
    else:
        work[taken[:, 0], taken[:, 1]], _ = noisy_background(noise, taken, background, random)
    for _ in range(n_iterations):
        extra, found_from = kernel.grow_from_spans(
            work, noise, planes, spans, *bits, float(n_sigma) / 2, contrast, float(background)
        )
        if len(extra) == 0:
            break
        pixels, from_span = pixels_of(spans)
        spans, owners = spans_of(
            np.concatenate([pixels, extra]), np.concatenate([owners[from_span], owners[found_from]])
        )
    return collect(work, noise, bad, spans, owners, background=background, origin=origin, random=random)


def _bright_pixels(
    image: NDArray[np.floating], variance: NDArray[np.floating], background: float, least_snr: float
) -> NDArray[np.integer]:
    """Pixels (y, x) that are not on the edge and exceed the background by so many sigma; in bands of rows."""
    found = [np.empty((0, 2), np.int64)]
    for first, last in row_bands(image.shape[0], 64):
        height = image[first:last] - np.float32(background)
        bright = (height > 0) & (height * height > np.float32(least_snr**2) * variance[first:last])
        bright[:, [0, -1]] = False
        found.append(np.argwhere(bright) + np.array([first, 0]))
    pixels = np.concatenate(found)
    return pixels[(pixels[:, 0] > 0) & (pixels[:, 0] < image.shape[0] - 1)]


def _strong_events(
    pixels: NDArray[np.integer], counts: NDArray[np.floating], min_counts: float
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Join touching pixels, given in row order, and drop weak events; spans sorted by event, event of each."""
    spans, labels = join_touching(pixels)
    lengths = spans[:, 2] - spans[:, 1] + 1
    sums = np.bincount(np.repeat(labels, lengths), weights=counts)
    keep = (sums >= min_counts)[labels]
    order = np.argsort(labels[keep], kind="stable")
    return spans[keep][order], labels[keep][order]


def _check_shapes(
    image: NDArray[np.floating], variance: NDArray[np.floating], mask: NDArray[np.integer] | None
) -> None:
    """Image, variance and mask have two dimensions and the same shape."""
    shapes = [np.shape(image), np.shape(variance)] + ([np.shape(mask)] if mask is not None else [])
    if len(shapes[0]) != 2 or any(shape != shapes[0] for shape in shapes):
        raise InputError(f"image, variance and mask need one two-dimensional shape, they have {shapes}")
