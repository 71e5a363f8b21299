"""Least-squares fit of a spatially varying matching kernel to stamps, with robust rejection."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.differencing.kernel_basis import KernelBasis
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.errors import AlgorithmError

if TYPE_CHECKING:
    from starmill.differencing.stamp_system import StampSystem


__all__ = ["KernelFit", "KernelModel", "fit_kernel", "solve_normal_equations"]

USED = "used"


@dataclass(frozen=True)
class KernelModel:
    """Which coefficients a kernel has.

    Attributes
    ----------
    basis : KernelBasis
    shape_terms : SpatialTerms
        Spatial variation of the images with zero sum.
    sum_terms : SpatialTerms
        Spatial variation of the first image, that is of the kernel sum.
    images : (m,) int array
        Images of the basis that take part; the first is always 0.
    variation : tuple of float
        Expected standard deviation of the change of the kernel by the terms of order 1, 2, ..., relative to the norm
        of a kernel, a Gaussian prior; empty for terms that the data alone decide.
    kernel_norm : float
        Norm of a kernel that the variation refers to.
    """

    basis: KernelBasis
    shape_terms: SpatialTerms
    sum_terms: SpatialTerms
    images: np.ndarray
    variation: tuple = ()
    kernel_norm: float = 1.0

    @property
    def columns(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """The image and the spatial term (of the longer of the two families) of every coefficient."""
        image = [0] * len(self.sum_terms)
        term = list(range(len(self.sum_terms)))
        for i in self.images[1:]:
            image += [int(i)] * len(self.shape_terms)
            term += list(range(len(self.shape_terms)))
        return np.array(image), np.array(term)

    def design_at(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.floating]:
        """Return, for positions, the value of the spatial term of every coefficient, ``(n, n_coefficients)``."""
        image, term = self.columns
        shape = self.shape_terms.evaluate(x, y)
        total = self.sum_terms.evaluate(x, y)
        out = np.empty((len(x), len(image)))
        first = image == 0
        out[:, first] = total[:, term[first]]
        out[:, ~first] = shape[:, term[~first]]
        return out

    def precision(self) -> NDArray[np.floating] | None:
        """Return the inverse covariance of the prior of the coefficients, ``(m, m)``, or None without one."""
        if not self.variation:
            return None
        rest = self.images[1:]
        flat = self.basis.images[rest].reshape(len(rest), -1)
        gram = flat @ flat.T
        orders = self.shape_terms.orders
        strength = np.zeros(len(orders))
        for order, sigma in enumerate(self.variation, start=1):
            terms = orders == order
            strength[terms] = terms.sum() * len(rest) / (sigma * self.kernel_norm) ** 2
        n = len(self.sum_terms)
        out = np.zeros((n + len(rest) * len(orders),) * 2)
        out[n:, n:] = np.kron(gram, np.diag(strength))
        return out

    def kernel(self, coefficients: NDArray[np.floating]) -> SpatialKernel:
        """Return the SpatialKernel of a solution."""
        n_sum, n_shape = len(self.sum_terms), len(self.shape_terms)
        fields = [self.sum_terms.field(coefficients[:n_sum])]
        for j in range(len(self.images) - 1):
            part = coefficients[n_sum + j * n_shape : n_sum + (j + 1) * n_shape]
            fields.append(self.shape_terms.field(part))
        return SpatialKernel(self.basis.images[self.images], fields)


@dataclass(frozen=True)
class KernelFit:
    """A fitted matching kernel and what became of every stamp.

    Attributes
    ----------
    kernel : SpatialKernel
        Turns the reference into the target; its sum is the photometric ratio.
    model : KernelModel
    coefficients : (m,) array
    covariance : (m, m) array
        Of the coefficients, scaled by the reduced chi2 of the stamps that were used.
    chi2 : (n,) array
        Reduced chi2 of each stamp.
    amplitude : (n,) array
        Target flux over model flux of each stamp; 1 for an object that did not vary.
    amplitude_error : (n,) array
    status : (n,) str array
        "used", or why the stamp was rejected: "masked", "varied", "poor fit".
    iterations : int
    converged : bool
    condition : float
        Estimated condition number of the scaled normal matrix.
    ridge : float
        Relative ridge that had to be added to the diagonal; 0 when none.
    selection : dict
        Cross-validation table when the orders were chosen automatically.
    """

    kernel: SpatialKernel
    model: KernelModel
    coefficients: np.ndarray
    covariance: np.ndarray
    chi2: np.ndarray
    amplitude: np.ndarray
    amplitude_error: np.ndarray
    status: np.ndarray
    iterations: int
    converged: bool
    condition: float
    ridge: float
    selection: dict = field(default_factory=dict)

    @property
    def used(self) -> NDArray[np.bool_]:
        """Stamps that took part in the last solution, ``(n,)`` bool."""
        return self.status == USED


def fit_kernel(
    system: StampSystem,
    model: KernelModel,
    *,
    clip: float = 4.0,
    model_error: float = 0.01,
    max_iterations: int = 16,
    minimum: int = 3,
    maximum_condition: float = 1e12,
    penalty: NDArray[np.floating] | None = None,
) -> KernelFit:
    """Solve for the kernel, rejecting stamps that do not agree, until the set of stamps no longer changes.

    Parameters
    ----------
    system : StampSystem
    model : KernelModel
    clip : float
        Rejection threshold in robust standard deviations.
    model_error : float
        Relative residual of a good model; keeps very bright stars from being rejected for sampling errors.
    max_iterations : int
        In the second half of them a rejected stamp is not taken back.
    minimum : int
        Fewest stamps that may remain.
    maximum_condition : float
        A ridge is added when the scaled normal matrix is worse conditioned than this.
    penalty : (n_basis, n_basis) array, optional
        See :meth:`~starmill.differencing.stamp_system.StampSystem.penalised`.

    Returns
    -------
    fit : KernelFit

    Raises
    ------
    AlgorithmError
        When too few stamps remain or the equations cannot be solved.
    """
    status = np.full(len(system), USED, dtype="<U10")
    status[(system.pixels < 50) | (system.masked_fraction > 0.5)] = "masked"  # fewer cannot hold a star
    seen, iterations, converged = set(), 0, False
    solved = system.penalised(penalty)
    while iterations < max_iterations:
        iterations += 1
        used = status == USED
        _require(used, minimum, status)
        key = used.tobytes()
        if key in seen:
            converged = True
            break
        seen.add(key)
        solution = solve_normal_equations(solved.select(used), model, maximum_condition)
        quality = stamp_quality(system, model, solution.coefficients)
        judged = _judge(status, quality, system, clip, model_error, first=iterations == 1)
        # stamps at the limit would go in and out for ever: later on what is out stays out
        status = judged if iterations <= max_iterations // 2 else np.where(status == USED, judged, status)
    used = status == USED
    _require(used, minimum, status)
    if not converged:
        solution = solve_normal_equations(solved.select(used), model, maximum_condition)
        quality = stamp_quality(system, model, solution.coefficients)
    chi2 = quality.chi2 + noise_chi2(system, model, solution.coefficients)
    scatter = max(1.0, float(np.median(chi2[used])))
    return KernelFit(
        kernel=model.kernel(solution.coefficients), model=model, coefficients=solution.coefficients,
        covariance=solution.covariance * scatter, chi2=chi2, amplitude=quality.amplitude,
        amplitude_error=quality.amplitude_error, status=status, iterations=iterations, converged=converged,
        condition=solution.condition, ridge=solution.ridge,
    )  # fmt: skip


@dataclass(frozen=True)
class Solution:
    """Coefficients, their covariance, the condition number and the ridge."""

    coefficients: np.ndarray
    covariance: np.ndarray | None
    condition: float
    ridge: float


@dataclass(frozen=True)
class StampQuality:
    """Reduced chi2, flux ratio to the model and its error of every stamp.

    The chi2 is that of the match: what the noise of the reference adds to it is taken out, as in the normal matrix.
    """

    chi2: np.ndarray
    amplitude: np.ndarray
    amplitude_error: np.ndarray


def solve_normal_equations(
    system: StampSystem, model: KernelModel, maximum_condition: float = 1e12
) -> Solution:
    """Sum the stamps' equations and solve them by Cholesky decomposition of the scaled matrix.

    Parameters
    ----------
    system : StampSystem
    model : KernelModel
    maximum_condition : float

    Returns
    -------
    solution : Solution
    """
    matrix, vector = summed_equations(system, model)
    prior = model.precision()
    return solve_summed(matrix if prior is None else matrix + prior, vector, maximum_condition)


def summed_equations(
    system: StampSystem, model: KernelModel
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the normal matrix and vector of all coefficients, summed over stamps."""
    image, _ = model.columns
    design = model.design_at(system.x, system.y)
    n = len(image)
    matrix, vector = np.zeros((n, n)), np.zeros(n)
    images = model.images
    groups = [np.flatnonzero(image == i) for i in images]
    stamps = len(system)
    shape = [c for c in range(n) if image[c] != 0]
    first = groups[0]
    terms_sum = design[:, first]
    vector[first] = terms_sum.T @ system.vector[:, 0]
    matrix[np.ix_(first, first)] = (terms_sum * system.matrix[:, 0, 0][:, None]).T @ terms_sum
    if shape:
        terms = design[:, groups[1]]
        n_terms, rest = terms.shape[1], images[1:]
        vector[shape] = (system.vector[:, rest].T @ terms).ravel()
        cross = np.einsum("sp,si,sq->piq", terms_sum, system.matrix[:, 0, rest], terms, optimize=True)
        matrix[np.ix_(first, shape)] = cross.reshape(len(first), -1)
        matrix[np.ix_(shape, first)] = matrix[np.ix_(first, shape)].T
        pairs = (terms[:, :, None] * terms[:, None, :]).reshape(stamps, -1)
        block = system.matrix[:, rest[:, None], rest[None, :]].reshape(stamps, -1).T @ pairs
        block = block.reshape(len(rest), len(rest), n_terms, n_terms).transpose(0, 2, 1, 3)
        matrix[np.ix_(shape, shape)] = block.reshape(len(shape), len(shape))
    return matrix, vector


