"""Beams of surveys, as data that users can add to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from starmill.datamodel.cube import Beam
from starmill.errors import ConfigError
from starmill.io.config import load_yaml, read_yaml_text

__all__ = ["HEADER_CODE", "Survey", "load_surveys", "survey_of"]

HEADER_CODE = 15
"""Survey code that means: the beam stands in the header."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A survey with a known beam.

    Attributes
    ----------
    code : int
    name : str
    beam : Beam
        Round; its solid angle is the tabulated area when there is one.
    frequency : float or None, Hz
    """

    code: int
    name: str
    beam: Beam
    frequency: float | None


def load_surveys(extra: str | Path | None = None) -> dict[int, Survey]:
    """Return the surveys of the package and, on top, those of a file of the user.

    Parameters
    ----------
    extra : path, optional
        YAML: code to ``{name, beam, area, wavelength}`` (arcsec, arcsec**2, micron).
    """
    text = resources.files("starmill.hyper").joinpath("surveys.yaml").read_text(encoding="utf-8")
    entries: dict[Any, Any] = dict(read_yaml_text(text))
    if extra is not None:
        entries |= load_yaml(extra)
    return {_code(code): _survey(_code(code), entry) for code, entry in entries.items()}


def _code(code: Any) -> int:
    try:
        return int(code)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a survey code is a whole number, not {code!r}") from error


def _survey(code: int, entry: Any) -> Survey:
    if not isinstance(entry, Mapping) or "beam" not in entry:
        raise ConfigError(f"survey {code} needs at least a beam (FWHM in arcsec): {entry!r}")
    try:
        beam, area = float(entry["beam"]), entry.get("area")
        # a tabulated area that is not that of a Gaussian changes the beam that flux per beam refers to
        fwhm = beam if area is None else math.sqrt(float(area) * 4.0 * math.log(2.0) / math.pi)
        wavelength = entry.get("wavelength")
        frequency = None if wavelength is None else 299792458.0 / (float(wavelength) * 1e-6)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"survey {code} holds something that is not a number: {dict(entry)}") from error
    return Survey(code, str(entry.get("name", f"survey {code}")), Beam(fwhm, fwhm), frequency)


def survey_of(code: int, surveys: Mapping[int, Survey]) -> Survey | None:
    """Return the survey of a code, None for the code that means the header.

    Raises
    ------
    ConfigError
        For an unknown code.
    """
    if code in surveys:
        return surveys[code]
    if code == HEADER_CODE:
        return None
    known = ", ".join(str(c) for c in sorted({*surveys, HEADER_CODE}))
    raise ConfigError(
        f"the survey code {code} is not known (known: {known}); add it in a file named in survey.table"
    )
