"""Measurement of the sources of one exposure by a list of plugins."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

import starmill.measurement.plugins  # noqa: F401  makes the plugins of the package known
from starmill.datamodel.catalog import MINIMAL_COLUMNS, PIXEL_UNIT, Catalog, Column, Schema
from starmill.datamodel.exposure import Exposure
from starmill.errors import AlgorithmError
from starmill.measurement.context import MeasurementContext
from starmill.measurement.lsst_names import lsst_aliases
from starmill.measurement.noise_replacement import source_pixels
from starmill.measurement.plugin import Plugin, make_plugins
from starmill.tasks.base import Config, Result, Task, field

__all__ = ["SingleFrameMeasurementConfig", "SingleFrameMeasurementTask"]

STRIP_HEIGHT = 256  # pixels; sources are measured along strips
POSITION_COLUMNS: tuple[Column, ...] = (
    Column("x", "f8", "pixel", "position of the source, parent frame"),
    Column("y", "f8", "pixel", "position of the source, parent frame"),
    Column("x_err", "f4", "pixel", "error of x"),
    Column("y_err", "f4", "pixel", "error of y"),
)
DEFAULT_PLUGINS = [
    "peak",
    "centroid",
    "shape",
    "sky",
    "pixel",
    "psf_flux",
    "gaussian_flux",
    "aperture_flux",
    "kron_flux",
    "compensated_tophat_flux",
    "local_background",
    "local_variance",
    "blendedness",
    "footprint_area",
    "extendedness",
    "size_extendedness",
    "star_probability",
]
DEFAULT_SLOTS = {
    "centroid": "centroid",
    "shape": "shape",
    "psf_shape": "psf_shape",
    "psf_flux": "psf_flux",
    "gaussian_flux": "gaussian_flux",
    "model_flux": "gaussian_flux",
    "aperture_flux": "aperture_flux_12_0",
    "calib_flux": "aperture_flux_12_0",
}


class SingleFrameMeasurementConfig(Config):
    """What is measured, and how."""

    plugins: list[str] = field(
        lambda: list(DEFAULT_PLUGINS),
        "Names of the measurements; each runs at its place in the order of execution.",
    )
    options: dict[str, dict[str, Any]] = field(
        dict, 'Options of measurements by name, such as {"aperture_flux": {"radii": [3, 5]}}.'
    )
    slots: dict[str, str] = field(
        lambda: dict(DEFAULT_SLOTS), "Recommended measurement for each purpose: column prefix by slot name."
    )
    replace_neighbours: bool = field(
        True, "Replace the footprints of all other sources by noise while one is measured."
    )
    noise: Literal["measure", "variance"] = field(
        "measure", "Scatter of that noise: clipped statistics of the image, or its variance plane."
    )
    noise_seed: int = field(1, "Seed of that noise; the exposure id is added.", ge=0)


class SingleFrameMeasurementTask(Task):
    """Measure every source of a catalogue on the exposure where it was detected.

    Each plugin works on the whole catalogue at once. While a source is measured the footprints of all others
    hold noise; children of a blend are measured with their own (apportioned) pixels, parents with the pixels
    of all their children. The exposure is not changed.
    """

    Config = SingleFrameMeasurementConfig
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure", "catalog": "catalog"}
    writes: ClassVar[dict[str, str]] = {"catalog": "catalog"}

    def __init__(self, config: Any = None, **keywords: Any) -> None:
        super().__init__(config, **keywords)
        self.plugins: list[Plugin] = make_plugins(self.config.plugins, self.config.options)

    def output_schema(self, schema: Schema | None = None, unit: str = PIXEL_UNIT) -> Schema:
        """Return the columns of the catalogue that :meth:`run` returns.

        Parameters
        ----------
        schema : Schema, optional
            Of the catalogue that goes in.
        unit : str
            Of the pixels of the exposure.
        """
        columns = [column.in_pixel_unit(unit) for plugin in self.plugins for column in plugin.all_columns()]
        before = list((schema or Schema(MINIMAL_COLUMNS)).values())
        replaced = {c.name: c for c in [*POSITION_COLUMNS, *columns]}
        kept = [replaced.get(c.name, c) for c in before]
        return Schema([*kept, *POSITION_COLUMNS, *columns])

    @property
    def schema(self) -> Schema:
        """The columns of the catalogue, known before anything runs."""
        return self.output_schema()

    def flux_names(self) -> list[str]:
        """Return the prefixes of the fluxes that aperture corrections apply to."""
        return [name for plugin in self.plugins for name in plugin.corrected_fluxes()]

    def run(self, *, exposure: Exposure, catalog: Catalog, exposure_id: int | None = None) -> Result:
        """Measure.

        Parameters
        ----------
        exposure : Exposure
            Background subtracted, with a PSF when a plugin needs one. Not changed.
        catalog : Catalog
            Sources with position and, when known, footprints. Not changed.
        exposure_id : int, optional
            Seeds the noise; of ``exposure.info`` when not given.

        Returns
        -------
        result : Result
            ``catalog``: a new catalogue with the measured columns, slots and LSST names.

        Raises
        ------
        AlgorithmError
            When a plugin needs a PSF and the exposure has none.
        """
        return Result(catalog=self.measure_all(exposure, catalog, exposure_id))

    def measure_all(self, exposure: Exposure, catalog: Catalog, exposure_id: int | None = None) -> Catalog:
        """Return the catalogue with the columns of all plugins; arguments as :meth:`run`."""
        needs = [plugin.name for plugin in self.plugins if plugin.needs_psf]
        if needs and exposure.psf is None:
            raise AlgorithmError(
                f"the exposure has no PSF, which {', '.join(needs)} need", numbers={"n_plugins": len(needs)}
            )
        order = _spatial_order(catalog)
        context = self.make_context(exposure, catalog[order], exposure_id)
        values: dict[Column, NDArray[Any]] = {}
        for plugin in self.plugins:
            with self.timer(plugin.name):
                values |= self.run_plugin(plugin, context)
        self.report_failures(context)
        self.metadata["n_sources"] = len(catalog)
        values |= self.positions(context)
        back = np.argsort(order)
        values = {column.in_pixel_unit(exposure.unit): array[back] for column, array in values.items()}
        return self.finish(catalog, values, exposure.unit)

    def make_context(
        self, exposure: Exposure, catalog: Catalog, exposure_id: int | None = None
    ) -> MeasurementContext:
        """Return what plugins work on: pixels with all sources replaced by noise, PSF, catalogue."""
        config = self.config
        seed = exposure.info.exposure_id if exposure_id is None else exposure_id
        with self.timer("replace_neighbours"):
            pixels, spans, offsets = source_pixels(
                exposure, catalog.footprints, len(catalog),
                replace=config.replace_neighbours, noise=config.noise, seed=config.noise_seed + seed,
            )  # fmt: skip
        context = MeasurementContext(exposure, catalog, pixels, spans, offsets, dict(config.slots))
        context.plugin_names = frozenset(plugin.name for plugin in self.plugins)
        return context

    def run_plugin(self, plugin: Plugin, context: MeasurementContext) -> dict[Column, NDArray[Any]]:
        """Return the columns of one plugin; blank and flagged for all sources when it raises."""
        columns = plugin.all_columns()
        try:
            found = plugin.measure(context)
            values = {column: np.asarray(found[column.name], column.dtype) for column in columns
                      if column.name in found or column.name != plugin.flag_name}  # fmt: skip
        except Exception as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # compiled code wraps an interrupt
                raise KeyboardInterrupt from error
            for _ in range(max(context.n, 1)):
                context.record_failure(plugin.name, error)
            values = {column: column.blank(context.n) for column in columns}
            values[columns[[c.name for c in columns].index(plugin.flag_name)]][:] = True
        for column in columns:
            values.setdefault(column, column.blank(context.n))
        context.columns.update({column.name: array for column, array in values.items()})
        return values

    def report_failures(self, context: MeasurementContext) -> None:
        """Write one line per plugin that raised, and keep the counts."""
        for name, (count, error) in context.failures.items():
            self.metadata[f"{name}_failures"] = count
            self.log.warning(
                "measurement %s raised for %d of %d sources, which are flagged: %s: %s",
                name, count, context.n, type(error).__name__, error,
            )  # fmt: skip

    def positions(self, context: MeasurementContext) -> dict[Column, NDArray[Any]]:
        """Return the recommended positions: those of the centroid slot, else the ones that were given."""
        values: dict[Column, NDArray[Any]] = {}
        for column, axis in zip(POSITION_COLUMNS, ("x", "y", "x_err", "y_err"), strict=True):
            name = f"slot_centroid_{axis}"
            if name in context:
                values[column] = context[name]
            elif column.name in context.columns:
                values[column] = context.columns[column.name]
        return values

    def finish(self, catalog: Catalog, values: dict[Column, NDArray[Any]], unit: str) -> Catalog:
        """Return the catalogue with the new columns, slots and aliases; ``unit`` is that of the pixels."""
        schema = self.output_schema(catalog.schema, unit)
        known = {column.name for column in values} | set(catalog.schema)
        blank = {c: c.blank(len(catalog)) for c in schema.values() if c.name not in known}
        slots = {
            slot: prefix
            for slot, prefix in self.config.slots.items()
            if any(name == prefix or name.startswith(prefix + "_") for name in schema)
        }
        return catalog.with_columns({**values, **blank}, slots=slots, aliases=lsst_aliases(schema, slots))


def _spatial_order(catalog: Catalog) -> NDArray[np.int64]:
    """Return an order in which neighbours follow each other: what one has read helps the next."""
    strip = np.floor_divide(np.nan_to_num(catalog["y"], nan=0.0, posinf=0.0, neginf=0.0), STRIP_HEIGHT)
    return np.lexsort((catalog["id"], catalog["x"], strip))
