"""Inputs of a HOTPANTS session and the bits of its masks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.differencing.flags import FlagList
from starmill.errors import StarmillError
from starmill.hotpants.options import HotpantsError

__all__ = [
    "EXTERNAL", "FILL", "INPUT_BAD", "LOW", "NOT_A_NUMBER", "SATURATED", "TOO_FEW_TAPS", "TOUCHED", "UNUSABLE",
    "check_catalog", "load_image", "minus", "of_shape", "raise_typed", "refuse_unusable",
]  # fmt: skip

# Bits of the output mask, as in the C program.
FILL, SATURATED, LOW, NOT_A_NUMBER, TOO_FEW_TAPS, EXTERNAL, TOUCHED, INPUT_BAD, UNUSABLE = (
    0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x8000
)  # fmt: skip

MOST_BAD = 0.98  # part of the pixels of an image


def raise_typed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the errors of the engine into HotpantsError, with their numbers."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            return method(self, *arguments, **keywords)
        except HotpantsError:
            raise
        except StarmillError as error:
            raise HotpantsError(str(error)) from error

    return call


def load_image(data: NDArray[np.floating] | str | Path) -> tuple[NDArray[np.float32], Any]:
    """Return pixels as float32 and the header (None for arrays)."""
    if isinstance(data, str | Path):
        from starmill.io.fits import read_image

        try:
            image, header = read_image(data)
        except StarmillError as error:
            raise HotpantsError(str(error)) from error
        return np.asarray(image, np.float32), header
    try:
        image = np.asarray(data, np.float32)
    except (TypeError, ValueError) as error:
        raise HotpantsError(f"an image must be an array of numbers or a path: {error}") from error
    if image.ndim != 2 or image.size == 0:
        raise HotpantsError(f"images must be two-dimensional and not empty, not {image.shape}")
    return image, None


def minus(image: NDArray[np.floating], pedestal: float, in_place: bool = False) -> NDArray[np.floating]:
    """Return an image without its pedestal."""
    if not pedestal:
        return image
    return np.subtract(image, np.float32(pedestal), out=image if in_place and image.flags.writeable else None)


def check_catalog(catalog: NDArray[np.floating] | list[list[float]] | None) -> NDArray[np.floating] | None:
    """Return a star catalogue as (n, 2) numbers, or None."""
    if catalog is None:
        return None
    try:
        catalog = np.asarray(catalog, np.float64)
    except (TypeError, ValueError) as error:
        raise HotpantsError(f"star_catalog must be (n, 2) numbers: {error}") from error
    if catalog.ndim != 2 or catalog.shape[1] != 2:
        raise HotpantsError(f"star_catalog must be (n, 2), not {catalog.shape}")
    unknown = int((~np.isfinite(catalog)).any(axis=1).sum())
    if unknown:
        raise HotpantsError(f"{unknown} of {len(catalog)} positions of star_catalog are not finite")
    return catalog


def of_shape(plane: NDArray[Any], shape: tuple[int, int], what: str) -> NDArray[Any]:
    """Return a mask or noise as an array; HotpantsError, naming ``what`` it is, unless it has the image's shape."""
    plane = np.asarray(plane)
    if plane.shape != shape:
        raise HotpantsError(f"the {what} is {plane.shape}, the image {shape}")
    return plane


def refuse_unusable(bits: NDArray[np.integer] | FlagList, n_bad: int, size: int, name: str) -> None:
    """Raise HotpantsError with the shares of the reasons when hardly a pixel of an image is usable."""
    if n_bad <= MOST_BAD * size:
        return
    reasons = {
        "not finite": NOT_A_NUMBER, "saturated": SATURATED, "at or below the lower limit": LOW, "masked": EXTERNAL,
    }  # fmt: skip
    shares = ", ".join(f"{((bits & bit) > 0).mean():.1%} {what}" for what, bit in reasons.items())
    flagged = ((bits & (NOT_A_NUMBER | SATURATED | LOW | EXTERNAL)) > 0).mean()
    noiseless = n_bad / size - flagged
    if noiseless > 0.01:  # rounding of a share
        shares += f", {noiseless:.1%} without a positive noise"
    raise HotpantsError(f"the {name} has no usable pixels: {shares}")
