"""Point source or not: by flux ratio, by size, and as a probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_CLASSIFY, Plugin, register
from starmill.measurement.psf_flux import psf_sums


@register
@dataclass(frozen=True)
class Extendedness(Plugin):
    """1 when the model flux is clearly above the PSF flux.

    Parameters
    ----------
    flux_ratio : float
        The source is extended when this times the model flux reaches the PSF flux.
    """

    name: ClassVar[str] = "extendedness"
    order: ClassVar[float] = ORDER_CLASSIFY

    flux_ratio: float = 0.95

    def columns(self) -> list[Column]:
        return [
            Column("extendedness", "f8", "", "1 for an extended source, 0 for a point source, by flux ratio"),
            Column("extendedness_flag", "bool", "", "a flux is missing"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        model, psf = context["slot_model_flux"], context["slot_psf_flux"]
        bad = ~(np.isfinite(model) & np.isfinite(psf))
        with np.errstate(invalid="ignore"):
            value = np.where(self.flux_ratio * model >= psf, 1.0, 0.0)
        return {"extendedness": np.where(bad, np.nan, value), "extendedness_flag": bad}


@register
@dataclass(frozen=True)
class SizeExtendedness(Plugin):
    """Extendedness from the excess of the second moments over those of the PSF.

    ``1 - exp(-chi**2 / 2)`` with ``chi = (T - T_psf) / T_psf**0.5``, T the sum of xx and yy.
    """

    name: ClassVar[str] = "size_extendedness"
    order: ClassVar[float] = ORDER_CLASSIFY

    exponent: float = 0.5

    def columns(self) -> list[Column]:
        return [
            Column(
                "size_extendedness", "f8", "", "0 for a point source, near 1 for an extended one, by size"
            ),
            Column("size_extendedness_flag", "bool", "", "a shape is missing"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        size = context["slot_shape_xx"] + context["slot_shape_yy"]
        psf = context["slot_psf_shape_xx"] + context["slot_psf_shape_yy"]
        with np.errstate(all="ignore"):
            chi = (size - psf) / psf**self.exponent
            value = 1 - np.exp(-0.5 * chi**2)
        bad = ~np.isfinite(value)
        return {"size_extendedness": value, "size_extendedness_flag": bad}


@register
@dataclass(frozen=True)
class StarProbability(Plugin):
    """Probability of a point source from the concentration of its light, with the errors of the measurement.

    The statistic is the flux in a wide Gaussian window over the flux in the PSF itself, less the same ratio
    of the PSF: zero for a point source whatever its brightness. It is turned into a probability with the
    error that the pixels give it, a floor for imperfect PSF models, and a broad prior for galaxies.

    Parameters
    ----------
    floor : float
        Scatter of the statistic for bright stars, from errors of the PSF model.
    spread : float
        Typical value of the statistic for resolved galaxies.
    galaxy_fraction : float
        Prior.

    References
    ----------
    The statistic is of the kind of SPREAD_MODEL: Desai et al. 2012, ApJ 757, 83, section 3.2.
    """

    name: ClassVar[str] = "star_probability"
    order: ClassVar[float] = ORDER_CLASSIFY
    needs_psf: ClassVar[bool] = True

    floor: float = 0.003
    spread: float = 0.05
    galaxy_fraction: float = 0.5

    def columns(self) -> list[Column]:
        return [
            Column("star_probability", "f8", "", "probability that the source is a point source"),
            Column("concentration", "f8", "", "excess of the wide over the PSF-weighted flux; 0 for a star"),
            Column("concentration_err", "f8", "", "error of concentration"),
            Column("star_probability_flag", "bool", "", "no probability"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        value, error = self.concentration(context)
        with np.errstate(all="ignore"):
            width = np.hypot(error, self.floor)
            wide = np.hypot(width, self.spread)
            # signed: what is more compact than the PSF is the less a galaxy
            log_odds = 0.5 * value * np.abs(value) * (1 / wide**2 - 1 / width**2) + np.log(wide / width)
            log_odds += np.log((1 - self.galaxy_fraction) / self.galaxy_fraction)
            p = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
        bad = ~np.isfinite(value) | ~np.isfinite(p)
        return {
            "star_probability": np.where(bad, np.nan, p),
            "concentration": value,
            "concentration_err": error,
            "star_probability_flag": bad,
        }

    def concentration(self, context: MeasurementContext) -> tuple[np.ndarray, np.ndarray]:
        """Return the statistic and its error from the images of the PSF and the pixels of the sources."""
        psf_sums(context, ("NO_DATA",))
        out = np.array(context.cache["concentration_sums"])
        out[~context.on_image] = np.nan
        narrow, wide, narrow_variance, wide_variance, covariance = out.T
        with np.errstate(all="ignore"):
            ratio = wide / narrow
            variance = wide_variance - 2 * ratio * covariance + ratio**2 * narrow_variance
            error = np.sqrt(variance) / np.abs(narrow)
        value = np.where(narrow > 0, ratio - 1, np.nan)
        return value, error
