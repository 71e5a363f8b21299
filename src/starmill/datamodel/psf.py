"""Point-spread functions: what the image of a star looks like at a position.

A *kernel* is centred on its central pixel and sums to 1; an *image* is the star at its sub-pixel position.
The batched methods ``kernels_at`` and ``images_at`` do the work for a whole catalogue at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial.chebyshev import chebvander
from numpy.typing import NDArray

from starmill.datamodel.display import html_figure
from starmill.datamodel.field import ChebyshevField, Field, field_from_dict
from starmill.datamodel.geometry import Box
from starmill.errors import InputError

__all__ = [
    "FWHM_PER_SIGMA",
    "GaussianPsf",
    "PixelBasisPsf",
    "Psf",
    "adaptive_moments",
    "psf_from_dict",
    "shift_images",
]

FWHM_PER_SIGMA = 2.3548200450309493  # 2 sqrt(2 ln 2)
Float = NDArray[np.float64]

_KINDS: dict[str, type[Psf]] = {}


def shift_images(images: NDArray[Any], dx: Any, dy: Any, *, kaiser: bool = False) -> Float:
    """Shift small images by ten-tap Lanczos interpolation; what lies outside an image counts as zero.

    Parameters
    ----------
    images : (n, ny, nx) or (ny, nx) array
    dx, dy : (n,) arrays or floats, pixels
        Positive moves the light to larger x and y.
    kaiser : bool
        Use Kaiser-windowed weights: the size of a well sampled star then changes by 1e-4 instead of the
        1.6e-3 of Lanczos weights.

    Returns
    -------
    shifted : array of the shape of ``images``
        Not normalised again.
    """
    from starmill.kernels.lanczos import shift_stack

    stack = np.ascontiguousarray(images, np.float64)
    single = stack.ndim == 2
    stack = stack[None] if single else stack
    out = np.empty_like(stack)
    n = len(stack)
    dx, dy = (np.ascontiguousarray(np.broadcast_to(np.asarray(d, np.float64), n)) for d in (dx, dy))
    shift_stack(stack, dx, dy, out, kaiser)
    return out[0] if single else out


def adaptive_moments(images: NDArray[Any], max_iterations: int = 100) -> Float:
    """Second moments of images with a matched elliptical Gaussian weight.

    The weight is centred on the central pixel and its moments are iterated until they match those of the
    object (Bernstein & Jarvis 2002, AJ 123, 583, section 3).

    Parameters
    ----------
    images : (n, size, size) array
        Centred on the central pixel, no background, no NaN.
    max_iterations : int

    Returns
    -------
    moments : (n, 3) array, pixel²
        ``xx, yy, xy``; NaN where the iteration does not converge. Images narrower than about 1.6 pixels (FWHM)
        are integrated over the area of the pixels, which adds 1/12 pixel².
    """
    images = np.asarray(images, np.float64)
    size = images.shape[1]
    moments = _matched_moments(images, np.arange(size) - size // 2, max_iterations)
    failed = np.isnan(moments).any(axis=1) & np.isfinite(images).all(axis=(1, 2))
    if failed.any():
        # narrower than the pixels resolve: take them as constant over their area, in 4 x 4 parts
        fine = np.repeat(np.repeat(images[failed], 4, axis=1), 4, axis=2)
        moments[failed] = _matched_moments(
            fine, (np.arange(4 * size) + 0.5) / 4 - 0.5 - size // 2, max_iterations
        )
    return moments


def _matched_moments(images: Float, r: NDArray[Any], max_iterations: int) -> Float:
    """Return the moments ``xx, yy, xy`` of images whose samples lie at ``r`` along both axes, (n, 3)."""
    from starmill.kernels.matched_moments import matched_moments

    moments = np.empty((len(images), 3))
    matched_moments(np.ascontiguousarray(images), r.astype(np.float64), max_iterations, moments)
    return moments


class Psf(ABC):
    """What a star looks like.

    Attributes
    ----------
    size : int
        Odd side of the stamps, pixels.
    average_position : (x, y)
        Mean position of the stars that made it (or the centre of its box), parent frame.
    """

    kind: ClassVar[str] = ""
    size: int
    average_position: tuple[float, float]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.kind:
            _KINDS[cls.kind] = cls

    @abstractmethod
    def kernels_at(self, x: Any, y: Any) -> Float:
        """Return the kernels at positions: (n, size, size), centred, each with sum 1."""

    def core_blocks(self, x: Float, y: Float, side: int, block: int) -> Iterator[Float]:
        """Yield the central parts of the kernels at positions, as they are, for so many positions at a time.

        Parameters
        ----------
        x, y : (n,) arrays
            Parent frame; finite.
        side : int
            Odd, at most the size.
        block : int

        Yields
        ------
        cores : (m, side, side) array
            Written over by the next block.
        """
        cut = (self.size - side) // 2
        for start in range(0, len(x), block):
            rows = slice(start, start + block)
            kernels = self.kernels_at(x[rows], y[rows])
            yield np.ascontiguousarray(kernels[:, cut : self.size - cut, cut : self.size - cut])

    def image_blocks(
        self, x: Float, y: Float, block: int
    ) -> Iterator[tuple[Float, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield what :meth:`images_at` returns for so many positions at a time; written over by the next block."""
        for start in range(0, len(x), block):
            rows = slice(start, start + block)
            yield self.images_at(x[rows], y[rows])

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and arrays from which the PSF can be made again."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: dict[str, Any]) -> Psf:
        """Make the PSF from what :meth:`to_dict` returned."""

    def images_at(self, x: Any, y: Any) -> tuple[Float, NDArray[np.int64], NDArray[np.int64]]:
        """Return stars at sub-pixel positions.

        Parameters
        ----------
        x, y : (n,) arrays
            Parent frame; finite.

        Returns
        -------
        images : (n, size, size) array
            Flux 1 (up to what the interpolation moves over the edge of the stamp).
        x0, y0 : (n,) int arrays
            Parent-frame index of the first pixel of each stamp.
        """
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
        images = shift_images(self.kernels_at(x, y), x - ix, y - iy)
        half = self.size // 2
        return images, ix - half, iy - half

    def kernel_at(self, x: float | None = None, y: float | None = None) -> Float:
        """Return the kernel at a position (the average position by default): (size, size), sum 1."""
        x, y = self._position(x, y)
        return np.asarray(self.kernels_at(np.array([x]), np.array([y]))[0])

    def image_at(self, x: float | None = None, y: float | None = None) -> tuple[Float, tuple[int, int]]:
        """Return the star at a sub-pixel position and the parent-frame index ``(x0, y0)`` of its first pixel."""
        x, y = self._position(x, y)
        images, x0, y0 = self.images_at(np.array([x]), np.array([y]))
        return images[0], (int(x0[0]), int(y0[0]))

    def shapes_at(self, x: Any, y: Any) -> Float:
        """Return the adaptive moments ``xx, yy, xy`` at positions: (n, 3), pixel²."""
        return adaptive_moments(self.kernels_at(np.atleast_1d(x), np.atleast_1d(y)))

    def shape_at(self, x: float | None = None, y: float | None = None) -> tuple[float, float, float]:
        """Return the adaptive moments ``xx, yy, xy`` at a position, pixel²."""
        x, y = self._position(x, y)
        xx, yy, xy = self.shapes_at(x, y)[0]
        return float(xx), float(yy), float(xy)

    def sigma_at(self, x: float | None = None, y: float | None = None) -> float:
        """Return the determinant radius ``(xx yy - xy²)^¼`` at a position, pixels."""
        xx, yy, xy = self.shape_at(x, y)
        return float((xx * yy - xy**2) ** 0.25)

    def fwhm_at(self, x: float | None = None, y: float | None = None) -> float:
        """Return the full width at half maximum of the Gaussian of the same determinant radius, pixels."""
        return FWHM_PER_SIGMA * self.sigma_at(x, y)

    def _position(self, x: float | None, y: float | None) -> tuple[float, float]:
        return (
            self.average_position[0] if x is None else float(x),
            self.average_position[1] if y is None else float(y),
        )

    def _repr_html_(self) -> str:
        return html_figure("psf", self) + f"<pre>{self!r}</pre>"


