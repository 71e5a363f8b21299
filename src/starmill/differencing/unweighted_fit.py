"""Matching kernel from unweighted least squares on stamps, with stamps replaced when they fit badly.

Every stamp counts with its pixels as they are, so bright stamps dominate; the kernel is constant inside a stamp.
It is the fit of the original programs, kept for comparison with them; `kernel_fit` is the better one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starmill.differencing.cell_stamps import clipped_moments
from starmill.differencing.kernel_basis import KernelBasis
from starmill.errors import AlgorithmError
from starmill.kernels.block_convolution import stamp_vectors

__all__ = ["UnweightedFit", "UnweightedProblem", "direction_merit", "fit_unweighted_kernel"]


@dataclass(frozen=True)
class UnweightedProblem:
    """Two images and the model that turns the reference into the target.

    Attributes
    ----------
    reference, target : (ny, nx) float64 arrays
        The image that is convolved and the one to be matched; finite.
    noise_variance : (ny, nx) array
        Sum of the variances of both, for figures of merit only.
    bad : (ny, nx) bool array
        Pixels that do not count in figures of merit. The sums of the fit hold them.
    basis : KernelBasis
        Only the first image has a sum. With one horizontal factor for each image it is convolved in the rounding of
        the original program.
    half_width : int
        Of the stamps, pixels.
    order, background_order : int
        Of the polynomials in position.
    clip : float
        Of statistics, standard deviations.
    """

    reference: np.ndarray
    target: np.ndarray
    noise_variance: np.ndarray
    bad: np.ndarray
    basis: KernelBasis
    half_width: int
    order: int
    background_order: int
    clip: float = 3.0

    def scaled(
        self, x: NDArray[np.integer] | int, y: NDArray[np.integer] | int
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return positions on [-1, 1) of the image."""
        ny, nx = self.target.shape
        return (np.asarray(x, np.float64) - nx / 2) / (nx / 2), (np.asarray(y, np.float64) - ny / 2) / (
            ny / 2
        )

    def terms(
        self, x: NDArray[np.integer] | int, y: NDArray[np.integer] | int, order: int
    ) -> NDArray[np.floating]:
        """Return the monomials ``x^i y^j``, ``i`` slow, ``(n_terms, ...)``."""
        u, v = self.scaled(x, y)
        return np.array([u**i * v**j for i in range(order + 1) for j in range(order + 1 - i)])


class _Stamp:
    """What one stamp brings to the normal equations."""

    def __init__(self, problem: UnweightedProblem, x: int, y: int) -> None:
        self.x, self.y = x, y
        h, k = problem.half_width, problem.basis.half_width
        cut = problem.reference[y - h - k : y + h + k + 1, x - h - k : x + h + k + 1]
        side = 2 * h + 1
        self.vectors = _convolved(cut, problem.basis, side)
        yy, xx = np.mgrid[y - h : y + h + 1, x - h : x + h + 1]
        self.background = problem.terms(xx, yy, problem.background_order).reshape(-1, side * side)
        self.data = problem.target[y - h : y + h + 1, x - h : x + h + 1].ravel().astype(np.float64)
        self.variance = problem.noise_variance[y - h : y + h + 1, x - h : x + h + 1].ravel()
        self.good = ~problem.bad[y - h : y + h + 1, x - h : x + h + 1].ravel()
        self.weights = problem.terms(x, y, problem.order)
        self.level = problem.terms(x, y, problem.background_order)
        self.gram = self.vectors @ self.vectors.T
        self.cross = self.vectors @ self.background.T
        self.product = self.vectors @ self.data

    def local_solution(self) -> NDArray[np.floating]:
        """Return the coefficients from this stamp alone, with a constant background; NaN when singular."""
        n, pixels = len(self.vectors), len(self.data)
        matrix = np.empty((n + 1, n + 1))
        matrix[:n, :n] = self.gram
        matrix[n, :n] = matrix[:n, n] = self.vectors.sum(axis=1)
        matrix[n, n] = pixels
        right = np.append(self.product, self.data.sum())
        try:
            return np.linalg.solve(matrix, right)[:n]
        except np.linalg.LinAlgError:
            return np.full(n, np.nan)

    def merits(self, solution: NDArray[np.floating]) -> tuple[float, float, float]:
        """Return mean and scatter of squared residuals over variance, and the width of residuals over noise."""
        n, m = len(self.vectors), len(self.weights)
        shapes = solution[1 : 1 + (n - 1) * m].reshape(n - 1, m) @ self.weights
        model = solution[0] * self.vectors[0] + shapes @ self.vectors[1:]
        model += float(
            solution[1 + (n - 1) * m :] @ self.level
        )  # the original takes the background of the centre
        pull = ((self.data - model) / np.sqrt(self.variance))[self.good]
        if len(pull) == 0:
            return np.inf, np.inf, np.inf
        lower, upper = np.percentile(pull, [25, 75])
        return float(np.mean(pull**2)), float(np.std(pull)), float(upper - lower) / 1.35


