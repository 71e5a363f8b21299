"""One substamp of a kernel fit and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Substamp", "SubstampStatus"]


class SubstampStatus(Enum):
    """Stages that a substamp goes through."""

    FOUND = "found"
    PASSED_FOM_CHECK = "passed figure-of-merit check"
    REJECTED_FOM_CHECK = "rejected by figure-of-merit check"
    USED_IN_FINAL_FIT = "used in final fit"
    REJECTED_ITERATIVE_FIT = "rejected in iterative fit"


@dataclass
class Substamp:
    """A substamp.

    Attributes
    ----------
    id : int
    stamp_group_id : int
        The grid cell it belongs to.
    x, y : float
        Centre, 0-based array indices.
    status : SubstampStatus
    template_cutout, image_cutout, noise_variance_cutout : (n, n) arrays
        Cutouts of ``2 rss + 1`` pixels; the noise is the sum of both variances.
    basis_vectors : (n_basis, n, n) array or None
        The convolved image's cutout convolved with every basis image; after ``fit_and_select_direction``.
    local_model, global_model : (n, n) array or None
        Model of the other image: from the fit of this substamp alone, and from the final kernel.
    fom : float or None
        Figure of merit of the local fit: mean squared residual over variance.
    chi2 : float or None
        Reduced chi2 with the final kernel.
    reason : str
        Why it was rejected.
    """

    id: int
    stamp_group_id: int
    x: float
    y: float
    status: SubstampStatus = SubstampStatus.FOUND
    template_cutout: Any = None
    image_cutout: Any = None
    noise_variance_cutout: Any = None
    basis_vectors: Any = None
    local_model: Any = None
    global_model: Any = None
    fom: float | None = None
    chi2: float | None = None
    reason: str = ""
