"""starmill: astronomical images from the detector to science.

Raw CCD frames to characterised exposures and catalogues, difference images, and compact-source photometry of
infrared and sub-mm maps, in one package. The most used names are available here; they are imported on first use, so
that ``import starmill`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "AlgorithmError": "starmill.errors",
    "Box": "starmill.datamodel.geometry",
    "Catalog": "starmill.datamodel.catalog",
    "CharacterizeImageTask": "starmill.tasks.characterize",
    "Column": "starmill.datamodel.catalog",
    "ConfigError": "starmill.errors",
    "Exposure": "starmill.datamodel.exposure",
    "GaussianPsf": "starmill.datamodel.psf",
    "InputError": "starmill.errors",
    "Mask": "starmill.datamodel.mask",
    "MaskedImage": "starmill.datamodel.masked_image",
    "NoDataError": "starmill.errors",
    "ObservationInfo": "starmill.datamodel.exposure",
    "Schema": "starmill.datamodel.catalog",
    "StarmillError": "starmill.errors",
    "characterize": "starmill.tasks.characterize",
    "read_catalog": "starmill.io.tables",
    "read_exposure": "starmill.io.exposure_file",
    "write_catalog": "starmill.io.tables",
    "write_exposure": "starmill.io.exposure_file",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from starmill.datamodel.catalog import Catalog, Column, Schema
    from starmill.datamodel.exposure import Exposure, ObservationInfo
    from starmill.datamodel.geometry import Box
    from starmill.datamodel.mask import Mask
    from starmill.datamodel.masked_image import MaskedImage
    from starmill.datamodel.psf import GaussianPsf
    from starmill.errors import AlgorithmError, ConfigError, InputError, NoDataError, StarmillError
    from starmill.io.exposure_file import read_exposure, write_exposure
    from starmill.io.tables import read_catalog, write_catalog
    from starmill.tasks.characterize import CharacterizeImageTask, characterize


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'starmill' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _drawn_by(module: str, function: str) -> Any:
    """Return a renderer that imports what draws only when something is drawn."""

    def renderer(item: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(f"starmill.diagnostics.{module}"), function)(item, **options)

    return renderer


def _register_renderers() -> None:
    from starmill.datamodel.display import register_renderer

    register_renderer("show", _drawn_by("figures", "show_exposure"))
    register_renderer("exposure_html", _drawn_by("thumbnails", "exposure_html"))
    register_renderer("psf_html", _drawn_by("thumbnails", "psf_html"))


_register_renderers()
