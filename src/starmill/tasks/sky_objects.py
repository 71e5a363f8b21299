"""Add empty places to a catalogue, to see what measurements of nothing give."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.exposure import Exposure
from starmill.detection.sky_objects import place_sky_objects, sky_footprints
from starmill.tasks.base import Config, Result, Task, field

__all__ = ["SKY_COLUMN", "SkyObjectsConfig", "SkyObjectsTask"]

SKY_COLUMN = Column("sky_source", "bool", "", "an empty place, not a source")


class SkyObjectsConfig(Config):
    """How many places, how large, and what they avoid."""

    n_objects: int = field(100, "Largest number of sky objects.", ge=0)
    radius: int = field(8, "Radius of the free disc around a place.", ge=1, unit="pixel")
    trials: int = field(0, "Trial positions; 0 for five times the number of objects.", ge=0)
    grow_mask: int = field(0, "Stay this much further away from masked pixels.", ge=0, unit="pixel")
    avoid_planes: list[str] = field(
        lambda: ["DETECTED", "DETECTED_NEGATIVE", "BAD", "NO_DATA"], "Mask planes that a disc must not touch."
    )


class SkyObjectsTask(Task):
    """Choose places without sources and append them to a catalogue."""

    Config = SkyObjectsConfig
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure", "catalog": "catalog"}
    writes: ClassVar[dict[str, str]] = {"catalog": "catalog"}

    def output_schema(self, schema: Schema) -> Schema:
        """Return the columns of the result for a catalogue of given columns."""
        return Schema([*schema.values(), SKY_COLUMN])

    def run(self, *, exposure: Exposure, catalog: Catalog, exposure_id: int | None = None) -> Result:
        """Append sky objects.

        Parameters
        ----------
        exposure : Exposure
            With the planes of the detection set.
        catalog : Catalog
            Not changed.
        exposure_id : int, optional
            Seed; of ``exposure.info`` when not given.

        Returns
        -------
        result : Result
            ``catalog`` with the column ``sky_source`` and the sky objects at its end; ``n_sky``.
        """
        config = self.config
        positions = place_sky_objects(
            exposure.mask.array, exposure.mask.planes.bits_present(*config.avoid_planes),
            seed=exposure.info.exposure_id if exposure_id is None else exposure_id, n_objects=config.n_objects,
            radius=config.radius, n_trials=config.trials or None, grow_mask=config.grow_mask, origin=exposure.origin,
        )  # fmt: skip
        n = len(positions)
        sources = catalog.with_columns({SKY_COLUMN: np.zeros(len(catalog), bool)})
        last = int(catalog["id"].max()) if len(catalog) else 0
        values = {
            "id": last + 1 + np.arange(n),
            "x": positions[:, 0],
            "y": positions[:, 1],
            "n_peaks": np.ones(n),
            "sky_source": np.ones(n, bool),
        }
        known = {name: value for name, value in values.items() if name in sources.schema}
        footprints = None if catalog.footprints is None else sky_footprints(positions, config.radius)
        sky = Catalog(sources.schema, known, n=n, footprints=footprints)
        joined = Catalog.concatenate([sources, sky])
        self.metadata["n_sky"] = n
        return Result(catalog=joined, n_sky=n)
