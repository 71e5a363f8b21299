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
            Column("extendedness_flag", "bool", "", "no class"),
            Column("extendedness_flag_no_model_flux", "bool", "", "the model flux is missing"),
            Column("extendedness_flag_no_psf_flux", "bool", "", "the PSF flux is missing"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        model, psf = context["slot_model_flux"], context["slot_psf_flux"]
        no_model, no_psf = ~np.isfinite(model), ~np.isfinite(psf)
        bad = no_model | no_psf
        with np.errstate(invalid="ignore"):
            value = np.where(self.flux_ratio * model >= psf, 1.0, 0.0)
        return {
            "extendedness": np.where(bad, np.nan, value),
            "extendedness_flag": bad,
            "extendedness_flag_no_model_flux": no_model,
            "extendedness_flag_no_psf_flux": no_psf,
        }


@register
@dataclass(frozen=True)
class SizeExtendedness(Plugin):
    """Extendedness from the excess of the second moments over those of the PSF.

    ``1 - exp(-chi**2 / 2)`` with ``chi = (T - T_psf) / T_psf**0.5``, T the sum of xx and yy.

    Notes
    -----
    The error propagates that of T by Gauss-Hermite quadrature with three nodes: to first order it would be zero for a
    star. ``T_err**2 = xx_err**2 + yy_err**2 + 2 cov`` where the covariance is that of noise of the sky,
    ``cov = xx_err**2 xy**2 / xx**2`` (see :func:`~starmill.measurement.shape.gaussian_errors`).
    """

    name: ClassVar[str] = "size_extendedness"
    order: ClassVar[float] = ORDER_CLASSIFY

    exponent: float = 0.5

    def columns(self) -> list[Column]:
        return [
            Column(
                "size_extendedness", "f8", "", "0 for a point source, near 1 for an extended one, by size"
            ),
            Column("size_extendedness_err", "f8", "", "error of size_extendedness"),
            Column("size_extendedness_flag", "bool", "", "no size_extendedness"),
            Column("size_extendedness_flag_no_shape", "bool", "", "the moments of the source are missing"),
            Column("size_extendedness_flag_no_psf_shape", "bool", "", "the moments of the PSF are missing"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        size = context["slot_shape_xx"] + context["slot_shape_yy"]
        psf = context["slot_psf_shape_xx"] + context["slot_psf_shape_yy"]

        def extendedness(chi: Float) -> Float:
            return np.asarray(1 - np.exp(-0.5 * chi**2))

        with np.errstate(all="ignore"):
            chi = (size - psf) / psf**self.exponent
            step = np.sqrt(3) * trace_error(context) / psf**self.exponent
            value = extendedness(chi)
            variance = _variance(value, extendedness(chi - step), extendedness(chi + step))
        return {
            "size_extendedness": value,
            "size_extendedness_err": np.sqrt(variance),
            "size_extendedness_flag": ~np.isfinite(value),
            "size_extendedness_flag_no_shape": ~np.isfinite(size),
            "size_extendedness_flag_no_psf_shape": ~np.isfinite(psf),
        }


@dataclass(frozen=True)
class ShapeExcess:
    """How the moments of sources differ from those of the PSF, (n,) arrays.

    Attributes
    ----------
    trace : of xx + yy, over that of the PSF, less one
    ellipticity : length of the difference of the ellipticities
    trace_err, ellipticity_err : from the noise; of one component of the ellipticity
    snr : signal to noise of the PSF flux
    """

    trace: Float
    ellipticity: Float
    trace_err: Float
    ellipticity_err: Float
    snr: Float


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

    ``star_probability_err`` is the scatter of the probability that the noise of the measurement makes, of size and of
    both components of the ellipticity, or of the concentration. A probability is no linear function of them and has
    its maximum near the numbers of a star, so the variance from each is found by Gauss-Hermite quadrature with three
    nodes (exact up to second order) and the three are added. The priors are held fixed.
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
            Column("star_probability_err", "f8", "", "scatter of star_probability from the noise"),
            Column("concentration", "f8", "", "excess of the wide over the PSF-weighted flux; 0 for a star"),
            Column("concentration_err", "f8", "", "error of concentration"),
            Column("star_probability_flag", "bool", "", "no probability"),
            Column("star_probability_flag_off_image", "bool", "", "the centroid is not inside the image"),
            Column("star_probability_flag_no_light", "bool", "", "the PSF-weighted flux is not positive"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        value, error = self.concentration(context)
        p, p_error = np.full((2, context.n), np.nan)
        usable, shape = self.shape_excess(context)
        p[usable], p_error[usable] = self.from_shape(shape)
        by_light = ~usable | (FWHM_PER_SIGMA * context.psf_sigma < self.undersampled_fwhm)
        p[by_light], p_error[by_light] = self.from_concentration(value[by_light], error[by_light])
        bad = ~np.isfinite(value) | ~np.isfinite(p)
        outside = ~context.on_image
        return {
            "star_probability": np.where(bad, np.nan, p),
            "star_probability_err": np.where(bad, np.nan, p_error),
            "concentration": value,
            "concentration_err": error,
            "star_probability_flag": bad,
            "star_probability_flag_off_image": outside,
            "star_probability_flag_no_light": bad & ~outside,
        }

    def from_shape(self, shape: ShapeExcess) -> tuple[Float, Float]:
        """Return the probability and its error from size and ellipticity."""
        variance = (2 / shape.snr) ** 2 + self.floor**2

        def probability(trace: Float, ellipticity2: Float) -> Float:
            return self._probability(self._shape_odds(trace, ellipticity2, variance))

        e2, length = shape.ellipticity**2, shape.ellipticity
        trace_step, step = np.sqrt(3) * shape.trace_err, np.sqrt(3) * shape.ellipticity_err
        p = probability(shape.trace, e2)
        size = _variance(p, *(probability(shape.trace + s * trace_step, e2) for s in (-1, 1)))
        along = _variance(p, *(probability(shape.trace, (length + s * step) ** 2) for s in (-1, 1)))
        beside = probability(shape.trace, e2 + step**2)  # to both sides across the ellipticity
        return p, np.sqrt(size + along + _variance(p, beside, beside))

    def from_concentration(self, value: Float, error: Float) -> tuple[Float, Float]:
        """Return the probability and its error from the concentration and its error."""

        def probability(value: Float) -> Float:
            return self._probability(self.odds_of_concentration(value, error))

        p, step = probability(value), np.sqrt(3) * error
        return p, np.sqrt(_variance(p, probability(value - step), probability(value + step)))

    def _probability(self, log_odds: Float) -> Float:
        """Return the probability of a star from the logarithm of the likelihood ratio, with the prior."""
        log_odds = log_odds + np.log((1 - self.galaxy_fraction) / self.galaxy_fraction)
        return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -700, 700))))

    def shape_excess(self, context: MeasurementContext) -> tuple[NDArray[np.bool_], ShapeExcess]:
        """Return the sources with moments, and how theirs differ from those of the PSF."""
        if "slot_shape_xx" not in context or "slot_psf_flux" not in context:
            return np.zeros(context.n, bool), ShapeExcess(*np.full((5, 0), np.nan))
        own, psf = context.shape, context.psf_shape[0]
        with np.errstate(all="ignore"):
            snr = context["slot_psf_flux"] / context["slot_psf_flux_err"]
            size, psf_size = own[:, 0] + own[:, 1], psf[:, 0] + psf[:, 1]
            trace = size / psf_size - 1
            e1 = (own[:, 0] - own[:, 1]) / size - (psf[:, 0] - psf[:, 1]) / psf_size
            e2 = 2 * own[:, 2] / size - 2 * psf[:, 2] / psf_size
            errors = [trace_error(context) / psf_size, np.full(context.n, np.nan)]
            if "slot_shape_xy_err" in context:
                errors[1] = 2 * context["slot_shape_xy_err"] / size
            errors = [np.where(np.isfinite(error), error, 2 / snr) for error in errors]
        usable = (snr > 0) & np.isfinite(trace + e1 + e2 + snr)
        if "slot_shape_flag" in context:
            usable &= ~context["slot_shape_flag"]
        return usable, ShapeExcess(*(v[usable] for v in (trace, np.hypot(e1, e2), *errors, snr)))

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
        lost = ~(narrow > 0)
        return np.where(lost, np.nan, ratio - 1), np.where(lost, np.nan, error)


def trace_error(context: MeasurementContext) -> Float:
    """Return the error of xx + yy of the shape slot, (n,) pixel**2; NaN when the slot has no errors."""
    if "slot_shape_xx_err" not in context:
        return np.full(context.n, np.nan)
    xx_variance, yy_variance = (np.float64(context[f"slot_shape_{p}_err"]) ** 2 for p in ("xx", "yy"))
    with np.errstate(all="ignore"):
        covariance = xx_variance * (context["slot_shape_xy"] / context["slot_shape_xx"]) ** 2
        return np.asarray(np.sqrt(xx_variance + yy_variance + 2 * covariance))


def _variance(centre: Float, below: Float, above: Float) -> Float:
    """Return the variance of a function of Gaussian noise from its values at 0 and at 3**0.5 errors to both sides.

    Gauss-Hermite quadrature with three nodes, weights 2/3 and 1/6: exact for a quadratic function.
    """
    below, above = below - centre, above - centre
    return np.asarray(np.maximum((below**2 + above**2) / 6 - ((below + above) / 6) ** 2, 0))
