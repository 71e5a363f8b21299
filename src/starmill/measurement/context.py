"""What a measurement sees: pixels with neighbours replaced by noise, the PSF, and what was measured before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Catalog
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import Psf
from starmill.errors import AlgorithmError, InputError
from starmill.kernels.moments import stack_moments
from starmill.kernels.source_pixels import SourcePixels, cut_stamps

BLOCK = 128  # sources whose stamps are held at a time
PSF_BLOCK_BYTES = 2**19  # PSF images held at a time: they then stay in the cache
CORE_SIGMAS = 8.0  # half width of the kernels that centroids and moments need
Float = NDArray[np.float64]


@dataclass(frozen=True)
class SourceStamp:
    """Pixels around one source, neighbours replaced by noise.

    Attributes
    ----------
    image, variance : (size, size) float32 array
        0 outside the exposure.
    mask : (size, size) int32 array
        -1 outside the exposure.
    x0, y0 : int
        Parent-frame index of the first pixel.
    x, y : float
        Centroid of the source, parent frame.
    index : int
        Row of the source in the catalogue.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    x0: int
    y0: int
    x: float
    y: float
    index: int


@dataclass(frozen=True)
class StampBlock:
    """Stamps of consecutive sources; iterating gives :class:`SourceStamp`.

    Attributes
    ----------
    rows : slice
        Which sources.
    image, variance, mask : (n, size, size) array
    x0, y0 : (n,) int64 array
        Parent-frame index of the first pixels.
    x, y : (n,) float64 array
    """

    rows: slice
    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    x: Float
    y: Float

    def __iter__(self) -> Iterator[SourceStamp]:
        for k in range(len(self.x0)):
            yield SourceStamp(
                self.image[k], self.variance[k], self.mask[k], int(self.x0[k]), int(self.y0[k]),
                float(self.x[k]), float(self.y[k]), self.rows.start + k,
            )  # fmt: skip


