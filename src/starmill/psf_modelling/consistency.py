"""Which stars agree with a PSF model, and where the model says their centres are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.psf import Psf
from starmill.psf_modelling.spatial_fit import spatial_terms
from starmill.psf_modelling.star_scaling import StarScales

if TYPE_CHECKING:
    from starmill.datamodel.geometry import Box
    from starmill.psf_modelling.candidates import StarStamps


_MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation of a Gaussian


@dataclass(frozen=True)
class PsfFit:
    """A PSF model and the stars behind it.

    Attributes
    ----------
    psf : Psf
    used : (n,) bool
        Stars that survived the rejection.
    x, y : (n,) float64, pixel
        Positions, centred with the model.
    scales : StarScales
        Flux, residual shape and residual image of every star.
    good : (n, size, size) bool
        Pixels that were used.
    order : int
        Order of the spatial terms that the number of stars allowed.
    """

    psf: Psf
    used: NDArray[np.bool_]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    scales: StarScales
    good: NDArray[np.bool_]
    order: int


def choose_consistent(
    stamps: StarStamps, scales: StarScales, n_sigma: float, *, max_chi2: float = 3.0, min_good: float = 0.5
) -> NDArray[np.bool_]:
    """Return the stars whose size, ellipticity and chi squared agree with the others, (n,) bool.

    Differences are counted in the scatter of the others and the error of each star, so that a faint star is
    not kept for its noise nor a bright one rejected for the last per mille. Where fewer than three stars have the
    share ``min_good`` of usable pixels, half of it will do: a crowded star is better than none.
    """
    usable = np.isfinite(scales.flux) & (scales.flux > 0) & np.isfinite(scales.shape_err)
    share = stamps.good.mean(axis=(1, 2))
    usable &= share >= (min_good if (usable & (share >= min_good)).sum() >= 3 else 0.5 * min_good)
    used = usable.copy()
    floor = 0.003  # relative size below which differences are not worth losing a star
    for _ in range(5):
        if used.sum() < 5:
            break
        update = usable.copy()
        for value in (scales.size, scales.g1, scales.g2):
            center = np.median(value[used])
            # the low side of the sizes is free of blends and galaxies
            spread = _MAD_TO_SIGMA * np.median(np.abs(value[used] - center))
            noise = np.median(scales.shape_err[used])
            intrinsic = np.sqrt(max(spread**2 - noise**2, 0.0))
            limit = n_sigma * np.sqrt(intrinsic**2 + scales.shape_err**2 + floor**2)
            update &= np.abs(value - center) <= limit
        typical = np.median(scales.reduced_chi2[used])
        update &= scales.reduced_chi2 <= max(max_chi2, max_chi2 * typical)
        if np.array_equal(update, used) or update.sum() < 3:
            break
        used = update
    return used


def recentred(
    stamps: StarStamps,
    given: StarStamps,
    scales: StarScales,
    used: NDArray[np.bool_],
    box: Box,
    order: int,
    *,
    max_shift: float = 0.5,
) -> StarStamps:
    """Move each star to the centre that the model finds, without moving the stars as a whole.

    Parameters
    ----------
    stamps : StarStamps
        With the positions of the last round.
    given : StarStamps
        With the positions of the catalogue: the weighted mean offset from them, a polynomial of ``order`` over the
        field, is taken out, because it belongs to the model and not to the stars.
    scales : StarScales
    used : (n,) bool
        Other stars keep the position of the catalogue.
    box : Box
    order : int
    max_shift : float, pixel
    """
    shift = np.stack([stamps.x - given.x + scales.shift_x, stamps.y - given.y + scales.shift_y], axis=1)
    snr2 = (scales.flux / scales.flux_err) ** 2
    valid = (
        used & np.isfinite(shift).all(axis=1) & (np.abs(shift) < max_shift).all(axis=1) & np.isfinite(snr2)
    )
    if not valid.any():
        return given
    weights = 1.0 / (1.0 / snr2[valid] + 0.005**2)
    root = np.sqrt(weights)[:, None]
    terms = spatial_terms(stamps.x, stamps.y, box, order)
    mean = terms @ np.linalg.lstsq(terms[valid] * root, shift[valid] * root, rcond=None)[0]
    shift = np.where(valid[:, None], shift - mean, 0.0)
    return replace(stamps, x=given.x + shift[:, 0], y=given.y + shift[:, 1])
