"""A small simulator: stars on a noisy sky, with tracks of cosmic rays."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Frame:
    """Image with sky subtracted, variance (of the image without tracks), tracks, and the stars."""

    image: np.ndarray
    variance: np.ndarray
    track_charge: np.ndarray
    track_number: np.ndarray
    star_x: np.ndarray
    star_y: np.ndarray
    star_flux: np.ndarray
    without_tracks: np.ndarray


def gaussian_psf(sigma, size=15):
    half = size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    image = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return image / image.sum()


def moffat_stamp(dx, dy, fwhm, beta=3.5, half=20):
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    a = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    stamp = (1 + ((x - dx) ** 2 + (y - dy) ** 2) / a**2) ** -beta
    return stamp * (beta - 1) / (np.pi * a**2)


def make_frame(shape=(700, 900), n_stars=1200, n_tracks=150, fwhm=3.6, sky=300.0, read_noise=5.0, seed=1):
    """Stars with dN/dF ~ F^-1.8 and straight tracks of constant charge."""
    rng = np.random.default_rng(seed)
    half = 20
    scene = np.zeros((shape[0] + 2 * half, shape[1] + 2 * half))
    x, y = rng.uniform(0, shape[1] - 1, n_stars), rng.uniform(0, shape[0] - 1, n_stars)
    flux = np.minimum(1500 * (1 - rng.random(n_stars)) ** (-1 / 0.8), 6e5)
    for k in range(n_stars):
        ix, iy = round(x[k]), round(y[k])
        scene[iy : iy + 2 * half + 1, ix : ix + 2 * half + 1] += flux[k] * moffat_stamp(
            x[k] - ix, y[k] - iy, fwhm
        )
    scene = scene[half:-half, half:-half]
    charge = np.zeros(shape)
    number = np.zeros(shape, int)
    for k in range(1, n_tracks + 1):
        cx, cy = rng.uniform(5, shape[1] - 6), rng.uniform(5, shape[0] - 6)
        angle, length = rng.uniform(0, np.pi), rng.gamma(2, 4)
        t = np.arange(0, max(length, 0.6), 0.5)
        px = (cx + t * np.cos(angle)).astype(int).clip(0, shape[1] - 1)
        py = (cy + t * np.sin(angle)).astype(int).clip(0, shape[0] - 1)
        charge[py, px] = rng.lognormal(7.2, 0.6)
        number[py, px] = k
    variance = scene + sky + read_noise**2
    noisy = rng.poisson(scene + sky) + rng.normal(0, read_noise, shape) - sky
    return Frame(
        (noisy + charge).astype(np.float32), variance.astype(np.float32), charge, number, x, y, flux,
        noisy.astype(np.float32),
    )  # fmt: skip


def tracks_found(frame, flag, n_sigma):
    """Number of tracks whose pixels all exceed ``n_sigma`` and of these the number that is touched by ``flag``."""
    total = found = 0
    for k in range(1, frame.track_number.max() + 1):
        pixels = frame.track_number == k
        if not pixels.any() or (frame.track_charge[pixels] < n_sigma * np.sqrt(frame.variance[pixels])).all():
            continue
        total += 1
        found += flag[pixels].any()
    return total, found


def stars_eaten(frame, flag, least_snr=50, reach=1):
    """Stars above a signal-to-noise ratio, and those of them that lose a core pixel which no track has hit."""
    hit = frame.track_charge > 0
    total = eaten = 0
    for x, y, flux in zip(frame.star_x, frame.star_y, frame.star_flux, strict=True):
        if flux / np.sqrt(flux + 4 * np.pi * 1.6**2 * 325) < least_snr:
            continue
        ix, iy = round(x), round(y)
        near = (slice(max(iy - 3, 0), iy + 4), slice(max(ix - 3, 0), ix + 4))
        core = (slice(max(iy - reach, 0), iy + reach + 1), slice(max(ix - reach, 0), ix + reach + 1))
        if hit[near].any():
            continue
        total += 1
        eaten += flag[core].any()
    return total, eaten
