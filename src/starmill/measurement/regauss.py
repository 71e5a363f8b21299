"""Shapes of galaxies corrected for the PSF by re-Gaussianisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from starmill.datamodel.catalog import Column
from starmill.kernels.moments import centred_moments
from starmill.measurement.context import BLOCK, MeasurementContext
from starmill.measurement.plugin import ORDER_SHAPE, Plugin, error_from, register
from starmill.measurement.shape import PARTS, gaussian_errors, usable_shapes

Float = NDArray[np.float64]


@register
@dataclass(frozen=True)
class RegaussShape(Plugin):
    """Ellipticity of a galaxy before the PSF, by the re-Gaussianisation of Hirata & Seljak.

    The PSF is a Gaussian plus a small residual. The residual, convolved with a Gaussian guess of the galaxy, is
    subtracted from the image; the moments of what is left are corrected for a Gaussian PSF, with the fourth
    moment of the galaxy telling how far it is from a Gaussian itself.

    Parameters
    ----------
    stamp_size : int
        Side of the stamps, pixels; sources with a sigma above a quarter of it fail.
    max_iterations : int

    References
    ----------
    Hirata & Seljak 2003, MNRAS 343, 459, section 2.4; Bernstein & Jarvis 2002, AJ 123, 583, appendix C.
    """

    name: ClassVar[str] = "regauss"
    order: ClassVar[float] = ORDER_SHAPE + 0.5
    needs_psf: ClassVar[bool] = True

    stamp_size: int = 47
    max_iterations: int = 100

    def columns(self) -> list[Column]:
        return [
            Column("regauss_e1", "f8", "", "ellipticity (a2 - b2) / (a2 + b2) cos(2 theta), PSF removed"),
            Column("regauss_e2", "f8", "", "ellipticity (a2 - b2) / (a2 + b2) sin(2 theta), PSF removed"),
            Column("regauss_e1_err", "f8", "", "error of regauss_e1, resolution held fixed"),
            Column("regauss_e2_err", "f8", "", "error of regauss_e2, resolution held fixed"),
            Column("regauss_resolution", "f8", "", "1 for a well resolved source, 0 for a point source"),
            Column("regauss_resolution_err", "f8", "", "error of regauss_resolution, of a Gaussian source"),
            *(Column(f"hsm_{p}", "f8", "pixel2", f"adaptive moment {p} with a free centre") for p in PARTS),
            *(Column(f"hsm_{p}_err", "f4", "pixel2", f"error of hsm_{p}") for p in PARTS),
            Column("regauss_flag", "bool", "", "no PSF-corrected shape"),
            Column("regauss_flag_unresolved", "bool", "", "the source is not larger than the PSF"),
            Column("regauss_flag_no_moments", "bool", "", "no adaptive moments of source or PSF"),
            Column("regauss_flag_off_image", "bool", "", "the centroid is not inside the image"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        n = context.n
        shape, noise = usable_shapes(context)[0], self._sky_variance(context)
        values = {column.name: column.blank(n) for column in self.columns()}
        x, y = context.safe_position()
        for rows, stamps, kernels in self._blocks(context):
            psf, bad_psf = self._psf_moments(kernels)
            cx, cy = x[rows] - stamps.x0, y[rows] - stamps.y0
            found, bad = centred_moments(stamps.image, cx, cy, shape[rows], self.max_iterations)
            corrected = self._subtract_residual(stamps.image, kernels, psf, found, bad)
            again, bad_again = centred_moments(
                corrected, found[:, 4], found[:, 5], found[:, :3], self.max_iterations
            )
            e1, e2, resolution = correct_for_gaussian_psf(again, psf)
            peak = stamps.variance[:, self.stamp_size // 2, self.stamp_size // 2]
            outside = ~context.on_image[rows]
            no_moments = bad | bad_again | bad_psf | ~np.isfinite(e1)
            failed = no_moments | outside
            errors = _moment_errors(found, noise, peak)
            for k, part in enumerate(PARTS):
                values[f"hsm_{part}"][rows], values[f"hsm_{part}_err"][rows] = found[:, k], errors[:, k]
            values["regauss_e1"][rows], values["regauss_e2"][rows] = e1, e2
            sigma, resolution_error = _shear_errors(again, resolution, noise, peak)
            values["regauss_e1_err"][rows] = values["regauss_e2_err"][rows] = sigma
            values["regauss_resolution"][rows] = resolution
            values["regauss_resolution_err"][rows] = resolution_error
            values["regauss_flag"][rows] = failed | ~(resolution > 0)
            values["regauss_flag_unresolved"][rows] = ~failed & ~(resolution > 0)
            values["regauss_flag_no_moments"][rows] = no_moments & ~outside
            values["regauss_flag_off_image"][rows] = outside
        return values

    def _blocks(self, context: MeasurementContext) -> Any:
        """Yield rows, stamps and PSF kernels of one block of sources after the other."""
        for stamps, (rows, kernels, index) in zip(
            context.stamps(self.stamp_size), context.psf_kernels(np.inf, BLOCK), strict=True
        ):
            yield rows, stamps, kernels[index] if len(kernels) != len(index) else kernels

    def _sky_variance(self, context: MeasurementContext) -> float:
        """Return the median variance of a sample of the pixels."""
        step = max(1, int(np.sqrt(context.exposure.image.size / 1e5)))
        sample = context.exposure.variance[::step, ::step]
        sample = sample[np.isfinite(sample) & (sample > 0)]
        return float(np.median(sample)) if sample.size else float("nan")

    def _psf_moments(self, kernels: Float) -> tuple[Float, NDArray[np.bool_]]:
        centre = np.full(len(kernels), kernels.shape[1] // 2, np.float64)
        start = np.tile([2.0, 2.0, 0.0], (len(kernels), 1))
        return centred_moments(kernels, centre, centre, start, self.max_iterations)

    def _subtract_residual(
        self, stamps: NDArray[np.float32], kernels: Float, psf: Float, found: Float, bad: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return the stamps without what the non-Gaussian part of the PSF makes of the galaxy."""
        size, psf_size = stamps.shape[1], kernels.shape[1]
        n_fft = fft.next_fast_len(size + psf_size // 2, real=True)
        grid = np.arange(psf_size)
        residual = np.array(kernels)
        with np.errstate(all="ignore"):
            residual -= psf[:, 3, None, None] * _gaussians(grid, psf[:, 4], psf[:, 5], psf[:, :3])
            flux = found[:, 3] / psf[:, 3]
        guess = _positive(found[:, :3] - psf[:, :3], 0.02 * (found[:, 0] + found[:, 1]))
        ky, kx = fft.fftfreq(n_fft)[:, None], fft.rfftfreq(n_fft)[None, :]
        xx, yy, xy = (guess[:, k, None, None] for k in range(3))
        # the kernel is centred on its central pixel, the galaxy on its own centre
        dx = found[:, 4] - psf_size // 2
        dy = found[:, 5] - psf_size // 2
        phase = kx * dx[:, None, None] + ky * dy[:, None, None]
        transfer = np.exp(-2 * np.pi**2 * (xx * kx**2 + yy * ky**2 + 2 * xy * kx * ky) - 2j * np.pi * phase)
        spectrum = fft.rfft2(residual, s=(n_fft, n_fft)) * transfer
        blurred = fft.irfft2(spectrum, s=(n_fft, n_fft))[:, :size, :size] * flux[:, None, None]
        blurred[bad | ~np.isfinite(flux)] = 0
        return (stamps - blurred).astype(np.float32)


def _moment_errors(found: Float, sky: float, peak: Any) -> Float:
    """Return the errors of xx, yy, xy of adaptive moments, (n, 3); arguments as :func:`_shear_errors`."""
    with np.errstate(all="ignore"):
        amplitude = found[:, 3] / (2 * np.pi * np.sqrt(found[:, 0] * found[:, 1] - found[:, 2] ** 2))
    return error_from(gaussian_errors(found[:, :3], amplitude, sky, peak).moments)


def _shear_errors(found: Float, resolution: Float, sky: float, peak: Any) -> tuple[Float, Float]:
    """Return the error of a component of the ellipticity and of the resolution.

    ``found`` is (n, 7) as :func:`~starmill.kernels.moments.centred_moments` gives it, ``sky`` and ``peak`` the variance
    of a pixel of the sky and of the central one. The errors are those of a round Gaussian (see
    :func:`~starmill.measurement.shape.gaussian_errors`): 2 xy / (xx + yy) over the resolution, and the size of the
    source in 1 - size of the PSF / size of the source.
    """
    errors = _moment_errors(found, sky, peak)
    with np.errstate(all="ignore"):
        size = found[:, 0] + found[:, 1]
        covariance = errors[:, 0] ** 2 * (found[:, 2] / found[:, 0]) ** 2
        trace = np.sqrt(errors[:, 0] ** 2 + errors[:, 1] ** 2 + 2 * covariance)
        return 2 * errors[:, 2] / (size * np.abs(resolution)), np.abs(1 - resolution) * trace / size


def _gaussians(grid: NDArray[np.int64], x: Float, y: Float, moments: Float) -> Float:
    """Return normalised Gaussians on a grid, (n, size, size)."""
    xx, yy, xy = (moments[:, k, None, None] for k in range(3))
    dx, dy = grid[None, None, :] - x[:, None, None], grid[None, :, None] - y[:, None, None]
    det = xx * yy - xy**2
    return np.exp(-0.5 * (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / det) / (2 * np.pi * np.sqrt(det))


def _positive(moments: Float, floor: Float) -> Float:
    """Return second moments with both eigenvalues at least ``floor``."""
    xx, yy, xy = moments.T
    half, spread = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    high, low = np.maximum(half + spread, floor), np.maximum(half - spread, floor)
    with np.errstate(all="ignore"):
        cos, sin = np.where(spread > 0, 0.5 * (xx - yy) / spread, 1.0), np.where(spread > 0, xy / spread, 0.0)
    mean, difference = 0.5 * (high + low), 0.5 * (high - low)
    return np.column_stack([mean + difference * cos, mean - difference * cos, difference * sin])


def correct_for_gaussian_psf(source: Float, psf: Float) -> tuple[Float, Float, Float]:
    """Ellipticity before a Gaussian PSF.

    Parameters
    ----------
    source, psf : (n, 7) array
        Moments as :func:`starmill.kernels.moments.centred_moments` gives them.

    Returns
    -------
    e1, e2 : (n,) array
    resolution : (n,) array

    Notes
    -----
    In the frame where the PSF is round the ellipticity of the source is divided by the resolution; the ratio of
    areas in it is the same in all frames. The fourth moment of the source corrects the resolution.
    """
    with np.errstate(all="ignore"):
        size_o, size_p = source[:, 0] + source[:, 1], psf[:, 0] + psf[:, 1]
        eo = np.array([source[:, 0] - source[:, 1], 2 * source[:, 2]]) / size_o
        ep = np.array([psf[:, 0] - psf[:, 1], 2 * psf[:, 2]]) / size_p
        a4 = 0.5 * source[:, 6] - 1
        cosh_o, cosh_p = (1 / np.sqrt(1 - (e**2).sum(0)) for e in (eo, ep))
        area_ratio = size_p / size_o * cosh_o / cosh_p
        reduced = _add_distortions(eo, -ep)
        cosh_r = 1 / np.sqrt(1 - (reduced**2).sum(0))
        resolution = 1 - area_ratio * (1 + a4) / (1 - a4) / cosh_r
        e = _add_distortions(reduced / resolution, ep)
    return e[0], e[1], resolution


def _add_distortions(a: Float, b: Float) -> Float:
    """Return the ellipticity of an object of ellipticity ``a`` after the shear that makes a circle ``b``."""
    b2 = (b**2).sum(0)
    dot = (a * b).sum(0)
    factor = np.where(b2 > 0, (1 - np.sqrt(np.maximum(1 - b2, 0))) / np.where(b2 > 0, b2, 1), 0.5)
    cross = np.array([a[1] * b[0] - a[0] * b[1]])[0]
    return np.array(
        [
            (a[0] + b[0] - b[1] * factor * cross) / (1 + dot),
            (a[1] + b[1] + b[0] * factor * cross) / (1 + dot),
        ]
    )
