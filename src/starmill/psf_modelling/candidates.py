"""Stamps around PSF candidates, with the pixels that belong to something else masked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from starmill.errors import AlgorithmError, InputError, NoDataError
from starmill.kernels.psf_fit import mask_neighbours

_CONNECTED = np.zeros((3, 3, 3), dtype=bool)
_CONNECTED[1] = True  # pixels touch within a stamp, 8-connected; stamps do not touch each other


@dataclass(frozen=True)
class StarStamps:
    """Cut-outs of n stars, each with the star in its central pixel.

    Attributes
    ----------
    images, variances : (n, size, size) float32, electron, electron**2
        Zero and one where ``good`` is False because the stamp leaves the image.
    good : (n, size, size) bool
        Pixels that may be used for the star.
    x, y : (n,) float64, pixel
        Positions in the parent frame.
    x0, y0 : (n,) int64
        Parent pixel of ``images[k, 0, 0]``.
    sky_variance : (n,) float64, electron**2
        Variance outside the star.
    gain_slope : float
        Increase of the variance per electron of the star: 1 for electrons.
    """

    images: NDArray[np.float32]
    variances: NDArray[np.float32]
    good: NDArray[np.bool_]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    sky_variance: NDArray[np.float64]
    gain_slope: float

    def __len__(self) -> int:
        return len(self.x)

    @property
    def size(self) -> int:
        """Side of a stamp in pixels, odd."""
        return self.images.shape[-1]

    @property
    def dx(self) -> NDArray[np.float64]:
        """Offset of the star from the centre of the central pixel along x, pixel."""
        return self.x - (self.x0 + self.size // 2)

    @property
    def dy(self) -> NDArray[np.float64]:
        """Offset along y, pixel."""
        return self.y - (self.y0 + self.size // 2)

    def take(self, index: NDArray[Any]) -> StarStamps:
        """Return the stamps of a bool mask or of indices."""
        names = ("images", "variances", "good", "x", "y", "x0", "y0", "sky_variance")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def good_fraction(self, radius: float) -> NDArray[np.float64]:
        """Return the share of usable pixels within ``radius`` pixels of the central one, (n,)."""
        half = self.size // 2
        yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
        inside = xx * xx + yy * yy <= radius * radius
        return self.good[:, inside].mean(axis=1)


def extract_star_stamps(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    mask: NDArray[np.integer],
    x: NDArray[np.floating] | list[float],
    y: NDArray[np.floating] | list[float],
    *,
    size: int,
    bad_bits: int = 0,
    detected_bits: int = 0,
    neighbour_x: NDArray[np.floating] | None = None,
    neighbour_y: NDArray[np.floating] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> StarStamps:
    """Cut the stamps of stars and mask what is not theirs.

    Parameters
    ----------
    image, variance : (ny, nx) float32, electron, electron**2
        Background subtracted; not finite means unusable.
    mask : (ny, nx) int32
        Bit planes.
    x, y : (n,) array, pixel
        Positions in the parent frame.
    size : int
        Side of the stamps, odd.
    bad_bits : int
        A pixel with one of these bits is unusable.
    detected_bits : int
        Bits of detected pixels: detected pixels that are not connected with the star, and two pixels
        around them, are left out.
    neighbour_x, neighbour_y : (m,) array, pixel
        Positions of all other sources (the stars may be among them): pixels nearer to another source are left out.
    origin : (int, int)
        ``(x0, y0)`` of the arrays in the parent frame.

    Returns
    -------
    stamps : StarStamps
    """
    if size % 2 == 0 or size < 3:
        raise InputError(f"the stamp size must be odd and at least 3, it is {size}")
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("positions of PSF candidates must be finite")
    half = size // 2
    x0 = np.floor(x + 0.5).astype(np.int64) - half
    y0 = np.floor(y + 0.5).astype(np.int64) - half
    rows = (y0 - origin[1])[:, None] + np.arange(size)
    columns = (x0 - origin[0])[:, None] + np.arange(size)
    ny, nx = image.shape
    if image.size == 0:
        raise NoDataError(
            f"there are no PSF candidates in an image without pixels, its shape is {image.shape}"
        )
    inside = ((rows >= 0) & (rows < ny))[:, :, None] & ((columns >= 0) & (columns < nx))[:, None, :]
    index = (np.clip(rows, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :])
    images = image[index].astype(np.float32)
    variances = variance[index].astype(np.float32)
    bits = mask[index]
    good = inside & ((bits & bad_bits) == 0)
    good &= np.isfinite(images) & np.isfinite(variances) & (variances > 0)
    images[~np.isfinite(images) | ~inside] = 0.0
    variances[~np.isfinite(variances) | ~inside] = 1.0
    if detected_bits:
        good &= ~_other_detections((bits & detected_bits) != 0)
    if neighbour_x is not None:
        pairs = _neighbour_pairs(x, y, np.asarray(neighbour_x), np.asarray(neighbour_y), size)
        mask_neighbours(good, x0, y0, x, y, *pairs)
    sky_variance, slope = _variance_model(images, variances, good)
    return StarStamps(images, variances, good, x, y, x0, y0, sky_variance, slope)


def _other_detections(detected: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the detected pixels that are not connected with the central one, grown by two pixels."""
    half = detected.shape[-1] // 2
    labels, _ = ndimage.label(detected, _CONNECTED)
    central = labels[:, half - 1 : half + 2, half - 1 : half + 2].max(axis=(1, 2))
    others = detected & (labels != central[:, None, None])
    return ndimage.binary_dilation(others, _CONNECTED, iterations=2) & ~(
        detected & (labels == central[:, None, None])
    )


