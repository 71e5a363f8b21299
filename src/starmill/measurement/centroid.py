"""Centroids: the peak pixel, the maximum of the PSF-smoothed image, and windowed means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Column
from starmill.datamodel.psf import Psf
from starmill.kernels import centroids as kernel
from starmill.kernels.moments import stack_moments
from starmill.kernels.source_pixels import SourcePixels, inside_footprints
from starmill.measurement.centroid_phase import measure_phase_pull
from starmill.measurement.context import MeasurementContext
from starmill.measurement.plugin import ORDER_CENTROID, Plugin, error_from, register

SMOOTHING_SIGMAS = 6.0  # half width of the smoothing kernel
SMOOTHED_FLAGS = {
    "edge": (kernel.FLAG_EDGE, "too close to the edge of the image, even for the narrow smoothing"),
    "no_second_derivative": (kernel.FLAG_NO_SECOND_DERIVATIVE, "the smoothed image has no maximum here"),
    "almost_no_second_derivative": (kernel.FLAG_ALMOST_NO_SECOND_DERIVATIVE, "the maximum is too flat"),
    "not_at_maximum": (kernel.FLAG_NOT_AT_MAXIMUM, "a neighbour of the peak is higher in the smoothed image"),
    "near_edge": (
        kernel.FLAG_NEAR_EDGE,
        "smoothed with a narrow Gaussian, or not binned, because of the edge",
    ),
    "bad_error": (kernel.FLAG_BAD_ERROR, "the error is not positive or not finite"),
    "reset_to_peak": (
        kernel.FLAG_RESET_TO_PEAK,
        "the centroid was outside the footprint or far from the peak",
    ),
}
FAILURES = (
    kernel.FLAG_EDGE
    | kernel.FLAG_NO_SECOND_DERIVATIVE
    | kernel.FLAG_ALMOST_NO_SECOND_DERIVATIVE
    | kernel.FLAG_NOT_AT_MAXIMUM
    | kernel.FLAG_RESET_TO_PEAK
)


def centroid_columns(name: str, what: str) -> list[Column]:
    """Return the columns of a centroid called ``name``."""
    return [
        Column(f"{name}_x", "f8", "pixel", f"{what}, parent frame"),
        Column(f"{name}_y", "f8", "pixel", f"{what}, parent frame"),
        Column(f"{name}_x_err", "f4", "pixel", f"error of {name}_x"),
        Column(f"{name}_y_err", "f4", "pixel", f"error of {name}_y"),
        Column(f"{name}_xy_cov", "f4", "pixel2", f"covariance of {name}_x and {name}_y"),
    ]


def centroid_values(name: str, found: np.ndarray, origin: tuple[int, int]) -> dict[str, Any]:
    """Return the columns of :func:`centroid_columns` from kernel output (x, y, var x, var y, cov)."""
    return {
        f"{name}_x": found[:, 0] + origin[0],
        f"{name}_y": found[:, 1] + origin[1],
        f"{name}_x_err": error_from(found[:, 2]),
        f"{name}_y_err": error_from(found[:, 3]),
        f"{name}_xy_cov": found[:, 4],
    }


@register
@dataclass(frozen=True)
class PeakCentroid(Plugin):
    """The pixel of the highest peak of the footprint."""

    name: ClassVar[str] = "peak"
    order: ClassVar[float] = ORDER_CENTROID

    def columns(self) -> list[Column]:
        return [
            Column("peak_x", "i4", "pixel", "pixel of the highest peak, parent frame"),
            Column("peak_y", "i4", "pixel", "pixel of the highest peak, parent frame"),
            Column("peak_flag", "bool", "", "the peak is not inside the image"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        x, y = context.peak
        box = context.exposure.box
        inside = (x >= box.x0) & (x < box.x1) & (y >= box.y0) & (y < box.y1)
        return {"peak_x": x, "peak_y": y, "peak_flag": ~inside}


@register
@dataclass(frozen=True)
class SmoothedCentroid(Plugin):
    """Maximum of the image smoothed with the PSF, wide sources binned.

    Parameters
    ----------
    max_bin : int
        Largest binning, pixels.
    wide : float
        A source is binned while its own squared width exceeds this times (1 + sigma_psf**2).
    max_distance : float
        A centroid farther from the peak is reset to it, pixels; 0 switches the test off.
    check_footprint : bool
        Reset a centroid outside its footprint to the peak.
    undersampled_fwhm : float
        Below this FWHM of the PSF, in pixels, the pull of the pixels on a point source is taken out of the
        centroids; 0 switches it off.
    """

    name: ClassVar[str] = "centroid"
    order: ClassVar[float] = ORDER_CENTROID
    needs_psf: ClassVar[bool] = True

    max_bin: int = 16
    wide: float = 1.5
    max_distance: float = 1.0
    check_footprint: bool = True
    undersampled_fwhm: float = 2.5

    def columns(self) -> list[Column]:
        flags = [
            Column(f"{self.name}_flag_{key}", "bool", "", text) for key, (_, text) in SMOOTHED_FLAGS.items()
        ]
        what = "maximum of the PSF-smoothed image"
        return [
            *centroid_columns(self.name, what),
            Column(
                self.flag_name,
                "bool",
                "",
                "the centroid cannot be trusted; it is the peak pixel when nothing else",
            ),
            *flags,
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        px, py = context.peak
        ox, oy = context.exposure.origin
        found, flags = self._centroids(context, px - ox, py - oy)
        self._remove_phase_pull(context, px, py, found, flags)
        x, y = found[:, 0], found[:, 1]
        lost = ~np.isfinite(x) | ~np.isfinite(y)
        away = np.zeros(context.n, bool)
        if self.max_distance > 0:
            away |= np.hypot(x - (px - ox), y - (py - oy)) > self.max_distance
        if self.check_footprint:
            away |= ~inside_footprints(context.spans, context.span_offsets, x, y)
        away &= ~lost
        flags[away] |= kernel.FLAG_RESET_TO_PEAK
        peak = away | lost
        found[peak, 0], found[peak, 1] = px[peak] - ox, py[peak] - oy
        found[lost, 2:] = np.nan
        values = centroid_values(self.name, found, (ox, oy))
        values[self.flag_name] = ((flags & FAILURES) != 0) | lost
        for key, (bit, _) in SMOOTHED_FLAGS.items():
            values[f"{self.name}_flag_{key}"] = (flags & bit) != 0
        return values

    def _centroids(
        self, context: MeasurementContext, px: np.ndarray, py: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        found = np.full((context.n, 5), np.nan)
        flags = np.zeros(context.n, np.int32)
        typical = _typical_sigma2(context.psf)
        for rows, kernels, index in context.psf_kernels():
            m = context.keep_psf_shape(rows, kernels)
            found[rows], flags[rows] = self._measure(
                context.pixels, kernels, m, index, px[rows], py[rows], rows.start, typical
            )
        return found, flags

    def _measure(
        self, pixels: SourcePixels, kernels: np.ndarray, moments: np.ndarray, index: np.ndarray,
        px: np.ndarray, py: np.ndarray, first: int, typical: float,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        width = np.sqrt(np.maximum(moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2, 0.0))
        kernels = _core(kernels, typical)
        return kernel.smoothed_centroids(
            pixels, kernels, index, px, py, width, self.max_bin, self.wide, first, typical
        )

    def _remove_phase_pull(
        self,
        context: MeasurementContext,
        px: np.ndarray,
        py: np.ndarray,
        found: np.ndarray,
        flags: np.ndarray,
    ) -> None:
        """Correct centroids (array index) in place where the PSF is undersampled."""
        if not context.n or not context.psf.fwhm_at() < self.undersampled_fwhm:
            return

        typical = _typical_sigma2(context.psf)

        def measure(
            pixels: SourcePixels, kernels: np.ndarray, index: np.ndarray, x: np.ndarray, y: np.ndarray
        ) -> np.ndarray:
            moments = stack_moments(kernels, 100)[0]
            return self._measure(pixels, kernels, moments, index, x, y, 0, typical)[0][:, :2]

        box = context.exposure.box
        pull = measure_phase_pull(context.psf, box, measure)
        good = np.isfinite(found[:, 0]) & np.isfinite(found[:, 1]) & ((flags & FAILURES) == 0)
        px, py = px[good], py[good]
        dx, dy = found[good, 0] + box.x0 - px, found[good, 1] + box.y0 - py
        dx, dy = pull.true_offset(px.astype(np.float64), py.astype(np.float64), dx, dy)
        found[good, 0], found[good, 1] = px - box.x0 + dx, py - box.y0 + dy


def _typical_sigma2(psf: Psf) -> float:
    """Return the squared radius of the PSF of the frame, pixels**2; infinite when it cannot be measured."""
    sigma = float(psf.sigma_at())
    return sigma**2 if np.isfinite(sigma) and sigma > 0 else np.inf


def _core(kernels: np.ndarray, sigma2: float) -> np.ndarray:
    """Return the part of the kernels that smoothing needs: the far wings do not move a maximum."""
    size = kernels.shape[1]
    half = int(min(np.ceil(SMOOTHING_SIGMAS * np.sqrt(sigma2)), size // 2))
    cut = size // 2 - half
    return np.ascontiguousarray(kernels[:, cut : size - cut, cut : size - cut])


@register
@dataclass(frozen=True)
class WindowedCentroid(Plugin):
    """Iterated mean position under a round Gaussian window.

    Parameters
    ----------
    window : float
        Radius of the window over the radius of the source (its determinant radius, at least the PSF's).
    max_iterations : int
    tolerance : float
        Pixels.
    """

    name: ClassVar[str] = "windowed_centroid"
    order: ClassVar[float] = 1.5  # after the shape
    needs_psf: ClassVar[bool] = True

    window: float = 1.0
    max_iterations: int = 16
    tolerance: float = 2e-4

    def columns(self) -> list[Column]:
        return [
            *centroid_columns(self.name, "mean position under a Gaussian window"),
            Column(self.flag_name, "bool", "", "no windowed centroid; the centroid slot is given"),
            Column(f"{self.flag_name}_not_converged", "bool", "", "the iteration did not converge"),
            Column(f"{self.flag_name}_off_image", "bool", "", "the centroid slot is not inside the image"),
        ]

    def measure(self, context: MeasurementContext) -> dict[str, Any]:
        m = context.shape
        radius = np.maximum(m[:, 0] * m[:, 1] - m[:, 2] ** 2, 0.0) ** 0.25
        sigma = self.window * np.fmax(radius, context.psf_sigma)
        x, y = context.array_x, context.array_y
        found, failed = kernel.windowed_centroids(
            context.pixels, x, y, np.ascontiguousarray(sigma), self.max_iterations, self.tolerance
        )
        found[failed, 0], found[failed, 1] = x[failed], y[failed]
        values = centroid_values(self.name, found, context.exposure.origin)
        outside = ~context.on_image
        values[self.flag_name] = failed | outside
        values[f"{self.flag_name}_not_converged"] = failed & ~outside
        values[f"{self.flag_name}_off_image"] = outside
        return values
