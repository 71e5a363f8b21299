"""All measurements of the package: importing this module makes them known by name."""

from __future__ import annotations

from starmill.measurement.aperture import CircularApertureFlux
from starmill.measurement.centroid import PeakCentroid, SmoothedCentroid, WindowedCentroid
from starmill.measurement.gaussian_flux import GaussianFlux
from starmill.measurement.pixel_flags import PixelFlags
from starmill.measurement.psf_flux import PsfFlux, WeightedPsfFlux
from starmill.measurement.shape import AdaptiveShape

__all__ = [
    "AdaptiveShape",
    "CircularApertureFlux",
    "GaussianFlux",
    "PeakCentroid",
    "PixelFlags",
    "PsfFlux",
    "SmoothedCentroid",
    "WeightedPsfFlux",
    "WindowedCentroid",
]