def solve_summed(
    matrix: NDArray[np.floating],
    vector: NDArray[np.floating],
    maximum_condition: float = 1e12,
    *,
    with_covariance: bool = True,
) -> Solution:
    """Solve a normal matrix that may be nearly singular.

    The matrix is scaled to unit diagonal. When Cholesky fails or the condition number is above the limit,
    a ridge of 1e-12, 1e-10, ... of the diagonal is added.

    Returns
    -------
    solution : Solution

    Raises
    ------
    AlgorithmError
        When the equations stay singular.
    """
    diagonal = np.diag(matrix).copy()
    if not np.isfinite(matrix).all() or (diagonal <= 0).all():
        raise AlgorithmError(
            "the normal matrix of the kernel is empty or not finite",
            numbers={"coefficients": len(vector), "positive_diagonal": int((diagonal > 0).sum())},
        )
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    scaled = matrix * scale[:, None] * scale[None, :]
    norm = np.abs(scaled).sum(axis=0).max()
    for ridge in (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4):
        trial = scaled + (ridge * np.eye(len(scaled)) if ridge else 0)
        try:
            factor = linalg.cholesky(trial, lower=True, check_finite=False)
        except linalg.LinAlgError:
            continue
        reciprocal, _ = linalg.lapack.dpocon(factor, norm, uplo="L")
        condition = 1 / max(reciprocal, 1e-300)
        if condition <= maximum_condition:
            coefficients = linalg.cho_solve((factor, True), vector * scale, check_finite=False) * scale
            if not with_covariance:
                return Solution(coefficients, None, float(condition), ridge)
            inverse, _ = linalg.lapack.dpotri(factor, lower=1)
            inverse = np.tril(inverse) + np.tril(inverse, -1).T
            return Solution(coefficients, inverse * scale[:, None] * scale[None, :], float(condition), ridge)
    raise AlgorithmError(
        "the kernel fit is singular", numbers={"coefficients": len(vector), "limit": maximum_condition}
    )


