"""PSF as principal components of star images with coefficients that are polynomials over the field.

The components of unit-flux stars are the eigenvectors of the inner products of the star images; pixels that are
missing in a star are filled from the other stars, then from the star's own projection on the components, until
they settle ("gappy" principal components).  Component 0 is scaled to unit sum and the others to zero sum, so that
their coefficients change the shape and never the flux.

References
----------
Jee et al. 2007, PASP 119, 1403 (principal components of stars).
Everson & Sirovich 1995, JOSA A 12, 1657 (missing pixels).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from starmill.datamodel.psf import PixelBasisPsf, shift_images
from starmill.errors import AlgorithmError
from starmill.psf_modelling.consistency import PsfFit, choose_consistent, recentred
from starmill.psf_modelling.pixel_grid import render, sampling_operators
from starmill.psf_modelling.spatial_fit import field_from_terms, spatial_terms, supported_order
from starmill.psf_modelling.star_scaling import scale_and_mask

if TYPE_CHECKING:
    from starmill.datamodel.colour_psf import ColourPsf
    from starmill.datamodel.geometry import Box
    from starmill.datamodel.psf_models import MoffatPsf
    from starmill.psf_modelling.candidates import StarStamps
    from starmill.psf_modelling.star_scaling import StarScales


_FADE_LEVEL = 0.02  # of the peak; further out the components beyond the first are mostly noise
_NOISE_FLOOR = 0.005  # relative; brighter stars than this do not weigh more


def fit_principal_component_psf(
    stamps: StarStamps,
    box: Box,
    start: MoffatPsf,
    *,
    n_components: int = 4,
    order: int = 2,
    cell_size: int = 256,
    stars_per_cell: int = 3,
    stars_per_cell_fit: int = 5,
    max_component_stars: int = 300,
    gappy_passes: int = 10,
    tolerance: float = 10.0,
    border: int = 2,
    iterations: int = 3,
    max_chi2: float = 2.0,
    n_sigma: float = 3.0,
    recentre: bool = True,
    min_stars: int = 1,
) -> PsfFit:
    """Fit a principal-component PSF to stars.

    Parameters
    ----------
    stamps : StarStamps
    box : Box
        Where the PSF is meant to be used; the polynomials are scaled to it.
    start : Psf
        First model: fills missing pixels and weights the stars.
    n_components : int
        Number of component images, lowered for few stars.
    order : int
        Largest total Chebyshev order of the coefficients; lowered for few stars.
    cell_size : int, pixel
        The brightest stars of each cell of this size are used, so that no corner rules.
    stars_per_cell, stars_per_cell_fit : int
        For the components and for the spatial fit.
    max_component_stars : int
        Largest number of stars for the components.
    gappy_passes : int
        Largest number of passes that fill missing pixels.
    tolerance : float, electron
        The passes end when no missing pixel changes by more.
    border : int, pixel
        The mean of this border is taken off each component.
    iterations : int
        Rounds of components, spatial fit and rejection.
    max_chi2, n_sigma : float
        Limits of the rejection.
    recentre : bool
        Centre every star with the model.
    min_stars : int
        Fewer surviving stars raise an error.

    Returns
    -------
    fit : PsfFit

    Raises
    ------
    AlgorithmError
        No candidates, or too few survive.
    """
    if len(stamps) < max(min_stars, 1):
        raise AlgorithmError(
            f"{len(stamps)} stars for a PSF, {max(min_stars, 1)} are needed",
            numbers={"stars": len(stamps), "needed": max(min_stars, 1)},
        )
    current = stamps
    models, _, _ = start_images(start, current)
    scales, _, current = scale_and_mask(current, models, None, mask_outliers=True, fit_shape=True)
    flux = scales.flux
    used = choose_consistent(current, scales, n_sigma)
    for iteration in range(iterations):
        rank = cell_rank(current, flux, used, box, cell_size)
        chosen = used & (rank < stars_per_cell)
        chosen &= rank <= np.sort(rank[chosen])[:max_component_stars][-1] if chosen.any() else False
        noise = scales.flux_err / flux
        basis = component_images(
            current, chosen, models, flux, noise, n_components, gappy_passes, tolerance, border
        )
        n_order = supported_order(int(used.sum()), order)
        fitted = used & (rank < stars_per_cell_fit)
        operators = sampling_operators(current.dx, current.dy, current.size, basis.shape[-1], 1)
        coefficients = fit_coefficients(current, fitted, basis, operators, models, flux, box, n_order)
        models = _component_models(current, basis, coefficients, operators, box, n_order)
        scales, _, current = scale_and_mask(current, models, flux, mask_outliers=True, fit_shape=True)
        flux = scales.flux
        used = _reject(current, scales, used, iteration, iterations, max_chi2, n_sigma, min_stars)
        if recentre and iteration < iterations - 1:
            current = recentred(current, stamps, scales, used, box, n_order)
    fields = [field_from_terms(box, n_order, row) for row in coefficients]
    position = (float(np.mean(current.x[used])), float(np.mean(current.y[used])))
    psf = PixelBasisPsf(basis, fields, average_position=position, kaiser=True)
    return PsfFit(psf, used, current.x, current.y, scales, current.good, n_order)


def start_images(
    psf: ColourPsf | PixelBasisPsf | MoffatPsf, stamps: StarStamps
) -> tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.integer]]:
    """Return the images of a PSF in the frames of stamps, float32, cut or padded to their size, and x0, y0."""
    images, x0, y0 = psf.images_at(stamps.x, stamps.y)
    size, have = stamps.size, images.shape[-1]
    out = np.zeros((len(stamps), size, size), dtype=np.float32)
    edge = abs(have - size) // 2
    if have >= size:
        out[:] = images[:, edge : edge + size, edge : edge + size]
    else:
        out[:, edge : edge + have, edge : edge + have] = images
    return out, x0, y0


def cell_rank(
    stamps: StarStamps, flux: NDArray[np.floating], used: NDArray[np.bool_], box: Box, cell_size: int
) -> NDArray[np.integer]:
    """Return the rank in brightness of each used star within its cell, 0 the brightest; others a large number."""
    nx = -(-box.width // cell_size)
    cell = ((stamps.y - box.y0 + 0.5) // cell_size) * nx + (stamps.x - box.x0 + 0.5) // cell_size
    rank = np.full(len(stamps), np.iinfo(np.int32).max, dtype=np.int64)
    index = np.flatnonzero(used)
    order = index[np.lexsort((-flux[index], cell[index]))]
    starts = np.r_[0, np.flatnonzero(np.diff(cell[order])) + 1]
    lengths = np.diff(np.r_[starts, len(order)])
    rank[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return rank


def component_images(
    stamps: StarStamps,
    chosen: NDArray[np.bool_],
    models: NDArray[np.floating],
    flux: NDArray[np.floating],
    noise: NDArray[np.floating],
    n_components: int,
    max_passes: int,
    tolerance: float,
    border: int,
) -> NDArray[np.floating]:
    """Return the principal components of unit-flux stars, (k, size, size): the first of sum 1, the others of sum 0.

    Parameters
    ----------
    stamps : StarStamps
    chosen : (n,) bool
        Stars to use.
    models : (n, size, size) float32
        Present model of each star, unit flux: fills missing pixels before the stars are shifted to their centres.
    flux : (n,) array, electron
    noise : (n,) array
        Relative error of the flux; noisy stars weigh less.
    n_components, max_passes, border : int
    tolerance : float, electron
    """
    stars = np.flatnonzero(chosen)
    if not len(stars):
        raise AlgorithmError("no star is left for the principal components", numbers={"stars": 0})
    scale = flux[stars, None, None]
    filled = np.where(stamps.good[stars], stamps.images[stars], models[stars] * scale)
    centred = shift_images(filled, -stamps.dx[stars], -stamps.dy[stars], kaiser=True) / scale
    n, size = len(stars), stamps.size
    weight = 1.0 / np.hypot(noise[stars], _NOISE_FLOOR)[:, None]
    data = centred.reshape(n, -1) * weight
    window = _core_window(data, size)
    gaps = ~stamps.good[stars].reshape(n, -1)
    k = min(n_components, n)
    vectors = _leading_vectors(data * window, k)
    for _ in range(max_passes if gaps.any() else 0):
        expected = _expected_rows(data, gaps, vectors, window)
        change = np.abs(expected - data)[gaps] * np.broadcast_to(scale[:, :, 0] / weight, data.shape)[gaps]
        data[gaps] = expected[gaps]
        vectors = _updated_vectors(data * window, vectors)
        if change.max() < tolerance:
            break
    images = (vectors.T @ data).reshape(k, size, size)
    edge = np.ones((size, size), dtype=bool)
    edge[border:-border, border:-border] = False
    images -= images[:, edge].mean(axis=1)[:, None, None]
    images[0] /= images[0].sum()
    fading = images[0] / images[0].max()
    fading = np.clip(ndimage.uniform_filter(fading, 3), 0.0, None)
    fading = fading / (fading + _FADE_LEVEL)
    for i in range(1, k):
        images[i] *= fading
        images[i] /= np.sqrt((images[i] ** 2).sum())
        images[i] -= images[i].sum() * images[0]
    return images


def _expected_rows(
    data: NDArray[np.floating],
    gaps: NDArray[np.bool_],
    vectors: NDArray[np.floating],
    window: NDArray[np.floating],
) -> NDArray[np.floating]:
    """Return what the components say of each star, its coefficients fitted to its present pixels.

    The coefficients are pulled towards zero by their variance over the stars (probabilistic principal components,
    Tipping & Bishop 1999, J. R. Stat. Soc. B 61, 611), so that a star with few pixels does not run away.
    """
    images = vectors.T @ data
    power = np.maximum((images**2).sum(axis=1), 1e-30)
    images /= np.sqrt(power)[:, None]
    present = np.where(gaps, 0.0, window**2)
    noise = np.median(((data - (vectors @ (vectors.T @ data))) ** 2)[~gaps])
    k = len(images)
    pairs = (images[:, None, :] * images[None, :, :]).reshape(k * k, -1)
    normal = (present @ pairs.T).reshape(-1, k, k) + np.diag(noise * len(data) / power)
    right = (present * data) @ images.T
    return np.linalg.solve(normal, right[..., None])[..., 0] @ images


def _core_window(data: NDArray[np.floating], size: int) -> NDArray[np.floating]:
    """Return weights of the pixels, (size * size,): near 1 in the core and small in the wings.

    The wings hold most of the pixels and of the noise, but little of what changes from star to star.
    """
    mean = np.maximum(np.median(data, axis=0), 0.0) if len(data) > 2 else np.maximum(data.mean(axis=0), 0.0)
    profile = ndimage.uniform_filter(mean.reshape(size, size), 3).ravel()
    return profile / (profile + 0.05 * profile.max())


def _leading_vectors(data: NDArray[np.floating], k: int) -> NDArray[np.floating]:
    """Return the k leading eigenvectors of the inner products of the rows, (n, k), the largest first."""
    n = len(data)
    single = data.astype(np.float32)
    products = (single @ single.T).astype(np.float64)
    _, vectors = linalg.eigh(products, subset_by_index=[n - k, n - 1])
    return vectors[:, ::-1]


def _updated_vectors(data: NDArray[np.floating], vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the leading vectors after a small change of the rows, by subspace iteration and a small eigenproblem."""
    for _ in range(2):
        vectors, _ = np.linalg.qr(data @ (data.T @ vectors))
    inner = data.T @ vectors
    _, rotation = np.linalg.eigh(inner.T @ inner)
    return vectors @ rotation[:, ::-1]


