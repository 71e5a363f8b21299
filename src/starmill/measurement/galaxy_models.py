"""Fluxes of galaxy models convolved with the PSF: composite (exponential + de Vaucouleurs) and Sersic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Column
from starmill.kernels import galaxy_models as kernel
from starmill.measurement.context import MeasurementContext
from starmill.measurement.galaxy_profiles import (
    BULGE,
    PSF_SCALES,
    ProfileMixtures,
    composite_mixtures,
    fit_psf_mixtures,
    profile_mixtures,
)
from starmill.measurement.plugin import ORDER_FLUX, Plugin, error_from, register
from starmill.measurement.shape import usable_shapes

Float = NDArray[np.float64]
SIGNIFICANT = 4.0  # a richer profile must lower chi squared by more: noise alone must not add light ...
BRIGHT = 30.0  # ... but above this S/N the limit falls as its square: a profile too simple would be the larger error
PSF_GRID = 8  # the mixture of the PSF is fitted on a grid of this many positions a side
MODEL_FLAGS = {
    "not_converged": (kernel.FLAG_NOT_CONVERGED, "the fit did not converge"),
    "no_pixels": (kernel.FLAG_NO_PIXELS, "too few usable pixels"),
    "unresolved": (kernel.FLAG_SMALL, "the model shrank to a point"),
    "bad_start": (kernel.FLAG_BAD_START, "no position, shape or flux to start from"),
}


@dataclass(frozen=True)
class FittedProfiles:
    """One profile fitted to every source.

    Attributes
    ----------
    parameters : (n, 7) array
        flux, x, y (array index), ln xx, ln yy, atanh of the correlation, ln of the index or the mix.
    covariance : (n, 7, 7) array
        Of the parameters; 0 for one at its bound.
    numbers : (n, 3) array
        Sum of squared residuals, pixels, iterations.
    flags : (n,) int32 array
    """

    parameters: Float
    covariance: Float
    numbers: Float
    flags: NDArray[np.int32]

    def moments(self) -> Float:
        """Return xx, yy, xy of the half-light ellipse, (n, 3) pixel**2."""
        xx, yy = np.exp(self.parameters[:, 3]), np.exp(self.parameters[:, 4])
        return np.column_stack([xx, yy, np.tanh(self.parameters[:, 5]) * np.sqrt(xx * yy)])

    def radius(self) -> Float:
        """Return the half-light radius, the geometric mean of the axes, (n,) pixel."""
        moments = self.moments()
        with np.errstate(all="ignore"):
            return np.asarray((moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2) ** 0.25)

    def flux_variance(self) -> Float:
        """Return the variance of the flux with all parameters free, (n,)."""
        return np.asarray(self.covariance[:, 0, 0])

    def radius_error(self) -> Float:
        """Return the error of :meth:`radius`: ln r = (ln xx + ln yy + ln(1 - c**2)) / 4 with c the correlation."""
        with np.errstate(all="ignore"):
            correlation = np.tanh(self.parameters[:, 5])
            slope = np.column_stack([0 * correlation + 0.25, 0 * correlation + 0.25, -0.5 * correlation])
            return self.radius() * error_from(_form(self.covariance[:, 3:6, 3:6], slope))

    def moments_errors(self) -> Float:
        """Return the errors of :meth:`moments`, (n, 3) pixel**2."""
        xx, yy, xy = self.moments().T
        with np.errstate(all="ignore"):
            slope = np.column_stack(
                [0.5 * xy, 0.5 * xy, np.sqrt(xx * yy) * (1 - np.tanh(self.parameters[:, 5]) ** 2)]
            )
            return np.column_stack(
                [
                    xx * error_from(self.covariance[:, 3, 3]),
                    yy * error_from(self.covariance[:, 4, 4]),
                    error_from(_form(self.covariance[:, 3:6, 3:6], slope)),
                ]
            )


def _form(covariance: Float, slope: Float) -> Float:
    """Return slope' covariance slope of every source, (n,)."""
    return np.einsum("na,nab,nb->n", slope, covariance, slope)


