"""The likely variation of a kernel over the field, against the variation that was put in."""

from __future__ import annotations

import numpy as np
import pytest

from starmill.datamodel.geometry import Box
from starmill.differencing.kernel_basis import gaussian_basis
from starmill.differencing.kernel_fit import KernelModel, solve_normal_equations
from starmill.differencing.kernel_prior import with_likely_variation
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.differencing.stamp_system import StampSystem

BOX = Box(0, 0, 500, 500)


def drawn_system(variation, seed, n=14):
    """Return stamps of a kernel whose coefficients have random gradients, and the kernel at their positions."""
    rng = np.random.default_rng(seed)
    basis = gaussian_basis(6, [1.0, 2.0], [2, 2])
    model = KernelModel(basis, SpatialTerms(BOX, 1), SpatialTerms(BOX, 0), np.arange(len(basis)))
    flat = basis.images.reshape(len(basis), -1)
    x, y = rng.uniform(0, 500, (2, n))
    truth = np.zeros(len(model.columns[0]))
    truth[0] = 1.0
    norm = np.linalg.norm(flat[0])
    drawn = variation * norm * np.linalg.cholesky(np.linalg.inv(flat[1:] @ flat[1:].T))
    for term in (1, 2):
        truth[1 + term :: 3] = (drawn @ rng.normal(size=len(flat) - 1)) / np.sqrt(2 * (len(flat) - 1))
    weight = 10 ** rng.uniform(3, 5.5, n)
    matrix = weight[:, None, None] * (flat @ flat.T + 0.02 * np.diag(np.sum(flat**2, axis=1)))
    image, _ = model.columns
    rows = model.design_at(x, y)
    local = np.stack(
        [(rows[:, image == i] * truth[image == i]).sum(axis=1) for i in range(len(basis))], axis=1
    )
    noise = np.stack([np.linalg.cholesky(m) @ rng.normal(size=len(basis)) for m in matrix])
    vector = np.einsum("sij,sj->si", matrix, local) + noise
    power = np.einsum("si,si->s", local, vector)
    no_noise = np.zeros(n), np.zeros((len(basis), len(basis)))
    system = StampSystem(x, y, matrix, vector, power, np.full(n, 600), np.zeros(n), *no_noise)
    return system, model, truth, norm


def kernel_error(model, coefficients, truth):
    """Return the rms error of the kernel over the field relative to its norm."""
    x, y = np.meshgrid(np.linspace(0, 499, 5), np.linspace(0, 499, 5))
    wrong = model.kernel(coefficients - truth).kernels_at(x.ravel(), y.ravel())
    return np.sqrt(np.mean(np.sum(wrong**2, axis=(1, 2))))


@pytest.mark.parametrize("variation", [0.0, 0.05, 0.3])
def test_a_likely_prior_beats_no_variation_and_free_variation(variation):
    errors = []
    for seed in range(8):
        system, model, truth, norm = drawn_system(variation, seed)
        likely = with_likely_variation(system, model, norm)
        plain = solve_normal_equations(system, model).coefficients
        prior = solve_normal_equations(system, likely).coefficients
        errors.append([kernel_error(model, c, truth) / norm for c in (plain, prior)])
    plain, prior = np.mean(errors, axis=0)
    assert prior < plain


def test_the_likely_variation_follows_the_true_one():
    found = []
    for variation in (0.0, 0.05, 0.3):
        system, model, _, norm = drawn_system(variation, 1)
        found.append(with_likely_variation(system, model, norm).variation[0])
    assert found[0] < found[1] < found[2]
    assert 0.1 < found[2] <= 0.32


def test_splines_and_constant_kernels_have_no_prior():
    system, model, _, norm = drawn_system(0.1, 2)
    for terms in (SpatialTerms(BOX, 0), SpatialTerms(BOX, 1, "bspline")):
        changed = KernelModel(model.basis, terms, model.sum_terms, model.images)
        assert with_likely_variation(system, changed, norm).precision() is None
