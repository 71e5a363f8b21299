"""The catalogue of compact sources: columns, and how fits and sums become fluxes on the sky."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import MINIMAL_COLUMNS, Catalog, Column, Schema
from starmill.datamodel.cube import SkyMap, sky_jacobian
from starmill.datamodel.psf import FWHM_PER_SIGMA
from starmill.errors import InputError
from starmill.measurement.elliptical_photometry import EllipseSums
from starmill.measurement.gaussian_fit import GaussianFit

__all__ = [
    "COMPACT_SCHEMA", "build_catalog", "detection_catalog", "ellipses_on_sky", "pixel_ellipses", "shapes_in_pixels",
]  # fmt: skip

FRACTION_OF_ONE_FWHM = 0.9375  # of a Gaussian inside semi-axes of one FWHM: 1 - 2**-4

COMPACT_SCHEMA = Schema([
    *MINIMAL_COLUMNS,
    Column("x_err", "f8", "pixel", "standard error of x"),
    Column("y_err", "f8", "pixel", "standard error of y"),
    Column("ra", "f8", "deg", "right ascension (ICRS)"),
    Column("dec", "f8", "deg", "declination (ICRS)"),
    Column("glon", "f8", "deg", "Galactic longitude"),
    Column("glat", "f8", "deg", "Galactic latitude"),
    Column("peak_flux", "f8", "Jy beam-1", "fitted peak"),
    Column("peak_flux_err", "f8", "Jy beam-1", "standard error of peak_flux"),
    Column("aperture_flux", "f8", "Jy", "flux in the ellipse of one FWHM, companions and background subtracted, unless "
           "the configuration wants that of the whole source or the bare sum"),
    Column("aperture_flux_err", "f8", "Jy", "standard error of aperture_flux; for the ellipse of one FWHM it contains the "
           "part of a Gaussian outside"),
    Column("total_flux", "f8", "Jy", "aperture flux of the whole source: divided by aperture_fraction"),
    Column("total_flux_err", "f8", "Jy", "standard error of total_flux"),
    Column("aperture_fraction", "f8", "", "part of the fitted Gaussian inside the ellipse"),
    Column("aperture_flux_raw", "f8", "Jy", "flux in the ellipse without correction"),
    Column("gaussian_flux", "f8", "Jy", "integral of the fitted Gaussian"),
    Column("gaussian_flux_err", "f8", "Jy", "standard error of gaussian_flux"),
    Column("fwhm_major", "f8", "arcsec", "full width at half maximum along the major axis, as observed"),
    Column("fwhm_major_err", "f8", "arcsec", "standard error of fwhm_major"),
    Column("fwhm_minor", "f8", "arcsec", "full width at half maximum along the minor axis, as observed"),
    Column("fwhm_minor_err", "f8", "arcsec", "standard error of fwhm_minor"),
    Column("position_angle", "f8", "deg", "of the major axis, east of north in the frame of the map"),
    Column("position_angle_err", "f8", "deg", "standard error of position_angle"),
    Column("background", "f8", "Jy beam-1", "background at the source"),
    Column("local_rms", "f8", "Jy beam-1", "local standard deviation of a pixel"),
    Column("significance", "f8", "", "peak_flux over its error"),
    Column("group", "i8", "", "number of the group that was fitted jointly"),
    Column("group_size", "i8", "", "sources in the chain of close neighbours, this one included"),
    Column("n_pixels", "i8", "", "pixels of the fit"),
    Column("reduced_chi2", "f8", "", "chi2 over degrees of freedom of the group's fit"),
    Column("nmse", "f8", "", "mean squared residual over mean squared value, within one beam"),
    Column("bic", "f8", "", "Bayesian information criterion of the group's fit"),
    Column("residual", "f8", "Jy beam-1", "median residual within one beam"),
    Column("order", "i4", "", "order of the fitted polynomial background, -1 for none"),
    Column("shoulder_score", "f8", "", "one-sidedness of the surroundings"),
    Column("fit_status", "i4", "", "0 converged, 1 iteration limit, 2 parameters not determined, 3 too few pixels"),
    Column("on_residual", "bool", "", "found on the residual map"),
    Column("fit_flag", "bool", "", "the fit failed; values are the start values"),
    Column("fit_flag_bound", "bool", "", "a size or position lies on its bound"),
    Column("aperture_flux_flag", "bool", "", "the aperture flux is incomplete or not defined"),
    Column("aperture_flux_flag_edge", "bool", "", "part of the ellipse has no data"),
])  # fmt: skip


def ellipses_on_sky(
    sky_map: SkyMap, sources: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Full widths and position angles of pixel ellipses on the sky.

    Parameters
    ----------
    sky_map : SkyMap
    sources : (n, 6) float64 array
        See :class:`starmill.measurement.gaussian_fit.GaussianFit`.

    Returns
    -------
    major, minor : (n,) arrays, arcsec
    position_angle : (n,) array, degree in [0, 180)
        East of north in the frame of the map.
    scale : (n,) array, arcsec per pixel
        Square root of the local pixel area.
    """
    jacobian = sky_jacobian(sky_map.wcs, sources[:, 1], sources[:, 2])
    cos, sin = np.cos(sources[:, 5]), np.sin(sources[:, 5])
    axes = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)  # columns: major, minor
    spread = axes * sources[:, None, 3:5] ** 2
    covariance = jacobian @ (spread @ np.swapaxes(axes, 1, 2)) @ np.swapaxes(jacobian, 1, 2)
    covariance = np.where(np.isfinite(covariance), covariance, 0.0)
    values, vectors = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(vectors[:, 0, 1], vectors[:, 1, 1])) % 180.0
    widths = FWHM_PER_SIGMA * np.sqrt(np.maximum(values, 0.0))
    return widths[:, 1], widths[:, 0], angle, np.sqrt(np.abs(np.linalg.det(jacobian)))


