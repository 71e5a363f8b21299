"""Give an exposure a simple PSF before the real one can be measured."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import FWHM_PER_SIGMA, GaussianPsf, Psf
from starmill.errors import AlgorithmError
from starmill.tasks.base import Config, Result, Task, field

__all__ = ["InstallGaussianPsfConfig", "InstallGaussianPsfTask", "with_psf"]


class InstallGaussianPsfConfig(Config):
    """Width of the first guess."""

    fwhm: float = field(1.5 * FWHM_PER_SIGMA, "Full width at half maximum, used when the exposure has no PSF.",
                        unit="pixel", gt=0)  # fmt: skip
    size: int | None = field(11, "Odd side of the PSF image, when the exposure has no PSF; null for ten sigma.",
                             unit="pixel", ge=3)  # fmt: skip


class InstallGaussianPsfTask(Task):
    """Install a Gaussian PSF: of the size of the PSF that the exposure has, else of the configured width."""

    Config = InstallGaussianPsfConfig
    default_name = "install_psf"
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure"}
    writes: ClassVar[dict[str, str]] = {"exposure": "exposure", "psf": "psf"}

    def run(self, *, exposure: Exposure) -> Result:
        """Install the PSF.

        Parameters
        ----------
        exposure : Exposure
            Not changed.

        Returns
        -------
        result : Result
            ``exposure``, sharing the pixels; ``psf``; ``sigma`` in pixels.

        Raises
        ------
        AlgorithmError
            The PSF of the exposure has no finite size.
        """
        center = exposure.box.center
        if exposure.psf is None:
            psf = GaussianPsf(self.config.fwhm / FWHM_PER_SIGMA, self.config.size, center)
        else:
            sigma = exposure.psf.sigma_at()
            if not (np.isfinite(sigma) and sigma > 0):
                raise AlgorithmError(
                    f"PSF sigma is {sigma}: the PSF of the exposure has no usable size",
                    numbers={"sigma": float(sigma)},
                )
            psf = GaussianPsf(sigma, exposure.psf.size, center)
        self.metadata["sigma"] = psf.sigma
        return Result(exposure=with_psf(exposure, psf), psf=psf, sigma=psf.sigma)


def with_psf(exposure: Exposure, psf: Psf | None) -> Exposure:
    """Return an exposure that shares the pixels of another one and has this PSF."""
    return Exposure(
        exposure.masked_image,
        psf=psf,
        wcs=exposure.wcs,
        photo_scale=exposure.photo_scale,
        aperture_corrections=exposure.aperture_corrections,
        info=exposure.info,
        detector=exposure.detector,
    )
