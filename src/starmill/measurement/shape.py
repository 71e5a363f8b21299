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


def gaussian_covariance(
    moments: NDArray[np.float64], amplitude: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Covariance of amplitude and second moments of a Gaussian fitted to pixels of constant variance.

    Parameters
    ----------
    moments : (n, 3) array, pixel**2
        xx, yy, xy.
    amplitude : (n,) array
        Central value.
    variance : (n,) array
        Of a pixel.

    Returns
    -------
    covariance : (n, 4, 4) array
        Order amplitude, xx, yy, xy; NaN where the moments are not those of an ellipse.

    Notes
    -----
    Inverse of the Fisher matrix of I = A exp(-d' C^-1 d / 2): dI/dC = I C^-1 d d' C^-1 / 2, and I**2 is a
    Gaussian of covariance C / 2, whose fourth moments are products of second ones.
    """
    xx, yy, xy = moments.T
    det = xx * yy - xy**2
    with np.errstate(all="ignore"):
        good = (det > 0) & (xx > 0) & (variance > 0) & np.isfinite(amplitude) & (amplitude != 0)
        inverse = np.stack([yy / det, xx / det, -xy / det], axis=1)  # C^-1: 11, 22, 12
        base = np.pi * np.sqrt(det) / variance
        c = np.empty((len(xx), 2, 2))
        c[:, 0, 0], c[:, 1, 1] = inverse[:, 0] / 2, inverse[:, 1] / 2
        c[:, 0, 1] = c[:, 1, 0] = inverse[:, 2] / 2
        fisher = np.empty((len(xx), 4, 4))
        fisher[:, 0, 0] = base
        pairs, factors = ((0, 0), (1, 1), (0, 1)), (1.0, 1.0, 2.0)
        for a, ((p, q), fa) in enumerate(zip(pairs, factors, strict=True)):
            fisher[:, 0, a + 1] = fisher[:, a + 1, 0] = amplitude * base / 4 * inverse[:, a] * fa
            for b, ((r, u), fb) in enumerate(zip(pairs, factors, strict=True)):
                fourth = c[:, p, q] * c[:, r, u] + c[:, p, r] * c[:, q, u] + c[:, p, u] * c[:, q, r]
                fisher[:, a + 1, b + 1] = amplitude**2 * base / 4 * fourth * fa * fb
    out = np.full_like(fisher, np.nan)
    good &= np.isfinite(fisher).all((1, 2))
    if good.any():
        scale = np.sqrt(fisher[good].diagonal(axis1=1, axis2=2))
        normed = fisher[good] / (scale[:, :, None] * scale[:, None, :])
        out[good] = np.linalg.inv(normed) / (scale[:, :, None] * scale[:, None, :])
    return out


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
        covariance = gaussian_covariance(m, found[:, 3], variance)
        ox, oy = context.exposure.origin
        values: dict[str, Any] = {
            "shape_x": found[:, 4] + ox,
            "shape_y": found[:, 5] + oy,
            "shape_flux": area * found[:, 3],
            "shape_flux_err": area * error_from(covariance[:, 0, 0]),
            "shape_flag": flags != 0,
            "psf_shape_flag": context.psf_shape[1],
        }
        for k, part in enumerate(PARTS):
            values[f"shape_{part}"] = m[:, k]
            values[f"shape_{part}_err"] = error_from(covariance[:, k + 1, k + 1])
            values[f"shape_flux_{part}_cov"] = area * covariance[:, 0, k + 1]
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
