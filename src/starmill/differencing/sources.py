"""Sources of a difference image: peaks of both signs in the score image, PSF fluxes, forced fluxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, shift
from scipy.spatial import cKDTree

from starmill.datamodel.catalog import MINIMAL_COLUMNS, Catalog, Column, Schema, source_ids
from starmill.differencing.dipoles import fit_dipole
from starmill.differencing.source_shapes import extended_shapes, shape_score, spike_shapes

__all__ = ["DIFFERENCE_SCHEMA", "find_difference_sources", "forced_fluxes"]

SHAPE_GAIN = 4.0
"""By so much must the chi2 of another shape, of one pixel or of extended light, be better than that of the PSF."""

DIFFERENCE_SCHEMA = Schema(
    [
        *MINIMAL_COLUMNS,
        Column("x_err", "f4", "pixel", "standard error of x"),
        Column("y_err", "f4", "pixel", "standard error of y"),
        Column(
            "psf_flux",
            "f8",
            "",
            "PSF flux in the difference, image unit; negative when fainter in the science image",
        ),
        Column("psf_flux_err", "f8", "", "standard error of psf_flux"),
        Column("psf_chi2", "f4", "", "reduced chi2 of the PSF fit within 1.5 FWHM"),
        Column("signal_to_noise", "f4", "", "peak of the score image"),
        Column("is_negative", "bool", "", "fainter in the science image"),
        Column("dipole_flag", "bool", "", "a pair of opposite sources fits, and better than one source"),
        Column(
            "dipole_separation",
            "f4",
            "pixel",
            "distance between the two poles; NaN when no dipole was fitted",
        ),
        Column(
            "dipole_angle",
            "f4",
            "rad",
            "direction from the negative to the positive pole, counter-clockwise from +x",
        ),
        Column("dipole_flux", "f8", "", "mean of the absolute fluxes of the poles"),
        Column("psf_flux_flag", "bool", "", "unusable pixels near the centre"),
        Column(
            "sharp_flag",
            "bool",
            "",
            "narrower than a point source, one or two pixels explain more than the PSF: a cosmic ray or hot pixel",
        ),
        Column(
            "extended_flag",
            "bool",
            "",
            "broader than a point source, a line or a blurred PSF explains more: a trail, scattered light, an edge",
        ),
    ]
)


def find_difference_sources(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    score: NDArray[np.floating],
    psf_image: NDArray[np.floating],
    *,
    threshold: float = 5.0,
    dipole_reach: float | None = None,
    spike: NDArray[np.floating] | None = None,
    shapes: bool = True,
    origin: tuple[int, int] = (0, 0),
    exposure_id: int = 0,
) -> Catalog:
    """Find and measure sources of both signs.

    Parameters
    ----------
    difference, variance : (ny, nx) arrays
    bad : (ny, nx) bool array
    score : (ny, nx) array
        Signal-to-noise of a point source on every pixel.
    psf_image : (m, m) array
        PSF of the difference.
    threshold : float
        Of the absolute score.
    dipole_reach : float, optional
        Opposite peaks closer than this many FWHM are fitted as a dipole; see :func:`natural_reach` when not given.
    spike : (k, k) array, optional
        What a single bright pixel of the science image becomes in the difference, any scale; one pixel when not given.
    shapes : bool
        Compare sources with other shapes; not for a difference whose noise is correlated, where no shape is told from
        another: both flags then stay unset.
    origin : (int, int)
        Parent position of the first pixel.
    exposure_id : int

    Returns
    -------
    catalog : Catalog
        With the columns of ``DIFFERENCE_SCHEMA``.
    """
    strength = np.where(bad, 0, np.abs(score))
    peaks = (strength >= threshold) & (strength == maximum_filter(strength, 5))
    peaks[:2], peaks[-2:], peaks[:, :2], peaks[:, -2:] = False, False, False, False
    rows, columns = np.nonzero(peaks)
    fwhm = psf_fwhm(psf_image)
    reach = int(np.ceil(1.5 * fwhm))
    spikes, lines = spike_shapes(spike), extended_shapes(psf_image, fwhm)
    values = {column.name: column.blank(len(rows)) for column in DIFFERENCE_SCHEMA.values()}
    values["id"] = source_ids(len(rows), exposure_id)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        sign = np.sign(score[row, column])
        dx, dy = peak_offset(sign * score[row - 1 : row + 2, column - 1 : column + 2])
        x, y = column + dx, row + dy
        flux, error, chi2, usable = _psf_flux(difference, variance, bad, psf_image, x, y, reach)
        position_error = fwhm / 2.355 / max(abs(score[row, column]), 1) * np.sqrt(2)
        values["x"][i], values["y"][i] = x + origin[0], y + origin[1]
        values["x_err"][i] = values["y_err"][i] = position_error
        values["psf_flux"][i], values["psf_flux_err"][i], values["psf_chi2"][i] = flux, error, chi2
        values["signal_to_noise"][i], values["is_negative"][i] = score[row, column], sign < 0
        for name, others, around in (
            (("sharp_flag", spikes, 1), ("extended_flag", lines, 0)) if shapes else ()
        ):
            other = shape_score(difference, variance, bad, others, sign, row, column, reach=around)
            values[name][i] = other**2 - score[row, column] ** 2 > SHAPE_GAIN
        values["psf_flux_flag"][i] = (
            usable < 0.9
        )  # a tenth of the core lost moves the flux by about its error
    if dipole_reach is None:
        dipole_reach = natural_reach(score[rows, columns], fwhm, int((~bad).sum()))
    _add_dipoles(values, difference, variance, bad, psf_image, rows, columns, fwhm, dipole_reach, origin)
    return Catalog(DIFFERENCE_SCHEMA, values)


def forced_fluxes(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf_image: NDArray[np.floating],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return PSF fluxes and errors at given array positions; NaN where no pixel is usable.

    Parameters
    ----------
    difference, variance, bad, psf_image
        As in :func:`find_difference_sources`.
    x, y : (n,) arrays

    Returns
    -------
    flux, error : (n,) arrays
    """
    reach = psf_image.shape[0] // 2
    measured = [
        _psf_flux(difference, variance, bad, psf_image, a, b, reach)[:2]
        for a, b in zip(np.atleast_1d(x), np.atleast_1d(y), strict=True)
    ]
    return tuple(np.array(measured).reshape(-1, 2).T)


