"""Repair of an exposure: defects, saturated pixels and cosmic rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.events import CosmicRays
from starmill.cosmic_rays.interpolate import interpolate_flagged
from starmill.cosmic_rays.laplacian import find_cosmic_rays_laplacian
from starmill.cosmic_rays.psf_contrast import find_cosmic_rays
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError
from starmill.numerics.statistics import median
from starmill.tasks.base import Config, Result, Task, field, subtask
from starmill.tasks.config import SubtaskConfig

__all__ = [
    "LaplacianTask",
    "LaplacianConfig",
    "PsfContrastConfig",
    "PsfContrastTask",
    "RepairConfig",
    "RepairTask",
]

_LEVEL_STEP = 4