def _neighbour_pairs(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    other_x: NDArray[np.floating],
    other_y: NDArray[np.floating],
    size: int,
) -> tuple[NDArray[np.integer], NDArray[np.floating], NDArray[np.floating]]:
    """Return offsets, x and y of the sources within reach of each stamp, without the star itself."""
    finite = np.isfinite(other_x) & np.isfinite(other_y)
    others = np.stack([other_x[finite], other_y[finite]], axis=1)
    if not len(others):
        return np.zeros(len(x) + 1, np.int64), np.zeros(0), np.zeros(0)
    stars = np.stack([x, y], axis=1)
    found = cKDTree(others).query_ball_point(stars, 1.5 * size)
    itself = 1.0  # pixel; two sources nearer than this are one star and its own catalogue entry
    kept = []
    for star, near in zip(stars, found, strict=True):
        near = np.asarray(near, dtype=np.int64)
        distance = np.hypot(*(others[near] - star).T)
        kept.append(near[distance > itself])
    offsets = np.concatenate([[0], np.cumsum([len(k) for k in kept])]).astype(np.int64)
    order = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return offsets, np.ascontiguousarray(others[order, 0]), np.ascontiguousarray(others[order, 1])


def _variance_model(
    images: NDArray[np.floating], variances: NDArray[np.floating], good: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], float]:
    """Return the sky variance of each stamp and the slope of variance with star signal.

    Notes
    -----
    Weights from the variance plane itself would follow the noise of each pixel and bias the fit low; a sky level and
    one slope for all stars do not.
    """
    size = images.shape[-1]
    half = size // 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    outer = np.maximum(abs(xx), abs(yy)) >= half - 1
    values = np.sort(np.where(good[:, outer], variances[:, outer], np.inf), axis=1)
    count = np.isfinite(values).sum(axis=1)
    sky = values[np.arange(len(images)), count // 2 - (count == values.shape[1])].astype(np.float64)
    unknown = ~np.isfinite(sky)
    sky[unknown] = np.median(sky[~unknown]) if not unknown.all() else np.median(variances)
    signal = np.where(good, images, 0.0).astype(np.float64)
    core = (xx * xx + yy * yy <= 9)[None]
    signal = np.where(core, np.maximum(signal, 0.0), 0.0)
    power = np.sum(signal * signal)
    slope = np.sum(signal * (variances - sky[:, None, None])) / power if power > 0 else 0.0
    return sky, float(max(slope, 0.0))


def require_usable(
    stamps: StarStamps, core_radius: float, *, min_fraction: float = 0.9, min_stars: int = 1
) -> NDArray[np.bool_]:
    """Keep the stamps whose core is free of masked pixels and neighbours.

    Parameters
    ----------
    stamps : StarStamps
    core_radius : float, pixel
    min_fraction : float
        Smallest share of usable pixels within ``core_radius``.
    min_stars : int
        Fewer raise an error.

    Returns
    -------
    usable : (n,) bool

    Raises
    ------
    AlgorithmError
        Fewer than ``min_stars`` remain.
    """
    usable = stamps.good_fraction(core_radius) >= min_fraction
    usable &= stamps.good[:, stamps.size // 2, stamps.size // 2]
    if usable.sum() < min_stars:
        raise AlgorithmError(
            f"{int(usable.sum())} of {len(stamps)} PSF candidates have a clean core of "
            f"{core_radius:.1f} pixels, {min_stars} are needed",
            numbers={"candidates": len(stamps), "usable": int(usable.sum()), "needed": min_stars},
        )
    return usable
