"""Configuration of photometry by the published rules."""

from __future__ import annotations

from typing import Literal

from starmill.tasks.config import Config, field


class PublishedConfig(Config):
    """Compact-source photometry by the published rules of HYPER."""

    threshold: float = field(5.0, "lowest peak over the global rms", gt=0)
    rms: float | None = field(None, "global rms of a pixel; measured when not given", unit="Jy/pixel", gt=0)
    kernel_size: int = field(
        0, "side of the running mean of the high-pass filter, 0 for floor(FWHM)**2", unit="pixel", ge=0
    )
    roundness: tuple[float, float] = field((-1.0, 1.0), "allowed DAOFIND roundness")
    sharpness: tuple[float, float] = field((-1.0, 2.0), "allowed DAOFIND sharpness")
    min_separation: float = field(
        0.0, "closer pairs keep the brighter peak, 0 for one beam", unit="arcsec", ge=0
    )
    snap_radius: float = field(1.0, "search for the brightest pixel around a peak", unit="pixel", ge=0)
    shoulder_limit: float | None = field(None, "peaks with a larger shoulder score are dropped")
    shoulder_ring: float = field(1.5, "radius of the ring of the shoulder score", unit="beam", gt=0)
    shoulder_angles: int = field(16, "samples on that ring", ge=4)
    shoulder_neighbour: float = field(1.0, "samples nearer to another peak do not count", unit="beam", ge=0)
    min_size: float = field(1.0, "smallest FWHM", unit="beam", gt=0)
    max_size: float = field(2.0, "largest FWHM", unit="beam", gt=0)
    aperture_ratio: float = field(1.0, "semi-axes of the ellipse over the fitted FWHM", gt=0)
    fixed_axes: tuple[tuple[float, float, float], ...] | None = field(
        None,
        "FWHM 1, FWHM 2 (arcsec) and position angle (degree) of fixed apertures: one for all or one per source",
    )
    vary_position: bool = field(True, "let positions move by one pixel")
    weights: Literal["inverse_rms", "snr", "power_snr", "spatial", "map", "mask"] | None = field(
        None, "what multiplies the residuals"
    )
    snr_power: float = field(1.0, "exponent of power_snr")
    spatial_width: float = field(1.5, "width of the weights 'spatial'", unit="sigma of the beam", gt=0)
    extra_radius: float | None = field(
        1.0, "pixels this much outside the largest size are fitted", unit="sigma of the beam"
    )
    loss: Literal["linear", "soft_l1", "huber", "cauchy"] = field("linear", "loss function")
    f_scale: float = field(0.1, "weighted residual at which a robust loss departs from least squares", gt=0)
    tolerance: float = field(1e-8, "relative decrease of the sum of squares that ends a fit", gt=0)
    max_iterations: int = field(200, "steps of one fit", ge=1)
    score: Literal["nmse", "redchi", "bic"] = field("redchi", "how the best background is chosen")
    scoring: Literal["published", "same_pixels"] = field(
        "published",
        "published: every box is scored on its own pixels with its own scatter; same_pixels: all on the observed "
        "pixels of the smallest box (joint backgrounds: those of the fit) with the rms of the map, and only observed "
        "pixels are fitted",
    )
    separate_background: bool = field(False, "subtract a background before the fit")
    joint_background: bool = field(False, "fit a polynomial together with the Gaussians")
    separate_orders: tuple[int, ...] = field((0, 1, 2), "orders of the separate background to try")
    joint_orders: tuple[int, ...] = field((0,), "orders of the joint background to try")
    fitters: tuple[str, ...] = field(("least_squares",), "fitters of the separate background")
    huber_epsilons: tuple[float, ...] = field((1.35,), "tuning constants of the fitter huber")
    min_box: float = field(3.0, "half size of the smallest box, 0 for the whole map", unit="beam", ge=0)
    max_box: float = field(5.0, "half size of the largest box", unit="beam", ge=0)
    regularization: float = field(
        0.0, "penalty on the slopes of a joint background, in units of the noise", ge=0
    )
    empty_orders: tuple[int, ...] = field((0,), "orders of the background of a map without sources")
    max_group: int = field(40, "longer chains of neighbours are cut", ge=1)
