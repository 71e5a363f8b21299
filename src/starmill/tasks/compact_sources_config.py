"""Configuration of compact-source photometry, nested by step."""

from __future__ import annotations

from typing import Literal

from starmill.tasks.config import Config, field


class DetectionConfig(Config):
    """Find peaks."""

    threshold: float = field(4.0, "lowest peak of the filtered map over its local noise", gt=0)
    filter: Literal["auto", "sharp", "medium", "smooth"] = field(
        "auto", "band-pass filter; auto takes the sharpest one that is nearly as sensitive as the best"
    )
    noise: Literal["local", "global"] = field("local", "whether the threshold follows the local noise")
    noise_cell: float = field(12.0, "size of the cells in which the noise is measured", unit="beam", gt=1)
    rms: float | None = field(None, "noise of a pixel; measured when not given", unit="map unit", gt=0)
    min_separation: float = field(0.5, "of two closer peaks only the brighter one is kept", unit="beam", ge=0)
    residual_passes: int = field(
        1, "searches of the residual map for sources hidden beside others", ge=0, le=5
    )
    residual_threshold: float = field(5.0, "threshold of these searches", gt=0)
    search_extended: bool = field(
        True, "search the residual map also with the smooth filter, for broad sources"
    )
    sharpness: tuple[float, float] | None = field(None, "allowed DAOFIND sharpness of the filtered map")
    roundness: tuple[float, float] | None = field(None, "allowed DAOFIND roundness of the filtered map")
    shoulder_limit: float | None = field(None, "peaks with a larger shoulder score are dropped", gt=0)
    border: float = field(
        0.0, "peaks nearer than this to the edge of the array are dropped", unit="beam", ge=0
    )


class GroupingConfig(Config):
    """Join neighbours."""

    link: float = field(1.6, "sources closer than this are fitted together", unit="beam", gt=0)
    max_members: int = field(10, "longer chains are cut and fitted part by part", ge=1, le=60)


class NoiseConfig(Config):
    """Smooth background and correlated noise."""

    level_scale: float = field(
        10.0, "FWHM of the Gaussian mean that is the large-scale background", unit="beam", gt=2
    )
    rms_scale: float = field(14.0, "FWHM of the Gaussian mean of the local rms", unit="beam", gt=2)
    mask_radius: float = field(
        0.6, "pixels nearer to a source do not count for level and noise", unit="beam", ge=0
    )
    uniform: bool = field(False, "one rms for the whole map")
    background_scale: float = field(
        0.5, "sigma of the smoothing of the residual that is added to the background map", unit="beam", gt=0
    )


class FitConfig(Config):
    """Fit elliptical Gaussians."""

    background: Literal["shared", "polynomial"] = field(
        "shared",
        "shared: generalised least squares with the correlation of noise and background over the whole map; "
        "polynomial: least squares, with a polynomial of its own for every group",
    )
    order: int = field(
        0, "order of the polynomial that is fitted with the Gaussians; -1 for none", ge=-1, le=5
    )
    radius: float = field(1.4, "pixels this near to a source are fitted", unit="beam", gt=0.5)
    first_radius: float = field(1.3, "the same for the first, uncorrelated fit", unit="beam", gt=0.5)
    min_size: float = field(0.55, "smallest FWHM along any axis", unit="beam", gt=0)
    max_size: float = field(3.0, "largest FWHM along any axis", unit="beam", gt=0)
    max_shift: float = field(0.6, "largest shift of a source from its peak", unit="beam", ge=0)
    vary_position: bool = field(True, "False keeps given or detected positions")
    loss: Literal["linear", "soft_l1", "huber", "cauchy"] = field("linear", "loss function of the fits")
    f_scale: float = field(
        3.0, "residual at which a robust loss departs from least squares", unit="sigma", gt=0
    )
    max_iterations: int = field(30, "steps of one fit", ge=1)
    tolerance: float = field(1e-3, "relative decrease of chi2 that ends a fit", gt=0)
    split_major: float | None = field(
        1.6,
        "sources with a longer major axis (badly fitted ones: from 0.8 of it) are tried as two; null: never",
        unit="beam",
        gt=1,
    )
    ridge: float = field(0.003, "uncorrelated part of the noise variance", gt=0)
    min_significance: float = field(4.0, "sources with a smaller peak over its error are dropped", ge=0)
    merge: float = field(
        0.35, "of two fitted sources closer than this the fainter is dropped", unit="beam", ge=0
    )


class PhotometryConfig(Config):
    """Measure fluxes in ellipses."""

    aperture_ratio: float = field(1.0, "semi-axes of the ellipse over the fitted FWHM", gt=0)
    aperture_correction: Literal["published", "whole", "none"] = field(
        "published",
        "what aperture_flux means: the flux in the ellipse of one FWHM (93.75 % of a Gaussian, the rule of HYPER) "
        "whatever the ratio; the flux of the whole source; or the bare sum in the ellipse",
    )
    fixed_axes: tuple[float, float] | None = field(
        None, "FWHM of fixed apertures; fitted when not given", unit="arcsec"
    )
    fixed_position_angle: float = field(0.0, "of fixed apertures, east of north", unit="degree")


class CompactSourcesConfig(Config):
    """Compact-source photometry of one map."""

    detection: DetectionConfig = field(DetectionConfig, "find peaks")
    grouping: GroupingConfig = field(GroupingConfig, "join neighbours")
    noise: NoiseConfig = field(NoiseConfig, "background and noise")
    fit: FitConfig = field(FitConfig, "fit Gaussians")
    photometry: PhotometryConfig = field(PhotometryConfig, "measure fluxes")
