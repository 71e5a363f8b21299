"""PSF as a grid of pixels, each a polynomial over the field: one linear least-squares problem.

The unknowns are ``k`` images (one for each polynomial term) on the detector's grid or a finer one.  A star is the sum
of the images times the terms at its place, interpolated (Lanczos) to its sub-pixel position.  The problem is solved by
preconditioned conjugate gradients, starting from an analytic model and pulled softly towards it, so that a pixel that
the stars do not determine keeps the value of the analytic model.

References
----------
Bertin 2011, ASP Conf. Ser. 442, 435 (PSFEx: pixel basis, oversampling, polynomial terms).
Anderson & King 2000, PASP 112, 1360 (effective PSF: stars centred with the model and the model with the stars).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.psf import PixelBasisPsf
from starmill.datamodel.psf_models import MoffatPsf
from starmill.errors import AlgorithmError
from starmill.kernels.lanczos import fill_sampling_matrices
from starmill.psf_modelling.consistency import PsfFit, choose_consistent, recentred
from starmill.psf_modelling.spatial_fit import spatial_terms, supported_order, unit_fields
from starmill.psf_modelling.star_scaling import scale_and_mask

if TYPE_CHECKING:
    from starmill.datamodel.geometry import Box
    from starmill.psf_modelling.candidates import StarStamps
    from starmill.psf_modelling.star_scaling import StarScales


_KERNEL_ORDER = 5  # half width of the interpolation kernel, as in PixelBasisPsf
_PRIOR_RELATIVE = 0.2  # how far a pixel may leave the analytic model, relative to the model ...
_PRIOR_OF_PEAK = 2e-3  # ... and relative to the peak


def fit_pixel_grid_psf(
    stamps: StarStamps,
    box: Box,
    start: MoffatPsf,
    *,
    order: int = 2,
    samples_per_pixel: int = 1,
    iterations: int | None = None,
    solver_iterations: int | None = None,
    n_sigma: float = 3.0,
    recentre: bool = True,
    min_stars: int = 1,
) -> PsfFit:
    """Fit a pixel-grid PSF to stars.

    Parameters
    ----------
    stamps : StarStamps
    box : Box
        Where the PSF is meant to be used; the polynomial is scaled to it.
    start : MoffatPsf
        Analytic model to start from and to fall back on where the stars say nothing.
    order : int
        Largest total Chebyshev order of the spatial terms; lowered for few stars.
    samples_per_pixel : int
        1 for the detector's grid; 2 when the FWHM is below 2.5 pixels.
    iterations : int, optional
        Rounds of scaling, rejection and solution; 3 on the detector's grid, 5 on a finer one.
    solver_iterations : int, optional
        Conjugate-gradient steps in each round; 2 on the detector's grid, 8 on a finer one.
    n_sigma : float
        Stars whose size or ellipticity differs by more are left out.
    recentre : bool
        Centre every star with the model; the mean offset stays that of the given positions.
    min_stars : int
        Fewer surviving stars raise an error.

    Returns
    -------
    fit : PsfFit

    Raises
    ------
    AlgorithmError
        Too few stars survive.
    """
    if len(stamps) < max(min_stars, 1):
        raise AlgorithmError(
            f"{len(stamps)} stars for a PSF, {max(min_stars, 1)} are needed",
            numbers={"stars": len(stamps), "needed": max(min_stars, 1)},
        )
    order = supported_order(len(stamps), order)
    step = int(samples_per_pixel)
    iterations = iterations or (3 if step == 1 else 5)
    n_solver = solver_iterations or (2 if step == 1 else 8)
    basis = analytic_basis(start, box, order, stamps.size, step)
    prior_mean, used = basis.copy(), np.ones(len(stamps), dtype=bool)
    current, flux = stamps, None
    if step > 1 and recentre:
        current = _centred_on_analytic(stamps, basis, box, order, step)
    for iteration in range(iterations):
        terms = spatial_terms(current.x, current.y, box, order).astype(np.float32)
        operators = sampling_operators(current.dx, current.dy, current.size, basis.shape[-1], step)
        models = render(basis, terms, operators)
        late = iteration > 0
        scales, weights, current = scale_and_mask(current, models, flux, mask_outliers=late, fit_shape=late)
        flux = scales.flux
        used = (
            choose_consistent(current, scales, n_sigma)
            if iteration
            else np.isfinite(scales.flux) & (scales.flux > 0)
        )
        if used.sum() < max(min_stars, 1):
            raise AlgorithmError(
                f"{int(used.sum())} of {len(stamps)} stars agree with each other, {min_stars} are needed",
                numbers={"stars": len(stamps), "used": int(used.sum()), "needed": min_stars},
            )
        residual = unit_residual(current, models, scales)
        basis = basis + _solve_basis(
            residual, scales, weights, terms, operators, used, basis, prior_mean, n_solver
        )
        basis = normalise(basis)
        if recentre and iteration < iterations - 1:
            current = recentred(current, stamps, scales, used, box, order)
    terms = spatial_terms(current.x, current.y, box, order).astype(np.float32)
    operators = sampling_operators(current.dx, current.dy, current.size, basis.shape[-1], step)
    scales, _, current = scale_and_mask(current, render(basis, terms, operators), flux, fit_shape=True)
    position = (float(np.mean(current.x[used])), float(np.mean(current.y[used])))
    psf = PixelBasisPsf(
        basis,
        unit_fields(box, order),
        size=stamps.size,
        samples_per_pixel=float(step),
        average_position=position,
        kaiser=True,
    )
    return PsfFit(psf, used, current.x, current.y, scales, current.good, order)


def _centred_on_analytic(
    stamps: StarStamps, basis: NDArray[np.floating], box: Box, order: int, step: int, rounds: int = 2
) -> StarStamps:
    """Return the stamps with the centres that the analytic model finds.

    Centroids of undersampled stars are pulled towards the centres of pixels. A pixel model fitted to such positions
    takes the pull for a part of its shape and gives it back only slowly; the analytic model cannot take it.
    """
    current = stamps
    for _ in range(rounds):
        terms = spatial_terms(current.x, current.y, box, order).astype(np.float32)
        operators = sampling_operators(current.dx, current.dy, current.size, basis.shape[-1], step)
        scales, _, _ = scale_and_mask(current, render(basis, terms, operators), None)
        usable = np.isfinite(scales.flux) & (scales.flux > 0)
        current = recentred(current, stamps, scales, usable, box, order)
    return current


def analytic_basis(psf: MoffatPsf, box: Box, order: int, size: int, step: int) -> NDArray[np.floating]:
    """Return images whose polynomial sum over the field is closest to an analytic PSF, (n_terms, grid, grid)."""
    grid = size if step == 1 else 2 * ((size * step) // 2) + 1
    fine = MoffatPsf(psf.fwhm * float(step), psf.e1, psf.e2, psf.beta, grid)
    nodes = np.linspace(0.0, 1.0, 2 * order + 1) if order else np.array([0.5])
    x = np.repeat(box.x0 + nodes * (box.width - 1), len(nodes))
    y = np.tile(box.y0 + nodes * (box.height - 1), len(nodes))
    samples = fine.kernels_at(x, y).reshape(len(x), -1)
    solution = np.linalg.lstsq(spatial_terms(x, y, box, order), samples, rcond=None)[0]
    return normalise(solution.reshape(-1, grid, grid))


def sampling_operators(
    dx: NDArray[np.floating], dy: NDArray[np.floating], size: int, grid: int, step: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the matrices that sample a grid at the pixels of each star.

    Parameters
    ----------
    dx, dy : (n,) array, pixel
        Offset of each star from the centre of its central pixel.
    size : int
        Side of the stamps.
    grid : int
        Side of the model grid, odd.
    step : int
        Grid points per pixel.

    Returns
    -------
    rows, columns : (n, size, grid) float32
        A star is ``rows @ model @ columns.T``.
    """
    operators = []
    for offset in (dy, dx):
        matrices = np.empty((len(offset), size, grid), dtype=np.float32)
        fill_sampling_matrices(np.ascontiguousarray(offset), step, _KERNEL_ORDER, matrices)
        operators.append(matrices)
    return tuple(operators)


