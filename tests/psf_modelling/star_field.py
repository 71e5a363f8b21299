"""Stars drawn with a known PSF, for the tests of this folder."""

from dataclasses import dataclass

import numpy as np

from starmill.datamodel.geometry import Box
from starmill.psf_modelling.candidates import extract_star_stamps


@dataclass
class StarField:
    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    box: Box
    fwhm: float
    gradient: float

    def true_fwhm(self, x, y):
        return self.fwhm * (1 + self.gradient * ((x / self.box.width - 0.5) + (y / self.box.height - 0.5)))

    def true_kernels(self, x, y, size=41):
        images = np.array([
            moffat(size, self.true_fwhm(a, b), 0.0, 0.0) for a, b in zip(np.atleast_1d(x), np.atleast_1d(y), strict=True)
        ])  # fmt: skip
        return images / images.sum(axis=(1, 2), keepdims=True)

    def stamps(self, size=41, **options):
        return extract_star_stamps(self.image, self.variance, self.mask, self.x, self.y, size=size, **options)


def moffat(size, fwhm, dx, dy, beta=3.5, e1=0.03, e2=-0.01):
    half = size // 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    u, v = xx - dx, yy - dy
    a = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    r2 = (u**2 * (1 - e1) + v**2 * (1 + e1) - 2 * e2 * u * v) / a**2 / np.sqrt(1 - e1**2 - e2**2)
    return (beta - 1) / (np.pi * a**2) * (1 + r2) ** -beta


def star_field(n_side=12, pixels=1024, flux=1e5, fwhm=3.6, gradient=0.06, noise=True, seed=0, sky=300.0):
    """A grid of stars with random sub-pixel positions; ``flux`` may be a function of (generator, n)."""
    rng = np.random.default_rng(seed)
    nodes = np.linspace(40, pixels - 40, n_side)
    x, y = (a.ravel() + rng.uniform(-0.5, 0.5, n_side**2) for a in np.meshgrid(nodes, nodes))
    fluxes = flux(rng, len(x)) if callable(flux) else np.full(len(x), float(flux))
    field = StarField(
        np.zeros((pixels, pixels)), None, np.zeros((pixels, pixels), np.int32), x, y, fluxes,
        Box(0, 0, pixels, pixels), fwhm, gradient,
    )  # fmt: skip
    for a, b, f in zip(x, y, fluxes, strict=True):
        ix, iy = int(np.floor(a + 0.5)), int(np.floor(b + 0.5))
        field.image[iy - 30 : iy + 31, ix - 30 : ix + 31] += f * moffat(
            61, field.true_fwhm(a, b), a - ix, b - iy
        )
    field.variance = (field.image + sky).astype(np.float32)
    if noise:
        field.image = rng.poisson(field.image + sky) - sky
    field.image = field.image.astype(np.float32)
    return field