def pixel_ellipses(
    sky_map: SkyMap,
    sources: NDArray[np.float64],
    ratio: float,
    fixed_axes: tuple[float, float] | None,
    angle: float,
) -> NDArray[np.float64]:
    """Apertures in the pixel grid: fitted ellipses times ``ratio``, or fixed ones.

    Parameters
    ----------
    sky_map : SkyMap
    sources : (n, 6) array
    ratio : float
        Semi-axes over full widths at half maximum.
    fixed_axes : (float, float) or None, arcsec
        Full widths of fixed apertures.
    angle : float, degree
        Position angle of fixed apertures, east of north.

    Returns
    -------
    ellipses : (n, 5) array
        x, y, semi-axes (pixel), theta (radian, counter-clockwise from +x).
    """
    out = np.empty((sources.shape[0], 5))
    out[:, :2] = sources[:, 1:3]
    if fixed_axes is None:
        out[:, 2:4] = ratio * FWHM_PER_SIGMA * sources[:, 3:5]
        out[:, 4] = sources[:, 5]
        return out
    same = np.broadcast_to((*fixed_axes, angle), (sources.shape[0], 3))
    fixed = shapes_in_pixels(sky_map, sources[:, 1], sources[:, 2], same)
    out[:, 2:4] = ratio * FWHM_PER_SIGMA * fixed[:, :2]
    out[:, 4] = fixed[:, 2]
    return out


