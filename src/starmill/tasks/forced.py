"""Forced measurement: fluxes at given positions, with given shapes, on any exposure."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import MINIMAL_COLUMNS, Catalog, Column, Schema, source_ids
from starmill.datamodel.exposure import Exposure
from starmill.errors import InputError
from starmill.measurement.forced import disk_footprints, pixel_positions, require_positions, transform_shapes
from starmill.tasks.base import Result, field
from starmill.tasks.measure import SingleFrameMeasurementConfig, SingleFrameMeasurementTask

__all__ = ["ForcedMeasurementConfig", "ForcedMeasurementTask"]

REFERENCE_COLUMNS: tuple[Column, ...] = (
    Column("reference_id", "i8", "", "id of the source in the reference catalogue"),
    Column("reference_parent", "i8", "", "parent of the source in the reference catalogue"),
    Column(
        "reference_shape_xx", "f8", "pixel2", "second moment xx of the reference, pixels of this exposure"
    ),
    Column(
        "reference_shape_yy", "f8", "pixel2", "second moment yy of the reference, pixels of this exposure"
    ),
    Column(
        "reference_shape_xy", "f8", "pixel2", "second moment xy of the reference, pixels of this exposure"
    ),
)


class ForcedMeasurementConfig(SingleFrameMeasurementConfig):
    """What is measured at the given positions."""

    plugins: list[str] = field(
        lambda: [
            "forced_centroid",
            "forced_shape",
            "sky",
            "pixel",
            "psf_flux",
            "gaussian_flux",
            "aperture_flux",
        ],
        "Names of the measurements; each runs at its place in the order of execution.",
    )
    slots: dict[str, str] = field(
        lambda: {
            "centroid": "forced_centroid", "shape": "forced_shape", "psf_shape": "psf_shape", "psf_flux": "psf_flux",
            "gaussian_flux": "gaussian_flux", "model_flux": "gaussian_flux", "aperture_flux": "aperture_flux_12_0",
            "calib_flux": "aperture_flux_12_0",
        },
        "Recommended measurement for each purpose: column prefix by slot name.",
    )  # fmt: skip
    replace_neighbours: bool = field(
        False, "Replace the footprints of all other sources by noise while one is measured."
    )
    footprint_sigmas: float = field(
        3.0, "Radius of the round footprints (for mask flags) over the sigma of the PSF.", gt=0
    )


class ForcedMeasurementTask(SingleFrameMeasurementTask):
    """Measure at the positions of a reference catalogue.

    Positions come from ``ra, dec`` when the exposure has a WCS and the catalogue has them, else from ``x, y``
    in the parent frame of the exposure. Sources outside the exposure stay, with flags.
    """

    Config = ForcedMeasurementConfig
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure", "reference": "reference_catalog"}
    writes: ClassVar[dict[str, str]] = {"catalog": "forced_catalog"}

    @property
    def schema(self) -> Schema:
        """The columns of the catalogue, known before anything runs."""
        return self.output_schema(Schema([*MINIMAL_COLUMNS, *REFERENCE_COLUMNS]))

    def run(  # type: ignore[override]
        self,
        *,
        exposure: Exposure,
        reference: Catalog,
        reference_wcs: Any = None,
        exposure_id: int | None = None,
    ) -> Result:
        """Measure.

        Parameters
        ----------
        exposure : Exposure
            With a PSF. Not changed.
        reference : Catalog
            Positions, and shapes when it has a shape slot.
        reference_wcs : astropy.wcs.WCS, optional
            Of the image where the reference was measured; its shapes are then transformed, else they are
            taken as they are.
        exposure_id : int, optional
            Upper bits of the ids; of ``exposure.info`` when not given.

        Returns
        -------
        result : Result
            ``catalog``: one row per row of the reference, in its order.
        """
        wanted = self.make_catalog(exposure, reference, reference_wcs, exposure_id)
        return Result(catalog=self.measure_all(exposure, wanted, exposure_id))

    def make_catalog(
        self, exposure: Exposure, reference: Catalog, reference_wcs: Any, exposure_id: int | None
    ) -> Catalog:
        """Return the sources to measure: positions and shapes in the pixels of the exposure."""
        require_positions(set(reference.names))
        n = len(reference)
        if {"ra", "dec"} <= set(reference.names) and exposure.wcs is not None:
            x, y = pixel_positions(exposure.wcs, np.asarray(reference["ra"]), np.asarray(reference["dec"]))
        elif {"x", "y"} <= set(reference.names):
            x, y = (np.asarray(reference[c], np.float64) for c in ("x", "y"))
        else:
            raise InputError("the reference has sky positions only and the exposure has no WCS")
        moments = self.reference_shapes(exposure, reference, reference_wcs)
        known = reference.names
        columns = {
            "id": source_ids(n, exposure.info.exposure_id if exposure_id is None else exposure_id),
            "parent": np.zeros(n, np.int64),
            "x": x,
            "y": y,
            "reference_id": reference["id"] if "id" in known else np.arange(n),
            "reference_parent": reference["parent"] if "parent" in known else np.zeros(n, np.int64),
            "reference_shape_xx": moments[:, 0],
            "reference_shape_yy": moments[:, 1],
            "reference_shape_xy": moments[:, 2],
        }
        sigma = exposure.psf.sigma_at() if exposure.psf is not None else 1.5
        footprints = disk_footprints(x, y, self.config.footprint_sigmas * sigma, exposure.box)
        return Catalog(Schema([*MINIMAL_COLUMNS, *REFERENCE_COLUMNS]), columns, n=n, footprints=footprints)

    def reference_shapes(
        self, exposure: Exposure, reference: Catalog, reference_wcs: Any
    ) -> NDArray[np.float64]:
        """Return the second moments of the reference in the pixels of the exposure, NaN where unknown."""
        prefix = next((p for p in ("slot_shape", "shape", "reference_shape") if f"{p}_xx" in reference), None)
        if prefix is None:
            return np.full((len(reference), 3), np.nan)
        moments = np.column_stack([reference[f"{prefix}_{p}"] for p in ("xx", "yy", "xy")]).astype(np.float64)
        if reference_wcs is None or exposure.wcs is None or "x" not in reference:
            return moments
        x, y = (np.asarray(reference[c], np.float64) for c in ("x", "y"))
        return transform_shapes(moments, x, y, reference_wcs, exposure.wcs)
