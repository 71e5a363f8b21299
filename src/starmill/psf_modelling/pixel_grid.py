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

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.psf import PixelBasisPsf, Psf
from starmill.datamodel.psf_models import MoffatPsf
from starmill.errors import AlgorithmError
from starmill.psf_modelling.spatial_fit import spatial_terms, supported_order, unit_fields
from starmill.psf_modelling.star_scaling import StarScales, core_flux, fit_star_scales, model_weights

_NATIVE_ORDER, _OVERSAMPLED_ORDER = 5, 4  # half widths of the Lanczos kernels, as in PixelBasisPsf
_PRIOR_RELATIVE = 0.2  # how far a pixel may leave the analytic model, relative to the model ...
_PRIOR_OF_PEAK = 2e-3  # ... and relative to the peak
_SYSTEMATIC = 0.02  # model error in the weights, so that one bright star does not rule


@dataclass(frozen=True)
class PsfFit:
    """A PSF model and the stars behind it.

    Attributes
    ----------
    psf : Psf
    used : (n,) bool
        Stars that survived the rejection.
    x, y : (n,) float64, pixel
        Positions, centred with the model.
    scales : StarScales
        Flux, residual shape and residual image of every star.
    good : (n, size, size) bool
        Pixels that were used.
    order : int
        Order of the spatial terms that the number of stars allowed.
    """

    psf: Psf
    used: NDArray[np.bool_]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    scales: StarScales
    good: NDArray[np.bool_]
    order: int


def fit_pixel_grid_psf(
    stamps,
    box,
    start,
    *,
    order=2,
    samples_per_pixel=1,
    iterations=4,
    solver_iterations=None,
    n_sigma=3.0,
    recentre=True,
    min_stars=1,
):
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
    iterations : int
        Rounds of scaling, rejection and solution.
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
    n_solver = solver_iterations or (2 if step == 1 else 8)
    basis = analytic_basis(start, box, order, stamps.size, step)
    prior_mean, used = basis.copy(), np.ones(len(stamps), dtype=bool)
    current, flux = stamps, None
    for iteration in range(iterations):
        terms = spatial_terms(current.x, current.y, box, order).astype(np.float32)
        operators = sampling_operators(current.dx, current.dy, current.size, basis.shape[-1], step)
        models = render(basis, terms, operators)
        late = iteration > 0
        scales, weights, current = scale_and_mask(current, models, flux, mask_outliers=late, fit_shape=late)
        flux = scales.flux
        used = choose_consistent(current, scales, n_sigma) if iteration else np.isfinite(scales.flux) & (scales.flux > 0)
        if used.sum() < max(min_stars, 1):
            raise AlgorithmError(
                f"{int(used.sum())} of {len(stamps)} stars agree with each other, {min_stars} are needed",
                numbers={"stars": len(stamps), "used": int(used.sum()), "needed": min_stars},
            )
        residual = unit_residual(current, models, scales)
        basis = basis + _solve_basis(residual, scales, weights, terms, operators, used, basis, prior_mean, n_solver)
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
        preserve_moments=True,
    )
    return PsfFit(psf, used, current.x, current.y, scales, current.good, order)


