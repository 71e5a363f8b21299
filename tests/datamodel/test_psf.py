"""Point-spread functions: normalisation, place, moments, round trips."""

import numpy as np
import pytest

from starmill.datamodel.field import ChebyshevField, ConstantField
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import GaussianPsf, PixelBasisPsf, adaptive_moments, psf_from_dict, shift_images
from starmill.datamodel.psf_models import MoffatPsf
from starmill.errors import InputError
from starmill.kernels.matched_moments import matched_moments
from tests.reference import matched_moments as reference

BOX = Box(0, 0, 1000, 800)


def gaussian_image(size, sigma, step=1.0):
    r = (np.arange(size) - size // 2) / step
    p = np.exp(-0.5 * (r / sigma) ** 2)
    return np.outer(p, p) / p.sum() ** 2


def make_psfs():
    e = ConstantField(BOX, 0.0)
    wider = np.stack([gaussian_image(41, 2.0), gaussian_image(41, 2.4) - gaussian_image(41, 2.0)])
    fields = [ConstantField(BOX, 1), ChebyshevField(BOX, [[0.3, 0.2]])]
    fine = gaussian_image(81, 2.0, 2.0)[None]
    return {
        "gaussian": GaussianPsf(2.0, 41),
        "pixels": PixelBasisPsf(wider, fields),
        "oversampled": PixelBasisPsf(fine, [ConstantField(BOX, 1)], samples_per_pixel=2, size=35),
        "moffat": MoffatPsf(ConstantField(BOX, 4.0), e + 0.05, e, ConstantField(BOX, 3.0), 41),
    }


@pytest.mark.parametrize("name", make_psfs())
def test_images_are_centred_normalised_and_come_back(name):
    psf = make_psfs()[name]
    x, y = np.array([100.3, 712.5, 33.0]), np.array([50.7, 600.49, 44.0])
    kernels = psf.kernels_at(x, y)
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, rtol=1e-12)
    images, x0, y0 = psf.images_at(x, y)
    r = np.arange(psf.size)
    cx = (images * (x0[:, None, None] + r[None, None, :])).sum((1, 2)) / images.sum((1, 2))
    cy = (images * (y0[:, None, None] + r[None, :, None])).sum((1, 2)) / images.sum((1, 2))
    # The sum is 1 but for what a shifted wide wing loses at the stamp's edge.
    np.testing.assert_allclose(images.sum((1, 2)), 1, atol=3e-4)
    np.testing.assert_allclose(cx, x, atol=0.02)  # a Moffat wing cut off centre moves the mean
    np.testing.assert_allclose(cy, y, atol=0.02)
    again = psf_from_dict(psf.to_dict())
    np.testing.assert_array_equal(again.kernels_at(x, y), kernels)
    image, origin = psf.image_at(x[0], y[0])
    np.testing.assert_allclose(image, images[0], rtol=1e-10, atol=1e-15)
    assert origin == (x0[0], y0[0])
    assert "<" in psf._repr_html_()


def test_gaussian_has_its_width():
    psf = GaussianPsf(1.8, 31)
    np.testing.assert_allclose(psf.shape_at(), (1.8**2, 1.8**2, 0), atol=1e-6)
    np.testing.assert_allclose(psf.fwhm_at(3, 4), 1.8 * 2.35482, rtol=1e-5)
    fine = make_psfs()["oversampled"]
    np.testing.assert_allclose(fine.sigma_at(), 2.0, rtol=1e-3)


def test_moffat_has_its_full_width():
    psf = MoffatPsf(
        ConstantField(BOX, 6.0), ConstantField(BOX, 0), ConstantField(BOX, 0), ConstantField(BOX, 3), 61
    )
    kernel = psf.kernel_at(10, 10)
    assert kernel[30, 33] == pytest.approx(kernel[30, 30] / 2, rel=1e-12)


def test_shift_moves_light_and_keeps_flux():
    image = gaussian_image(41, 2.0)
    moved = shift_images(image, 0.37, -0.21, kaiser=True)
    r = np.arange(41) - 20
    assert moved.sum() == pytest.approx(1, abs=1e-5)
    assert (moved * r[None, :]).sum() == pytest.approx(0.37, abs=1e-3)
    assert (moved * r[:, None]).sum() == pytest.approx(
        -0.21, abs=2e-3
    )  # ripples of the kernel, far from the star
    np.testing.assert_allclose(shift_images(image, 0, 0), image, atol=1e-15)
    whole = shift_images(image, 3, -2)
    np.testing.assert_allclose(whole[:-2, 3:], image[2:, :-3], atol=1e-15)


def test_adaptive_moments_of_an_ellipse():
    y, x = np.mgrid[-25:26, -25:26]
    inverse = np.linalg.inv([[6.0, 1.2], [1.2, 4.0]])
    image = np.exp(-0.5 * (inverse[0, 0] * x**2 + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y**2))
    np.testing.assert_allclose(adaptive_moments(image[None])[0], (6, 4, 1.2), rtol=1e-6)
    assert np.isnan(adaptive_moments(np.zeros((1, 11, 11)))).all()


def test_matched_moments_agree_with_the_slow_twin():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[-12:13, -12:13]
    images = np.array(
        [
            np.exp(-0.5 * (x**2 / a - 2 * 0.2 * x * y / a + y**2 / b)) + 0.01 * rng.normal(size=x.shape)
            for a, b in rng.uniform(1.5, 9, (20, 2))
        ]
    )
    images[3], images[5] = 0.0, -images[5]
    r = np.arange(25.0) - 12
    found = np.empty((20, 3))
    matched_moments(images, r, 100, found)
    np.testing.assert_allclose(found, reference.matched_moments(images, r, 100), rtol=1e-7)
    assert np.isnan(found[[3, 5]]).all()
    assert np.isfinite(found).all(axis=1).sum() >= 15


def test_bad_psfs():
    for sigma in (0, -1, np.nan):
        with pytest.raises(InputError, match="width"):
            GaussianPsf(sigma)
    with pytest.raises(InputError, match="odd"):
        GaussianPsf(2, 20)
    with pytest.raises(InputError, match="unknown kind of PSF"):
        psf_from_dict({"kind": "airy"})
    with pytest.raises(InputError, match="do not go with"):
        PixelBasisPsf(np.ones((2, 5, 5)), [ConstantField(BOX, 1)])
