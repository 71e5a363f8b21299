"""Detection whose threshold is raised or lowered until the list of sources is useful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import FootprintSet
from starmill.errors import AlgorithmError
from starmill.tasks.base import Result, field
from starmill.tasks.detect import SourceDetectionConfig, SourceDetectionTask

__all__ = ["AdaptiveThresholdDetectionConfig", "AdaptiveThresholdDetectionTask"]

LOWER, RAISE, RAISE_MORE = 0.25, 1.2, 1.7
CLOSE = 1.05  # ratio of a threshold that is too high to one that is too low at which the search ends


class AdaptiveThresholdDetectionConfig(SourceDetectionConfig):
    """When a list of sources is neither too long, too blended nor too short."""

    max_iterations: int = field(20, "Most thresholds tried.", ge=1)
    max_peaks: int = field(5000, "Raise the threshold while there are more peaks.", ge=1)
    min_footprints: int = field(15, "Lower the threshold while there are fewer footprints.", ge=0)
    max_peaks_per_footprint: float = field(
        800.0, "Raise the threshold while a footprint has more peaks.", gt=1
    )
    min_isolated: int = field(6, "Raise the threshold while fewer footprints have a single peak.", ge=0)
    enough_isolated: int = field(100, "Stop when more footprints have a single peak ...", ge=0)
    enough_isolated_fraction: float = field(0.45, "... and they are more than this part of all.", ge=0, le=1)
    max_negative: int = field(15, "Raise the threshold while there are more negative peaks ...", ge=0)
    max_negative_fraction: float = field(0.025, "... and more than this part of the positive ones.", ge=0)


@dataclass(frozen=True)
class _Counts:
    """What decides about a threshold."""

    footprints: int
    peaks: int
    largest: int
    isolated: int
    negative_peaks: int


class AdaptiveThresholdDetectionTask(SourceDetectionTask):
    """Find a threshold that gives a useful list of bright, mostly isolated sources, then detect with it."""

    Config = AdaptiveThresholdDetectionConfig

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

        ``factor`` of the result is what the threshold was multiplied by; ``thresholds`` all factors that were tried.

        Raises
        ------
        AlgorithmError
            When no threshold gives any source.
        """
        sigma = self.psf_sigma(exposure) if sigma is None else sigma
        work = self.clear_planes(exposure, in_place)
        factor, tried = self.choose_factor(work, sigma, factor)
        result = super().run(
            exposure=exposure,
            sigma=sigma,
            exposure_id=exposure_id,
            background=background,
            factor=factor,
            in_place=in_place,
        )
        result.thresholds = tried
        self.metadata.update(factor=factor, n_thresholds=len(tried))
        return result

    def choose_factor(self, exposure: Exposure, sigma: float, factor: float) -> tuple[float, list[float]]:
        """Return the factor of the threshold, and all that were tried."""
        smoothed = self.smooth(exposure, sigma)
        tried: list[float] = []
        seen: list[_Counts] = []
        low, high = 0.0, np.inf
        for _ in range(self.config.max_iterations):
            cores = self.apply_threshold(smoothed, exposure, factor, factor)
            tried.append(factor)
            seen.append(_count(*cores))
            step = self.change(seen[-1])
            if step == 1.0 or high / max(low, 1e-30) < CLOSE:
                break
            if step > 1.0:
                low = max(low, factor)
                factor = factor * step if factor * step < high else float(np.sqrt(factor * high))
            else:
                high = min(high, factor)
                factor = factor * step if factor * step > low else float(np.sqrt(factor * low))
        return self.best(tried, seen), tried

    def best(self, tried: list[float], seen: list[_Counts]) -> float:
        """Return the factor that is good, else the lowest one with enough footprints, else the one with most."""
        if not any(counts.footprints for counts in seen):
            raise AlgorithmError(
                "no threshold gives any source",
                numbers={"tried": len(tried), "lowest": min(tried) * self.config.threshold},
            )
        if self.change(seen[-1]) == 1.0:
            return tried[-1]
        needed = max(self.config.min_footprints, 1)
        enough = [
            (counts.peaks, factor)
            for factor, counts in zip(tried, seen, strict=True)
            if counts.footprints >= needed
        ]
        if enough:
            return min(enough)[1]
        return max(zip((counts.footprints for counts in seen), tried, strict=True))[1]

    def change(self, counts: _Counts) -> float:
        """Return what to multiply the threshold by; 1 when it is good."""
        config = self.config
        negative = max(config.max_negative, config.max_negative_fraction * counts.peaks)
        if counts.peaks > 2 * config.max_peaks or counts.largest > config.max_peaks_per_footprint:
            return RAISE_MORE
        if counts.peaks > config.max_peaks or counts.negative_peaks > negative:
            return RAISE
        if counts.footprints < max(config.min_footprints, 1):
            return LOWER
        if counts.isolated < config.min_isolated:
            return RAISE
        enough = counts.isolated > config.enough_isolated
        if enough and counts.isolated < config.enough_isolated_fraction * counts.footprints:
            return RAISE
        return 1.0


def _count(positive: FootprintSet, negative: FootprintSet) -> _Counts:
    n_peaks = positive.n_peaks
    return _Counts(
        footprints=len(n_peaks),
        peaks=int(n_peaks.sum()),
        largest=int(n_peaks.max(initial=0)),
        isolated=int(np.count_nonzero(n_peaks == 1)),
        negative_peaks=len(negative.peaks),
    )
