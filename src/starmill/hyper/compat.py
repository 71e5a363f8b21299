"""The compat mode: the configuration of hyper-py as the configuration of the published rules."""

from __future__ import annotations

from typing import Any

from starmill.datamodel.cube import SkyMap
from starmill.errors import ConfigError
from starmill.hyper.options import HyperOptions
from starmill.tasks.published_config import PublishedConfig

__all__ = ["published_config"]


def published_config(options: HyperOptions, sky_map: SkyMap) -> PublishedConfig:  # noqa: ARG001  same call as the accurate mode
    """Translate a configuration for the compat mode.

    Parameters
    ----------
    options : HyperOptions
    sky_map : SkyMap
    """

    def whole(name: str) -> tuple[int, ...]:
        return tuple(int(v) for v in options[name])

    fixed: Any = None
    if options["photometry.fixed_radius"] and not options["detection.use_fixed_source_table"]:
        lists = [options[f"photometry.{name}"] for name in ("fwhm_1", "fwhm_2", "PA_val")]
        n = max(len(values) for values in lists)
        if any(len(values) not in (1, n) for values in lists):
            raise ConfigError("photometry.fwhm_1, fwhm_2 and PA_val must have one value or one per source")
        fixed = tuple(zip(*(values * n if len(values) == 1 else values for values in lists), strict=True))
    return PublishedConfig(
        threshold=options["detection.sigma_thres"],
        rms=options["detection.rms_value"] / options.flux_unit[1] if options["detection.use_manual_rms"] else None,
        kernel_size=options["detection.kernel_size_pix"],
        roundness=tuple(options["detection.roundlim"]), sharpness=tuple(options["detection.sharplim"]),
        min_separation=options["detection.dist_limit_arcsec"], snap_radius=options["detection.snap_radius_pix"],
        shoulder_limit=options["detection.shoulder_threshold"] if options["detection.shoulder_filter"] else None,
        shoulder_ring=options["detection.shoulder_ring_factor"],
        shoulder_angles=options["detection.shoulder_n_angles"],
        shoulder_neighbour=options["detection.shoulder_neighbor_mask"],
        min_size=options["photometry.aper_inf"], max_size=options["photometry.aper_sup"],
        aperture_ratio=options["photometry.fwhm_radius_ratio"], fixed_axes=fixed,
        vary_position=options["fit_options.vary"], weights=options["fit_options.weights"],
        snr_power=options["fit_options.power_snr"], spatial_width=options["fit_options.spatial_weight_sigma"],
        extra_radius=options["fit_options.fit_aperture_sigma"],
        loss=options["fit_options.loss"] if options["fit_options.loss"] != "arctan" else "cauchy",
        f_scale=options["fit_options.f_scale"], tolerance=max(options["fit_options.ftol"], 1e-14),
        score=options["fit_options.min_method"], scoring=options["background.scoring"],
        separate_background=options["background.fit_gauss_and_bg_separately"],
        joint_background=options["background.fit_gauss_and_bg_together"],
        separate_orders=whole("background.pol_orders_separate"), joint_orders=whole("background.polynomial_orders"),
        fitters=tuple(options["fit_options.bg_fitters"]), huber_epsilons=tuple(options["fit_options.huber_epsilons"]),
        min_box=options["background.fix_min_box"], max_box=options["background.fix_max_box"],
        regularization=options["fit_options.lambda_l2"] if options["fit_options.use_l2_regularization"] else 0.0,
        empty_orders=whole("background.pol_orders_bkg_no_sources"),
    )  # fmt: skip
