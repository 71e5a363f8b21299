"""Verdict on a difference image, from the image itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from starmill.differencing.kernel_fit import KernelFit
    from starmill.differencing.stamps import StampSet
    from starmill.differencing.wings import KernelWings


__all__ = ["DifferenceQuality", "judge_difference"]

SCALE_LIMIT = 0.1
"""Relative error of the kernel sum beyond which the difference of anything bright means nothing."""


@dataclass(frozen=True)
class DifferenceQuality:
    """Numbers that say whether a difference can be trusted.

    Attributes
    ----------
    stamps_used, stamps : int
    star_residual : float
        Median square root of the reduced chi2 of the stamps that were used; 1 for a perfect match.
    sky_width : float
        Robust width of difference over error; 1 when the variance is right.
    score_width : float
        Robust width of the signal-to-noise image on pixels that are not bad.
    flatness : float
        Scatter of the medians of an 8 by 8 grid of cells, in units of the noise of one pixel.
    usable_fraction : float
        Pixels that are not bad.
    wings : float
        Kernel sum carried by the wings; 0 when not fitted.
    scale_error : float
        Relative standard error of the kernel sum: by so much of the light of the template every flux may be wrong.
    lone_error : float
        The same without the brightest object, for a cutout: when it is large, the scale rests on one object.
    reasons : tuple of str
        What is wrong; empty for a good difference.
    """

    stamps_used: int
    stamps: int
    star_residual: float
    sky_width: float
    score_width: float
    flatness: float
    usable_fraction: float
    wings: float
    scale_error: float
    lone_error: float
    reasons: tuple

    @property
    def good(self) -> bool:
        """No reason to distrust the difference."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """The word "good", or "failed" with the reasons."""
        return "good" if self.good else "failed: " + "; ".join(self.reasons)

    def numbers(self) -> dict[str, Any]:
        """Return plain values."""
        values = asdict(self)
        values["reasons"] = "; ".join(self.reasons)
        return values


def judge_difference(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    fit: KernelFit,
    stamps: StampSet,
    score: NDArray[np.floating],
    wings: KernelWings | None = None,
    scale_error: float = 0.0,
    lone_error: float = 0.0,
    light: float = np.inf,
) -> DifferenceQuality:
    """Judge a difference image.

    Parameters
    ----------
    difference, variance : (ny, nx) arrays
    bad : (ny, nx) bool array
    fit : KernelFit
    stamps : StampSet
    score : (ny, nx) array
        Signal-to-noise image.
    wings : KernelWings, optional
    scale_error : float
        Relative standard error of the kernel sum.
    lone_error : float
        The same without the brightest object, for a cutout.
    light : float
        Signal-to-noise of the brightest light of the template: what is faint needs no photometric scale.

    Returns
    -------
    quality : DifferenceQuality
    """
    good = ~bad & (variance > 0)
    thin = np.s_[::3, ::3]
    values = (difference[thin] / np.sqrt(np.maximum(variance[thin], 1e-30)))[good[thin]]
    sky_width = _spread(values) if len(values) else np.nan
    score_width = _spread(score[thin][good[thin]]) if len(values) else np.nan
    flatness = _flatness(difference, variance, good)
    residual = float(
        np.sqrt(max(np.median(fit.chi2[fit.used]), 0.0))
    )  # of one stamp it may be less than its noise
    limits = (
        (residual > 2, f"residuals of the stamps are {residual:.2f} times the noise"),
        (not 0.7 < sky_width < 1.4, f"difference over error has a width of {sky_width:.2f}"),
        (flatness > 0.5, f"background is uneven by {flatness:.2f} of the pixel noise"),
        (fit.used.sum() < 0.3 * len(stamps), f"only {fit.used.sum()} of {len(stamps)} stamps agree"),
        (good.mean() < 0.1, f"only {good.mean():.1%} of the pixels are usable"),
        (
            scale_error > SCALE_LIMIT and scale_error * light > 3,
            f"the photometric scale is uncertain by {scale_error:.0%}",
        ),
        (
            lone_error > SCALE_LIMIT >= scale_error and lone_error * light > 3,
            f"the scale rests on one object, whose change would not be seen (off by {min(lone_error, 9.99):.0%} without)",
        ),
        (not fit.converged, f"stamp rejection did not converge in {fit.iterations} iterations"),
    )
    return DifferenceQuality(
        int(fit.used.sum()), len(stamps), residual, float(sky_width), float(score_width), flatness,
        float(good.mean()), 0.0 if wings is None else wings.total, float(scale_error), float(lone_error),
        tuple(text for wrong, text in limits if wrong),
    )  # fmt: skip


def _spread(values: NDArray[np.floating]) -> float:
    low, high = np.percentile(values, [15.87, 84.13])
    return float(high - low) / 2


def _flatness(
    difference: NDArray[np.floating], variance: NDArray[np.floating], good: NDArray[np.bool_]
) -> float:
    rows = np.array_split(np.arange(difference.shape[0]), 8)
    columns = np.array_split(np.arange(difference.shape[1]), 8)
    medians = []
    for row in rows:
        for column in columns:
            part = (
                np.s_[row[0] : row[-1] + 1 : 2, column[0] : column[-1] + 1 : 2]
                if len(row) and len(column)
                else None
            )
            if part is None or good[part].sum() < 20:
                continue
            medians.append(
                np.median(difference[part][good[part]]) / np.sqrt(np.median(variance[part][good[part]]))
            )
    return float(np.std(medians)) if medians else 0.0
