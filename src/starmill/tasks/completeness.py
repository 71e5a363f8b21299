"""Completeness and flux bias of a map, by injecting sources into it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.cube import SkyMap
from starmill.errors import NoDataError
from starmill.measurement.neighbours import draw_sources
from starmill.photocal.units import jansky_per_pixel_factor
from starmill.tasks.base import Result, Task
from starmill.tasks.compact_sources import CompactSourcesTask
from starmill.tasks.compact_sources_config import CompactSourcesConfig
from starmill.tasks.config import Config, field

__all__ = ["CompletenessConfig", "CompletenessTask"]

CURVE_SCHEMA = Schema([
    Column("id", "i8", "", "number of the bin"),
    Column("snr_low", "f8", "", "lower edge of the bin in injected peak over local rms"),
    Column("snr_high", "f8", "", "upper edge"),
    Column("injected", "i8", "", "injected sources"),
    Column("found", "i8", "", "recovered sources"),
    Column("completeness", "f8", "", "recovered over injected"),
    Column("completeness_err", "f8", "", "binomial standard error, half a source added"),
    Column("flux_bias", "f8", "", "median of measured over true flux, minus one"),
    Column("flux_scatter", "f8", "", "half width of the central 68 % of measured over true flux"),
    Column("peak_bias", "f8", "", "median of measured over true peak, minus one"),
    Column("position_error", "f8", "pixel", "median distance from the true position"),
])  # fmt: skip


class CompletenessConfig(Config):
    """Injection of sources into a map."""

    n_sources: int = field(1000, "sources to inject in all", ge=1)
    snr_range: tuple[float, float] = field(
        (2.0, 50.0), "range of injected peaks over the local rms, log-uniform"
    )
    size_range: tuple[float, float] = field((1.0, 1.3), "range of injected FWHM, uniform", unit="beam")
    n_bins: int = field(10, "bins of the curve", ge=1)
    density: float = field(80.0, "beam areas per injected source in one go", ge=10)
    match: float = field(0.465, "largest distance of a recovered source", unit="beam", gt=0)
    seed: int = field(1, "of the random numbers", ge=0)
    photometry: CompactSourcesConfig = field(CompactSourcesConfig, "how the map is measured")


class CompletenessTask(Task):
    """Inject sources into the user's own map, in several goes, and see which are found and how well."""

    Config = CompletenessConfig
    default_name = "completeness"
    reads: ClassVar[dict[str, str]] = {"sky_map": "sky_map"}
    writes: ClassVar[dict[str, str]] = {"curve": "completeness_curve"}

    def run(self, *, sky_map: SkyMap) -> Result:
        """Measure the curve of one map.

        Returns
        -------
        result : Result
            ``curve`` (Catalog, one row per bin of signal-to-noise ratio) and ``injected`` (dict of arrays: ``x``,
            ``y``, ``snr``, ``flux``, ``found``, ``measured_flux``).
        """
        rng = np.random.default_rng(self.config.seed)
        task = CompactSourcesTask(self.config.photometry, parent=self)
        base = task.run(sky_map=sky_map)
        known = np.column_stack([base.catalog["x"], base.catalog["y"]])
        free = np.argwhere(np.isfinite(base.rms) & sky_map.valid)
        if len(free) == 0:
            raise NoDataError("there is no pixel to inject a source at")
        a, b, theta = sky_map.beam_in_pixels()
        per_go = max(1, int(len(free) / (self.config.density * 2 * np.pi * a * b)))
        records = []
        left = self.config.n_sources
        while left > 0:
            sources, snr = self._draw(rng, min(per_go, left), free, base.rms, (a, b, theta))
            records.append(self._go(task, sky_map, sources, snr, known))
            left -= len(snr)
        injected = {name: np.concatenate([record[name] for record in records]) for name in records[0]}
        return Result(curve=self._curve(injected), injected=injected)

    def _draw(
        self, rng: Any, n: int, free: NDArray[Any], rms: NDArray[Any], beam: tuple[float, float, float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        place = free[rng.integers(len(free), size=n)]
        snr = np.exp(rng.uniform(*np.log(self.config.snr_range), n))
        size = rng.uniform(*self.config.size_range, n)
        shift = rng.uniform(-0.5, 0.5, (n, 2))
        sources = np.column_stack([
            snr * rms[place[:, 0], place[:, 1]], place[:, 1] + shift[:, 0], place[:, 0] + shift[:, 1],
            size * beam[0], size * beam[1], np.full(n, beam[2]),
        ])  # fmt: skip
        keep = np.ones(n, bool)
        for i, j in cKDTree(sources[:, 1:3]).query_pairs(4 * 2.3548 * beam[0]):
            keep[max(i, j)] = False  # injected sources must not disturb each other
        return sources[keep], snr[keep]

    def _go(
        self, task: CompactSourcesTask, sky_map: SkyMap, sources: NDArray[np.float64], snr: NDArray[np.float64],
        known: NDArray[np.float64],
    ) -> dict[str, NDArray[Any]]:  # fmt: skip
        """Inject one set and measure the map; a match that was there before is no recovery."""
        image = draw_sources(sky_map.image.shape, sources, out=np.array(sky_map.image, np.float64))
        catalog = task.run(sky_map=replace(sky_map, image=image)).catalog
        to_jansky = jansky_per_pixel_factor(
            sky_map.unit,
            pixel_sr=sky_map.pixel_area,
            beam_sr=sky_map.beam.solid_angle,
            frequency_hz=sky_map.frequency,
        )
        flux = 2 * np.pi * sources[:, 0] * sources[:, 3] * sources[:, 4] * to_jansky
        found, measured, peak, error = (np.full(len(snr), np.nan) for _ in range(4))
        if len(catalog):
            sigma = sky_map.beam_in_pixels()
            radius = self.config.match * 2.3548 * np.sqrt(sigma[0] * sigma[1])
            distance, index = cKDTree(np.column_stack([catalog["x"], catalog["y"]])).query(sources[:, 1:3])
            new = distance < radius
            if len(known):
                there = cKDTree(known).query(sources[:, 1:3])[0] < radius
                # a known source at the same place counts only when its flux has risen by the injected one
                new &= ~there
            measured[new] = catalog["gaussian_flux"][index[new]]
            peak[new] = catalog["peak_flux"][index[new]] / (sources[new, 0] * to_jansky * sky_map.beam_pixels)
            error[new] = distance[new]
            found = new
            usable = ~there if len(known) else np.ones(len(snr), bool)
        else:
            found, usable = np.zeros(len(snr), bool), np.ones(len(snr), bool)
        values = {
            "x": sources[:, 1], "y": sources[:, 2], "snr": snr, "flux": flux, "found": found, "measured_flux": measured,
            "peak_ratio": peak, "position_error": error,
        }  # fmt: skip
        return {name: np.asarray(value)[usable] for name, value in values.items()}

    def _curve(self, injected: dict[str, NDArray[Any]]) -> Catalog:
        low, high = self.config.snr_range
        edges = np.geomspace(low, high, self.config.n_bins + 1)
        rows: dict[str, list[float]] = {name: [] for name in CURVE_SCHEMA}
        for i in range(self.config.n_bins):
            inside = (injected["snr"] >= edges[i]) & (injected["snr"] < edges[i + 1])
            found = inside & injected["found"].astype(bool)
            n, k = int(inside.sum()), int(found.sum())
            ratio = injected["measured_flux"][found] / injected["flux"][found] if k else np.array([np.nan])
            part = (k + 0.5) / (n + 1.0)
            q = np.percentile(ratio, [16, 50, 84])
            values = (
                i + 1, edges[i], edges[i + 1], n, k, k / n if n else np.nan, np.sqrt(part * (1 - part) / (n + 1.0)),
                q[1] - 1.0, 0.5 * (q[2] - q[0]), np.median(injected["peak_ratio"][found]) - 1.0 if k else np.nan,
                np.median(injected["position_error"][found]) if k else np.nan,
            )  # fmt: skip
            for name, value in zip(rows, values, strict=True):
                rows[name].append(float(value))
        return Catalog(CURVE_SCHEMA, rows, n=self.config.n_bins)
