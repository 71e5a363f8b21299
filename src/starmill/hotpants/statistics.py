"""Statistics of a difference image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.differencing.cell_stamps import clipped_moments
from starmill.differencing.subtract import BAND
from starmill.hotpants.inputs import UNUSABLE
from starmill.hotpants.substamp import SubstampStatus
from starmill.kernels.pixel_limits import difference_sums
from starmill.numerics.tiles import map_tiles, row_bands

if TYPE_CHECKING:
    from starmill.hotpants.classic_session import ClassicHotpants
    from starmill.hotpants.session import Hotpants


__all__ = [
    "difference_statistics", "final_merit", "program_statistics", "program_touched_ratio", "region_statistics",
    "scale_touched", "touched_ratio",
]  # fmt: skip


ROUNDS = 5
"""How often the C program measures the moments of a difference while it clips."""


def touched_ratio(
    difference: NDArray[np.floating], noise: NDArray[np.floating], mask: NDArray[np.integer]
) -> float:
    """Return how much wider than good pixels those are that are touched but usable, in units of their noise.

    1 when there are fewer than twenty of either.
    """
    touched, good = _touched(mask), mask == 0
    if touched.sum() < 20 or good.sum() < 20:
        return 1.0
    pulls = [difference[where] / np.maximum(noise[where], np.float32(1e-30)) for where in (touched, good)]
    widths = [np.subtract(*np.percentile(p, [84.13, 15.87])) / 2 for p in pulls]
    return float(widths[0] / widths[1]) if widths[1] > 0 else 1.0


def program_touched_ratio(
    difference: NDArray[np.floating], noise: NDArray[np.floating], mask: NDArray[np.integer], clip: float
) -> float:
    """Return `touched_ratio` as the C program measures it: clipped scatter over the clipped mean noise."""
    touched, good = _touched(mask), mask == 0
    if touched.sum() < 2 or good.sum() < 2:
        return 1.0
    ratios = [
        clipped_moments(difference[where], clip, ROUNDS)[1] / clipped_moments(noise[where], clip, ROUNDS)[0]
        for where in (touched, good)
    ]
    return float(ratios[0] / ratios[1]) if ratios[1] > 0 else 1.0


def scale_touched(noise: NDArray[np.floating], mask: NDArray[np.integer], ratio: float) -> None:
    """Multiply the noise of touched pixels by a ratio above 1, in place."""
    if ratio > 1:
        np.multiply(noise, np.float32(ratio), out=noise, where=_touched(mask))


def _touched(mask: NDArray[np.integer]) -> NDArray[np.bool_]:
    return ((mask & 0xFF) > 0) & (mask < UNUSABLE)


def final_merit(session: ClassicHotpants | Hotpants) -> tuple[float, float]:
    """Return mean and scatter of the reduced chi2 of the used substamps of a session on its difference."""
    reach, values, planes = session.config.rss, [], session.results
    for s in session.substamps_of(session.conv_direction):
        if s.status is SubstampStatus.USED_IN_FINAL_FIT:
            x, y = int(s.x), int(s.y)
            part = np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1]
            good = planes["output_mask"][part] < UNUSABLE
            if good.any():
                pull = planes["diff_image"][part][good] / planes["noise_image"][part][good]
                values.append(float(np.mean(np.square(pull, dtype=np.float64))))
    return clipped_moments(values, session.config.stat_sig) if values else (0.0, 0.0)


def difference_statistics(
    difference: NDArray[np.floating], noise: NDArray[np.floating], mask: NDArray[np.integer], clip: float
) -> dict[str, float]:
    """Return the statistics of the pixels without any flag, or of all usable ones when there are too few."""
    for refused in (np.uint16(0xFFFF), np.uint16(UNUSABLE)):
        sums = np.zeros((len(row_bands(len(mask), BAND)), 6))

        def add(
            item: tuple[int, tuple[int, int]],
            refused: NDArray[np.integer] = refused,
            sums: NDArray[np.floating] = sums,
        ) -> None:
            rows = slice(*item[1])
            bits = np.asarray(mask[rows], np.uint16)
            difference_sums(difference[rows], noise[rows], bits, refused, np.float32(clip), sums[item[0]])

        map_tiles(add, enumerate(row_bands(len(mask), BAND)))
        n, noise_sum, chi2, near, total, squares = sums.sum(axis=0)
        if n >= 10:
            break
    mean = total / max(near, 1)
    return {
        "diff_mean": mean, "diff_std": float(np.sqrt(max(squares / max(near, 1) - mean**2, 0))),
        "noise_mean": noise_sum / n, "x2norm": chi2 / n, "nx2norm": int(n),
    }  # fmt: skip


def region_statistics(
    difference: NDArray[np.floating], noise: NDArray[np.floating], mask: NDArray[np.integer], clip: float
) -> dict[str, float]:
    """Return the cards X2NRM to DSIGO of one region; pixels within some times their noise count for the means."""
    sums = np.zeros(6)
    difference_sums(difference, noise, mask, np.uint16(0xFFFF), np.float32(clip), sums)
    n, noise_sum, chi2, n_near, total, squares = sums
    middle = total / max(n_near, 1)
    width = float(np.sqrt(max(squares / max(n_near, 1) - middle**2, 0)))
    values, sigma = _touched_pixels(difference, noise, mask)
    near = values[np.abs(values) < clip * np.maximum(sigma, 1e-30)]
    touched = (near.mean(), near.std()) if len(near) else (0.0, 0.0)
    level = sigma.mean() if len(sigma) else 0.0
    return _cards(n, chi2 / max(n, 1), (middle, width), noise_sum / max(n, 1), touched, level)


def program_statistics(
    difference: NDArray[np.floating], noise: NDArray[np.floating], mask: NDArray[np.integer], clip: float
) -> dict[str, float]:
    """Return the cards X2NRM to DSIGO of one region as the C program measures them: moments after clipping."""
    good = mask == 0
    n = int(good.sum())
    values, sigma = difference[good].astype(np.float64), noise[good].astype(np.float64)
    chi2 = float(np.mean(np.square(values / np.maximum(sigma, 1e-30)))) if n else 0.0
    others = _touched_pixels(difference, noise, mask)
    means = [
        clipped_moments(part, clip, ROUNDS) if len(part) else (0.0, 0.0) for part in (values, sigma, *others)
    ]
    return _cards(n, chi2, means[0], means[1][0], means[2], means[3][0])


def _cards(
    n: float,
    chi2: float,
    good: tuple[float, float],
    noise: float,
    touched: tuple[float, float],
    touched_noise: float,
) -> dict[str, float]:
    numbers = {
        "X2NRM": chi2, "DMEAN": good[0], "DSIGE": good[1], "DSIG": noise, "DMEANO": touched[0], "DSIGEO": touched[1],
        "DSIGO": touched_noise,
    }  # fmt: skip
    return {"NX2NRM": int(n)} | {name: round(float(number), 6) for name, number in numbers.items()}


def _touched_pixels(
    difference: NDArray[np.floating], noise: NDArray[np.floating], mask: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return difference and noise of the flagged but usable pixels, collected in bands of rows."""
    found = []
    for first, last in row_bands(len(mask)):
        rows = slice(first, last)
        where = (mask[rows] != 0) & (mask[rows] < UNUSABLE)
        found.append((difference[rows][where].astype(np.float64), noise[rows][where].astype(np.float64)))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))
