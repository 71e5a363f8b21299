"""Positions on the sky with errors, and what belongs to the place: pixel area, number of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_SHAPE, Plugin, register

STEP = 0.5  # pixels, for the derivatives of the WCS


@register
@dataclass(frozen=True)
class SkyCoordinate(Plugin):
    """Right ascension and declination of the centroids, all in one call of the WCS.

    Errors are propagated with the local derivatives; ``ra_err`` is that of the arc, ra times cos(dec).
    """

    name: ClassVar[str] = "sky"
    order: ClassVar[float] = ORDER_SHAPE

    def columns(self) -> list[Column]:
        return [
            Column("ra", "f8", "deg", "right ascension"),
            Column("dec", "f8", "deg", "declination"),
            Column("ra_err", "f4", "deg", "error of ra times cos(dec)"),
            Column("dec_err", "f4", "deg", "error of dec"),
            Column("ra_dec_cov", "f4", "deg2", "covariance of ra times cos(dec) and dec"),
            Column("pixel_area", "f4", "arcsec2", "area of a pixel here"),
            Column("sky_flag", "bool", "", "no position on the sky"),
            Column("sky_flag_no_wcs", "bool", "", "the exposure has no WCS"),
            Column("sky_flag_off_image", "bool", "", "the centroid is not inside the image"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        blank = {column.name: column.blank(context.n) for column in self.columns()}
        blank["sky_flag"][:] = True
        blank["sky_flag_no_wcs"][:] = context.exposure.wcs is None
        blank["sky_flag_off_image"] = ~context.on_image
        if context.exposure.wcs is None or not context.n:
            return blank
        x, y = np.asarray(context.x, np.float64), np.asarray(context.y, np.float64)
        good = np.isfinite(x) & np.isfinite(y) & context.on_image
        xs, ys = x[good], y[good]
        n = len(xs)
        if not n:
            return blank
        around_x = np.concatenate([xs, xs + STEP, xs - STEP, xs, xs])
        around_y = np.concatenate([ys, ys, ys, ys + STEP, ys - STEP])
        ra, dec = context.exposure.sky_position(around_x, around_y)
        ra, dec = ra.reshape(5, n), dec.reshape(5, n)
        cos = np.cos(np.radians(dec[0]))
        turn = (np.array([ra[1] - ra[2], ra[3] - ra[4]]) + 180) % 360 - 180  # across 0 h
        jacobian = np.stack([turn * cos, [dec[1] - dec[2], dec[3] - dec[4]]]) / (2 * STEP)
        covariance = self._pixel_covariance(context, good)
        sky = np.einsum("ain,ijn,bjn->abn", jacobian, covariance, jacobian)
        determinant = jacobian[0, 0] * jacobian[1, 1] - jacobian[0, 1] * jacobian[1, 0]
        blank["ra"][good], blank["dec"][good] = ra[0], dec[0]
        blank["ra_err"][good], blank["dec_err"][good] = np.sqrt(sky[0, 0]), np.sqrt(sky[1, 1])
        blank["ra_dec_cov"][good] = sky[0, 1]
        blank["pixel_area"][good] = np.abs(determinant) * 3600.0**2
        blank["sky_flag"] = ~good
        return blank

    def _pixel_covariance(self, context: MeasurementContext, good: np.ndarray) -> np.ndarray:
        """Return the covariance of the centroids, (2, 2, n); NaN where unknown."""
        n = int(good.sum())
        covariance = np.full((2, 2, n), np.nan)
        found = context.centroid_covariance()
        if found is not None:
            covariance[0, 0], covariance[1, 1] = found[0][good], found[1][good]
            covariance[0, 1] = covariance[1, 0] = found[2][good]
        return covariance


@register
@dataclass(frozen=True)
class InputCount(Plugin):
    """How many inputs contribute to a coadd at the centroid; 1 for a single exposure.

    The number comes from ``exposure.psf.input_count_at(x, y)`` when the PSF of the coadd has it.
    """

    name: ClassVar[str] = "input_count"
    order: ClassVar[float] = ORDER_SHAPE

    def columns(self) -> list[Column]:
        return [
            Column("input_count", "i4", "", "inputs of the combined image at the centroid; an exact number"),
            Column("input_count_flag", "bool", "", "the centroid is not inside the image"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        count = getattr(context.exposure.psf, "input_count_at", None)
        inside = context.on_image
        if count is None:
            return {"input_count": np.where(inside, 1, 0), "input_count_flag": ~inside}
        x, y = context.safe_position()
        return {"input_count": np.where(inside, count(x, y), 0), "input_count_flag": ~inside}


@register
@dataclass(frozen=True)
class FootprintArea(Plugin):
    """Number of pixels of the footprint."""

    name: ClassVar[str] = "footprint_area"
    order: ClassVar[float] = ORDER_SHAPE

    def columns(self) -> list[Column]:
        return [
            Column(
                "footprint_area", "i4", "pixel", "pixels of the footprint, an exact number; 0 without one"
            ),
            Column("footprint_area_flag", "bool", "", "the source has no footprint"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        footprints = context.catalog.footprints
        area = np.zeros(context.n, np.int32) if footprints is None else footprints.areas
        return {"footprint_area": area, "footprint_area_flag": area == 0}
