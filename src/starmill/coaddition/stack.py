"""Mean of exposures on the same pixels, with masks and without outliers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.mask import Mask
from starmill.errors import AlgorithmError, InputError

__all__ = ["mean_exposure"]


def mean_exposure(
    exposures: Sequence[Exposure],
    *,
    scales: Sequence[float] | None = None,
    bad_planes: Sequence[str] = ("BAD", "SAT", "CR", "NO_DATA"),
    clip: float = 4.0,
) -> Exposure:
    """Return the mean of exposures, weighted by their sky noise, without pixels that are masked or outliers.

    Parameters
    ----------
    exposures : sequence of Exposure
        On the same box, sky-subtracted or with equal sky. Not changed.
    scales : sequence of float, optional
        What each is multiplied by, to bring all to one photometric scale; 1 when not given.
    bad_planes : sequence of str
        Pixels of these mask planes do not count. The border that a detection did not search (EDGE) does.
    clip : float
        A pixel further from the median of all, in its own standard deviations, does not count; from three exposures on.

    Returns
    -------
    mean : Exposure
        With variance; pixels that no exposure has are NO_DATA; WCS and information of the first.
    """
    if not exposures:
        raise InputError("there is no exposure to average")
    boxes = {e.box for e in exposures}
    if len(boxes) > 1:
        raise InputError(f"the exposures are on different pixels: {', '.join(map(str, boxes))}")
    scales = np.ones(len(exposures)) if scales is None else np.asarray(scales, np.float64)
    images = np.stack(
        [np.nan_to_num(e.image) * np.float32(f) for e, f in zip(exposures, scales, strict=True)]
    )
    variances = np.stack([e.variance * np.float32(f) ** 2 for e, f in zip(exposures, scales, strict=True)])
    good = np.stack([_usable(e, bad_planes) for e in exposures]) & (variances > 0)
    if not good.any():
        raise AlgorithmError("no pixel of the exposures is usable", numbers={"exposures": len(exposures)})
    if len(exposures) > 2:
        middle = _median(images, good)
        good &= np.abs(images - middle) <= clip * np.sqrt(np.where(good, variances, 1))
    # one weight for an exposure: a weight from the pixel itself would make the PSF depend on the brightness
    weights = np.array(
        [1 / np.median(v[g][::7]) if g.any() else 0.0 for v, g in zip(variances, good, strict=True)]
    )
    share = good * weights[:, None, None].astype(np.float32)
    total = share.sum(axis=0)
    some = total > 0
    norm = np.where(some, total, 1)
    mask = Mask(np.zeros(images.shape[1:], np.int32), origin=exposures[0].origin)
    mask.set("NO_DATA", ~some)
    return Exposure(
        (share * images).sum(axis=0) / norm, mask, np.where(some, (share**2 * variances).sum(axis=0) / norm**2, 0),
        origin=exposures[0].origin, unit=exposures[0].unit, wcs=exposures[0].wcs, info=exposures[0].info,
        photo_scale=exposures[0].photo_scale,
    )  # fmt: skip


def _usable(exposure: Exposure, bad_planes: Sequence[str]) -> NDArray[np.bool_]:
    known = [name for name in bad_planes if name in exposure.mask.planes]
    return ~exposure.mask.any(*known) & np.isfinite(exposure.image)


def _median(images: NDArray[np.floating], good: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Return the median of the good values of every pixel; 0 where there is none."""
    values = np.sort(np.where(good, images, np.inf), axis=0)
    count = good.sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), count // 2
    pick = [np.take_along_axis(values, np.minimum(k, len(values) - 1)[None], axis=0)[0] for k in (low, high)]
    middle = (pick[0] + pick[1]) / 2
    return np.where((count > 0) & np.isfinite(middle), middle, 0)
