"""How much of the light at a source belongs to its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Column
from starmill.kernels.annuli import blended_sums
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, register
from starmill.measurement.shape import inverse_moments, usable_shapes

Float = NDArray[np.float64]


@register
@dataclass(frozen=True)
class Blendedness(Plugin):
    """One minus the Gaussian-weighted flux of the source alone over that of everything there.

    ``blendedness`` uses the absolute value of the pixels less the mean that noise gives it, which keeps it
    between 0 and 1 for faint sources; ``blendedness_raw`` the pixels as they are.

    Parameters
    ----------
    limit : float
        Radius over that of the one-sigma ellipse of the source.

    Notes
    -----
    With c the sum over the source alone, p that over everything and s = c / p, the error of 1 - s is that of a ratio,
    var(s) = (var(c) - 2 s cov(c, p) + s**2 var(p)) / p**2. The noise of a pixel of the source is its share of the
    noise of the image there, so both sums have it in common: the error is zero where nothing of a neighbour is.
    The errors of centroid and shape, which move the weight, are added to first order, as independent of the former:
    with w = exp(-d' C^-1 d / 2), dw/dx = w C^-1 d and dw/dC = w C^-1 d d' C^-1 / 2, and the covariance of the moments
    is k (C_ik C_jl + C_il C_jk) (see :func:`~starmill.measurement.shape.gaussian_errors`), k from ``xx_err``; it is most
    of the error next to a bright neighbour, where the scatter of many draws is up to 1.4 times the error (with a given
    weight 1.03 times). Shares of the deblender are held fixed.

    References
    ----------
    Bosch et al. 2018, PASJ 70, S5, section 4.9.11.
    """

    name: ClassVar[str] = "blendedness"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    limit: float = 3.0

    def columns(self) -> list[Column]:
        what = "share of neighbours in the weighted light"
        return [
            Column("blendedness", "f8", "", f"{what}, absolute values"),
            Column("blendedness_err", "f8", "", "error of blendedness, shares of the deblender held fixed"),
            Column("blendedness_raw", "f8", "", what),
            Column(
                "blendedness_raw_err",
                "f8",
                "",
                "error of blendedness_raw, shares of the deblender held fixed",
            ),
            Column("blendedness_flag", "bool", "", "no blendedness"),
            Column("blendedness_flag_off_image", "bool", "", "the centroid is not inside the image"),
            Column("blendedness_flag_no_light", "bool", "", "the weighted light is not positive"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        inverse = inverse_moments(usable_shapes(context)[0])
        image = np.ascontiguousarray(context.exposure.image)
        variance = np.ascontiguousarray(context.exposure.variance)
        sums, errors, moments = blended_sums(
            context.pixels, image, variance, context.array_x, context.array_y, inverse, self.limit
        )
        outside = ~context.on_image
        sums[outside] = np.nan
        weight = _variance_of_weight(context, sums, moments, inverse)
        raw, raw_error = _share_of_neighbours(sums[:, :2], errors[:, :3], weight)
        absolute, error = _share_of_neighbours(sums[:, 2:], errors[:, 3:], weight)
        bad = ~(np.isfinite(absolute) & np.isfinite(raw))
        return {
            "blendedness": np.clip(absolute, 0, 1),
            "blendedness_err": error,
            "blendedness_raw": raw,
            "blendedness_raw_err": raw_error,
            "blendedness_flag": bad,
            "blendedness_flag_off_image": outside,
            "blendedness_flag_no_light": bad & ~outside,
        }


def _variance_of_weight(context: MeasurementContext, sums: Float, moments: Float, inverse: Float) -> Float:
    """Return the variance of the share that the errors of centroid and shape make, (n,); 0 of those without errors.

    Arguments as :func:`~starmill.kernels.annuli.blended_sums` returns and takes them.
    """
    with np.errstate(all="ignore"):
        slope = (moments[:, 0] - (sums[:, 0] / sums[:, 1])[:, None] * moments[:, 1]) / sums[:, 1, None]
        q = np.stack([inverse[:, [0, 2]], inverse[:, [2, 1]]], axis=1)
        along = np.einsum("nij,nj->ni", q, slope[:, :2])
        total = np.zeros(context.n)
        found = context.centroid_covariance()
        if found is not None:
            xx, yy, xy = found
            place = along[:, 0] ** 2 * xx + along[:, 1] ** 2 * yy + 2 * along[:, 0] * along[:, 1] * xy
            total += np.nan_to_num(place)
        if "slot_shape_xx_err" in context:
            scale = 0.5 * (np.float64(context["slot_shape_xx_err"]) / context["slot_shape_xx"]) ** 2
            second = np.stack([slope[:, [2, 4]], slope[:, [4, 3]]], axis=1)
            # tr(G C G C) of the slope G = C^-1 S C^-1 / 2 is tr(C^-1 S C^-1 S) / 4
            half = np.einsum("nij,njk->nik", q, second)
            total += np.nan_to_num(0.5 * scale * np.einsum("nij,nji->n", half, half))
    return total


def _share_of_neighbours(sums: Float, errors: Float, weight: Float) -> tuple[Float, Float]:
    """Return 1 - alone / everything and its error; NaN where there is no light.

    ``sums`` is (n, 2), the errors (n, 3): variance, covariance, variance of both sums; ``weight`` is the variance of
    the share from that of the weight.
    """
    alone, everything = sums.T
    with np.errstate(all="ignore"):
        share = np.where(everything > 0, alone / everything, np.nan)
        variance = errors[:, 0] - 2 * share * errors[:, 1] + share**2 * errors[:, 2]
        # rounding leaves a little of either sign where both sums are the same
        return 1 - share, np.sqrt(np.maximum(variance, 0) / everything**2 + weight)
