"""Names of our columns in the LSST Science Pipelines, for those who know them.

The map goes from their name to ours; it covers values, errors, flags, deblending and slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

PREFIXES: dict[str, str] = {
    "base_PeakCentroid": "peak",
    "base_SdssCentroid": "centroid",
    "base_SdssShape": "shape",
    "base_PsfFlux": "psf_flux",
    "base_GaussianFlux": "gaussian_flux",
    "base_LocalBackground": "local_background",
    "base_Variance": "local_variance",
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
    "_flag_truncated": "_flag_apertureTruncated",
    "_flag_bounds": "_flag_bounds",
    "_flag_bad_shape": "_flag_badShape",
    "_flag_no_good_pixels": "_flag_noGoodPixels",
    "_flag_bad_radius": "_flag_bad_radius",
    "_flag_small_radius": "_flag_small_radius",
    "_flag_edge": "_flag_edge",
    "_mask_bits": "_mask_bits",
}
"""End of our names and of theirs, for fluxes."""

SLOTS: dict[str, str] = {
    "slot_Centroid": "centroid",
    "slot_Shape": "shape",
    "slot_PsfShape": "psf_shape",
    "slot_PsfFlux": "psf_flux",
    "slot_GaussianFlux": "gaussian_flux",
    "slot_ModelFlux": "model_flux",
    "slot_ApFlux": "aperture_flux",
    "slot_CalibFlux": "calib_flux",
}
"""Their slots and ours; the names follow a slot when it is pointed at another measurement."""

SLOT_SUFFIXES: dict[str, str] = {
    **{f"_{axis}": f"_{axis}" for axis in ("x", "y", "xx", "yy", "xy")},
    **{f"_{axis}_err": f"_{axis}Err" for axis in ("x", "y", "xx", "yy", "xy")},
}
"""End of our names and of theirs, for slots of positions and shapes."""

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
    "base_LocalBackground_instFluxErr": "local_background_scatter",  # theirs is the scatter of the pixels
    "base_LocalBackground_flag_noGoodPixels": "local_background_flag_no_good_pixels",
    "base_PeakCentroid_flag": "peak_flag",
    "base_Variance_flag": "local_variance_flag",
    "base_Variance_flag_emptyFootprint": "local_variance_flag_no_sky",
    "base_Blendedness_flag_noCentroid": "blendedness_flag_off_image",
    "base_PsfFlux_area": "psf_flux_area",
    "base_PsfFlux_chi2": "psf_flux_chi2",
    "base_PsfFlux_npixels": "psf_flux_n_pixels",
    "base_PixelFlags_flag": "pixel_flag",
    "base_PixelFlags_flag_offimage": "pixel_flag_off_image",
    "base_Variance_value": "local_variance",
    "base_Blendedness_raw": "blendedness_raw",
    "base_Blendedness_abs": "blendedness",
    "base_Blendedness_flag": "blendedness_flag",
    "base_InputCount_value": "input_count",
    "base_ClassificationExtendedness_value": "extendedness",
    "base_ClassificationSizeExtendedness_value": "size_extendedness",
    "base_FootprintArea_value": "footprint_area",
    "base_ClassificationExtendedness_flag": "extendedness_flag",
    "base_ClassificationSizeExtendedness_flag": "size_extendedness_flag",
    "ext_photometryKron_KronFlux_radius": "kron_radius",
    "ext_photometryKron_KronFlux_psf_radius": "kron_psf_radius",
    "modelfit_CModel_fracDev": "cmodel_frac_dev",
    "ext_shapeHSM_HsmShapeRegauss_e1": "regauss_e1",
    "ext_shapeHSM_HsmShapeRegauss_e2": "regauss_e2",
    "ext_shapeHSM_HsmShapeRegauss_sigma": "regauss_e1_err",
    "ext_shapeHSM_HsmShapeRegauss_resolution": "regauss_resolution",
    "ext_shapeHSM_HsmSourceMoments_xx": "hsm_xx",
    "ext_shapeHSM_HsmSourceMoments_yy": "hsm_yy",
    "ext_shapeHSM_HsmSourceMoments_xy": "hsm_xy",
    "ext_shapeHSM_HsmPsfMoments_xx": "psf_shape_xx",
    "ext_shapeHSM_HsmPsfMoments_yy": "psf_shape_yy",
    "ext_shapeHSM_HsmPsfMoments_xy": "psf_shape_xy",
    "deblend_nChild": "n_child",
    "deblend_nPeaks": "deblend_n_peaks",
    "deblend_parentNPeaks": "deblend_parent_n_peaks",
    "deblend_peakId": "deblend_peak",
    "deblend_peak_center_x": "deblend_peak_x",
    "deblend_peak_center_y": "deblend_peak_y",
    "deblend_deblendedAsPsf": "deblended_as_psf",
    "deblend_psf_instFlux": "deblend_psf_flux",
    "deblend_psfCenter_x": "deblend_psf_x",
    "deblend_psfCenter_y": "deblend_psf_y",
    "deblend_parentTooBig": "deblend_parent_too_big",
    "deblend_tooManyPeaks": "deblend_too_many_peaks",
    "deblend_rampedTemplate": "deblend_ramped_template",
    "deblend_hasStrayFlux": "deblend_has_stray_flux",
    "calib_psf_candidate": "psf_candidate",
    "calib_psf_used": "psf_used",
    "calib_psf_reserved": "psf_reserved",
}
"""Names that follow no rule."""


def lsst_aliases(names: Iterable[str], slots: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the LSST names of those columns that have one.

    Parameters
    ----------
    names : iterable of str
        Columns of a catalogue.
    slots : mapping of str to str, optional
        Column prefix of each slot.

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
            for end, their_end in SUFFIXES.items():
                stem = rest.removesuffix(end) if end else rest
                if rest.endswith(end) and stem.strip("_").replace("_", "").isdigit():
                    aliases[theirs + stem + their_end] = name
                    break
    for ours, theirs in PIXEL_FLAGS.items():
        for end, their_end in (("", ""), ("_center", "Center"), ("_center_all", "CenterAll")):
            if f"pixel_flag_{ours}{end}" in present:
                aliases[f"base_PixelFlags_flag_{theirs}{their_end}"] = f"pixel_flag_{ours}{end}"
    for theirs, slot in SLOTS.items():
        prefix = (slots or {}).get(slot)
        for end, their_end in {**SUFFIXES, **SLOT_SUFFIXES}.items():
            if prefix is not None and prefix + end in present:
                aliases[theirs + their_end] = f"slot_{slot}{end}"
    return aliases
