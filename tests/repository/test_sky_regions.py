"""Regions on the sky against slow and obvious computations, also at the poles and across right ascension 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starmill.errors import InputError
from starmill.io.fits import wcs_from_header
from starmill.repository.query import SkySearch
from starmill.repository.sky_overlap import plain_tangent_plane, tangent_corners, wcs_corners
from starmill.repository.sky_regions import SkyRegion, search_tiles, separation, tiles_of_circle, unit_vector

RA = st.floats(0, 359.999)
DEC = st.floats(-90, 90)


def square(ra, dec, half):
    """Return a square around a position, its corners by astropy."""
    centre = SkyCoord(ra * u.deg, dec * u.deg)
    corners = [
        centre.directional_offset_by(angle * u.deg, half * math.sqrt(2) * u.deg)
        for angle in (45, 135, 225, 315)
    ]
    return SkyRegion.from_corners([(corner.ra.deg, corner.dec.deg) for corner in corners])


@settings(max_examples=60, deadline=None)
@given(RA, DEC, RA, DEC)
def test_separations_equal_astropy(ra1, dec1, ra2, dec2):
    ours = separation(unit_vector(ra1, dec1), unit_vector(ra2, dec2))
    theirs = SkyCoord(ra1 * u.deg, dec1 * u.deg).separation(SkyCoord(ra2 * u.deg, dec2 * u.deg)).deg
    assert ours == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(RA, DEC, st.floats(0, 15), st.floats(0, 360), st.floats(0, 1))
@example(0.0, 90.0, 0.0, 0.0, 0.0)
def test_tiles_of_a_circle_hold_every_point_of_it(ra, dec, radius, angle, fraction):
    point = SkyCoord(ra * u.deg, dec * u.deg).directional_offset_by(angle * u.deg, radius * fraction * u.deg)
    (tile,) = tiles_of_circle(float(point.ra.deg), float(point.dec.deg), 0.0)[:1]
    assert tile in tiles_of_circle(ra, dec, radius + 1e-7)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (359.9, 10.0), (123.0, 89.9), (45.0, -90.0), (200.0, -60.0)])
def test_what_a_search_finds_equals_brute_force(centre):
    rng = np.random.default_rng(4)
    region = square(*centre, 1.5)
    middle = SkyCoord(*centre, unit="deg")
    for _ in range(150):
        angle, distance, radius = rng.uniform(0, 360), rng.uniform(0, 5), rng.uniform(0, 1)
        place = middle.directional_offset_by(angle * u.deg, distance * u.deg)
        at = (float(place.ra.deg), float(place.dec.deg))
        # the square in its own tangent plane, where it is a square
        offset = place.transform_to(middle.skyoffset_frame())
        x, y = float(offset.lon.wrap_at(180 * u.deg).deg), float(offset.lat.deg)
        outside = math.hypot(max(abs(x) - 1.5, 0), max(abs(y) - 1.5, 0))
        if abs(outside - radius) < 0.02:  # the edges of the square are great circles, not straight lines
            continue
        search = SkySearch(at, radius)
        assert search.matches(region) == (outside < radius or outside == 0.0)
        if search.matches(region):
            assert set(search.tiles() or region.tiles) & set(region.tiles)


def test_boxes_cross_right_ascension_zero():
    region = square(359.8, 5.0, 0.5)
    assert SkySearch(ra_range=(359.0, 1.0), dec_range=(4.0, 6.0)).matches(region)
    assert SkySearch(ra_range=(0.2, 1.0), dec_range=(4.0, 6.0)).matches(region)
    assert not SkySearch(ra_range=(1.0, 359.0), dec_range=(-50.0, 4.0)).matches(region)
    assert not SkySearch(ra_range=(10.0, 20.0), dec_range=(4.0, 6.0)).matches(region)


def test_large_regions_are_always_looked_at():
    assert tiles_of_circle(10.0, 10.0, 60.0) == [-1]
    assert -1 in search_tiles(200.0, -40.0, 1.0)
    assert search_tiles(0.0, 0.0, 90.0) is None


@pytest.mark.parametrize("arguments", [{}, {"at": (0, 0), "radius": -1}, {"at": (0, 0), "radius": 181},
                                       {"ra_range": (0, 1), "dec_range": (5, 4)}, {"ra_range": (0, 1)}])  # fmt: skip
def test_impossible_searches_are_refused(arguments):
    with pytest.raises(InputError):
        SkySearch(**arguments)
    with pytest.raises(InputError, match="not on the sky"):
        unit_vector(0.0, 91.0)
    with pytest.raises(InputError, match="not on the sky"):
        unit_vector(float("nan"), 0.0)
    with pytest.raises(InputError, match="3 corners"):
        SkyRegion.from_corners([(0, 0), (1, 1)])


def _square(ra, dec, half, turn=0.0):
    """Return a square of a given half side about a position; sides are great circles."""
    corners = []
    for x, y in ((-half, -half), (half, -half), (half, half), (-half, half)):
        angle = math.radians(turn)
        u, v = math.radians(x), math.radians(y)
        u, v = u * math.cos(angle) - v * math.sin(angle), u * math.sin(angle) + v * math.cos(angle)
        d0, rho = math.radians(dec), math.hypot(u, v)
        c = math.atan(rho)
        d = math.asin(math.cos(c) * math.sin(d0) + v * math.sin(c) * math.cos(d0) / rho)
        a = math.atan2(u * math.sin(c), rho * math.cos(d0) * math.cos(c) - v * math.sin(d0) * math.sin(c))
        corners.append(((ra + math.degrees(a)) % 360, math.degrees(d)))
    return SkyRegion.from_corners(corners)


@pytest.mark.parametrize(("ra", "dec"), [(10.0, 0.0), (359.9, 45.0), (0.05, -89.5), (200.0, 89.9)])
def test_covered_fraction(ra, dec):
    own = _square(ra, dec, 0.5)
    assert own.covered_by(own) == pytest.approx(1.0)
    assert own.covered_by(_square(ra, dec, 1.0, 30.0)) == pytest.approx(1.0)
    assert own.covered_by(_square(ra, dec, 0.25, 10.0)) == pytest.approx(0.25, rel=1e-3)
    octagon = 2 * (math.sqrt(2) - 1)  # of a square and the same one turned by 45 degrees
    assert own.covered_by(_square(ra, dec, 0.5, 45.0)) == pytest.approx(octagon, rel=1e-3)
    assert own.covered_by(_square(ra, -dec if dec else 40.0, 0.5)) == 0.0
    mirrored = SkyRegion(own.ra, own.dec, own.radius, own.corners[::-1])
    assert mirrored.covered_by(own) == pytest.approx(1.0)


def test_half_covered():
    assert _square(10.0, 0.0, 0.5).covered_by(_square(10.5, 0.0, 0.5)) == pytest.approx(0.5, rel=1e-3)
    assert _square(10.0, 0.0, 0.5).covered_by(_square(11.01, 0.0, 0.5)) == 0.0
    assert _square(10.0, 0.0, 0.5).covered_by(SkyRegion(10.0, 0.0, 1.0)) == 0.0  # a circle has no corners


def test_plain_tangent_corners_are_those_of_the_whole_wcs():
    rng = np.random.default_rng(5)
    for _ in range(40):
        turn, scale = rng.uniform(0, 2 * np.pi), 10 ** rng.uniform(-5, -2.5)
        header = {
            "NAXIS": 2, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN",
            "CRVAL1": rng.uniform(0, 360), "CRVAL2": rng.uniform(-88, 88),
            "CRPIX1": rng.uniform(-2000, 4000), "CRPIX2": rng.uniform(-2000, 4000),
            "CD1_1": -scale * np.cos(turn), "CD1_2": scale * np.sin(turn),
            "CD2_1": scale * np.sin(turn), "CD2_2": scale * np.cos(turn),
        }  # fmt: skip
        turned = {name: value for name, value in header.items() if not name.startswith("CD")}
        turned |= {"CDELT1": -scale, "CDELT2": 2 * scale, "LATPOLE": header["CRVAL2"]}
        straight = dict(turned)
        for name, value in (
            ("PC1_1", np.cos(turn)),
            ("PC1_2", 0.3),
            ("PC2_1", -0.2),
            ("PC2_2", np.cos(turn)),
        ):
            turned[name] = float(value)
        for cards in (header, turned, straight):
            found = tangent_corners(plain_tangent_plane(cards), 2000, 3000, (-7, 11))
            wanted = wcs_corners(wcs_from_header(cards), -7, 11, 2000, 3000)
            difference = np.array(found) - np.array(wanted)
            difference[:, 0] = (difference[:, 0] + 180) % 360 - 180
            assert np.abs(difference).max() < 1e-11
    for card, value in (("A_ORDER", 2), ("PV1_1", 1.0), ("CRVAL2", 89.9), ("CD1_1", "x"), ("LONPOLE", 90.0)):
        assert plain_tangent_plane(header | {card: value}) is None
    for card, value in (("CROTA2", 3.0), ("CDELT1", 0.0), ("CDELT2", "x"), ("PC1_1", True), ("CD1_1", 1e-4)):
        assert plain_tangent_plane(straight | {card: value}) is None