def render(
    basis: NDArray[np.floating],
    terms: NDArray[np.floating],
    operators: tuple[NDArray[np.floating], NDArray[np.floating]],
) -> NDArray[np.floating]:
    """Return the images of stars of unit flux, (n, size, size) float32."""
    rows, columns = operators
    n_terms, grid, _ = basis.shape
    grids = (terms @ basis.reshape(n_terms, -1).astype(np.float32)).reshape(-1, grid, grid)
    return rows @ (grids @ columns.transpose(0, 2, 1))


def _back_project(
    images: NDArray[np.floating],
    terms: NDArray[np.floating],
    operators: tuple[NDArray[np.floating], NDArray[np.floating]],
) -> NDArray[np.floating]:
    """Adjoint of :func:`render`: (n_terms, grid, grid)."""
    rows, columns = operators
    grids = rows.transpose(0, 2, 1) @ (images @ columns)
    n, grid, _ = grids.shape
    return (terms.T @ grids.reshape(n, -1)).reshape(-1, grid, grid)


def unit_residual(
    stamps: StarStamps, models: NDArray[np.floating], scales: StarScales
) -> NDArray[np.floating]:
    """Return what a unit star lacks in the model, its offset from the given position included, (n, size, size).

    The offsets stay in, because their mean belongs to the model; each star's own is taken out by
    :func:`recentred` before the next round.
    """
    flux, background = (
        np.asarray(a, dtype=np.float32)[:, None, None] for a in (scales.flux, scales.background)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(stamps.good, (stamps.images - background) / flux - models, np.float32(0.0))


def _solve_basis(
    residual: NDArray[np.floating],
    scales: StarScales,
    weights: NDArray[np.floating],
    terms: NDArray[np.floating],
    operators: tuple[NDArray[np.floating], NDArray[np.floating]],
    used: NDArray[np.bool_],
    basis: NDArray[np.floating],
    prior_mean: NDArray[np.floating],
    n_iterations: int,
) -> NDArray[np.floating]:
    """Return the correction of the basis images by preconditioned conjugate gradients."""
    rows, columns = (operator[used] for operator in operators)
    chosen = (rows, columns)
    terms = terms[used]
    flux = scales.flux[used].astype(np.float32)[:, None, None]
    weight = weights[used] * flux**2
    residual = residual[used]
    # weights at the grid points: |rows|^2 W |columns|^2 summed over stars, one small matrix per grid point
    footprint = (rows**2).transpose(0, 2, 1) @ (weight @ columns**2)
    n, grid, _ = footprint.shape
    n_terms = terms.shape[1]
    outer = (terms[:, :, None] * terms[:, None, :]).reshape(n, -1)
    blocks = (footprint.reshape(n, -1).T @ outer).reshape(-1, n_terms, n_terms).astype(np.float64)
    prior = _prior_weights(prior_mean, grid)
    blocks += prior.reshape(-1)[:, None, None] * np.eye(n_terms)
    inverse = np.linalg.inv(blocks)

    def precondition(image: NDArray[np.floating]) -> NDArray[np.floating]:
        flat = np.einsum("pij,jp->ip", inverse, image.reshape(n_terms, -1))
        return flat.reshape(n_terms, grid, grid)

    def normal(image: NDArray[np.floating]) -> NDArray[np.floating]:
        return _back_project(render(image, terms, chosen) * weight, terms, chosen) + prior * image

    right = _back_project(residual * weight, terms, chosen) - prior * (basis - prior_mean)
    solution = np.zeros_like(basis)
    direction = precondition(right)
    remainder, rho = right.astype(np.float64), float(np.vdot(right, direction))
    for iteration in range(n_iterations):
        if not rho > 0:
            break
        product = normal(direction)
        alpha = rho / float(np.vdot(direction, product))
        solution = solution + alpha * direction
        if iteration == n_iterations - 1:
            break
        remainder = remainder - alpha * product
        preconditioned = precondition(remainder)
        rho_next = float(np.vdot(remainder, preconditioned))
        direction = preconditioned + (rho_next / rho) * direction
        rho = rho_next
    return solution


def _prior_weights(prior_mean: NDArray[np.floating], grid: int) -> NDArray[np.floating]:
    """Return 1/sigma**2 of the departure from the analytic model at each grid point, (grid, grid)."""
    profile = np.abs(prior_mean[0])
    sigma = _PRIOR_RELATIVE * profile + _PRIOR_OF_PEAK * profile.max()
    return (1.0 / sigma**2).reshape(grid, grid)


def normalise(basis: NDArray[np.floating]) -> NDArray[np.floating]:
    """Give the constant image unit sum and the others zero sum."""
    out = basis.copy()
    out[0] /= out[0].sum()
    for k in range(1, len(out)):
        out[k] -= out[k].sum() * out[0]
    return out
