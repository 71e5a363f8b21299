"""Exposures that share pixels with others, so that a step copies only what it changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.datamodel.masked_image import MaskedImage

__all__ = ["with_pixels"]


def with_pixels(exposure: Exposure, image: NDArray[np.float32], mask: Mask) -> Exposure:
    """Return an exposure like another one with this image and mask; the variance is shared."""
    pixels = MaskedImage(image, mask, exposure.variance, origin=exposure.origin, unit=exposure.unit)
    return Exposure(
        pixels,
        psf=exposure.psf,
        wcs=exposure.wcs,
        photo_scale=exposure.photo_scale,
        aperture_corrections=exposure.aperture_corrections,
        info=exposure.info,
        detector=exposure.detector,
    )
