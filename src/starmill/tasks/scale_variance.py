"""Make the variance plane agree with the scatter of the sky."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.exposure import Exposure
from starmill.detection.noise_scale import variance_scale
from starmill.errors import AlgorithmError
from starmill.tasks.base import Config, Result, Task, field, subtask
from starmill.tasks.config import SubtaskConfig
from starmill.tasks.subtract_background import SubtractBackgroundConfig

__all__ = ["ScaleVarianceConfig", "ScaleVarianceTask"]

SOURCE_PLANES = ("DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT", "NO_DATA", "INTRP")


class ScaleVarianceConfig(Config):
    """Which pixels count as sky, and how large a correction is believed."""

    background: SubtaskConfig = subtask(
        SubtractBackgroundConfig, "Background taken off while the scatter is measured.", bin_size=32,
        model="spline", ignored_planes=list(SOURCE_PLANES),
    )  # fmt: skip
    excluded_planes: list[str] = field(lambda: list(SOURCE_PLANES), "Pixels of these planes are not sky.")
    limit: float = field(10.0, "A larger factor, or one below its inverse, is an error.", gt=1)


class ScaleVarianceTask(Task):
    """Multiply the variance plane by one factor so that the sky scatters as it says.

    Resampled and stacked images have correlated pixels whose variance plane is too small or too large.
    """

    Config = ScaleVarianceConfig
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure"}
    writes: ClassVar[dict[str, str]] = {"exposure": "exposure"}

    def __init__(self, config: Any = None, **keywords: Any) -> None:
        super().__init__(config, **keywords)
        self.make_subtask("background")

    def run(self, *, exposure: Exposure) -> Result:
        """Scale the variance.

        Parameters
        ----------
        exposure : Exposure
            Not changed.

        Returns
        -------
        result : Result
            ``exposure``, with another variance; ``factor``.

        Raises
        ------
        AlgorithmError
            When there is too little sky, or the factor is beyond the limit.
        """
        flat = self.subtasks["background"].run(exposure=exposure).exposure
        bits = exposure.mask.planes.bits_present(*self.config.excluded_planes)
        good = (exposure.mask.array & np.int32(bits)) == 0
        factor = variance_scale(flat.image, exposure.variance, good)
        self.metadata["factor"] = factor
        limit = self.config.limit
        if not 1 / limit <= factor <= limit:
            raise AlgorithmError("the variance plane is too far from the scatter of the sky",
                                 numbers={"factor": factor, "limit": limit})  # fmt: skip
        result: Any = exposure.copy()
        result.variance = exposure.variance * np.float32(factor)
        self.log.info("variance multiplied by %.4g", factor)
        return Result(exposure=result, factor=factor)
