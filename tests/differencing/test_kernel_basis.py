"""Kernel bases and spatial terms."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reference.kernel_convolution import convolve_stamp

from starmill.datamodel.field import field_from_dict
from starmill.datamodel.geometry import Box
from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.differencing.kernel_basis import (
    delta_basis,
    gaussian_basis,
    image_basis,
    matching_widths,
    roughness,
)
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.differencing.stamp_system import convolve_with_basis
from starmill.errors import InputError

BASES = {
    "gaussian": gaussian_basis(4, [0.8, 1.5], [3, 2]),
    "delta": delta_basis(2),
    "images": image_basis(np.random.default_rng(1).random((3, 5, 5))),
}


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES.keys())
def test_only_the_first_image_has_a_sum(basis):
    sums = basis.images.sum(axis=(1, 2))
    assert sums[0] == pytest.approx(1)
    np.testing.assert_allclose(sums[1:], 0, atol=1e-12)


def test_number_of_default_images():
    assert len(gaussian_basis(10, [0.7, 1.5, 3.0], [6, 4, 2])) == 49  # 28 + 15 + 6


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES.keys())
def test_convolution_of_a_stamp_agrees_with_direct_sums(basis):
    stamp = np.random.default_rng(2).normal(size=(20, 20)).astype("f4")
    np.testing.assert_allclose(
        convolve_with_basis(stamp, basis), convolve_stamp(stamp, basis.images), atol=5e-6
    )  # float32 rounding of sums of some 80 terms


def test_delta_basis_spans_every_kernel():
    kernel = np.random.default_rng(3).normal(size=25)
    design = BASES["delta"].images.reshape(25, 25).T
    np.testing.assert_allclose(design @ np.linalg.solve(design, kernel), kernel, atol=1e-10)


def test_roughness_is_least_for_smooth_kernels():
    basis = delta_basis(4)
    form = roughness(basis)
    y, x = np.mgrid[-4:5, -4:5]
    design = basis.images.reshape(81, 81).T

    def cost(kernel):
        a = np.linalg.solve(design, (kernel / kernel.sum()).ravel())
        return a @ form @ a

    smooth, sharp = np.exp(-(x**2 + y**2) / 8), np.exp(-(x**2 + y**2) / 1)
    assert 0 < cost(smooth) < 0.1 * cost(sharp)


@pytest.mark.parametrize("wrong", [(0, [1.0], [1]), (3, [1.0, 2.0], [1]), (3, [-1.0], [1]), (3, [], [])])
def test_impossible_gaussians_are_refused(wrong):
    with pytest.raises(InputError):
        gaussian_basis(*wrong)


def test_image_without_a_sum_cannot_come_first():
    with pytest.raises(InputError):
        image_basis(np.stack([np.arange(9.0).reshape(3, 3) - 4, np.ones((3, 3))]))


def test_widths_follow_the_seeings():
    assert matching_widths(1.2, 1.8)[1] == pytest.approx(np.sqrt(1.8**2 - 1.2**2), rel=0.01)
    assert (np.diff(matching_widths(1.5, 1.2)) > 0).all()


@pytest.mark.parametrize("family", ["chebyshev", "polynomial", "bspline"])
def test_field_equals_terms_times_coefficients(family):
    box = Box(100, 50, 60, 40)
    terms = SpatialTerms(box, 2, family)
    rng = np.random.default_rng(4)
    coefficients = rng.normal(size=len(terms))
    x, y = rng.uniform(100, 159, 20), rng.uniform(50, 89, 20)
    field = terms.field(coefficients)
    np.testing.assert_allclose(terms.evaluate(x, y) @ coefficients, field(x, y), atol=1e-9)
    image = field.image(box)
    assert image[3, 7] == pytest.approx(float(field(107, 53)))
    np.testing.assert_allclose(field_from_dict(field.to_dict())(x, y), field(x, y))


def test_splines_are_a_partition_of_unity():
    terms = SpatialTerms(Box(0, 0, 64, 64), 3, "bspline")
    x, y = np.random.default_rng(5).uniform(0, 63, (2, 50))
    np.testing.assert_allclose(terms.evaluate(x, y).sum(axis=1), 1, atol=1e-9)


def test_unknown_terms_are_refused():
    with pytest.raises(InputError):
        SpatialTerms(Box(0, 0, 8, 8), 1, "fourier")
    with pytest.raises(InputError):
        SpatialTerms(Box(0, 0, 8, 8), -1)


def test_spatial_kernel_round_trip_and_sum():
    box = Box(0, 0, 100, 80)
    basis = BASES["gaussian"]
    terms = SpatialTerms(box, 1)
    fields = [terms.field(np.random.default_rng(i).normal(size=3)) for i in range(len(basis))]
    kernel = SpatialKernel(basis.images, fields)
    again = SpatialKernel.from_dict(kernel.to_dict())
    np.testing.assert_allclose(again.kernel_at(20, 30), kernel.kernel_at(20, 30))
    assert kernel.kernel_at(20, 30).sum() == pytest.approx(float(kernel.sum_at(20, 30)))
    stacked = np.stack([f(20.0, 30.0) for f in fields])
    np.testing.assert_allclose(kernel.coefficients_at(20.0, 30.0), stacked)
    assert kernel.scaled(2).sum_at(20, 30) == pytest.approx(2 * float(kernel.sum_at(20, 30)))
    assert "SpatialKernel" in repr(kernel)


def test_spatial_kernel_refuses_wrong_shapes():
    box = Box(0, 0, 10, 10)
    with pytest.raises(InputError):
        SpatialKernel(np.ones((1, 4, 4)), [SpatialTerms(box, 0).field([1.0])])
    with pytest.raises(InputError):
        SpatialKernel(np.ones((2, 5, 5)), [SpatialTerms(box, 0).field([1.0])])