def stamp_quality(
    system: StampSystem, model: KernelModel, coefficients: NDArray[np.floating]
) -> StampQuality:
    """Return how well a solution fits each stamp.

    Returns
    -------
    quality : StampQuality
        The amplitude is the least-squares factor between the model and the target of the stamp.
    """
    local = local_coefficients(system, model, coefficients)
    images = model.images
    power = np.einsum(
        "si,sij,sj->s", local, system.matrix[:, images[:, None], images[None, :]], local, optimize=True
    )
    product = np.einsum("si,si->s", local, system.vector[:, images])
    power = np.maximum(power, 1e-30)
    chi2 = (system.target_power - 2 * product + power) / np.maximum(system.pixels - 1, 1)
    return StampQuality(chi2, product / power, 1 / np.sqrt(power))


def noise_chi2(
    system: StampSystem, model: KernelModel, coefficients: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the part of the reduced chi2 of every stamp that the normal matrix leaves out, ``(n_stamps,)``.

    It is the noise of the convolved reference: 1 less the share of the target in the noise of the difference.
    """
    local = local_coefficients(system, model, coefficients)
    images = model.images
    squares = np.einsum("si,ij,sj->s", local, system.gram[np.ix_(images, images)], local, optimize=True)
    return np.asarray(squares * system.noise_power / np.maximum(system.pixels - 1, 1))


def local_coefficients(
    system: StampSystem, model: KernelModel, coefficients: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the coefficients of the images at each stamp, ``(n_stamps, n_images)``."""
    n_sum, n_shape = len(model.sum_terms), len(model.shape_terms)
    total = model.sum_terms.evaluate(system.x, system.y) @ coefficients[:n_sum]
    shape = model.shape_terms.evaluate(system.x, system.y) @ coefficients[n_sum:].reshape(-1, n_shape).T
    return np.concatenate([total[:, None], shape], axis=1)


def _judge(
    status: NDArray[Any],
    quality: StampQuality,
    system: StampSystem,
    clip: float,
    model_error: float,
    *,
    first: bool,
) -> NDArray[Any]:
    """Return the new status of every stamp that is not masked."""
    status = np.where(status == "masked", status, USED).astype("<U10")
    candidate = status == USED
    spread_floor = 0.5 * model_error
    deviation = quality.amplitude - np.median(quality.amplitude[candidate])
    error = np.hypot(quality.amplitude_error, spread_floor)
    robust = 1.4826 * np.median(np.abs(deviation[candidate] / error[candidate]))  # MAD to sigma
    status[candidate & (np.abs(deviation) > clip * max(1.0, robust) * error)] = "varied"
    candidate = status == USED
    dof = np.maximum(system.pixels - 1, 1)
    signal = 1 / quality.amplitude_error**2
    expected = np.sqrt(2 / dof + (model_error**2 * signal / dof) ** 2)
    excess = (quality.chi2 - np.median(quality.chi2[candidate])) / expected
    robust = 1.4826 * np.median(np.abs(excess[candidate]))
    limit = (
        clip * max(1.0, robust) * (2.0 if first else 1.0)
    )  # the first solution still contains the outliers
    status[candidate & (excess > limit)] = "poor fit"
    return status


def _require(used: NDArray[np.bool_], minimum: int, status: NDArray[Any]) -> None:
    if used.sum() < minimum:
        names, counts = np.unique(status, return_counts=True)
        raise AlgorithmError(
            "too few stamps survive the rejection",
            numbers={
                "used": int(used.sum()),
                "needed": minimum,
                **dict(zip(names.tolist(), counts.tolist(), strict=True)),
            },
        )


def with_selection(fit: KernelFit, selection: dict[str, Any]) -> KernelFit:
    """Return the fit with its cross-validation table."""
    return replace(fit, selection=selection)
