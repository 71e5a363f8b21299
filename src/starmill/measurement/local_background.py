"""What is left of the background around each source, and the variance there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.kernels.annuli import annulus_statistics, ellipse_median_variance
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, register
from starmill.measurement.shape import inverse_moments, usable_shapes

MAX_VARIANCE_RADIUS = 64.0  # pixels


@register
@dataclass(frozen=True)
class LocalBackground(Plugin):
    """Clipped mean of an annulus around the source.

    Its error is the clipped standard deviation of the pixels over the square root of their number: their noise is
    taken as independent.

    Parameters
    ----------
    inner, outer : float
        Radii over the sigma of the PSF.
    bad_planes : tuple of str
    n_sigma : float
    n_iterations : int
    """

    name: ClassVar[str] = "local_background"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    inner: float = 7.0
    outer: float = 15.0
    bad_planes: tuple[str, ...] = ("BAD", "SAT", "NO_DATA")
    n_sigma: float = 3.0
    n_iterations: int = 3

    def columns(self) -> list[Column]:
        return [
            Column("local_background", "f8", "electron", "clipped mean around the source, per pixel"),
            Column("local_background_err", "f8", "electron", "error of local_background"),
            Column(
                "local_background_scatter", "f8", "electron", "clipped standard deviation of the same pixels"
            ),
            Column("local_background_flag", "bool", "", "no local background"),
            Column("local_background_flag_off_image", "bool", "", "the centroid is not inside the image"),
            Column("local_background_flag_no_good_pixels", "bool", "", "no usable pixel in the annulus"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        sigma = context.psf_sigma
        mean, scatter, count = annulus_statistics(
            context.pixels, context.array_x, context.array_y, self.inner * sigma, self.outer * sigma,
            context.mask_bits(*self.bad_planes), self.n_sigma, self.n_iterations,
        )  # fmt: skip
        outside = ~context.on_image
        mean[outside], scatter[outside] = np.nan, np.nan
        with np.errstate(all="ignore"):
            error = np.where(count > 1, scatter / np.sqrt(count), np.nan)
        return {
            "local_background": mean,
            "local_background_err": error,
            "local_background_scatter": scatter,
            "local_background_flag": ~np.isfinite(mean),
            "local_background_flag_off_image": outside,
            "local_background_flag_no_good_pixels": (count == 0) & ~outside,
        }


@register
@dataclass(frozen=True)
class LocalVariance(Plugin):
    """Median variance of the sky pixels in an ellipse around the source.

    The error comes from the scatter of these variances: a variance image made from the image itself has the noise of
    its pixels, a smooth model has none. For n independent pixels of Gaussian scatter s, that of a median is
    (pi / 2)**0.5 s / n**0.5; s is taken from the interquartile range.

    Parameters
    ----------
    factor : float
        Semi-axes over those of the one-sigma ellipse.
    bad_planes : tuple of str
    """

    name: ClassVar[str] = "local_variance"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    factor: float = 5.0
    bad_planes: tuple[str, ...] = ("DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT", "NO_DATA")

    def columns(self) -> list[Column]:
        return [
            Column("local_variance", "f8", "electron2", "median variance of a pixel around the source"),
            Column("local_variance_err", "f8", "electron2", "error of local_variance, from the scatter"),
            Column("local_variance_flag", "bool", "", "no local variance"),
            Column("local_variance_flag_off_image", "bool", "", "the centroid is not inside the image"),
            Column(
                "local_variance_flag_no_sky", "bool", "", "no good pixel without detection around the source"
            ),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        found = ellipse_median_variance(
            context.pixels, context.array_x, context.array_y, inverse_moments(usable_shapes(context)[0]),
            self.factor, context.mask_bits(*self.bad_planes), MAX_VARIANCE_RADIUS,
        )  # fmt: skip
        outside = ~context.on_image
        found[outside] = np.nan
        bad = ~np.isfinite(found[:, 0])
        return {
            "local_variance": found[:, 0],
            "local_variance_err": found[:, 1],
            "local_variance_flag": bad,
            "local_variance_flag_off_image": outside,
            "local_variance_flag_no_sky": bad & ~outside,
        }