def fit_coefficients(
    stamps: StarStamps,
    fitted: NDArray[np.bool_],
    basis: NDArray[np.floating],
    operators: tuple[NDArray[np.floating], NDArray[np.floating]],
    models: NDArray[np.floating],
    flux: NDArray[np.floating],
    box: Box,
    order: int,
) -> NDArray[np.floating]:
    """Fit the coefficients of the components to stars in one linear problem.

    Returns
    -------
    coefficients : (k, n_terms) float64
        Chebyshev terms; component 0 has the constant 1.
    """
    k, n_terms = len(basis), (order + 1) * (order + 2) // 2
    coefficients = np.zeros((k, n_terms))
    coefficients[0, 0] = 1.0
    if k == 1 or not fitted.any():
        return coefficients
    rows, columns = (operator[fitted] for operator in operators)
    images = np.stack([rows @ (b.astype(np.float32) @ columns.transpose(0, 2, 1)) for b in basis], axis=1)
    good, amplitude = stamps.good[fitted], flux[fitted].astype(np.float32)[:, None, None]
    signal = np.maximum(models[fitted] * amplitude, 0)
    variance = stamps.sky_variance[fitted].astype(np.float32)[:, None, None] + stamps.gain_slope * signal
    weight = np.where(good, amplitude**2 / (variance + (0.02 * signal) ** 2), 0).reshape(len(good), 1, -1)
    n = len(good)
    # flux and sky of each star are fitted with its shape, then eliminated (Schur complement)
    design = np.concatenate([images.reshape(n, k, -1), np.ones((n, 1, weight.shape[-1]), np.float32)], axis=1)
    data = (stamps.images[fitted] / amplitude).reshape(n, -1, 1)
    normal = ((design * weight) @ design.transpose(0, 2, 1)).astype(np.float64)
    right = ((design * weight) @ data).astype(np.float64)[..., 0]
    inner, nuisance = np.arange(1, k), np.array([0, k])
    corner = np.linalg.pinv(normal[:, nuisance[:, None], nuisance])
    cross = normal[:, inner[:, None], nuisance]
    reduced = normal[:, inner[:, None], inner] - cross @ corner @ cross.transpose(0, 2, 1)
    reduced_right = right[:, inner] - (cross @ corner @ right[:, nuisance, None])[..., 0]
    terms = spatial_terms(stamps.x[fitted], stamps.y[fitted], box, order)
    matrix = np.einsum("nij,ns,nt->isjt", reduced, terms, terms).reshape((k - 1) * n_terms, -1)
    vector = np.einsum("ni,ns->is", reduced_right, terms).ravel()
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    solution = np.linalg.lstsq(matrix / np.outer(scale, scale), vector / scale, rcond=1e-10)[0] / scale
    coefficients[1:] = solution.reshape(k - 1, n_terms)
    return coefficients


