"""A joint model of a blend in one or several bands.

The scene is a sum of sources with one spectrum and one morphology each, seen through the point-spread function of
every band (Melchior et al. 2018, Astronomy and Computing 24, 129)::

    M_b = D_b * sum_k a_bk X_k,    minimise  1/2 sum_b w_b (I_b - M_b)^2,    a >= 0, X >= 0, X declines outwards

Morphologies live in a frame whose point-spread function is a narrow Gaussian; ``D_b`` turns that into the one of band
b. All sources share D_b, so that one iteration costs two Fourier transforms per band whatever their number.

Notes
-----
Morphologies carry the flux and spectra have unit norm, which gives faint and bright sources the same step; they are
moved by accelerated proximal gradient steps (Beck & Teboulle 2009, SIAM J. Imaging Sci. 2, 183), spectra are solved for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from starmill.errors import AlgorithmError, InputError
from starmill.kernels.monotonic import limit_by_inner

__all__ = ["JointFit", "JointModelRules", "difference_kernels", "fit_joint_model"]

Float = NDArray[np.float64]
SMALL = 1e-3  # Fourier amplitudes of the model PSF below it say nothing about the ratio of two PSFs


@dataclass(frozen=True)
class JointModelRules:
    """The choices of the joint model.

    Attributes
    ----------
    model_sigma : float, pixel
        Of the Gaussian PSF of the frame of the morphologies; must be narrower than the PSFs.
    max_iterations, min_iterations : int
    tolerance : float
        Relative change of chi squared over a round of five steps at which the fit ends.
    noise_threshold : float
        Pixels of a morphology below this multiple of the noise are set to zero.
    monotonic : bool
        Morphologies decline outwards from the peak.
    start_iterations : int
        Richardson-Lucy steps that sharpen the image from which the morphologies start.
    two_component_snr : float
        With several bands, sources of a higher peak signal-to-noise ratio are the sum of an inner and an outer
        component with spectra of their own; 0 for never.
    """

    model_sigma: float = 0.8
    max_iterations: int = 200
    min_iterations: int = 20
    tolerance: float = 1e-3
    noise_threshold: float = 0.5
    monotonic: bool = True
    start_iterations: int = 20
    two_component_snr: float = 50.0


@dataclass(frozen=True)
class JointFit:
    """A fitted scene.

    Attributes
    ----------
    spectra : (n, bands) array
        Flux of every source in every band as the model has it.
    morphologies : (n, ny, nx) array
        In the frame of the narrow PSF, sum one.
    models : (n, bands, ny, nx) float32 array
        Images of the sources through the PSFs of the bands.
    chi2 : float
        Weighted sum of squared residuals over the number of weighted pixels.
    n_iterations : int
    converged : bool
    """

    spectra: Float
    morphologies: Float
    models: NDArray[np.float32]
    chi2: float
    n_iterations: int
    converged: bool

    def redistribute(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Share the pixels of the images among the sources in proportion to their models.

        Parameters
        ----------
        images : (bands, ny, nx) array

        Returns
        -------
        children : (n, bands, ny, nx) float32 array
            Add up to the images where any model is positive.
        """
        total = self.models.sum(0, dtype=np.float64)
        share = np.divide(self.models, total, out=np.zeros(self.models.shape), where=total > 0)
        return (share * np.nan_to_num(images)).astype(np.float32)


