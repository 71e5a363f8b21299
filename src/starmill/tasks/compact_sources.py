"""Compact-source photometry of one map: find, fit together, measure in ellipses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.background.border_noise import BorderZones, border_zones
from starmill.background.gaussian_mean import mean_around, smooth_map
from starmill.background.map_noise import CellNoise, MapNoise, cell_rms, noise_model, valid_sample
from starmill.datamodel.cube import SkyMap
from starmill.datamodel.psf import FWHM_PER_SIGMA
from starmill.detection.grouping import SourceGroups, group_sources
from starmill.detection.point_filters import (
    PointPeaks,
    band_pass,
    choose_filter,
    filter_gain,
    local_maxima,
    shoulder_scores,
    thin_pairs,
)
from starmill.errors import AlgorithmError, InputError
from starmill.measurement.blends import settle_blends
from starmill.measurement.elliptical_photometry import EllipseSums, enclosed_fraction, measure_ellipses
from starmill.measurement.gaussian_fit import GaussianFit, fit_gaussians, start_sources
from starmill.measurement.known_positions import add_known
from starmill.measurement.neighbours import draw_sources, source_pixels
from starmill.numerics.close_pairs import next_to
from starmill.photocal.units import jansky_per_pixel_factor
from starmill.tasks.base import Result, Task
from starmill.tasks.compact_catalog import build_catalog, detection_catalog, pixel_ellipses, shapes_in_pixels
from starmill.tasks.compact_sources_config import CompactSourcesConfig

__all__ = ["CompactSourcesTask"]

NEW = np.iinfo(np.int64).max  # number of a source that was not among the first
SHARED_LIGHT = 1.3  # beams; sources that near can share their light in many ways


@dataclass(frozen=True)
class _Prepared:
    """A map scaled to numbers near one, NaN where it has no data, with its beam in pixels."""

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    rms: NDArray[np.float32] | None
    border: BorderZones | None
    zero: float
    scale: float
    axes: tuple[float, float]
    theta: float
    sigma: float
    fwhm: float


class CompactSourcesTask(Task):
    """Find compact sources in a map, fit them jointly with the background, and measure their fluxes.

    Peaks of a band-passed map are fitted group by group with elliptical Gaussians; the residual map gives the
    background, the local rms and the correlation of noise and background, with which the sources are fitted again
    by generalised least squares. Fluxes are sums in the fitted ellipses on the map without background and companions.
    """

    Config = CompactSourcesConfig
    default_name = "compact_sources"
    typical_cost: ClassVar[tuple[float, float] | None] = (0.4, 30)
    reads: ClassVar[dict[str, str]] = {"sky_map": "sky_map"}
    writes: ClassVar[dict[str, str]] = {
        "catalog": "compact_sources",
        "background": "map_background",
        "model": "map_model",
    }

    def run(
        self, *, sky_map: SkyMap, positions: NDArray[Any] | None = None, shapes: NDArray[Any] | None = None,
        known: NDArray[Any] | None = None,
    ) -> Result:  # fmt: skip
        """Photometer one map.

        Parameters
        ----------
        sky_map : SkyMap
        positions : (n, 2) array, pixel, optional
            x, y of the sources; searched for when not given.
        shapes : (n, 3) array, arcsec, arcsec and degree, optional
            FWHM along the major and minor axis and position angle of sources at given positions; then only their
            peaks are fitted, and the apertures have these shapes.
        known : (m, 2) array, pixel, optional
            Where other channels or bands show sources. They are added to blends of this map that need them; nothing
            is added where this map shows nothing.

        Returns
        -------
        result : Result
            ``catalog`` (Catalog), ``sources`` ((n, 6) array, map unit), ``model``, ``background``, ``rms``
            ((ny, nx) arrays, map unit), ``correlation`` and ``fit`` (in scaled units: divide by ``scale``).

        Raises
        ------
        AlgorithmError
            For a map without valid pixels or without any structure.
        """
        jy_per_pixel = self._unit_factor(sky_map)
        data = self._prepare(sky_map)
        with self.timer("detect"):
            filter_name = self._filter_name(data)
            if positions is None:
                peaks, refused = self._detect(data, data.image, filter_name, self.config.detection.threshold)
            else:
                peaks = _given_peaks(data, np.asarray(positions, float).reshape(-1, 2))
                refused = None
        with self.timer("fit"):
            fixed = (
                None
                if shapes is None
                else shapes_in_pixels(sky_map, peaks.x, peaks.y, np.asarray(shapes, float))
            )
            fit, groups, hidden = self._first_fits(data, peaks, filter_name, refused=refused, shapes=fixed)
            level, noise = self._noise(data, fit.sources)
            if self.config.fit.background == "shared":
                np.subtract(data.image, level, out=data.image)
                fit, groups, rows, needed = self._final_fit(
                    data,
                    fit,
                    noise,
                    fixed_shapes=fixed is not None,
                    search=positions is None,
                    known=known,
                )
                hidden = (rows >= hidden.size) | hidden[np.minimum(rows, hidden.size - 1)]
            else:
                level[:] = 0.0
                needed = np.zeros(len(hidden), bool)
            keep = self._keep(data, fit, needed, fixed=positions is not None)
            fit, hidden, groups = fit.rows(keep), hidden[keep], _select_groups(groups, keep)
        with self.timer("photometry"):
            result = self._measure(sky_map, data, fit, groups, level, noise, hidden, jy_per_pixel)
        result.notes = {
            "Filter": filter_name,
            "Noise (median local rms)": f"{np.nanmedian(result.rms):.6g} {sky_map.unit}",
        }
        self.metadata |= {"sources": len(result.catalog), "filter": filter_name, "groups": len(groups)}
        return result

    def detect(self, *, sky_map: SkyMap) -> Result:
        """Find the peaks of a map and measure nothing.

        Returns
        -------
        result : Result
            ``catalog`` with positions, significance and shoulder score; fluxes are NaN.
        """
        self._unit_factor(sky_map)
        data = self._prepare(sky_map)
        peaks, _ = self._detect(data, data.image, self._filter_name(data), self.config.detection.threshold)
        score = shoulder_scores(data.image, peaks.x, peaks.y, data.fwhm)
        return Result(catalog=detection_catalog(sky_map, peaks.x, peaks.y, peaks.significance, score))

    def _unit_factor(self, sky_map: SkyMap) -> float:
        return jansky_per_pixel_factor(
            sky_map.unit,
            pixel_sr=sky_map.pixel_area,
            beam_sr=sky_map.beam.solid_angle,
            frequency_hz=sky_map.frequency,
        )

    def _prepare(self, sky_map: SkyMap) -> _Prepared:
        valid = sky_map.valid
        if sky_map.rms is not None:
            valid = valid & np.isfinite(sky_map.rms) & (sky_map.rms > 0)
        if not valid.any():
            raise AlgorithmError(
                "the map has no valid pixel", numbers={"pixels": sky_map.image.size, "valid": 0}
            )
        values = valid_sample(sky_map.image, valid).astype(np.float64)
        zero = float(np.median(values))
        values = np.abs(values - zero)
        scale = float(np.percentile(values, 68.0)) or float(values.max())
        if not scale > 0:
            scale = float(np.abs(sky_map.image[valid] - zero).max()) or 1.0
        axes = sky_map.beam_in_pixels()
        sigma = float(np.sqrt(axes[0] * axes[1]))
        sky_map.check_beam(smallest=1.2)
        difference: NDArray[Any] = np.subtract(sky_map.image, zero)
        difference /= scale
        image = difference.astype(np.float32, order="C", copy=False)
        image[~valid] = np.nan
        valid = np.ascontiguousarray(valid)
        rms = None
        if sky_map.rms is not None:
            rms = np.where(valid, sky_map.rms / scale, 1.0).astype(np.float32)
        fwhm = sigma * FWHM_PER_SIGMA
        border = border_zones(valid, fwhm) if rms is None and self.config.detection.noise == "local" else None
        return _Prepared(image, valid, rms, border, zero, scale, axes[:2], axes[2], sigma, fwhm)

    def _filter_name(self, data: _Prepared) -> str:
        name = self.config.detection.filter
        return choose_filter(data.image, data.valid, data.sigma) if name == "auto" else name

    def _detect(
        self, data: _Prepared, image: NDArray[Any], filter_name: str, threshold: float
    ) -> tuple[PointPeaks, PointPeaks]:
        """Peaks of the band-passed map over the noise of that map, and those that a limit of the shape refused."""
        config = self.config.detection
        filtered = band_pass(
            image if data.rms is None else image / data.rms, data.valid, data.sigma, filter_name
        )
        filtered[~data.valid] = np.nan
        local = config.noise == "local"
        noise = cell_rms(
            filtered, data.valid, max(24, int(config.noise_cell * data.fwhm)) if local else max(image.shape)
        )
        if data.border is not None:
            noise = noise.beside_border(filtered, data.border)
        if config.rms is not None:
            level = np.full((1, 1), config.rms / data.scale * filter_gain(filter_name, data.sigma))
            noise = CellNoise(level, image.shape)
        peaks = local_maxima(filtered, threshold, noise.at, float(noise.level.min()))
        column, row = np.rint(peaks.x).astype(int), np.rint(peaks.y).astype(int)
        keep = thin_pairs(peaks.x, peaks.y, peaks.value, config.min_separation * data.fwhm)
        keep &= data.valid[np.clip(row, 0, image.shape[0] - 1), np.clip(column, 0, image.shape[1] - 1)]
        edge = config.border * data.fwhm
        keep &= (peaks.x >= edge) & (peaks.x <= image.shape[1] - 1 - edge)
        keep &= (peaks.y >= edge) & (peaks.y <= image.shape[0] - 1 - edge)
        peaks = peaks.select(keep)
        keep = self._shape_tests(data, image, filtered, peaks)
        return peaks.select(keep), peaks.select(~keep)

    def _shape_tests(
        self, data: _Prepared, image: NDArray[Any], filtered: NDArray[Any], peaks: PointPeaks
    ) -> NDArray[np.bool_]:
        """Which peaks keep the DAOFIND limits and that of the shoulder score, where the configuration asks for them."""
        config = self.config.detection
        keep = np.ones(len(peaks), bool)
        if config.sharpness is not None or config.roundness is not None:
            from starmill.detection.daofind import (
                daofind_shapes,
            )  # needs scipy, which takes a while to import

            shapes = daofind_shapes(
                np.nan_to_num(filtered), np.rint(peaks.x).astype(int), np.rint(peaks.y).astype(int), data.fwhm
            )
            for name, limits in (
                ("sharpness", config.sharpness), ("roundness1", config.roundness), ("roundness2", config.roundness),
            ):  # fmt: skip
                if limits is not None:
                    keep &= (shapes[name] > limits[0]) & (shapes[name] < limits[1])
        if config.shoulder_limit is not None:
            keep &= shoulder_scores(image, peaks.x, peaks.y, data.fwhm) <= config.shoulder_limit
        return keep

    def _bounds(
        self, data: _Prepared, sources: NDArray[np.float64], low: float, high: float, fixed_shapes: bool
    ) -> NDArray[np.float64]:
        config = self.config.fit
        bounds = np.empty((sources.shape[0], 5))
        bounds[:, 0], bounds[:, 1] = low * sources[:, 0], high * sources[:, 0]
        bounds[:, 2], bounds[:, 3] = config.min_size * data.sigma, config.max_size * data.sigma
        bounds[:, 4] = config.max_shift * data.fwhm if config.vary_position else 0.0
        if fixed_shapes:
            bounds[:] = (-np.inf, np.inf, 0.0, np.inf, np.inf)
        return bounds

    def _first_fits(
        self,
        data: _Prepared,
        peaks: PointPeaks,
        filter_name: str,
        *,
        refused: PointPeaks | None,
        shapes: NDArray[Any] | None,
    ) -> tuple[GaussianFit, SourceGroups, NDArray[np.bool_]]:
        """Ordinary fits with a local plane, repeated with what the residual map reveals.

        Nothing is added within a beam of a peak that was ``refused``, which all stay in the residual map; without it
        (given positions) nothing is added at all.
        """
        detection, config = self.config.detection, self.config.fit
        order = max(config.order, 1) if config.background == "shared" else config.order
        radius = config.first_radius if config.background == "shared" else config.radius
        sources = self._starts(data, data.image, peaks)
        hidden = np.zeros(sources.shape[0], bool)
        if shapes is not None:
            sources[:, 3:6] = shapes
        for search_number in range(detection.residual_passes + 1):
            groups = self._groups(data, sources)
            fit = fit_gaussians(
                data.image, _weight(data), sources, groups, radius=radius * data.fwhm,
                bounds=self._bounds(data, sources, 0.2, 5.0, shapes is not None), free=self._free(shapes is not None),
                order=order,
                loss=config.loss, f_scale=config.f_scale, max_iterations=config.max_iterations,
                tolerance=config.tolerance,
            )  # fmt: skip
            if refused is None or search_number == detection.residual_passes:
                break
            residual = draw_sources(data.image.shape, fit.sources, out=data.image.copy(), sign=-1.0)
            limit = max(detection.residual_threshold, detection.threshold)
            extra, out = self._detect(data, residual, filter_name, limit)
            refused = refused.joined(out)
            extra = extra.select(_far_from(extra, fit.sources[:, 1:3], 0.5 * data.fwhm))
            if detection.search_extended and filter_name != "smooth":
                wide, _ = self._detect(data, residual, "smooth", limit)
                known = np.concatenate([fit.sources[:, 1:3], np.column_stack([extra.x, extra.y])])
                extra = extra.joined(wide.select(_far_from(wide, known, 1.5 * data.fwhm)))
            extra = extra.select(_far_from(extra, np.column_stack([refused.x, refused.y]), data.fwhm))
            if len(extra) == 0:
                break
            sources = np.concatenate([fit.sources, self._starts(data, residual, extra)])
            del residual
            hidden = np.concatenate([hidden, np.ones(len(extra), bool)])
        return fit, groups, hidden

    def _starts(self, data: _Prepared, image: NDArray[Any], peaks: PointPeaks) -> NDArray[np.float64]:
        """Start values: the pixel value above a wide mean, raised for what the mean itself takes away."""
        row = np.clip(np.rint(peaks.y).astype(int), 0, image.shape[0] - 1)
        column = np.clip(np.rint(peaks.x).astype(int), 0, image.shape[1] - 1)
        lost = 1.0 - 1.0 / (1.0 + 2.5**2)  # a Gaussian beam under a mean of 2.5 times its width
        mean = mean_around(image, data.valid, column, row, 2.5 * data.sigma)
        height = np.fmax((image[row, column] - mean) / lost, 0.3 * peaks.value)
        return start_sources(np.maximum(height, 1e-6), peaks.x, peaks.y, data.axes, data.theta)

    def _free(self, fixed_shapes: bool) -> tuple[bool, ...]:
        move = self.config.fit.vary_position and not fixed_shapes
        return (True, move, move, *(not fixed_shapes,) * 3)

    def _noise(self, data: _Prepared, sources: NDArray[np.float64]) -> tuple[NDArray[np.float32], MapNoise]:
        config = self.config.noise
        residual = draw_sources(data.image.shape, sources, out=data.image.copy(), sign=-1.0)
        clear = ~source_pixels(data.image.shape, sources, data.sigma, config.mask_radius)
        half = int(np.ceil(2 * self.config.fit.radius * data.fwhm)) + 4
        return noise_model(
            residual, data.valid, clear, level_sigma=config.level_scale * data.sigma,
            rms_sigma=config.rms_scale * data.sigma, half=half, uniform=config.uniform, given_rms=data.rms,
            border=data.border, overwrite=True,
        )  # fmt: skip

    def _final_fit(
        self,
        data: _Prepared,
        fit: GaussianFit,
        noise: MapNoise,
        *,
        fixed_shapes: bool,
        search: bool,
        known: NDArray[np.float64] | None,
    ) -> tuple[GaussianFit, SourceGroups, NDArray[np.int64], NDArray[np.bool_]]:
        """Fit again with the full covariance of noise and background; split what is two sources, drop what is none.

        Also returns which of the given sources these are (parts that were split off have higher numbers), and the
        members of blends that are needed however uncertain they are.
        """
        config = self.config.fit
        weight = np.divide(1.0, noise.rms, dtype=np.float32)

        def fit_groups(
            sources: NDArray[np.float64], groups: SourceGroups, bounds: NDArray[np.float64]
        ) -> GaussianFit:
            return fit_gaussians(
                data.image, weight, sources, groups, radius=config.radius * data.fwhm, bounds=bounds,
                free=self._free(fixed_shapes), order=config.order, correlation=noise.correlation, ridge=config.ridge,
                loss=config.loss, f_scale=config.f_scale, max_iterations=config.max_iterations,
                tolerance=config.tolerance,
            )  # fmt: skip

        def bounds(sources: NDArray[np.float64]) -> NDArray[np.float64]:
            return self._bounds(data, sources, 0.1, 5.0, fixed_shapes)

        def group(sources: NDArray[np.float64]) -> SourceGroups:
            return self._groups(data, sources)

        groups = group(fit.sources)
        fit = fit_groups(fit.sources, groups, bounds(fit.sources))
        if not search:
            return fit, groups, np.arange(len(fit.sources)), np.ones(len(fit.sources), bool)
        fit, groups, origin, needed = settle_blends(
            fit, groups, fit_groups, group=group, bounds=bounds, beam_sigma=data.sigma,
            min_major=config.split_major, min_significance=config.min_significance,
            distance=SHARED_LIGHT * data.fwhm,
        )  # fmt: skip
        if known is not None:
            fit, groups, rows, added = add_known(
                fit, groups, fit_groups, known, group=group, bounds=bounds, beam_sigma=data.sigma
            )
            origin, needed = (np.append(v, end)[rows] for v, end in ((origin, NEW), (needed, True)))
            needed |= added
        return fit, groups, origin, needed

    def _groups(self, data: _Prepared, sources: NDArray[np.float64]) -> SourceGroups:
        config = self.config.grouping
        return group_sources(sources[:, 1], sources[:, 2], config.link * data.fwhm, config.max_members)

    def _keep(
        self, data: _Prepared, fit: GaussianFit, needed: NDArray[np.bool_], *, fixed: bool
    ) -> NDArray[np.bool_]:
        """Keep sources that are significant and not twins of brighter ones; given positions are all kept."""
        if fixed:
            return np.ones(fit.sources.shape[0], bool)
        peak, error = fit.sources[:, 0], fit.peak_err
        with np.errstate(invalid="ignore", divide="ignore"):
            keep = ~(peak < self.config.fit.min_significance * error) | needed
        keep &= np.isfinite(fit.sources).all(axis=1) & (peak > 0) & (error > 0) & (fit.status < 2)
        row, column = np.rint(fit.sources[:, 2]).astype(int), np.rint(fit.sources[:, 1]).astype(int)
        ny, nx = data.image.shape
        keep &= (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
        keep &= data.valid[np.clip(row, 0, ny - 1), np.clip(column, 0, nx - 1)]
        chosen = np.flatnonzero(keep)
        twins = thin_pairs(
            fit.sources[chosen, 1], fit.sources[chosen, 2], peak[chosen], self.config.fit.merge * data.fwhm
        )
        keep[chosen[~twins]] = False
        return keep

    def _measure(
        self, sky_map: SkyMap, data: _Prepared, fit: GaussianFit, groups: SourceGroups, level: NDArray[Any],
        noise: MapNoise, hidden: NDArray[np.bool_], jy_per_pixel: float,
    ) -> Result:  # fmt: skip
        """Background map, sums in ellipses, catalogue."""
        config = self.config.photometry
        flat = draw_sources(data.image.shape, fit.sources, out=data.image.copy(), sign=-1.0)
        background = smooth_map(
            flat, data.valid, self.config.noise.background_scale * data.fwhm, wanted=data.valid
        )
        flat -= background
        ellipses = pixel_ellipses(
            sky_map, fit.sources, config.aperture_ratio, config.fixed_axes, config.fixed_position_angle
        )
        fixed = config.fixed_axes is not None
        sums = measure_ellipses(
            flat, fit.sources, ellipses, rms=noise.rms if fixed else None, correlation=noise.correlation
        )
        fraction = enclosed_fraction(fit.sources, ellipses)
        # the size is measured too, unless it is fixed: its error is part of the flux error
        flux_err = sums.flux_err if fixed else fit.flux_err * fraction
        sums = EllipseSums(sums.flux * data.scale, flux_err * data.scale, sums.area, sums.missing_area)
        in_unit = _rescaled(fit, data.scale)
        catalog = build_catalog(
            sky_map, in_unit, sums, fraction, jy_per_pixel=jy_per_pixel, correction=config.aperture_correction,
            extra=self._numbers(data, fit, groups, background, level, noise, flat, hidden),
        )  # fmt: skip
        del flat
        background += level
        data.image[:] = 0.0  # nobody needs the scaled map any more
        model = draw_sources(data.image.shape, in_unit.sources, out=data.image)
        rms = np.multiply(
            noise.rms, np.float32(data.scale), out=noise.rms
        )  # nobody needs the scaled one any more
        background *= np.float32(data.scale)
        background += np.float32(data.zero)
        background[~data.valid] = rms[~data.valid] = np.nan
        return Result(
            catalog=catalog, sources=in_unit.sources, groups=groups, model=model, background=background, rms=rms,
            correlation=noise.correlation, ellipses=ellipses,
        )  # fmt: skip

    def _numbers(
        self, data: _Prepared, fit: GaussianFit, groups: SourceGroups, background: NDArray[Any],
        level: NDArray[Any], noise: MapNoise, flat: NDArray[Any], hidden: NDArray[np.bool_],
    ) -> dict[str, Any]:  # fmt: skip
        """Columns that describe the surroundings and the quality of each fit."""
        sources = fit.sources
        row = np.clip(np.rint(sources[:, 2]).astype(int), 0, data.image.shape[0] - 1)
        column = np.clip(np.rint(sources[:, 1]).astype(int), 0, data.image.shape[1] - 1)
        under = background[row, column] + level[row, column]
        median, nmse = _residual_numbers(flat, data.image, background, sources, data.fwhm)
        shared = self.config.fit.background == "shared"
        n_parameters = np.maximum(fit.n_pixels - fit.n_dof, 0)
        size = np.sqrt(np.stack([fit.covariance[:, 3, 3], fit.covariance[:, 4, 4], fit.covariance[:, 1, 1]]))
        return {
            "background": (under + (0.0 if shared else fit.background)) * data.scale + data.zero,
            "local_rms": noise.rms[row, column] * data.scale, "group": groups.label + 1,
            "group_size": groups.chain_size, "residual": median * data.scale, "nmse": nmse,
            "bic": fit.chi2 + n_parameters * np.log(np.maximum(fit.n_pixels, 1)),
            "order": np.full(sources.shape[0], self.config.fit.order),
            "shoulder_score": shoulder_scores(data.image, sources[:, 1], sources[:, 2], data.fwhm),
            "on_residual": hidden, "fit_flag_bound": (size == 0).any(axis=0) & self.config.fit.vary_position,
        }  # fmt: skip


def _weight(data: _Prepared) -> NDArray[np.float32]:
    """One over the noise as far as it is known before a fit; zero where there are no data."""
    return np.divide(data.valid, 1.0 if data.rms is None else data.rms, dtype=np.float32)


def _given_peaks(data: _Prepared, positions: NDArray[np.float64]) -> PointPeaks:
    """Positions that were given, with the map values there."""
    x, y = positions[:, 0], positions[:, 1]
    ny, nx = data.image.shape
    inside = (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    if not inside.all():
        raise InputError(
            f"{int((~inside).sum())} of {x.size} given positions lie outside the map of {nx} x {ny} pixels"
        )
    value = np.nan_to_num(data.image[np.rint(y).astype(int), np.rint(x).astype(int)].astype(np.float64))
    return PointPeaks(x, y, np.maximum(value, 0.5), value)


def _far_from(peaks: PointPeaks, positions: NDArray[np.float64], distance: float) -> NDArray[np.bool_]:
    return ~next_to(peaks.x, peaks.y, positions[:, 0], positions[:, 1], distance)


def _select_groups(groups: SourceGroups, keep: NDArray[np.bool_]) -> SourceGroups:
    """Return the groups of the sources that are kept, numbered anew."""
    _, first, label = np.unique(groups.label[keep], return_index=True, return_inverse=True)
    label = np.argsort(np.argsort(first, kind="stable"), kind="stable")[label.ravel()].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=first.size))]).astype(np.int64)
    return SourceGroups(
        offsets, np.argsort(label, kind="stable").astype(np.int64), label, groups.chain_size[keep]
    )


def _rescaled(fit: GaussianFit, scale: float) -> GaussianFit:
    """Return the fit in the unit of the map."""
    sources, covariance = fit.sources.copy(), fit.covariance.copy()
    sources[:, 0] *= scale
    covariance[:, 0, :] *= scale
    covariance[:, :, 0] *= scale
    return GaussianFit(
        sources,
        covariance,
        fit.background * scale,
        fit.chi2,
        fit.n_pixels,
        fit.n_dof,
        fit.iterations,
        fit.status,
    )


def _residual_numbers(
    flat: NDArray[Any],
    image: NDArray[Any],
    background: NDArray[Any],
    sources: NDArray[np.float64],
    radius: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median residual, and mean squared residual over mean squared value, within ``radius`` pixels of each source."""
    half = int(np.ceil(radius))
    offset = np.arange(-half, half + 1)
    dy, dx = (
        v[np.hypot(*np.meshgrid(offset, offset)) <= radius]
        for v in np.meshgrid(offset, offset, indexing="ij")
    )
    row = np.rint(sources[:, 2]).astype(int)[:, None] + dy
    column = np.rint(sources[:, 1]).astype(int)[:, None] + dx
    inside = (row >= 0) & (row < flat.shape[0]) & (column >= 0) & (column < flat.shape[1])
    row, column = np.clip(row, 0, flat.shape[0] - 1), np.clip(column, 0, flat.shape[1] - 1)
    residual = np.where(inside, flat[row, column], np.nan)
    good = np.isfinite(residual)
    values = np.where(good, image[row, column] - background[row, column], 0.0).astype(np.float64)
    squares = np.where(good, residual, 0.0).astype(np.float64) ** 2
    total = (values**2).sum(axis=1)
    ordered = np.sort(np.where(good, residual, np.inf), axis=1)
    count = good.sum(axis=1)
    middle = np.maximum((count - 1) // 2, 0)
    median = ordered[np.arange(len(sources)), middle] if len(sources) else np.zeros(0)
    return np.where(count > 0, median, np.nan), squares.sum(axis=1) / np.where(total > 0, total, np.nan)
