"""One substamp of a kernel fit and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOT_NEEDED", "Substamp", "SubstampStatus"]

NOT_NEEDED = "not needed"
"""Reason of substamps whose cell has a better one that was not rejected."""


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
    global_coefficients : (n_basis,) array or None
        Of the final kernel.
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
    global_coefficients: Any = None
    fom: float | None = None
    chi2: float | None = None
    reason: str = ""
    _local: Any = field(default=None, repr=False)
    _convolve: Any = field(default=None, repr=False)
    _direction: str = field(default="t", repr=False)

    def set_models(
        self, local: NDArray[np.floating] | Callable[..., Any], convolve: Callable[..., Any], direction: str
    ) -> None:
        """Remember how basis vectors are made and the fit of this substamp alone, or a function that makes it."""
        self._local, self._convolve, self._direction = local, convolve, direction

    @property
    def local_coefficients(self) -> NDArray[np.floating]:
        """Coefficients of the fit of this substamp alone, ``(n_basis,)``; None before the fits."""
        if callable(self._local):
            self._local = self._local(self)
        return self._local

    @property
    def basis_vectors(self) -> NDArray[np.floating]:
        """The cutout that is convolved, with every basis image, ``(n_basis, n, n)``; None before the fits."""
        return None if self._convolve is None else self._convolve(self)

    @property
    def local_model(self) -> NDArray[np.floating]:
        """Model of the other image from the fit of this substamp alone, ``(n, n)``; None before the fits."""
        return self._model(self.local_coefficients)

    @property
    def global_model(self) -> NDArray[np.floating]:
        """Model of the other image from the final kernel, ``(n, n)``; None before the final fit."""
        return self._model(self.global_coefficients)

    def _model(self, coefficients: NDArray[np.floating]) -> NDArray[np.floating]:
        if coefficients is None or self._convolve is None:
            return None
        model = np.tensordot(coefficients, self.basis_vectors, 1)
        other = self.image_cutout if self._direction == "t" else self.template_cutout
        return model + np.median(other - model)
