"""Second moments with a matched Gaussian weight, of the sources and of the PSF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Column
from starmill.kernels import moments as kernel
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_SHAPE, Plugin, error_from, register

SHAPE_FLAGS = {
    "unweighted_bad": (kernel.FLAG_UNWEIGHTED_BAD, "neither weighted nor unweighted moments are possible"),
    "unweighted": (kernel.FLAG_UNWEIGHTED, "weighted moments failed, these are unweighted"),
    "shift": (kernel.FLAG_SHIFT, "the weighted mean is far from the centroid"),
    "max_iterations": (kernel.FLAG_MAX_ITERATIONS, "the weight did not converge"),
    "bad_centroid": (kernel.FLAG_BAD_CENTROID, "the centroid is not inside the image"),
}
PARTS = ("xx", "yy", "xy")


@dataclass(frozen=True)
class GaussianErrors:
    """Errors of a Gaussian fitted with equal weights.

    Attributes
    ----------
    amplitude, flux : (n,) array
        Variances of the central value and of the flux.
    moments : (n, 3) array, pixel**4
        Variances of xx, yy, xy.
    flux_moments : (n, 3) array
        Covariances of the flux with xx, yy, xy.
    position : (n, 2) array, pixel**2
        Variances of x and y.
    """

    amplitude: NDArray[np.float64]
    flux: NDArray[np.float64]
    moments: NDArray[np.float64]
    flux_moments: NDArray[np.float64]
    position: NDArray[np.float64]


def gaussian_errors(
    moments: NDArray[np.float64], amplitude: NDArray[np.float64], sky: Any, peak: Any
) -> GaussianErrors:
    """Errors of amplitude, second moments and position of a Gaussian fitted with equal weights.

    Parameters
    ----------
    moments : (n, 3) array, pixel**2
        xx, yy, xy.
    amplitude : (n,) array
        Central value.
    sky, peak : (n,) array or float
        Variance of a pixel of the sky and of the central one; between them it follows the light.

    Returns
    -------
    errors : GaussianErrors
        NaN where the moments are not those of an ellipse.

    Notes
    -----
    The covariance of a fit with equal weights to pixels of variance V is F^-1 G F^-1 with F = J'J and G = J'VJ. For
    I = A exp(-q / 2), q = d' C^-1 d, the derivatives are dI/dA = exp(-q / 2) and dI/dC = I C^-1 d d' C^-1 / 2, and with
    V = v + s exp(-q / 2) all integrals are moments of Gaussians of covariance C / 2 and C / 3. The trace and the
    traceless part of the moments decouple; with b = pi det(C)**0.5 and C_ij C_kl written T, C_ik C_jl + C_il C_jk - T
    written Z,

        A**2 b cov(C_ij, C_kl) = (4 v + 40/27 s) T + (4 v + 32/27 s) Z,   b var(A) = 2 v + 40/27 s,
        A b cov(A, C_ij) = -(2 v + 32/27 s) C_ij,   A**2 b cov(d_i, d_j) = (2 v + 8/9 s) C_ij;

    the flux 2 A b has the variance 4 b (2 v + 16/27 s) and the covariances 2 (2 v + 8/27 s) C_ij / A with the moments.
    """
    xx, yy, xy = moments.T
    det = xx * yy - xy**2
    with np.errstate(all="ignore"):
        v = np.fmin(sky, peak)
        s = peak - v
        good = (det > 0) & (xx > 0) & (v > 0) & np.isfinite(amplitude) & (amplitude != 0)
        base = np.where(good, np.pi * np.sqrt(det), np.nan)
        scale = (1 / (amplitude**2 * base))[:, None]
        trace, rest = 4 * v + 40 / 27 * s, 4 * v + 32 / 27 * s
        diagonal = trace + rest
        return GaussianErrors(
            amplitude=(2 * v + 40 / 27 * s) / base,
            flux=4 * base * (2 * v + 16 / 27 * s),
            moments=scale
            * np.column_stack([diagonal * xx**2, diagonal * yy**2, trace * xy**2 + rest * xx * yy]),
            flux_moments=2 * ((2 * v + 8 / 27 * s) / amplitude)[:, None] * moments,
            position=scale * (2 * v + 8 / 9 * s)[:, None] * moments[:, :2],
        )


def _sky_variance(context: MeasurementContext, moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median variance of pixels on a circle of 4 sigma around every source, (n,)."""
    ny, nx = context.pixels.mask.shape
    with np.errstate(all="ignore"):
        radius = 4 * np.sqrt(np.nan_to_num(np.fmax(moments[:, 0], moments[:, 1]), nan=1.0))
    angle = 2 * np.pi * np.arange(12) / 12
    x, y = context.safe_position()
    ox, oy = context.exposure.origin
    ix, iy = (
        np.clip(c - o + np.outer(trig, radius) + 0.5, 0, n - 1).astype(np.int64)
        for c, o, trig, n in ((x, ox, np.cos(angle), nx), (y, oy, np.sin(angle), ny))
    )
    return np.asarray(np.median(context.pixels.variance[iy, ix], axis=0), np.float64)


