"""Resampling of an exposure to another pixel grid by its WCS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from starmill.cosmic_rays.interpolate import interpolate_rows
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.errors import AlgorithmError, InputError
from starmill.kernels.resampling import resample
from starmill.numerics.tiles import map_tiles, row_bands

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from starmill.datamodel.geometry import Box


__all__ = [
    "interpolation_table",
    "resample_arrays",
    "same_grid",
    "source_positions",
    "warp_by_map",
    "warp_exposure",
]

_STEPS = 2048


def warp_exposure(
    exposure: Exposure,
    wcs: WCS,
    box: Box,
    *,
    kernel: str = "lanczos3",
    step: int = 10,
    missing: Sequence[str] = ("NO_DATA",),
) -> Exposure:
    """Resample an exposure to the pixels of another WCS.

    Parameters
    ----------
    exposure : Exposure
        With a WCS. Not changed.
    wcs : astropy.wcs.WCS
        Of the result, 0-based parent-frame pixels.
    box : Box
        Pixels of the result, parent frame.
    kernel : {"lanczos3", "lanczos5", "bilinear"}
    step : int
        Positions are computed every ``step`` pixels and interpolated; 0 computes all.
    missing : sequence of str
        See :func:`resample_arrays`.

    Returns
    -------
    warped : Exposure
        Flux per pixel follows the pixel area, so that a star keeps its flux. Pixels whose kernel is not inside
        the input are NaN and flagged NO_DATA.

    Raises
    ------
    InputError
        Without a WCS.
    AlgorithmError
        When the images do not overlap on the sky.
    """
    if exposure.wcs is None or wcs is None:
        raise InputError("both images need a WCS to be aligned")
    x, y = source_positions(wcs, exposure.wcs, box, step=step)
    x0, y0 = exposure.origin
    image, variance, mask = resample_arrays(
        exposure.image, exposure.variance, exposure.mask, x - x0, y - y0, kernel, missing
    )
    if not np.isfinite(image).any():
        ny, nx = exposure.shape
        raise AlgorithmError(
            "the images do not overlap on the sky",
            numbers={
                "width": nx, "height": ny, "x_min": float(np.nanmin(x)) if np.isfinite(x).any() else float("nan"),
                "y_min": float(np.nanmin(y)) if np.isfinite(y).any() else float("nan"),
            },
        )  # fmt: skip
    planes = Mask(mask, exposure.mask.planes, origin=(box.x0, box.y0))
    return Exposure(
        image, planes, variance, origin=(box.x0, box.y0), unit=exposure.unit, wcs=wcs, info=exposure.info,
        photo_scale=exposure.photo_scale,
    )  # fmt: skip


def resample_arrays(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    mask: Mask,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    kernel: str = "lanczos3",
    missing: Sequence[str] = ("NO_DATA",),
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]:
    """Resample arrays at array positions.

    Parameters
    ----------
    image, variance : (ny, nx) arrays
        Pixels that are not finite are to be flagged.
    mask : Mask
        NO_DATA, EDGE and INTRP are used.
    x, y : (my, mx) arrays
    kernel : str
    missing : sequence of str
        Planes of pixels that hold nothing: these, unless somebody has interpolated them (INTRP), and those that are not
        finite are predicted from their neighbours in the row, so that what they hold does not ring into pixels that
        carry no flag.

    Returns
    -------
    image, variance : (my, mx) float32 arrays
    mask : (my, mx) int32 array
    """
    table = interpolation_table(kernel)
    out, noise = np.empty(x.shape, np.float32), np.empty(x.shape, np.float32)
    flags = np.empty(x.shape, np.int32)
    area = relative_area(x, y)
    clean, clean_variance = _without_gaps(image, variance, mask, missing)
    edge, no_data = mask.bits("EDGE"), mask.bits("NO_DATA")

    def work(rows: tuple[int, int]) -> None:
        part = slice(*rows)
        resample(
            clean, clean_variance, mask.array, x[part], y[part], area[part], table, edge, no_data, out[part],
            noise[part], flags[part],
        )  # fmt: skip

    map_tiles(work, row_bands(x.shape[0], 128))
    return out, noise, flags


def _without_gaps(
    image: NDArray[np.floating], variance: NDArray[np.floating], mask: Mask, planes: Sequence[str]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return image and variance, float32, with a likely value in every pixel that holds none."""
    image, variance = (np.asarray(plane, np.float32) for plane in (image, variance))
    missing = mask.any(*planes) & ~mask.any("INTRP")
    missing |= ~(np.isfinite(image) & np.isfinite(variance))
    if not missing.any():
        return image, variance
    if missing.all():
        return np.zeros_like(image), np.zeros_like(variance)
    level = np.median(image[~missing])
    filled = interpolate_rows(image, missing, variance, fallback=float(level))
    return filled.image, filled.variance


