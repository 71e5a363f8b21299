"""Pre-convolution, dual convolution and the proper difference: unit noise, unbiased flux, both directions."""

from __future__ import annotations

import numpy as np
import pytest

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.differencing.proper import common_blur, psf_covariance
from starmill.differencing.score import width_of_sky
from starmill.tasks.difference import DifferenceConfig, DifferenceTask
from starmill.tasks.difference_frame import DifferenceFrameConfig, DifferenceFrameTask

SIZE = 640


def elliptical(image, x, y, flux, widths):
    """Add elliptical Gaussians with their axes along x and y."""
    reach = int(np.ceil(6 * max(widths)))
    for a, b, f in zip(x, y, flux, strict=True):
        i, j = round(a), round(b)
        rows, columns = np.mgrid[
            max(j - reach, 0) : min(j + reach + 1, SIZE), max(i - reach, 0) : min(i + reach + 1, SIZE)
        ]
        profile = np.exp(-(((columns - a) / widths[0]) ** 2) / 2 - ((rows - b) / widths[1]) ** 2 / 2)
        image[rows[0, 0] : rows[-1, 0] + 1, columns[0, 0] : columns[0, -1] + 1] += (
            f * profile / (2 * np.pi * widths[0] * widths[1])
        )


def make(widths_template, widths_science, *, noise=(4.0, 5.0), ratio=0.8, seed=1):
    """Return two exposures with uniform noise, the places of new sources and their flux."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SIZE, (2, 260))
    flux = np.minimum(3000 * (1 - rng.random(260)) ** -0.9, 2e5)
    new_x, new_y = rng.uniform(40, SIZE - 40, (2, 60))
    apart = np.hypot(new_x[:, None] - x, new_y[:, None] - y).min(axis=1) > 12
    new_x, new_y = new_x[apart], new_y[apart]
    exposures = []
    for widths, sigma, factor, new in (
        (widths_template, noise[0], 1.0, 0.0),
        (widths_science, noise[1], ratio, 4000.0),
    ):
        image = np.full((SIZE, SIZE), 100.0)
        elliptical(image, x, y, factor * flux, widths)
        elliptical(image, new_x, new_y, np.full(len(new_x), new), widths)
        variance = sigma**2 + np.maximum(image - 100, 0) / 5
        image += rng.normal(size=image.shape) * np.sqrt(variance)
        exposures.append(
            Exposure(
                image.astype("f4"), Mask(np.zeros(image.shape, np.int32)), variance.astype("f4"), unit="adu"
            )
        )
    empty = np.ones((SIZE, SIZE), bool)
    for a, b in zip(np.append(x, new_x), np.append(y, new_y), strict=True):
        i, j = round(a), round(b)
        empty[max(j - 18, 0) : j + 19, max(i - 18, 0) : i + 19] = False
    return *exposures, (new_x, new_y), empty


CASES = {
    "template sharper": ((1.4, 1.4), (1.9, 1.9), "template"),
    "template broader": ((2.0, 2.0), (1.4, 1.4), "template"),
    "science convolved": ((2.0, 2.0), (1.5, 1.5), "science"),
    "neither contains the other": ((1.4, 2.0), (2.0, 1.4), "template"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("product", ["preconvolved", "dual", "proper"])
def test_score_has_unit_width_and_flux_is_unbiased(product, case):
    template_widths, science_widths, direction = CASES[case]
    if product == "proper" and case == "template broader":
        pytest.skip("a proper difference needs the kernel that sharpens the template")
    template, science, (x, y), empty = make(template_widths, science_widths)
    config = DifferenceConfig(
        product=product, direction=direction, kernel_order=0, sum_order=0, background_order=0, wings=False, fit_error_modes=0
    )  # fmt: skip
    result = DifferenceTask(config).run(template=template, science=science)
    empty = empty & ~result.difference.mask.any("NO_DATA")
    score = result.score.image[empty]
    assert score.std() == pytest.approx(1, abs=0.02)
    pulls = result.difference.image[empty] / np.sqrt(result.difference.variance[empty])
    assert pulls.std() == pytest.approx(1, abs=0.03)
    i, j = np.rint(x).astype(int), np.rint(y).astype(int)
    found = np.array([result.flux[b - 1 : b + 2, a - 1 : a + 2].max() for a, b in zip(i, j, strict=True)])
    peak = np.array(
        [result.score.image[b - 1 : b + 2, a - 1 : a + 2].max() for a, b in zip(i, j, strict=True)]
    )
    # the peak of a source between pixels is lower by up to 6 per cent
    assert np.median(found) == pytest.approx(4000, rel=0.05)
    assert (peak > 5).all()
    assert result.kernel_sum == pytest.approx(0.8 if direction == "template" else 1.25, rel=0.01)


@pytest.mark.parametrize(
    ("case", "wanted"), [("template sharper", "difference"), ("neither contains the other", "dual")]
)
def test_the_target_is_blurred_too_when_neither_image_contains_the_other(case, wanted):
    template_widths, science_widths, _ = CASES[case]
    template, science, _, _ = make(template_widths, science_widths)
    common = {"kernel_order": 0, "sum_order": 0, "background_order": 0, "wings": False, "fit_error_modes": 0}
    assert (
        DifferenceTask(DifferenceConfig(**common)).run(template=template, science=science).product == wanted
    )
    forced = DifferenceConfig(direction="template", **common)
    assert DifferenceTask(forced).run(template=template, science=science).product == "difference"


def test_proper_score_is_not_below_the_plain_one():
    template, science, (x, y), _ = make((1.4, 1.4), (1.9, 1.9), noise=(6.0, 4.0))
    common = {"kernel_order": 0, "sum_order": 0, "background_order": 0, "wings": False, "fit_error_modes": 0}
    scores = []
    for product in ("difference", "proper"):
        result = DifferenceTask(DifferenceConfig(product=product, decorrelate="never", **common)).run(
            template=template, science=science
        )
        at = np.rint(y).astype(int), np.rint(x).astype(int)
        scores.append(result.score.image[at])
    assert np.median(scores[1] / scores[0]) > 0.99


def test_moments_and_common_blur():
    y, x = np.mgrid[-20:21, -20:21]
    psf = np.exp(-((x / 1.4) ** 2) / 2 - (y / 2.0) ** 2 / 2)
    np.testing.assert_allclose(psf_covariance(psf), [[1.96, 0], [0, 4.0]], atol=0.02)
    other = np.exp(-((x / 2.0) ** 2) / 2 - (y / 1.4) ** 2 / 2)
    blur = common_blur(psf, other, margin=0.25)
    assert psf_covariance(blur)[0, 0] == pytest.approx(4 - 1.96 + 0.25, abs=0.05)
    broad = np.exp(-(x**2 + y**2) / (2 * 3.0**2))
    assert common_blur(psf, broad) is None


@pytest.mark.parametrize("product", ["preconvolved", "dual"])
def test_new_sources_keep_no_shape_flags_in_blurred_products(product):
    template, science, (x, y), _ = make((1.4, 1.4), (1.9, 1.9))
    config = DifferenceFrameConfig().override(
        {
            "difference.product": product,
            "difference.kernel_order": 0,
            "difference.sum_order": 0,
            "cosmic_rays": "never",
        }
    )
    catalog = DifferenceFrameTask(config).run(template=template, science=science).catalog
    near = np.hypot(catalog["x"][:, None] - x, catalog["y"][:, None] - y).min(axis=1) < 1.5
    assert near.sum() > 0.9 * len(x)
    for flag in ("sharp_flag", "extended_flag"):
        assert catalog[flag][near].mean() <= 0.06  # as in plain differences


def test_width_of_sky_is_that_of_the_noise_among_sources():
    rng = np.random.default_rng(4)
    score = rng.normal(scale=1.3, size=40000)
    assert width_of_sky(score) == pytest.approx(1.3, rel=0.015)
    score[:4000] = rng.normal(scale=30, size=4000)
    assert width_of_sky(score) == pytest.approx(1.3, rel=0.03)
    assert width_of_sky(np.zeros(100)) == 0
    assert width_of_sky(np.zeros(0)) == 1