@register
@dataclass(frozen=True)
class AdaptiveShape(Plugin):
    """Adaptive second moments of every source and of the PSF there.

    Parameters
    ----------
    max_shift : float
        The weighted mean may lie this far from the centroid, pixels (2 to 10).
    max_iterations : int
    """

    name: ClassVar[str] = "shape"
    order: ClassVar[float] = ORDER_SHAPE
    needs_psf: ClassVar[bool] = True

    max_shift: float = 2.0
    max_iterations: int = 100

    def columns(self) -> list[Column]:
        unit = "electron"
        what = "adaptive second moment"
        moments = [Column(f"shape_{p}", "f8", "pixel2", f"{what} {p}") for p in PARTS]
        errors = [Column(f"shape_{p}_err", "f4", "pixel2", f"error of shape_{p}") for p in PARTS]
        covariances = [
            Column(f"shape_flux_{p}_cov", "f4", f"{unit} pixel2", f"covariance of shape_flux and shape_{p}")
            for p in PARTS
        ]
        psf = [Column(f"psf_shape_{p}", "f8", "pixel2", f"{what} {p} of the PSF here") for p in PARTS]
        flags = [Column(f"shape_flag_{key}", "bool", "", text) for key, (_, text) in SHAPE_FLAGS.items()]
        return [
            *moments,
            *errors,
            Column("shape_x", "f8", "pixel", "weighted mean position, parent frame"),
            Column("shape_y", "f8", "pixel", "weighted mean position, parent frame"),
            Column("shape_x_err", "f4", "pixel", "error of shape_x"),
            Column("shape_y_err", "f4", "pixel", "error of shape_y"),
            Column("shape_flux", "f8", unit, "flux of the matched Gaussian"),
            Column("shape_flux_err", "f8", unit, "error of shape_flux, moments free"),
            *covariances,
            *psf,
            Column("shape_flag", "bool", "", "the moments cannot be trusted"),
            *flags,
            Column("psf_shape_flag", "bool", "", "the moments of the PSF failed"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        shift = min(max(self.max_shift, 2.0), 10.0)
        found, variance, flags = kernel.adaptive_moments(
            context.pixels, context.array_x, context.array_y, shift, self.max_iterations
        )
        m = found[:, :3]
        with np.errstate(invalid="ignore"):
            area = 2 * np.pi * np.sqrt(m[:, 0] * m[:, 1] - m[:, 2] ** 2)
        errors = gaussian_errors(m, found[:, 3], _sky_variance(context, m), variance)
        ox, oy = context.exposure.origin
        values: dict[str, Any] = {
            "shape_x": found[:, 4] + ox,
            "shape_y": found[:, 5] + oy,
            "shape_x_err": error_from(errors.position[:, 0]),
            "shape_y_err": error_from(errors.position[:, 1]),
            "shape_flux": area * found[:, 3],
            "shape_flux_err": error_from(errors.flux),
            "shape_flag": flags != 0,
            "psf_shape_flag": context.psf_shape[1],
        }
        for k, part in enumerate(PARTS):
            values[f"shape_{part}"] = m[:, k]
            values[f"shape_{part}_err"] = error_from(errors.moments[:, k])
            values[f"shape_flux_{part}_cov"] = errors.flux_moments[:, k]
            values[f"psf_shape_{part}"] = context.psf_shape[0][:, k]
        for key, (bit, _) in SHAPE_FLAGS.items():
            values[f"shape_flag_{key}"] = (flags & bit) != 0
        return values


def inverse_moments(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return xx, yy, xy of the inverse matrices, (n, 3); NaN where the moments are not those of an ellipse."""
    xx, yy, xy = moments.T
    det = xx * yy - xy**2
    with np.errstate(all="ignore"):
        inverse = np.column_stack([yy / det, xx / det, -xy / det])
    inverse[~((det > 0) & (xx > 0))] = np.nan
    return inverse


def usable_shapes(context: MeasurementContext) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the moments of the shape slot, replaced by those of the PSF where they cannot be used.

    Returns
    -------
    moments : (n, 3) array, pixel**2
    replaced : (n,) bool array
    """
    if "usable_shapes" not in context.cache:
        moments = np.array(context.shape)
        xx, yy, xy = moments.T
        psf = context.psf_shape[0]
        with np.errstate(invalid="ignore"):
            replaced = ~((xx > 0) & (yy > 0) & (xx * yy - xy**2 > 0))
        moments[replaced] = psf[replaced]
        context.cache["usable_shapes"] = moments, replaced
    return context.cache["usable_shapes"]
