"""Cosmic rays as pixels that are sharper than the point-spread function (R. Lupton's algorithm for SDSS).

A pixel is a cosmic ray when it stands out of the mean of two opposite neighbours by many sigma, and when the
ratio of that mean to the pixel is smaller than a star centred on the pixel could make it. Touching pixels form
one event, weak events are dropped, and the pixels around an event are tested again with half the threshold and
no allowance for noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.interpolate import run_weights
from starmill.datamodel.footprint import FootprintSet
from starmill.errors import InputError, TooManyCosmicRaysError
from starmill.kernels import cosmic_rays as kernel
from starmill.kernels.labelling import components_of_runs

REMOVALS = ("predict", "noise")

_LOW_BITS = (1 << 21) - 1  # a row or column number in the key that sorts pixels
_REACH = 6  # pixels to the nearest good neighbour along a line


@dataclass(frozen=True, slots=True)
class CosmicRays:
    """Cosmic rays of an image.

    Attributes
    ----------
    footprints : FootprintSet
        One per event, parent frame.
    pixels : (n, 2) int64 array
        y, x (array indices) of all their pixels, each once, in row order.
    values, variances : (n,) float32 arrays
        What replaces the image and the variance at ``pixels``.
    """

    footprints: FootprintSet
    pixels: NDArray[np.int64]
    values: NDArray[np.float32]
    variances: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.footprints)

    def flag(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Boolean image, True on the pixels."""
        out = np.zeros(shape, bool)
        out[self.pixels[:, 0], self.pixels[:, 1]] = True
        return out


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
    work = np.array(image, dtype=np.float32)
    noise = np.ascontiguousarray(variance, dtype=np.float32)
    planes = np.zeros(work.shape, np.int32) if mask is None else np.asarray(mask, dtype=np.int32)
    bits = (np.int32(reject_bits), np.int32(interpolated_bit))
    if min(work.shape) < 3:
        return _no_cosmic_rays()
    pixels, values, complete = kernel.find_sharp_pixels(
        work, noise, planes, *bits, float(n_sigma), contrast, float(noise_factor), float(background), int(max_pixels)
    )
    if not complete:
        raise TooManyCosmicRaysError(
            "too many pixels look like cosmic rays",
            numbers={"limit": int(max_pixels), "pixels": int(work.size)},
        )
    work[pixels[:, 0], pixels[:, 1]] = values
    spans, owners = _strong_events(pixels, values.astype(np.float64) - background, min_counts)
    if len(spans) == 0:
        return _no_cosmic_rays()
    random = np.random.default_rng(seed) if removal == "noise" else None
    bad = (planes & bits[0]) != 0
    taken = _pixels_of(spans)[0]
    bad[taken[:, 0], taken[:, 1]] = True
    work[taken[:, 0], taken[:, 1]], _ = _replacement(work, noise, bad, taken, background, random)
    for _ in range(n_iterations):
        extra, found_from = kernel.grow_from_spans(
            work, noise, planes, spans, *bits, float(n_sigma) / 2, contrast, float(background)
        )
        if len(extra) == 0:
            break
        spans, owners = _add_pixels(spans, owners, extra, owners[found_from])
    return _finish(work, noise, bad, spans, owners, background, random, origin)


def _finish(work, noise, bad, spans, owners, background, random, origin) -> CosmicRays:
    """Final replacement of all pixels of all events."""
    offsets = np.concatenate([[0], np.flatnonzero(np.diff(owners)) + 1, [len(owners)]])
    shift = np.array([origin[1], origin[0], origin[0]], np.int32)
    pixels = _pixels_of(_spans_of(_pixels_of(spans)[0], 0)[0])[0]
    bad[pixels[:, 0], pixels[:, 1]] = True
    values, variances = _replacement(work, noise, bad, pixels, background, random)
    return CosmicRays(FootprintSet(spans + shift, offsets), pixels, values, variances)


def _replacement(work, noise, bad, pixels, background, random):
    """Values and variances that replace the pixels."""
    if random is not None:
        variances = noise[pixels[:, 0], pixels[:, 1]]
        values = background + np.sqrt(variances) * random.standard_normal(len(pixels))
        return values.astype(np.float32), variances
    longest = 2 * _REACH - 1
    values, variances = np.empty(len(pixels)), np.empty(len(pixels))
    kernel.predict_pixels(
        work, noise, bad, pixels.astype(np.int32), run_weights(1.0, longest),
        run_weights(1.0, longest, float(np.sqrt(2.0))), _REACH, float(background), values, variances,
    )  # fmt: skip
    return values.astype(np.float32), variances.astype(np.float32)


def _strong_events(pixels, counts, min_counts):
    """Join touching pixels to events and drop the weak ones; spans sorted by event, and the event of each."""
    spans, _ = _spans_of(pixels, 0)
    labels, n_events = components_of_runs(spans)
    lengths = spans[:, 2] - spans[:, 1] + 1
    sums = np.bincount(np.repeat(labels, lengths), weights=counts, minlength=n_events)
    keep = (sums >= min_counts)[labels]
    order = np.argsort(labels[keep], kind="stable")
    return spans[keep][order], labels[keep][order]


def _add_pixels(spans, owners, extra, extra_owners):
    """Spans of the events with more pixels."""
    pixels, from_span = _pixels_of(spans)
    return _spans_of(np.concatenate([pixels, extra]), np.concatenate([owners[from_span], extra_owners]))


def _spans_of(pixels, owners):
    """Runs of pixels of the same owner and row, sorted by owner, y, x; repeated pixels count once."""
    keys = (np.asarray(owners, np.int64) << 42) | (pixels[:, 0].astype(np.int64) << 21) | pixels[:, 1]
    keys = np.unique(keys)
    first = np.flatnonzero(np.diff(keys, prepend=-2) != 1)
    last = np.append(first[1:], len(keys)) - 1
    y, x = (keys >> 21) & _LOW_BITS, keys & _LOW_BITS
    return np.column_stack([y[first], x[first], x[last]]).astype(np.int32), keys[first] >> 42


def _pixels_of(spans):
    """All pixels (y, x) of spans and the index of the span of each."""
    lengths = (spans[:, 2] - spans[:, 1] + 1).astype(np.int64)
    index = np.repeat(np.arange(len(spans)), lengths)
    along = np.arange(len(index)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.column_stack([spans[index, 0], spans[index, 1] + along]).astype(np.int64), index


def _no_cosmic_rays() -> CosmicRays:
    """Result for an image without any."""
    none = np.empty(0, np.float32)
    return CosmicRays(FootprintSet.empty(), np.empty((0, 2), np.int64), none, none)


def _check_shapes(image, variance, mask) -> None:
    """Image, variance and mask have two dimensions and the same shape."""
    shapes = [np.shape(image), np.shape(variance)] + ([np.shape(mask)] if mask is not None else [])
    if len(shapes[0]) != 2 or any(shape != shapes[0] for shape in shapes):
        raise InputError(f"image, variance and mask need one two-dimensional shape, they have {shapes}")
