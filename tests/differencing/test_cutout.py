"""Cutouts around one object: what changed is found and left out of the fit."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.differencing.sides import discs
from starmill.errors import AlgorithmError, ConfigError, InputError
from starmill.tasks.difference_frame import DifferenceFrameConfig, DifferenceFrameTask, excluded_discs

N = 63
GAIN = 6.0


def blob(x, y, flux, sigma):
    v, u = np.mgrid[:N, :N]
    return flux / (2 * np.pi * sigma**2) * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))


def pair(seed, sources, change, *, ratio=1.3, sigmas=(1.0, 1.2), sky=200.0, noise=8.0):
    """Return template and science: sources (x, y, flux, own width) in both, changes (x, y, flux) in the science."""
    rng = np.random.default_rng(seed)
    images = []
    for sigma, scale, extra in zip(sigmas, (1.0, ratio), ((), change), strict=True):
        light = sum(
            (scale * blob(x, y, flux, np.hypot(sigma, w)) for x, y, flux, w in sources), np.zeros((N, N))
        )
        light = light + sum((blob(x, y, flux, sigma) for x, y, flux in extra), np.zeros((N, N)))
        variance = noise**2 + light / GAIN
        image = sky + light + rng.normal(0, np.sqrt(variance))
        images.append(
            Exposure(image.astype("f4"), Mask(np.zeros((N, N), np.int32)), np.zeros((N, N), "f4"), unit="adu")
        )
    return images


def subtract(template, science, **values):
    config = DifferenceFrameConfig().override({"gain": GAIN, **values})
    return DifferenceFrameTask(config).run(template=template, science=science)


GALAXY = (38, 27, 2e5, 4.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_supernova_in_the_only_galaxy_of_a_cutout(seed):
    result = subtract(*pair(seed, [GALAXY], [(31.2, 30.8, 4e4)]))
    assert result.quality.good, result.quality.verdict
    assert result.kernel_sum == pytest.approx(1.3, abs=4 * result.kernel_sum_error + 0.005)
    nearest = np.argmin(np.hypot(result.catalog["x"] - 31.2, result.catalog["y"] - 30.8))
    source = result.catalog[[nearest]]
    assert np.hypot(source["x"][0] - 31.2, source["y"][0] - 30.8) < 0.3
    assert source["psf_flux"][0] == pytest.approx(
        4e4, rel=0.05
    )  # its PSF is its own, with a profile beyond 10 pixels
    v, u = np.mgrid[:N, :N]
    near = np.hypot(u - 31.2, v - 30.8) < 6
    assert result.difference.image[near].sum() == pytest.approx(
        4e4, rel=0.05
    )  # half of the 0.1 mag that are asked for


def test_a_new_source_in_an_empty_template_needs_no_scale():
    result = subtract(*pair(4, [], [(31, 31, 2e4)]))
    assert result.quality.good, result.quality.verdict
    assert result.catalog["psf_flux"].max() == pytest.approx(2e4, rel=0.05)


def test_a_scale_from_one_star_is_no_scale():
    result = subtract(*pair(5, [(31, 31, 1e5, 0.0)], []))
    assert not result.quality.good
    assert "rests on one object" in result.quality.verdict


def test_a_listed_star_is_left_out():
    images = pair(6, [(31, 31, 1e5, 0.0), (14, 45, 3e4, 0.0), (50, 15, 3e4, 0.0)], [(31, 31, 8e3)])
    result = subtract(*images, exclude=["31,31,6"])
    assert result.kernel_sum == pytest.approx(1.3, abs=4 * result.kernel_sum_error)
    v, u = np.mgrid[:N, :N]
    near = np.hypot(u - 31, v - 31) < 5
    assert result.difference.image[near].sum() == pytest.approx(
        8e3, abs=4 * 1.3e5 * result.kernel_sum_error / 1.3 + 700
    )


def test_cutout_without_objects_is_an_error():
    with pytest.raises(AlgorithmError, match="neither image has an object"):
        subtract(*pair(7, [], []))


def test_discs_of_pixels_and_of_the_sky():
    science = pair(8, [], [])[1]
    x, y, radius = excluded_discs(["3,4,2.5", "10.5,20,1"], science)
    assert (x.tolist(), y.tolist(), radius.tolist()) == ([3.0, 10.5], [4.0, 20.0], [2.5, 1.0])
    inside = discs(Box(0, 0, N, N), np.array([3.0, -1.0]), np.array([4.0, 100.0]), np.array([2.0, 5.0]))
    assert inside.sum() == 13  # pixels within two of the centre
    assert inside[4, 5]
    with pytest.raises(InputError, match="no WCS"):
        excluded_discs(['10,20,3"'], science)
    for wrong in ("1,2", "a,b,c", "1,2,-3", "nan,1,1"):
        with pytest.raises(ConfigError, match="is no disc"):
            excluded_discs([wrong], science)


def test_supernova_2020oi_has_the_magnitude_of_the_survey(shared_data):
    path = next(shared_data("diff_ztf_stamps").glob("ZTF20aaelulu*.fits.gz"))
    with gzip.open(path) as file, fits.open(file) as hdus:
        images = [hdus[name].data.astype("f4") for name in ("TEMPLATE", "SCIENCE", "DIFFERENCE")]
        zero = float(hdus[0].header["MAGZPSCI"])
    survey = images.pop()
    template, science = (
        Exposure(i, Mask(np.zeros(i.shape, np.int32)), np.zeros(i.shape, "f4"), unit="adu") for i in images
    )
    result = DifferenceFrameTask(DifferenceFrameConfig(gain=6.2)).run(template=template, science=science)
    assert result.quality.good, result.quality.verdict
    v, u = np.mgrid[:N, :N]
    near = np.hypot(u - 31, v - 31) <= 5
    ours, theirs = (zero - 2.5 * np.log10(image[near].sum()) for image in (result.difference.image, survey))
    assert ours == pytest.approx(theirs, abs=0.1)
    assert len(result.catalog) == 1
    assert np.hypot(result.catalog["x"][0] - 31, result.catalog["y"][0] - 31) < 1
    assert zero - 2.5 * np.log10(result.catalog["psf_flux"][0]) == pytest.approx(14.92, abs=0.1)  # published
