"""How much of one region of the sky another one covers, and the corners of an image on the sky."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starmill.repository.sky_regions import SkyRegion, separation, unit_vector

Point = tuple[float, float]
_NEAR_POLE = 89.0  # degree: nearer, the convention of the angle of the pole changes
_MOST = 80.0  # degree from the centre: farther off, the plane of the comparison is no picture of the sky


def covered_fraction(region: SkyRegion, other: SkyRegion) -> float:
    """Return the part of a region's area that another one covers, 0 to 1.

    Parameters
    ----------
    region, other : SkyRegion
        With corners. Great circles are straight lines in the gnomonic plane about the centre of `region`, so that
        the polygons are clipped there; areas are those of the plane.
    """
    centre = unit_vector(region.ra, region.dec)
    if separation(centre, unit_vector(other.ra, other.dec)) > region.radius + other.radius:
        return 0.0
    own, its = _projected(region, region), _projected(other, region)
    if own is None or its is None or _area(own) == 0.0:
        return 0.0
    return min(1.0, abs(_area(_clipped(own, its))) / abs(_area(own)))


def _projected(region: SkyRegion, about: SkyRegion) -> list[Point] | None:
    """Return the corners in the tangent plane at the centre of a region, counter-clockwise."""
    if not region.corners:
        return None
    a0, d0 = math.radians(about.ra), math.radians(about.dec)
    points = []
    for ra, dec in region.corners:
        a, d = math.radians(ra) - a0, math.radians(dec)
        cosine = math.sin(d0) * math.sin(d) + math.cos(d0) * math.cos(d) * math.cos(a)
        if cosine < math.cos(math.radians(_MOST)):
            return None
        x = math.cos(d) * math.sin(a) / cosine
        y = (math.cos(d0) * math.sin(d) - math.sin(d0) * math.cos(d) * math.cos(a)) / cosine
        points.append((x, y))
    return points if _area(points) > 0 else points[::-1]


def _area(points: list[Point]) -> float:
    following = [*points[1:], *points[:1]]
    return 0.5 * sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, following, strict=True))


def _clipped(polygon: list[Point], window: list[Point]) -> list[Point]:
    """Return the part of a polygon inside a convex, counter-clockwise one (Sutherland & Hodgman 1974)."""
    for start, end in zip(window, [*window[1:], window[0]], strict=True):
        edge = (end[0] - start[0], end[1] - start[1])
        sides = [edge[0] * (y - start[1]) - edge[1] * (x - start[0]) for x, y in polygon]
        kept: list[Point] = []
        for i, (point, side) in enumerate(zip(polygon, sides, strict=True)):
            before, earlier = polygon[i - 1], sides[i - 1]
            if (side >= 0) != (earlier >= 0):
                t = earlier / (earlier - side)
                kept.append((before[0] + t * (point[0] - before[0]), before[1] + t * (point[1] - before[1])))
            if side >= 0:
                kept.append(point)
        polygon = kept
        if not polygon:
            break
    return polygon


def wcs_corners(wcs: Any, x0: float, y0: float, width: float, height: float) -> list[Point] | None:
    """Return the sky positions (RA, Dec; degree) of the outer corners of pixels; None where they have none."""
    if wcs.naxis != 2 or wcs.wcs.lng != 0:
        wcs = wcs.celestial  # right ascension first
    left, right, bottom, top = x0 - 0.5, x0 + width - 0.5, y0 - 0.5, y0 + height - 0.5
    positions = wcs.pixel_to_world_values([left, right, right, left], [bottom, bottom, top, top])
    corners = [(float(ra), float(dec)) for ra, dec in zip(*positions, strict=True)]
    return corners if all(math.isfinite(value) for corner in corners for value in corner) else None


_DISTORTION = (
    "A_ORDER", "B_ORDER", "CPDIS1", "CPDIS2", "D2IMDIS1", "D2IMDIS2",
    *(f"PV{axis}_{number}" for axis in (1, 2) for number in range(5)),
)  # fmt: skip
_PLAIN = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CUNIT1": "deg",
    "CUNIT2": "deg",
    "WCSAXES": 2,
    "LONPOLE": 180,
}


def plain_tangent_plane(header: Mapping[str, Any]) -> list[float] | None:
    """Return reference position, reference pixel and matrix of a header with a plain tangent projection.

    Parameters
    ----------
    header : mapping
        Cards.

    Returns
    -------
    numbers : list of float or None
        CRVAL1, CRVAL2, CRPIX1, CRPIX2, CD1_1, CD1_2, CD2_1, CD2_2; None when the header says anything that asks for
        the whole of a WCS.
    """
    if any(header.get(name, value) != value for name, value in _PLAIN.items()) or header.get("NAXIS") != 2:
        return None
    values: list[Any] = [header.get(name) for name in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")]
    matrix: list[Any] = [header.get(f"CD{i}_{j}") for i in (1, 2) for j in (1, 2)]
    if matrix == [None] * 4:
        scales: list[Any] = [header.get("CDELT1"), header.get("CDELT2")]
        turns = [header.get(f"PC{i}_{j}", float(i == j)) for i in (1, 2) for j in (1, 2)]
        if not _are_numbers([*scales, *turns]) or "CROTA1" in header or "CROTA2" in header:
            return None
        matrix = [scales[0] * turns[0], scales[0] * turns[1], scales[1] * turns[2], scales[1] * turns[3]]
    values += matrix
    if not _are_numbers(values) or matrix[0] * matrix[3] == matrix[1] * matrix[2]:
        return None
    if not all(map(math.isfinite, values)) or abs(values[1]) > _NEAR_POLE:
        return None
    return None if any(name in header for name in _DISTORTION) else values


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def tangent_corners(
    plane: Sequence[float], width: float, height: float, first: tuple[float, float] = (0.0, 0.0)
) -> list[Point]:
    """Return the sky positions of the outer corners of an image with a plain tangent projection.

    Parameters
    ----------
    plane : sequence of float
        Of `plain_tangent_plane`.
    width, height : float
        Of the image, pixel.
    first : (x, y)
        Where the first pixel of the image lies in the frame of the header, pixels from 0.

    Returns
    -------
    corners : list of (ra, dec)
        Degree.

    References
    ----------
    Calabretta & Greisen 2002, A&A 395, 1077, equations 2, 54 and 55.
    """
    a0, d0 = math.radians(plane[0]), math.radians(plane[1])
    corners = []
    for i, j in ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height)):
        p, q = i + first[0] + 0.5 - plane[2], j + first[1] + 0.5 - plane[3]
        x, y = math.radians(plane[4] * p + plane[5] * q), math.radians(plane[6] * p + plane[7] * q)
        c = math.cos(d0) - y * math.sin(d0)
        ra = a0 + math.atan2(x, c)
        dec = math.atan2(math.sin(d0) + y * math.cos(d0), math.hypot(x, c))
        corners.append((math.degrees(ra) % 360.0, math.degrees(dec)))
    return corners


def corners_of(value: Any) -> str | None:
    """Return the corners of an exposure as JSON; None for a value without WCS or pixels."""
    wcs, box = getattr(value, "wcs", None), getattr(value, "box", None)
    if wcs is None or box is None or not wcs.has_celestial:
        return None
    corners = wcs_corners(wcs, box.x0, box.y0, box.width, box.height)
    return None if corners is None else json.dumps(corners)
