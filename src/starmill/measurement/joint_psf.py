"""PSF fluxes of all sources fitted together, so that neighbours do not count: crowded-field photometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Column
from starmill.datamodel.exposure import Exposure
from starmill.errors import AlgorithmError
from starmill.kernels import joint_psf as kernel
from starmill.measurement.context import BLOCK, MeasurementContext
from starmill.measurement.plugin import ORDER_FLUX, Plugin, error_from, register

Float = NDArray[np.float64]
MAX_STAMP_BYTES = 400_000_000  # PSF stamps are cut smaller when all together would take more
DEGENERATE = 0.98  # cosine between two PSF images that nobody can tell apart


@dataclass(frozen=True)
class JointFit:
    """Result of a joint fit of point sources.

    Attributes
    ----------
    flux, flux_err : (n,) array
        NaN where the source has no usable pixel.
    x, y : (n,) array, pixels
        Positions, parent frame; the given ones when they were not refined.
    overlap : (n,) array
        Largest cosine between the PSF image of a source and that of another one.
    n_iterations : int
        Of the conjugate gradients.
    residual : (ny, nx) float32 array
        Image less all models.
    """

    flux: Float
    flux_err: Float
    x: Float
    y: Float
    overlap: Float
    n_iterations: int
    residual: NDArray[np.float32]


def fit_point_sources(
    exposure: Exposure,
    x: Float,
    y: Float,
    *,
    bad_planes: tuple[str, ...] = ("NO_DATA", "SAT", "BAD"),
    inverse_variance: bool = False,
    position_iterations: int = 0,
    tolerance: float = 1e-8,
    want_residual: bool = True,
) -> JointFit:
    """Fit the fluxes of all point sources of an exposure at once.

    Parameters
    ----------
    exposure : Exposure
        Background subtracted, with a PSF.
    x, y : (n,) array, pixels
        Positions, parent frame; those outside the exposure get NaN.
    bad_planes : tuple of str
        Pixels with these mask planes are left out.
    inverse_variance : bool
        Weight pixels with 1 / variance; equal weights otherwise, which do not bias fluxes when the variance
        follows the noise.
    position_iterations : int
        Rounds in which each position is moved to where the residual is smallest.
    tolerance : float
        Of the linear solution.
    want_residual : bool
        Whether to subtract the models; the residual is empty otherwise.

    Returns
    -------
    fit : JointFit

    Notes
    -----
    One linear system for all sources: a pair of overlapping PSF images is an entry of a sparse matrix. Cost
    grows with the number of pairs.
    """
    ny, nx = exposure.shape
    ox, oy = exposure.origin
    x, y = np.array(x, np.float64), np.array(y, np.float64)
    n = len(x)
    inside = (x >= ox - 0.5) & (x < ox + nx - 0.5) & (y >= oy - 0.5) & (y < oy + ny - 0.5)
    rows = np.flatnonzero(inside)
    bits = exposure.mask.planes.bits_present(*bad_planes)
    image = weight = np.zeros((0, 0), np.float32)
    if want_residual or position_iterations:
        image, weight = np.empty(exposure.shape, np.float32), np.empty(exposure.shape, np.float32)
        kernel.weigh_pixels(
            exposure.image, exposure.variance, exposure.mask.array, bits, inverse_variance, image, weight
        )
    flux, error, overlap = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n)
    residual = np.zeros((0, 0), np.float32)
    iterations = 0
    for round_number in range(position_iterations + 1):
        rows = rows[np.argsort(y[rows], kind="stable")]
        stamps, x0, y0 = _psf_stamps(exposure, x[rows], y[rows])
        last = round_number == position_iterations
        solution = _solve(exposure, bits, inverse_variance, stamps, x0, y0, tolerance, with_errors=last)
        flux[rows], error[rows], overlap[rows], iterations = solution
        if not last or want_residual:
            residual = image.copy()
            kernel.add_models(residual, stamps, x0, y0, -flux[rows])
        if not last:
            steps = np.empty((len(rows), 2))
            kernel.position_steps(residual, weight, stamps, x0, y0, flux[rows], steps)
            steps = np.clip(steps, -0.5, 0.5)
            x[rows] = np.clip(x[rows] + steps[:, 0], ox - 0.49, ox + nx - 0.51)
            y[rows] = np.clip(y[rows] + steps[:, 1], oy - 0.49, oy + ny - 0.51)
    return JointFit(flux, error, x, y, overlap, iterations, residual)


def _psf_stamps(
    exposure: Exposure, x: Float, y: Float
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return PSF images of all sources and the array index of their first pixels."""
    psf = exposure.psf
    if psf is None:
        raise AlgorithmError("the exposure has no PSF", numbers={"n_psf": 0})
    n, size = len(x), psf.size
    cut = 0
    while n * (size - 2 * cut) ** 2 * 4 > MAX_STAMP_BYTES and size - 2 * cut > 11:
        cut += 1
    kept = size - 2 * cut
    stamps = np.empty((n, kept, kept), np.float32)
    x0, y0 = np.empty(n, np.int64), np.empty(n, np.int64)
    for start in range(0, n, BLOCK):
        part = slice(start, start + BLOCK)
        images, px, py = psf.images_at(x[part], y[part])
        stamps[part] = images[:, cut : size - cut, cut : size - cut]
        x0[part], y0[part] = px + cut - exposure.origin[0], py + cut - exposure.origin[1]
    return stamps, x0, y0


