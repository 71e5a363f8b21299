"""From a raw frame to an image in electrons with mask and variance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.interpolate import interpolate_flagged
from starmill.datamodel.calibration import Crosstalk, Defects, MasterFrame
from starmill.datamodel.camera import Amplifier, Detector
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.datamodel.raw_frame import RawFrame
from starmill.errors import AlgorithmError, InputError
from starmill.isr.apply import apply_masters
from starmill.isr.assemble import assemble_amplifiers
from starmill.isr.brighter_fatter import correct_brighter_fatter
from starmill.isr.crosstalk import subtract_crosstalk
from starmill.isr.fringe import fit_fringes, subtract_fringes
from starmill.isr.linearity import correct_linearity
from starmill.isr.overscan import OverscanLevel, fit_overscan
from starmill.isr.saturation import fill_flagged, grow_flag, widen_saturation_trails
from starmill.tasks.base import Config, Result, Task, field

__all__ = ["IsrConfig", "IsrTask", "OverscanConfig", "frame_named"]

Image = NDArray[np.float32]


class OverscanConfig(Config):
    """How the level of the electronics is found."""

    enabled: bool = field(True, "subtract the overscan level of amplifiers that have an overscan")
    method: Literal[
        "median", "mean", "clipped_mean", "median_per_row", "mean_per_row",
        "polynomial", "chebyshev", "legendre", "spline",
    ] = field("median", "one level, one for every row, or a smooth function of the row")  # fmt: skip
    order: int = field(1, "degree of a series, or number of nodes of a spline", ge=0)
    skip_leading: int = field(0, "leading overscan columns not used", unit="pixel", ge=0)
    skip_trailing: int = field(0, "trailing overscan columns not used", unit="pixel", ge=0)
    max_deviation: float = field(
        1000.0, "overscan pixels further from the median are not used", unit="adu", gt=0
    )
    n_sigma: float = field(3.0, "clipping of the clipped mean and of the fits", unit="sigma", gt=0)
    iterations: int = field(3, "clipping passes", ge=1)
    parallel: bool = field(True, "subtract the level of every column where there is a parallel overscan")


class IsrConfig(Config):
    """Which corrections are made, and how."""

    overscan: OverscanConfig = field(OverscanConfig, "the level of the electronics")
    saturation: bool = field(True, "flag saturated raw pixels (SAT)")
    suspect: bool = field(True, "flag raw pixels above the suspect level (SUSPECT)")
    crosstalk: bool = field(True, "subtract crosstalk when the detector or the caller gives a matrix")
    linearity: bool = field(True, "correct non-linearity when the amplifiers say how")
    bias: bool = field(True, "subtract a master bias; it must then be given")
    dark: bool = field(True, "subtract a master dark scaled by dark time; it must then be given")
    flat: bool = field(True, "divide by a master flat; it must then be given")
    variance: bool = field(True, "compute the variance plane")
    read_noise_from: Literal["camera", "overscan"] = field(
        "camera", "read noise of the variance: as described, or as the overscan of this frame shows"
    )
    master_variance: bool = field(True, "propagate the variance of the master frames")
    minimum_flat: float = field(0.01, "pixels with a smaller flat are VIGNETTED and NO_DATA", ge=0)
    defects: bool = field(True, "flag the defects of the detector and of the caller (BAD)")
    maximum_read_noise: float = field(
        0.0, "amplifiers whose overscan is noisier are BAD; 0 for no limit", unit="electron", ge=0
    )
    brighter_fatter: bool = field(False, "undo the brighter-fatter effect; a kernel must then be given")
    brighter_fatter_iterations: int = field(10, "iterations of that correction", ge=1)
    brighter_fatter_threshold: float = field(
        1000.0, "it ends when the image changes by less in total", unit="electron", gt=0
    )
    fringe: bool = field(False, "subtract fringe frames; they must then be given")
    fringe_filters: list[str] = field(list, "filters in which fringes are subtracted; empty for all")
    fringe_samples: int = field(30000, "random positions at which fringes are compared", ge=100)
    grow_saturation: int = field(1, "saturated regions grow by this much", unit="pixel", ge=0)
    widen_trails: int = field(
        0, "bleed trails widen by this much on each side at the core", unit="pixel", ge=0
    )
    fill_bad: bool = field(True, "set BAD pixels to the median of the good ones before interpolation")
    interpolate: bool = field(True, "interpolate saturated and bad pixels")
    interpolate_planes: list[str] = field(lambda: ["SAT", "BAD"], "planes whose pixels are interpolated")


class IsrTask(Task):
    """Remove the signature of the instrument from one raw frame.

    The order is: overscan, gain, assembly; crosstalk; linearity; bias, variance, dark; brighter-fatter; flat;
    fringes; defects, saturation; interpolation. From the gain on, the unit is the electron.
    """

    Config = IsrConfig
    default_name = "isr"
    typical_cost: ClassVar[tuple[float, float] | None] = (0.05, 50)
    reads: ClassVar[dict[str, str]] = {"raw": "raw", "bias": "bias", "dark": "dark", "flat": "flat"}
    writes: ClassVar[dict[str, str]] = {"exposure": "post_isr"}

    def run(
        self,
        *,
        raw: RawFrame,
        bias: MasterFrame | None = None,
        dark: MasterFrame | None = None,
        flat: MasterFrame | None = None,
        defects: Defects | None = None,
        crosstalk: Crosstalk | None = None,
        brighter_fatter_kernel: NDArray[Any] | None = None,
        fringes: Sequence[MasterFrame] = (),
    ) -> Result:
        """Correct a raw frame.

        Parameters
        ----------
        raw : RawFrame
        bias, dark, flat : MasterFrame, optional
            Needed when the configuration asks for the step.
        defects : Defects, optional
            In addition to those of the detector.
        crosstalk : Crosstalk, optional
            Instead of the detector's.
        brighter_fatter_kernel : (k, k) array, 1/electron, optional
        fringes : sequence of MasterFrame

        Returns
        -------
        result : Result
            ``exposure`` (electron, origin (0, 0)) and ``overscan`` (name of amplifier to OverscanLevel).

        Raises
        ------
        InputError
            When a master frame is missing, of another kind or of another shape.
        AlgorithmError
            When every amplifier is bad, or the overscan is unusable.
        """
        config, detector = self.config, raw.detector
        masters = self._masters(raw, bias, dark, flat)
        with self.timer("overscan"), frame_named(raw.path):
            levels, rows, columns = self._overscan(raw)
        with self.timer("assemble"):
            mask = Mask(np.empty((0, 0), np.int32))
            image, mask.array = assemble_amplifiers(
                raw.array, detector, rows, columns,
                bits=(mask.bits("SAT"), mask.bits("SUSPECT"), mask.bits("NO_DATA")),
                flag=(config.saturation, config.suspect),
            )  # fmt: skip
        with self.timer("signal"):
            self._correct_signal(image, mask, detector, crosstalk)
        with frame_named(raw.path):
            bad = self._bad_amplifiers(detector, levels, defects)
        with self.timer("masters"):
            variance = self._apply_masters(raw, image, mask, levels, masters, brighter_fatter_kernel)
        if config.fringe and (not config.fringe_filters or raw.info.filter in config.fringe_filters):
            with self.timer("fringe"):
                image = self._fringes(raw, image, mask, fringes)
        with self.timer("repair"):
            self._flag(mask, detector, bad, defects)
            exposure = self._exposure(raw, image, mask, variance, levels)
            self.debug_hook("corrected", exposure=exposure)
            self._repair(exposure)
        return Result(exposure=exposure, overscan=levels)

    def _masters(
        self, raw: RawFrame, bias: MasterFrame | None, dark: MasterFrame | None, flat: MasterFrame | None
    ) -> dict[str, MasterFrame]:
        found: dict[str, MasterFrame] = {}
        for kind, master in (("bias", bias), ("dark", dark), ("flat", flat)):
            if not getattr(self.config, kind):
                continue
            if master is None:
                raise InputError(
                    f"no master {kind} is given; give one or switch the step off ({self.name}.{kind}=false)",
                    path=raw.path or None,
                )
            _check_master(master, kind, raw)
            if not master.is_valid(raw.info.mjd) and np.isfinite(raw.info.mjd):
                self.log.warning(
                    "%s: the master %s is valid from MJD %s to %s, the frame is of %.5f",
                    raw.path, kind, master.valid_from, master.valid_to, raw.info.mjd,
                )  # fmt: skip
            found[kind] = master
        if "dark" in found and not np.isfinite(raw.info.dark_time):
            raise InputError(
                "the dark cannot be scaled: the frame has no exposure time", path=raw.path or None
            )
        return found

    def _overscan(self, raw: RawFrame) -> tuple[dict[str, OverscanLevel], list[Image], list[Image | None]]:
        config = self.config.overscan
        options = {
            "max_deviation": config.max_deviation,
            "n_sigma": config.n_sigma,
            "iterations": config.iterations,
        }
        levels: dict[str, OverscanLevel] = {}
        rows: list[Image] = []
        columns: list[Image | None] = []
        for amplifier in raw.detector.amplifiers:
            row = np.zeros(amplifier.raw_data_box.height, np.float32)
            column = None
            if config.enabled and amplifier.raw_overscan_box is not None:
                level = fit_overscan(
                    raw.array[amplifier.raw_overscan_box.slices()], method=config.method, order=config.order,
                    skip=(config.skip_leading, config.skip_trailing), **options,
                )  # fmt: skip
                levels[amplifier.name] = level
                row = level.level
            if config.enabled and config.parallel and amplifier.raw_parallel_overscan_box is not None:
                pixels = raw.array[amplifier.raw_parallel_overscan_box.slices()].T
                base = float(np.median(row))
                fit = fit_overscan(pixels - np.float32(base), method="median_per_row", **options)
                column = fit.level
            rows.append(row)
            columns.append(column)
        return levels, rows, columns

    def _correct_signal(
        self, image: Image, mask: Mask, detector: Detector, crosstalk: Crosstalk | None
    ) -> None:  # fmt: skip
        crosstalk = detector.crosstalk if crosstalk is None else crosstalk
        if self.config.crosstalk and crosstalk is not None:
            bit = 1 << mask.add_plane("CROSSTALK")
            subtract_crosstalk(image, mask.array, detector, crosstalk, bit=bit)
        if self.config.linearity:
            for amplifier in detector.amplifiers:
                correct_linearity(image, amplifier)

    def _bad_amplifiers(
        self, detector: Detector, levels: dict[str, OverscanLevel], defects: Defects | None
    ) -> list[Amplifier]:
        limit = self.config.maximum_read_noise
        boxes = detector.defects.boxes + (defects.boxes if defects is not None else ())
        bad = []
        for amplifier in detector.amplifiers:
            level = levels.get(amplifier.name)
            noisy = limit > 0 and level is not None and level.residual_sigma * amplifier.gain > limit
            covered = self.config.defects and any(box.contains_box(amplifier.box) for box in boxes)
            if noisy or covered:
                bad.append(amplifier)
        if len(bad) == len(detector.amplifiers):
            raise AlgorithmError(
                f"every amplifier of detector {detector.name} is bad",
                numbers={"amplifiers": len(bad), "maximum_read_noise": limit},
            )
        return bad

    def _apply_masters(
        self, raw: RawFrame, image: Image, mask: Mask, levels: dict[str, OverscanLevel],
        masters: dict[str, Any], kernel: NDArray[Any] | None,
    ) -> Image:  # fmt: skip
        config = self.config
        variance = np.empty(image.shape if config.variance else (0, 0), np.float32)
        noise: list[tuple[Box, float | None]] = []
        for amplifier in raw.detector.amplifiers:
            value = amplifier.read_noise
            if config.read_noise_from == "overscan" and amplifier.name in levels:
                value = levels[amplifier.name].residual_sigma * amplifier.gain
            noise.append((amplifier.box, value))
        options: dict[str, Any] = {
            "minimum_flat": config.minimum_flat,
            "low_flat_bit": mask.bits("NO_DATA"),
            "mask_bits": mask.bits("BAD", "NO_DATA"),
            "uncertainty": config.master_variance and config.variance,
        }
        if "flat" in masters and config.minimum_flat > 0.01:
            options["low_flat_bit"] |= 1 << mask.add_plane("VIGNETTED")
        dark_time = raw.info.dark_time if "dark" in masters else 0.0
        if not config.brighter_fatter:
            apply_masters(image, mask.array, variance, noise, dark_time=dark_time, **masters, **options)
            return variance
        if kernel is None:
            raise InputError("the brighter-fatter correction needs a kernel", path=raw.path or None)
        flat = masters.pop("flat", None)
        apply_masters(image, mask.array, variance, noise, dark_time=dark_time, **masters, **options)
        self._brighter_fatter(image, mask, kernel)
        if flat is not None:
            kept: list[tuple[Box, float | None]] = [(box, None) for box, _ in noise]
            apply_masters(image, mask.array, variance, kept, flat=flat, **options)
        return variance

    def _brighter_fatter(self, image: Image, mask: Mask, kernel: NDArray[Any]) -> None:
        clean = image.copy()
        unusable = mask.any("BAD", "NO_DATA")
        clean[unusable] = np.median(image[~unusable]) if not unusable.all() else 0.0
        fit = correct_brighter_fatter(
            clean, kernel, max_iterations=self.config.brighter_fatter_iterations,
            threshold=self.config.brighter_fatter_threshold,
        )  # fmt: skip
        self.metadata["brighter_fatter_iterations"] = fit.iterations
        self.metadata["brighter_fatter_converged"] = fit.converged
        image += fit.correction

    def _fringes(self, raw: RawFrame, image: Image, mask: Mask, fringes: Sequence[MasterFrame]) -> Image:
        if not fringes:
            raise InputError("fringe subtraction needs fringe frames", path=raw.path or None)
        for fringe in fringes:
            if fringe.shape != image.shape:
                raise InputError(f"a fringe frame has shape {fringe.shape}, the frame {image.shape}")
        frames = [fringe.image for fringe in fringes]
        fit = fit_fringes(
            image, frames, mask.any("BAD", "SAT", "NO_DATA"), samples=self.config.fringe_samples,
            seed=raw.info.exposure_id,
        )  # fmt: skip
        self.metadata["fringe_amplitudes"] = [float(value) for value in fit.amplitudes]
        return np.asarray(subtract_fringes(image, frames, fit.amplitudes), np.float32)

    def _flag(self, mask: Mask, detector: Detector, bad: list[Amplifier], defects: Defects | None) -> None:
        config = self.config
        for amplifier in bad:
            mask.array[amplifier.box.slices()] |= mask.bits("BAD")
        if config.defects:
            for box in detector.defects.boxes + (defects.boxes if defects is not None else ()):
                mask.array[box.intersection(mask.box).slices()] |= mask.bits("BAD")
        if config.saturation and config.widen_trails:
            mask.set("SAT", widen_saturation_trails(mask.any("SAT"), half_width=config.widen_trails))
        if config.saturation and config.grow_saturation:
            grow_flag(mask.array, mask.bits("SAT"), config.grow_saturation)

    def _exposure(
        self, raw: RawFrame, image: Image, mask: Mask, variance: Image, levels: dict[str, OverscanLevel]
    ) -> Exposure:
        limits = []
        for amplifier in raw.detector.amplifiers:
            base = levels[amplifier.name].median if amplifier.name in levels else 0.0
            limits.append(amplifier.gain * (amplifier.saturation - base))
        extra = dict(raw.info.extra)
        if levels:
            extra["overscan"] = {
                name: {"level": level.median, "sigma": level.residual_sigma} for name, level in levels.items()
            }
        saturation = float(min(limits)) if np.isfinite(min(limits)) else float("nan")
        info = raw.info.with_values(saturation=saturation, extra=extra)
        return Exposure(
            image, mask, variance if self.config.variance else None,
            unit="electron", wcs=raw.wcs, info=info, detector=raw.detector,
        )  # fmt: skip

    def _repair(self, exposure: Exposure) -> None:
        config, mask = self.config, exposure.mask
        image = exposure.image
        if config.fill_bad:
            fill_flagged(image, mask.array, mask.bits("BAD"), _typical_value(image, mask))
        if config.interpolate and config.interpolate_planes:
            interpolate_flagged(
                image,
                mask.array,
                exposure.variance if config.variance else None,
                bits=mask.planes.bits(*config.interpolate_planes),
                set_bits=mask.bits("INTRP"),
                fallback=_typical_value(image, mask),
            )


@contextmanager
def frame_named(path: str) -> Iterator[None]:
    """Put the name of the frame before the message of an error in the block."""
    try:
        yield
    except AlgorithmError as error:
        if not path or path in error.message:
            raise
        raise AlgorithmError(f"{path}: {error.message}", numbers=error.numbers) from error


def _check_master(master: MasterFrame, kind: str, raw: RawFrame) -> None:
    """Refuse a master frame that is not for this raw frame, and say both values."""
    compared = [
        ("kind", master.kind, kind),
        ("shape", master.shape, raw.detector.box.shape),
        ("camera", master.camera, raw.info.instrument),
        ("detector", master.detector, raw.info.detector),
        ("filter", master.filter if kind == "flat" else "", raw.info.filter),
    ]
    for name, has, needs in compared:
        if has and needs and has != needs:
            raise InputError(
                f"the master {kind} has the {name} {has!r}, the frame needs {needs!r}", path=raw.path or None
            )


def _typical_value(image: Image, mask: Mask, step: int = 8) -> float:
    """Return the median of the unflagged pixels of every eighth row and column."""
    good = mask.array[::step, ::step] == 0
    return float(np.median(image[::step, ::step][good])) if good.any() else 0.0
