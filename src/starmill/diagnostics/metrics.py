"""Numbers that say how good a characterised exposure is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from starmill.datamodel.catalog import Catalog
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import Field
from starmill.datamodel.psf import FWHM_PER_SIGMA

__all__ = ["exposure_metrics", "pixel_scale_arcsec", "source_shapes"]


def pixel_scale_arcsec(exposure: Exposure) -> float:
    """Return the geometric mean side of a pixel on the sky, arcsec; NaN without a WCS."""
    if exposure.wcs is None:
        return float(exposure.info.pixel_scale)
    from astropy.wcs.utils import proj_plane_pixel_area

    return float(np.sqrt(proj_plane_pixel_area(exposure.wcs)) * 3600)


def source_shapes(catalog: Catalog) -> tuple[Any, Any, Any]:
    """Return FWHM (pixel) and ellipticity components of every source from the slot ``shape``.

    The FWHM is that of the Gaussian of the same determinant radius; ``e1, e2 = (xx - yy, 2 xy) / (xx + yy)``. NaN where
    the catalogue has no shape.
    """
    names = [f"slot_shape_{part}" for part in ("xx", "yy", "xy")]
    if not all(name in catalog for name in names):
        unknown = np.full(len(catalog), np.nan)
        return unknown, unknown, unknown
    xx, yy, xy = (np.asarray(catalog[name], float) for name in names)
    with np.errstate(all="ignore"):
        fwhm = FWHM_PER_SIGMA * np.maximum(xx * yy - xy**2, 0) ** 0.25
        return fwhm, (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def exposure_metrics(
    exposure: Exposure, catalog: Catalog, background: Sequence[Field] = ()
) -> dict[str, float]:
    """Return the summary numbers of a characterised exposure.

    Returns
    -------
    metrics : dict
        ``n_sources``, ``n_flagged``, ``fwhm_pixel``, ``fwhm_arcsec``, ``ellipticity`` (of the PSF), ``sky_level`` and
        ``sky_noise`` (unit of the image, per pixel), ``depth_5sigma_flux`` (flux of a star with S/N 5 in empty sky),
        ``masked_fraction`` (NO_DATA, BAD or SAT), ``cosmic_ray_fraction``. NaN where unknown.
    """
    bad = exposure.mask.any("NO_DATA", "BAD", "SAT")
    step = max(1, exposure.shape[0] // 256)  # a median of every step-th row is good to a per mille
    empty = ~(bad | exposure.mask.any("DETECTED"))[::step]
    sample = exposure.variance[::step][empty]
    noise = float(np.sqrt(np.median(sample))) if sample.size else float("nan")
    fwhm = ellipticity = depth = float("nan")
    if exposure.psf is not None:
        xx, yy, xy = exposure.psf.shape_at(*exposure.box.center)
        fwhm = float(FWHM_PER_SIGMA * (xx * yy - xy**2) ** 0.25)
        ellipticity = float(np.hypot(xx - yy, 2 * xy) / (xx + yy))
        kernel = exposure.psf.kernel_at(*exposure.box.center)
        depth = 5 * noise / float(np.sqrt((kernel**2).sum()))
    flagged = (
        catalog["slot_psf_flux_flag"] if "slot_psf_flux_flag" in catalog else np.zeros(len(catalog), bool)
    )
    return {
        "n_sources": len(catalog),
        "n_flagged": int(np.count_nonzero(flagged)),
        "fwhm_pixel": fwhm,
        "fwhm_arcsec": fwhm * pixel_scale_arcsec(exposure),
        "ellipticity": ellipticity,
        "sky_level": float(sum(field.mean() for field in background)) if background else float("nan"),
        "sky_noise": noise,
        "depth_5sigma_flux": depth,
        "masked_fraction": float(bad.mean()),
        "cosmic_ray_fraction": float(exposure.mask.any("CR").mean()),
    }