def _component_models(
    stamps: StarStamps,
    basis: NDArray[np.floating],
    coefficients: NDArray[np.floating],
    operators: tuple[NDArray[np.floating], NDArray[np.floating]],
    box: Box,
    order: int,
) -> NDArray[np.floating]:
    """Return unit-flux star images of the model, (n, size, size) float32."""
    values = spatial_terms(stamps.x, stamps.y, box, order) @ coefficients.T
    return render(basis, values.astype(np.float32), operators)


def _reject(
    stamps: StarStamps,
    scales: StarScales,
    used: NDArray[np.bool_],
    iteration: int,
    iterations: int,
    max_chi2: float,
    n_sigma: float,
    min_stars: int,
) -> NDArray[np.bool_]:
    """Return the stars that stay: the worst are dropped gradually, all that disagree in the last round."""
    agree = choose_consistent(stamps, scales, n_sigma, max_chi2=max_chi2)
    bad = used & ~agree
    keep = used & agree
    if iteration < iterations - 1 and bad.any():
        n_drop = int(np.ceil((iteration + 1) / iterations * bad.sum()))
        order = np.flatnonzero(bad)[np.argsort(-scales.reduced_chi2[bad])]
        keep[order[n_drop:]] = np.isfinite(scales.flux[order[n_drop:]]) & (scales.flux[order[n_drop:]] > 0)
    if keep.sum() < max(min_stars, 1):
        raise AlgorithmError(
            f"{int(keep.sum())} of {len(stamps)} stars agree with each other, {max(min_stars, 1)} are needed",
            numbers={"stars": len(stamps), "used": int(keep.sum()), "needed": max(min_stars, 1)},
        )
    return keep
