"""Catalogues as the tables and region files that users of hyper-py know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from starmill import __version__
from starmill.datamodel.catalog import Catalog
from starmill.datamodel.cube import SkyMap

__all__ = ["COLUMNS", "centroid_regions", "ellipse_regions", "frame_name", "hyper_table", "merge_tables"]

# name: (column of the catalogue, unit with F for the flux unit, format, meaning)
COLUMNS: dict[str, tuple[str, str, str, str]] = {
    "MAP_ID": ("", "", "", "Map identifier"),
    "HYPER_ID": ("id", "", "d", "Source identifier"),
    "FLUX_PEAK": ("peak_flux", "F beam-1", ".6e", "Fitted peak flux"),
    "FLUX": ("aperture_flux", "F", ".6e", "Integrated flux density"),
    "FLUX_ERR": ("aperture_flux_err", "F", ".6e", "Standard error of FLUX"),
    "RESIDUALS": ("residual", "F", ".3e", "Median of the residual map within one beam"),
    "POLYN": ("order", "", "d", "Order of the polynomial background (-1: none)"),
    "NMSE": ("nmse", "", ".4f", "Mean squared residual over mean squared value within one beam"),
    "CHI2_RED": ("reduced_chi2", "", ".4f", "Reduced chi-squared of the fit"),
    "BIC": ("bic", "", ".2f", "Bayesian information criterion of the fit"),
    "FWHM_1": ("fwhm_major", "arcsec", ".6g", "Major axis FWHM"),
    "FWHM_2": ("fwhm_minor", "arcsec", ".6g", "Minor axis FWHM"),
    "PA": ("position_angle", "deg", ".2f", "Position angle, east of north in the frame of the map"),
    "STATUS": ("", "", "d", "1: fit succeeded, 0: fit failed, 2: a fallback was used or a bound was reached"),
    "GLON": ("glon", "deg", ".9f", "Galactic longitude"),
    "GLAT": ("glat", "deg", ".9f", "Galactic latitude"),
    "RA": ("ra", "deg", ".9f", "Right ascension (ICRS)"),
    "DEC": ("dec", "deg", ".9f", "Declination (ICRS)"),
    "DEBLEND": ("", "", "d", "1: fitted together with close neighbours"),
    "CLUSTER": ("group_size", "", "d", "Sources in the chain of close neighbours"),
    "SHOULDER_SCORE": (
        "shoulder_score",
        "",
        ".3f",
        "One-sidedness of the surroundings; near 1 for a shoulder",
    ),
    "FLUX_PEAK_ERR": ("peak_flux_err", "F beam-1", ".6e", "Standard error of FLUX_PEAK"),
    "FLUX_TOTAL": ("total_flux", "F", ".6e", "Flux of the whole source: with aperture correction"),
    "FLUX_TOTAL_ERR": ("total_flux_err", "F", ".6e", "Standard error of FLUX_TOTAL"),
    "FLUX_APERTURE": (
        "aperture_flux_raw",
        "F",
        ".6e",
        "Flux inside the aperture, without aperture correction",
    ),
    "FLUX_GAUSS": ("gaussian_flux", "F", ".6e", "Integral of the fitted Gaussian"),
    "FLUX_GAUSS_ERR": ("gaussian_flux_err", "F", ".6e", "Standard error of FLUX_GAUSS"),
    "FWHM_1_ERR": ("fwhm_major_err", "arcsec", ".3g", "Standard error of FWHM_1"),
    "FWHM_2_ERR": ("fwhm_minor_err", "arcsec", ".3g", "Standard error of FWHM_2"),
    "PA_ERR": ("position_angle_err", "deg", ".2f", "Standard error of PA"),
    "X": ("x", "pixel", ".4f", "Position in the map, the first pixel is 0"),
    "Y": ("y", "pixel", ".4f", "Position in the map, the first pixel is 0"),
    "X_ERR": ("x_err", "pixel", ".4f", "Standard error of X"),
    "Y_ERR": ("y_err", "pixel", ".4f", "Standard error of Y"),
    "BACKGROUND": ("background", "F beam-1", ".4e", "Background at the source"),
    "RMS": ("local_rms", "F beam-1", ".4e", "Local standard deviation of a pixel"),
    "SNR": ("significance", "", ".2f", "FLUX_PEAK over FLUX_PEAK_ERR"),
    "FLAGS": (
        "",
        "",
        "d",
        "1 fit failed, 2 size or position at its bound, 4 aperture incomplete, 8 found on residual",
    ),
}
"""Columns of the tables: the published ones first, then ours."""


def _blank(value: Any) -> str:
    return str(value).replace("\n", " ")


def hyper_table(
    catalog: Catalog, sky_map: SkyMap, unit: tuple[str, float], notes: dict[str, Any] | None = None
) -> Any:
    """Turn a catalogue into a table with the published column names.

    Parameters
    ----------
    catalog : Catalog
        Of :class:`starmill.tasks.compact_sources.CompactSourcesTask`.
    sky_map : SkyMap
    unit : (str, float)
        Flux unit, and what to multiply jansky with.
    notes : dict, optional
        Further lines of the header comments.

    Returns
    -------
    table : astropy.table.Table
        All columns also when there is no source.
    """
    from astropy.table import Column, Table

    n = len(catalog)
    flags = (
        1 * catalog["fit_flag"].astype(int) + 2 * catalog["fit_flag_bound"] + 4 * catalog["aperture_flux_flag"]
        + 8 * catalog["on_residual"]
    )  # fmt: skip
    made = {
        "MAP_ID": np.full(n, sky_map.name, dtype=f"U{max(len(sky_map.name), 1)}"),
        "STATUS": np.where(catalog["fit_flag"], 0, np.where(catalog["fit_status"] == 1, 2, 1)),
        "DEBLEND": (catalog["group_size"] > 1).astype(int),
        "FLAGS": flags,
    }
    table = Table()
    for name, (source, column_unit, style, meaning) in COLUMNS.items():
        values = made[name] if name in made else np.asarray(catalog[source])
        if column_unit.startswith("F"):
            values, column_unit = values * unit[1], column_unit.replace("F", unit[0], 1)
        if values.dtype.kind == "i":
            values = values.astype(np.int64)
        column = Column(values, name=name, unit=column_unit or None, description=meaning)
        column.info.format = style or None
        table.add_column(column)
    lines = [
        "****************** starmill compact-source photometry ******************",
        f"starmill {__version__}",
    ]
    lines += [
        f"{key}: {_blank(value)}"
        for key, value in {**(notes or {}), "Map": Path(sky_map.meta.get("path", "")).name}.items()
    ]
    lines += [
        f"Beam: {sky_map.beam.major:.6g} x {sky_map.beam.minor:.6g} arcsec, PA {sky_map.beam.position_angle:.2f} deg"
    ]
    lines += [
        f"{name} = {meaning}" + (f" ({table[name].unit})" if table[name].unit else "")
        for name, (_, _, _, meaning) in COLUMNS.items()
    ]
    table.meta["comments"] = lines
    return table


def merge_tables(tables: list[Any]) -> Any:
    """Stack tables in their order, at full precision, with the comments of the first one."""
    from astropy.table import vstack

    merged = vstack(tables, metadata_conflicts="silent")
    for name in merged.colnames:
        merged[name].info.format = tables[0][name].info.format
    merged.meta["comments"] = [
        line
        for line in tables[0].meta.get("comments", [])
        if not line.startswith(("Map:", "Noise", "Fingerprint"))
    ]
    return merged


def frame_name(sky_map: SkyMap) -> str:
    """Return the coordinate frame of a map as DS9 calls it."""
    ctype = str(sky_map.wcs.wcs.ctype[0]).upper()
    if ctype.startswith(("GLON", "GLAT")):
        return "galactic"
    if ctype.startswith(("ELON", "ELAT")):
        return "ecliptic"
    system = str(sky_map.wcs.wcs.radesys or "").strip().lower()
    equinox = sky_map.wcs.wcs.equinox
    if system in {"fk5", "fk4", "icrs"}:
        return system
    return "fk4" if np.isfinite(equinox) and equinox < 1984 else "fk5" if np.isfinite(equinox) else "icrs"


def _map_positions(catalog: Catalog, sky_map: SkyMap) -> tuple[Any, Any]:
    if len(catalog) == 0:
        return np.zeros(0), np.zeros(0)
    return sky_map.wcs.wcs_pix2world(catalog["x"], catalog["y"], 0)


def centroid_regions(catalog: Catalog, sky_map: SkyMap) -> str:
    """Return the text of a DS9 file with a cyan cross on every source, in the frame of the map."""
    lines = [_region_head("cyan"), frame_name(sky_map)]
    lines += [
        f"point({lon:.9f},{lat:.9f}) # point=cross"
        for lon, lat in zip(*_map_positions(catalog, sky_map), strict=True)
    ]
    return "\n".join(lines) + "\n"


def ellipse_regions(catalog: Catalog, sky_map: SkyMap, ratio: float) -> str:
    """Return the text of a DS9 file with the aperture of every source, in the frame of the map.

    Parameters
    ----------
    catalog : Catalog
    sky_map : SkyMap
    ratio : float
        Semi-axes over FWHM.

    Notes
    -----
    DS9 counts the angle of the first semi-axis from the direction of decreasing longitude, 90 degrees from north.
    """
    lines = [_region_head("magenta"), frame_name(sky_map)]
    lon, lat = _map_positions(catalog, sky_map)
    for i in range(len(catalog)):
        a, b = ratio * catalog["fwhm_major"][i], ratio * catalog["fwhm_minor"][i]
        angle = catalog["position_angle"][i] + 90.0
        place = f"{lon[i]:.9f},{lat[i]:.9f}"
        lines.append(f'ellipse({place},{a:.6g}",{b:.6g}",{angle:.3f})')
        lines.append(f"point({place}) # point=cross text={{ID {catalog['id'][i]}}}")
    return "\n".join(lines) + "\n"


def _region_head(color: str) -> str:
    return (
        "# Region file format: DS9 version 4.1\n"
        f"global color={color} dashlist=8 3 width=1 font='helvetica 10 normal' select=1 highlite=1 edit=1 move=1 "
        "delete=1 include=1 fixed=0"
    )
