"""Slow twins of starmill.kernels.annuli."""

import numpy as np


def rho(shape, x, y, inverse):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    dx, dy = xx - x, yy - y
    return np.sqrt(inverse[0] * dx**2 + inverse[1] * dy**2 + 2 * inverse[2] * dx * dy)


def first_moment_radius(image, variance, x, y, inverse, limit):
    """Mean elliptical radius of the light and its variance."""
    r = rho(image.shape, x, y, inverse)
    inside = r <= limit
    flux = image[inside].sum()
    radius = (r * image)[inside].sum() / flux
    return radius, (variance * ((r - radius) / flux) ** 2)[inside].sum()


def annulus_statistics(image, mask, x, y, inner, outer, bad_bits, n_sigma, n_iterations):
    r = rho(image.shape, x, y, (1, 1, 0))
    values = image[(r >= inner) & (r <= outer) & ((mask & bad_bits) == 0)].astype(float)
    centre, sigma = np.median(values), 0.741301109 * np.subtract(*np.percentile(values, [75, 25]))
    for _ in range(n_iterations):
        kept = values[np.abs(values - centre) <= n_sigma * sigma]
        centre, sigma = kept.mean(), kept.std(ddof=1)
    return centre, sigma, len(values)


def median_variance(variance, mask, x, y, inverse, limit, bad_bits):
    """Median and its error from the interquartile range."""
    values = variance[(rho(variance.shape, x, y, inverse) <= limit) & ((mask & bad_bits) == 0)].astype(float)
    scatter = 0.741301109 * np.subtract(*np.percentile(values, [75, 25]))
    return np.median(values), np.sqrt(np.pi / 2) * scatter / np.sqrt(len(values))


def weighted_flux(image, x, y, inverse, limit):
    r = rho(image.shape, x, y, inverse)
    return (np.exp(-(r**2) / 2) * image)[r <= limit].sum()


def blendedness_variances(child, parent, own, child_variance, parent_variance, x, y, inverse, limit):
    """Variance of the weighted child, covariance with the weighted parent, variance of this."""
    r = rho(child.shape, x, y, inverse)
    w2 = np.where(r <= limit, np.exp(-(r**2)), 0)
    same = child == parent
    share = np.where(same, 1, np.where(own, np.clip(child / np.where(parent == 0, np.inf, parent), 0, 1), 0))
    apart = np.where(same | own, 0, child_variance)
    return (
        (w2 * (share**2 * parent_variance + apart)).sum(),
        (w2 * share * parent_variance).sum(),
        (w2 * parent_variance).sum(),
    )
