"""Point source or not: by flux ratio, by size, and as a probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Column
from starmill.datamodel.psf import FWHM_PER_SIGMA
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_CLASSIFY, Plugin, register
from starmill.measurement.psf_flux import psf_sums

Float = NDArray[np.float64]
PRIOR_NODES = np.geomspace(3e-3, 30.0, 40)  # sizes of galaxies, squared, in units of their mean
PRIOR_WEIGHTS = PRIOR_NODES * np.exp(-PRIOR_NODES) / (PRIOR_NODES * np.exp(-PRIOR_NODES)).sum()


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
    """Probability of a point source from size, elongation and concentration, with the errors of the measurement.

    Two hypotheses are compared. The moments of a *star* are those of the PSF but for noise and the errors of the
    PSF model. Those of a *galaxy* are larger by the square of its own size, whose prior is exponential, and more
    elongated the larger it is. Sources without moments are judged by their concentration.

    Parameters
    ----------
    floor : float
        Scatter of the relative size and of the ellipticity of bright stars, from errors of the PSF model.
    concentration_floor, concentration_spread : float
        Scatter of the concentration of bright stars, and its typical value for resolved galaxies.
    size_prior : float
        Mean of the trace of the moments of galaxies before the PSF, in units of that of the PSF.
    ellipticity : float
        Scatter of each component of the ellipticity (xx - yy) / (xx + yy), 2 xy / (xx + yy) of galaxies before the PSF.
    galaxy_fraction : float
        Prior.
    undersampled_fwhm : float
        Below this FWHM of the PSF, in pixels, the moments of a star depend on its place in the pixel, and the
        concentration, which compares with the PSF at the same place, decides alone.

    Notes
    -----
    In sky noise the moments of a Gaussian of signal to noise s have errors ``2 / s`` of their trace and of both
    components of the ellipticity (Bernstein & Jarvis 2002, AJ 123, 583, section 3). `concentration` is the flux in a
    wide window over the flux in the PSF less the same ratio of the PSF: zero for a point source of any brightness,
    a statistic of the kind of SPREAD_MODEL (Desai et al. 2012, ApJ 757, 83, section 3.2).
    """

    name: ClassVar[str] = "star_probability"
    order: ClassVar[float] = ORDER_CLASSIFY
    needs_psf: ClassVar[bool] = True

    floor: float = 0.005
    concentration_floor: float = 0.003
    concentration_spread: float = 0.05
    size_prior: float = 1.0
    ellipticity: float = 0.35
    galaxy_fraction: float = 0.5
    undersampled_fwhm: float = 2.5

    def columns(self) -> list[Column]:
        return [
            Column("star_probability", "f8", "", "probability that the source is a point source"),
            Column("concentration", "f8", "", "excess of the wide over the PSF-weighted flux; 0 for a star"),
            Column("concentration_err", "f8", "", "error of concentration"),
            Column("star_probability_flag", "bool", "", "no probability"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        value, error = self.concentration(context)
        log_odds = self.odds_of_shape(context)
        by_light = ~np.isfinite(log_odds) | (FWHM_PER_SIGMA * context.psf_sigma < self.undersampled_fwhm)
        log_odds[by_light] = self.odds_of_concentration(value[by_light], error[by_light])
        with np.errstate(all="ignore"):
            log_odds += np.log((1 - self.galaxy_fraction) / self.galaxy_fraction)
            p = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
        bad = ~np.isfinite(value) | ~np.isfinite(p)
        return {
            "star_probability": np.where(bad, np.nan, p),
            "concentration": value,
            "concentration_err": error,
            "star_probability_flag": bad,
        }

    def odds_of_shape(self, context: MeasurementContext) -> Float:
        """Return the natural logarithm of likelihood(star) over likelihood(galaxy); NaN without moments."""
        if "slot_shape_xx" not in context or "slot_psf_flux" not in context:
            return np.full(context.n, np.nan)
        own, psf = context.shape, context.psf_shape[0]
        with np.errstate(all="ignore"):
            snr = context["slot_psf_flux"] / context["slot_psf_flux_err"]
            size, psf_size = own[:, 0] + own[:, 1], psf[:, 0] + psf[:, 1]
            excess = size / psf_size - 1
            e1 = (own[:, 0] - own[:, 1]) / size - (psf[:, 0] - psf[:, 1]) / psf_size
            e2 = 2 * own[:, 2] / size - 2 * psf[:, 2] / psf_size
            variance = (2 / snr) ** 2 + self.floor**2
        usable = (snr > 0) & np.isfinite(excess + e1 + e2 + variance)
        if "slot_shape_flag" in context:
            usable &= ~context["slot_shape_flag"]
        odds = np.full(context.n, np.nan)
        odds[usable] = self._shape_odds(excess[usable], (e1**2 + e2**2)[usable], variance[usable])
        return odds

    def _shape_odds(self, excess: Float, ellipticity2: Float, variance: Float) -> Float:
        """Log odds of the relative excess of the trace and the squared excess of the ellipticity."""
        own_size = self.size_prior * PRIOR_NODES
        weight = PRIOR_WEIGHTS
        # the ellipticity of a galaxy is diluted by the round PSF
        spread = variance[:, None] + (self.ellipticity * own_size / (1 + own_size)) ** 2
        star = -0.5 * (excess**2 + ellipticity2) / variance - 1.5 * np.log(variance)
        galaxy = -0.5 * (
            (excess[:, None] - own_size) ** 2 / variance[:, None] + ellipticity2[:, None] / spread
        )
        galaxy += np.log(weight / spread) - 0.5 * np.log(variance[:, None])
        # what is larger than any node is a galaxy, what is smaller than the PSF the less one
        largest = galaxy.max(axis=1)
        return star - largest - np.log(np.exp(galaxy - largest[:, None]).sum(axis=1))

    def odds_of_concentration(self, value: Float, error: Float) -> Float:
        """Return the same from the concentration and its error."""
        with np.errstate(all="ignore"):
            width = np.hypot(error, self.concentration_floor)
            wide = np.hypot(width, self.concentration_spread)
            # signed: what is more compact than the PSF is the less a galaxy
            return 0.5 * value * np.abs(value) * (1 / wide**2 - 1 / width**2) + np.log(wide / width)

    def concentration(self, context: MeasurementContext) -> tuple[Float, Float]:
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
