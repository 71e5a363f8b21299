"""Detection with a threshold that follows the noise measured in empty places."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ConstantField
from starmill.datamodel.footprint import FootprintSet
from starmill.detection.filters import Smoothed
from starmill.detection.footprints import grow_footprints, growth_radius, mark_footprints
from starmill.detection.noise_scale import MIN_SAMPLE, smoothed_noise_scale
from starmill.detection.sky_objects import place_sky_objects
from starmill.errors import AlgorithmError
from starmill.tasks.base import Result, field, subtask
from starmill.tasks.config import SubtaskConfig
from starmill.tasks.detect import Detections, SourceDetectionConfig, SourceDetectionTask
from starmill.tasks.shared_pixels import with_pixels
from starmill.tasks.sky_objects import SkyObjectsConfig

__all__ = ["DynamicDetectionConfig", "DynamicDetectionTask"]

MAX_RAISES = 20  # steps of raising a threshold before giving up


class DynamicDetectionConfig(SourceDetectionConfig):
    """A threshold in units of the noise that empty places really have."""

    sky_objects: SubtaskConfig = subtask(
        SkyObjectsConfig, "Empty places in which the noise is measured.", n_objects=1000,
        avoid_planes=["DETECTED", "DETECTED_NEGATIVE", "BAD", "NO_DATA", "SAT"],
    )  # fmt: skip
    min_sky_fraction: float = field(0.02, "Smallest part of the sky objects that must be found.", ge=0, le=1)
    prelim_factor: float = field(
        0.5, "Threshold of the first pass that masks the sources, times the threshold.", gt=0
    )
    prelim_negative_factor: float = field(2.5, "The same for negative sources, times the first.", gt=0)
    mask_bright: bool = field(True, "Mask the wings of very bright sources in a pass of its own.")
    bright_multiplier: float = field(
        2000.0, "Very bright: pixels above this multiple of the first pass.", gt=1
    )
    bright_growth: float = field(40.0, "Growth of very bright sources, times the usual growth.", ge=1)
    bright_max_fraction: float = field(
        0.95, "Largest part of the image that very bright sources may mask.", gt=0, le=1
    )
    raise_factor: float = field(1.2, "Step by which a threshold is raised when it masks too much.", gt=1)
    min_factor: float = field(0.1, "Smallest change of the threshold.", gt=0)
    max_factor: float = field(10.0, "Largest change of the threshold.", gt=0)
    scale_threshold: bool = field(True, "Multiply the threshold by true over formal noise.")
    tweak_background: bool = field(True, "Subtract the median level of the empty places at the end.")
    max_background_tweak: float = field(100.0, "Largest such level, unit of the image.", ge=0)
    max_peaks_per_footprint: float = field(
        150.0, "Raise the threshold while footprints have more peaks on average.", gt=1
    )


class DynamicDetectionTask(SourceDetectionTask):
    """Detect sources of images whose variance plane is not to be trusted, such as stacks.

    A low first pass masks the sources; the noise of the smoothed image is then measured in empty places, and the
    threshold is multiplied by true over formal noise.

    Notes
    -----
    The LSST task multiplies by formal over true noise; here a threshold of five means five times the scatter that
    empty places have.
    """

    Config = DynamicDetectionConfig

    def __init__(self, config: Any = None, **keywords: Any) -> None:
        super().__init__(config, **keywords)
        self.make_subtask("sky_objects")

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
        """Find sources; arguments and results as for :class:`SourceDetectionTask`.

        ``factor`` of the result is what the threshold was multiplied by; ``level`` the background found in empty
        places.

        Raises
        ------
        AlgorithmError
            When too few empty places are found.
        """
        config = self.config
        sigma = self.psf_sigma(exposure) if sigma is None else sigma
        exposure_id = exposure.info.exposure_id if exposure_id is None else exposure_id
        work = self.clear_planes(exposure, in_place)
        smoothed = self.smooth(work, sigma)
        scale = self.noise_scale(work, smoothed, exposure_id)
        if config.scale_threshold:
            factor *= float(np.clip(scale, config.min_factor, config.max_factor))
        found, factor = self.find_simple(work, sigma, factor)
        self.mark(work.mask, found)
        backgrounds = list(background or [])
        level = 0.0
        if config.re_estimate_background:
            measured = self.background.run(exposure=work, **self.background.in_place(in_place))
            work, backgrounds = measured.exposure, backgrounds + measured.background
        if config.tweak_background:
            _, level = self.measure_sky(work, self.smooth(work, sigma), exposure_id)
            level = float(np.clip(level, -config.max_background_tweak, config.max_background_tweak))
            work = with_pixels(work, work.image - np.float32(level), work.mask)
            backgrounds.append(ConstantField(work.box, level))
        hidden = {"positive": "DETECTED_NEGATIVE", "negative": "DETECTED"}.get(config.polarity)
        if hidden:
            work.mask.clear(hidden)
        result = self.collect(work, found, sigma, exposure_id, backgrounds, factor)
        result.level = level
        self.metadata.update(factor=factor, level=level)
        return result

    def noise_scale(self, exposure: Exposure, smoothed: Smoothed, seed: int) -> float:
        """Return true over formal noise, masking less when the first pass leaves too few empty places."""
        factor = self.config.prelim_factor
        for _ in range(MAX_RAISES):
            masked = self.mask_sources(exposure, smoothed, factor)
            if len(self.empty_places(masked, seed)) >= self.needed_places:
                break
            factor *= self.config.raise_factor
        return self.measure_sky(masked, smoothed, seed)[0]

    @property
    def needed_places(self) -> int:
        """Smallest number of empty places to measure the noise in."""
        return max(
            int(self.config.min_sky_fraction * self.subtasks["sky_objects"].config.n_objects), MIN_SAMPLE
        )

    def mask_sources(self, exposure: Exposure, smoothed: Smoothed, factor: float) -> Exposure:
        """Return the exposure with the sources of a low threshold, and wings of very bright ones, marked."""
        config = self.config
        mask = exposure.mask.copy()
        negative = factor * config.prelim_negative_factor
        radius = growth_radius(smoothed.sigma, config.grow_sigma)
        if config.mask_bright:
            bright = factor * config.bright_multiplier
            for _ in range(MAX_RAISES):
                cores = self.apply_threshold(smoothed, exposure, bright, bright)
                wide = self._grown(cores, int(config.bright_growth * radius), exposure)
                if sum(int(s.areas.sum()) for s in wide) <= config.bright_max_fraction * exposure.image.size:
                    break
                bright *= config.raise_factor
            self._mark_both(mask.array, wide, mask)
        cores = self.apply_threshold(smoothed, exposure, factor, negative)
        self._mark_both(mask.array, self._grown(cores, radius, exposure), mask)
        return with_pixels(exposure, exposure.image, mask)

    def _grown(
        self, cores: tuple[FootprintSet, FootprintSet], radius: int, exposure: Exposure
    ) -> list[FootprintSet]:
        return [grow_footprints(core, radius, exposure.box) for core in cores]

    def _mark_both(self, array: Any, sets: list[FootprintSet], mask: Any) -> None:
        for footprints, plane in zip(sets, ("DETECTED", "DETECTED_NEGATIVE"), strict=True):
            mark_footprints(array, footprints, mask.bits(plane), mask.origin)

    def empty_places(self, exposure: Exposure, seed: int) -> NDArray[np.int64]:
        """Return positions x, y without sources, (n, 2)."""
        sky = self.subtasks["sky_objects"].config
        return place_sky_objects(
            exposure.mask.array, exposure.mask.planes.bits_present(*sky.avoid_planes), seed=seed,
            n_objects=sky.n_objects, radius=sky.radius, n_trials=sky.trials or None, grow_mask=sky.grow_mask,
            origin=exposure.origin,
        )  # fmt: skip

    def measure_sky(self, exposure: Exposure, smoothed: Smoothed, seed: int) -> tuple[float, float]:
        """Return true over formal noise of the smoothed image, and its level, in empty places."""
        positions = self.empty_places(exposure, seed)
        if len(positions) < self.needed_places:
            raise AlgorithmError(
                "too few empty places to measure the noise",
                numbers={"found": len(positions), "needed": self.needed_places},
            )
        return smoothed_noise_scale(smoothed, positions, exposure.origin)

    def find_simple(self, exposure: Exposure, sigma: float, factor: float) -> tuple[Detections, float]:
        """Detect, raising the threshold while footprints hold too many peaks."""
        for _ in range(MAX_RAISES):
            found = self.find(exposure, sigma, factor)
            n = len(found.positive)
            if n == 0 or len(found.positive.peaks) <= self.config.max_peaks_per_footprint * n:
                break
            factor *= self.config.raise_factor
        return found, factor
