"""Region files for SAOImage DS9."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starmill.datamodel.catalog import Catalog
from starmill.datamodel.ellipse import ellipse_axes
from starmill.io.atomic import atomic_write_text

__all__ = ["catalog_regions", "ellipse_region", "point_region", "write_regions"]


def ellipse_region(
    x: float, y: float, a: float, b: float, theta: float, *, color: str = "green", text: str = ""
) -> str:
    """Return an ellipse in image coordinates.

    Parameters
    ----------
    x, y : float, pixel
        Centre, 0-based; DS9 counts from 1, which is taken into account.
    a, b : float, pixel
        Half axes.
    theta : float, radian
        Angle of ``a`` counter-clockwise from +x.
    color, text : str
    """
    label = f" text={{{_clean(text)}}}" if text else ""
    return f"ellipse({x + 1:.3f},{y + 1:.3f},{a:.3f},{b:.3f},{np.degrees(theta):.2f}) # color={color}{label}"


def point_region(x: float, y: float, *, symbol: str = "x", color: str = "green", text: str = "") -> str:
    """Return a marked point in image coordinates, 0-based."""
    label = f" text={{{_clean(text)}}}" if text else ""
    return f"point({x + 1:.3f},{y + 1:.3f}) # point={symbol} color={color}{label}"


def catalog_regions(catalog: Catalog, *, origin: tuple[int, int] = (0, 0), scale: float = 3.0) -> list[str]:
    """Return an ellipse for every source: green for good ones, red for flagged ones, cyan for children.

    Parameters
    ----------
    catalog : Catalog
        With ``x``, ``y`` and, when known, the moments ``shape_xx``, ``shape_yy``, ``shape_xy`` (or those of the
        slot ``shape``).
    origin : (x0, y0)
        Parent-frame index of the first pixel of the image the regions are drawn on.
    scale : float
        Half axes in units of the square root of the moments.
    """
    x, y = catalog["x"] - origin[0], catalog["y"] - origin[1]
    a, b, theta = ellipse_axes(_moments(catalog))
    flagged = np.zeros(len(catalog), bool)
    for name in ("psf_flux_flag", "slot_centroid_flag"):
        if name in catalog:
            flagged |= catalog[name]
    lines = []
    for i in np.flatnonzero(np.isfinite(x) & np.isfinite(y)):
        color = "red" if flagged[i] else "cyan" if catalog["parent"][i] else "green"
        if np.isfinite(a[i] * b[i]) and b[i] > 0:
            lines.append(ellipse_region(x[i], y[i], scale * a[i], scale * b[i], theta[i], color=color))
        else:
            lines.append(point_region(x[i], y[i], color=color))
    return lines


def _moments(catalog: Catalog) -> NDArray[np.float64]:
    """Return xx, yy and xy, (n, 3), of the slot ``shape``, or of the columns of that name; NaN without any."""
    for prefix in ("slot_shape", "shape"):
        names: Sequence[str] = [f"{prefix}_{part}" for part in ("xx", "yy", "xy")]
        if all(name in catalog for name in names):
            return np.stack([np.asarray(catalog[name], float) for name in names], axis=1)
    return np.full((len(catalog), 3), np.nan)


def write_regions(path: str | Path, regions: Iterable[str], *, frame: str = "image") -> None:
    """Write a region file.

    Parameters
    ----------
    path : path
    regions : iterable of str
        Lines as made by the functions of this module.
    frame : str
        ``image``, ``icrs``, ``fk5``, ``galactic``, ...
    """
    header = f"# Region file format: DS9 version 4.1\nglobal width=1\n{frame}\n"
    atomic_write_text(path, header + "".join(line + "\n" for line in regions))


def _clean(text: ArrayLike) -> str:
    return str(text).replace("{", "(").replace("}", ")").replace("\n", " ")
