"""Subtract a smooth background."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from starmill.background.mesh import estimate_background, subtract_field
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import Field
from starmill.tasks.base import Config, Result, Task, field
from starmill.tasks.shared_pixels import with_pixels

__all__ = ["SubtractBackgroundConfig", "SubtractBackgroundTask"]


class SubtractBackgroundConfig(Config):
    """The mesh of local levels and the smooth function through it."""

    bin_size: int = field(128, "side of the cells in which the level is measured", unit="pixel", ge=2)
    statistic: Literal["clipped_mean", "mean", "median"] = field("clipped_mean", "level of a cell")
    n_sigma: float = field(3.0, "clipping of the cells", unit="sigma", gt=0)
    n_iterations: int = field(3, "clipping passes", ge=1)
    model: Literal["chebyshev", "spline"] = field("chebyshev", "smooth function through the cells")
    order: int = field(6, "total order of the Chebyshev series", ge=0, le=20)
    spline: Literal["akima", "natural", "linear", "constant"] = field("akima", "kind of spline")
    weighting: bool = field(True, "weight the cells of a Chebyshev series by their errors")
    undersampling: Literal["reduce_order", "increase_nodes", "raise"] = field(
        "reduce_order", "when an image has fewer cells than the model needs"
    )
    filter_size: int = field(0, "side of the median filter of the cells; 0 for none", unit="cell", ge=0)
    filter_threshold: float = field(
        0.0, "only cells that the filter changes by more are replaced", unit="standard errors", ge=0
    )
    ignored_planes: list[str] = field(
        lambda: ["BAD", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "NO_DATA"],
        "mask planes whose pixels say nothing about the background",
    )


class SubtractBackgroundTask(Task):
    """Measure the background in cells, fit a smooth function and subtract it."""

    Config = SubtractBackgroundConfig
    default_name = "background"
    reads: ClassVar[dict[str, str]] = {"exposure": "post_isr"}
    writes: ClassVar[dict[str, str]] = {"exposure": "background_subtracted", "background": "background"}

    def run(
        self, *, exposure: Exposure, background: list[Field] | None = None, in_place: bool = False
    ) -> Result:
        """Subtract the background.

        Parameters
        ----------
        exposure : Exposure
            Not changed unless ``in_place``. Pixels with one of the ignored planes, and those that are not finite, do not
            count.
        background : list of Field, optional
            Backgrounds that were subtracted before; the result's list starts with them.
        in_place : bool
            Subtract from the exposure itself instead of a copy.

        Returns
        -------
        result : Result
            ``exposure``, without the background (image and mask are its own, the variance is shared); ``background``,
            the list with the new field at its end; ``mesh``, the levels of the cells and their errors.

        Raises
        ------
        AlgorithmError
            When no cell has a usable pixel, or the cells are too few and the configuration does not allow a simpler
            model.
        """
        config = self.config
        found = estimate_background(
            exposure.image,
            exposure.mask.array,
            bits=exposure.mask.planes.bits_present(*config.ignored_planes),
            bin_size=config.bin_size,
            statistic=config.statistic,
            n_sigma=config.n_sigma,
            n_iterations=config.n_iterations,
            model=config.model,
            order=config.order,
            spline=config.spline,
            weighting=config.weighting,
            undersampling=config.undersampling,
            filter_size=config.filter_size,
            filter_threshold=config.filter_threshold,
            origin=exposure.origin,
        )
        result = (
            exposure
            if in_place
            else with_pixels(exposure, np.empty_like(exposure.image), exposure.mask.copy())
        )
        subtract_field(exposure.image, found.field, exposure.box, out=result.image)
        self.metadata.update(mean=found.field.mean(), order=found.order, cells=found.mesh.n_valid)
        self.debug_hook("background", exposure=result, background=found.field)
        return Result(exposure=result, background=[*(background or []), found.field], mesh=found.mesh)
