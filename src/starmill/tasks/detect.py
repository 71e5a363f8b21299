"""Detection of sources: smooth, threshold, grow, find peaks, mark, re-estimate the background."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.background.mesh import estimate_background
from starmill.datamodel.catalog import MINIMAL_COLUMNS, Catalog, Column, Schema, source_ids
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import FootprintSet
from starmill.datamodel.mask import Mask
from starmill.detection.filters import Smoothed, mark_border, smooth, smooth_mask
from starmill.detection.footprints import grow_footprints, growth_radius, mark_footprints
from starmill.detection.peaks import drop_shallow_peaks, move_missing_peaks, replace_peaks
from starmill.detection.sharpening import sharpen_peaks
from starmill.detection.threshold import detect_footprints
from starmill.errors import AlgorithmError, InputError
from starmill.numerics.statistics import clipped_statistics
from starmill.tasks.base import Config, Result, Task, field, subtask
from starmill.tasks.config import SubtaskConfig
from starmill.tasks.shared_pixels import with_pixels
from starmill.tasks.subtract_background import SubtractBackgroundConfig

__all__ = ["DETECTION_COLUMNS", "SourceDetectionConfig", "SourceDetectionTask"]

DETECTION_COLUMNS: tuple[Column, ...] = (
    Column("n_peaks", "i4", "", "number of peaks of the footprint"),
    Column("peak_value", "f4", "electron", "height of the smoothed image at the highest peak, image unit"),
    Column("peak_significance", "f4", "", "height of the highest peak over its error"),
)
NEGATIVE_COLUMN = Column("is_negative", "bool", "", "found below the background")
NO_DATA_PLANES = ("NO_DATA", "BAD")


class SourceDetectionConfig(Config):
    """How sources are found."""

    threshold: float = field(5.0, "Threshold, in the unit that threshold_type says.", gt=0)
    threshold_type: Literal["pixel_stdev", "stdev", "value", "variance"] = field(
        "pixel_stdev",
        "Unit of the threshold: error of each pixel, clipped scatter of the image, image unit, variance.",
    )
    include_multiplier: float = field(
        1.0, "A footprint is kept only if a pixel reaches this multiple of the threshold.", gt=0
    )
    polarity: Literal["positive", "negative", "both"] = field(
        "positive", "Sources above, below the background, or both."
    )
    min_pixels: int = field(
        1, "Smallest number of pixels of a footprint before it grows.", ge=1, unit="pixel"
    )
    grow_sigma: float = field(2.4, "Footprints grow by this multiple of the sigma of the PSF.", ge=0)
    merge_grown: bool = field(True, "Footprints that touch after growth become one.")
    return_original_footprints: bool = field(
        False, "Return footprints as they were before growth; the mask has the grown."
    )
    kernel_width_sigma: float = field(7.0, "Full width of the smoothing kernel in sigma.", gt=1)
    search_edge: bool = field(False, "Also search the border where the kernel reaches outside the image.")
    thin_plateaus: bool = field(False, "One peak for a flat top instead of one for each of its pixels.")
    use_local_background: bool = field(
        True, "Find the peaks of footprints with many peaks above a local background."
    )
    local_bin_size: int = field(64, "Cell of the local background.", ge=8, unit="pixel")
    max_simple_peaks: int = field(1, "Footprints with at most this number of peaks keep them.", ge=0)
    min_peak_drop: float = field(
        0.0, "By how much the smoothed image falls between a peak and a brighter one nearby; 0 keeps all peaks.",
        ge=0, unit="sigma",
    )  # fmt: skip
    sharpen_peaks: bool = field(
        False, "Find the peaks of close pairs on a sharpened image, where smoothing has merged them."
    )
    sharpen_sigma: float = field(
        4.0, "Significance of the drop between two sharpened peaks.", gt=0, unit="sigma"
    )
    sharpen_depth: float = field(
        0.01, "Smallest drop between two sharpened peaks, as a part of the brighter.", ge=0, lt=1
    )
    sharpen_avoid_planes: list[str] = field(
        lambda: ["SAT", "BAD", "CR", "NO_DATA"], "No sharpened peak near pixels of these planes."
    )
    use_wide_background: bool = field(False, "Subtract a wide background while sources are sought.")
    wide_bin_size: int = field(512, "Cell of the wide background.", ge=8, unit="pixel")
    re_estimate_background: bool = field(
        True, "Measure and subtract the background again without the sources found."
    )
    background: SubtaskConfig = subtask(
        SubtractBackgroundConfig, "The background that is measured again; the border belongs to it.",
        ignored_planes=["BAD", "DETECTED", "DETECTED_NEGATIVE", "NO_DATA"],
    )  # fmt: skip
    missing_planes: list[str] = field(
        lambda: list(NO_DATA_PLANES),
        "Pixels of these planes are left out of the smoothing unless interpolated (INTRP).",
    )
    stats_planes: list[str] = field(
        lambda: ["BAD", "SAT", "EDGE", "NO_DATA"],
        "Pixels of these planes are left out of the scatter of the image.",
    )
    exclude_planes: list[str] = field(
        list, "Smoothed pixels that one of these planes touches cannot be detected."
    )


@dataclass(frozen=True)
class Detections:
    """Footprints of both signs, before and after growth.

    Attributes
    ----------
    smoothed : Smoothed
    positive, negative : FootprintSet
        After growth.
    positive_core, negative_core : FootprintSet
        Before growth.
    """

    smoothed: Smoothed
    positive: FootprintSet
    negative: FootprintSet
    positive_core: FootprintSet
    negative_core: FootprintSet


class SourceDetectionTask(Task):
    """Find the sources of an exposure.

    The image is smoothed with a Gaussian of the size of the point-spread function, its variance with the
    squared Gaussian, and pixels above the threshold form footprints. The exposure that is given stays as it
    is: the result holds a new one with the planes DETECTED and DETECTED_NEGATIVE set and, when the background
    was measured again, the rest of it subtracted.
    """

    Config = SourceDetectionConfig
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure"}
    writes: ClassVar[dict[str, str]] = {
        "exposure": "exposure",
        "catalog": "catalog",
        "background": "background",
    }

    def __init__(self, config: Any = None, **keywords: Any) -> None:
        super().__init__(config, **keywords)
        self.make_subtask("background")

    @property
    def schema(self) -> Schema:
        """The columns of the catalogue, known before anything runs."""
        extra = (NEGATIVE_COLUMN,) if self.config.polarity == "both" else ()
        return Schema([*MINIMAL_COLUMNS, *DETECTION_COLUMNS, *extra])

    def run(
        self,
        *,
        exposure: Exposure,
        sigma: float | None = None,
        exposure_id: int | None = None,
        background: list[Any] | None = None,
        factor: float = 1.0,
        in_place: bool = False,
    ) -> Result:
        """Find sources.

        Parameters
        ----------
        exposure : Exposure
            Background subtracted, with a PSF unless ``sigma`` is given. Not changed unless ``in_place``.
        sigma : float, optional, pixel
            Size of the smoothing Gaussian; the determinant radius of the PSF when not given.
        exposure_id : int, optional
            Upper bits of the source ids; of ``exposure.info`` when not given.
        background : list, optional
            Backgrounds subtracted before; the result's list starts with them.
        factor : float
            Multiplies the threshold.
        in_place : bool
            Mark the detections on the exposure itself, and subtract the re-estimated background from it.

        Returns
        -------
        result : Result
            ``exposure``; ``catalog`` (also as ``sources``), one row per footprint with footprints and peaks;
            ``positive``, ``negative`` FootprintSets, None when not asked for; ``n_positive``, ``n_negative``,
            ``n_positive_peaks``, ``n_negative_peaks``; ``background`` list; ``factor``; ``sigma``.

        Raises
        ------
        AlgorithmError
            When there is no usable PSF, no usable pixel or no positive variance.
        """
        sigma = self.psf_sigma(exposure) if sigma is None else sigma
        work = self.clear_planes(exposure, in_place)
        found = self.find(work, sigma, factor)
        self.mark(work.mask, found)
        self.debug_hook("detections", exposure=work, found=found)
        backgrounds = list(background or [])
        if self.config.re_estimate_background and self.has_sky(work):
            # the mask is this task's own by now, the image is that of the caller
            measured = self.background.run(exposure=work, **self.background.in_place(in_place))
            work = measured.exposure
            backgrounds += measured.background
        if self.config.polarity == "positive":
            work.mask.clear("DETECTED_NEGATIVE")
        elif self.config.polarity == "negative":
            work.mask.clear("DETECTED")
        return self.collect(work, found, sigma, exposure_id, backgrounds, factor)

    def has_sky(self, exposure: Exposure) -> bool:
        """Return whether the background can be measured again; says so in the log when it cannot."""
        planes, mask = exposure.mask.planes, exposure.mask.array
        bits = np.int32(planes.bits_present(*self.background.config.ignored_planes))
        for pixels in (mask[::16, ::16], mask):  # a sample tells in nearly all images
            if ((pixels & bits) == 0).any():
                return True
        self.log.warning("no pixel is free of sources: the background is not measured again")
        return False

    def psf_sigma(self, exposure: Exposure) -> float:
        """Return the determinant radius of the PSF at its average position, pixel."""
        if exposure.psf is None:
            raise AlgorithmError("the exposure has no PSF and no sigma was given", numbers={"n_psf": 0})
        sigma = exposure.psf.sigma_at()
        if not (np.isfinite(sigma) and sigma > 0):
            raise AlgorithmError("the PSF has no valid size", numbers={"sigma": float(sigma)})
        return sigma

    def clear_planes(self, exposure: Exposure, in_place: bool = False) -> Exposure:
        """Return an exposure that shares the pixels, and without detections in a mask of its own unless in place."""
        mask = exposure.mask if in_place else exposure.mask.copy()
        mask.clear("DETECTED", "DETECTED_NEGATIVE")
        return exposure if in_place else with_pixels(exposure, exposure.image, mask)

    def find(
        self, exposure: Exposure, sigma: float, factor: float = 1.0, grow: float | None = None
    ) -> Detections:
        """Smooth, apply the thresholds and grow, without changing anything.

        Parameters
        ----------
        exposure : Exposure
        sigma : float, pixel
        factor : float
            Multiplies the threshold of both signs.
        grow : float, optional
            Replaces ``grow_sigma``.
        """
        config = self.config
        with self.timer("smooth"):
            smoothed = self.smooth(exposure, sigma)
        with self.timer("threshold"):
            cores = self.apply_threshold(smoothed, exposure, factor, factor)
        if config.use_local_background:
            with self.timer("local_background"):
                cores = self.improve_peaks(cores, smoothed, exposure, factor)
        cores = self.move_peaks(cores, smoothed, exposure, sigma)
        plain = [core.peaks for core in cores]
        if config.sharpen_peaks:
            with self.timer("sharpen"):
                cores = self.separate_peaks(cores, smoothed, exposure)
        with self.timer("grow"):
            radius = growth_radius(sigma, config.grow_sigma if grow is None else grow)
            positive, negative = (
                grow_footprints(core, radius, exposure.box, merge=config.merge_grown, sign=sign)
                for core, sign in zip(cores, (1.0, -1.0), strict=True)
            )
        if config.min_peak_drop > 0:
            with self.timer("shallow_peaks"):
                positive = self.drop_shallow(positive, plain[0], smoothed, exposure, 1.0)
                negative = self.drop_shallow(negative, plain[1], smoothed, exposure, -1.0)
        return Detections(smoothed, positive, negative, *cores)

    def smooth(self, exposure: Exposure, sigma: float) -> Smoothed:
        """Return the smoothed image and variance; pixels of excluded planes become NaN."""
        config, mask = self.config, exposure.mask
        planes = mask.planes
        image = exposure.image
        if config.use_wide_background:
            image = image - _spline_background(exposure, config.wide_bin_size).image(exposure.box, np.float32)
        smoothed = smooth(
            image, sigma, variance=exposure.variance, mask=mask.array,
            missing_bits=planes.bits_present(*config.missing_planes), keep_bits=planes.bits_present("INTRP"),
            n_sigma=config.kernel_width_sigma, search_edge=config.search_edge,
        )  # fmt: skip
        _check_usable(exposure, smoothed)
        excluded = planes.bits_present(*config.exclude_planes)
        if excluded:
            touched = smooth_mask(mask.array, smoothed.border, planes.bits_present("EDGE"))
            smoothed.image[(touched & excluded) != 0] = np.nan
        return smoothed

    def apply_threshold(
        self, smoothed: Smoothed, exposure: Exposure, factor: float, negative_factor: float
    ) -> tuple[FootprintSet, FootprintSet]:
        """Return the footprints above the positive and below the negative threshold, not grown."""
        scatter = self.scatter(smoothed, exposure)
        return (
            self.threshold_one_sign(smoothed, exposure, scatter, 1.0, factor),
            self.threshold_one_sign(smoothed, exposure, scatter, -1.0, negative_factor),
        )

    def threshold_one_sign(
        self, smoothed: Smoothed, exposure: Exposure, scatter: float | None, sign: float, factor: float
    ) -> FootprintSet:
        """Return the footprints of one sign, not grown."""
        config = self.config
        return detect_footprints(
            smoothed.image, config.threshold * factor, variance=smoothed.variance,
            threshold_type=config.threshold_type, scatter=scatter, sign=sign,
            include_multiplier=config.include_multiplier, min_pixels=config.min_pixels,
            search_box=smoothed.search_box, origin=exposure.origin, thin_plateaus=config.thin_plateaus,
        )  # fmt: skip

    def scatter(self, smoothed: Smoothed, exposure: Exposure) -> float | None:
        """Return the clipped scatter of the smoothed image outside ``stats_planes``, when the threshold needs it."""
        if self.config.threshold_type not in ("stdev", "variance"):
            return None
        bits = exposure.mask.planes.bits_present(*self.config.stats_planes)
        inside = smoothed.search_box.slices()
        return float(
            clipped_statistics(smoothed.image[inside], exposure.mask.array[inside], bits=bits).clipped_std
        )

    def improve_peaks(
        self, cores: tuple[FootprintSet, FootprintSet], smoothed: Smoothed, exposure: Exposure, factor: float
    ) -> tuple[FootprintSet, FootprintSet]:
        """Replace the peaks of complex footprints by those above a local background."""
        config = self.config
        complex_ones = [bool((core.n_peaks > config.max_simple_peaks).any()) for core in cores]
        if not any(complex_ones):
            return cores
        local = _spline_background(exposure, config.local_bin_size).image(exposure.box, np.float32)
        corrected = replace(smoothed, image=np.subtract(smoothed.image, local, out=local))
        scatter = self.scatter(corrected, exposure)
        improved = list(cores)
        for i, sign in enumerate((1.0, -1.0)):
            if complex_ones[i]:
                again = self.threshold_one_sign(corrected, exposure, scatter, sign, factor)
                improved[i] = replace_peaks(
                    cores[i],
                    again,
                    exposure.origin,
                    exposure.shape,
                    max_simple=config.max_simple_peaks,
                    sign=sign,
                )
        return improved[0], improved[1]

    def move_peaks(
        self, cores: tuple[FootprintSet, FootprintSet], smoothed: Smoothed, exposure: Exposure, sigma: float
    ) -> tuple[FootprintSet, FootprintSet]:
        """Move peaks out of holes of the data."""
        planes, mask, image = exposure.mask.planes, exposure.mask.array, exposure.image
        missing = np.int32(planes.bits_present(*self.config.missing_planes))
        kept = np.int32(planes.bits_present("INTRP"))

        def has_data(rows: Any, columns: Any) -> NDArray[np.bool_]:
            bits = mask[rows, columns]
            there: NDArray[np.bool_] = ((bits & missing) == 0) | ((bits & kept) != 0)
            return there & np.isfinite(image[rows, columns])

        radius = int(np.ceil(2 * sigma))
        positive, negative = (
            move_missing_peaks(
                core, smoothed.image, has_data, radius=radius, origin=exposure.origin, sign=sign
            )
            for core, sign in zip(cores, (1.0, -1.0), strict=True)
        )
        return positive, negative

    def drop_shallow(
        self, grown: FootprintSet, plain: NDArray[Any], smoothed: Smoothed, exposure: Exposure, sign: float
    ) -> FootprintSet:
        """Remove the peaks of the smoothed image that noise makes on the sides of others; sharpened ones stay."""
        if smoothed.variance is None:
            raise InputError("min_peak_drop needs an image with variance")
        return drop_shallow_peaks(
            grown, smoothed.image, smoothed.variance, among=plain, min_drop=self.config.min_peak_drop,
            origin=exposure.origin, sign=sign,
        )  # fmt: skip

    def separate_peaks(
        self, cores: tuple[FootprintSet, FootprintSet], smoothed: Smoothed, exposure: Exposure
    ) -> tuple[FootprintSet, FootprintSet]:
        """Add the peaks of close pairs that the smoothing has merged (positive footprints only)."""
        bits = exposure.mask.planes.bits_present(*self.config.sharpen_avoid_planes)
        positive = sharpen_peaks(
            exposure.image, exposure.variance, cores[0], smoothed.sigma, smoothed=smoothed.image,
            smoothed_variance=smoothed.variance, avoid=(exposure.mask.array & np.int32(bits)) != 0,
            origin=exposure.origin, n_sigma=self.config.sharpen_sigma,
            depth=self.config.sharpen_depth,
        )  # fmt: skip
        return positive, cores[1]

    def mark(self, mask: Mask, found: Detections) -> None:
        """Set DETECTED and DETECTED_NEGATIVE on the grown footprints, EDGE where nothing was sought."""
        mark_border(mask.array, found.smoothed.search_box, mask.planes.bits_present("EDGE"))
        mark_footprints(mask.array, found.positive, mask.bits("DETECTED"), mask.origin)
        mark_footprints(mask.array, found.negative, mask.bits("DETECTED_NEGATIVE"), mask.origin)

    def collect(
        self,
        exposure: Exposure,
        found: Detections,
        sigma: float,
        exposure_id: int | None,
        backgrounds: list[Any],
        factor: float,
    ) -> Result:
        """Make the catalogue and the numbers of a run."""
        original = self.config.return_original_footprints
        positive = found.positive_core if original else found.positive
        negative = found.negative_core if original else found.negative
        wanted = {"positive": [positive], "negative": [negative], "both": [positive, negative]}[
            self.config.polarity
        ]
        catalog = self.make_catalog(wanted, exposure, exposure_id)
        self.metadata.update(
            sigma=sigma,
            n_positive=len(positive),
            n_negative=len(negative),
            n_peaks=int(catalog["n_peaks"].sum()),
        )
        self.log.info("%d footprints with %d peaks", len(catalog), self.metadata["n_peaks"])
        polarity = self.config.polarity
        return Result(
            exposure=exposure,
            catalog=catalog,
            sources=catalog,
            positive=positive if polarity != "negative" else None,
            negative=negative if polarity != "positive" else None,
            n_positive=len(positive),
            n_negative=len(negative),
            n_positive_peaks=len(positive.peaks),
            n_negative_peaks=len(negative.peaks),
            background=backgrounds,
            factor=factor,
            sigma=sigma,
        )

    def make_catalog(self, sets: list[FootprintSet], exposure: Exposure, exposure_id: int | None) -> Catalog:
        """Return one row per footprint, at its highest peak."""
        footprints = FootprintSet.concatenate(sets)
        n = len(footprints)
        first = footprints.peaks[footprints.peak_offsets[:-1]] if n else footprints.peaks[:0]
        columns: dict[str, NDArray[Any]] = {
            "id": source_ids(n, exposure.info.exposure_id if exposure_id is None else exposure_id),
            "parent": np.zeros(n, np.int64),
            "x": first["x"],
            "y": first["y"],
            "n_peaks": footprints.n_peaks,
            "peak_value": first["value"],
            "peak_significance": first["significance"],
        }
        if self.config.polarity == "both":
            columns["is_negative"] = np.arange(n) >= len(sets[0])
        return Catalog(self.schema.in_pixel_unit(exposure.unit), columns, footprints=footprints)


def _spline_background(exposure: Exposure, bin_size: int) -> Any:
    """Return the field of an Akima spline background that does not avoid the sources."""
    bits = exposure.mask.planes.bits_present("BAD", "EDGE", "NO_DATA")
    return estimate_background(
        exposure.image, exposure.mask.array, bits=bits, bin_size=bin_size, model="spline", spline="akima",
        origin=exposure.origin,
    ).field  # fmt: skip


def _check_usable(exposure: Exposure, smoothed: Smoothed) -> None:
    """Raise when nothing can be detected because of the pixels themselves."""
    inside = smoothed.search_box.slices()
    if not any(np.isfinite(row).any() for row in smoothed.image[inside]):
        raise AlgorithmError(
            "no pixel of the image can be used: all are masked or not finite",
            numbers={"usable_pixels": 0, "pixels": exposure.image.size},
        )
    if smoothed.variance is not None and not any((row > 0).any() for row in smoothed.variance[inside]):
        raise AlgorithmError(
            "the variance is zero or negative everywhere",
            numbers={"largest_variance": float(np.nanmax(exposure.variance))},
        )