def _convolved(cut: NDArray[np.floating], basis: KernelBasis, side: int) -> NDArray[np.floating]:
    """Return a cutout convolved with every basis image, ``(n_basis, side * side)``."""
    if basis.horizontal is None:
        windows = np.lib.stride_tricks.sliding_window_view(cut, basis.images.shape[1:])
        flipped = basis.images[:, ::-1, ::-1].reshape(len(basis), -1)
        return np.asarray(flipped @ windows.reshape(side * side, -1).T)
    out = np.empty((len(basis), side, side))
    factors = (basis.horizontal[basis.horizontal_index], basis.vertical)
    stamp_vectors(np.ascontiguousarray(cut), *factors, basis.minus_first, out)
    return out.reshape(len(basis), -1)


def _solve(stamps: list[_Stamp], problem: UnweightedProblem) -> NDArray[np.floating]:
    """Return the solution: sum of the kernel, shape terms (image slow, position fast), background."""
    n = len(problem.basis)
    m = (problem.order + 1) * (problem.order + 2) // 2
    if len(stamps) < m:
        raise AlgorithmError(
            "too few stamps for the change of the kernel over the field",
            numbers={"stamps": len(stamps), "terms": m, "order": problem.order},
        )
    shapes = (n - 1) * m
    size = 1 + shapes + stamps[0].background.shape[0]
    matrix, right = np.zeros((size, size)), np.zeros(size)
    for s in stamps:
        w = s.weights
        matrix[0, 0] += s.gram[0, 0]
        matrix[0, 1 : 1 + shapes] += np.kron(s.gram[0, 1:], w)
        matrix[1 : 1 + shapes, 1 : 1 + shapes] += np.kron(s.gram[1:, 1:], np.outer(w, w))
        matrix[0, 1 + shapes :] += s.cross[0]
        matrix[1 : 1 + shapes, 1 + shapes :] += np.kron(s.cross[1:], w[:, None])
        matrix[1 + shapes :, 1 + shapes :] += s.background @ s.background.T
        right += np.concatenate([s.product[:1], np.kron(s.product[1:], w), s.background @ s.data])
    upper = np.triu(matrix)
    matrix = upper + np.triu(matrix, 1).T
    try:
        solution = np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        solution = np.full(size, np.nan)
    if not np.isfinite(solution).all():
        raise AlgorithmError(
            "the normal equations are singular", numbers={"stamps": len(stamps), "unknowns": size}
        )
    return solution


@dataclass(frozen=True)
class UnweightedFit:
    """Result of an unweighted fit.

    Attributes
    ----------
    solution : (n,) array
        Kernel sum; for each further basis image its position terms; background terms.
    current : list of int
        Which stamp of each cell was used last; -1 for a cell without a good one.
    merits : (n_cells,) array
        Mean squared residual over variance, NaN for cells without a stamp.
    mean, scatter : float
        Of the clipped merits.
    """

    solution: np.ndarray
    current: list
    merits: np.ndarray
    mean: float
    scatter: float


