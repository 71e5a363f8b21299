"""All measurements of the package: importing this module makes them known by name."""

from __future__ import annotations

from starmill.measurement.aperture import CircularApertureFlux
from starmill.measurement.blendedness import Blendedness
from starmill.measurement.centroid import PeakCentroid, SmoothedCentroid, WindowedCentroid
from starmill.measurement.compensated import CompensatedGaussianFlux, CompensatedTophatFlux
from starmill.measurement.extendedness import Extendedness, SizeExtendedness, StarProbability
from starmill.measurement.forced import ForcedCentroid, ForcedShape
from starmill.measurement.galaxy_models import CModelFlux, SersicFlux
from starmill.measurement.gaussian_flux import GaussianFlux
from starmill.measurement.isophotal import IsophotalMoments
from starmill.measurement.joint_psf import JointPsfFlux
from starmill.measurement.kron import EllipticalApertureFlux, HalfLightRadius, KronFlux, PetrosianFlux
from starmill.measurement.local_background import LocalBackground, LocalVariance
from starmill.measurement.pixel_flags import PixelFlags
from starmill.measurement.psf_flux import PsfFlux, WeightedPsfFlux
from starmill.measurement.regauss import RegaussShape
from starmill.measurement.shape import AdaptiveShape
from starmill.measurement.sky_coordinate import FootprintArea, InputCount, SkyCoordinate

__all__ = [
    "AdaptiveShape",
    "Blendedness",
    "CModelFlux",
    "CircularApertureFlux",
    "CompensatedGaussianFlux",
    "CompensatedTophatFlux",
    "EllipticalApertureFlux",
    "Extendedness",
    "FootprintArea",
    "ForcedCentroid",
    "ForcedShape",
    "GaussianFlux",
    "HalfLightRadius",
    "InputCount",
    "IsophotalMoments",
    "JointPsfFlux",
    "KronFlux",
    "LocalBackground",
    "LocalVariance",
    "PeakCentroid",
    "PetrosianFlux",
    "PixelFlags",
    "PsfFlux",
    "RegaussShape",
    "SersicFlux",
    "SizeExtendedness",
    "SkyCoordinate",
    "SmoothedCentroid",
    "StarProbability",
    "WeightedPsfFlux",
    "WindowedCentroid",
]
