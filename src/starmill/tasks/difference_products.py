"""Exposures of a difference and what their files tell about it."""

from __future__ import annotations

from typing import Any

import numpy as np

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ConstantField
from starmill.datamodel.mask import Mask
from starmill.datamodel.psf import PixelBasisPsf
from starmill.differencing.quality import DifferenceQuality

__all__ = ["difference_exposures", "difference_summary"]


def difference_exposures(
    science: Exposure, template: Exposure, products: dict[str, Any]
) -> tuple[Exposure, Exposure]:
    """Return difference and score as exposures like the science one."""
    mask = Mask(science.mask.array.copy(), science.mask.planes, origin=science.origin)
    for name in ("SAT", "BAD", "CR"):
        if name in template.mask.planes:
            mask.add_plane(f"{name}_TEMPLATE", f"{name} in the template")
            mask.set(f"{name}_TEMPLATE", template.mask.any(name))
    mask.set("NO_DATA", products["bad"])
    mask.set("SUSPECT", (products["lost"] > 0) & ~products["bad"])
    clear = mask.bits("DETECTED", "DETECTED_NEGATIVE")
    mask.array[...] &= ~clear
    image = np.where(products["bad"], np.float32(np.nan), products["image"])
    psf = PixelBasisPsf(products["psf"][None], [ConstantField(science.box, 1.0)])
    common = {"origin": science.origin, "wcs": science.wcs, "info": science.info}
    difference = Exposure(
        image,
        mask,
        products["variance"],
        unit=science.unit,
        psf=psf,
        photo_scale=science.photo_scale,
        **common,
    )
    ones = np.ones(image.shape, np.float32)
    score_mask = Mask(mask.array.copy(), mask.planes, origin=science.origin)
    return difference, Exposure(products["score"], score_mask, ones, unit="", psf=psf, **common)


def difference_summary(
    quality: DifferenceQuality, direction: str, products: dict[str, Any]
) -> dict[str, Any]:
    """Return what a file of the difference tells about it; plain finite values."""
    values = {
        "verdict": quality.verdict, "good": quality.good, "convolved": direction, "kernel_sum": products["kernel_sum"],
        "kernel_sum_error": products["kernel_sum_error"], **quality.numbers(),
    }  # fmt: skip
    del values["reasons"]
    return {
        name: value for name, value in values.items() if not isinstance(value, float) or np.isfinite(value)
    }
