"""Regions on the sky: polygons of exposures, the tiles that find them quickly, and exact tests.

Angles are degrees, ICRS; right ascension counts east, 0 to 360.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from starmill.errors import InputError

_BAND_HEIGHT = 2.0  # degree: a few tiles per camera field, about 10,000 tiles on the whole sky
_N_BANDS = 90
_ANYWHERE = -1  # tile of regions too large for tiles
_LARGE = 20.0  # degree

_CELLS = [
    max(1, round(180.0 * math.cos(math.radians(-90.0 + _BAND_HEIGHT * (band + 0.5)))))
    for band in range(_N_BANDS)
]
_OFFSETS = [sum(_CELLS[:band]) for band in range(_N_BANDS)]

Vector = tuple[float, float, float]


def unit_vector(ra: float, dec: float) -> Vector:
    """Direction of a position given in degrees."""
    if not (math.isfinite(ra) and -90.0 <= dec <= 90.0):
        raise InputError(f"position RA = {ra}, Dec = {dec} is not on the sky")
    a, d = math.radians(ra), math.radians(dec)
    return (math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d))


def separation(first: Vector, second: Vector) -> float:
    """Angle between two directions, degree; accurate for small angles."""
    return math.degrees(math.atan2(math.sqrt(sum(c * c for c in _cross(first, second))), _dot(first, second)))


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


@dataclass(frozen=True)
class SkyRegion:
    """A convex polygon on the sky, or a circle when it has no corners.

    Attributes
    ----------
    ra, dec : float
        Centre, degree.
    radius : float
        Of the circle around the centre that holds the whole region, degree.
    corners : tuple of (ra, dec)
        In order around the region, degree.
    """

    ra: float
    dec: float
    radius: float
    corners: tuple[tuple[float, float], ...] = ()

    @classmethod
    def from_corners(cls, corners: Sequence[Sequence[float]]) -> SkyRegion:
        """Make a region from at least three corners in order."""
        if len(corners) < 3:
            raise InputError(f"a region needs 3 corners, got {len(corners)}")
        points = tuple((float(ra) % 360.0, float(dec)) for ra, dec in corners)
        vectors = [unit_vector(*point) for point in points]
        total = [sum(vector[axis] for vector in vectors) for axis in range(3)]
        norm = math.sqrt(sum(value * value for value in total))
        if norm < 1e-6:
            raise InputError("the corners of a region surround the whole sky")
        centre = (total[0] / norm, total[1] / norm, total[2] / norm)
        ra = math.degrees(math.atan2(centre[1], centre[0])) % 360.0
        dec = math.degrees(math.asin(max(-1.0, min(1.0, centre[2]))))
        return cls(ra, dec, max(separation(centre, vector) for vector in vectors), points)

    @property
    def tiles(self) -> list[int]:
        """Numbers of the tiles that the region may touch."""
        return tiles_of_circle(self.ra, self.dec, self.radius)

    def covered_by(self, other: SkyRegion) -> float:
        """Return the part of the region's area that another one covers, 0 to 1."""
        from starmill.repository.sky_overlap import covered_fraction

        return covered_fraction(self, other)

    def overlaps_cone(self, ra: float, dec: float, radius: float = 0.0) -> bool:
        """Tell whether any point of the region lies within `radius` (degree) of a position."""
        point = unit_vector(ra, dec)
        if separation(point, unit_vector(self.ra, self.dec)) > self.radius + radius + 1e-9:
            return False
        if not self.corners:
            return True
        if self._contains(point):
            return True
        vectors = [unit_vector(*corner) for corner in self.corners]
        following = [*vectors[1:], vectors[0]]
        return any(_distance_to_edge(point, a, b) <= radius for a, b in zip(vectors, following, strict=True))

    def overlaps_box(self, ra_range: tuple[float, float], dec_range: tuple[float, float]) -> bool:
        """Tell whether the region overlaps a box in right ascension and declination.

        Parameters
        ----------
        ra_range : (low, high)
            From low eastward to high, degree; may cross 0.
        dec_range : (low, high)
            Degree.
        """
        own = [(self.ra, self.dec), *self.corners]
        if any(_in_box(ra, dec, ra_range, dec_range) for ra, dec in own):
            return True
        width = (ra_range[1] - ra_range[0]) % 360.0 or 360.0
        steps = 16  # edges of the box are sampled: parallels are no great circles
        edge = [index / steps for index in range(steps + 1)]
        samples = [(ra_range[0] + f * width, dec) for f in edge for dec in dec_range]
        samples += [(ra, dec_range[0] + f * (dec_range[1] - dec_range[0])) for f in edge for ra in ra_range]
        return any(self.overlaps_cone(ra, dec) for ra, dec in samples)

    def _contains(self, point: Vector) -> bool:
        vectors = [unit_vector(*corner) for corner in self.corners]
        sides = [_dot(_cross(a, b), point) for a, b in zip(vectors, [*vectors[1:], vectors[0]], strict=True)]
        return all(side >= 0 for side in sides) or all(side <= 0 for side in sides)


def _distance_to_edge(point: Vector, a: Vector, b: Vector) -> float:
    normal = _cross(a, b)
    length = math.sqrt(_dot(normal, normal))
    nearest_end = min(separation(point, a), separation(point, b))
    if length == 0.0:
        return nearest_end
    before, after = _dot(_cross(normal, a), point), _dot(_cross(b, normal), point)
    if before >= 0 and after >= 0:  # the foot of the perpendicular lies on the edge
        return math.degrees(math.asin(min(1.0, abs(_dot(normal, point)) / length)))
    return nearest_end


def _in_box(ra: float, dec: float, ra_range: tuple[float, float], dec_range: tuple[float, float]) -> bool:
    width = (ra_range[1] - ra_range[0]) % 360.0 or 360.0
    return dec_range[0] <= dec <= dec_range[1] and (ra - ra_range[0]) % 360.0 <= width


def tiles_of_circle(ra: float, dec: float, radius: float) -> list[int]:
    """Return the numbers of all tiles that a circle may touch.

    Parameters
    ----------
    ra, dec, radius : float
        Degree.

    Returns
    -------
    tiles : list of int
        ``[-1]`` for a circle too large for tiles; searches always look at tile -1 as well.
    """
    unit_vector(ra, dec)
    if radius > _LARGE:
        return [_ANYWHERE]
    first = min(_N_BANDS - 1, max(0, int((dec - radius + 90.0) // _BAND_HEIGHT)))
    last = min(_N_BANDS - 1, int((dec + radius + 90.0) // _BAND_HEIGHT))
    tiles: list[int] = []
    for band in range(first, last + 1):
        cells = _CELLS[band]
        if abs(dec) + radius >= 90.0 - 1e-9:
            tiles.extend(range(_OFFSETS[band], _OFFSETS[band] + cells))
            continue
        half = math.degrees(math.asin(min(1.0, math.sin(math.radians(radius)) / math.cos(math.radians(dec)))))
        low, high = math.floor((ra - half) / 360.0 * cells), math.floor((ra + half) / 360.0 * cells)
        count = min(high - low + 1, cells)
        tiles.extend(sorted(_OFFSETS[band] + (low + index) % cells for index in range(count)))
    return tiles


def search_tiles(ra: float, dec: float, radius: float) -> list[int] | None:
    """Return the tiles to look at for regions near a position; None means look at all."""
    if radius > _LARGE:
        return None
    return [*tiles_of_circle(ra, dec, radius), _ANYWHERE]
