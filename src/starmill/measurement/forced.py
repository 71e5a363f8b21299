"""Positions and shapes of sources of one image in the pixels of another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Column
from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.errors import InputError
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_CENTROID, Plugin, register

Float = NDArray[np.float64]
STEP = 0.5  # pixels, for the derivatives of the transformation


def pixel_positions(wcs: Any, ra: Float, dec: Float) -> tuple[Float, Float]:
    """Return 0-based pixel positions of sky positions; NaN where the WCS has no solution.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    ra, dec : (n,) array, degree
    """
    good = np.isfinite(ra) & np.isfinite(dec)
    x, y = np.full((2, len(ra)), np.nan)
    if good.any():
        found = wcs.all_world2pix(ra[good], dec[good], 0, quiet=True)
        x[good], y[good] = found
    return x, y


def transform_shapes(moments: Float, x: Float, y: Float, source_wcs: Any, target_wcs: Any) -> Float:
    """Second moments in the pixels of another image.

    Parameters
    ----------
    moments : (n, 3) array, pixel**2
        xx, yy, xy in the source image.
    x, y : (n,) array
        Positions in the source image.
    source_wcs, target_wcs : astropy.wcs.WCS

    Returns
    -------
    moments : (n, 3) array, pixel**2
        ``J C J'`` with the local derivatives J of target by source pixels.
    """
    n = len(x)
    around_x = np.concatenate([x + STEP, x - STEP, x, x])
    around_y = np.concatenate([y, y, y + STEP, y - STEP])
    ra, dec = source_wcs.all_pix2world(around_x, around_y, 0)
    u, v = pixel_positions(target_wcs, ra, dec)
    u, v = u.reshape(4, n), v.reshape(4, n)
    jxx, jxy = (u[0] - u[1]) / (2 * STEP), (u[2] - u[3]) / (2 * STEP)
    jyx, jyy = (v[0] - v[1]) / (2 * STEP), (v[2] - v[3]) / (2 * STEP)
    xx, yy, xy = moments.T
    return np.column_stack(
        [
            jxx**2 * xx + 2 * jxx * jxy * xy + jxy**2 * yy,
            jyx**2 * xx + 2 * jyx * jyy * xy + jyy**2 * yy,
            jxx * jyx * xx + (jxx * jyy + jxy * jyx) * xy + jxy * jyy * yy,
        ]
    )


def disk_footprints(x: Float, y: Float, radius: float, box: Box) -> FootprintSet:
    """Return a round footprint around every position, cut at the box; empty where it lies outside.

    Parameters
    ----------
    x, y : (n,) array
        Parent frame.
    radius : float, pixels
    box : Box
    """
    reach = int(np.ceil(radius))
    dy = np.arange(-reach, reach + 1)
    half = np.floor(np.sqrt(np.maximum(radius**2 - dy**2, 0))).astype(np.int64)
    dy, half = dy[np.abs(dy) <= radius], half[np.abs(dy) <= radius]
    finite = np.isfinite(x) & np.isfinite(y) & (np.abs(x) < 1e9) & (np.abs(y) < 1e9)
    outside = -10 * reach - 10
    ix = np.floor(np.where(finite, x, box.x0 + outside) + 0.5).astype(np.int64)
    iy = np.floor(np.where(finite, y, box.y0 + outside) + 0.5).astype(np.int64)
    rows = iy[:, None] + dy
    first = np.maximum(ix[:, None] - half, box.x0)
    last = np.minimum(ix[:, None] + half, box.x1 - 1)
    keep = (rows >= box.y0) & (rows < box.y1) & (first <= last)
    spans = np.stack([rows[keep], first[keep], last[keep]], axis=1).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(keep.sum(1))])
    peaks = np.zeros(len(x), PEAK_DTYPE)
    peaks["x"], peaks["y"] = ix, iy
    return FootprintSet(spans, offsets, peaks, np.arange(len(x) + 1))


@register
@dataclass(frozen=True)
class ForcedCentroid(Plugin):
    """The position that was given, as a centroid."""

    name: ClassVar[str] = "forced_centroid"
    order: ClassVar[float] = ORDER_CENTROID

    def columns(self) -> list[Column]:
        return [
            Column("forced_centroid_x", "f8", "pixel", "given position, parent frame"),
            Column("forced_centroid_y", "f8", "pixel", "given position, parent frame"),
            Column("forced_centroid_flag", "bool", "", "the given position is not in the image"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        x, y = context.columns["x"], context.columns["y"]
        ny, nx = context.exposure.shape
        x0, y0 = context.exposure.origin
        inside = (x >= x0 - 0.5) & (x < x0 + nx - 0.5) & (y >= y0 - 0.5) & (y < y0 + ny - 0.5)
        return {"forced_centroid_x": x, "forced_centroid_y": y, "forced_centroid_flag": ~inside}


@register
@dataclass(frozen=True)
class ForcedShape(Plugin):
    """The second moments that were given; those of the PSF where none were."""

    name: ClassVar[str] = "forced_shape"
    order: ClassVar[float] = ORDER_CENTROID + 0.5
    needs_psf: ClassVar[bool] = True

    def columns(self) -> list[Column]:
        moments = [
            Column(f"forced_shape_{p}", "f8", "pixel2", f"given second moment {p}")
            for p in ("xx", "yy", "xy")
        ]
        psf = [Column(f"psf_shape_{p}", "f8", "pixel2", f"adaptive second moment {p} of the PSF here")
               for p in ("xx", "yy", "xy")]  # fmt: skip
        return [
            *moments,
            *psf,
            Column("forced_shape_flag", "bool", "", "no shape was given, it is that of the PSF"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        given = [context.columns.get(f"reference_shape_{p}") for p in ("xx", "yy", "xy")]
        psf = context.psf_shape[0]
        values: dict[str, Any] = {f"psf_shape_{p}": psf[:, k] for k, p in enumerate(("xx", "yy", "xy"))}
        moments = np.full((context.n, 3), np.nan)
        if all(g is not None for g in given):
            moments = np.column_stack(given).astype(np.float64)
        bad = ~(np.isfinite(moments).all(1) & (moments[:, 0] * moments[:, 1] > moments[:, 2] ** 2))
        moments[bad] = psf[bad]
        values |= {f"forced_shape_{p}": moments[:, k] for k, p in enumerate(("xx", "yy", "xy"))}
        values["forced_shape_flag"] = bad
        return values


def require_positions(names: set[str]) -> None:
    """Raise when a reference catalogue has neither pixel nor sky positions."""
    if not ({"x", "y"} <= names or {"ra", "dec"} <= names):
        raise InputError("a reference catalogue for forced measurement needs the columns x, y or ra, dec")
