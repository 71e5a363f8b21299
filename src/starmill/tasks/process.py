"""One frame from the detector to its catalogue: instrument signature removal, then characterisation."""

from __future__ import annotations

from typing import Any, ClassVar

from starmill.datamodel.calibration import MasterFrame
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.raw_frame import RawFrame
from starmill.errors import InputError
from starmill.tasks.base import Config, Result, Task, subtask
from starmill.tasks.characterize import CharacterizeImageConfig
from starmill.tasks.config import SubtaskConfig
from starmill.tasks.isr import IsrConfig
from starmill.tasks.prepare import PrepareExposureConfig

__all__ = ["ProcessFrameConfig", "ProcessFrameTask"]


class ProcessFrameConfig(Config):
    """The steps that a frame goes through."""

    isr: SubtaskConfig = subtask(IsrConfig, "raw frames: removes the signature of the instrument")
    prepare: SubtaskConfig = subtask(PrepareExposureConfig, "detrended frames: variance and saturation")
    characterize: SubtaskConfig = subtask(CharacterizeImageConfig, "background, cosmic rays, PSF, sources")


class ProcessFrameTask(Task):
    """Take a raw or detrended frame to a characterised exposure and a catalogue."""

    Config = ProcessFrameConfig
    default_name = "process"
    typical_cost: ClassVar[tuple[float, float] | None] = (0.7, 60)
    reads: ClassVar[dict[str, str]] = {"raw": "raw", "bias": "bias", "dark": "dark", "flat": "flat"}
    writes: ClassVar[dict[str, str]] = {"exposure": "characterized", "catalog": "catalog"}

    def __init__(self, config: Any = None, **keywords: Any) -> None:
        super().__init__(config, **keywords)
        for name in ("isr", "prepare", "characterize"):
            self.make_subtask(name)

    def run(
        self,
        *,
        raw: RawFrame | None = None,
        exposure: Exposure | None = None,
        bias: MasterFrame | None = None,
        dark: MasterFrame | None = None,
        flat: MasterFrame | None = None,
    ) -> Result:
        """Process one frame.

        Parameters
        ----------
        raw : RawFrame, optional
            A frame as it came off the detector, with the master frames that the configuration asks for.
        exposure : Exposure, optional
            A detrended image instead.
        bias, dark, flat : MasterFrame, optional

        Returns
        -------
        result : Result
            What :meth:`starmill.tasks.characterize.CharacterizeImageTask.run` returns.

        Raises
        ------
        InputError
            When neither or both kinds of frames are given.
        """
        if (raw is None) == (exposure is None):
            raise InputError("give either a raw frame or a detrended exposure")
        if raw is not None:
            exposure = self.subtasks["isr"].run(raw=raw, bias=bias, dark=dark, flat=flat).exposure
        else:
            exposure = self.subtasks["prepare"].run(exposure=exposure).exposure
        characterize = self.subtasks["characterize"]
        return characterize.run(exposure=exposure, **characterize.in_place(self._debug is None))
