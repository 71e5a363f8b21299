"""The stars behind a PSF model: their images, the model at their places, the residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.psf import Psf
from starmill.psf_modelling.principal_components import start_images
from starmill.psf_modelling.star_scaling import scale_and_mask

if TYPE_CHECKING:
    from starmill.psf_modelling.candidates import StarStamps


@dataclass(frozen=True)
class PsfStars:
    """PSF candidates with data, model and residual.

    Attributes
    ----------
    id : (n,) int64
        Of the sources in the catalogue.
    x, y : (n,) float64, pixel
        Positions on which the model is centred, parent frame.
    x0, y0 : (n,) int64
        Parent pixel of ``images[k, 0, 0]``.
    images, models, residuals : (n, size, size) float32, electron
        Data less the local background, flux times PSF at the star's place, and their difference.
    good : (n, size, size) bool
        Pixels that count: not masked, not a neighbour's, not an outlier.
    flux, flux_err, background : (n,) float64, electron
        Fitted with the PSF.
    reduced_chi2 : (n,) float64
    size_excess, g1_excess, g2_excess, shape_err : (n,) float64
        Relative excess of the star in size, and in shear, over the model; first order.
    used, reserved, candidate : (n,) bool
        In the fit; kept out of it as a test; offered to it at all.
    """

    id: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    images: NDArray[np.float32]
    models: NDArray[np.float32]
    residuals: NDArray[np.float32]
    good: NDArray[np.bool_]
    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    background: NDArray[np.float64]
    reduced_chi2: NDArray[np.float64]
    size_excess: NDArray[np.float64]
    g1_excess: NDArray[np.float64]
    g2_excess: NDArray[np.float64]
    shape_err: NDArray[np.float64]
    used: NDArray[np.bool_]
    reserved: NDArray[np.bool_]
    candidate: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.id)

    def __repr__(self) -> str:
        return f"PsfStars({len(self)} candidates, {int(self.used.sum())} used, {int(self.reserved.sum())} reserved)"


def compare_stars_to_psf(
    stamps: StarStamps,
    psf: Psf,
    ids: NDArray[np.integer],
    used: NDArray[np.bool_],
    reserved: NDArray[np.bool_],
) -> PsfStars:
    """Fit a PSF to stars and return data, models and residuals.

    Parameters
    ----------
    stamps : StarStamps
        Of all candidates.
    psf : Psf
    ids : (n,) int array
    used, reserved : (n,) bool

    Returns
    -------
    stars : PsfStars
    """
    models, _, _ = start_images(psf, stamps)
    scales, _, masked = scale_and_mask(stamps, models, None, mask_outliers=True, fit_shape=True)
    flux = np.nan_to_num(scales.flux).astype(np.float32)[:, None, None]
    background = np.nan_to_num(scales.background).astype(np.float32)[:, None, None]
    images = stamps.images - background
    scaled = models * flux
    return PsfStars(
        id=np.asarray(ids, dtype=np.int64),
        x=stamps.x,
        y=stamps.y,
        x0=stamps.x0,
        y0=stamps.y0,
        images=images,
        models=scaled,
        residuals=images - scaled,
        good=masked.good,
        flux=scales.flux,
        flux_err=scales.flux_err,
        background=scales.background,
        reduced_chi2=scales.reduced_chi2,
        size_excess=scales.size,
        g1_excess=scales.g1,
        g2_excess=scales.g2,
        shape_err=scales.shape_err,
        used=np.asarray(used, dtype=bool),
        reserved=np.asarray(reserved, dtype=bool),
        candidate=np.ones(len(stamps), dtype=bool),
    )