def psf_mixtures(context: MeasurementContext) -> Float:
    """Return the Gaussians of the PSF at every source, from a grid of positions (once per catalogue)."""
    if "psf_mixtures" not in context.cache:
        side = PSF_GRID if context.psf_varies else 1
        box = context.exposure.box
        edges_x = box.x0 + (np.arange(side) + 0.5) * box.width / side - 0.5
        edges_y = box.y0 + (np.arange(side) + 0.5) * box.height / side - 0.5
        gx, gy = (g.ravel() for g in np.meshgrid(edges_x, edges_y))
        kernels = np.ascontiguousarray(context.psf.kernels_at(gx, gy), np.float64)
        from starmill.kernels.moments import stack_moments

        grid = fit_psf_mixtures(kernels, stack_moments(kernels, 100)[0])
        x, y = context.safe_position()
        ix = np.clip(((x - box.x0 + 0.5) * side / box.width).astype(int), 0, side - 1)
        iy = np.clip(((y - box.y0 + 0.5) * side / box.height).astype(int), 0, side - 1)
        found = grid[iy * side + ix]
        own = context.psf_shape[0]
        good = np.isfinite(own).all(1)
        found[good, :3] = own[good]  # the moments vary faster than the profile: take them at the source
        context.cache["psf_mixtures"] = np.ascontiguousarray(found)
    return context.cache["psf_mixtures"]


def start_values(context: MeasurementContext) -> tuple[Float, NDArray[np.int64]]:
    """Return starting parameters of a model (index 1) and the half widths of the boxes."""
    moments, _ = usable_shapes(context)
    psf = context.psf_shape[0]
    with np.errstate(all="ignore"):
        floor = 0.05 * np.maximum(psf[:, 0], psf[:, 1])
        xx, yy = (np.fmax(moments[:, k] - psf[:, k], floor) for k in range(2))
        correlation = np.clip((moments[:, 2] - psf[:, 2]) / np.sqrt(xx * yy), -0.9, 0.9)
        sigma = np.sqrt(np.fmax(moments[:, 0], moments[:, 1]))
    start = np.zeros((context.n, kernel.N_PARAMETERS))
    flux = context["slot_gaussian_flux"] if "slot_gaussian_flux" in context else context["slot_psf_flux"]
    start[:, 0], start[:, 1], start[:, 2] = flux, context.array_x, context.array_y
    start[:, 3], start[:, 4], start[:, 5] = np.log(1.4 * xx), np.log(1.4 * yy), np.arctanh(correlation)
    half = np.clip(np.nan_to_num(np.ceil(5 * sigma), nan=8), 8, 32).astype(np.int64)
    return start, half


def fit_family(
    context: MeasurementContext,
    mixtures: ProfileMixtures,
    start: Float,
    half: NDArray[np.int64],
    *,
    free_index: bool,
    max_iterations: int,
) -> FittedProfiles:
    """Fit a profile of a family to every source from given starting values."""
    first, exponential = start_values(context)[0], profile_mixtures()
    best, covariance, numbers, flags = kernel.fit_profiles(
        context.pixels, np.ascontiguousarray(start), half, 7 if free_index else 6, mixtures.table,
        mixtures.log_indices, mixtures.variances, psf_mixtures(context), PSF_SCALES,
        context.mask_bits("NO_DATA", "SAT", "BAD"), np.array([float(max_iterations), 1e-4]),
        (first, exponential.table, exponential.log_indices, exponential.variances),
    )  # fmt: skip
    return FittedProfiles(best, covariance, numbers, flags)


def _flag_columns(name: str) -> list[Column]:
    general = Column(f"{name}_flag", "bool", "", f"no {name}")
    return [general, *(Column(f"{name}_flag_{k}", "bool", "", text) for k, (_, text) in MODEL_FLAGS.items())]


def _flag_values(name: str, flags: NDArray[np.int32], bad: NDArray[np.bool_]) -> dict[str, Any]:
    failed = kernel.FLAG_NO_PIXELS | kernel.FLAG_BAD_START | kernel.FLAG_NOT_CONVERGED
    values: dict[str, Any] = {f"{name}_flag": bad | ((flags & failed) != 0)}
    for key, (bit, _) in MODEL_FLAGS.items():
        values[f"{name}_flag_{key}"] = (flags & bit) != 0
    return values


