"""Sources of a difference image: detection of both signs, PSF fluxes, dipoles, forced fluxes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.exposure import Exposure
from starmill.differencing.sources import find_difference_sources, forced_fluxes
from starmill.errors import InputError
from starmill.tasks.base import Config, Result, Task, field

__all__ = ["MeasureDifferenceConfig", "MeasureDifferenceTask"]


class MeasureDifferenceConfig(Config):
    """How sources of a difference are found."""

    threshold: float = field(5.0, "Absolute score of a source.", gt=0)
    dipole_reach: float | None = field(
        None,
        "Opposite sources closer than this many FWHM are fitted as a dipole; as far as chance pairs are rare when not "
        "given.",
        gt=0,
    )


class MeasureDifferenceTask(Task):
    """Find and measure the sources of a difference image."""

    Config = MeasureDifferenceConfig
    reads: ClassVar[dict[str, str]] = {"difference": "difference", "score": "difference_score"}
    writes: ClassVar[dict[str, str]] = {"catalog": "difference_catalog"}

    def run(
        self,
        *,
        difference: Exposure,
        score: Exposure,
        positions: tuple[NDArray[Any], NDArray[Any]] | None = None,
        spike: NDArray[Any] | None = None,
        shapes: bool = True,
    ) -> Result:
        """Find and measure.

        Parameters
        ----------
        difference, score : Exposure
            Of :class:`~starmill.tasks.difference.DifferenceTask`.
        positions : (x, y), optional
            Parent positions at which fluxes are forced.
        spike : (k, k) array, optional
            What a single bright pixel of the science image becomes in the difference; of the same task.
        shapes : bool
            Set ``sharp_flag`` and ``extended_flag``; not for a preconvolved difference, whose noise is correlated.

        Returns
        -------
        result : Result
            ``catalog``; ``forced_flux`` and ``forced_flux_err`` ((n,) arrays) when positions were given.
        """
        if difference.psf is None:
            raise InputError("the difference image has no PSF")
        bad = difference.mask.any("NO_DATA")
        psf_image = difference.psf.kernel_at(*difference.box.center)
        image = np.where(bad, 0, difference.image)
        catalog = find_difference_sources(
            image, difference.variance, bad, score.image, psf_image, threshold=self.config.threshold,
            dipole_reach=self.config.dipole_reach, spike=spike, shapes=shapes,
            origin=difference.origin, exposure_id=difference.info.exposure_id,
        )  # fmt: skip
        self.metadata["sources"] = len(catalog)
        if positions is None:
            return Result(catalog=catalog)
        x, y = (
            np.asarray(positions[0]) - difference.origin[0],
            np.asarray(positions[1]) - difference.origin[1],
        )
        flux, error = forced_fluxes(image, difference.variance, bad, psf_image, x, y)
        return Result(catalog=catalog, forced_flux=flux, forced_flux_err=error)
