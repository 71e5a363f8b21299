"""Flux, position and moments of the light above an isophote, the cheapest description of a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.kernels.isophotes import isophotal_sums
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_CENTROID, Plugin, error_from, register
from starmill.measurement.shape import PARTS


@register
@dataclass(frozen=True)
class IsophotalMoments(Plugin):
    """Sums over the pixels of the footprint that reach the isophote; they lose the light below it.

    A pixel counts when the image smoothed with the weights 1 2 1 in both directions is above ``n_sigma`` times the
    noise of the pixel (not of the smoothed image). The errors know that the noise decides which pixels near the isophote
    count (see :func:`~starmill.kernels.isophotes.isophotal_sums`).

    Parameters
    ----------
    n_sigma : float

    References
    ----------
    Bertin & Arnouts 1996, A&AS 117, 393, sections 5 and 7.
    """

    name: ClassVar[str] = "isophotal"
    order: ClassVar[float] = ORDER_CENTROID

    n_sigma: float = 1.5

    def columns(self) -> list[Column]:
        where = "mean position of the light above the isophote, parent frame"
        moments = [Column(f"isophotal_{part}", "f8", "pixel2", f"{part} of the light above the isophote")
                   for part in PARTS]  # fmt: skip
        return [
            *(Column(f"isophotal_{axis}", "f8", "pixel", where) for axis in "xy"),
            *(Column(f"isophotal_{axis}_err", "f4", "pixel", f"error of isophotal_{axis}") for axis in "xy"),
            Column("isophotal_xy_cov", "f4", "pixel2", "covariance of isophotal_x and isophotal_y"),
            *moments,
            *(Column(f"isophotal_{p}_err", "f4", "pixel2", f"error of isophotal_{p}") for p in PARTS),
            Column("isophotal_flux", "f8", "electron", "flux above the isophote"),
            Column("isophotal_flux_err", "f8", "electron", "error of isophotal_flux"),
            Column("isophotal_area", "i4", "pixel2", "pixels above the isophote"),
            Column("isophotal_flag", "bool", "", "no moments; the position is that of the peak"),
            Column("isophotal_flag_few_pixels", "bool", "", "less than three pixels above the isophote"),
            Column("isophotal_flag_bad_moments", "bool", "", "the moments are not those of an ellipse"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        sums, variances = isophotal_sums(context.pixels, self.n_sigma)
        flux, variance, area, x, y, xx, yy, xy = sums.T
        with np.errstate(invalid="ignore"):
            good = (area >= 3) & (xx > 0) & (yy > 0) & (xx * yy > xy**2)
        px, py = context.peak
        ox, oy = context.exposure.origin
        names = [f"isophotal_{part}" for part in ("x", "y", *PARTS)]
        values = {name: np.where(good, v, np.nan) for name, v in zip(names[2:], (xx, yy, xy), strict=True)}
        for name, v in zip(names, variances[:, :5].T, strict=True):
            values[f"{name}_err"] = np.where(good, error_from(v), np.nan)
        return {
            "isophotal_x": np.where(good, x + ox, px),
            "isophotal_y": np.where(good, y + oy, py),
            "isophotal_xy_cov": np.where(good & (variance > 0), variances[:, 5], np.nan),
            **values,
            "isophotal_flux": np.where(area > 0, flux, np.nan),
            "isophotal_flux_err": np.where(area > 0, error_from(variance), np.nan),
            "isophotal_area": area.astype(np.int32),
            "isophotal_flag": ~good,
            "isophotal_flag_few_pixels": area < 3,
            "isophotal_flag_bad_moments": ~good & (area >= 3),
        }