class MeasurementContext:
    """The pixels and the catalogue that plugins work on.

    Parameters
    ----------
    exposure : Exposure
    catalog : Catalog
        Sources to measure, positions in the parent frame.
    pixels : SourcePixels
    spans, span_offsets : arrays
        Footprints inside the image, array index.
    slots : dict of str to str
        Which measurement is the recommended one for a purpose.
    """

    def __init__(
        self,
        exposure: Exposure,
        catalog: Catalog,
        pixels: SourcePixels,
        spans: NDArray[np.int32],
        span_offsets: NDArray[np.int64],
        slots: dict[str, str],
    ) -> None:
        self.exposure = exposure
        self.catalog = catalog
        self.pixels = pixels
        self.spans = spans
        self.span_offsets = span_offsets
        self.slots = slots
        self.n = len(catalog)
        self.columns: dict[str, NDArray[Any]] = {name: catalog[name] for name in catalog.names}
        self.cache: dict[str, Any] = {}
        self._psf_shape: tuple[Float, NDArray[np.bool_]] | None = None
        self.failures: dict[str, tuple[int, Exception]] = {}
        self.plugin_names: frozenset[str] | None = None

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column measured before, by name or slot (``slot_shape_xx``)."""
        if name in self.columns:
            return self.columns[name]
        if name.startswith("slot_"):
            rest = name.removeprefix("slot_")
            for slot in sorted(self.slots, key=len, reverse=True):
                if rest == slot or rest.startswith(slot + "_"):
                    target = self.slots[slot] + rest.removeprefix(slot)
                    if target in self.columns:
                        return self.columns[target]
        raise InputError(f"nothing was measured under the name {name!r} before this plugin")

    def __contains__(self, name: str) -> bool:
        try:
            self[name]
        except InputError:
            return False
        return True

    def record_failure(self, plugin: str, error: Exception) -> None:
        """Count a source for which a plugin raised; the first exception is kept for the log."""
        count, first = self.failures.get(plugin, (0, error))
        self.failures[plugin] = (count + 1, first)

    @property
    def x(self) -> Float:
        """Centroids, parent frame: the centroid slot when measured, else the input position."""
        return self["slot_centroid_x"] if "slot_centroid_x" in self else self.columns["x"]

    @property
    def y(self) -> Float:
        """As :attr:`x`."""
        return self["slot_centroid_y"] if "slot_centroid_y" in self else self.columns["y"]

    @property
    def array_x(self) -> Float:
        """Centroids as array index."""
        return np.ascontiguousarray(self.x - self.exposure.origin[0], np.float64)

    @property
    def array_y(self) -> Float:
        """Centroids as array index."""
        return np.ascontiguousarray(self.y - self.exposure.origin[1], np.float64)

    @property
    def on_image(self) -> NDArray[np.bool_]:
        """Which centroids are finite and inside the exposure."""
        ny, nx = self.exposure.shape
        x, y = self.array_x, self.array_y
        return (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)

    def centroid_covariance(self) -> tuple[Float, Float, Float] | None:
        """Variances of x and y and their covariance in the centroid slot, pixel**2, (n,); None of one without errors.

        A measurement that gives no covariance of x and y has zero.
        """
        if "slot_centroid_x_err" not in self:
            return None
        x, y = (np.asarray(self[f"slot_centroid_{axis}_err"], np.float64) ** 2 for axis in "xy")
        known = "slot_centroid_xy_cov" in self
        return x, y, np.asarray(self["slot_centroid_xy_cov"], np.float64) if known else np.zeros(self.n)

    @property
    def shape(self) -> Float:
        """Second moments of the shape slot: (n, 3), pixel**2, NaN where not measured."""
        if "slot_shape_xx" not in self:
            return np.full((self.n, 3), np.nan)
        return np.column_stack([self[f"slot_shape_{part}"] for part in ("xx", "yy", "xy")]).astype(np.float64)

    @property
    def psf(self) -> Psf:
        """The point-spread function of the exposure.

        Raises
        ------
        AlgorithmError
            When the exposure has none.
        """
        if self.exposure.psf is None:
            raise AlgorithmError("the exposure has no PSF", numbers={"n_psf": 0})
        return self.exposure.psf

    def mask_bits(self, *names: str) -> int:
        """Return the bits of those of the mask planes that exist."""
        return self.exposure.mask.planes.bits_present(*names)

    def set_bits(self, *names: str) -> int:
        """Return the bits of those of the mask planes that any pixel of the exposure has."""
        return self.mask_bits(*names) & self._any_pixel_bits

    @cached_property
    def _any_pixel_bits(self) -> int:
        return int(np.bitwise_or.reduce(self.pixels.mask, axis=None))

    def will_measure(self, name: str) -> bool:
        """Whether a plugin of this name takes part; True when the plugins are not known."""
        return self.plugin_names is None or name in self.plugin_names

    def safe_position(self) -> tuple[Float, Float]:
        """Return the centroids with those outside the exposure moved to its centre, parent frame."""
        cx, cy = self.exposure.box.center
        good = self.on_image
        return np.where(good, self.x, cx), np.where(good, self.y, cy)

    @cached_property
    def peak(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Highest peak of every footprint (else the nearest pixel of the input position), parent frame."""
        x, y = self.columns["x"], self.columns["y"]
        finite = np.isfinite(x) & np.isfinite(y) & (np.abs(x) < 1e9) & (np.abs(y) < 1e9)
        px = np.floor(np.where(finite, x, -1e6) + 0.5).astype(np.int64)
        py = np.floor(np.where(finite, y, -1e6) + 0.5).astype(np.int64)
        footprints = self.catalog.footprints
        if footprints is not None and len(footprints.peaks):
            has = np.flatnonzero(footprints.n_peaks > 0)
            first = footprints.peaks[footprints.peak_offsets[has]]
            px[has], py[has] = first["x"], first["y"]
        return px, py

    @property
    def psf_shape(self) -> tuple[Float, NDArray[np.bool_]]:
        """Adaptive moments of the PSF at the input positions: (n, 3) pixel**2, and where they failed."""
        if self._psf_shape is None:
            for rows, kernels, _ in self.psf_kernels():
                self.keep_psf_shape(rows, kernels)
        if self._psf_shape is None:
            self._psf_shape = np.full((0, 3), np.nan), np.zeros(0, bool)
        return self._psf_shape

    def keep_psf_shape(self, rows: slice, kernels: Float) -> Float:
        """Measure the moments of PSF kernels and keep them for :attr:`psf_shape`.

        Parameters
        ----------
        rows : slice
            Sources that the kernels belong to; the blocks must come in order.
        kernels : (m, size, size) array
            One per source, or a single one for all.

        Returns
        -------
        moments : (m, 3) array, pixel**2
        """
        if self._psf_shape is None:
            self._psf_shape = np.full((self.n, 3), np.nan), np.zeros(self.n, bool)
        moments, failed = stack_moments(kernels, 100)
        self._psf_shape[0][rows], self._psf_shape[1][rows] = moments, failed
        return moments

    def psf_kernels(
        self, n_sigma: float = CORE_SIGMAS, block: int | None = None
    ) -> Iterator[tuple[slice, Float, NDArray[np.int64]]]:
        """Yield blocks of PSF kernels at the input positions: rows, kernels, and which one each source has.

        Parameters
        ----------
        n_sigma : float
            The kernels are cut this many sigma of the PSF from their centre.
        block : int, optional
            Sources of a block; as many as stay in the cache when not given. A block is written over by the next one.
        """
        ny, nx = self.exposure.shape
        (ox, oy), (cx, cy) = self.exposure.origin, self.exposure.box.center
        x, y = np.asarray(self.columns["x"], np.float64), np.asarray(self.columns["y"], np.float64)
        good = (x >= ox - 0.5) & (x < ox + nx - 0.5) & (y >= oy - 0.5) & (y < oy + ny - 0.5)
        x, y = np.where(good, x, cx), np.where(good, y, cy)
        size = self.core_size(n_sigma)
        block = min(block or self.psf_block, max(self.n, 1))
        if not self.psf_varies:
            kernels = next(self.psf.core_blocks(x[:1], y[:1], size, 1), np.zeros((0, size, size)))
            for rows in self.blocks(block):
                yield rows, kernels, np.zeros(rows.stop - rows.start, np.int64)
            return
        for rows, kernels in zip(self.blocks(block), self.psf.core_blocks(x, y, size, block), strict=True):
            yield rows, kernels, np.arange(len(kernels))

    def core_size(self, n_sigma: float) -> int:
        """Return the odd side of the part of PSF kernels within so many sigma of the PSF in the middle."""
        sigma = self.psf.sigma_at()
        half = np.ceil(n_sigma * sigma) if np.isfinite(sigma) else np.inf
        return int(min(2 * half + 1, self.psf.size))

    @property
    def psf_varies(self) -> bool:
        """Whether the PSF depends on position (a Gaussian one does not)."""
        from starmill.datamodel.psf import GaussianPsf

        return not isinstance(self.psf, GaussianPsf)

    @property
    def psf_sigma(self) -> Float:
        """Determinant radius of the PSF at every source, pixels."""
        m = self.psf_shape[0]
        return np.maximum(m[:, 0] * m[:, 1] - m[:, 2] ** 2, 0.0) ** 0.25

    @property
    def psf_block(self) -> int:
        """How many PSF images are made at a time."""
        return min(BLOCK, max(8, PSF_BLOCK_BYTES // (8 * self.psf.size**2)))

    def blocks(self, size: int = BLOCK) -> Iterator[slice]:
        """Yield slices of consecutive sources."""
        for start in range(0, self.n, size):
            yield slice(start, min(start + size, self.n))

    def psf_images(self) -> Iterator[tuple[slice, Float, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield blocks of PSF images at the centroids: rows, images, first pixels as array index.

        The images are written over by the next block.
        """
        x, y = self.safe_position()
        ox, oy = self.exposure.origin
        blocks = self.psf.image_blocks(x, y, self.psf_block)
        for rows, (images, x0, y0) in zip(self.blocks(self.psf_block), blocks, strict=True):
            yield rows, np.ascontiguousarray(images, np.float64), x0 - ox, y0 - oy

    def stamps(self, size: int) -> Iterator[StampBlock]:
        """Yield blocks of stamps of all sources, neighbours replaced by noise.

        Parameters
        ----------
        size : int
            Odd side, pixels; the central pixel holds the centroid.
        """
        x, y = self.safe_position()
        ox, oy = self.exposure.origin
        ix, iy = (np.floor(c + 0.5).astype(np.int64) - size // 2 for c in (x, y))
        for rows in self.blocks():
            n = rows.stop - rows.start
            image, variance = np.empty((2, n, size, size), np.float32)
            mask = np.empty((n, size, size), np.int32)
            cut_stamps(self.pixels, ix[rows] - ox, iy[rows] - oy, image, variance, mask, rows.start)
            yield StampBlock(rows, image, variance, mask, ix[rows], iy[rows], self.x[rows], self.y[rows])
