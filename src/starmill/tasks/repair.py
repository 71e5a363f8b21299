"""Repair of an exposure: defects, saturated pixels and cosmic rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.events import CosmicRays, no_cosmic_rays
from starmill.cosmic_rays.interpolate import interpolate_flagged
from starmill.cosmic_rays.laplacian import find_cosmic_rays_laplacian
from starmill.cosmic_rays.psf_contrast import find_cosmic_rays, star_contrast
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError, InputError
from starmill.numerics.statistics import median
from starmill.tasks.base import Config, Result, Task, field

__all__ = ["LaplacianConfig", "PsfContrastConfig", "RepairConfig", "RepairTask"]

_LEVEL_STEP = 4  # every fourth pixel of every fourth row is enough for the level of an image


class PsfContrastConfig(Config):
    """Cosmic rays as pixels sharper than the point-spread function."""

    n_sigma: float = field(
        6.0, "least excess of a pixel over the mean of two opposite neighbours", unit="sigma", gt=0
    )
    min_counts: float = field(150.0, "least sum of an event", unit="electron", ge=0)
    noise_factor: float = field(2.0, "allowance for noise in the contrast test", unit="sigma", ge=0)
    contrast_factor: float = field(
        0.35, "allowed ratio of neighbour to pixel, in units of that of the point-spread function", gt=0, le=1
    )
    star_safety: float = field(
        0.7,
        "largest allowed ratio in units of that of the sharpest stars seen; 0 to trust the PSF alone",
        ge=0,
        le=1,
    )
    n_iterations: int = field(6, "largest number of passes in which events grow", ge=0)
    removal: Literal["predict", "noise"] = field(
        "predict", "replace pixels by linear prediction, or by noise as the LSST stack does"
    )


class LaplacianConfig(Config):
    """Cosmic rays by their sharp edges (L.A.Cosmic)."""

    limit: float = field(4.5, "least Laplacian significance", unit="sigma", gt=0)
    neighbour_fraction: float = field(0.3, "least significance of neighbours over the limit", ge=0, le=1)
    contrast: float = field(5.0, "least ratio of significance to fine structure", gt=0)
    n_iterations: int = field(4, "largest number of passes", ge=1)
    separable: bool = field(True, "separable medians: faster, nearly the same pixels")
    grow_mask: bool = field(True, "leave out the neighbours of masked pixels")


class RepairConfig(Config):
    """What is repaired, and how cosmic rays are found."""

    interpolate: bool = field(True, "fill the pixels of interpolated_planes from their rows")
    interpolated_planes: list[str] = field(lambda: ["BAD", "SAT"], "mask planes whose pixels are filled")
    method: Literal["psf_contrast", "laplacian", "none"] = field("psf_contrast", "how cosmic rays are found")
    keep_cosmic_rays: bool = field(False, "only mark cosmic rays, do not replace them")
    avoided_planes: list[str] = field(
        lambda: ["BAD", "SAT", "INTRP", "NO_DATA"], "pixels of these planes are never cosmic rays"
    )
    max_pixels: int = field(1_000_000, "more cosmic-ray pixels than this are an error", unit="pixel", ge=1)
    seed: int = field(0, "seed of the noise that replaces cosmic rays with removal = noise", ge=0)
    psf_contrast: PsfContrastConfig = field(PsfContrastConfig, "settings of method psf_contrast")
    laplacian: LaplacianConfig = field(LaplacianConfig, "settings of method laplacian")


class RepairTask(Task):
    """Fill defects and saturated pixels, find cosmic rays, and replace them.

    Replaced pixels get the plane INTRP, cosmic rays CR (and INTRP when they are replaced).
    """

    Config = RepairConfig
    default_name = "repair"
    reads: ClassVar[dict[str, str]] = {"exposure": "background_subtracted"}
    writes: ClassVar[dict[str, str]] = {"exposure": "repaired", "cosmic_rays": "cosmic_rays"}

    def run(
        self,
        *,
        exposure: Exposure,
        defects: Sequence[Box] | None = None,
        keep_cosmic_rays: bool | None = None,
        in_place: bool = False,
    ) -> Result:
        """Repair an exposure.

        Parameters
        ----------
        exposure : Exposure
            Not changed unless ``in_place``. Needs a variance, and for the method ``psf_contrast`` a point-spread function.
            CR bits of pixels that were not replaced are cleared and found anew.
        defects : sequence of Box, optional
            Parent frame; they become BAD and are filled.
        keep_cosmic_rays : bool, optional
            Only mark cosmic rays; as configured when not given.
        in_place : bool
            Repair the exposure itself instead of a copy.

        Returns
        -------
        result : Result
            ``exposure``, repaired; ``cosmic_rays``, their FootprintSet. The number of events and of their pixels
            is in the metadata as ``cosmic_ray_count`` and ``cosmic_ray_pixels``.

        Raises
        ------
        TooManyCosmicRaysError
            More pixels than ``max_pixels`` look like cosmic rays.
        AlgorithmError
            No pixel has a positive variance.
        InputError
            There is no point-spread function for ``psf_contrast``.
        """
        keep = self.config.keep_cosmic_rays if keep_cosmic_rays is None else keep_cosmic_rays
        result: Any = exposure if in_place else exposure.copy()
        mark_defects(result, defects or ())
        forget_cosmic_rays(result)
        level = typical_level(result)
        if self.config.interpolate:
            self.fill(result, level)
        found = self.find(result, level)
        mark_cosmic_rays(result, found, replace=not keep)
        self.metadata.update(cosmic_ray_count=len(found), cosmic_ray_pixels=len(found.pixels))
        self.log.info("%d cosmic rays, %d pixels", len(found), len(found.pixels))
        self.debug_hook("repair", exposure=result, cosmic_rays=found)
        return Result(exposure=result, cosmic_rays=found.footprints)

    def fill(self, exposure: Exposure, level: float) -> None:
        """Fill the pixels of the configured planes in place."""
        planes = exposure.mask.planes
        interpolate_flagged(
            exposure.image,
            exposure.mask.array,
            exposure.variance,
            bits=planes.bits_present(*self.config.interpolated_planes),
            set_bits=planes.bits("INTRP"),
            fallback=level,
        )

    def find(self, exposure: Exposure, level: float) -> CosmicRays:
        """Find cosmic rays by the configured method."""
        config, planes = self.config, exposure.mask.planes
        avoided = planes.bits_present(*config.avoided_planes)
        if config.method == "none":
            return no_cosmic_rays()
        usable = exposure.variance > 0
        if not usable.any():
            raise AlgorithmError(
                "cosmic rays need a variance, and no pixel has a positive one",
                numbers={"pixels": exposure.variance.size, "positive": 0},
            )
        if config.method == "laplacian":
            return self.find_laplacian(exposure, avoided, usable)
        if exposure.psf is None:
            raise InputError(
                "cosmic rays by psf_contrast need a PSF: install one first, or choose the method laplacian"
            )
        settings = config.psf_contrast
        limit = None
        if settings.star_safety > 0 and min(exposure.shape) > 2:
            seen = star_contrast(
                exposure.image, exposure.variance, exposure.mask.array, reject_bits=avoided, background=level
            )
            limit = settings.star_safety * seen
        return find_cosmic_rays(
            exposure.image,
            exposure.variance,
            exposure.mask.array,
            psf_image=exposure.psf.kernel_at(),
            reject_bits=avoided,
            interpolated_bit=planes.bits_present("INTRP"),
            background=level,
            n_sigma=settings.n_sigma,
            min_counts=settings.min_counts,
            noise_factor=settings.noise_factor,
            contrast_factor=settings.contrast_factor,
            contrast_limit=limit,
            n_iterations=settings.n_iterations,
            max_pixels=config.max_pixels,
            removal=settings.removal,
            seed=config.seed,
            origin=exposure.origin,
        )

    def find_laplacian(self, exposure: Exposure, avoided: int, usable: NDArray[np.bool_]) -> CosmicRays:
        """Find cosmic rays by Laplacian edge detection."""
        settings = self.config.laplacian
        blocked = (exposure.mask.array & np.int32(avoided)) != 0
        blocked |= ~usable
        return find_cosmic_rays_laplacian(
            exposure.image,
            exposure.variance,
            blocked,
            limit=settings.limit,
            neighbour_fraction=settings.neighbour_fraction,
            contrast=settings.contrast,
            n_iterations=settings.n_iterations,
            separable=settings.separable,
            grow_mask=settings.grow_mask,
            max_pixels=self.config.max_pixels,
            origin=exposure.origin,
        )


def mark_defects(exposure: Exposure, defects: Sequence[Box]) -> None:
    """Set BAD in place on the pixels of boxes (parent frame)."""
    for box in defects:
        inside = box.intersection(exposure.box)
        if not inside.is_empty:
            exposure.mask.set("BAD", inside.slices(exposure.origin))


def forget_cosmic_rays(exposure: Exposure) -> None:
    """Clear CR in place, except on pixels that were replaced: what they were is not there any more."""
    planes = exposure.mask.planes
    both = np.int32(planes.bits("CR", "INTRP"))
    flags = exposure.mask.array
    if np.bitwise_or.reduce(flags, axis=None) & planes.bits("CR"):
        exposure.mask.clear("CR", where=(flags & both) == planes.bits("CR"))


def mark_cosmic_rays(exposure: Exposure, found: CosmicRays, *, replace: bool) -> None:
    """Set CR on the pixels in place; with ``replace`` also their values, their variances and INTRP."""
    y, x = found.pixels[:, 0], found.pixels[:, 1]
    exposure.mask.set("CR", (y, x))
    if replace:
        exposure.mask.set("INTRP", (y, x))
        exposure.image[y, x] = found.values
        exposure.variance[y, x] = found.variances


def typical_level(exposure: Exposure) -> float:
    """Median of the good pixels of every fourth row and column; zero without any."""
    planes = exposure.mask.planes
    step = (slice(None, None, _LEVEL_STEP),) * 2
    avoided = np.int32(planes.bits_present("BAD", "SAT", "DETECTED", "NO_DATA"))
    good = exposure.image[step][(exposure.mask.array[step] & avoided) == 0]
    level = median(good) if good.size else np.nan
    return level if np.isfinite(level) else 0.0
