"""Names of our columns in the LSST Science Pipelines, for those who know them.

The map goes from their name to ours; it covers fluxes, errors and general flags.
"""

from __future__ import annotations

from collections.abc import Iterable

PREFIXES: dict[str, str] = {
    "base_PeakCentroid": "peak",
    "base_SdssCentroid": "centroid",
    "base_SdssShape": "shape",
    "base_PsfFlux": "psf_flux",
    "base_GaussianFlux": "gaussian_flux",
    "base_LocalBackground": "local_background",
    "base_Variance": "local_variance",
    "base_ScaledApertureFlux": "scaled_aperture_flux",
    "base_PeakLikelihoodFlux": "peak_likelihood_flux",
    "ext_photometryKron_KronFlux": "kron_flux",
    "modelfit_CModel": "cmodel_flux",
    "modelfit_CModel_exp": "cmodel_exp_flux",
    "modelfit_CModel_dev": "cmodel_dev_flux",
    "ext_shapeHSM_HsmShapeRegauss": "regauss",
}
"""Beginning of their names and of ours."""

APERTURES: dict[str, str] = {
    "base_CircularApertureFlux": "aperture_flux",
    "base_CompensatedGaussianFlux": "compensated_gaussian_flux",
    "base_CompensatedTophatFlux": "compensated_tophat_flux",
}
"""The same for names that go on with a radius."""

SUFFIXES: dict[str, str] = {
    "": "_instFlux",
    "_err": "_instFluxErr",
    "_flag": "_flag",
}
"""End of our names and of theirs, for fluxes."""

PIXEL_FLAGS: dict[str, str] = {
    "edge": "edge",
    "no_data": "nodata",
    "interpolated": "interpolated",
    "saturated": "saturated",
    "cr": "cr",
    "bad": "bad",
    "suspect": "suspect",
}

SINGLE: dict[str, str] = {
    "coord_ra": "ra",
    "coord_dec": "dec",
    "coord_raErr": "ra_err",
    "coord_decErr": "dec_err",
    "coord_ra_dec_Cov": "ra_dec_cov",
    "base_SdssCentroid_x": "centroid_x",
    "base_SdssCentroid_y": "centroid_y",
    "base_SdssCentroid_xErr": "centroid_x_err",
    "base_SdssCentroid_yErr": "centroid_y_err",
    "base_SdssCentroid_flag": "centroid_flag",
    "base_SdssCentroid_flag_edge": "centroid_flag_edge",
    "base_SdssCentroid_flag_noSecondDerivative": "centroid_flag_no_second_derivative",
    "base_SdssCentroid_flag_almostNoSecondDerivative": "centroid_flag_almost_no_second_derivative",
    "base_SdssCentroid_flag_notAtMaximum": "centroid_flag_not_at_maximum",
    "base_SdssCentroid_flag_resetToPeak": "centroid_flag_reset_to_peak",
    "base_SdssCentroid_flag_badError": "centroid_flag_bad_error",
    "base_SdssCentroid_flag_near_edge": "centroid_flag_near_edge",
    "base_PeakCentroid_x": "peak_x",
    "base_PeakCentroid_y": "peak_y",
    "base_SdssShape_xx": "shape_xx",
    "base_SdssShape_yy": "shape_yy",
    "base_SdssShape_xy": "shape_xy",
    "base_SdssShape_xxErr": "shape_xx_err",
    "base_SdssShape_yyErr": "shape_yy_err",
    "base_SdssShape_xyErr": "shape_xy_err",
    "base_SdssShape_x": "shape_x",
    "base_SdssShape_y": "shape_y",
    "base_SdssShape_instFlux": "shape_flux",
    "base_SdssShape_instFluxErr": "shape_flux_err",
    "base_SdssShape_instFlux_xx_Cov": "shape_flux_xx_cov",
    "base_SdssShape_instFlux_yy_Cov": "shape_flux_yy_cov",
    "base_SdssShape_instFlux_xy_Cov": "shape_flux_xy_cov",
    "base_SdssShape_psf_xx": "psf_shape_xx",
    "base_SdssShape_psf_yy": "psf_shape_yy",
    "base_SdssShape_psf_xy": "psf_shape_xy",
    "base_SdssShape_flag": "shape_flag",
    "base_SdssShape_flag_unweighted": "shape_flag_unweighted",
    "base_SdssShape_flag_unweightedBad": "shape_flag_unweighted_bad",
    "base_SdssShape_flag_shift": "shape_flag_shift",
    "base_SdssShape_flag_maxIter": "shape_flag_max_iterations",
    "base_SdssShape_flag_psf": "psf_shape_flag",
    "base_PsfFlux_area": "psf_flux_area",
    "base_PsfFlux_chi2": "psf_flux_chi2",
    "base_PsfFlux_npixels": "psf_flux_n_pixels",
    "base_PsfFlux_flag_noGoodPixels": "psf_flux_flag_no_good_pixels",
    "base_PsfFlux_flag_edge": "psf_flux_flag_edge",
    "base_PixelFlags_flag": "pixel_flag",
    "base_PixelFlags_flag_offimage": "pixel_flag_off_image",
    "base_Variance_value": "local_variance",
    "base_Blendedness_old": "blendedness_heavy",
    "base_Blendedness_raw": "blendedness_raw",
    "base_Blendedness_abs": "blendedness",
    "base_Blendedness_flag": "blendedness_flag",
    "base_InputCount_value": "input_count",
    "base_ClassificationExtendedness_value": "extendedness",
    "base_ClassificationSizeExtendedness_value": "size_extendedness",
    "base_FootprintArea_value": "footprint_area",
    "ext_photometryKron_KronFlux_radius": "kron_radius",
    "modelfit_CModel_fracDev": "cmodel_frac_dev",
    "ext_shapeHSM_HsmShapeRegauss_e1": "regauss_e1",
    "ext_shapeHSM_HsmShapeRegauss_e2": "regauss_e2",
    "ext_shapeHSM_HsmShapeRegauss_sigma": "regauss_sigma",
    "ext_shapeHSM_HsmShapeRegauss_resolution": "regauss_resolution",
    "deblend_nChild": "n_child",
}
"""Names that follow no rule."""


def lsst_aliases(names: Iterable[str]) -> dict[str, str]:
    """Return the LSST names of those columns that have one.

    Parameters
    ----------
    names : iterable of str
        Columns of a catalogue.

    Returns
    -------
    aliases : dict of str to str
        LSST name to ours, for :class:`~starmill.datamodel.catalog.Catalog`.
    """
    present = set(names)
    aliases = {theirs: ours for theirs, ours in SINGLE.items() if ours in present}
    for theirs, ours in PREFIXES.items():
        for end, their_end in SUFFIXES.items():
            if ours + end in present:
                aliases.setdefault(theirs + their_end, ours + end)
    for theirs, ours in APERTURES.items():
        for name in sorted(present):
            if not name.startswith(ours + "_"):
                continue
            rest = name.removeprefix(ours)
            for end in ("_err", "_flag", ""):
                stem = rest.removesuffix(end)
                if rest.endswith(end) and stem.strip("_").replace("_", "").isdigit():
                    aliases[theirs + stem + SUFFIXES[end]] = name
                    break
    for ours, theirs in PIXEL_FLAGS.items():
        for end, their_end in (("", ""), ("_center", "Center"), ("_center_all", "CenterAll")):
            if f"pixel_flag_{ours}{end}" in present:
                aliases[f"base_PixelFlags_flag_{theirs}{their_end}"] = f"pixel_flag_{ours}{end}"
    return aliases