def local_coefficients(problem: UnweightedProblem, x: int, y: int) -> NDArray[np.floating]:
    """Return the coefficients of the basis images from one stamp alone, ``(n_basis,)``."""
    return _Stamp(problem, x, y).local_solution()


def stamp_vectors_at(problem: UnweightedProblem, x: int, y: int) -> NDArray[np.floating]:
    """Return the pixels of one stamp convolved with every basis image, ``(n_basis, side, side)``."""
    side = 2 * problem.half_width + 1
    return _Stamp(problem, x, y).vectors.reshape(-1, side, side)


def fit_unweighted_kernel(
    problem: UnweightedProblem, cells: list[list[tuple[int, int]]], *, reject: float, merit: str = "v"
) -> UnweightedFit:
    """Fit the kernel, and step to the next stamp of a cell when its present one fits badly.

    Parameters
    ----------
    problem : UnweightedProblem
    cells : list of list of (x, y)
        Stamps of each cell, best first.
    reject : float
        A stamp above ``mean + reject * scatter`` of the figures of merit is replaced.
    merit : {"v", "s", "h"}
        Variance, scatter or histogram width of the residuals.

    Returns
    -------
    fit : UnweightedFit

    Raises
    ------
    AlgorithmError
        Without a stamp that is left, or when the equations are singular.
    """
    kind = "vsh".index(merit)
    current = [0] * len(cells)
    stamps = {i: _Stamp(problem, *stamps[0]) for i, stamps in enumerate(cells)}
    while True:
        if not stamps:
            raise AlgorithmError("no stamp fits the others", numbers={"cells": len(cells)})
        solution = _solve(list(stamps.values()), problem)
        merits = {i: s.merits(solution)[kind] for i, s in stamps.items()}
        mean, scatter = clipped_moments(list(merits.values()), problem.clip)
        poor = [i for i, value in merits.items() if value > mean + reject * scatter]
        if not poor:
            break
        for i in poor:
            current[i] += 1
            if current[i] < len(cells[i]):
                stamps[i] = _Stamp(problem, *cells[i][current[i]])
            else:
                current[i] = -1
                del stamps[i]
    values = np.array([merits.get(i, np.nan) for i in range(len(cells))])
    return UnweightedFit(solution, current, values, mean, scatter)


def direction_merit(
    problem: UnweightedProblem, cells: list[list[tuple[int, int]]], *, reject: float, merit: str = "v"
) -> tuple[float, NDArray[np.floating], NDArray[np.bool_]]:
    """Return how well the reference can be matched to the target; smaller is better.

    Parameters
    ----------
    problem : UnweightedProblem
    cells : list of list of (x, y)
        The first of each cell counts.
    reject : float
        Cells whose own kernel sum is further from the mean, in standard deviations, do not count.
    merit : {"v", "s", "h"}

    Returns
    -------
    merit : float
        Clipped mean of the figures of merit over the kernel sum; infinite without stamps.
    sums : (n_cells,) array
        Kernel sum of each stamp alone.
    kept : (n_cells,) bool array
    """
    if not cells:
        return np.inf, np.zeros(0), np.zeros(0, bool)
    stamps = [_Stamp(problem, *stamps[0]) for stamps in cells]
    sums = np.array([s.local_solution()[0] for s in stamps])
    kept = np.isfinite(sums)
    if not kept.any():
        return np.inf, sums, kept
    mean, scatter = clipped_moments(sums[kept], problem.clip)
    kept &= np.abs(sums - mean) <= reject * scatter if scatter > 0 else kept
    chosen = [s for s, good in zip(stamps, kept, strict=True) if good]
    solution = _solve(chosen, problem)
    values = [s.merits(solution)["vsh".index(merit)] for s in chosen]
    return clipped_moments(values, problem.clip)[0] / solution[0], sums, kept
