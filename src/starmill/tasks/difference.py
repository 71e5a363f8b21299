"""Difference imaging: subtract a PSF-matched template from a science exposure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import GaussianPsf
from starmill.differencing.background import fit_differential_background, with_mesh
from starmill.differencing.cutout import CutoutFit, fit_cutout
from starmill.differencing.decorrelation import (
    central_filter,
    prefiltered,
    score_excess,
    spike_image,
    whitened,
)
from starmill.differencing.fit_error import fit_variance
from starmill.differencing.kernel_basis import (
    KernelBasis,
    delta_basis,
    gaussian_basis,
    matching_widths,
    roughness,
)
from starmill.differencing.kernel_fit import KernelFit, KernelModel, fit_kernel
from starmill.differencing.kernel_sum import kernel_sum_error, kernel_sum_field, kernel_sum_image
from starmill.differencing.proper import blurred_side, common_blur, filter_difference, sharpening
from starmill.differencing.quality import DifferenceQuality, judge_difference
from starmill.differencing.score import matched_filter, width_of_sky
from starmill.differencing.seeing import Seeing, faint_seeing, measure_seeing
from starmill.differencing.selection import best_basis, fit_selected_kernel
from starmill.differencing.sides import Side, discs, flux_ratio, with_some_seeing
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.differencing.stamp_system import StampSystem, build_stamp_system
from starmill.differencing.stamps import StampSet, choose_stamps, stamps_at
from starmill.differencing.subtract import convolve_image, subtract_convolved
from starmill.differencing.wings import fit_wings
from starmill.errors import AlgorithmError, InputError
from starmill.tasks.base import Result, Task
from starmill.tasks.difference_config import DifferenceConfig
from starmill.tasks.difference_products import difference_exposures, difference_summary

__all__ = ["DifferenceConfig", "DifferenceTask", "PreparedTemplate"]

Array = NDArray[Any]

FEWEST_STARS = 5
"""A PSF from fewer does not tell in which direction it is broader than another."""

SMALL = 150
"""An image with a shorter side, pixels, may be a cutout around one object."""

SAME = 0.9
"""Share of equal pixels beyond which two images are one; noise of one count in whole numbers makes 0.28 equal."""

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Strengths of the smoothness of a delta basis that are tried, relative to the light of a typical stamp."""


@dataclass(frozen=True)
class PreparedTemplate:
    """A template and what depends on it alone, for many science exposures; from `DifferenceTask.prepare`."""

    exposure: Exposure
    side: Side


