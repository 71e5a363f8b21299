"""Star probability on simulated stars and galaxies."""

import numpy as np
import pytest

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import GaussianPsf
from starmill.measurement.extendedness import StarProbability
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from tests.measurement.scenes import catalog_at

PLUGINS = ["centroid", "shape", "psf_flux", "star_probability"]


def stars_and_galaxies(snr, seed, side=24, spacing=33, sigma=1.6):
    """Round Gaussian stars and elongated Gaussian galaxies with a size of their own; positions and which are stars."""
    rng = np.random.default_rng(seed)
    n = side * side
    is_star = rng.random(n) < 0.5
    own = np.where(is_star, 0.0, sigma * rng.gamma(3.0, 0.4, n))
    e = np.where(is_star, 0.0, rng.rayleigh(0.3, n)).clip(0, 0.7)
    angle = rng.uniform(0, np.pi, n)
    flux = snr * 18 * np.sqrt(4 * np.pi) * sigma
    image = rng.normal(0, 18, (side * spacing, side * spacing))
    yy, xx = np.mgrid[:spacing, :spacing] - spacing // 2
    x, y = (g.ravel().astype(float) for g in np.meshgrid(np.arange(side), np.arange(side)))
    x, y = x * spacing + spacing // 2, y * spacing + spacing // 2
    dx, dy = rng.uniform(-0.5, 0.5, (2, n))
    for k in range(n):
        cxx = sigma**2 + own[k] ** 2 * (1 + e[k] * np.cos(2 * angle[k]))
        cyy = sigma**2 + own[k] ** 2 * (1 - e[k] * np.cos(2 * angle[k]))
        cxy = own[k] ** 2 * e[k] * np.sin(2 * angle[k])
        det = cxx * cyy - cxy**2
        u, v = xx - dx[k], yy - dy[k]
        light = np.exp(-0.5 * (cyy * u**2 - 2 * cxy * u * v + cxx * v**2) / det) / (2 * np.pi * np.sqrt(det))
        j, i = int(y[k]) - spacing // 2, int(x[k]) - spacing // 2
        image[j : j + spacing, i : i + spacing] += flux * light
    exposure = Exposure(image.astype(np.float32), variance=np.full(image.shape, 324, np.float32))
    exposure.psf = GaussianPsf(sigma, 25)
    return exposure, x + dx, y + dy, is_star


def area_under_curve(score, is_star):
    """Chance that a random star has a higher score than a random galaxy."""
    rank = np.argsort(np.argsort(score)) + 1.0
    n_star, n_galaxy = is_star.sum(), (~is_star).sum()
    return (rank[is_star].sum() - n_star * (n_star + 1) / 2) / (n_star * n_galaxy)


@pytest.mark.parametrize("snr", [20, 40])
def test_stars_are_told_from_galaxies_and_the_probability_is_one(snr):
    exposure, x, y, is_star = stars_and_galaxies(snr, seed=snr)
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=PLUGINS))
    found = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    p = found["star_probability"]
    assert not found["star_probability_flag"].any()
    size = found["shape_xx"] + found["shape_yy"]
    assert area_under_curve(p, is_star) > area_under_curve(-size, is_star) - 0.002
    assert area_under_curve(p, is_star) > (0.95 if snr == 20 else 0.975)
    sure = p > 0.8
    assert is_star[sure].mean() > 0.9  # a probability of 0.8 to 1 is right in 9 of 10 cases
    assert is_star[p < 0.1].mean() < 0.1


def test_concentration_decides_without_moments():
    exposure, x, y, is_star = stars_and_galaxies(60, seed=3, side=12)
    names = ["centroid", "psf_flux", "star_probability"]
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=names))
    found = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog
    assert area_under_curve(found["star_probability"], is_star) > 0.95


def test_odds_have_no_overflow_and_fall_with_size():
    plugin = StarProbability()
    excess = np.array([-0.9, 0.0, 0.05, 0.5, 50.0, 5000.0])
    odds = plugin._shape_odds(excess, np.zeros(6), np.full(6, 1e-4))
    assert np.isfinite(odds).all()
    assert (np.diff(odds[1:]) < 0).all()
    assert odds[0] > 0  # more compact than the PSF: no galaxy


def test_undersampled_stars_are_stars_wherever_they_lie_in_the_pixel():
    """Their moments depend on the place in the pixel; the light in a wide over that in a narrow window does not."""
    exposure, x, y, is_star = stars_and_galaxies(200, seed=3, spacing=25, sigma=0.75)
    task = SingleFrameMeasurementTask(SingleFrameMeasurementConfig(plugins=PLUGINS))
    p = task.run(exposure=exposure, catalog=catalog_at(x, y)).catalog["star_probability"]
    assert (p[is_star] > 0.5).mean() > 0.9
    assert area_under_curve(p, is_star) > 0.95
