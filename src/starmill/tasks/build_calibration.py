"""Master bias, dark and flat frames from raw frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.calibration import BAND_ROWS, MASTER_UNITS, Defects, MasterFrame
from starmill.datamodel.camera import Detector
from starmill.datamodel.exposure import Exposure, ObservationInfo
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.datamodel.masked_image import MaskedImage
from starmill.datamodel.raw_frame import RawFrame
from starmill.errors import AlgorithmError, InputError, NoDataError
from starmill.isr.build_masters import CombinedFrame, combine_frames, frame_level
from starmill.isr.defects import bright_defects, dark_defects, fill_bad_columns
from starmill.isr.photon_transfer import fit_photon_transfer, flat_pair_points, read_noise_from_pairs
from starmill.tasks.base import Config, Result, Task, field
from starmill.tasks.config import SubtaskConfig, subtask
from starmill.tasks.isr import IsrConfig, frame_named

__all__ = ["BuildCalibrationConfig", "BuildCalibrationTask", "MemoryStore"]

_STEPS = {"bias": (), "dark": ("bias",), "flat": ("bias", "dark")}
"""Master frames that are taken off the raw frames of each kind."""


class _Stored(Protocol):
    def rows(self, y0: int, y1: int) -> NDArray[Any]: ...


class _Store(Protocol):
    def keep(self, image: NDArray[Any]) -> _Stored: ...


class MemoryStore:
    """Keeps images in memory; a store on disk has the same methods."""

    class _Kept:
        def __init__(self, image: NDArray[Any]) -> None:
            self.image = image

        def rows(self, y0: int, y1: int) -> NDArray[Any]:
            return self.image[y0:y1]

    def keep(self, image: NDArray[Any]) -> _Kept:
        """Put an image aside."""
        return self._Kept(image)


class BuildCalibrationConfig(Config):
    """How raw frames become a master frame."""

    kind: Literal["bias", "dark", "flat"] = field("bias", "what is built")
    isr: SubtaskConfig = subtask(IsrConfig, "removes overscan, bias and dark from each raw frame")
    bias: bool = field(True, "subtract a master bias from darks and flats; it must then be given")
    dark: bool = field(True, "subtract a master dark from flats; it must then be given")
    n_sigma: float = field(3.0, "clip of the values of a pixel", unit="sigma", gt=0)
    iterations: int = field(3, "clipping passes", ge=1)
    expected_noise: bool = field(True, "the clip never assumes less scatter than shot and read noise give")
    propagate_up_to: int = field(
        5, "with so many frames or fewer the variance comes from the noise model, not from the scatter", ge=0
    )
    rows: int = field(16, "height of the bands in which frames are combined", unit="pixel", ge=1)
    reject_planes: list[str] = field(
        lambda: ["SAT", "SUSPECT", "BAD", "NO_DATA"], "flagged pixels of a frame that are left out"
    )
    check_kind: bool = field(True, "refuse frames whose header says that they are of another kind")
    minimum_level: float = field(0.0, "flats with a lower median level are refused", unit="electron", ge=0)
    defects: bool = field(True, "flag hot pixels in darks and insensitive ones in flats as BAD")
    hot_pixel_sigma: float = field(
        4.8, "hot pixels lie this far above the median of the dark", unit="sigma", gt=0
    )
    hot_pixel_rate: float = field(0.0, "and by at least this rate", unit="electron/s", ge=0)
    dead_pixel_level: float = field(
        0.8, "insensitive pixels are below this fraction of their surroundings", gt=0, lt=1
    )
    photon_transfer: bool = field(True, "measure read noise from biases and gain from pairs of flats")
    photon_transfer_cell: int = field(64, "cells in which flats are compared", unit="pixel", ge=8)
    photon_transfer_ratio: float = field(1.3, "flats whose levels differ by more are not paired", gt=1)


class BuildCalibrationTask(Task):
    """Combine raw frames to a master bias, dark or flat, with variance, mask and measured noise.

    A master bias is in electron, a master dark in electron per second of dark time, a master flat is divided by
    the median of its central quarter.
    """

    Config = BuildCalibrationConfig
    default_name = "build_calibration"
    typical_cost: ClassVar[tuple[float, float] | None] = (0.02, 1.5)
    reads: ClassVar[dict[str, str]] = {"frames": "raw"}
    writes: ClassVar[dict[str, str]] = {"master": "master"}

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        steps = _STEPS[self.config.kind]
        isr = self.config.isr.override({
            "bias": self.config.bias and self.config.isr.bias and "bias" in steps,
            "dark": self.config.dark and self.config.isr.dark and "dark" in steps,
            "flat": False, "variance": False, "interpolate": False, "fill_bad": False,
            "brighter_fatter": False, "fringe": False, "grow_saturation": 0, "minimum_flat": 0.01,
        })  # fmt: skip
        self.config = self.config.model_copy(update={"isr": isr})
        self.isr: Any = None
        self.make_subtask("isr")

    def run(
        self,
        *,
        frames: Sequence[RawFrame | Callable[[], RawFrame]],
        bias: MasterFrame | None = None,
        dark: MasterFrame | None = None,
        store: _Store | None = None,
    ) -> Result:
        """Build a master frame.

        Parameters
        ----------
        frames : sequence of RawFrame, or of functions that return one
            Functions are called one after the other, so that one raw frame at a time is in memory.
        bias, dark : MasterFrame, optional
            Needed for darks (bias) and flats (bias, dark) unless switched off.
        store : object with ``keep(image)``, optional
            Where corrected frames wait; ``keep`` returns an object with ``rows(y0, y1)``. In memory when
            not given.

        Returns
        -------
        result : Result
            ``master`` (MasterFrame), ``defects`` (Defects), ``levels`` (median electrons of each frame),
            ``read_noise`` and ``gain`` (by amplifier; electron and electron/adu; empty when not measured).

        Raises
        ------
        InputError
            When frames disagree in detector, shape, filter or kind, or a master frame is missing.
        NoDataError
            When there is no frame.
        """
        if not frames:
            raise NoDataError(f"there is no frame to build a master {self.config.kind} of")
        kept = _KeptFrames(store or MemoryStore())
        for number, frame in enumerate(frames):
            raw = frame() if callable(frame) else frame
            self._check(raw, kept)
            with self.timer("correct"):
                exposure = self.isr.run(raw=raw, bias=bias, dark=dark).exposure
            name = raw.path
            with frame_named(name):
                scale = self._scale(raw, exposure)
                del raw
                kept.add(exposure, scale, self.config.reject_planes)
            self.log.info("frame %d: level %.1f electron", number + 1, kept.levels[-1])
            del exposure
        with self.timer("combine"):
            image, variance, missing = self._pixels(kept, self._combine(kept), bias)
            unusable = self._defects(image, missing)
            defects = Defects.from_mask(unusable)
        with self.timer("noise"):
            read_noise, gain = self._noise(kept, bias, unusable)
        flags = missing.view(np.uint8)  # both in one array, and the mask only now: less in memory
        flags += unusable.view(np.uint8) * np.uint8(2)
        del missing, unusable
        mask = Mask.zeros(kept.shape)
        meaning = np.array([0, mask.bits("NO_DATA"), mask.bits("BAD"), mask.bits("NO_DATA", "BAD")], np.int32)
        for y0 in range(0, len(flags), BAND_ROWS):
            mask.array[y0 : y0 + BAND_ROWS] = meaning[flags[y0 : y0 + BAND_ROWS]]
        pixels = MaskedImage(image, mask, variance, unit=MASTER_UNITS[self.config.kind])
        master = self._master(kept, pixels, read_noise, gain)
        return Result(master=master, defects=defects, levels=kept.levels, read_noise=read_noise, gain=gain)

    def _check(self, raw: RawFrame, kept: _KeptFrames) -> None:
        path = raw.path or None
        kind = self.config.kind
        if self.config.check_kind and raw.info.kind not in ("", kind):
            raise InputError(f"the header calls this frame {raw.info.kind!r}, a {kind} is needed", path=path)
        if kind == "dark" and not raw.info.dark_time > 0:
            raise InputError(
                f"a dark needs a positive dark time, this one has {raw.info.dark_time} s", path=path
            )
        if not kept.levels:
            return
        first, detector = kept.first, kept.detector
        if raw.detector.box.shape != detector.box.shape:
            raise InputError(
                f"this frame has shape {raw.detector.box.shape}, the first one {detector.box.shape}",
                path=path,
            )
        if raw.detector.name != detector.name:
            raise InputError(f"this frame is of detector {raw.detector.name}, not {detector.name}", path=path)
        if kind == "flat" and raw.info.filter != first.filter:
            raise InputError(f"this flat is of filter {raw.info.filter!r}, not {first.filter!r}", path=path)

    def _scale(self, raw: RawFrame, exposure: Exposure) -> float:
        if self.config.kind == "bias":
            return 1.0
        if self.config.kind == "dark":
            return 1.0 / float(raw.info.dark_time)
        level = frame_level(exposure.image, exposure.mask.any(*self.config.reject_planes))
        if level <= max(self.config.minimum_level, 0.0):
            raise AlgorithmError(
                "the flat is too faint",
                numbers={"level": round(level, 1), "minimum": self.config.minimum_level},
            )
        return 1.0 / level

    def _combine(self, kept: _KeptFrames) -> CombinedFrame:
        config = self.config
        scale = np.array(kept.scales)
        propagate = len(kept.levels) <= config.propagate_up_to
        noise = kept.read_noise
        floor = 0.0
        counts = config.kind != "bias"  # the pedestal of a bias has no shot noise
        if config.expected_noise:
            levels = np.maximum(kept.levels, 0.0) if counts else np.zeros(len(scale))
            floor = float(np.median(scale * np.sqrt(levels + noise.max() ** 2)))

        def read_rows(k: int, y0: int, y1: int) -> tuple[Any, Any, Any]:
            image, errors = kept.images[k].rows(y0, y1), None
            if propagate:
                errors = kept.noise_rows(y0, y1) ** 2
                errors += np.maximum(image, np.float32(0)) if counts else np.float32(0)
            return image, kept.rejected[k].rows(y0, y1), errors

        return combine_frames(
            read_rows, len(kept.levels), kept.shape, scale=scale, n_sigma=config.n_sigma,
            iterations=config.iterations, minimum_sigma=floor, rows=config.rows,
        )  # fmt: skip

    def _noise(
        self, kept: _KeptFrames, bias: MasterFrame | None, bad: NDArray[np.bool_]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return read noise (electron) and gain (electron/adu) by amplifier, as far as these frames tell.

        Insensitive pixels must not count: they have the variance of little light at the mean of much.
        """
        read_noise: dict[str, float] = {}
        gain: dict[str, float] = {}
        if not self.config.photon_transfer or len(kept.levels) < 2 or self.config.kind == "dark":
            return read_noise, gain
        for amplifier in kept.detector.amplifiers:
            if self.config.kind == "bias":
                part = _central_rows(amplifier.box)
                frames = [kept.section(k, part)[0] for k in range(min(len(kept.levels), 6))]
                read_noise[amplifier.name] = read_noise_from_pairs(frames)
                continue
            known = amplifier.read_noise
            if bias is not None:
                known = bias.properties.get(f"read_noise.{amplifier.name}", known)
            measured = self._gain(kept, _central_rows(amplifier.box), bad, amplifier.gain, known)
            if measured is not None:
                gain[amplifier.name] = measured
        return read_noise, gain

    def _gain(
        self, kept: _KeptFrames, box: Box, bad: NDArray[np.bool_], nominal: float, read_noise: float
    ) -> float | None:
        points = []
        cell = self.config.photon_transfer_cell
        for k in range(len(kept.levels) - 1):
            ratio = kept.levels[k] / kept.levels[k + 1]
            if not 1 / self.config.photon_transfer_ratio <= ratio <= self.config.photon_transfer_ratio:
                continue
            first, bad1 = kept.section(k, box)
            second, bad2 = kept.section(k + 1, box)
            unusable = bad1 | bad2 | bad[box.slices()]
            points.append(flat_pair_points(first / nominal, second / nominal, mask=unusable, cell=cell))
        if not points:
            return None
        mean, variance, weight = (np.concatenate(values) for values in zip(*points, strict=True))
        if len(mean) < 3:
            return None
        return fit_photon_transfer(mean, variance, weight, read_noise / nominal).gain

    def _pixels(
        self, kept: _KeptFrames, combined: CombinedFrame, bias: MasterFrame | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Return the combined frame in its final unit, its variance, and where no frame had a value."""
        image, variance, kind = combined.image, combined.variance, self.config.kind
        missing = combined.count == 0
        del combined  # the counts are not needed any more
        if missing.all():
            raise AlgorithmError(
                "no pixel has a valid value in any frame", numbers={"frames": len(kept.levels)}
            )
        if kind == "flat":
            level = frame_level(image, missing)
            image /= np.float32(level)
            variance /= np.float32(level**2)
        if kind == "dark" and bias is not None and self.config.isr.bias:
            share = np.float32(np.mean(kept.scales) ** 2)
            for y0 in range(0, len(variance), BAND_ROWS):
                band = variance[y0 : y0 + BAND_ROWS]
                band += share * bias.rows(y0, y0 + len(band)).variance
        image[missing] = 1.0 if kind == "flat" else 0.0
        return image, variance, missing

    def _master(
        self, kept: _KeptFrames, pixels: MaskedImage, read_noise: dict[str, float], gain: dict[str, float]
    ) -> MasterFrame:
        info, kind = kept.first, self.config.kind
        properties = {f"read_noise.{name}": value for name, value in read_noise.items()}
        properties |= {f"gain.{name}": value for name, value in gain.items()}
        if kind == "dark":
            properties["dark_time"] = 1.0 / float(np.mean(kept.scales))
        return MasterFrame(
            kind, pixels, camera=info.instrument, detector=info.detector,
            filter=info.filter if kind == "flat" else "", n_frames=len(kept.levels), properties=properties,
        )  # fmt: skip

    def _defects(self, image: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
        config = self.config
        if not config.defects or config.kind == "bias":
            return missing
        if config.kind == "dark":
            bad = bright_defects(
                image, missing, n_sigma=config.hot_pixel_sigma, minimum_rate=config.hot_pixel_rate
            )
        else:
            bad = dark_defects(image, missing, minimum=config.dead_pixel_level)
        bad = fill_bad_columns(bad)
        bad |= missing
        return bad


def _central_rows(box: Box, pixels: int = 1 << 20) -> Box:
    """Return the middle rows of a box, about a million pixels: enough for noise and gain to 0.1 %."""
    rows = min(box.height, max(64, pixels // box.width))
    return Box(box.x0, box.y0 + (box.height - rows) // 2, box.width, rows)


class _KeptFrames:
    """Corrected frames that wait to be combined, and what must be known about them."""

    def __init__(self, store: _Store) -> None:
        self.store = store
        self.images: list[_Stored] = []
        self.rejected: list[_Stored] = []
        self.levels: list[float] = []
        self.scales: list[float] = []
        self.first = ObservationInfo()
        self.detector = Detector("", ())
        self.shape: tuple[int, int] = (0, 0)

    def add(self, exposure: Exposure, scale: float, planes: list[str]) -> None:
        if not self.levels:
            self.first, self.detector, self.shape = exposure.info, exposure.detector, exposure.shape
        bits = np.int32(exposure.mask.planes.bits_present(*planes))
        flags = exposure.mask.array  # not used again: overwritten to hold one image less in memory
        rejected = np.bitwise_and(flags, bits, out=flags) != 0
        self.levels.append(frame_level(exposure.image, rejected))
        self.scales.append(scale)
        self.images.append(self.store.keep(exposure.image))
        self.rejected.append(self.store.keep(rejected))

    @property
    def read_noise(self) -> NDArray[np.float64]:
        return np.array([amplifier.read_noise for amplifier in self.detector.amplifiers])

    def noise_rows(self, y0: int, y1: int) -> NDArray[np.float32]:
        """Read noise of every pixel of some rows, electron."""
        noise = np.zeros((y1 - y0, self.shape[1]), np.float32)
        for amplifier in self.detector.amplifiers:
            box = amplifier.box
            first, last = max(box.y0, y0) - y0, min(box.y1, y1) - y0
            if first < last:
                noise[first:last, box.x0 : box.x1] = amplifier.read_noise
        return noise

    def section(self, k: int, box: Any) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Pixels of one frame in a box, and which of them are rejected."""
        image = self.images[k].rows(box.y0, box.y1)[:, box.x0 : box.x1]
        return image, self.rejected[k].rows(box.y0, box.y1)[:, box.x0 : box.x1]