def shapes_in_pixels(
    sky_map: SkyMap, x: NDArray[np.float64], y: NDArray[np.float64], shapes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Turn ellipses on the sky into ellipses of the pixel grid.

    Parameters
    ----------
    sky_map : SkyMap
    x, y : (n,) arrays, pixel
    shapes : (n, 3) array
        FWHM of the major and of the minor axis (arcsec), position angle (degree, east of north).

    Returns
    -------
    ellipses : (n, 3) array
        Standard deviations along the major and minor axis (pixel), theta (radian, counter-clockwise from +x).
    """
    if not (np.isfinite(shapes).all() and (shapes[:, :2] > 0).all()):
        raise InputError("the axes of given source shapes must be positive numbers")
    inverse = np.linalg.inv(sky_jacobian(sky_map.wcs, x, y))
    angle = np.radians(shapes[:, 2])
    axes = np.stack(
        [np.stack([np.sin(angle), np.cos(angle)], -1), np.stack([np.cos(angle), -np.sin(angle)], -1)], -1
    )
    covariance = (axes * (shapes[:, None, :2] / FWHM_PER_SIGMA) ** 2) @ np.swapaxes(axes, 1, 2)
    values, vectors = np.linalg.eigh(inverse @ covariance @ np.swapaxes(inverse, 1, 2))
    theta = np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1])
    return np.stack([np.sqrt(values[:, 1]), np.sqrt(values[:, 0]), theta], axis=1)


def detection_catalog(
    sky_map: SkyMap,
    x: NDArray[Any],
    y: NDArray[Any],
    significance: NDArray[Any],
    shoulder_score: NDArray[Any],
) -> Catalog:
    """Return a catalogue of positions only; what was not measured is NaN."""
    columns = {
        "id": np.arange(1, x.size + 1), "x": x, "y": y, **_sky_positions(sky_map, x, y),
        "significance": significance, "shoulder_score": shoulder_score, "group_size": np.ones(x.size, int),
        "aperture_flux_flag": np.ones(x.size, bool),
    }  # fmt: skip
    return Catalog(COMPACT_SCHEMA, columns, n=x.size)


# rows: directions of the Galactic axes in ICRS, by way of FK5 (J2000) as astropy does, so that positions agree to the
# last digit; the matrix of Hipparcos (ESA 1997, vol. 1, eq. 1.5.11) differs by 0.02 arcsec
_TO_GALACTIC = np.array([
    [-0.0548756577125916, -0.8734370519556159, -0.4838350736167155],
    [+0.4941094371927268, -0.4448297212232952, +0.7469821839866676],
    [-0.8676661375596576, -0.1980763372730005, +0.4559838136873016],
])  # fmt: skip


def _rotated(
    lon: NDArray[np.float64], lat: NDArray[np.float64], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return spherical coordinates in turned axes, degrees."""
    a, d = np.radians(lon), np.radians(lat)
    x, y, z = matrix @ np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))


