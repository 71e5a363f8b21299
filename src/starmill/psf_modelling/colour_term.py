"""A term of the PSF that is linear in the colour of the stars.

Refraction by the atmosphere, diffraction and the depth of absorption in the detector make stars of different colours
look different. The image that belongs to the colour is fitted to what a PSF model of the positions leaves of its stars,
with the same weights and the same soft prior as the pixels of that model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.colour_psf import ColourPsf
from starmill.errors import AlgorithmError
from starmill.psf_modelling.consistency import choose_consistent
from starmill.psf_modelling.pixel_grid import render, sampling_operators, unit_residual
from starmill.psf_modelling.star_scaling import scale_and_mask

if TYPE_CHECKING:
    from starmill.psf_modelling.candidates import StarStamps
    from starmill.psf_modelling.consistency import PsfFit


_PRIOR_RELATIVE = (
    0.1  # change of a pixel for a star one standard deviation off the mean colour, over the model ...
)
_PRIOR_OF_PEAK = 1e-3  # ... and over its peak


def fit_colour_term(
    stamps: StarStamps,
    fit: PsfFit,
    colour: NDArray[np.floating],
    *,
    n_sigma: float = 3.0,
    iterations: int = 2,
    solver_iterations: int = 8,
    min_stars: int = 10,
) -> tuple[ColourPsf, NDArray[np.bool_]]:
    """Add a colour term to a PSF model.

    Parameters
    ----------
    stamps : StarStamps
        The stars that were offered to ``fit``.
    fit : PsfFit
        Model of the positions, a ``PixelBasisPsf``.
    colour : (n,) array, magnitude
        Of the stars; those without a finite one have no part.
    n_sigma : float
        Stars whose size or ellipticity differs by more from the model with the colour term are left out.
    iterations, solver_iterations : int
        Rounds of rejection and solution; conjugate-gradient steps in each.
    min_stars : int

    Returns
    -------
    psf : ColourPsf
        Its reference colour is the median of the stars.
    used : (n,) bool
        Stars that agree with it.

    Raises
    ------
    AlgorithmError
        Too few stars with a colour, or all of the same.
    """
    colour = np.asarray(colour, np.float64)
    known = np.isfinite(colour) & np.isfinite(fit.scales.flux) & (fit.scales.flux > 0)
    spread = float(np.std(colour[known])) if known.sum() else 0.0
    if known.sum() < min_stars or not spread > 0:
        raise AlgorithmError(
            f"{int(known.sum())} stars with a colour (scatter {spread:.3g} mag) cannot carry a colour term",
            numbers={"stars": int(known.sum()), "needed": min_stars, "scatter": spread},
        )
    reference = float(np.median(colour[known]))
    offset = np.where(known, (colour - reference) / spread, 0.0).astype(np.float32)
    model, current = fit.psf, replace(stamps, x=fit.x, y=fit.y)
    step, grid = round(model.samples_per_pixel), model.basis.shape[-1]
    operators = sampling_operators(current.dx, current.dy, current.size, grid, step)
    terms = np.column_stack([model.coefficients_at(current.x, current.y), offset]).astype(np.float32)
    image, used = np.zeros((grid, grid)), known & fit.used
    for _ in range(iterations):
        models = render(np.concatenate([model.basis, image[None]]), terms, operators)
        scales, weights, masked = scale_and_mask(
            current, models, fit.scales.flux, mask_outliers=True, fit_shape=True
        )
        found = known & choose_consistent(masked, scales, n_sigma)
        used = found if found.sum() >= min_stars else used
        residual = unit_residual(masked, models, scales)[used]
        weight = weights[used] * scales.flux[used].astype(np.float32)[:, None, None] ** 2
        chosen = tuple(operator[used] for operator in operators)
        image = image + _solve(
            residual, weight, offset[used], chosen, image, _prior(model.basis[0]), solver_iterations
        )
        image -= image.sum() * model.basis[0]
    psf = ColourPsf(
        model.basis, model.fields, image / spread, reference, size=model.size,
        samples_per_pixel=model.samples_per_pixel, average_position=model.average_position, kaiser=model.kaiser,
    )  # fmt: skip
    return psf, used


def _prior(profile: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return 1 / sigma**2 of the image at every grid point."""
    sigma = _PRIOR_RELATIVE * np.abs(profile) + _PRIOR_OF_PEAK * profile.max()
    return 1.0 / sigma**2


def _solve(
    residual: NDArray[np.floating],
    weight: NDArray[np.floating],
    offset: NDArray[np.floating],
    operators: tuple[NDArray[np.floating], NDArray[np.floating]],
    image: NDArray[np.floating],
    prior: NDArray[np.floating],
    n_iterations: int,
) -> NDArray[np.floating]:
    """Return the correction of the image by conjugate gradients with a diagonal preconditioner."""
    rows, columns = operators
    share = offset[:, None, None]

    def back(images: NDArray[np.floating]) -> NDArray[np.floating]:
        grids = rows.transpose(0, 2, 1) @ (images * share @ columns)
        return grids.sum(axis=0, dtype=np.float64)

    def normal(one: NDArray[np.floating]) -> NDArray[np.floating]:
        drawn = rows @ (one.astype(np.float32) @ columns.transpose(0, 2, 1)) * share
        return back(drawn * weight) + prior * one

    squared = (rows**2).transpose(0, 2, 1) @ (weight * share**2 @ columns**2)
    diagonal = squared.sum(axis=0, dtype=np.float64) + prior
    remainder = back(residual * weight) - prior * image
    solution = np.zeros_like(image)
    direction = remainder / diagonal
    rho = float(np.vdot(remainder, direction))
    for _ in range(n_iterations):
        if not rho > 0:
            break
        product = normal(direction)
        alpha = rho / float(np.vdot(direction, product))
        solution += alpha * direction
        remainder = remainder - alpha * product
        preconditioned = remainder / diagonal
        following = float(np.vdot(remainder, preconditioned))
        direction = preconditioned + following / rho * direction
        rho = following
    return solution
