"""Configuration of difference imaging."""

from __future__ import annotations

from typing import Literal

from starmill.tasks.base import Config, field

__all__ = ["DifferenceConfig"]


class DifferenceConfig(Config):
    """How a template is matched to a science exposure and subtracted."""

    direction: Literal["auto", "template", "science"] = field(
        "auto", "Image that is convolved; auto takes the sharper one."
    )
    product: Literal["auto", "difference", "preconvolved", "dual", "proper"] = field(
        "auto",
        "Beside the plain difference: preconvolved blurs the target with its own PSF before matching (the difference is "
        "a score image, nothing is sharpened), dual blurs it as far as neither image is sharpened, proper is the "
        "white difference of Zackay, Ofek & Gal-Yam with its score. The direction says which image is convolved. auto is "
        "dual when the direction is free and either image would have to be sharpened by more than sharpening_limit.",
    )
    sharpening_limit: float = field(
        0.15,
        "An image may be broader than the other in some direction by this fraction and still be convolved.",
        ge=0,
    )
    basis: Literal["gaussian", "delta", "auto"] = field(
        "gaussian",
        "Basis of the kernel: Gaussians times polynomials, pixels with a smoothness penalty, or what predicts left-out "
        "stamps best among Gaussians of several half widths and pixels.",
    )
    kernel_half_width: int | None = field(
        None,
        "Half width of the kernel core; 2.4 FWHM of the broader image when not given.",
        ge=1,
        le=50,
        unit="pixel",
    )
    sigmas: list[float] | None = field(
        None, "Widths of the Gaussians; from the two seeings when not given.", unit="pixel"
    )
    degrees: list[int] = field(lambda: [6, 4, 2], "Polynomial degree of each Gaussian.")
    family: Literal["chebyshev", "polynomial", "bspline"] = field("chebyshev", "Functions of position.")
    kernel_order: int | None = field(
        None, "Spatial order of the kernel shape; chosen by cross-validation when not given.", ge=0
    )
    sum_order: int | None = field(
        None, "Spatial order of the kernel sum; chosen by cross-validation when not given.", ge=0
    )
    background_order: int | None = field(
        None, "Order of the background; chosen by cross-validation when not given.", ge=0
    )
    background_mesh: Literal["auto", "always", "never"] = field(
        "auto",
        "Subtract what small cells show beyond the background of that order: auto does it when left-out cells are "
        "predicted better, never when an order is given.",
    )
    background_cell: int | None = field(
        None, "Side of the small cells; 8 FWHM, at least 32, when not given.", ge=8, unit="pixel"
    )
    wings: bool = field(True, "Fit the light that the kernel carries beyond its core.")
    stamp_half_width: int | None = field(
        None, "Half width of the stamps; 1.5 kernel half widths when not given.", ge=3, unit="pixel"
    )
    stamps_per_cell: int = field(5, "Stamps in each cell of a 10 by 10 grid.", ge=1)
    stamp_threshold: float = field(10.0, "Signal-to-noise of the central pixel of a stamp.", gt=0)
    minimum_stamps: int = field(3, "Fewest stamps for a fit.", ge=1)
    clip: float = field(4.0, "Rejection of stamps, in robust standard deviations.", gt=0)
    lost_limit: float = field(0.01, "A pixel with more of its kernel on bad pixels is unusable.", gt=0, le=1)
    decorrelate: Literal["auto", "always", "never"] = field(
        "auto",
        "Whiten the noise; auto does it when the matched filter would be off by more than decorrelate_limit.",
    )
    decorrelate_limit: float = field(0.02, "Tolerated relative error of the matched filter.", ge=0)
    bad_planes: list[str] = field(
        lambda: ["BAD", "SAT", "CR", "NO_DATA"],
        "Pixels of these mask planes are not used; the border that a detection did not search (EDGE) is.",
    )
    fit_error_modes: int = field(
        3, "Modes of the kernel's uncertainty that are added to the variance; 0 for none.", ge=0, le=20
    )
    score_limit: float = field(
        1.05,
        "A score image wider than this (correlated input noise) is divided by its width.",
        gt=0,
    )
    psf_fwhm: float | None = field(
        None,
        "FWHM of an image without a measurable star, and of the pixels kept out of the fit.",
        gt=0,
        unit="pixel",
    )
    strict: bool = field(False, "Raise an error when the quality verdict is a failure.")