def natural_reach(
    peaks: NDArray[np.floating],
    fwhm: float,
    area: int,
    *,
    chance: float = 0.1,
    least: float = 3.0,
    most: float = 12.0,
) -> float:
    """Return how far apart, in FWHM, two opposite peaks may lie before they are unrelated.

    Parameters
    ----------
    peaks : (n,) array
        Scores of all peaks, of both signs.
    fwhm : float
        Pixels.
    area : int
        Usable pixels.
    chance : float
        Expected number of unrelated peaks of comparable strength and opposite sign within the reach of a peak.
    least, most : float
        Limits in FWHM: a star that is not quite subtracted leaves poles one FWHM apart, one that moved may leave
        them many FWHM apart.
    """
    opposite = max(min((peaks > 0).sum(), (peaks < 0).sum()), 1)
    return float(np.clip(np.sqrt(chance * area / (np.pi * opposite)) / fwhm, least, most))


def psf_fwhm(psf_image: NDArray[np.floating]) -> float:
    """Return the FWHM of a PSF image from the area above half of its peak, pixels."""
    from scipy.ndimage import zoom

    half = psf_image.shape[0] // 2
    keep = min(half, 12)
    fine = zoom(psf_image[half - keep : half + keep + 1, half - keep : half + keep + 1], 4, order=3)
    return float(max(2 * np.sqrt((fine > fine.max() / 2).sum() / np.pi) / 4, 1.0))