def analytic_basis(psf, box, order, size, step):
    """Return images whose polynomial sum over the field is closest to an analytic PSF, (n_terms, grid, grid)."""
    grid = size if step == 1 else 2 * ((size * step) // 2) + 1
    fine = MoffatPsf(psf.fwhm * float(step), psf.e1, psf.e2, psf.beta, grid)
    nodes = np.linspace(0.0, 1.0, 2 * order + 1) if order else np.array([0.5])
    x = np.repeat(box.x0 + nodes * (box.width - 1), len(nodes))
    y = np.tile(box.y0 + nodes * (box.height - 1), len(nodes))
    samples = fine.kernels_at(x, y).reshape(len(x), -1)
    solution = np.linalg.lstsq(spatial_terms(x, y, box, order), samples, rcond=None)[0]
    return normalise(solution.reshape(-1, grid, grid))


def sampling_operators(dx, dy, size, grid, step):
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
    order = _NATIVE_ORDER if step == 1 else _OVERSAMPLED_ORDER
    return tuple(_lanczos_matrix(offset, size, grid, step, order) for offset in (dy, dx))


def _lanczos_matrix(offset, size, grid, step, order):
    position = -offset * step
    first = np.floor(position).astype(np.int64) - order + 1
    taps = first[:, None] + np.arange(2 * order)
    t = position[:, None] - taps
    weights = np.sinc(t) * np.sinc(t / order)
    weights /= weights.sum(axis=1, keepdims=True)
    if step == 1:
        weights = _with_moments(weights, t)
    weights *= step  # densities per grid point; a pixel has ``step`` of them
    matrix = np.zeros((len(offset), size, grid), dtype=np.float32)
    column = (np.arange(size) - size // 2)[None, :, None] * step + grid // 2 + taps[:, None, :]
    inside = (column >= 0) & (column < grid)
    star, row, tap = np.nonzero(inside)
    matrix[star, row, column[star, row, tap]] = weights[star, tap]
    return matrix


def _with_moments(weights, t):
    """Return weights that interpolate quadratics exactly, as :class:`PixelBasisPsf` does."""
    moments = np.stack([(weights * t**k).sum(axis=1) for k in range(5)], axis=1)
    matrix = moments[:, np.arange(3)[:, None] + np.arange(3)[None, :]]
    on_tap = np.abs(np.linalg.det(matrix)) < 1e-20
    matrix[on_tap] = np.eye(3)
    c = np.linalg.inv(matrix)[:, :, 0]
    return weights * (c[:, :1] + c[:, 1:2] * t + c[:, 2:] * t * t)


def render(basis, terms, operators):
    """Return the images of stars of unit flux, (n, size, size) float32."""
    rows, columns = operators
    n_terms, grid, _ = basis.shape
    grids = (terms @ basis.reshape(n_terms, -1).astype(np.float32)).reshape(-1, grid, grid)
    return rows @ (grids @ columns.transpose(0, 2, 1))


def _back_project(images, terms, operators):
    """Adjoint of :func:`render`: (n_terms, grid, grid)."""
    rows, columns = operators
    grids = rows.transpose(0, 2, 1) @ (images @ columns)
    n, grid, _ = grids.shape
    return (terms.T @ grids.reshape(n, -1)).reshape(-1, grid, grid)


def scale_and_mask(stamps, models, flux, *, mask_outliers=False, fit_shape=False, n_sigma=5.0):
    """Scale the model to each star and mask pixels that do not fit.

    Parameters
    ----------
    stamps : StarStamps
    models : (n, size, size) float32
    flux : (n,) array or None, electron
        From an earlier round, for the weights.
    mask_outliers, fit_shape : bool
    n_sigma : float
        A pixel is masked, with its four neighbours, when it is further off than this many standard deviations
        (noise, and a tenth of the star's signal there).

    Returns
    -------
    scales : StarScales
    weights : (n, size, size) float32
        For the scaled model; zero in unusable pixels.
    stamps : StarStamps
        With the outlying pixels no longer good.
    """
    flux = core_flux(stamps, models) if flux is None else flux
    weights = model_weights(stamps, models, flux, _SYSTEMATIC)
    if mask_outliers:
        first = fit_star_scales(stamps, models, weights)
        tolerance = model_weights(stamps, models, first.flux, 0.1)
        outlying = first.residual**2 * tolerance > n_sigma**2
        stamps = replace(stamps, good=stamps.good & ~_grown(outlying))
        weights = np.where(stamps.good, weights, np.float32(0.0))
    return fit_star_scales(stamps, models, weights, fit_shape=fit_shape), weights, stamps


def _grown(where):
    """Grow masks by the four neighbours of each pixel."""
    out = where.copy()
    out[:, 1:] |= where[:, :-1]
    out[:, :-1] |= where[:, 1:]
    out[:, :, 1:] |= where[:, :, :-1]
    out[:, :, :-1] |= where[:, :, 1:]
    return out


def choose_consistent(stamps, scales, n_sigma, *, max_chi2=3.0, min_good=0.5):
    """Return the stars whose size, ellipticity and chi squared agree with the others, (n,) bool.

    Differences are counted in the scatter of the others and the error of each star, so that a faint star is
    not kept for its noise nor a bright one rejected for the last per mille.
    """
    usable = np.isfinite(scales.flux) & (scales.flux > 0) & (stamps.good.mean(axis=(1, 2)) >= min_good)
    usable &= np.isfinite(scales.shape_err)
    used = usable.copy()
    floor = 0.003  # relative size below which differences are not worth losing a star
    for _ in range(5):
        if used.sum() < 5:
            break
        update = usable.copy()
        for value in (scales.size, scales.g1, scales.g2):
            center = np.median(value[used])
            # the low side of the sizes is free of blends and galaxies
            spread = 1.4826 * np.median(np.abs(value[used] - center))
            noise = np.median(scales.shape_err[used])
            intrinsic = np.sqrt(max(spread**2 - noise**2, 0.0))
            limit = n_sigma * np.sqrt(intrinsic**2 + scales.shape_err**2 + floor**2)
            update &= np.abs(value - center) <= limit
        typical = np.median(scales.reduced_chi2[used])
        update &= scales.reduced_chi2 <= max(max_chi2, max_chi2 * typical)
        if np.array_equal(update, used) or update.sum() < 3:
            break
        used = update
    return used


def unit_residual(stamps, models, scales):
    """Return what a unit star lacks in the model, its offset from the given position included, (n, size, size).

    The offsets stay in, because their mean belongs to the model; each star's own is taken out by
    :func:`recentred` before the next round.
    """
    flux, background = (np.asarray(a, dtype=np.float32)[:, None, None] for a in (scales.flux, scales.background))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(stamps.good, (stamps.images - background) / flux - models, np.float32(0.0))


def _solve_basis(residual, scales, weights, terms, operators, used, basis, prior_mean, n_iterations):
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

    def precondition(image):
        flat = np.einsum("pij,jp->ip", inverse, image.reshape(n_terms, -1))
        return flat.reshape(n_terms, grid, grid)

    def normal(image):
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


def _prior_weights(prior_mean, grid):
    """Return 1/sigma**2 of the departure from the analytic model at each grid point, (grid, grid)."""
    profile = np.abs(prior_mean[0])
    sigma = _PRIOR_RELATIVE * profile + _PRIOR_OF_PEAK * profile.max()
    return (1.0 / sigma**2).reshape(grid, grid)


def normalise(basis):
    """Give the constant image unit sum and the others zero sum."""
    out = basis.copy()
    out[0] /= out[0].sum()
    for k in range(1, len(out)):
        out[k] -= out[k].sum() * out[0]
    return out


def recentred(stamps, given, scales, used, box, order, *, max_shift=0.5):
    """Move each star to the centre that the model finds, without moving the stars as a whole.

    Parameters
    ----------
    stamps : StarStamps
        With the positions of the last round.
    given : StarStamps
        With the positions of the catalogue: the weighted mean offset from them, a polynomial of ``order`` over the
        field, is taken out, because it belongs to the model and not to the stars.
    scales : StarScales
    used : (n,) bool
        Other stars keep the position of the catalogue.
    box : Box
    order : int
    max_shift : float, pixel
    """
    shift = np.stack([stamps.x - given.x + scales.shift_x, stamps.y - given.y + scales.shift_y], axis=1)
    snr2 = (scales.flux / scales.flux_err) ** 2
    valid = used & np.isfinite(shift).all(axis=1) & (np.abs(shift) < max_shift).all(axis=1) & np.isfinite(snr2)
    if not valid.any():
        return given
    weights = 1.0 / (1.0 / snr2[valid] + 0.005**2)
    root = np.sqrt(weights)[:, None]
    terms = spatial_terms(stamps.x, stamps.y, box, order)
    mean = terms @ np.linalg.lstsq(terms[valid] * root, shift[valid] * root, rcond=None)[0]
    shift = np.where(valid[:, None], shift - mean, 0.0)
    return replace(stamps, x=given.x + shift[:, 0], y=given.y + shift[:, 1])