def difference_kernels(psfs: NDArray[np.floating], model_sigma: float) -> Float:
    """Return the kernels that turn a Gaussian PSF into the given ones.

    Parameters
    ----------
    psfs : (bands, size, size) array
        Odd size, centred, sum one.
    model_sigma : float, pixel

    Returns
    -------
    kernels : (bands, size, size) array
        Sum one.
    """
    size = psfs.shape[1]
    if psfs.shape[2] != size or size % 2 == 0:
        raise InputError(f"PSF images must be square with an odd side, they have shape {psfs.shape[1:]}")
    r = np.arange(size) - size // 2
    gauss = np.exp(-0.5 * np.add.outer(r**2, r**2) / model_sigma**2)
    gauss /= gauss.sum()
    shape = (fft.next_fast_len(2 * size),) * 2
    narrow = fft.rfft2(np.roll(_padded(gauss, shape), (-(size // 2),) * 2, (0, 1)))
    wide = fft.rfft2(np.roll(_padded(psfs, shape), (-(size // 2),) * 2, (1, 2)))
    power = np.abs(narrow) ** 2
    ratio = fft.irfft2(wide * np.conj(narrow) / np.maximum(power, SMALL**2), shape)
    kernels = np.roll(ratio, (size // 2,) * 2, (1, 2))[:, :size, :size]
    return kernels / kernels.sum((1, 2), keepdims=True)


def _padded(images: NDArray[np.floating], shape: tuple[int, int]) -> Float:
    out = np.zeros((*images.shape[:-2], *shape))
    out[..., : images.shape[-2], : images.shape[-1]] = images
    return out


class _Scene:
    """The data of a blend and its convolutions."""

    def __init__(self, images: Float, weights: Float, kernels: Float) -> None:
        self.images, self.weights = images, weights
        self.shape = images.shape[1:]
        half = kernels.shape[1] // 2
        self.fft_shape = tuple(fft.next_fast_len(n + half, real=True) for n in self.shape)
        if min(self.fft_shape) < kernels.shape[1]:
            self.fft_shape = tuple(
                max(n, fft.next_fast_len(kernels.shape[1], real=True)) for n in self.fft_shape
            )
        self.transfer = fft.rfft2(np.roll(_padded(kernels, self.fft_shape), (-half, -half), (1, 2)))
        gain = np.abs(self.transfer).max((1, 2)) ** 2
        self.stiffness = gain * weights.max((1, 2))

    def convolve(self, images: Float, transposed: bool = False) -> Float:
        """Convolve (..., bands, ny, nx) images with the kernel of their band, or with its mirror image."""
        transfer = np.conj(self.transfer) if transposed else self.transfer
        spectrum = fft.rfft2(images, self.fft_shape) * transfer
        return fft.irfft2(spectrum, self.fft_shape)[..., : self.shape[0], : self.shape[1]]

    def chi2(self, model: Float) -> float:
        """Weighted sum of squared residuals."""
        return float((self.weights * (self.images - model) ** 2).sum())


def fit_joint_model(
    images: NDArray[np.floating],
    weights: NDArray[np.floating],
    psfs: NDArray[np.floating],
    peaks: NDArray[np.integer],
    rules: JointModelRules | None = None,
) -> JointFit:
    """Fit the scene of a blend.

    Parameters
    ----------
    images : (bands, ny, nx) array
        Background subtracted; NaN has no weight.
    weights : (bands, ny, nx) array
        Inverse variances, zero for pixels that do not count.
    psfs : (bands, size, size) array
        Point-spread function of every band at the blend, centred, sum one.
    peaks : (n, 2) int array
        x, y of the sources in the stamp.
    rules : JointModelRules, optional

    Returns
    -------
    fit : JointFit

    Raises
    ------
    AlgorithmError
        When no pixel has a weight.
    """
    rules = rules or JointModelRules()
    images = np.asarray(images, np.float64)
    weights = np.where(np.isfinite(images) & np.isfinite(weights), weights, 0.0)
    images = np.nan_to_num(images, nan=0.0, posinf=0.0, neginf=0.0)
    n_weighted = int(np.count_nonzero(weights > 0))
    if n_weighted == 0:
        raise AlgorithmError("no pixel of the blend has a weight", numbers={"pixels": images.size})
    peaks = np.asarray(peaks, np.int64).reshape(-1, 2)
    _check_peaks(peaks, images.shape)
    scene = _Scene(images, weights, difference_kernels(psfs, rules.model_sigma))
    orders = [_radial_order(scene.shape, y, x) for x, y in peaks]
    shapes = _start_morphologies(scene, peaks, orders, rules)
    owner = np.arange(len(peaks))
    if len(images) > 1 and rules.two_component_snr:
        owner = np.sort(np.concatenate([owner, _bright(scene, peaks, rules.two_component_snr)]))
        shapes = _split_components(shapes, owner)
        orders, centres = [orders[k] for k in owner], peaks[owner]
    else:
        centres = peaks
    spectra, shapes = _solve_spectra(scene, shapes, np.ones((len(owner), len(images))))
    last, done, n_steps = np.inf, False, 0
    while n_steps < rules.max_iterations and not done:
        shapes = _improve_morphologies(scene, spectra, shapes, centres, orders, rules, 5)
        spectra, shapes = _solve_spectra(scene, shapes, spectra)
        n_steps += 5
        chi2 = scene.chi2(scene.convolve(np.einsum("kb,kyx->byx", spectra, shapes)))
        done = n_steps >= rules.min_iterations and abs(last - chi2) <= rules.tolerance * chi2
        last = chi2
    return _summed_by_source(scene, spectra, shapes, owner, last / n_weighted, n_steps, done)


def _summed_by_source(
    scene: _Scene,
    spectra: Float,
    shapes: Float,
    owner: NDArray[np.int64],
    chi2: float,
    n_steps: int,
    done: bool,
) -> JointFit:
    """Join the components of each source."""
    n = int(owner.max()) + 1
    parts = scene.convolve(spectra[:, :, None, None] * shapes[:, None])
    models = np.zeros((n, *parts.shape[1:]))
    np.add.at(models, owner, parts)
    fluxes = np.zeros((n, spectra.shape[1]))
    np.add.at(fluxes, owner, spectra * shapes.sum((1, 2))[:, None])
    morphologies = np.zeros((n, *scene.shape))
    np.add.at(morphologies, owner, spectra.sum(1)[:, None, None] * shapes)
    total = morphologies.sum((1, 2))
    morphologies /= np.where(total > 0, total, 1.0)[:, None, None]
    return JointFit(fluxes, morphologies, np.maximum(models, 0).astype(np.float32), chi2, n_steps, done)


def _bright(scene: _Scene, peaks: NDArray[np.int64], limit: float) -> NDArray[np.int64]:
    """Find the sources whose highest pixel has a larger signal-to-noise ratio, all bands together."""
    x, y = peaks.T
    squares = scene.weights[:, y, x] * np.maximum(scene.images[:, y, x], 0) ** 2
    return np.flatnonzero(np.sqrt(squares.sum(0)) > limit)


def _split_components(shapes: Float, owner: NDArray[np.int64]) -> Float:
    """Give sources that come twice an outer part, below a third of the peak, and an inner part above it."""
    parts = shapes[owner].copy()
    twice = np.flatnonzero(np.diff(owner) == 0)
    for first in twice:
        cut = parts[first].max() / 3
        parts[first + 1] = np.maximum(parts[first] - cut, 0)
        parts[first] = np.minimum(parts[first], cut)
    return parts


def _check_peaks(peaks: NDArray[np.int64], shape: tuple[int, ...]) -> None:
    if not len(peaks):
        raise InputError("a joint model needs at least one peak")
    if (peaks < 0).any() or (peaks[:, 0] >= shape[2]).any() or (peaks[:, 1] >= shape[1]).any():
        raise InputError(f"peaks lie outside the stamp of {shape[2]} x {shape[1]} pixels")


def _radial_order(shape: tuple[int, ...], cy: int, cx: int) -> NDArray[np.int64]:
    """Flat pixel numbers by distance from a peak."""
    r2 = np.add.outer((np.arange(shape[0]) - cy) ** 2, (np.arange(shape[1]) - cx) ** 2)
    return np.argsort(r2.ravel(), kind="stable")


def _start_morphologies(
    scene: _Scene, peaks: NDArray[np.int64], orders: list[NDArray[np.int64]], rules: JointModelRules
) -> Float:
    """Symmetric, outwards declining parts of the sharpened sum of the bands."""
    total = scene.weights.sum(0)
    mean = np.divide((scene.weights * scene.images).sum(0), total, out=np.zeros(scene.shape), where=total > 0)
    mean = np.maximum(mean, 0)
    average = _Scene(mean[None], np.ones((1, *scene.shape)), np.ones((1, 1, 1)))
    average.fft_shape = scene.fft_shape
    average.transfer = scene.transfer.mean(0, keepdims=True)
    sharp = np.maximum(mean, mean.max() * 1e-6)[None]
    for _ in range(rules.start_iterations):
        seen = np.maximum(average.convolve(sharp), mean.max() * 1e-9)
        sharp = np.maximum(sharp * average.convolve(mean / seen, transposed=True), 0)
    shapes = np.zeros((len(peaks), *scene.shape))
    for k, (x, y) in enumerate(peaks):
        ry, rx = min(y, scene.shape[0] - 1 - y), min(x, scene.shape[1] - 1 - x)
        cut = sharp[0, y - ry : y + ry + 1, x - rx : x + rx + 1]
        shapes[k, y - ry : y + ry + 1, x - rx : x + rx + 1] = np.minimum(cut, cut[::-1, ::-1])
        shapes[k, y, x] = max(shapes[k, y, x], mean.max() * 1e-6)
        limit_by_inner(shapes[k], y, x, orders[k])
    return shapes


def _solve_spectra(scene: _Scene, shapes: Float, spectra: Float) -> tuple[Float, Float]:
    """Non-negative least-squares spectra of unit norm; the morphologies take up the flux."""
    from scipy.optimize import nnls

    seen = scene.convolve(np.repeat(shapes[:, None], scene.images.shape[0], axis=1))
    new = np.array(spectra)
    for b in range(scene.images.shape[0]):
        root = np.sqrt(scene.weights[b])
        design = (seen[:, b] * root).reshape(len(shapes), -1)
        normal = design @ design.T
        ridge = 1e-10 * np.trace(normal) / len(shapes)
        if ridge > 0:
            factor = np.linalg.cholesky(normal + ridge * np.eye(len(shapes)))
            right = design @ (scene.images[b] * root).ravel()
            new[:, b] = nnls(factor.T, np.linalg.solve(factor, right))[0]
    norm = np.linalg.norm(new, axis=1)
    lost = ~(norm > 0)
    new[lost], norm[lost] = spectra[lost] / np.linalg.norm(spectra[lost], axis=1, keepdims=True), 1.0
    scale = np.where(lost, 0.0, norm)
    new[~lost] /= norm[~lost, None]
    return new, shapes * scale[:, None, None]


def _improve_morphologies(
    scene: _Scene,
    spectra: Float,
    shapes: Float,
    peaks: NDArray[np.int64],
    orders: list[NDArray[np.int64]],
    rules: JointModelRules,
    n_steps: int,
) -> Float:
    """Accelerated proximal gradient steps."""
    coupling = np.einsum("kb,jb,b->kj", spectra, spectra, scene.stiffness)
    step = 1.0 / np.maximum(coupling.sum(1), 1e-300)
    good = scene.weights > 0
    median = np.array([np.median(w[g]) if g.any() else 0.0 for w, g in zip(scene.weights, good, strict=True)])
    noise = 1.0 / np.sqrt(np.maximum((spectra**2 * median).sum(1), 1e-300))
    old, point, momentum = shapes, shapes, 1.0
    for _ in range(n_steps):
        model = scene.convolve(np.einsum("kb,kyx->byx", spectra, point))
        slope = scene.convolve(scene.weights * (model - scene.images), transposed=True)
        new = point - step[:, None, None] * np.einsum("kb,byx->kyx", spectra, slope)
        for k, (x, y) in enumerate(peaks):
            _project(new[k], y, x, orders[k], rules.noise_threshold * noise[k], rules.monotonic)
        next_momentum = 0.5 * (1 + np.sqrt(1 + 4 * momentum**2))
        point = new + (momentum - 1) / next_momentum * (new - old)
        old, momentum = new, next_momentum
    return old


def _project(shape: Float, y: int, x: int, order: NDArray[np.int64], floor: float, monotonic: bool) -> None:
    """Make a morphology non-negative and declining outwards, without pixels below the noise."""
    np.maximum(shape, 0, out=shape)
    if monotonic:
        limit_by_inner(shape, y, x, order)
    top = shape[y, x]
    shape[shape < floor] = 0.0
    shape[y, x] = top
