"""A small template/science pair with known kernel, photometric ratio and transients."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask


def add_gaussians(image, x, y, flux, sigma):
    """Add round Gaussian stars to an image."""
    reach = int(np.ceil(6 * sigma))
    for a, b, f in zip(x, y, flux, strict=True):
        i, j = round(a), round(b)
        top, left = max(j - reach, 0), max(i - reach, 0)
        rows, columns = np.mgrid[
            top : min(j + reach + 1, image.shape[0]), left : min(i + reach + 1, image.shape[1])
        ]
        if rows.size:
            profile = np.exp(-((columns - a) ** 2 + (rows - b) ** 2) / (2 * sigma**2)) / (
                2 * np.pi * sigma**2
            )
            image[top : top + rows.shape[0], left : left + rows.shape[1]] += f * profile


def make_pair(
    n=320,
    *,
    sigma_template=1.3,
    sigma_science=1.8,
    ratio=0.8,
    seed=3,
    n_stars=150,
    gain=(8.0, 1.5),
    sky=(200.0, 300.0),
):
    """Return template and science exposures and the truth."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, n, (2, n_stars))
    flux = 1500 * (1 - rng.random(n_stars)) ** -0.9
    flux = np.minimum(flux, 3e5)
    template, science = np.full((n, n), sky[0]), np.full((n, n), sky[1])
    science += 8 * np.linspace(-1, 1, n)[:, None] ** 2
    add_gaussians(template, x, y, flux, sigma_template)
    add_gaussians(science, x + 0.2, y - 0.1, ratio * flux, sigma_science)
    new_x, new_y = rng.uniform(40, n - 40, (2, 6))
    new_flux = np.full(6, 3000.0)
    add_gaussians(science, new_x, new_y, new_flux, sigma_science)
    exposures = []
    for image, g in zip((template, science), gain, strict=True):
        variance = image / g + 4.0
        noisy = image + rng.normal(size=image.shape) * np.sqrt(variance)
        exposures.append(
            Exposure(noisy.astype("f4"), Mask(np.zeros((n, n), np.int32)), variance.astype("f4"), unit="adu")
        )
    return SimpleNamespace(
        template=exposures[0],
        science=exposures[1],
        ratio=ratio,
        x=x,
        y=y,
        flux=flux,
        new_x=new_x,
        new_y=new_y,
        new_flux=new_flux,
    )


@pytest.fixture(scope="session")
def pair():
    return make_pair()