def psf_from_dict(data: dict[str, Any]) -> Psf:
    """Make a PSF of any kind from what its ``to_dict`` returned.

    Raises
    ------
    InputError
        When the kind is unknown.
    """
    kind = data.get("kind")
    if kind not in _KINDS:
        from starmill.datamodel import colour_psf, psf_models  # noqa: F401  registers their kinds
    if kind not in _KINDS:
        raise InputError(f"unknown kind of PSF {kind!r} (known: {', '.join(sorted(_KINDS))})")
    return _KINDS[str(kind)].from_dict(data)


def _check_size(size: int) -> int:
    if int(size) != size or size < 3 or size % 2 == 0:
        raise InputError(f"the size of a PSF stamp must be an odd number of at least 3 pixels, not {size}")
    return int(size)


class GaussianPsf(Psf):
    """The same round Gaussian everywhere.

    Parameters
    ----------
    sigma : float, pixels
    size : int, optional
        Odd; about ten sigma wide when not given.
    average_position : (x, y)
    """

    kind = "gaussian"

    def __init__(
        self, sigma: float, size: int | None = None, average_position: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        if not (np.isfinite(sigma) and sigma > 0):
            raise InputError(f"the width of a PSF must be positive and finite, not {sigma}")
        self.sigma = float(sigma)
        self.size = _check_size(2 * int(np.ceil(5 * sigma)) + 1 if size is None else size)
        self.average_position = (float(average_position[0]), float(average_position[1]))

    def _profile(self, d: Float) -> Float:
        """Return 1-D profiles with sum 1 on the pixels for stars ``d`` off the centre: (n, size)."""
        r = np.arange(self.size) - self.size // 2
        p = np.exp(-0.5 * ((r[None, :] - d[:, None]) / self.sigma) ** 2)
        return np.asarray(p / p.sum(1, keepdims=True))

    def kernels_at(self, x: Any, y: Any) -> Float:  # noqa: ARG002  the same everywhere
        n = np.size(x)
        p = self._profile(np.zeros(1))[0]
        return np.tile(np.outer(p, p), (n, 1, 1))

    def images_at(self, x: Any, y: Any) -> tuple[Float, NDArray[np.int64], NDArray[np.int64]]:
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
        images = self._profile(y - iy)[:, :, None] * self._profile(x - ix)[:, None, :]
        half = self.size // 2
        return images, ix - half, iy - half

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "sigma": self.sigma,
            "size": self.size,
            "average_position": list(self.average_position),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GaussianPsf:
        x, y = data["average_position"]
        return cls(data["sigma"], data["size"], (x, y))

    def __repr__(self) -> str:
        return (
            f"GaussianPsf(sigma {self.sigma:.3f}, FWHM {FWHM_PER_SIGMA * self.sigma:.3f} px, {self.size} px)"
        )


class PixelBasisPsf(Psf):
    """A sum of basis images, each times a smooth function of position.

    Principal components of star images, or a grid of (sub-)pixels as in PSFEx.

    Parameters
    ----------
    basis : (k, m, m) array
        Images, odd m, centred on their central pixel.
    fields : sequence of k Field
        Coefficient of each image.
    size : int, optional
        Odd side of the stamps; ``m`` at detector sampling when not given.
    samples_per_pixel : float
        Samples of the basis images in one detector pixel: 1 for images on the detector's grid.
    average_position : (x, y), optional
        Centre of the box of the first field when not given.
    kaiser : bool
        Interpolate with Kaiser-windowed weights, see :func:`shift_images`.
    """

    kind = "pixel_basis"

    def __init__(
        self,
        basis: NDArray[Any],
        fields: Sequence[Field],
        *,
        size: int | None = None,
        samples_per_pixel: float = 1.0,
        average_position: tuple[float, float] | None = None,
        kaiser: bool = False,
    ) -> None:
        self.kaiser = bool(kaiser)
        self.basis = np.ascontiguousarray(basis, np.float64)
        if (
            self.basis.ndim != 3
            or self.basis.shape[1] != self.basis.shape[2]
            or len(self.basis) != len(fields)
        ):
            raise InputError(f"basis images of shape {self.basis.shape} do not go with {len(fields)} fields")
        self.fields = tuple(fields)
        m = _check_size(self.basis.shape[1])
        self.samples_per_pixel = float(samples_per_pixel)
        if size is None:
            size = m if samples_per_pixel == 1 else 2 * int((m // 2) / samples_per_pixel) + 1
        self.size = _check_size(size)
        center = self.fields[0].box.center if average_position is None else average_position
        self.average_position = (float(center[0]), float(center[1]))

    @property
    def box(self) -> Box:
        """Where the model was fitted."""
        return self.fields[0].box

    def coefficients_at(self, x: Any, y: Any) -> Float:
        """Return the coefficients of the basis images at positions: (n, k)."""
        x, y = np.broadcast_arrays(np.atleast_1d(x), np.atleast_1d(y))
        if self._chebyshev is None:
            return np.stack([field(x, y) for field in self.fields], axis=1)
        first, together = self._chebyshev
        k, n_y, n_x = together.shape
        u, v = first.scaled(x, y)
        products = chebvander(v, n_y - 1)[:, :, None] * chebvander(u, n_x - 1)[:, None, :]
        return np.asarray(products.reshape(len(x), -1) @ together.reshape(k, -1).T)

    @cached_property
    def _chebyshev(self) -> tuple[ChebyshevField, Float] | None:
        """The first field and the coefficients of all, (k, ny, nx), when all are Chebyshev sums over one box."""
        fields = [field for field in self.fields if isinstance(field, ChebyshevField)]
        if len(fields) < len(self.fields) or len({field.box for field in fields}) > 1:
            return None
        shape = np.max([field.coefficients.shape for field in fields], axis=0)
        together = np.zeros((len(fields), *shape))
        for plane, field in zip(together, fields, strict=True):
            plane[: field.coefficients.shape[0], : field.coefficients.shape[1]] = field.coefficients
        return fields[0], together

    def _models_at(self, x: Any, y: Any) -> Float:
        k, m, _ = self.basis.shape
        return (self.coefficients_at(x, y) @ self.basis.reshape(k, m * m)).reshape(-1, m, m)

    def _sampled(self, models: Float, dx: Float, dy: Float) -> Float:
        from starmill.kernels.lanczos import sample_stack

        out = np.empty((len(models), self.size, self.size))
        models = np.ascontiguousarray(models)
        sample_stack(
            models, dx, dy, self.size, self.samples_per_pixel, 5 if self.kaiser else 4, out, self.kaiser
        )
        return out

    @cached_property
    def _basis(self) -> Float:
        """The basis images cut or padded to the size of the stamps; only at detector sampling."""
        return np.ascontiguousarray(_centre_cut(self.basis, self.size))

    @cached_property
    def _basis_sums(self) -> Float:
        return np.asarray(self._basis.sum((1, 2)))

    def _unit_coefficients_at(self, x: Any, y: Any) -> Float:
        """Return the coefficients of kernels with sum 1; only at detector sampling."""
        coefficients = self.coefficients_at(x, y)
        coefficients /= (coefficients @ self._basis_sums)[:, None]
        return coefficients

    def kernels_at(self, x: Any, y: Any) -> Float:
        if self.samples_per_pixel == 1:
            basis, coefficients = self._basis, self._unit_coefficients_at(x, y)
            return (coefficients @ basis.reshape(len(basis), -1)).reshape(-1, self.size, self.size)
        models = self._models_at(x, y)
        zero = np.zeros(len(models))
        kernels = self._sampled(models, zero, zero)
        return np.asarray(kernels / kernels.sum((1, 2), keepdims=True))

    def core_blocks(self, x: Float, y: Float, side: int, block: int) -> Iterator[Float]:
        if self.samples_per_pixel != 1:
            yield from super().core_blocks(x, y, side, block)
            return
        basis = np.ascontiguousarray(_centre_cut(self._basis, side)).reshape(len(self._basis), -1)
        coefficients = self._unit_coefficients_at(x, y)
        room = np.empty((min(block, len(x)), side * side))
        for start in range(0, len(x), block):
            cores = room[: len(x) - start]
            np.matmul(coefficients[start : start + block], basis, out=cores)
            yield cores.reshape(-1, side, side)

    def images_at(self, x: Any, y: Any) -> tuple[Float, NDArray[np.int64], NDArray[np.int64]]:
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        if self.samples_per_pixel == 1 and len(x):
            return next(self.image_blocks(x, y, len(x)))
        ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
        images = self._sampled(self._models_at(x, y), x - ix, y - iy)
        half = self.size // 2
        return images / images.sum((1, 2), keepdims=True), ix - half, iy - half

    def image_blocks(
        self, x: Float, y: Float, block: int
    ) -> Iterator[tuple[Float, NDArray[np.int64], NDArray[np.int64]]]:
        if self.samples_per_pixel != 1:
            yield from super().image_blocks(x, y, block)
            return
        from starmill.kernels.lanczos import combine_and_shift, spread_rows

        ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
        dx, dy, x0, y0 = x - ix, y - iy, ix - self.size // 2, iy - self.size // 2
        coefficients, planes = self._unit_coefficients_at(x, y), spread_rows(self._basis)
        room = np.empty((min(block, len(x)), self.size, self.size))
        for start in range(0, len(x), block):
            rows, images = slice(start, start + block), room[: len(x) - start]
            combine_and_shift(planes, coefficients[rows], dx[rows], dy[rows], images, self.kaiser)
            yield images, x0[rows], y0[rows]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "basis": self.basis,
            "fields": [field.to_dict() for field in self.fields],
            "size": self.size,
            "samples_per_pixel": self.samples_per_pixel,
            "average_position": list(self.average_position),
            "kaiser": self.kaiser,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PixelBasisPsf:
        x, y = data["average_position"]
        return cls(
            data["basis"],
            [field_from_dict(item) for item in data["fields"]],
            size=data["size"],
            samples_per_pixel=data["samples_per_pixel"],
            average_position=(x, y),
            kaiser=data.get("kaiser", False),
        )

    def __repr__(self) -> str:
        return (
            f"PixelBasisPsf({len(self.basis)} images of {self.basis.shape[1]} px,"
            f" {self.samples_per_pixel:g} samples per pixel, FWHM {self.fwhm_at():.3f} px)"
        )


def _centre_cut(images: Float, size: int) -> Float:
    """Cut or zero-pad images around their central pixel."""
    m = images.shape[1]
    if m == size:
        return images
    if m > size:
        edge = (m - size) // 2
        return images[:, edge : edge + size, edge : edge + size]
    edge = (size - m) // 2
    return np.pad(images, ((0, 0), (edge, edge), (edge, edge)))