def _sky_positions(
    sky_map: SkyMap, x: NDArray[np.float64], y: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return equatorial (ICRS) and Galactic coordinates, degrees."""
    if x.size == 0:
        return {name: np.zeros(0) for name in ("ra", "dec", "glon", "glat")}
    lon, lat = (np.asarray(v, np.float64) for v in sky_map.wcs.wcs_pix2world(x, y, 0))
    good = np.isfinite(lon) & np.isfinite(lat)
    lon, lat = np.where(good, lon, 0.0), np.where(good, lat, 0.0)
    kind, system = str(sky_map.wcs.wcs.ctype[0]).upper(), str(sky_map.wcs.wcs.radesys).strip().upper()
    if kind.startswith("GLON"):
        glon, glat = lon % 360.0, lat
        ra, dec = _rotated(lon, lat, _TO_GALACTIC.T)
    elif kind.startswith("RA") and system in {"", "ICRS"} and not np.isfinite(sky_map.wcs.wcs.equinox):
        ra, dec = lon % 360.0, lat
        glon, glat = _rotated(lon, lat, _TO_GALACTIC)
    else:
        from astropy.coordinates import SkyCoord
        from astropy.wcs.utils import wcs_to_celestial_frame

        place = SkyCoord(lon, lat, unit="deg", frame=wcs_to_celestial_frame(sky_map.wcs)).icrs
        ra, dec = place.ra.deg, place.dec.deg
        glon, glat = _rotated(ra, dec, _TO_GALACTIC)
    values = {"ra": ra, "dec": dec, "glon": glon, "glat": glat}
    return {name: np.where(good, value, np.nan) for name, value in values.items()}


def build_catalog(
    sky_map: SkyMap, fit: GaussianFit, sums: EllipseSums, fraction: NDArray[np.float64], *,
    jy_per_pixel: float, correction: str, extra: dict[str, Any],
) -> Catalog:  # fmt: skip
    """Turn fits and sums in map units into a catalogue in jansky and arcsec.

    Parameters
    ----------
    sky_map : SkyMap
    fit : GaussianFit
        In map units.
    sums : EllipseSums
    fraction : (n,) array
        Part of each Gaussian in its ellipse.
    jy_per_pixel : float
        Jansky per pixel of one map unit.
    correction : {'published', 'whole', 'none'}
        Meaning of ``aperture_flux``: flux in the ellipse of one FWHM, of the whole source, or the bare sum.
    extra : dict of (n,) arrays
        Further columns of :data:`COMPACT_SCHEMA`; those in map units are converted to Jy/beam here.

    Returns
    -------
    catalog : Catalog
    """
    sources, n = fit.sources, fit.sources.shape[0]
    per_beam = jy_per_pixel * sky_map.beam_pixels
    major, minor, angle, scale = ellipses_on_sky(sky_map, sources)
    x_err, y_err = fit.position_err
    errors = fit.size_err
    total, total_err = sums.flux / fraction * jy_per_pixel, sums.flux_err / fraction * jy_per_pixel
    part = {"published": np.full(n, FRACTION_OF_ONE_FWHM), "whole": np.ones(n), "none": fraction}[correction]
    # the ellipse of one FWHM leaves light out, so as a measure of the source it is uncertain by that part
    left_out = (1.0 - FRACTION_OF_ONE_FWHM) * part * total if correction == "published" else 0.0
    failed = (fit.status >= 2) | ~np.isfinite(fit.sources).all(axis=1)
    edge = sums.missing_area > 0.01 * (sums.area + sums.missing_area)
    columns: dict[str, Any] = {
        "id": np.arange(1, n + 1), "x": sources[:, 1], "y": sources[:, 2], "x_err": x_err, "y_err": y_err,
        **_sky_positions(sky_map, sources[:, 1], sources[:, 2]),
        "peak_flux": sources[:, 0] * per_beam, "peak_flux_err": fit.peak_err * per_beam,
        "aperture_flux": part * total, "aperture_flux_err": np.hypot(part * total_err, left_out),
        "aperture_flux_raw": sums.flux * jy_per_pixel, "aperture_fraction": fraction,
        "total_flux": total, "total_flux_err": total_err,
        "gaussian_flux": fit.flux * jy_per_pixel, "gaussian_flux_err": fit.flux_err * jy_per_pixel,
        "fwhm_major": major, "fwhm_minor": minor, "position_angle": angle,
        "fwhm_major_err": FWHM_PER_SIGMA * errors[0] * scale, "fwhm_minor_err": FWHM_PER_SIGMA * errors[1] * scale,
        "position_angle_err": np.degrees(fit.theta_err), "significance": sources[:, 0] / np.maximum(fit.peak_err, 1e-300),
        "n_pixels": fit.n_pixels, "reduced_chi2": fit.chi2 / np.maximum(fit.n_dof, 1), "fit_status": fit.status,
        "fit_flag": failed, "aperture_flux_flag": ~np.isfinite(sums.flux) | edge, "aperture_flux_flag_edge": edge,
    }  # fmt: skip
    for name, value in extra.items():
        columns[name] = np.asarray(value) * per_beam if COMPACT_SCHEMA[name].unit == "Jy beam-1" else value
    return Catalog(COMPACT_SCHEMA, columns, n=n, slots={"centroid": "x", "model_flux": "gaussian_flux"})
