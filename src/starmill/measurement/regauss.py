"""Shapes of galaxies corrected for the PSF by re-Gaussianisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from starmill.datamodel.catalog import Column
from starmill.kernels.moment_noise import moment_noise
from starmill.kernels.moments import centred_moments
from starmill.measurement.context import BLOCK, MeasurementContext
from starmill.measurement.plugin import ORDER_SHAPE, Plugin, error_from, register
from starmill.measurement.shape import PARTS, usable_shapes

Float = NDArray[np.float64]
FOURTH = np.array([[0, 2, 1], [2, 4, 3], [1, 3, 2]])  # of the products uu, vv, uv with each other


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
            Column("regauss_e1_err", "f8", "", "error of regauss_e1"),
            Column("regauss_e2_err", "f8", "", "error of regauss_e2"),
            Column("regauss_resolution", "f8", "", "1 for a well resolved source, 0 for a point source"),
            Column("regauss_resolution_err", "f8", "", "error of regauss_resolution"),
            *(Column(f"hsm_{p}", "f8", "pixel2", f"adaptive moment {p} with a free centre") for p in PARTS),
            *(Column(f"hsm_{p}_err", "f4", "pixel2", f"error of hsm_{p}") for p in PARTS),
            Column("regauss_flag", "bool", "", "no PSF-corrected shape"),
            Column("regauss_flag_unresolved", "bool", "", "the source is not larger than the PSF"),
            Column("regauss_flag_no_moments", "bool", "", "no adaptive moments of source or PSF"),
            Column("regauss_flag_off_image", "bool", "", "the centroid is not inside the image"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        n = context.n
        shape = usable_shapes(context)[0]
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
            outside = ~context.on_image[rows]
            no_moments = bad | bad_again | bad_psf | ~np.isfinite(e1)
            failed = no_moments | outside
            covariances = adaptive_covariances(stamps.image, stamps.variance, found)
            for k, part in enumerate(PARTS):
                values[f"hsm_{part}"][rows] = found[:, k]
                values[f"hsm_{part}_err"][rows] = error_from(covariances[:, k, k])
            errors = _shear_errors(again, psf, adaptive_covariances(corrected, stamps.variance, again))
            results = {"e1": e1, "e2": e2, "resolution": resolution}
            for (name, value), error in zip(results.items(), errors, strict=True):
                values[f"regauss_{name}"][rows], values[f"regauss_{name}_err"][rows] = value, error
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


def adaptive_covariances(images: NDArray[np.float32], variance: NDArray[np.float32], found: Float) -> Float:
    """Covariances of adaptive moments with a free centre and of the fourth moment.

    Parameters
    ----------
    images, variance : (n, size, size) array
    found : (n, 7) array
        Of these images, as :func:`~starmill.kernels.moments.centred_moments` gives it.

    Returns
    -------
    covariances : (n, 4, 4) array
        Of xx, yy, xy (pixels**2) and the weighted mean of rho**4; NaN where there is none.

    Notes
    -----
    With W = L L' the moments, u = L^-1 d, w = exp(-u u / 2) and < > the mean with the weight w I, the moments solve
    <u u'> = 1 / 2, the fourth moment is q = <(u u)**2>. Noise n of the pixels gives these means the errors
    sum(w n g) / sum(w I), g = (u u' - 1/2, (u u)**2 - q); a change L (1 + E) L' of W changes them by moments of the
    fourth and the sixth order, for which those of the source are taken, not of a Gaussian: the size of a source
    with wings, q > 2, is uncertain by 1 / (3 - q) times what that of a Gaussian is. Third moments are left out: the
    error of the centre reaches second moments of a lopsided source only.
    """
    n = len(images)
    xx, yy, xy = found[:, :3].T
    with np.errstate(all="ignore"):
        a = np.sqrt(xx)
        b = xy / a
        c = np.sqrt(yy - b**2)
    means, scatter = moment_noise(images, variance, found, np.column_stack([a, b, c]))
    fourth, sixth = means[:, FOURTH], means[:, 5:]
    centre, twice = np.array([0.5, 0.5, 0.0]), np.array([1.0, 1.0, 2.0])  # xy is twice in the matrix
    change = np.zeros((n, 4, 4))
    change[:, :3, :3] = 0.5 * fourth * twice - 0.5 * np.outer(centre, centre) - 0.5 * np.eye(3)
    with_weight = 0.5 * (sixth - found[:, 6, None] * centre)
    change[:, 3, :3] = twice * (with_weight - 2 * (fourth[:, 0] + fourth[:, 1]))
    change[:, 3, 3] = -1
    to_moments = np.zeros((n, 4, 4))
    to_moments[:, 0, 0], to_moments[:, 3, 3] = a**2, 1
    to_moments[:, 1, :3] = np.column_stack([b**2, c**2, 2 * b * c])
    to_moments[:, 2, 0], to_moments[:, 2, 2] = a * b, a * c
    good = np.isfinite(change).all((1, 2)) & np.isfinite(to_moments).all((1, 2))
    good[good] = np.linalg.det(change[good]) != 0
    covariances = np.full((n, 4, 4), np.nan)
    effect = np.matmul(to_moments[good], np.linalg.inv(change[good]))
    covariances[good] = np.matmul(np.matmul(effect, scatter[good]), effect.transpose(0, 2, 1))
    return covariances


def _shear_errors(source: Float, psf: Float, covariances: Float) -> Float:
    """Return the errors of e1, e2 and of the resolution, (3, n): how small changes of the moments change them."""
    steps = np.full((len(source), 4), 1e-5)
    steps[:, :3] *= (source[:, 0] + source[:, 1])[:, None]
    slopes = np.empty((len(source), 3, 4))
    for k, column in enumerate((0, 1, 2, 6)):
        sides = []
        for sign in (1, -1):
            moved = source.copy()
            moved[:, column] += sign * steps[:, k]
            sides.append(np.stack(correct_for_gaussian_psf(moved, psf)))
        with np.errstate(all="ignore"):
            slopes[:, :, k] = ((sides[0] - sides[1]) / (2 * steps[:, k])).T
    return error_from(np.einsum("nik,nkl,nil->in", slopes, covariances, slopes))


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