@register
@dataclass(frozen=True)
class SersicFlux(Plugin):
    """Flux of a Sersic profile with free index, convolved with the PSF.

    Parameters
    ----------
    max_iterations : int
    """

    name: ClassVar[str] = "sersic_flux"
    order: ClassVar[float] = ORDER_FLUX + 0.5
    needs_psf: ClassVar[bool] = True

    max_iterations: int = 30

    def columns(self) -> list[Column]:
        moments = [
            Column(f"sersic_{p}", "f8", "pixel2", f"{p} of the half-light ellipse")
            for p in ("xx", "yy", "xy")
        ]
        errors = [
            Column(f"sersic_{p}_err", "f4", "pixel2", f"error of sersic_{p}") for p in ("xx", "yy", "xy")
        ]
        return [
            Column("sersic_flux", "f8", "electron", "total flux of the Sersic profile"),
            Column("sersic_flux_err", "f8", "electron", "error of sersic_flux, all parameters free"),
            Column("sersic_index", "f4", "", "Sersic index"),
            Column("sersic_index_err", "f4", "", "error of sersic_index; NaN at a bound of the index"),
            Column("sersic_radius", "f4", "pixel", "half-light radius, geometric mean of the axes"),
            Column("sersic_radius_err", "f4", "pixel", "error of sersic_radius"),
            Column("sersic_x", "f8", "pixel", "centre of the profile, parent frame"),
            Column("sersic_y", "f8", "pixel", "centre of the profile, parent frame"),
            Column("sersic_x_err", "f4", "pixel", "error of sersic_x"),
            Column("sersic_y_err", "f4", "pixel", "error of sersic_y"),
            Column(
                "sersic_chi2", "f4", "electron2", "mean squared residual, pixels weighted as sky / variance"
            ),
            *moments,
            *errors,
            *_flag_columns("sersic_flux"),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("sersic_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        start, half = start_values(context)
        start[:, 6] = np.log(1.5)
        fit = fit_family(
            context, profile_mixtures(), start, half, free_index=True, max_iterations=self.max_iterations
        )
        p, moments, errors = fit.parameters, fit.moments(), fit.moments_errors()
        ox, oy = context.exposure.origin
        with np.errstate(all="ignore"):
            chi2 = fit.numbers[:, 0] / fit.numbers[:, 1]
        return {
            "sersic_flux": p[:, 0],
            "sersic_flux_err": error_from(fit.flux_variance()),
            "sersic_index": np.exp(p[:, 6]),
            "sersic_index_err": np.exp(p[:, 6]) * error_from(fit.covariance[:, 6, 6]),
            "sersic_radius": fit.radius(),
            "sersic_radius_err": fit.radius_error(),
            "sersic_x_err": error_from(fit.covariance[:, 1, 1]),
            "sersic_y_err": error_from(fit.covariance[:, 2, 2]),
            "sersic_x": p[:, 1] + ox,
            "sersic_y": p[:, 2] + oy,
            "sersic_chi2": chi2,
            **{f"sersic_{part}": moments[:, k] for k, part in enumerate(("xx", "yy", "xy"))},
            **{f"sersic_{part}_err": errors[:, k] for k, part in enumerate(("xx", "yy", "xy"))},
            **_flag_values("sersic_flux", fit.flags, ~np.isfinite(p[:, 0])),
        }


@register
@dataclass(frozen=True)
class CModelFlux(Plugin):
    """Flux of the best non-negative sum of an exponential and a de Vaucouleurs profile of one ellipticity.

    The sum is fitted as one model: centre, ellipse, flux and share are free, the half-light radius of the de Vaucouleurs
    part is :data:`~starmill.measurement.galaxy_profiles.BULGE` times that of the exponential. Profiles that are
    flatter than an exponential are sums of a Gaussian and an exponential. Where chi squared
    falls by less than 4 (above a S/N of 30 by less than 4 (30 / S/N)**2), the exponential alone is taken before the
    de Vaucouleurs profile, and this before the sum.

    Parameters
    ----------
    max_iterations : int

    References
    ----------
    Abazajian et al. 2004, AJ 128, 502 (composite model magnitudes).
    """

    name: ClassVar[str] = "cmodel_flux"
    order: ClassVar[float] = ORDER_FLUX + 0.5
    needs_psf: ClassVar[bool] = True

    max_iterations: int = 30

    def columns(self) -> list[Column]:
        columns = [
            Column("cmodel_flux", "f8", "electron", "flux of the composite model"),
            Column("cmodel_flux_err", "f8", "electron", "error of cmodel_flux, shapes free"),
            Column("cmodel_frac_dev", "f4", "", "share of the de Vaucouleurs profile in cmodel_flux"),
            Column("cmodel_frac_gaussian", "f4", "", "share of the Gaussian profile in cmodel_flux"),
            Column(
                "cmodel_frac_dev_err",
                "f4",
                "",
                "error of cmodel_frac_dev; NaN for a profile that stands alone",
            ),
            Column(
                "cmodel_frac_gaussian_err", "f4", "", "error of cmodel_frac_gaussian; NaN in the same way"
            ),
            Column(
                "cmodel_radius",
                "f4",
                "pixel",
                "half-light radius of the exponential part, or of the profile that stands alone",
            ),
            Column("cmodel_radius_err", "f4", "pixel", "error of cmodel_radius"),
        ]
        for part, what in (("exp", "exponential"), ("dev", "de Vaucouleurs")):
            columns += [
                Column(f"cmodel_{part}_flux", "f8", "electron", f"flux of the {what} profile alone"),
                Column(f"cmodel_{part}_flux_err", "f8", "electron", f"error of cmodel_{part}_flux"),
                Column(f"cmodel_{part}_radius", "f4", "pixel", f"half-light radius of the {what} profile"),
                Column(f"cmodel_{part}_radius_err", "f4", "pixel", f"error of cmodel_{part}_radius"),
            ]
        return [*columns, *_flag_columns("cmodel_flux")]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("cmodel_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        start, half = start_values(context)
        options: dict[str, Any] = {"half": half, "max_iterations": self.max_iterations}
        exp = fit_family(context, profile_mixtures(), start, free_index=False, **options)
        second = np.where(np.isfinite(exp.parameters), exp.parameters, start)
        second[:, 6] = np.log(4.0)
        second[:, 3:5] += 0.3  # a de Vaucouleurs profile of the same light is larger
        dev = fit_family(context, profile_mixtures(), second, free_index=False, **options)
        both = fit_family(
            context, composite_mixtures(), _between(exp, dev, start), free_index=True, **options
        )
        best = _simplest(exp, dev, both)
        mix, mix_error = best.parameters[:, 6], error_from(best.covariance[:, 6, 6])
        values: dict[str, Any] = {
            "cmodel_flux": best.parameters[:, 0],
            "cmodel_flux_err": error_from(best.flux_variance()),
            "cmodel_frac_dev": np.maximum(mix, 0),
            "cmodel_frac_gaussian": np.maximum(-mix, 0),
            "cmodel_frac_dev_err": np.where(mix > 0, mix_error, np.nan),
            "cmodel_frac_gaussian_err": np.where(mix < 0, mix_error, np.nan),
            "cmodel_radius": best.radius(),
            "cmodel_radius_err": best.radius_error(),
        }
        for part, fit in (("exp", exp), ("dev", dev)):
            values[f"cmodel_{part}_flux"] = fit.parameters[:, 0]
            values[f"cmodel_{part}_flux_err"] = error_from(fit.flux_variance())
            values[f"cmodel_{part}_radius"] = fit.radius()
            values[f"cmodel_{part}_radius_err"] = fit.radius_error()
        lost = ~np.isfinite(best.parameters[:, 0])
        return {**values, **_flag_values("cmodel_flux", best.flags, lost)}


def _simplest(exp: FittedProfiles, dev: FittedProfiles, both: FittedProfiles) -> FittedProfiles:
    """Return the simplest good model of every source: exponential, else de Vaucouleurs, else the composite.

    The last parameter is the mix everywhere; radii of a de Vaucouleurs profile alone are its own.
    """
    with np.errstate(all="ignore"):
        faint = np.fmin(1.0, BRIGHT**2 * exp.flux_variance() / exp.parameters[:, 0] ** 2)
        least = SIGNIFICANT * faint * both.numbers[:, 0] / both.numbers[:, 1]
    use_dev = (exp.numbers[:, 0] - dev.numbers[:, 0] > least)[:, None]
    parameters = np.where(use_dev, dev.parameters, exp.parameters)
    parameters[:, 6] = use_dev[:, 0]
    numbers = np.where(use_dev, dev.numbers, exp.numbers)
    flags = np.where(use_dev[:, 0], dev.flags, exp.flags)
    covariance = np.where(use_dev[:, :, None], dev.covariance, exp.covariance)
    mixed = (numbers[:, 0] - both.numbers[:, 0] > least)[:, None]
    return FittedProfiles(
        np.where(mixed, both.parameters, parameters),
        np.where(mixed[:, :, None], both.covariance, covariance), np.where(mixed, both.numbers, numbers),
        np.where(mixed[:, 0], both.flags, flags).astype(np.int32),
    )  # fmt: skip


def _between(exp: FittedProfiles, dev: FittedProfiles, start: Float) -> Float:
    """Return starting values of a composite: on the way between both profiles, nearer to the better one."""
    first = np.where(np.isfinite(exp.parameters), exp.parameters, start)
    second = np.where(np.isfinite(dev.parameters), dev.parameters, first)
    first[:, 6], second[:, 6] = 0.0, 1.0
    second[:, 3:5] -= 2 * np.log(BULGE)
    share = np.where(dev.numbers[:, 0] < exp.numbers[:, 0], 0.7, 0.3)[:, None]
    return (1 - share) * first + share * second