class DifferenceTask(Task):
    """Subtract a PSF-matched template from a science exposure of the same pixel grid.

    The difference is science minus template, on the photometric scale of the science exposure, whichever of
    the two was convolved.
    """

    Config = DifferenceConfig
    reads: ClassVar[dict[str, str]] = {"template": "template", "science": "calibrated"}
    writes: ClassVar[dict[str, str]] = {
        "difference": "difference",
        "score": "difference_score",
        "kernel": "matching_kernel",
    }

    def run(
        self, *, template: Exposure | PreparedTemplate, science: Exposure, positions: tuple[Array, Array] | None = None,
        exclude: tuple[Array, ...] | None = None,
    ) -> Result:  # fmt: skip
        """Match and subtract.

        Parameters
        ----------
        template, science : Exposure
            Same box, with variance. Not changed. A template for many epochs is prepared once with `prepare`.
        positions : (x, y), optional
            Centres of the stamps, parent frame; found automatically when not given.
        exclude : (x, y) or (x, y, radius), optional
            Parent positions of known transients: pixels within the radius, two FWHM when not given, are kept out of the
            kernel fit.

        Returns
        -------
        result : Result
            ``difference`` and ``score`` (Exposure), ``matched_template`` ((ny, nx) array, science unit),
            ``kernel`` (SpatialKernel), ``kernel_sum`` (float, wings included), ``kernel_sum_error``, ``wings``,
            ``background`` (DifferentialBackground), ``fit`` (KernelFit), ``stamps`` (StampSet), ``direction``,
            ``product`` (str), ``decorrelated`` (bool), ``quality`` (DifferenceQuality), ``flux`` ((ny, nx) array: of a point
            source at every pixel), ``spike`` ((k, k) array: what one bright pixel of the science image becomes, or None).
        """
        with self.timer("seeing"):
            prepared = template if isinstance(template, PreparedTemplate) else self.prepare(template)
            template = prepared.exposure
            self._check_inputs(template, science)
            sides = {"template": prepared.side, "science": self._side(science)}
            self._check_noise(*sides.values())
            sides = with_some_seeing(sides)
            sides = {
                "template": self._hidden(sides["template"], template, exclude),
                "science": self._hidden(sides["science"], science, exclude),
            }
        cutout = positions is None and self._is_cutout(sides)
        direction = self._direction(sides, cutout)
        reference, target = (sides[name] for name in _order(direction))
        box = science.box
        product = self._product(reference, target)
        sharp, blur = target, self._blur(product, reference, target)
        if blur is not None:
            target = blurred_side(target, blur, lost_limit=self.config.lost_limit)
        lone_error, light = 0.0, np.inf
        with self.timer("fit"):
            if cutout:
                reference, target, found = self._fit_cutout(reference, target, box)
                stamps, fit, lone_error, light = found.stamps, found.fit, found.scale_error, found.light
            else:
                stamps, fit = self._fit(reference, target, box, positions)
                if product == "difference" and self._needs_whitening(fit, reference, target, box):
                    stamps, fit = self._fit_white(reference, target, box, positions, stamps, fit)
        with self.timer("subtract"):
            matched = self._subtract(reference, target, fit, box)
        with self.timer("finish"):
            if product == "difference":
                products = self._finish(matched, reference, target, fit, box, direction)
            else:
                products = self._filter(
                    product, matched, reference, target, fit, box, direction, (sharp, blur)
                )
        quality = judge_difference(
            products["image"],
            products["variance"],
            products["bad"],
            fit,
            stamps,
            products["score"],
            matched["wings"],
            products["kernel_sum_error"] / max(abs(products["kernel_sum"]), 1e-30),
            lone_error,
            light,
        )
        self.metadata["product"] = product
        self._record(fit, quality, direction, products)
        if self.config.strict and not quality.good:
            raise AlgorithmError("the difference image failed its quality check", numbers=quality.numbers())
        difference, score = difference_exposures(science, template, products)
        difference.info = difference.info.with_values(
            extra={**difference.info.extra, "difference": difference_summary(quality, direction, products)}
        )
        return Result(
            difference=difference, score=score, matched_template=products["matched_template"], kernel=fit.kernel,
            kernel_sum=products["kernel_sum"], kernel_sum_error=products["kernel_sum_error"], wings=matched["wings"],
            background=matched["background"], fit=fit, stamps=stamps, direction=direction,
            decorrelated=products["decorrelated"], quality=quality, flux=products["flux"], product=product,
            spike=spike_image(fit.kernel, reference, target, box, direction == "science", products["decorrelated"])
            if product == "difference" else None,
        )  # fmt: skip

    def prepare(self, template: Exposure) -> PreparedTemplate:
        """Do the work that depends on the template alone.

        Parameters
        ----------
        template : Exposure

        Returns
        -------
        prepared : PreparedTemplate
            For `run` in place of the template; the result is the same to the last bit.
        """
        return PreparedTemplate(template, self._side(template))

    def _check_inputs(self, template: Exposure, science: Exposure) -> None:
        if template.box != science.box:
            raise InputError(
                f"template and science are on different pixels: {template.box} and {science.box}; align them first"
            )

    def _check_noise(self, template: Side, science: Side) -> None:
        """Refuse two images with the same noise, whose difference has none."""
        good = ~(template.bad | science.bad)
        usable = int(np.count_nonzero(good))
        equal = int(np.count_nonzero(good & (template.image == science.image)))
        share = equal / max(usable, 1)
        if share > SAME:
            raise InputError(
                f"template and science are the same image: {share:.1%} of {usable} usable pixels are equal"
            )

    def _side(self, exposure: Exposure) -> Side:
        """Return usable arrays of one exposure and its seeing."""
        known = [name for name in self.config.bad_planes if name in exposure.mask.planes]
        bad = exposure.mask.any(*known) | ~np.isfinite(exposure.image) | ~np.isfinite(exposure.variance)
        bad |= ~(exposure.variance > 0)
        usable = 1 - bad.mean()
        if usable < 0.02:  # less than one row in fifty leaves nothing to fit
            raise AlgorithmError(
                "almost all pixels are unusable",
                numbers={
                    "usable_fraction": float(usable), "finite_fraction": float(np.isfinite(exposure.image).mean()),
                    "positive_variance_fraction": float((exposure.variance > 0).mean()),
                },
            )  # fmt: skip
        image = np.where(bad, np.float32(0), exposure.image)
        fill = np.float32(np.median(exposure.image[::3, ::3][~bad[::3, ::3]]))
        image[bad] = fill
        variance = np.where(bad, np.float32(np.median(exposure.variance[~bad][::7])), exposure.variance)
        seeing = self._seeing(image, variance, bad)
        return Side(image, variance, bad, seeing)

    def _hidden(self, side: Side, exposure: Exposure, exclude: tuple[Array, ...] | None) -> Side:
        """Return a side whose pixels around given positions the fit does not see."""
        if exclude is None:
            return side
        x, y, *given = (np.atleast_1d(np.asarray(values, np.float64)) for values in exclude)
        near = 2 * (self.config.psf_fwhm or 2.355 * side.seeing.sigma)
        radius = given[0] if given else np.full(len(x), near)
        return replace(side, hidden=discs(exposure.box, x, y, radius))

    def _seeing(self, image: Array, variance: Array, bad: Array) -> Seeing:
        given, small = self.config.psf_fwhm, min(image.shape) < SMALL
        try:
            found = measure_seeing(image, variance, bad)
            if given is None or not small or found.stars >= FEWEST_STARS:
                return found
        except AlgorithmError:
            if given is None and small:
                return faint_seeing(image, variance, bad)
            if given is None:
                raise
        sigma = given / 2.355
        return Seeing(sigma, GaussianPsf(sigma, 51).kernel_at(0.0, 0.0), 0)

    def _is_cutout(self, sides: dict[str, Side]) -> bool:
        """Tell whether the images hold few stamps: all their pixels are fitted, without those that changed."""
        half = self._half_width(*sides.values())
        stamp = self.config.stamp_half_width or int(1.5 * half)
        return bool(min(sides["science"].bad.shape) < 2 * (2 * stamp + 2 * half + 1))

    def _direction(self, sides: dict[str, Side], cutout: bool) -> str:
        if self.config.direction != "auto":
            return str(self.config.direction)
        if cutout and min(side.seeing.stars for side in sides.values()) < FEWEST_STARS:
            return "template"  # what is new is only in the science image
        return "template" if sides["template"].seeing.sigma <= sides["science"].seeing.sigma else "science"

    def _needs_whitening(self, fit: KernelFit, reference: Side, target: Side, box: Box) -> bool:
        mode, limit = self.config.decorrelate, self.config.decorrelate_limit
        if mode != "auto":
            return mode == "always"
        return abs(score_excess(fit.kernel, reference, target, box) - 1) > limit

    def _half_width(self, reference: Side, target: Side) -> int:
        """Return the half width of the kernel core."""
        broad = max(reference.seeing.sigma, target.seeing.sigma)
        half = self.config.kernel_half_width or int(np.clip(np.ceil(2.4 * 2.355 * broad), 7, 15))
        half = min(half, (min(reference.image.shape) - 12) // 4)
        if half < 2:
            raise AlgorithmError(
                "the image is too small for a matching kernel",
                numbers={"height": reference.image.shape[0], "width": reference.image.shape[1]},
            )
        return half

    def _fit_cutout(self, reference: Side, target: Side, box: Box) -> tuple[Side, Side, CutoutFit]:
        """Fit all pixels of a cutout; return both images with the noise that they have, what changed hidden."""
        config = self.config
        half = min(self._half_width(reference, target), max(4, min(box.shape) // 9))
        bases = self._bases(reference, target, config.kernel_half_width or half)
        basis = next(iter(bases.values()))
        if basis.offsets is not None:
            basis = gaussian_basis(half, self._widths(reference, target), [2, 2, 2])
        found = fit_cutout(
            reference, target, basis, box, match_sigma=_match_sigma(reference, target), few_stars=FEWEST_STARS,
            fixed_seeing=config.psf_fwhm is not None,
        )  # fmt: skip
        self.metadata["changed_pixels"] = int(found.changed.sum())
        self.metadata["variance_scale"] = found.variance_scale
        reference = replace(reference, variance=reference.variance * np.float32(found.variance_scale))
        target = replace(
            target,
            variance=target.variance * np.float32(found.variance_scale),
            hidden=target.unfit | found.changed,
        )
        if config.basis != "gaussian":
            _, fit = self._fit(reference, target, box, None, found.stamps, bases=bases)
            found = replace(found, fit=fit)
        return reference, replace(target, seeing=found.seeing), found

    def _widths(self, reference: Side, target: Side) -> list[float]:
        """Return the widths of the Gaussians; the narrowest when an image has no star."""
        seeings = (reference.seeing, target.seeing)
        known = min(s.stars for s in seeings) > 0
        return matching_widths(*(s.sigma if known else 1.0 for s in seeings)).tolist()

    def _bases(self, reference: Side, target: Side, half: int) -> dict[str, KernelBasis]:
        """Return the bases to try, the largest first."""
        config = self.config
        sigmas = config.sigmas or self._widths(reference, target)
        halves = [half]
        if config.basis == "auto" and config.kernel_half_width is None:
            halves = sorted({max(2, round(f * half)) for f in (1.0, 0.8, 0.6)}, reverse=True)
        bases = {f"gaussian, half width {h}": gaussian_basis(h, sigmas, config.degrees) for h in halves}
        pixels = {f"delta, half width {min(half, 7)}": delta_basis(min(half, 7))}
        return {"gaussian": bases, "delta": pixels, "auto": bases | pixels}[config.basis]

    def _fit(
        self,
        reference: Side,
        target: Side,
        box: Box,
        positions: tuple[Array, Array] | None,
        stamps: StampSet | None = None,
        prefilter: Array | None = None,
        bases: dict[str, KernelBasis] | None = None,
    ) -> tuple[StampSet, KernelFit]:
        """Fit the kernel; with a prefilter, on images filtered so that their difference is white."""
        config = self.config
        bases = bases or self._bases(reference, target, self._half_width(reference, target))
        basis = next(iter(bases.values()))
        half = config.stamp_half_width or int(1.5 * basis.half_width)
        bad = reference.unfit | target.unfit
        if stamps is not None:
            pass
        elif positions is None:
            stamps = choose_stamps(
                reference.image, target.image, bad, target.variance, half_width=half,
                margin=basis.half_width, per_cell=config.stamps_per_cell, threshold=config.stamp_threshold,
                minimum=config.minimum_stamps,
            )  # fmt: skip
        else:
            x, y = np.asarray(positions[0]) - box.x0, np.asarray(positions[1]) - box.y0
            stamps = stamps_at(x, y, reference.image.shape, half_width=half, margin=basis.half_width)
        match = _match_sigma(reference, target) if prefilter is None else None
        scale = flux_ratio(reference, target)
        keywords = {"clip": config.clip, "minimum": min(config.minimum_stamps, max(len(stamps), 1))}
        if len(stamps) < config.minimum_stamps and len(stamps) != 1:
            raise AlgorithmError(
                "too few stamps for a kernel fit",
                numbers={"stamps": len(stamps), "needed": config.minimum_stamps},
            )

        reach = max(1, basis.half_width // 2)

        def fit(basis: KernelBasis, noise_correction: float | None, reach: int) -> KernelFit:
            system = build_stamp_system(
                reference.image, target.image, reference.variance, target.variance, reference.bad, target.unfit,
                stamps, basis, match_sigma=match, scale=scale, origin=(box.x0, box.y0), prefilter=prefilter,
                noise_correction=noise_correction, reach=reach,
            )  # fmt: skip
            return self._solve(system, basis, box, keywords)

        # with few faint stamps the matrix without its noise part is not positive; scattered bad pixels of the reference
        # leave nothing of the stamps when all that they reach is left out
        attempts = ((None, reach), (0.0, reach), (None, 1))
        fits = {name: _first_that_works(fit, candidate, attempts) for name, candidate in bases.items()}
        return stamps, best_basis(fits)

    def _fit_white(
        self,
        reference: Side,
        target: Side,
        box: Box,
        positions: tuple[Array, Array] | None,
        stamps: StampSet,
        fit: KernelFit,
    ) -> tuple[StampSet, KernelFit]:
        """Fit again on images filtered so that their difference is white; they live no longer than this."""
        (white, white_target), central = prefiltered(reference, target, fit, box)
        return self._fit(white, white_target, box, positions, stamps, central)

    def _solve(
        self, system: StampSystem, basis: KernelBasis, box: Box, keywords: dict[str, Any]
    ) -> KernelFit:
        """Fit a model of given orders, or choose the orders."""
        config = self.config
        pixels = basis.offsets is not None
        if config.kernel_order is not None and config.sum_order is not None and not pixels:
            model = KernelModel(
                basis, SpatialTerms(box, config.kernel_order, config.family),
                SpatialTerms(box, config.sum_order, config.family), np.arange(len(basis)),
            )  # fmt: skip
            return fit_kernel(system, model, **keywords)
        if pixels:
            form = roughness(basis)
            keywords = {
                **keywords,
                "degrees": (int(basis.order.max()),),
                "penalties": [f * form for f in PENALTIES],
            }
        highest = 5 if not pixels else 3  # a delta basis has hundreds of images
        orders = range(highest) if config.kernel_order is None else (config.kernel_order,)
        sums = (0, 1, 2) if config.sum_order is None else (config.sum_order,)
        return fit_selected_kernel(
            system, basis, box, orders=orders, sum_orders=sums, family=config.family, **keywords
        )

    def _subtract(self, reference: Side, target: Side, fit: KernelFit, box: Box) -> dict[str, Any]:
        """Return target minus matched reference, its variance and unusable pixels, background and wings."""
        config = self.config
        # the kernel is interpolated: a sky of many times its noise would show the error of the sum of its coefficients
        level = np.float32(np.median(reference.image[::3, ::3]))
        convolved = convolve_image(
            reference.image - level,
            fit.kernel,
            variance=reference.variance,
            bad=reference.bad,
            origin=(box.x0, box.y0),
        )
        difference, variance = subtract_convolved(convolved, target.image, target.variance)
        matched, lost = convolved.image, convolved.lost
        del convolved  # every plane of a large image counts
        bad = target.bad | reference.bad | (lost > config.lost_limit)
        order, family = config.background_order, config.family
        background = fit_differential_background(difference, variance, bad, box, order=order, family=family)
        wings = None
        if config.wings:
            flat = difference - background.field.image(box, np.float32)
            light = reference.ring_light(fit.kernel.half_width)
            wings = fit_wings(light, flat, variance, bad)
            del flat
        if wings is not None:
            faint = wings.image(light)
            matched += faint
            difference -= faint
            del faint
            background = fit_differential_background(
                difference, variance, bad, box, order=order, family=family
            )
        if config.background_mesh == "always" or (config.background_mesh == "auto" and order is None):
            cell = config.background_cell or max(32, round(8 * 2.355 * target.seeing.sigma))
            background = with_mesh(
                background,
                difference,
                variance,
                bad,
                box,
                cell=cell,
                forced=config.background_mesh == "always",
            )
        sky = background.field.image(box, np.float32)
        difference -= sky
        matched += sky
        without_level = replace(
            background, field=background.field + kernel_sum_field(fit.kernel) * -float(level)
        )
        return {
            "difference": difference, "variance": variance, "bad": bad, "lost": lost, "background": without_level,
            "wings": wings, "matched": matched,
        }  # fmt: skip

    def _finish(
        self, matched: dict[str, Any], reference: Side, target: Side, fit: KernelFit, box: Box, direction: str
    ) -> dict[str, Any]:
        """Whiten if needed, bring to the scale of the science image, and make the score image; the planes are taken."""
        difference, variance, bad = matched.pop("difference"), matched.pop("variance"), matched["bad"]
        psf, width, decorrelated = target.seeing.psf_image, 1.0, False
        if self._needs_whitening(fit, reference, target, box):
            difference, variance, psf = whitened(difference, bad, reference, target, fit.kernel, box, psf)
            decorrelated = True
        else:
            width = score_excess(fit.kernel, reference, target, box)
        if self.config.fit_error_modes:
            central = central_filter(fit.kernel, reference, target, box) if decorrelated else None
            variance = variance + fit_variance(
                reference.image, reference.bad, fit, box, modes=self.config.fit_error_modes, prefilter=central
            )
        wings = matched["wings"]
        extra = 0.0 if wings is None else wings.total
        scale = fit.kernel.sum_at(*box.center) + extra
        matched_template = matched["matched"]
        if direction == "science":
            total = np.asarray(kernel_sum_image(fit.kernel, box) + extra, np.float32)
            difference, variance = -difference / total, variance / total**2
            matched_template = reference.image - difference
        flux, score = matched_filter(difference, variance, bad, psf, width=width)
        score, excess = self._unit_width(score, bad)
        width *= excess
        return {
            "image": difference, "variance": variance, "bad": bad, "lost": matched["lost"], "score": score, "flux": flux,
            "psf": psf, "decorrelated": decorrelated, "matched_template": matched_template,
            "kernel_sum": float(scale), "kernel_sum_error": kernel_sum_error(fit, wings), "score_width": width,
        }  # fmt: skip

    def _unit_width(self, score: Array, bad: Array) -> tuple[Array, float]:
        """Return a score image divided by its width where correlated input noise makes it too wide, and the factor."""
        empirical = width_of_sky(score[::2, ::2][~bad[::2, ::2]])
        return (
            (score / np.float32(empirical), empirical)
            if empirical > self.config.score_limit
            else (score, 1.0)
        )

    def _product(self, reference: Side, target: Side) -> str:
        """Return the product that is asked for, or dual when neither PSF contains the other."""
        config = self.config
        if config.product != "auto":
            return str(config.product)
        seeings = (reference.seeing, target.seeing)
        if config.direction != "auto" or min(s.stars for s in seeings) < FEWEST_STARS:
            return "difference"
        factor = sharpening(*(s.psf_image for s in seeings))
        return "dual" if factor > 1 + config.sharpening_limit else "difference"

    def _blur(self, product: str, reference: Side, target: Side) -> Array | None:
        """Return what the target is convolved with before matching, or None."""
        if product == "preconvolved":
            return np.asarray(target.seeing.psf_image / target.seeing.psf_image.sum())
        if product == "dual":
            return common_blur(reference.seeing.psf_image, target.seeing.psf_image)
        return None

    def _filter(
        self, product: str, matched: dict[str, Any], reference: Side, target: Side, fit: KernelFit, box: Box, direction: str,
        original: tuple[Side, Array | None],
    ) -> dict[str, Any]:  # fmt: skip
        """Filter the difference of a blurred target, on the scale of the science image."""
        sharp, blur = original
        bad, wings = matched["bad"], matched["wings"]
        found = filter_difference(matched["difference"], bad, reference, sharp, fit.kernel, box, blur)
        image, variance, psf, flux, score = found.image, found.variance, found.psf, found.flux, found.score
        if product == "preconvolved":
            image, variance, psf = matched["difference"], matched["variance"], target.seeing.psf_image
        score, excess = self._unit_width(score, bad)
        extra = 0.0 if wings is None else wings.total
        scale = float(fit.kernel.sum_at(*box.center) + extra)
        if direction == "science":
            total = np.asarray(kernel_sum_image(fit.kernel, box) + extra, np.float32)
            image, variance, flux, score = -image / total, variance / total**2, -flux / total, -score
        return {
            "image": image, "variance": variance, "bad": bad, "lost": matched["lost"], "score": score, "flux": flux,
            "psf": psf, "decorrelated": product != "preconvolved",
            "matched_template": (reference.image if direction == "science" else target.image) - image, "kernel_sum": scale,
            "kernel_sum_error": kernel_sum_error(fit, wings), "score_width": excess,
        }  # fmt: skip

    def _record(
        self, fit: KernelFit, quality: DifferenceQuality, direction: str, products: dict[str, Any]
    ) -> None:
        self.metadata |= {
            "direction": direction, "kernel_sum": products["kernel_sum"], "decorrelated": products["decorrelated"],
            "score_width": products["score_width"],
            "stamps_used": int(fit.used.sum()), "stamps": len(fit.status), "condition": fit.condition,
        }  # fmt: skip
        self.log.info(
            "convolved the %s, kernel sum %.5f, %d of %d stamps, verdict: %s",
            direction, products["kernel_sum"], fit.used.sum(), len(fit.status), quality.verdict,
        )  # fmt: skip


def _first_that_works(
    fit: Callable[..., KernelFit], basis: KernelBasis, attempts: Sequence[tuple[Any, ...]]
) -> KernelFit:
    """Return the first fit that is not an error; the error of the first attempt when all are."""
    failures = []
    for attempt in attempts:
        try:
            return fit(basis, *attempt)
        except AlgorithmError as error:
            failures.append(error)
    raise failures[0]


def _match_sigma(reference: Side, target: Side) -> float:
    """Return the width of the Gaussian that is closest to the kernel."""
    return float(np.sqrt(max(target.seeing.sigma**2 - reference.seeing.sigma**2, 0.5)))


def _order(direction: str) -> tuple[str, str]:
    return ("template", "science") if direction == "template" else ("science", "template")
