"""Deblending of a catalogue with a multi-threshold tree, the fast alternative to templates."""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import NDArray

from starmill.datamodel.catalog import Column
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import FootprintSet
from starmill.deblending.children import Deblended
from starmill.deblending.multi_threshold import deblend_multi_threshold, smoothed_noise
from starmill.deblending.symmetric_templates import image_noise
from starmill.errors import AlgorithmError
from starmill.tasks.base import Config, field
from starmill.tasks.deblend import CHILD_COLUMNS, PARENT_COLUMNS, SourceDeblendTask

__all__ = ["MultiThresholdDeblendConfig", "MultiThresholdDeblendTask"]


class MultiThresholdDeblendConfig(Config):
    """Levels and contrast of the tree."""

    base_threshold: float = field(
        1.5, "Lowest level in units of the noise of the smoothed image.", gt=0, unit="sigma"
    )
    smoothing: float = field(0.5, "Sigma of the smoothing before the tree, times the sigma of the PSF.", gt=0)
    n_levels: int = field(32, "Levels between the lowest one and the peak, at equal ratios.", ge=1)
    contrast: float = field(0.001, "Part of the light of a footprint that a branch must hold.", ge=0, le=1)
    min_drop: float = field(
        4.0, "Smallest height of a peak over its junction, in units of its noise.", ge=0, unit="sigma"
    )
    min_pixels: int = field(3, "Fewest pixels of a branch.", ge=1, unit="pixel")
    max_area: int = field(1_000_000, "Larger footprints are skipped.", ge=1, unit="pixel")
    not_deblended_plane: str = field("NOT_DEBLENDED", "Mask plane set on skipped parents; empty for none.")


class MultiThresholdDeblendTask(SourceDeblendTask):
    """Split sources at the branches of their light; every pixel goes to one child."""

    Config = MultiThresholdDeblendConfig  # type: ignore[assignment]
    columns: ClassVar[tuple[Column, ...]] = (*PARENT_COLUMNS, *CHILD_COLUMNS)

    def deblend(self, exposure: Exposure, footprints: FootprintSet) -> Deblended:
        """Return the children of all footprints."""
        config = self.config
        if exposure.psf is None:
            raise AlgorithmError("the exposure has no PSF", numbers={"n_psf": 0})
        smoothing = config.smoothing * exposure.psf.sigma_at()
        noise = image_noise(exposure.variance) * smoothed_noise(smoothing)
        return deblend_multi_threshold(
            exposure.image, exposure.variance, exposure.mask.array, footprints, smoothing=smoothing,
            threshold=config.base_threshold * noise, n_levels=config.n_levels, contrast=config.contrast,
            min_pixels=config.min_pixels, min_drop=config.min_drop, max_area=config.max_area, origin=exposure.origin,
        )  # fmt: skip

    def child_columns(self, found: Deblended) -> dict[str, NDArray[Any]]:
        """Return the columns of the children by name."""
        return {"deblend_peak": found.values["peak"]}
