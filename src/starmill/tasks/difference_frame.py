"""One science frame against a template: alignment, difference, sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.coaddition.registration import find_registration
from starmill.coaddition.warp import same_grid, warp_by_map, warp_exposure
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ConstantField
from starmill.datamodel.masked_image import MaskedImage
from starmill.datamodel.psf import PixelBasisPsf
from starmill.differencing.noise import image_variance
from starmill.differencing.seeing import bright_positions, measure_seeing
from starmill.errors import AlgorithmError, ConfigError, InputError
from starmill.tasks.base import Config, Result, Task, field, subtask
from starmill.tasks.config import SubtaskConfig
from starmill.tasks.difference import DifferenceConfig, PreparedTemplate
from starmill.tasks.measure_difference import MeasureDifferenceConfig
from starmill.tasks.repair import PsfContrastConfig, RepairConfig

__all__ = ["DifferenceFrameConfig", "DifferenceFrameTask", "excluded_discs"]

Array = NDArray[Any]

FEWEST_STARS = 5
"""Fewer do not tell a star from a cosmic ray."""

_HOLD_NOTHING = ("NO_DATA", "BAD")  # mask planes of template pixels whose values must not reach others


class DifferenceFrameConfig(Config):
    """From two images as they are to a difference with its sources."""

    align: Literal["auto", "wcs", "stars", "none"] = field(
        "auto",
        "Resample the template to the science pixels: by WCS (auto: when both have one and they differ), by common "
        "stars, or not.",
    )
    gain: float | None = field(
        None, "Of images without a variance plane; the header's when not given.", gt=0, unit="electron/ADU"
    )
    read_noise: float = field(0.0, "Of images without a variance plane.", ge=0, unit="electron")
    saturation: float | None = field(
        None, "Pixels at or above it are saturated; the header's when not given."
    )
    minimum: float | None = field(
        None,
        "Pixels at or below it hold no data; when not given, those that are exactly 0 in an image whose sky is far from 0.",
    )
    exclude: list[str] = field(
        list,
        "Discs whose pixels the kernel fit does not see, 'x,y,radius' in pixels of the science image counted from 0, or "
        "'ra,dec,radius\"' with degrees and arcsec: known transients and variable stars.",
    )
    cosmic_rays: Literal["auto", "always", "never"] = field(
        "auto",
        "Find cosmic rays first and keep them out of the difference; auto does it for images whose mask has none.",
    )
    repair: SubtaskConfig = subtask(
        RepairConfig,
        "how cosmic rays are found",
        interpolate=False,
        psf_contrast=PsfContrastConfig(min_counts=0.0),
    )
    difference: SubtaskConfig = subtask(DifferenceConfig, "kernel fit and subtraction")
    measure: SubtaskConfig = subtask(MeasureDifferenceConfig, "sources of the difference")


@dataclass(frozen=True)
class _Kept:
    """A template as it was given, as it is used, and for which pixels."""

    given: Exposure
    science: Exposure
    aligned: PreparedTemplate


class DifferenceFrameTask(Task):
    """Align a template with a science frame, subtract it, and measure what is left.

    What depends on the template alone (variance, alignment, seeing) is done once for as long as the same object is
    given and the science frames are on the same pixels.
    """

    Config = DifferenceFrameConfig
    default_name = "difference_frame"
    typical_cost: ClassVar[tuple[float, float] | None] = (0.6, 60)
    reads: ClassVar[dict[str, str]] = {"template": "template", "science": "calibrated"}
    writes: ClassVar[dict[str, str]] = {
        "difference": "difference",
        "score": "difference_score",
        "kernel": "matching_kernel",
        "catalog": "difference_catalog",
    }

    def __init__(self, config: Any = None, **keywords: Any) -> None:
        super().__init__(config, **keywords)
        for name in ("repair", "difference", "measure"):
            self.make_subtask(name)
        self._kept: _Kept | None = None

    def run(self, *, template: Exposure, science: Exposure) -> Result:
        """Subtract.

        Parameters
        ----------
        template, science : Exposure
            Not changed; those of the result may share their pixels.

        Returns
        -------
        result : Result
            What `DifferenceTask.run` returns, ``catalog``, ``template`` and ``science`` (Exposure) as they were used.
        """
        science = self._without_cosmic_rays(self._with_variance(science, "science"))
        exclude = excluded_discs(self.config.exclude, science)
        with self.timer("align"):
            prepared = self._prepared(template, science)
        result = self.subtasks["difference"].run(template=prepared, science=science, exclude=exclude)
        measured = self.subtasks["measure"].run(
            difference=result.difference,
            score=result.score,
            spike=result.spike,
            shapes=result.product != "preconvolved",
        )
        return Result(**vars(result), catalog=measured.catalog, template=prepared.exposure, science=science)

    def _prepared(self, template: Exposure, science: Exposure) -> PreparedTemplate:
        kept = self._kept
        if kept is not None and kept.given is template and self._same_pixels(kept.science, science):
            return kept.aligned
        aligned = self._aligned(self._without_cosmic_rays(self._with_variance(template, "template")), science)
        prepared: PreparedTemplate = self.subtasks["difference"].prepare(aligned)
        self._kept = _Kept(template, science, prepared)
        return prepared

    def _same_pixels(self, one: Exposure, other: Exposure) -> bool:
        """Tell whether two science frames need the same aligned template."""
        if self.config.align == "stars" or one.box != other.box:
            return False
        if one.wcs is None or other.wcs is None:
            return one.wcs is other.wcs
        return bool(one.wcs.to_header_string() == other.wcs.to_header_string())

    def _with_variance(self, exposure: Exposure, role: str) -> Exposure:
        """Return an exposure with a variance plane and a saturation mask; a plane of zeros means an unknown variance."""
        config = self.config
        exposure = _with_own_mask(exposure)
        exposure.mask.set("NO_DATA", self._empty(exposure))
        bad = exposure.mask.any("NO_DATA", "BAD") | ~np.isfinite(exposure.image)
        level = exposure.info.saturation if config.saturation is None else config.saturation
        if np.isfinite(level):
            exposure.mask.set("SAT", exposure.image >= level)
        given = exposure.variance
        if bad.all():
            raise InputError(
                f"all {bad.size} pixels of the {role} image are masked or hold no data:"
                f" NO_DATA {exposure.mask.any('NO_DATA').mean():.0%}, BAD {exposure.mask.any('BAD').mean():.0%}"
            )
        if not (given[~bad] > 0).any():
            if (given != 0).any():
                raise InputError(
                    f"the variance of the {role} image is nowhere above 0: {np.mean(given < 0):.0%} of its pixels are"
                    f" negative, {np.mean(~np.isfinite(given)):.0%} not finite"
                )
            gain = exposure.info.gain if config.gain is None else config.gain
            read_noise = config.read_noise or np.nan_to_num(exposure.info.read_noise)
            bad |= exposure.mask.any("SAT")
            variance = image_variance(exposure.image, bad, gain=gain, read_noise=read_noise)
            exposure = _with_own_mask(exposure, variance)
        return exposure

    def _empty(self, exposure: Exposure) -> Array:
        """Return where an image holds no data: dead pixels that detectors and archives set to 0, or low ones."""
        image = exposure.image
        if self.config.minimum is not None:
            return np.asarray(image <= self.config.minimum)
        zero = np.asarray(image == 0)
        if zero.any():
            sample = image[::3, ::3]
            known = sample[(sample != 0) & np.isfinite(sample)]
            if len(known):
                low, middle = np.percentile(known, [15.87, 50])
                if middle - 10 * (middle - low) > 0:
                    return zero
        return np.zeros_like(zero)

    def _without_cosmic_rays(self, exposure: Exposure) -> Exposure:
        """Return the exposure with cosmic rays marked CR and replaced, when nobody has looked for them before."""
        mode, planes = self.config.cosmic_rays, exposure.mask.planes
        if mode == "never" or (mode == "auto" and "CR" in planes and exposure.mask.any("CR").any()):
            return exposure
        bad = exposure.mask.any("NO_DATA", "BAD", "SAT") | ~(exposure.variance > 0)
        image = np.where(bad, np.float32(0), exposure.image)
        try:
            seeing = measure_seeing(image, exposure.variance, bad)
        except AlgorithmError as error:
            self.log.info("cosmic rays are not looked for: %s", error)
            return exposure
        if seeing.stars < FEWEST_STARS:  # a PSF from few objects may be one of cosmic rays
            return exposure
        given = exposure.psf
        exposure.psf = PixelBasisPsf(seeing.psf_image[None], [ConstantField(exposure.box, 1.0)])
        repaired: Exposure = self.subtasks["repair"].run(exposure=exposure).exposure
        repaired.psf = given
        return repaired

    def _aligned(self, template: Exposure, science: Exposure) -> Exposure:
        """Return the template on the pixels of the science frame."""
        mode = self.config.align
        if mode == "stars":
            planes = ("SAT", "BAD", "NO_DATA")
            ours, theirs = (
                bright_positions(e.image, e.variance, e.mask.any(*planes)) for e in (science, template)
            )
            registration = find_registration(ours, theirs, science.shape)
            return warp_by_map(template, registration, science.box, wcs=science.wcs, missing=_HOLD_NOTHING)
        if mode == "none" or template.wcs is None or science.wcs is None:
            if mode == "wcs":
                raise InputError("both images need a WCS to be aligned")
            return template
        if template.box == science.box and same_grid(template.wcs, science.wcs, science.box):
            return template
        warped = warp_exposure(template, science.wcs, science.box, missing=_HOLD_NOTHING)
        covered = float((~warped.mask.any("NO_DATA")).mean())
        if covered == 0:
            raise InputError(
                f"template and science do not overlap on the sky: none of {science.box.area} pixels is covered"
            )
        return warped


def _with_own_mask(exposure: Exposure, variance: Array | None = None) -> Exposure:
    """Return an exposure that shares image and, unless another is given, variance; the mask is its own."""
    given = exposure.masked_image
    own = exposure[exposure.box]
    own.masked_image = MaskedImage(
        given.image,
        given.mask.copy() if variance is None else given.mask,
        given.variance if variance is None else variance,
        origin=given.origin,
        unit=given.unit,
    )
    return own


def excluded_discs(listed: list[str], science: Exposure) -> tuple[Array, Array, Array] | None:
    """Return positions and radii, pixels, of discs that are listed as ``x,y,radius`` or ``ra,dec,radius"``."""
    if not listed:
        return None
    discs = []
    for text in listed:
        on_sky = text.rstrip().endswith('"')
        try:
            first, second, radius = (float(part) for part in text.rstrip().rstrip('"').split(","))
        except ValueError:
            raise ConfigError(
                f"{text!r} is no disc: it must be 'x,y,radius' in pixels or 'ra,dec,radius\"' in degrees and arcsec"
            ) from None
        if not (np.isfinite([first, second, radius]).all() and radius > 0):
            raise ConfigError(f"{text!r} is no disc: its numbers must be finite and its radius above 0")
        if on_sky:
            if science.wcs is None:
                raise InputError(f"{text!r} is on the sky, but the science image has no WCS")
            first, second = (float(v) for v in science.wcs.all_world2pix(first, second, 0))
            scale = np.sqrt(abs(np.linalg.det(science.wcs.pixel_scale_matrix))) * 3600  # arcsec a pixel
            radius /= scale
        discs.append((first, second, radius))
    x, y, radius_pixels = np.array(discs).T
    return x, y, radius_pixels
