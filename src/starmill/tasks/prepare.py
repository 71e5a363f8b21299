"""From a detrended image of any origin to an exposure that can be characterised."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.masked_image import MaskedImage
from starmill.errors import AlgorithmError, InputError
from starmill.numerics.statistics import clipped_statistics
from starmill.tasks.base import Config, Result, Task, field

__all__ = ["PrepareExposureConfig", "PrepareExposureTask"]


class PrepareExposureConfig(Config):
    """What is known about a detrended image that its file does not say."""

    gain: float | None = field(None, "overrides the header's", unit="electron/ADU", gt=0)
    read_noise: float | None = field(None, "overrides the header's", unit="electron", ge=0)
    saturation: float | None = field(None, "overrides the header's; in the unit of the file", gt=0)
    max_noise_ratio: float = field(
        1.25,
        "when the sky is noisier than the counts explain by more than this factor, its own noise is used",
        gt=1,
    )


class PrepareExposureTask(Task):
    """Give an image a variance plane and a saturation plane, in electrons.

    A variance plane that came with the image is kept. Otherwise it is ``max(image, 0) + read_noise²`` in electrons; where
    the sky was subtracted before, or frames were averaged, the counts no longer tell the noise of the sky, and the measured
    noise of the empty sky takes its place.
    """

    Config = PrepareExposureConfig
    default_name = "prepare"
    reads: ClassVar[dict[str, str]] = {"exposure": "detrended"}
    writes: ClassVar[dict[str, str]] = {"exposure": "post_isr"}

    def run(self, *, exposure: Exposure) -> Result:
        """Prepare an exposure.

        Parameters
        ----------
        exposure : Exposure
            Not changed.

        Returns
        -------
        result : Result
            ``exposure`` with positive variance wherever there is data, ``sky_noise`` (electron) and
            ``variance_from`` ('file', 'counts' or 'sky').

        Raises
        ------
        InputError
            When neither header nor configuration tell the gain of an image in ADU without a variance plane.
        AlgorithmError
            When the image holds no usable pixel or does not vary at all.
        """
        exposure = exposure.copy()
        self._flag_saturation(exposure)
        usable = ~exposure.mask.any("NO_DATA", "BAD", "SAT")
        if not usable.any():
            raise AlgorithmError(
                "the image holds no usable pixel", numbers={"pixels": usable.size, "usable": 0}
            )
        if exposure.variance.any():
            self._check_variance(exposure, usable)
            rows = exposure.variance[::16][usable[::16]]
            noise = float(np.sqrt(np.median(rows))) if rows.size else float("nan")
            return Result(exposure=exposure, sky_noise=noise, variance_from="file")
        exposure = self._in_electrons(exposure)
        sky = clipped_statistics(
            exposure.image, exposure.mask.array, bits=exposure.mask.bits("NO_DATA", "BAD", "SAT")
        )
        if not sky.clipped_std > 0:
            raise AlgorithmError(
                "the image does not vary, so its noise cannot be told",
                numbers={"median": sky.median, "std": sky.clipped_std},
            )
        source, variance = self._model(exposure, sky)
        exposure.variance = np.where(exposure.mask.any("NO_DATA"), 0, variance)
        self.metadata["variance_from"] = source
        return Result(exposure=exposure, sky_noise=sky.clipped_std, variance_from=source)

    def _flag_saturation(self, exposure: Exposure) -> None:
        level = self.config.saturation if self.config.saturation is not None else exposure.info.saturation
        if np.isfinite(level):
            exposure.mask.set("SAT", exposure.image >= level)

    def _check_variance(self, exposure: Exposure, usable: Any) -> None:
        negative = np.count_nonzero((exposure.variance < 0) & usable)
        wrong = usable & ~(exposure.variance > 0)
        zero = np.count_nonzero(wrong)
        if negative or zero == np.count_nonzero(usable):
            raise AlgorithmError(
                "the variance plane has negative values or is zero everywhere",
                numbers={"negative": int(negative), "zero": int(zero - negative)},
            )
        exposure.mask.set("NO_DATA", wrong)

    def _in_electrons(self, exposure: Exposure) -> Exposure:
        if exposure.unit == "electron":
            return exposure
        gain = self.config.gain if self.config.gain is not None else exposure.info.gain
        if not (np.isfinite(gain) and gain > 0):
            raise InputError(
                "the image has no variance plane and its gain is unknown: give prepare.gain and prepare.read_noise"
            )
        scaled = MaskedImage(
            exposure.image * np.float32(gain),
            exposure.mask,
            exposure.variance,
            origin=exposure.origin,
            unit="electron",
        )
        return Exposure(
            scaled,
            psf=exposure.psf,
            wcs=exposure.wcs,
            info=exposure.info.with_values(gain=float(gain)),
            detector=exposure.detector,
        )

    def _model(self, exposure: Exposure, sky: Any) -> tuple[str, Any]:
        read_noise = (
            self.config.read_noise if self.config.read_noise is not None else exposure.info.read_noise
        )
        counts = max(sky.median, 0.0) + (read_noise**2 if np.isfinite(read_noise) else 0.0)
        if counts > 0 and sky.clipped_std**2 <= self.config.max_noise_ratio**2 * counts:
            constant = counts - max(sky.median, 0.0)
            return "counts", np.maximum(exposure.image, 0) + np.float32(constant)
        self.log.warning("the sky is noisier than its counts explain: its measured noise is used")
        above = np.maximum(exposure.image - np.float32(sky.median), 0)
        return "sky", above + np.float32(sky.clipped_std**2)