def _solve(
    exposure: Exposure,
    bits: int,
    inverse_variance: bool,
    stamps: NDArray[np.float32],
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    tolerance: float,
    *,
    with_errors: bool,
) -> tuple[Float, Float, Float, int]:
    """Return fluxes, errors, overlaps and the number of iterations."""
    n, size = len(x0), stamps.shape[1]
    counts = np.zeros(n, np.int64)
    kernel.count_pairs(x0, y0, size, counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns = np.empty(int(offsets[-1]), np.int64)
    entries, spreads = np.empty((2, len(columns)))
    diagonal, right = np.empty((n, 2)), np.empty(n)
    kernel.fill_system(
        exposure.image, exposure.variance, exposure.mask.array, bits, inverse_variance, stamps, x0, y0, offsets, columns,
        entries, spreads, diagonal, right,
    )  # fmt: skip
    flux, iterations = kernel.solve(offsets, columns, entries, diagonal, right, tolerance, 500)
    flux[diagonal[:, 0] <= 0] = np.nan
    if not with_errors:
        return flux, np.full(n, np.nan), np.zeros(n), iterations
    spread, overlap = kernel.block_errors(offsets, columns, entries, spreads, diagonal, 9)
    return flux, error_from(spread), overlap, iterations


@register
@dataclass(frozen=True)
class JointPsfFlux(Plugin):
    """PSF fluxes of all sources fitted together on the image with all of them.

    Parents whose children are in the catalogue are left out.

    Parameters
    ----------
    bad_planes : tuple of str
    inverse_variance : bool
    """

    name: ClassVar[str] = "joint_psf_flux"
    order: ClassVar[float] = ORDER_FLUX
    needs_psf: ClassVar[bool] = True

    bad_planes: tuple[str, ...] = ("NO_DATA", "SAT", "BAD")
    inverse_variance: bool = False

    def columns(self) -> list[Column]:
        return [
            Column("joint_psf_flux", "f8", "electron", "PSF flux fitted together with all other sources"),
            Column("joint_psf_flux_err", "f8", "electron", "error of joint_psf_flux, neighbours included"),
            Column("joint_psf_flux_overlap", "f4", "", "cosine with the PSF image of the closest neighbour"),
            Column("joint_psf_flux_flag", "bool", "", "no joint PSF flux"),
            Column("joint_psf_flux_flag_off_image", "bool", "", "the centroid is not inside the image"),
            Column("joint_psf_flux_flag_no_good_pixels", "bool", "", "no usable pixel under the PSF"),
            Column("joint_psf_flux_flag_parent", "bool", "", "not fitted: its children are"),
            Column(
                "joint_psf_flux_flag_degenerate", "bool", "", "cannot be told from a neighbour at this place"
            ),
        ]

    def corrected_fluxes(self) -> tuple[str, ...]:
        return ("joint_psf_flux",)

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        parent = np.isin(context.columns["id"], context.columns["parent"])
        x, y = np.where(parent, np.nan, context.x), np.where(parent, np.nan, context.y)
        fit = fit_point_sources(
            context.exposure, x, y, bad_planes=self.bad_planes, inverse_variance=self.inverse_variance,
            want_residual=False,
        )  # fmt: skip
        return {
            "joint_psf_flux": fit.flux,
            "joint_psf_flux_err": fit.flux_err,
            "joint_psf_flux_overlap": fit.overlap,
            "joint_psf_flux_flag": ~np.isfinite(fit.flux),
            "joint_psf_flux_flag_off_image": ~context.on_image,
            "joint_psf_flux_flag_no_good_pixels": ~np.isfinite(fit.flux) & ~parent & context.on_image,
            "joint_psf_flux_flag_parent": parent,
            "joint_psf_flux_flag_degenerate": fit.overlap > DEGENERATE,
        }
