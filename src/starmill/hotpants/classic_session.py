"""The steps of HOTPANTS by the method of the C program: its stamps, its unweighted fit, its block kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from starmill.differencing.block_subtract import kernel_image, subtract_in_blocks
from starmill.differencing.cell_stamps import CellSearch, cell_grid, find_cell_stamps
from starmill.differencing.kernel_basis import image_basis
from starmill.differencing.stamps import spread_mask
from starmill.differencing.unweighted_fit import (
    UnweightedProblem,
    direction_merit,
    fit_unweighted_kernel,
    local_coefficients,
    stamp_vectors_at,
)
from starmill.errors import AlgorithmError
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
    load_image,
    of_shape,
    raise_typed,
    refuse_unusable,
)  # fmt: skip
from starmill.hotpants.kernel_table import kernel_from_solution, program_basis
from starmill.hotpants.options import HotpantsError
from starmill.hotpants.session import Hotpants
from starmill.hotpants.statistics import program_touched_ratio
from starmill.hotpants.substamp import NOT_NEEDED, Substamp, SubstampStatus

if TYPE_CHECKING:
    from starmill.differencing.kernel_basis import KernelBasis


__all__ = ["ClassicHotpants"]

_OWN = {"t": 0x300, "i": 0xC00}  # bits of stamps and borders of the two searches
_BORDER = 0x500


@dataclass(frozen=True)
class _ClassicFit:
    """What the other steps need of a fit."""

    kernel: Any
    chi2: np.ndarray
    used: np.ndarray
    mean: float
    scatter: float
    final: tuple[float, float] | None = None


class ClassicHotpants(Hotpants):
    """A HOTPANTS run by the method of the C program; same steps and products as `Hotpants`."""

    def _prepare(
        self,
        data: NDArray[np.floating],
        mask: NDArray[np.integer] | None,
        error: NDArray[np.floating] | None,
        upper: float | None,
        lower: float | None,
        pedestal: float,
        gain: float,
        read_noise: float,
        name: str,
    ) -> dict[str, NDArray[Any]]:
        """Return pixels, variance and mask bits; bits of a mask are taken as they are, 0x80 is bad."""
        bits = np.zeros(data.shape, np.int32)
        if mask is not None:
            mask = of_shape(mask, data.shape, f"mask of the {name}")
            if mask.dtype.kind == "f":
                mask = np.where(np.isfinite(mask), mask, INPUT_BAD)
            bits |= mask.astype(np.int32)
            bits[mask != 0] |= EXTERNAL
        finite = np.isfinite(data)
        clean = np.where(finite, data, np.float32(0))
        bits[~finite] |= NOT_A_NUMBER | INPUT_BAD
        bits[data == np.float32(self.config.fillval)] |= FILL | INPUT_BAD
        if upper is not None:
            bits[finite & (data >= upper - pedestal)] |= SATURATED | INPUT_BAD
        if lower is not None:
            bits[finite & (data <= lower - pedestal)] |= LOW | INPUT_BAD
        if error is not None:
            error = np.asarray(of_shape(error, data.shape, f"noise of the {name}"), np.float64)
            known = np.isfinite(error) & (error > 0)
            bits[~known] |= NOT_A_NUMBER | INPUT_BAD
            variance = np.where(known, error, 0) ** 2
        else:
            variance = np.abs(clean.astype(np.float64)) / gain + (read_noise / gain) ** 2
        bad = (bits & INPUT_BAD) > 0
        refuse_unusable(bits, int(bad.sum()), bad.size, name)
        low, high = clean[~bad].min(), clean[~bad].max()
        if low == high:
            raise HotpantsError(f"the {name} does not vary: all its usable pixels are {low:g}")
        return {
            "data": clean.astype(np.float64),
            "variance": np.maximum(variance, 1e-12),
            "bits": bits,
            "bad": bad,
        }

    @property
    def _basis(self) -> KernelBasis:
        if self.config.use_pca and self.config.pca_images:
            return image_basis([load_image(image)[0] for image in self.config.pca_images])
        return program_basis(self.config)

    @raise_typed
    def find_stamps(self) -> tuple[list[Substamp], list[Substamp]]:
        """Find substamps on the template and on the image; see `Hotpants.find_stamps`."""
        config = self.config
        self.fit, self.conv_direction, self.results = None, None, {}
        directions = ("t", "i") if config.force_convolve == "b" else (config.force_convolve,)
        side, n_x, n_y = cell_grid(
            self.grid_shape or self.box.shape, (config.nregx, config.nregy), (config.nstampx, config.nstampy),
            kernel_half_width=self._basis.half_width, half_width=config.rss,
        )  # fmt: skip
        self._cells = self._search(directions, (side, n_x, n_y), config.fitthresh)
        shares = [len(self._cells[d]) / (n_x * n_y) for d in directions]
        if min(shares) < config.min_frac_stamps:
            lower = config.fitthresh * config.scale_fitthresh
            self._cells = self._search(directions, (side, n_x, n_y), lower)
        if not any(self._cells.values()):
            raise HotpantsError(
                f"no substamps: none of {n_x * n_y} cells of {side} pixels holds a clean object above "
                f"{config.fitthresh * config.scale_fitthresh:g} widths of the sky"
            )
        self._stamps = dict.fromkeys(directions)
        lists = {"t": [], "i": []}
        for direction in directions:
            for number, (_, stamps) in enumerate(self._cells[direction]):
                lists[direction] += [
                    self._substamp(len(lists[direction]) + k, number, *place)
                    for k, place in enumerate(stamps)
                ]
        self.template_substamps, self.image_substamps = lists["t"], lists["i"]
        return self.template_substamps, self.image_substamps

    def _search(
        self, directions: tuple[str, ...], grid: tuple[int, int, int], threshold: float
    ) -> dict[str, Any]:
        config = self.config
        mask = self._template["bits"] | self._image["bits"]
        spread = int(self._basis.half_width * config.kf_spread_mask1) // 2
        mask[spread_mask((mask & INPUT_BAD) > 0, spread) if spread > 0 else (mask & INPUT_BAD) > 0] |= TOUCHED
        margin = self._basis.half_width + config.rss
        if min(mask.shape) <= 2 * margin:
            raise HotpantsError(
                f"the image of {mask.shape} is too small for stamps of {2 * margin + 1} pixels"
            )
        border = np.ones(mask.shape, bool)
        border[margin:-margin, margin:-margin] = False
        mask[border] |= _BORDER
        listed = None if self.star_catalog is None else self.star_catalog - 1
        searches = []
        for direction in directions:
            image = self._template if direction == "t" else self._image
            upper, pedestal = self._kernel_limit(direction)
            limit = image["data"].max() + 1 if upper is None else upper - pedestal
            searches.append(CellSearch(image["data"], _OWN[direction], float(limit)))
        found = find_cell_stamps(
            searches, mask, grid, threshold=threshold, half_width=config.rss, kernel_half_width=self._basis.half_width,
            per_cell=config.nss, clip=config.stat_sig, listed=listed, fill=listed is None or bool(config.auto_fill),
        )  # fmt: skip
        return dict(zip(directions, found, strict=True))

    def _kernel_limit(self, direction: str) -> tuple[float, float]:
        """Return the upper count of kernel stars, that of valid pixels when not given, and the pedestal."""
        c = self.config
        if direction == "t":
            return (c.tuthresh if c.tuktresh is None else c.tuktresh), c.tpedestal
        return (c.iuthresh if c.iuktresh is None else c.iuktresh), c.ipedestal

    def _substamp(self, identity: int, cell: int, x: int, y: int) -> Substamp:
        r = self.config.rss
        part = np.s_[y - r : y + r + 1, x - r : x + r + 1]
        return Substamp(
            identity, cell, float(x), float(y), template_cutout=self._template["data"][part].copy(),
            image_cutout=self._image["data"][part].copy(),
            noise_variance_cutout=self._template["variance"][part] + self._image["variance"][part],
        )  # fmt: skip

    def _problem(self, direction: str) -> UnweightedProblem:
        reference, target = self._pair(direction)
        return UnweightedProblem(
            reference["data"], target["data"], reference["variance"] + target["variance"],
            ((reference["bits"] | target["bits"]) & INPUT_BAD) > 0, self._basis, self.config.rss, self.config.ko,
            self.config.bgo, self.config.stat_sig,
        )  # fmt: skip

    @raise_typed
    def fit_and_select_direction(self) -> str:
        """Choose the image to convolve; see `Hotpants.fit_and_select_direction`."""
        if not self._stamps:
            raise HotpantsError("find_stamps has not been run")
        for direction in self._stamps:
            problem = self._problem(direction)
            for substamp in self.substamps_of(direction):
                substamp.set_models(
                    lambda s, problem=problem: local_coefficients(problem, int(s.x), int(s.y)),
                    lambda s, problem=problem: stamp_vectors_at(problem, int(s.x), int(s.y)), direction,
                )  # fmt: skip
        if len(self._stamps) == 1:
            self.conv_direction = next(iter(self._stamps))
            for substamp in self.substamps_of(self.conv_direction):
                substamp.status = SubstampStatus.PASSED_FOM_CHECK
            return self.conv_direction
        merits = {}
        for direction in self._stamps:
            cells = [stamps for _, stamps in self._cells[direction]]
            try:
                merits[direction], sums, kept = direction_merit(
                    self._problem(direction), cells, reject=self.config.ks, merit=self.config.fom
                )
            except AlgorithmError:
                merits[direction] = np.inf
                continue
            for substamp in self.substamps_of(direction):
                good = kept[substamp.stamp_group_id]
                substamp.fom = float(sums[substamp.stamp_group_id])
                substamp.status = (
                    SubstampStatus.PASSED_FOM_CHECK if good else SubstampStatus.REJECTED_FOM_CHECK
                )
                substamp.reason = "" if good else f"kernel sum {substamp.fom:.4g} unlike the others"
        self.conv_direction = min(merits, key=lambda d: merits[d])
        if not np.isfinite(merits[self.conv_direction]):
            raise HotpantsError(
                f"no direction can be fitted ({ {d: len(c) for d, c in self._cells.items()} } cells)"
            )
        return self.conv_direction

    @raise_typed
    def iterative_fit_and_clip(self) -> tuple[NDArray[np.floating], list[Substamp]]:
        """Solve for the kernel; see `Hotpants.iterative_fit_and_clip`."""
        if self.conv_direction is None:
            raise HotpantsError("fit_and_select_direction has not been run")
        cells = [stamps for _, stamps in self._cells[self.conv_direction]]
        fit = fit_unweighted_kernel(
            self._problem(self.conv_direction), cells, reject=self.config.ks, merit=self.config.fom
        )
        self.kernel_solution = np.concatenate([[0.0], fit.solution])
        kernel, _ = kernel_from_solution(self.kernel_solution, self.config, self.box, self._basis)
        used = np.array([place >= 0 for place in fit.current])
        self.fit = _ClassicFit(kernel, fit.merits, used, fit.mean, fit.scatter)
        survivors = []
        for substamp in self.substamps_of(self.conv_direction):
            current, stamps = fit.current[substamp.stamp_group_id], cells[substamp.stamp_group_id]
            rank = stamps.index((substamp.x, substamp.y))
            place = rank == current
            substamp.status = (
                SubstampStatus.USED_IN_FINAL_FIT if place else SubstampStatus.REJECTED_ITERATIVE_FIT
            )
            tried = current < 0 or rank < current
            substamp.reason = "" if place else "residual" if tried else NOT_NEEDED
            substamp.global_coefficients = kernel.coefficients_at(substamp.x, substamp.y)
            if place:
                substamp.chi2 = float(fit.merits[substamp.stamp_group_id])
                survivors.append(substamp)
        return self.kernel_solution, survivors

    @raise_typed
    def convolve_and_difference(
        self,
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]:
        """Convolve in blocks and subtract; see `Hotpants.convolve_and_difference`."""
        if self.fit is None:
            raise HotpantsError("iterative_fit_and_clip has not been run")
        config, basis = self.config, self._basis
        reference, target = self._pair(self.conv_direction)
        problem = self._problem(self.conv_direction)
        solution = self.kernel_solution[1:]
        parts = subtract_in_blocks(
            problem, solution, (reference["variance"], target["variance"]), reference["bits"],
            step=config.kernel_step or basis.size, squared=not config.conv_var,
        )  # fmt: skip
        mask = reference["bits"] | target["bits"]
        lost = (parts.touched != 0) & (parts.good < config.kfm)
        mask[parts.touched != 0] |= TOUCHED
        mask[lost] ^= TOUCHED
        mask[lost] |= TOO_FEW_TAPS | UNUSABLE
        mask[(mask & INPUT_BAD) > 0] |= UNUSABLE
        h = basis.half_width
        border = np.ones(mask.shape, bool)
        border[h:-h, h:-h] = False
        mask[border] |= UNUSABLE
        sign = 1.0 if self.conv_direction == "t" else -1.0
        scale = self._normalisation()
        difference = (parts.difference * (sign / scale)).astype(np.float32)
        noise = (np.sqrt(parts.variance) / scale).astype(np.float32)
        return self._keep_results(
            difference, (parts.convolved / scale).astype(np.float32), noise, (mask & 0xFFFF).astype(np.uint16)
        )

    def _touched_ratio(
        self, difference: NDArray[np.floating], noise: NDArray[np.floating], mask: NDArray[np.integer]
    ) -> float:
        return program_touched_ratio(difference, noise, mask, self.config.stat_sig)

    def kernel_image(self, x: int, y: int) -> NDArray[np.floating]:
        """Return the kernel at a position, ``(k, k)``."""
        return kernel_image(self._problem(self.conv_direction), self.kernel_solution[1:], x, y)

    def with_kernel(
        self, solution: NDArray[np.floating], direction: str, merits: list[float] = (0.0, 0.0, 0.0, 0.0)
    ) -> None:
        """Put a known solution in place of a fit, with the figures of merit that are known of it."""
        kernel, _ = kernel_from_solution(solution, self.config, self.box, self._basis)
        self.kernel_solution, self.conv_direction = np.asarray(solution, np.float64), direction
        self.fit = _ClassicFit(kernel, np.ones(1), np.ones(1, bool), *merits[:2], tuple(merits[2:]))
