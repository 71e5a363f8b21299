"""Difference with a kernel that is constant in square blocks, as the original programs make it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starmill.differencing.unweighted_fit import UnweightedProblem
from starmill.kernels.block_convolution import convolve_blocks

__all__ = ["BlockDifference", "block_kernels", "kernel_image", "subtract_in_blocks"]


@dataclass(frozen=True)
class BlockDifference:
    """Pixels of a region.

    Attributes
    ----------
    convolved : (ny, nx) float64 array
        The reference after convolution, with the background.
    difference : (ny, nx) float64 array
        Target minus convolved reference.
    variance : (ny, nx) float64 array
        Of the difference, without covariance.
    touched : (ny, nx) int32 array
        Union of the masks below the kernel.
    good : (ny, nx) float64 array
        Share of the absolute kernel on good pixels; 0 in the border that the kernel does not reach.
    """

    convolved: np.ndarray
    difference: np.ndarray
    variance: np.ndarray
    touched: np.ndarray
    good: np.ndarray


def kernel_image(
    problem: UnweightedProblem, solution: NDArray[np.floating], x: int, y: int
) -> NDArray[np.floating]:
    """Return the kernel at a position of the region, ``(k, k)``."""
    n = len(problem.basis)
    weights = problem.terms(x, y, problem.order)
    shapes = solution[1 : 1 + (n - 1) * len(weights)].reshape(n - 1, -1) @ weights
    return np.tensordot(np.concatenate([solution[:1], shapes]), problem.basis.images, 1)


def block_kernels(
    problem: UnweightedProblem, solution: NDArray[np.floating], step: int
) -> NDArray[np.floating]:
    """Return the kernels of all blocks, ``(rows, columns, k, k)``.

    Parameters
    ----------
    problem : UnweightedProblem
    solution : (n,) array
        From `fit_unweighted_kernel`.
    step : int
        Side of a block. The kernel of a block is that of half a kernel beyond its lower corner: the centre when
        ``step`` is the size of the kernel.
    """
    ny, nx = problem.target.shape
    half = problem.basis.half_width
    starts = [np.arange(half, max(side - half, half + 1), step) for side in (ny, nx)]
    return np.array(
        [[kernel_image(problem, solution, x + half, y + half) for x in starts[1]] for y in starts[0]]
    )


def subtract_in_blocks(
    problem: UnweightedProblem,
    solution: NDArray[np.floating],
    variances: tuple[NDArray[np.floating], NDArray[np.floating]],
    mask: NDArray[np.integer],
    *,
    step: int,
    squared: bool = True,
) -> BlockDifference:
    """Convolve the reference and subtract it.

    Parameters
    ----------
    problem : UnweightedProblem
    solution : (n,) array
    variances : (reference, target)
        Arrays (ny, nx).
    mask : (ny, nx) int32 array
        Joint mask; 0x80 is bad.
    step : int
        Side of the blocks.
    squared : bool
        Variance with the square of the kernel; otherwise with the kernel.

    Returns
    -------
    difference : BlockDifference
    """
    ny, nx = problem.target.shape
    out, variance = np.zeros((ny, nx)), np.zeros((ny, nx))
    touched, good = np.zeros((ny, nx), np.int32), np.zeros((ny, nx))
    kernels = block_kernels(problem, solution, step)
    reference, noise = (np.ascontiguousarray(a, np.float64) for a in (problem.reference, variances[0]))
    convolve_blocks(
        reference, noise, np.ascontiguousarray(mask, np.int32), kernels, step, squared, out, variance, touched, good
    )  # fmt: skip
    yy, xx = np.mgrid[:ny, :nx]
    count = (problem.background_order + 1) * (problem.background_order + 2) // 2
    first = 1 + (len(problem.basis) - 1) * ((problem.order + 1) * (problem.order + 2) // 2)
    level = np.tensordot(
        solution[first : first + count], problem.terms(xx, yy, problem.background_order), axes=1
    )
    convolved = out + level
    return BlockDifference(
        convolved, problem.target - convolved, np.maximum(variance + variances[1], 0), touched, good
    )
