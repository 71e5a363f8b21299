"""Compact-source photometry by the published rules of HYPER, for comparison with earlier work.

References
----------
Traficante et al. 2015, MNRAS 451, 3089.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from starmill.background.map_noise import global_rms
from starmill.background.polynomial import clip_values
from starmill.background.separate import BoxBackground, box_sizes, separate_background
from starmill.datamodel.cube import SkyMap
from starmill.detection.daofind import daofind_peaks
from starmill.detection.grouping import SourceGroups, group_sources
from starmill.detection.point_filters import box_high_pass, shoulder_scores, thin_pairs
from starmill.errors import AlgorithmError
from starmill.kernels.gaussian_windows import fit_listed
from starmill.measurement.elliptical_photometry import EllipseSums, enclosed_fraction, measure_ellipses
from starmill.measurement.gaussian_fit import LOSSES, GaussianFit
from starmill.measurement.neighbours import draw_sources
from starmill.numerics.tiles import map_tiles
from starmill.photocal.units import jansky_per_pixel_factor
from starmill.tasks.base import Result, Task
from starmill.tasks.compact_catalog import build_catalog, detection_catalog, shapes_in_pixels
from starmill.tasks.published_config import PublishedConfig

__all__ = ["PublishedPhotometryTask"]

FWHM_PER_SIGMA = 2.3548  # as published


@dataclass
class _GroupFit:
    """The fit of one group."""

    members: NDArray[np.int64]
    box: BoxBackground
    sources: NDArray[np.float64]
    polynomial: NDArray[np.float64]
    numbers: dict[str, float]


class PublishedPhotometryTask(Task):
    """Find, fit and measure sources as hyper-py 1.2.3 does.

    Differences: a group has at most ``max_group`` members; the source itself is left out of the model that is
    subtracted before its aperture is summed also when positions vary; errors are given as NaN where they are not defined.
    """

    Config = PublishedConfig
    default_name = "published_photometry"
    reads: ClassVar[dict[str, str]] = {"sky_map": "sky_map"}
    writes: ClassVar[dict[str, str]] = {"catalog": "compact_sources"}

    def run(
        self, *, sky_map: SkyMap, positions: NDArray[Any] | None = None, shapes: NDArray[Any] | None = None
    ) -> Result:
        """Photometer one map.

        Parameters
        ----------
        sky_map : SkyMap
        positions : (n, 2) array, pixel, optional
            Searched for when not given.
        shapes : (n, 3) array, optional
            FWHM 1, FWHM 2 (arcsec), position angle (degree) of fixed apertures.

        Returns
        -------
        result : Result
            As :class:`starmill.tasks.compact_sources.CompactSourcesTask` gives; the map unit is jansky per pixel.
        """
        image, factor, rms = self._prepare(sky_map)
        sigma = float(np.sqrt(np.prod(sky_map.beam_in_pixels()[:2])))
        with self.timer("detect"):
            x, y, score = self._detect(sky_map, image, rms, positions)
        link = 2.0 * FWHM_PER_SIGMA * sigma * self.config.max_size * self.config.aperture_ratio
        groups = group_sources(x, y, link, self.config.max_group)
        with self.timer("fit"):
            fits = map_tiles(
                lambda g: self._fit_group(image, x, y, groups[g], sigma, rms), range(len(groups))
            )
        with self.timer("photometry"):
            return self._measure(sky_map, image, fits, groups, score, rms, factor, shapes)

    def detect(self, *, sky_map: SkyMap) -> Result:
        """Find the peaks of a map and measure nothing."""
        image, _, rms = self._prepare(sky_map)
        x, y, score = self._detect(sky_map, image, rms, None)
        height = image[np.rint(y).astype(int), np.rint(x).astype(int)] - np.nanmean(image)
        return Result(catalog=detection_catalog(sky_map, x, y, height / rms, score))

    def _prepare(self, sky_map: SkyMap) -> tuple[NDArray[np.float64], float, float]:
        """Image in jansky per pixel, what a map unit is in it, and the global rms."""
        factor = jansky_per_pixel_factor(
            sky_map.unit,
            pixel_sr=sky_map.pixel_area,
            beam_sr=sky_map.beam.solid_angle,
            frequency_hz=sky_map.frequency,
        )
        image = np.asarray(sky_map.image, np.float64) * factor
        if not np.isfinite(image).any():
            raise AlgorithmError("the map has no valid pixel", numbers={"pixels": image.size, "valid": 0})
        sky_map.check_beam()
        return image, factor, self.config.rms or global_rms(image)

    def _detect(
        self, sky_map: SkyMap, image: NDArray[np.float64], rms: float, positions: NDArray[Any] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        config = self.config
        fwhm = FWHM_PER_SIGMA * float(np.sqrt(np.prod(sky_map.beam_in_pixels()[:2])))
        centred = image - np.nanmean(image)
        if positions is None:
            x, y = self._peaks(centred, image, fwhm, sky_map, rms)
        else:
            x, y = positions[:, 0], positions[:, 1]
        score = shoulder_scores(
            centred, x, y, fwhm, ring=config.shoulder_ring, n_angles=config.shoulder_angles,
            neighbour=config.shoulder_neighbour,
        )  # fmt: skip
        if config.shoulder_limit is not None and positions is None:
            keep = score <= config.shoulder_limit
            x, y, score = x[keep], y[keep], score[keep]
        return x, y, score

    def _peaks(
        self,
        centred: NDArray[np.float64],
        image: NDArray[np.float64],
        fwhm: float,
        sky_map: SkyMap,
        rms: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """High-pass filter, DAOFIND, snap to the brightest pixel, centroid of 3 x 3 pixels, threshold."""
        config = self.config
        size = config.kernel_size or int(fwhm) ** 2
        size = min(size, *image.shape)
        filtered = box_high_pass(image, size - 1 if size % 2 == 0 else size)
        positive = filtered[filtered > 0]
        positive = positive[clip_values(positive)]
        if positive.size == 0:
            return np.zeros(0), np.zeros(0)
        column, row = daofind_peaks(
            filtered, fwhm, 2.0 * positive.std(), sharpness=config.sharpness, roundness=config.roundness
        )
        pixel = float(np.sqrt(abs(np.linalg.det(sky_map.pixel_matrix()))))
        separation = config.min_separation / pixel if config.min_separation > 0 else fwhm
        margin = int(fwhm) * config.min_size

        def apart(px: NDArray[Any], py: NDArray[Any], height: NDArray[Any]) -> NDArray[np.bool_]:
            inside = (
                (px > margin)
                & (px < image.shape[1] - margin)
                & (py > margin)
                & (py < image.shape[0] - margin)
            )
            chosen = np.flatnonzero(inside)
            inside[chosen] = thin_pairs(px[chosen], py[chosen], height[chosen], separation)
            return inside

        height = filtered[row, column]
        keep = apart(column, row, height)
        x, y, height = column[keep].astype(float), row[keep].astype(float), height[keep]
        if config.snap_radius > 0:
            x, y, keep = _snap(centred, x, y, max(1, int(np.ceil(config.snap_radius))))
            x, y, height = x[keep], y[keep], height[keep]
            keep = apart(x, y, height)
            x, y = x[keep], y[keep]
        bright = centred[np.rint(y).astype(int), np.rint(x).astype(int)] >= config.threshold * rms
        return x[bright], y[bright]

    def _fit_group(
        self,
        image: NDArray[np.float64],
        x: NDArray[Any],
        y: NDArray[Any],
        members: NDArray[np.int64],
        sigma: float,
        rms: float,
    ) -> _GroupFit | None:
        """Background and Gaussians of one group; None when it has no data."""
        config = self.config
        extent = float(pdist(np.column_stack([x[members], y[members]])).max()) if members.size > 1 else 0.0
        whole = config.min_box == 0
        sizes = (
            []
            if whole
            else box_sizes(config.min_box, config.max_box, FWHM_PER_SIGMA * sigma, config.max_size, extent)
        )
        fitters = [
            (name, eps)
            for name in config.fitters
            for eps in (config.huber_epsilons if name == "huber" else (0.0,))
        ]
        options = {
            "beam_sigma": sigma, "max_size": config.max_size, "orders": config.separate_orders, "fitters": fitters,
            "score": config.score, "noise": rms if config.scoring == "same_pixels" else None,
        }  # fmt: skip
        candidates = []
        try:
            if config.separate_background:
                candidates = [separate_background(image, x, y, members, sizes=sizes, **options)]
            else:
                for size in sizes or [0]:
                    box = separate_background(
                        image, x, y, members, sizes=[size] if size else [], **{**options, "orders": ()}
                    )
                    candidates.append(box)
        except AlgorithmError:
            return None  # the source has no data around it: it is flagged
        orders = config.joint_orders if config.joint_background else (-1,)
        fits = [
            self._fit_box(box, x, y, members, sigma, order, options["noise"])
            for box in candidates
            for order in orders
        ]
        return min(fits, key=lambda fit: fit.numbers[config.score])

    def _fit_box(
        self,
        box: BoxBackground,
        x: NDArray[Any],
        y: NDArray[Any],
        members: NDArray[np.int64],
        sigma: float,
        order: int,
        noise: float | None,
    ) -> _GroupFit:
        """Fit the Gaussians of a group, and a polynomial when ``order`` is not -1, to the data of a box.

        With ``noise``, of a pixel, the fit is scored on the pixels that were fitted, the same ones for every order.
        """
        config, data = self.config, box.data
        grouped = members.size > 1
        finite = np.isfinite(data)
        values = data[finite]
        kept = values[clip_values(values)]
        spread, mean = float(kept.std()) or 1e-30, float(kept.mean())
        lx, ly = x[members] - box.corner[0], y[members] - box.corner[1]
        starts, bounds = self._starts(data, lx, ly, sigma, spread, grouped)
        near = np.zeros(data.shape, bool)
        yy, xx = (np.asarray(plane) for plane in np.indices(data.shape))
        if config.extra_radius is None:
            near[:] = True
        else:
            size = np.sqrt(starts[:, 3] * starts[:, 4]) if grouped else np.full(1, config.max_size * sigma)
            for cx, cy, radius in zip(lx, ly, size + config.extra_radius * sigma, strict=True):
                near |= (xx - cx) ** 2 + (yy - cy) ** 2 <= radius**2
        use = near & finite
        weights = self._weights(data, xx, yy, lx, ly, sigma, spread, mean)
        move = config.vary_position
        options = np.array(
            [config.max_iterations, config.tolerance, LOSSES[config.loss], config.f_scale, config.regularization]
        )  # fmt: skip
        sources, coefficients, status = fit_listed(
            xx[use].astype(float), yy[use].astype(float), data[use], np.maximum(weights[use], 1e-12), starts, bounds,
            np.array([True, move, move, True, True, True]), order, options,
        )  # fmt: skip
        polynomial = _joint_polynomial(data.shape, use, coefficients, order)
        model = draw_sources(data.shape, sources) + polynomial
        if noise is not None:
            finite, values, spread = use, data[use], noise
        residual = (model - data)[finite]
        n_free = members.size * (6 if move else 4) + coefficients.size
        chi2 = float(np.sum((residual / spread) ** 2))
        numbers = {
            "nmse": float(np.mean(residual**2) / (np.mean(values**2) + 1e-12)),
            "redchi": chi2 / max(values.size - n_free, 1), "bic": chi2 + n_free * float(np.log(values.size)),
            "median": float(np.median(kept)), "chi2": chi2, "n": float(values.size), "dof": float(values.size - n_free),
            "status": float(status), "order": float(box.order if config.separate_background else order),
        }  # fmt: skip
        return _GroupFit(members, box, sources, polynomial, numbers)

    def _starts(
        self,
        data: NDArray[np.float64],
        lx: NDArray[Any],
        ly: NDArray[Any],
        sigma: float,
        spread: float,
        grouped: bool,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Start values from the brightest of 3 x 3 pixels and from second moments, and the published bounds."""
        config = self.config
        low, high = (0.4, 1.3) if grouped else (0.8, 1.3)
        if not config.separate_background:
            low, high = (0.2, 1.5) if grouped else (0.4, 1.5)
        sources, bounds = np.empty((lx.size, 6)), np.empty((lx.size, 5))
        smallest, largest = config.min_size * sigma, config.max_size * sigma
        for k, (cx, cy) in enumerate(zip(lx, ly, strict=True)):
            row, column = round(float(cy)), round(float(cx))
            window = data[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            peak = float(np.nanmax(window)) if np.isfinite(window).any() else float(np.nanmax(data))
            peak = peak if grouped else max(peak, 3.0 * spread, 1e-30)
            peak = max(peak, 1e-30)
            major, minor, theta = _moments(data, cx, cy, sigma)
            top = max(largest, 1.2 * major) if np.isfinite(major) else largest
            if not np.isfinite(major):
                major, minor, theta = 0.55 * (smallest + largest), 0.45 * (smallest + largest), 0.0
            sources[k] = peak, cx, cy, np.clip(major, smallest, top), np.clip(minor, smallest, top), theta
            if sources[k, 3] - sources[k, 4] < 1e-3 * smallest:
                sources[k, 3] = min(sources[k, 3] * 1.01, top)
            bounds[k] = low * peak, high * peak, smallest, top, 1.0 if config.vary_position else 0.0
        return sources, bounds

    def _weights(
        self, data: NDArray[np.float64], xx: NDArray[Any], yy: NDArray[Any], lx: NDArray[Any], ly: NDArray[Any],
        sigma: float, spread: float, mean: float,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Return what multiplies the residuals."""
        kind = self.config.weights
        snr = np.maximum(np.nan_to_num(data) / spread, 0.0)
        if kind == "inverse_rms":
            return np.full(data.shape, 1.0 / (spread + abs(mean)))
        if kind == "snr":
            return snr
        if kind == "power_snr":
            return np.asarray(snr**self.config.snr_power)
        if kind == "spatial":
            width = self.config.spatial_width * sigma
            each = [
                np.exp(-0.5 * ((xx - cx) ** 2 + (yy - cy) ** 2) / width**2)
                for cx, cy in zip(lx, ly, strict=True)
            ]
            return np.asarray(np.max(each, axis=0))
        if kind == "map":
            return np.abs(np.nan_to_num(data)) / spread
        if kind == "mask":
            return clip_values(data.ravel()).reshape(data.shape).astype(np.float64) / spread
        return np.full(data.shape, 1.0 / spread)

    def _measure(
        self, sky_map: SkyMap, image: NDArray[np.float64], fits: list[_GroupFit | None], groups: SourceGroups,
        score: NDArray[np.float64], rms: float, factor: float, shapes: NDArray[Any] | None,
    ) -> Result:  # fmt: skip
        """Sum every source in its ellipse; isolated sources first, then the groups, as published."""
        done = sorted((fit for fit in fits if fit is not None), key=lambda fit: fit.members.size > 1)
        order = np.concatenate([fit.members for fit in done]) if done else np.zeros(0, np.int64)
        n = order.size
        sources = np.zeros((n, 6))
        sums, peaks = np.full((n, 4), np.nan), np.zeros(n)
        background = np.full(image.shape, self._empty_level(image)) if done else self._empty_background(image)
        ellipses = np.zeros((n, 5))
        names = ("median", "order", "nmse", "redchi", "bic", "chi2", "n", "dof", "status")
        columns: dict[str, NDArray[np.float64]] = {name: np.zeros(n) for name in names}
        fixed = self._fixed_shapes(shapes, order, n)
        row = 0
        for fit in done:
            part = slice(row, row + fit.members.size)
            sources[part] = fit.sources
            sources[part, 1:3] += fit.box.corner
            shape = fit.box.data.shape
            box = (
                slice(fit.box.corner[1], fit.box.corner[1] + shape[0]),
                slice(fit.box.corner[0], fit.box.corner[0] + shape[1]),
            )
            background[box] = fit.box.background + fit.polynomial
            outline = self._outlines(sky_map, sources[part], None if fixed is None else fixed[part])
            ellipses[part] = outline
            local = outline.copy()
            local[:, :2] -= fit.box.corner
            sums[part], peaks[part] = _published_sums(fit, local)
            for name in names:
                columns[name][part] = fit.numbers[name]
            row += fit.members.size
        members = np.concatenate([fit.members for fit in done]) if done else np.zeros(0, np.int64)
        local_groups = _renumbered([fit.members.size for fit in done], groups, members)
        return self._result(
            sky_map,
            image,
            sources,
            sums,
            peaks,
            columns,
            ellipses,
            local_groups,
            score[order],
            rms,
            factor,
            background,
        )

    def _empty_level(self, image: NDArray[np.float64]) -> float:
        values = image[np.isfinite(image)]
        return float(np.median(values[clip_values(values)]))

    def _empty_background(self, image: NDArray[np.float64]) -> NDArray[np.float64]:
        """Background of a map without sources: the best of the polynomials of the configuration."""
        whole = separate_background(
            image, np.zeros(0), np.zeros(0), np.zeros(0, np.int64), sizes=[], beam_sigma=1.0,
            max_size=self.config.max_size, orders=self.config.empty_orders, fitters=[("least_squares", 0.0)],
            score=self.config.score,
        )  # fmt: skip
        return whole.background

    def _fixed_shapes(
        self, shapes: NDArray[Any] | None, order: NDArray[np.int64], n: int
    ) -> NDArray[np.float64] | None:
        if shapes is not None:
            return np.asarray(shapes, float)[order]
        if self.config.fixed_axes is None:
            return None
        given = np.asarray(self.config.fixed_axes, float)
        return np.broadcast_to(given, (n, 3)) if len(given) == 1 else given[order]

    def _outlines(
        self, sky_map: SkyMap, sources: NDArray[np.float64], fixed: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Apertures: FWHM (with the published rounding of 2.3548) times the ratio."""
        out = np.empty((sources.shape[0], 5))
        out[:, :2], out[:, 4] = sources[:, 1:3], sources[:, 5]
        out[:, 2:4] = FWHM_PER_SIGMA * self.config.aperture_ratio * sources[:, 3:5]
        if fixed is not None:
            shape = shapes_in_pixels(sky_map, sources[:, 1], sources[:, 2], fixed)
            out[:, 2:4], out[:, 4] = FWHM_PER_SIGMA * self.config.aperture_ratio * shape[:, :2], shape[:, 2]
        return out

    def _result(
        self, sky_map: SkyMap, image: NDArray[np.float64], sources: NDArray[np.float64], sums: NDArray[np.float64],
        peaks: NDArray[np.float64], columns: dict[str, NDArray[np.float64]], ellipses: NDArray[np.float64],
        groups: SourceGroups, score: NDArray[np.float64], rms: float, factor: float, background: NDArray[np.float64],
    ) -> Result:  # fmt: skip
        n = sources.shape[0]
        status = columns["status"].astype(int)
        fit = GaussianFit(
            sources, np.full((n, 6, 6), np.nan), np.zeros(n), columns["chi2"], columns["n"].astype(int),
            columns["dof"].astype(int), np.zeros(n, int), status,
        )  # fmt: skip
        row = np.clip(np.rint(sources[:, 2]).astype(int), 0, image.shape[0] - 1)
        column = np.clip(np.rint(sources[:, 1]).astype(int), 0, image.shape[1] - 1)
        extra = {
            "background": background[row, column], "local_rms": np.full(n, rms), "group": groups.label + 1,
            "group_size": groups.chain_size, "residual": columns["median"] / sky_map.beam_pixels,
            "nmse": columns["nmse"], "bic": columns["bic"], "order": columns["order"].astype(int),
            "shoulder_score": score, "reduced_chi2": columns["redchi"], "peak_flux": peaks,
        }  # fmt: skip
        catalog = build_catalog(
            sky_map, fit, EllipseSums(*(sums[:, i] for i in range(4))), enclosed_fraction(sources, ellipses),
            jy_per_pixel=1.0, correction="none", extra=extra,
        )  # fmt: skip
        own = sources.copy()
        own[:, 0] /= factor
        model = draw_sources(image.shape, own)
        blank = np.where(np.isfinite(image), 0.0, np.nan)
        return Result(
            catalog=catalog, sources=own, groups=groups, model=model, background=background / factor + blank,
            rms=np.full(image.shape, rms / factor) + blank, correlation=np.ones((1, 1)), ellipses=ellipses,
            notes={"Global rms": f"{rms:.6g} Jy/pixel"},
        )  # fmt: skip


def _snap(
    image: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], reach: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Move to the brightest pixel nearby and to the centroid of 3 x 3 pixels; drop what ends up at the same place."""
    if x.size == 0:
        return x, y, np.ones(0, bool)
    step = np.arange(-reach, reach + 1)
    wide = np.pad(image, reach + 1, constant_values=np.nan)  # off the map is no data
    row, column = np.rint(y).astype(int) + reach + 1, np.rint(x).astype(int) + reach + 1
    window = wide[row[:, None, None] + step[:, None], column[:, None, None] + step].reshape(x.size, -1)
    window = np.where(np.isnan(window), -np.inf, window)
    best = window.argmax(axis=1)
    value = window[np.arange(x.size), best]
    found = np.isfinite(value)
    row, column = row + best // step.size - reach, column + best % step.size - reach
    near = np.arange(-1, 2)
    patch = wide[row[:, None, None] + near[:, None], column[:, None, None] + near]
    light = np.where(np.isfinite(patch) & (patch > 0), patch, 0.0)
    total = light.sum(axis=(1, 2))
    weight = np.where(total > 0, total, 1.0)
    out_x = column - reach - 1 + (light * near).sum(axis=(1, 2)) / weight
    out_y = row - reach - 1 + (light * near[:, None]).sum(axis=(1, 2)) / weight
    out_x, out_y = np.where(found, out_x, x), np.where(found, out_y, y)
    return out_x, out_y, thin_pairs(out_x, out_y, value, 1.5)


def _moments(data: NDArray[np.float64], x: float, y: float, sigma: float) -> tuple[float, float, float]:
    """Sizes and angle from the second moments of the positive pixels within 2.5 sigma of the beam; NaN when too few."""
    half = max(int(np.ceil(2.5 * sigma)), 3)
    y0, x0 = max(0, int(y) - half), max(0, int(x) - half)
    window = data[y0 : int(y) + half + 1, x0 : int(x) + half + 1]
    good = np.isfinite(window) & (window > 0)
    if good.sum() < 6:
        return np.nan, np.nan, 0.0
    jj, ii = np.nonzero(good)
    light = window[good]
    total = light.sum()
    ii, jj = ii - (light * ii).sum() / total, jj - (light * jj).sum() / total
    xx, yy, xy = ((light * v).sum() / total for v in (ii * ii, jj * jj, ii * jj))
    root = np.sqrt(max(0.0, ((xx + yy) / 2) ** 2 - (xx * yy - xy * xy)))
    major, minor = (np.sqrt(max((xx + yy) / 2 + s * root, 1e-3)) for s in (1, -1))
    return float(major), float(minor), float(0.5 * np.arctan2(2 * xy, xx - yy))


def _joint_polynomial(
    shape: tuple[int, ...], use: NDArray[np.bool_], coefficients: NDArray[np.float64], order: int
) -> NDArray[np.float64]:
    """Value of the jointly fitted polynomial on all pixels of a box."""
    out = np.zeros(shape)
    if order < 0:
        return out
    row, column = np.nonzero(use)
    x0, y0 = 0.5 * (column.min() + column.max()), 0.5 * (row.min() + row.max())
    scale = max(1.0, 0.5 * max(np.ptp(column), np.ptp(row)))
    yy, xx = np.indices(shape)
    u, v = (xx - x0) / scale, (yy - y0) / scale
    term = 0
    for total in range(order + 1):
        for j in range(total + 1):
            out += coefficients[term] * u ** (total - j) * v**j
            term += 1
    return out


def _published_sums(
    fit: _GroupFit, ellipses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum the data without companions in each ellipse; the error is the published one, the scatter inside."""
    data = fit.box.data - fit.polynomial
    flat = np.where(np.isfinite(data), data, 0.0) - draw_sources(data.shape, fit.sources)
    sums = measure_ellipses(flat, fit.sources, ellipses)
    out = np.column_stack([sums.flux, sums.flux_err, sums.area, sums.missing_area])
    peaks = np.zeros(len(ellipses))
    for k in range(len(ellipses)):
        single = flat + draw_sources(data.shape, fit.sources[k : k + 1])
        box, weights = _coverage(data.shape, ellipses[k])
        if weights.any():
            out[k, 1] = (single[box] * weights).std() * np.sqrt((weights**2).sum())
        row, column = round(float(fit.sources[k, 2])), round(float(fit.sources[k, 1]))
        peaks[k] = single[min(max(row, 0), data.shape[0] - 1), min(max(column, 0), data.shape[1] - 1)]
    return out, peaks


def _coverage(
    shape: tuple[int, ...], ellipse: NDArray[np.float64]
) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
    """Smallest box around an ellipse, and the part of each of its pixels inside, from 5 x 5 points."""
    reach = float(ellipse[2:4].max()) + 1.0
    y0, x0 = (max(0, int(np.floor(ellipse[axis] - reach))) for axis in (1, 0))
    yy, xx = np.indices(
        (max(0, min(shape[0], int(ellipse[1] + reach) + 2) - y0),
         max(0, min(shape[1], int(ellipse[0] + reach) + 2) - x0))
    )  # fmt: skip
    step = (np.arange(5) - 2) / 5.0
    u = (xx + x0 - ellipse[0])[..., None, None] + step
    v = (yy + y0 - ellipse[1])[..., None, None] + step[:, None]
    c, s = np.cos(ellipse[4]), np.sin(ellipse[4])
    inside = ((c * u + s * v) / ellipse[2]) ** 2 + ((c * v - s * u) / ellipse[3]) ** 2 <= 1.0
    weights = inside.mean(axis=(2, 3))
    rows, columns = np.flatnonzero(weights.any(axis=1)), np.flatnonzero(weights.any(axis=0))
    if rows.size == 0:
        return (slice(0, 0), slice(0, 0)), weights[:0, :0]
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return (
        slice(y0 + box[0].start, y0 + box[0].stop), slice(x0 + box[1].start, x0 + box[1].stop)
    ), weights[box]  # fmt: skip


def _renumbered(sizes: list[int], groups: SourceGroups, members: NDArray[np.int64]) -> SourceGroups:
    """Group the rows of the catalogue, which lists one group after the other."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    label = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    return SourceGroups(offsets, np.arange(members.size, dtype=np.int64), label, groups.chain_size[members])