def peak_offset(patch: NDArray[np.floating]) -> tuple[float, float]:
    """Return the offset (x, y) of the maximum of a 3 x 3 patch by parabolas, at most half a pixel."""
    offsets = []
    for line in (patch[1], patch[:, 1]):
        curvature = line[0] - 2 * line[1] + line[2]
        step = 0.0 if curvature >= 0 else 0.5 * (line[0] - line[2]) / curvature
        offsets.append(float(np.clip(step, -0.5, 0.5)))
    return tuple(offsets)


def _psf_flux(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf_image: NDArray[np.floating],
    x: float,
    y: float,
    reach: int,
) -> tuple[float, float, float, float]:
    """Return flux, error, reduced chi2 and usable share of the core at one position."""
    column, row = round(float(x)), round(float(y))
    ny, nx = difference.shape
    half = psf_image.shape[0] // 2
    reach = min(reach, half)
    top, bottom, left, right = (
        max(row - reach, 0),
        min(row + reach + 1, ny),
        max(column - reach, 0),
        min(column + reach + 1, nx),
    )
    if top >= bottom or left >= right:
        return np.nan, np.nan, np.nan, 0.0
    model = shift(psf_image, (y - row, x - column), order=3)
    model = model[half + top - row : half + bottom - row, half + left - column : half + right - column]
    part = np.s_[top:bottom, left:right]
    good = ~bad[part] & (variance[part] > 0)
    usable = float(model[good].sum() / max(model.sum(), 1e-30))
    if usable < 0.2:
        return np.nan, np.nan, np.nan, usable
    weight = 1 / variance[part][good]
    profile, data = model[good], difference[part][good]
    norm = np.sum(profile**2 * weight)
    flux = np.sum(profile * data * weight) / norm
    chi2 = np.sum((data - flux * profile) ** 2 * weight) / max(good.sum() - 1, 1)
    return float(flux), float(1 / np.sqrt(norm)), float(chi2), usable


def _add_dipoles(
    values: dict[str, NDArray[Any]],
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf_image: NDArray[np.floating],
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    fwhm: float,
    reach: float,
    origin: tuple[int, int],
) -> None:
    """Fit a dipole to every pair of opposite peaks closer than ``reach`` FWHM."""
    score, negative = np.abs(values["signal_to_noise"]), values["is_negative"]
    values["dipole_separation"][:] = np.nan
    values["dipole_angle"][:] = np.nan
    values["dipole_flux"][:] = np.nan
    for i, j in _opposite_pairs(score, negative, rows, columns, reach * fwhm):
        start = [values[name][k] - o for k in (i, j) for name, o in (("x", origin[0]), ("y", origin[1]))]
        fit = fit_dipole(difference, variance, bad, psf_image, start, fwhm=fwhm)
        for k in (i, j):
            values["dipole_flag"][k] = fit.is_dipole
            values["dipole_separation"][k], values["dipole_angle"][k] = fit.separation, fit.angle
            values["dipole_flux"][k] = fit.flux


def _opposite_pairs(
    score: NDArray[np.floating],
    negative: NDArray[np.bool_],
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    reach: float,
) -> list[tuple[int, int]]:
    """Return pairs (positive, negative) of peaks within reach, each the other's best partner.

    The best partner is near and of similar strength: of cost ``distance (1 + |ln ratio of scores|)``.
    """
    positive, opposite = np.flatnonzero(~negative), np.flatnonzero(negative)
    if not len(positive) or not len(opposite):
        return []
    trees = [cKDTree(np.column_stack([columns[which], rows[which]])) for which in (positive, opposite)]
    pairs = trees[0].sparse_distance_matrix(trees[1], reach, output_type="ndarray")
    i, j = pairs["i"], pairs["j"]
    cost = np.maximum(pairs["v"], 1) * (1 + np.abs(np.log(score[positive][i] / score[opposite][j])))
    best, back = np.full(len(positive), np.inf), np.full(len(opposite), np.inf)
    np.minimum.at(best, i, cost)
    np.minimum.at(back, j, cost)
    mutual = (cost == best[i]) & (cost == back[j])
    return sorted(zip(positive[i[mutual]].tolist(), opposite[j[mutual]].tolist(), strict=True))
