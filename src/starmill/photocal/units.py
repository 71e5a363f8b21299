"""Units of maps: surface brightness to flux per pixel, stated or an error, never guessed."""

from __future__ import annotations

import math
import re

from starmill.errors import InputError

__all__ = [
    "KNOWN_UNITS",
    "beam_solid_angle",
    "jansky_per_pixel_factor",
    "normalised_unit",
    "planck_to_jansky",
]

ARCSEC2_PER_SR = (180.0 * 3600.0 / math.pi) ** 2
BOLTZMANN = 1.380649e-23  # J / K, exact (SI 2019)
LIGHT_SPEED = 299792458.0  # m / s, exact
PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "m": 1e-3, "u": 1e-6, "n": 1e-9}
KNOWN_UNITS = ("Jy/beam", "Jy/pixel", "Jy", "Jy/sr", "Jy/arcsec2", "K")
"""Kinds of map units, each with the prefixes k, M, G, m, u, n."""

_AREAS = {
    "beam": "beam", "bm": "beam", "pixel": "pixel", "pix": "pixel", "px": "pixel", "sr": "sr", "steradian": "sr",
    "arcsec2": "arcsec2", "arcsec**2": "arcsec2", "arcsec^2": "arcsec2", "arcsec+2": "arcsec2", "sqarcsec": "arcsec2",
}  # fmt: skip


def normalised_unit(text: str) -> tuple[float, str]:
    """Split a unit such as ``MJy / sr`` or ``beam-1 mJy`` into a factor and a unit of :data:`KNOWN_UNITS`.

    Parameters
    ----------
    text : str
        As found in BUNIT; order, blanks and the forms ``a/b``, ``a b-1``, ``a b^-1`` do not matter.

    Returns
    -------
    factor : float
    unit : str

    Raises
    ------
    InputError
        For an unknown unit.
    """
    written = text.strip().strip("'\"")
    if re.fullmatch(r"[mun]?K(\s*\(?(Ta\*?|Tmb|Tb)\)?)?", written):
        return (PREFIXES[written[0]] if written[0] != "K" else 1.0), "K"
    words = re.split(r"[\s*.·]+(?!\*)", re.sub(r"\s*/\s*", " /", written.replace("**", "^")))
    brightness, area = None, "Jy"
    for word in filter(None, words):
        match = re.fullmatch(r"([kMGmunµ]?)J[yY]", word)
        per = re.fullmatch(r"/?\(?([A-Za-z]+(?:[+^]?2)?)(?:\^?\(?-(1|2)\)?)?\)?", word)
        if match and brightness is None:
            brightness = PREFIXES[match[1].replace("µ", "u")]
        elif per and (word.startswith("/") or per[2]):
            name = per[1].lower() + ("2" if per[2] == "2" else "")
            name = name.replace("^", "").replace("+", "")
            area = _AREAS.get(name, "")
        else:
            area = ""
            break
    unit = "Jy" if area == "Jy" else f"Jy/{area}"
    if brightness is None or unit not in KNOWN_UNITS:
        raise InputError(
            f"the map unit {text!r} is not known (known: {', '.join(KNOWN_UNITS)}, with prefixes); "
            "give the right one explicitly"
        )
    return brightness, unit


def beam_solid_angle(major_arcsec: float, minor_arcsec: float) -> float:
    """Solid angle of a Gaussian beam with the given full widths at half maximum, steradian."""
    return math.pi / (4.0 * math.log(2.0)) * major_arcsec * minor_arcsec / ARCSEC2_PER_SR


def planck_to_jansky(frequency_hz: float) -> float:
    """Jansky per steradian of a brightness temperature of one kelvin (Rayleigh-Jeans law)."""
    return 2.0 * BOLTZMANN * (frequency_hz / LIGHT_SPEED) ** 2 * 1e26


def jansky_per_pixel_factor(
    unit: str, *, pixel_sr: float, beam_sr: float | None = None, frequency_hz: float | None = None
) -> float:
    """Return what to multiply a map with to get jansky per pixel.

    Parameters
    ----------
    unit : str
        Of the map; see :func:`normalised_unit`. ``Jy`` alone means jansky per pixel.
    pixel_sr : float, sr
    beam_sr : float, sr, optional
        Needed for units per beam.
    frequency_hz : float, Hz, optional
        Needed for brightness temperatures.

    Raises
    ------
    InputError
        When the unit is unknown or what it needs is missing.
    """
    factor, kind = normalised_unit(unit)
    if not (math.isfinite(pixel_sr) and pixel_sr > 0):
        raise InputError(f"the solid angle of a pixel must be positive, it is {pixel_sr} sr")
    if kind in ("Jy", "Jy/pixel"):
        return factor
    if kind == "Jy/beam":
        if beam_sr is None or not beam_sr > 0:
            raise InputError(f"a map in {unit} needs the size of the beam")
        return factor * pixel_sr / beam_sr
    if kind == "Jy/sr":
        return factor * pixel_sr
    if kind == "Jy/arcsec2":
        return factor * pixel_sr * ARCSEC2_PER_SR
    if frequency_hz is None or not frequency_hz > 0:
        raise InputError(f"a map in {unit} needs the frequency to become a flux")
    return factor * planck_to_jansky(frequency_hz) * pixel_sr
