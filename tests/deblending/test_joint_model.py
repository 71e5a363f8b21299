"""Joint model: kernels, fluxes of simulated blends, conservation, real blends in five bands."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import fftconvolve
from tests.reference import monotonic as slow

from starmill.deblending.joint_model import JointModelRules, difference_kernels, fit_joint_model
from starmill.errors import AlgorithmError, InputError
from starmill.kernels.monotonic import limit_by_inner


def gaussian_psf(sigma, size=25):
    r = np.arange(size) - size // 2
    psf = np.exp(-0.5 * np.add.outer(r**2, r**2) / sigma**2)
    return psf / psf.sum()


PSFS = np.stack([gaussian_psf(1.5), gaussian_psf(2.0)])
FLUXES = np.array([[8000.0, 3000.0], [2500.0, 6000.0]])
PLACES = ((22, 22, 1.8), (29, 24, 1.2))


def pair(noise=2.0, seed=1, shape=(47, 51)):
    """Two Gaussian galaxies with different colours in two bands of different seeing."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    images = np.random.default_rng(seed).normal(0, noise, (2, *shape)) if noise else np.zeros((2, *shape))
    for (cx, cy, size), fluxes in zip(PLACES, FLUXES, strict=True):
        for b, sigma in enumerate((1.5, 2.0)):
            s2 = size**2 + sigma**2
            images[b] += fluxes[b] * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / s2) / (2 * np.pi * s2)
    return images, np.full(images.shape, 1 / max(noise, 1.0) ** 2)


def test_decline_equals_slow_twin():
    image = np.random.default_rng(0).exponential(1, (17, 21))
    r2 = np.add.outer((np.arange(17) - 6) ** 2, (np.arange(21) - 12) ** 2)
    out = image.copy()
    limit_by_inner(out, 6, 12, np.argsort(r2.ravel(), kind="stable"))
    assert_allclose(out, slow.limit_by_inner(image, 6, 12), rtol=1e-12)
    assert out.max() == out[6, 12]


def test_difference_kernel_turns_one_psf_into_the_other():
    kernels = difference_kernels(PSFS, 0.8)
    for kernel, psf in zip(kernels, PSFS, strict=True):
        assert_allclose(fftconvolve(gaussian_psf(0.8), kernel, mode="same"), psf, atol=2e-5)


def test_fluxes_and_colours_of_a_blend():
    images, weights = pair()
    fit = fit_joint_model(images, weights, PSFS, np.array([(22, 22), (29, 24)]))
    assert fit.chi2 < 1.1
    assert_allclose(fit.spectra, FLUXES, rtol=0.05)  # noise alone gives 1 to 2 per cent
    assert (fit.morphologies >= 0).all()
    assert_allclose(fit.morphologies.sum((1, 2)), 1)


def test_children_add_up_to_the_images():
    images, weights = pair()
    fit = fit_joint_model(images, weights, PSFS, np.array([(22, 22), (29, 24)]))
    children = fit.redistribute(images)
    covered = fit.models.sum(0) > 0
    assert_allclose(children.sum(0)[covered], images[covered], rtol=1e-5, atol=1e-4)


def test_mirrored_blend_gives_mirrored_children():
    images, weights = pair()
    first = fit_joint_model(images, weights, PSFS, np.array([(22, 22), (29, 24)]))
    second = fit_joint_model(images[:, :, ::-1], weights, PSFS, np.array([(28, 22), (21, 24)]))
    assert_allclose(second.spectra, first.spectra, rtol=1e-3)


def test_pixels_without_weight_have_no_influence():
    images, weights = pair()
    weights[:, 20:22, 30:33] = 0
    first = fit_joint_model(images, weights, PSFS, np.array([(22, 22), (29, 24)]))
    images[:, 20:22, 30:33] = np.nan
    second = fit_joint_model(images, weights, PSFS, np.array([(22, 22), (29, 24)]))
    assert_array_equal(first.spectra, second.spectra)


def test_one_band_works():
    images, weights = pair()
    fit = fit_joint_model(images[:1], weights[:1], PSFS[:1], np.array([(22, 22), (29, 24)]))
    assert_allclose(fit.spectra[:, 0], FLUXES[:, 0], rtol=0.1)  # one colour less to tell them apart


def test_bad_input_is_named():
    images, weights = pair()
    with pytest.raises(AlgorithmError, match="weight"):
        fit_joint_model(images, 0 * weights, PSFS, np.array([(22, 22)]))
    with pytest.raises(InputError, match="outside"):
        fit_joint_model(images, weights, PSFS, np.array([(99, 22)]))
    with pytest.raises(InputError, match="odd"):
        difference_kernels(np.ones((1, 4, 4)), 0.8)


@pytest.mark.parametrize("name", ["43158172147389440", "43158172147385547", "43158172147387690"])
def test_real_blends_in_five_bands(shared_data, name):
    """HSC blends: the model explains the pixels, and bands of similar depth agree on the total."""
    data = np.load(shared_data("scarlet_hsc") / "hsc_cosmos_blends" / f"{name}.npz")
    images, weights = data["images"].astype(float), data["weights"].astype(float)
    psfs = data["psfs"] / data["psfs"].sum((1, 2), keepdims=True)
    fit = fit_joint_model(images, weights, psfs, np.round(data["peaks"]).astype(int), JointModelRules())
    assert fit.chi2 < 1.2
    assert (fit.spectra.sum(1) > 0).all()
    inside = (weights > 0) & (fit.models.sum(0) > 0)
    model, measured = fit.models.sum(0), images
    for b in range(5):
        noise = np.sqrt((1 / weights[b][inside[b]]).sum())
        assert_allclose(
            model[b][inside[b]].sum(), measured[b][inside[b]].sum(), rtol=0.05, atol=4 * noise
        )  # fmt: skip