def source_positions(
    wcs: WCS, source_wcs: WCS, box: Box, *, step: int = 10
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the pixel positions in the source image of every pixel of a box, parent frame, two ``box.shape`` arrays."""
    if step <= 1 or min(box.shape) < 3 * step:
        columns, rows = np.meshgrid(np.arange(box.x0, box.x1), np.arange(box.y0, box.y1))
        return _transform(wcs, source_wcs, columns, rows)
    nodes_x = np.append(np.arange(0, box.width - 1, step), box.width - 1)
    nodes_y = np.append(np.arange(0, box.height - 1, step), box.height - 1)
    columns, rows = np.meshgrid(nodes_x + box.x0, nodes_y + box.y0)
    coarse = _transform(wcs, source_wcs, columns, rows)
    at_x = np.interp(np.arange(box.width), nodes_x, np.arange(len(nodes_x)))
    at_y = np.interp(np.arange(box.height), nodes_y, np.arange(len(nodes_y)))
    grid = np.meshgrid(at_y, at_x, indexing="ij")
    return tuple(map_coordinates(part, grid, order=1, mode="nearest") for part in coarse)


def relative_area(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return input pixels per output pixel from backward differences of the positions, float32."""
    dx_column, dy_column = (
        np.diff(x, axis=1, prepend=2 * x[:, :1] - x[:, 1:2]),
        np.diff(y, axis=1, prepend=2 * y[:, :1] - y[:, 1:2]),
    )
    dx_row, dy_row = (
        np.diff(x, axis=0, prepend=2 * x[:1] - x[1:2]),
        np.diff(y, axis=0, prepend=2 * y[:1] - y[1:2]),
    )
    return np.abs(dx_column * dy_row - dx_row * dy_column).astype(np.float32)


def interpolation_table(kernel: str) -> NDArray[np.floating]:
    """Return the weights of a kernel for fractions 0 to 1, ``(steps + 1, taps)``.

    Lanczos: ``sinc(t) sinc(t / a)`` within ``a`` pixels.
    """
    fraction = np.linspace(0, 1, _STEPS + 1)[:, None]
    if kernel == "bilinear":
        return np.concatenate([1 - fraction, fraction], axis=1)
    orders = {"lanczos2": 2, "lanczos3": 3, "lanczos4": 4, "lanczos5": 5}
    if kernel not in orders:
        raise InputError(f"unknown resampling kernel {kernel!r} (known: bilinear, {', '.join(orders)})")
    order = orders[kernel]
    t = fraction - np.arange(-order + 1, order + 1)[None, :]
    weights = np.where(np.abs(t) < order, np.sinc(t) * np.sinc(t / order), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _transform(
    wcs: WCS, source_wcs: WCS, x: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    sky = wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    try:
        found = source_wcs.all_world2pix(*sky, 0, quiet=True)
    except ValueError:
        found = np.full(
            (2, x.size), np.nan
        )  # the sky of the output is on the far side of the source projection
    return tuple(np.asarray(part, np.float64).reshape(x.shape) for part in found)


def same_grid(wcs: WCS, other: WCS, box: Box, *, tolerance: float = 0.01) -> bool:
    """Say whether two WCS give the same pixel positions over a box, to a tolerance in pixels."""
    columns, rows = np.meshgrid(np.linspace(box.x0, box.x1 - 1, 4), np.linspace(box.y0, box.y1 - 1, 4))
    x, y = _transform(wcs, other, columns, rows)
    return bool(
        np.nanmax(np.hypot(x - columns, y - rows), initial=np.inf if np.isnan(x).any() else 0) < tolerance
    )


def warp_by_map(
    exposure: Exposure,
    mapping: Callable[
        [NDArray[np.floating], NDArray[np.floating]], tuple[NDArray[np.floating], NDArray[np.floating]]
    ],
    box: Box,
    *,
    wcs: WCS | None = None,
    kernel: str = "lanczos3",
    missing: Sequence[str] = ("NO_DATA",),
) -> Exposure:
    """Resample an exposure by a map of array positions, for instance a registration on common stars.

    Parameters
    ----------
    exposure : Exposure
        Not changed.
    mapping : callable
        ``mapping(x, y)`` gives the array position in the exposure of an array position in the result.
    box : Box
        Pixels of the result.
    wcs : astropy.wcs.WCS, optional
        Of the result.
    kernel : str
        See :func:`warp_exposure`.
    missing : sequence of str
        See :func:`resample_arrays`.
    """
    rows, columns = np.mgrid[: box.height, : box.width].astype(np.float64)
    x, y = mapping(columns, rows)
    image, variance, mask = resample_arrays(
        exposure.image, exposure.variance, exposure.mask, x, y, kernel, missing
    )
    if not np.isfinite(image).any():
        raise AlgorithmError(
            "the images do not overlap", numbers={"x_min": float(x.min()), "y_min": float(y.min())}
        )
    planes = Mask(mask, exposure.mask.planes, origin=(box.x0, box.y0))
    return Exposure(
        image, planes, variance, origin=(box.x0, box.y0), unit=exposure.unit, wcs=wcs, info=exposure.info
    )
