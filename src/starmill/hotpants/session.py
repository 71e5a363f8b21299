"""Difference imaging step by step, with the names of HOTPANTS."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box
from starmill.differencing.background import fit_differential_background
from starmill.differencing.convolve import repair_bad
from starmill.differencing.flags import FlaggedPixels, FlagList, flag_plane
from starmill.differencing.kernel_basis import KernelBasis, gaussian_basis, image_basis
from starmill.differencing.kernel_fit import KernelModel, fit_kernel
from starmill.differencing.noise import PoissonVariance
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.differencing.stamp_system import StampSystem, build_stamp_system, convolve_with_basis
from starmill.differencing.stamps import StampSet, choose_stamps, spread_mask, stamps_at
from starmill.differencing.subtract import BAND, subtract_matched
from starmill.errors import StarmillError
from starmill.hotpants.inputs import (
    EXTERNAL,
    FILL,
    INPUT_BAD,
    LOW,
    NOT_A_NUMBER,
    SATURATED,
    TOO_FEW_TAPS,
    TOUCHED,
    UNUSABLE,
    check_catalog,
    load_image,
    minus,
    of_shape,
    raise_typed,
    refuse_unusable,
)  # fmt: skip
from starmill.hotpants.options import HotpantsConfig, HotpantsError
from starmill.hotpants.statistics import difference_statistics, scale_touched, touched_ratio
from starmill.hotpants.substamp import Substamp, SubstampStatus
from starmill.kernels.kernel_convolution import mark_squares
from starmill.kernels.pixel_limits import classify_pixels, finish_difference
from starmill.numerics.tiles import map_tiles, row_bands

__all__ = ["Hotpants"]

Float = NDArray[np.floating]
Int = NDArray[np.integer]


class Hotpants:
    """The central object of a HOTPANTS run: inputs, settings and intermediate results.

    Parameters
    ----------
    template_data, image_data : (ny, nx) array or path
        Same shape.
    t_mask, i_mask : (ny, nx) int array, optional
        Any value that is not zero is bad.
    t_error, i_error : (ny, nx) array, optional
        1-sigma noise; from gain and read noise when not given.
    star_catalog : (n, 2) array, optional
        Stamp centres x, y, 1-based as in FITS.
    config : HotpantsConfig, optional
    output_header : header, optional
        Copied to the files that are written.

    Notes
    -----
    With ``config.classic`` the object is a `ClassicHotpants`: the method of the C program.
    """

    def __new__(cls, *arguments, config: HotpantsConfig | None = None, **_keywords) -> Self:
        """Choose the method that the configuration names."""
        config = arguments[7] if len(arguments) > 7 else config
        if cls is Hotpants and config is not None and config.classic:
            from starmill.hotpants.classic_session import ClassicHotpants

            return object.__new__(ClassicHotpants)
        return object.__new__(cls)

    def __init__(
        self,
        template_data: Float | str | Path,
        image_data: Float | str | Path,
        t_mask: Int | None = None,
        i_mask: Int | None = None,
        t_error: Float | None = None,
        i_error: Float | None = None,
        star_catalog: Float | Sequence[Sequence[float]] | None = None,
        config: HotpantsConfig | None = None,
        output_header: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config or HotpantsConfig()
        self.grid_shape: tuple[int, int] | None = None  # of the whole image, when this is one of its regions
        template, _ = load_image(template_data)
        image, image_header = load_image(image_data)
        self.output_header = output_header if output_header is not None else image_header
        self.template_data, self.image_data = template, image
        if template.shape != image.shape:
            raise HotpantsError(
                f"template and image have different shapes: {template.shape} and {image.shape}"
            )
        self.star_catalog = check_catalog(star_catalog)
        limits = self.config
        self._template = self._prepare(
            minus(template, limits.tpedestal, limits.overwrite_inputs), t_mask, t_error, limits.tuthresh,
            limits.tlthresh, limits.tpedestal, limits.tgain, limits.trdnoise, "template",
        )  # fmt: skip
        self._image = self._prepare(
            minus(image, limits.ipedestal, limits.overwrite_inputs), i_mask, i_error, limits.iuthresh,
            limits.ilthresh, limits.ipedestal, limits.igain, limits.irdnoise, "image",
        )  # fmt: skip
        self.box = Box.from_shape(image.shape)
        self.template_substamps: list[Substamp] = []
        self.image_substamps: list[Substamp] = []
        self.conv_direction: str | None = None
        self.kernel_solution: np.ndarray | None = None
        self.fit = None
        self.background = None
        self.results: dict[str, Any] = {}
        self.touched_scale: float | None = None  # what the noise of touched pixels was multiplied by
        self._hidden: tuple[Any, ...] | None = None
        self._systems: dict[str, Any] = {}
        self._stamps: dict[str, StampSet] = {}

    def _prepare(
        self,
        data: Float,
        mask: NDArray[Any] | None,
        error: Float | None,
        upper: float | None,
        lower: float | None,
        pedestal: float,
        gain: float,
        read_noise: float,
        name: str,
    ) -> dict[str, Any]:
        """Return pixels, variance, mask bits and bad pixels of one image."""
        if mask is not None:
            mask = of_shape(mask, data.shape, f"mask of the {name}")
        variance = PoissonVariance(data, gain, max((read_noise / gain) ** 2, 1e-12))
        if error is not None:
            error = np.asarray(of_shape(error, data.shape, f"noise of the {name}"), np.float32)
            variance = np.where(np.isfinite(error) & (error > 0), error, np.float32(0))
            np.square(variance, out=variance)
        codes = np.array([FILL, SATURATED, LOW, NOT_A_NUMBER], np.uint8) | np.uint8(INPUT_BAD)
        high, low = (np.inf if upper is None else upper), (-np.inf if lower is None else lower)

        def classify(ends: tuple[int, int]) -> tuple[FlagList, int, int]:
            rows = slice(*ends)
            flags = np.zeros((ends[1] - ends[0], data.shape[1]), np.uint8)
            if error is not None:
                flags[~(variance[rows] > 0)] = INPUT_BAD
            if mask is not None:
                flags[mask[rows] != 0] = EXTERNAL | INPUT_BAD
            n_bad, n_not_finite = classify_pixels(
                data[rows], high - pedestal, low - pedestal, np.float32(self.config.fillval), codes, flags
            )
            return FlagList([flags], data.shape[1]), n_bad, n_not_finite

        parts, *counts = zip(*map_tiles(classify, row_bands(len(data), BAND)), strict=True)
        bits, (n_bad, n_not_finite) = flag_plane(parts), np.sum(counts, axis=1)
        refuse_unusable(bits, n_bad, data.size, name)
        if n_not_finite:
            data = repair_bad(data, bits[:] > 0)
        return {"data": data, "variance": variance, "bits": bits, "bad": FlaggedPixels(bits)}

    @functools.cached_property
    def _basis(self) -> KernelBasis:
        if self.config.use_pca and self.config.pca_images:
            return image_basis([load_image(image)[0] for image in self.config.pca_images])
        return gaussian_basis(self.config.rkernel, self.config.sigma_gauss, self.config.deg_fixe)

    def _pair(self, direction: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the image that is convolved and the other one."""
        if self._template["data"] is None or self._image["data"] is None:
            raise HotpantsError(
                "the difference was written over an input (overwrite_inputs): no step can run again"
            )
        return (self._template, self._image) if direction == "t" else (self._image, self._template)

    @raise_typed
    def find_stamps(self) -> tuple[list[Substamp], list[Substamp]]:
        """Find substamps on the template and on the image.

        Returns
        -------
        template_substamps, image_substamps : lists of Substamp
        """
        self._systems.clear()
        self.fit, self.conv_direction, self.results = None, None, {}
        directions = ("t", "i") if self.config.force_convolve == "b" else (self.config.force_convolve,)
        found: dict[str, list[Substamp]] = {"t": [], "i": []}
        for direction in directions:
            self._stamps[direction] = self._find(direction)
            found[direction] = self._substamps(self._stamps[direction])
        self.template_substamps, self.image_substamps = found["t"], found["i"]
        return self.template_substamps, self.image_substamps

    def _find(self, direction: str) -> StampSet:
        config = self.config
        margin = self._basis.half_width
        shape = self.box.shape
        if self.star_catalog is not None:
            x, y = self.star_catalog.T - 1
            listed = stamps_at(x, y, shape, half_width=config.rss, margin=margin)
            if len(listed) == 0 and not config.auto_fill:
                raise HotpantsError(
                    f"none of the {len(x)} listed stars is far enough from the edges of {shape}"
                )
            return self._filled(listed, direction) if config.auto_fill else listed
        return self._searched(direction, None)

    def _filled(self, listed: StampSet, direction: str) -> StampSet:
        """Return the listed stamps and those that a search finds away from them."""
        taken = np.zeros(self.box.shape, bool)
        mark_squares(listed.x.astype(np.int64), listed.y.astype(np.int64), self.config.rss, taken)
        try:
            found = self._searched(direction, taken)
        except StarmillError:
            if len(listed):
                return listed
            raise
        parts = [
            listed,
            replace(found, cell=found.cell + listed.n_cells, n_cells=found.n_cells + listed.n_cells),
        ]
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("x", "y", "cell", "signal_to_noise")
        }
        return replace(parts[1], **joined)

    def _searched(self, direction: str, taken: NDArray[np.bool_] | None) -> StampSet:
        """Return stamps around bright objects outside pixels that are taken."""
        config = self.config
        reference, target = self._pair(direction)
        margin = self._basis.half_width
        shape = target["data"].shape
        bad = np.empty(shape, bool)
        limits = (
            (self._template, config.tuktresh, config.tpedestal), (self._image, config.iuktresh, config.ipedestal)
        )  # fmt: skip

        def collect(ends: tuple[int, int]) -> None:
            rows = slice(*ends)
            np.not_equal(reference["bits"][rows] | target["bits"][rows], 0, out=bad[rows])
            if taken is not None:
                bad[rows] |= taken[rows]
            for image, upper, pedestal in limits:
                if upper is not None:
                    bad[rows] |= image["data"][rows] >= upper - pedestal

        map_tiles(collect, row_bands(shape[0], BAND))
        spread = int(config.rkernel * config.kf_spread_mask1) // 2
        search = spread_mask(bad, spread) if spread > 0 else bad
        whole = self.grid_shape or shape
        cell = max(whole) // max(config.nstampx * config.nregx, config.nstampy * config.nregy)
        keywords = {
            "half_width": config.rss, "margin": margin, "per_cell": config.nss, "cell_size": max(cell, 2 * config.rss + 1)
        }  # fmt: skip
        noise = target["variance"]
        stamps = choose_stamps(
            reference["data"],
            target["data"],
            search,
            noise,
            threshold=config.fitthresh,
            minimum=0,
            **keywords,
        )
        if len(np.unique(stamps.cell)) < config.min_frac_stamps * stamps.n_cells:
            lower = config.fitthresh * config.scale_fitthresh
            stamps = choose_stamps(
                reference["data"], target["data"], search, noise, threshold=lower, **keywords
            )
        return stamps

    def _substamps(self, stamps: StampSet) -> list[Substamp]:
        out = []
        for i, (x, y) in enumerate(zip(stamps.x, stamps.y, strict=True)):
            part = np.s_[
                y - stamps.half_width : y + stamps.half_width + 1,
                x - stamps.half_width : x + stamps.half_width + 1,
            ]
            out.append(
                Substamp(
                    i,
                    int(stamps.cell[i]),
                    float(x),
                    float(y),
                    template_cutout=self._template["data"][part].copy(),
                    image_cutout=self._image["data"][part].copy(),
                    noise_variance_cutout=self._template["variance"][part] + self._image["variance"][part],
                )
            )
        return out

    def substamps_of(self, direction: str) -> list[Substamp]:
        """Return the substamps of one direction, 't' or 'i'."""
        return self.template_substamps if direction == "t" else self.image_substamps

    @raise_typed
    def fit_and_select_direction(self) -> str:
        """Fit every substamp alone, reject bad ones, and choose the image to convolve.

        Returns
        -------
        direction : str
            't' or 'i'.
        """
        if not self._stamps:
            raise HotpantsError("find_stamps has not been run")
        merits = {}
        for direction in self._stamps:
            system = self._system(direction)
            merits[direction] = self._check(direction, system)
        self.conv_direction = min(merits, key=lambda d: merits[d])
        self._systems = {d: system for d, system in self._systems.items() if d == self.conv_direction}
        if not np.isfinite(merits[self.conv_direction]):
            raise HotpantsError(
                f"no substamp passes the figure-of-merit check ({ {d: len(s) for d, s in self._stamps.items()} })"
            )
        return self.conv_direction

    def _system(self, direction: str) -> StampSystem:
        if direction not in self._systems:
            reference, target = self._pair(direction)
            self._systems[direction] = build_stamp_system(
                reference["data"], target["data"], reference["variance"], target["variance"], reference["bad"],
                target["bad"], self._stamps[direction], self._basis, match_sigma=float(self.config.sigma_gauss[0] + 0.5),
                scale=1.0, noise_correction=0.0,
            )  # fmt: skip
        return self._systems[direction]

    def _check(self, direction: str, system: StampSystem) -> float:
        """Set figure of merit, local model and status of the substamps; return the merit of the direction."""
        reference, _ = self._pair(direction)
        n = system.matrix.shape[-1]
        ridge = 1e-8 * np.trace(system.matrix, axis1=1, axis2=2) / n
        local = np.linalg.solve(system.matrix + ridge[:, None, None] * np.eye(n), system.vector[..., None])[
            ..., 0
        ]
        curved = np.einsum("si,si->s", local, np.matmul(system.matrix, local[..., None])[..., 0])
        chi2 = system.target_power - 2 * np.einsum("si,si->s", local, system.vector) + curved
        values = chi2 / np.maximum(system.pixels - 1, 1) / np.maximum(np.abs(local[:, 0]), 1e-6)
        for substamp, own, value in zip(self.substamps_of(direction), local, values, strict=True):
            substamp.set_models(own, functools.partial(self._basis_vectors, reference), direction)
            substamp.fom = float(value)
        finite = np.isfinite(values) & (system.pixels > 50)
        if not finite.any():
            return np.inf
        middle = np.median(values[finite])
        spread = max(1.4826 * np.median(np.abs(values[finite] - middle)), 1e-3 * abs(middle))
        passed = finite & (values - middle < 2 * self.config.ks * self.config.stat_sig * spread)
        for substamp, good in zip(self.substamps_of(direction), passed, strict=True):
            substamp.status = SubstampStatus.PASSED_FOM_CHECK if good else SubstampStatus.REJECTED_FOM_CHECK
            substamp.reason = "" if good else "figure of merit"
        kept = values[passed]
        return {
            "v": float(np.mean(kept)),
            "s": float(np.std(kept)),
            "h": float(np.subtract(*np.percentile(kept, [75, 25]))),
        }[self.config.fom]

    def _basis_vectors(self, side: dict[str, Any], substamp: Substamp) -> Float:
        """Return the cutout of an image at a substamp convolved with every basis image."""
        data = side["data"]
        if data is None:
            raise HotpantsError("the pixels below the substamps are gone (overwrite_inputs)")
        reach = self.config.rss + self._basis.half_width
        x, y = int(substamp.x), int(substamp.y)
        cut = data[y - reach : y + reach + 1, x - reach : x + reach + 1]
        return convolve_with_basis(cut - np.median(cut), self._basis)

    @raise_typed
    def iterative_fit_and_clip(self) -> tuple[Float, list[Substamp]]:
        """Solve for the kernel of the whole image, clipping substamps that do not agree.

        Returns
        -------
        kernel_solution : 1-D array
            In the order of the kernel table of the C program.
        used : list of Substamp
        """
        if self.conv_direction is None:
            raise HotpantsError("fit_and_select_direction has not been run")
        config, substamps = self.config, self.substamps_of(self.conv_direction)
        passed = np.array([s.status is not SubstampStatus.REJECTED_FOM_CHECK for s in substamps])
        system = self._system(self.conv_direction).select(passed)
        basis = self._basis
        model = KernelModel(
            basis,
            SpatialTerms(self.box, config.ko, "polynomial"),
            SpatialTerms(self.box, 0, "polynomial"),
            np.arange(len(basis)),
        )
        needed = max(int(np.ceil(len(model.columns[0]) / 200)) + 1, (config.ko + 1) * (config.ko + 2) // 2)
        self.fit = fit_kernel(system, model, clip=max(config.ks, 1.0) * 1.5, minimum=needed)
        survivors, kept = [], (s for s, good in zip(substamps, passed, strict=True) if good)
        for substamp, status, chi2 in zip(kept, self.fit.status, self.fit.chi2, strict=True):
            used = status == "used"
            substamp.status = (
                SubstampStatus.USED_IN_FINAL_FIT if used else SubstampStatus.REJECTED_ITERATIVE_FIT
            )
            substamp.reason, substamp.chi2 = ("" if used else str(status)), float(chi2)
            substamp.global_coefficients = self.fit.kernel.coefficients_at(substamp.x, substamp.y)
            survivors += [substamp] if used else []
        from starmill.hotpants.kernel_table import solution_vector

        self.kernel_solution = solution_vector(self.fit.kernel, basis, config, None)
        return self.kernel_solution, survivors

    @raise_typed
    def convolve_and_difference(self) -> tuple[Float, Float | None, Float, Int]:
        """Convolve, subtract, and make the noise image and the mask.

        Returns
        -------
        diff_image : (ny, nx) float32 array
            Science minus template, positive for new sources in both directions, on the scale of ``normalize``.
        convolved_image, noise_image : (ny, nx) float32 arrays
            The convolved image is None without ``keep_convolved``.
        output_mask : (ny, nx) uint16 array
            Bits of the C program; 0x8000 is unusable.
        """
        if self.fit is None:
            raise HotpantsError("iterative_fit_and_clip has not been run")
        config, kernel = self.config, self.fit.kernel
        reference, target = self._pair(self.conv_direction)
        if config.overwrite_inputs:
            self._systems.clear()
        over = target["data"] if config.overwrite_inputs and target["data"].flags.carray else None
        subtracted = subtract_matched(
            reference["data"], target["data"], kernel, variances=(reference["variance"], target["variance"]),
            bad=(reference["bad"], target["bad"]), lost_limit=1 - config.kfm, squared=not config.conv_var,
            keep_convolved=config.keep_convolved, out=over,
        )  # fmt: skip
        known = getattr(self.fit, "background", None)
        self.background = known or fit_differential_background(
            subtracted.difference, subtracted.variance, subtracted.bad, self.box, order=config.bgo, family="polynomial"
        )  # fmt: skip
        scale = self._normalisation()
        factor, mask = (1.0 if self.conv_direction == "t" else -1.0) / scale, subtracted.status
        codes, none_kept = np.array([TOUCHED, TOO_FEW_TAPS, UNUSABLE], np.int32), np.empty((0, 0), np.float32)

        def finish(ends: tuple[int, int]) -> None:
            rows = slice(*ends)
            level = self.background.field.image(
                Box(0, ends[0], self.box.width, ends[1] - ends[0]), np.float32
            )
            finish_difference(
                none_kept if subtracted.convolved is None else subtracted.convolved[rows], level, reference["bits"][rows],
                target["bits"][rows], np.float32(factor), np.float32(1.0 / scale), codes,
                subtracted.difference[rows], subtracted.variance[rows], mask[rows],
            )  # fmt: skip

        map_tiles(finish, row_bands(len(mask), BAND))
        if over is not None:
            target["data"] = reference["data"] = reference["variance"] = target["variance"] = None
            self.template_data = self.image_data = None
        difference, noise = subtracted.difference, subtracted.variance
        return self._keep_results(difference, subtracted.convolved, noise, mask)

    def _keep_results(
        self, difference: Float, convolved: Float | None, noise: Float, mask: Int
    ) -> tuple[Float, Float | None, Float, Int]:
        """Keep the four planes, with the noise of touched pixels scaled when that is asked for, and return them."""
        if self.config.conv_var:  # a kernel that is negative somewhere can make a variance that is none
            mask[~(noise > 0)] |= UNUSABLE
        self.touched_scale = self._touched_ratio(difference, noise, mask) if self.config.rescale_ok else None
        scale_touched(noise, mask, self.touched_scale or 1.0)
        self._hidden = None
        self.results = {
            "diff_image": difference, "convolved_image": convolved, "noise_image": noise, "output_mask": mask
        }  # fmt: skip
        return tuple(self.results.values())

    def _touched_ratio(self, difference: Float, noise: Float, mask: Int) -> float:
        return touched_ratio(difference, noise, mask)

    def _normalisation(self) -> float:
        """Return the number that the difference is divided by."""
        return self.kernel_sum if self.config.normalize == self.conv_direction else 1.0

    @property
    def kernel_sum(self) -> float:
        """The kernel sum at the centre of the image."""
        if self.fit is None:
            raise HotpantsError("iterative_fit_and_clip has not been run")
        return float(self.fit.kernel.sum_at(*self.box.center))

    @raise_typed
    def get_final_outputs(self) -> dict[str, Any]:
        """Fill unusable pixels, measure statistics, and return all products.

        Returns
        -------
        products : dict
            ``diff_image``, ``convolved_image``, ``noise_image``, ``output_mask``, ``stats``, ``conv_direction``,
            ``kernel_solution``, ``fit_stats``.
        """
        if not self.results:
            raise HotpantsError("convolve_and_difference has not been run")
        config, mask = self.config, self.results["output_mask"]
        difference, noise = self.results["diff_image"], self.results["noise_image"]
        if self._hidden is None:
            where = self._unusable()
            if len(where) == mask.size:
                raise HotpantsError("no pixel of the difference is usable (all are flagged)")
            self._hidden = (where, difference.flat[where], noise.flat[where])
            difference.flat[where], noise.flat[where] = config.fillval, config.fillval_noise
        stats = difference_statistics(difference, noise, mask, config.stat_sig)
        used = self.fit.chi2[self.fit.used]
        fit_stats = {"meansig": float(used.mean()), "scatter": float(used.std())}
        return {
            "diff_image": difference, "convolved_image": self.results["convolved_image"], "noise_image": noise,
            "output_mask": mask, "stats": stats, "conv_direction": self.conv_direction,
            "kernel_solution": self.kernel_solution, "fit_stats": fit_stats,
        }  # fmt: skip

    def _unusable(self) -> Int:
        """Return the flat indices of unusable pixels, ``(n,)``."""
        mask = self.results["output_mask"]

        def find(ends: tuple[int, int]) -> Int:
            return np.flatnonzero(mask[slice(*ends)] & UNUSABLE) + ends[0] * mask.shape[1]

        return np.concatenate(map_tiles(find, row_bands(len(mask), BAND)))

    def unfilled(self) -> dict[str, Float]:
        """Return ``diff_image`` and ``noise_image`` with the values that fill values replaced, as a dict."""
        out = {name: self.results[name].copy() for name in ("diff_image", "noise_image")}
        if self._hidden is not None:
            out["diff_image"].flat[self._hidden[0]] = self._hidden[1]
            out["noise_image"].flat[self._hidden[0]] = self._hidden[2]
        return out

    def get_substamp_details(self) -> dict[str, Any]:
        """Return the lists of all substamps: ``template_substamps``, ``image_substamps``, ``final_fit_locations``."""
        used = [
            s
            for s in self.template_substamps + self.image_substamps
            if s.status is SubstampStatus.USED_IN_FINAL_FIT
        ]
        return {
            "template_substamps": self.template_substamps, "image_substamps": self.image_substamps,
            "final_fit_locations": [(s.x, s.y) for s in used],
        }  # fmt: skip

    def run_pipeline(self) -> dict[str, Any]:
        """Run all steps, save the files that the configuration names, and return all products."""
        self.find_stamps()
        self.fit_and_select_direction()
        self.iterative_fit_and_clip()
        self.convolve_and_difference()
        products = self.get_final_outputs()
        self.save_outputs()
        return products

    def save_outputs(self) -> None:
        """Write the files that the configuration names."""
        from starmill.hotpants.products import write_products

        write_products(self)

    def visualize_kernel(self, at_coords: tuple[int, int], size_factor: float = 2.0) -> Float:
        """Return the kernel at a position.

        Parameters
        ----------
        at_coords : (int, int)
            x, y, inside the image.
        size_factor : float
            Side of the image in kernel widths.

        Returns
        -------
        image : 2-D array
        """
        if self.fit is None:
            raise HotpantsError("the kernel has not been fitted")
        is_pair = isinstance(at_coords, tuple) and len(at_coords) == 2
        if not (is_pair and all(isinstance(c, int | np.integer) for c in at_coords)):
            raise TypeError(f"at_coords must be a tuple of two integers, not {at_coords!r}")
        if not (isinstance(size_factor, int | float) and 0 < size_factor < np.inf):
            raise ValueError(f"size_factor must be a positive number, not {size_factor!r}")
        if not self.box.contains(*at_coords):
            raise HotpantsError(f"{at_coords} is outside the image of {self.box.width} x {self.box.height}")
        kernel = self.fit.kernel.kernel_at(*at_coords)
        side = max(1, round(kernel.shape[0] * size_factor)) | 1
        margin = (side - kernel.shape[0]) // 2  # both are odd
        return np.pad(kernel, margin) if margin >= 0 else kernel[-margin:margin, -margin:margin].copy()
