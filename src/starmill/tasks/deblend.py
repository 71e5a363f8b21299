"""Deblending of a catalogue: parents stay, their children follow."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import FootprintSet
from starmill.deblending.children import Deblended
from starmill.deblending.symmetric_templates import SymmetricRules, deblend_symmetric
from starmill.detection.footprints import mark_footprints
from starmill.errors import AlgorithmError, InputError
from starmill.tasks.base import Config, Result, Task, field
from starmill.tasks.shared_pixels import with_pixels

__all__ = ["DEBLEND_COLUMNS", "SourceDeblendConfig", "SourceDeblendTask", "append_children"]

PARENT_COLUMNS: tuple[Column, ...] = (
    Column("n_child", "i4", "", "number of children that were split off"),
    Column("deblend_n_peaks", "i4", "", "number of peaks of the footprint; 1 for a child"),
    Column("deblend_parent_n_peaks", "i4", "", "number of peaks of the parent; 0 for a parent"),
    Column("deblend_skipped", "bool", "", "several peaks, but not deblended"),
    Column(
        "deblend_parent_too_big",
        "bool",
        "",
        "the footprint is larger than the limits of the deblender: it was skipped, or split with small templates; "
        "true on such children too, whose share of a bright halo is uncertain",
    ),
    Column("deblend_too_many_peaks", "bool", "", "only the brightest peaks were deblended"),
    Column("deblend_masked", "bool", "", "too much of the footprint has no data to deblend it"),
    Column("deblend_failed", "bool", "", "the deblender found no children"),
)
CHILD_COLUMNS: tuple[Column, ...] = (
    Column("deblend_peak_x", "i4", "pixel", "peak that the child was made from, parent frame"),
    Column("deblend_peak_y", "i4", "pixel", "peak that the child was made from, parent frame"),
    Column("deblend_peak", "i4", "", "number of this peak in the parent, brightest first"),
)
SYMMETRIC_COLUMNS: tuple[Column, ...] = (
    Column("deblended_as_psf", "bool", "", "the template is the point-spread function"),
    Column("deblend_psf_flux", "f8", "electron", "flux of the point source fitted at the peak, image unit"),
    Column("deblend_psf_x", "f8", "pixel", "position of the point source fitted at the peak, parent frame"),
    Column("deblend_psf_y", "f8", "pixel", "position of the point source fitted at the peak, parent frame"),
    Column("deblend_psf_chi2", "f8", "", "reduced chi squared of the point source fitted at the peak"),
    Column(
        "deblend_ramped_template",
        "bool",
        "",
        "the template was continued by a ramp at the edge of the footprint",
    ),
    Column("deblend_has_stray_flux", "bool", "", "has pixels that no template covers"),
)
DEBLEND_COLUMNS = (*PARENT_COLUMNS, *CHILD_COLUMNS, *SYMMETRIC_COLUMNS)
"""Columns that :class:`SourceDeblendTask` adds."""

_SYMMETRIC_NAMES = {
    "as_psf": "deblended_as_psf",
    "psf_flux": "deblend_psf_flux",
    "psf_x": "deblend_psf_x",
    "psf_y": "deblend_psf_y",
    "psf_chi2": "deblend_psf_chi2",
    "ramped_template": "deblend_ramped_template",
    "has_stray_flux": "deblend_has_stray_flux",
    "peak": "deblend_peak",
}


class SourceDeblendConfig(Config):
    """How blends are split by symmetric templates."""

    edge_handling: Literal["ramp", "clip", "noclip"] = field(
        "ramp", "Templates that are bright where the footprint ends."
    )
    stray_flux: Literal["trim", "r_to_peak", "r_to_footprint", "nearest_footprint"] = field(
        "trim", "Who gets pixels that no template covers: nobody, or children by their distance."
    )
    stray_flux_to_point_sources: Literal["necessary", "always", "never"] = field(
        "necessary", "Whether point sources take part in stray flux."
    )
    clip_stray_fraction: float = field(0.001, "Smaller parts of stray flux are dropped.", ge=0, lt=1)
    psf_chi2: tuple[float, float, float] = field(
        (1.5, 1.5, 1.5),
        "Largest reduced chi squared of a point source: plain, with shift, at the shifted place.",
    )
    psf_sweeps: int = field(
        2, "Rounds of the fits; after the first, neighbours stand where they were found.", ge=1
    )
    median_smooth: bool = field(True, "Smooth templates with a 5 x 5 median.")
    remove_degenerate: bool = field(False, "Drop the fainter of two peaks whose templates are alike.")
    max_overlap: float = field(0.5, "Cosine between templates above which they are alike.", gt=0, le=1)
    keep_parent_variance: bool = field(
        False, "Children get the variance of the whole pixel, not their share of it."
    )
    max_area: int = field(
        10_000, "Parents with more pixels count as big; 0 for no limit.", ge=0, unit="pixel"
    )
    max_width: int = field(0, "Parents with a longer box are skipped; 0 for no limit.", ge=0, unit="pixel")
    min_axis_ratio: float = field(0.0, "Parents with a narrower box are skipped.", ge=0, le=1)
    max_peaks: int = field(500, "Only the brightest peaks of a parent are deblended; 0 for no limit.", ge=0)
    max_work: int = field(
        20_000_000, "Parents with more template pixels in all are skipped; 0 for no limit.", ge=0
    )
    big_parent_radius: int = field(
        25,
        "Deblend parents beyond max_area with templates of this half size; 0 skips them.",
        ge=0,
        unit="pixel",
    )
    max_big_peaks: int = field(
        10_000, "Only the brightest peaks of a parent beyond max_area are deblended.", ge=1
    )
    max_masked_fraction: float = field(0.25, "Parents with more pixels without data are skipped.", ge=0, le=1)
    noise_planes: list[str] = field(
        lambda: ["SAT", "INTRP", "NO_DATA"], "Pixels of these planes do not count for the noise of the image."
    )
    not_deblended_plane: str = field("NOT_DEBLENDED", "Mask plane set on skipped parents; empty for none.")

    def rules(self) -> SymmetricRules:
        """Return the choices as the algorithm takes them."""
        return SymmetricRules(
            edge_handling=self.edge_handling,
            stray_rule=self.stray_flux,
            stray_to_psf=self.stray_flux_to_point_sources,
            clip_stray_fraction=self.clip_stray_fraction,
            psf_chi2=self.psf_chi2,
            psf_sweeps=self.psf_sweeps,
            median_smooth=self.median_smooth,
            remove_degenerate=self.remove_degenerate,
            max_overlap=self.max_overlap,
            keep_parent_variance=self.keep_parent_variance,
            max_area=self.max_area,
            max_width=self.max_width,
            max_peaks=self.max_peaks,
            max_work=self.max_work,
            big_parent_radius=self.big_parent_radius,
            max_big_peaks=self.max_big_peaks,
            min_axis_ratio=self.min_axis_ratio,
            max_masked=self.max_masked_fraction,
        )


class SourceDeblendTask(Task):
    """Split the sources with several peaks into children.

    The parents stay in the catalogue; every child points to its parent and owns a heavy footprint: its share of
    the pixels. Sources with one peak are untouched.
    """

    Config = SourceDeblendConfig
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure", "catalog": "catalog"}
    writes: ClassVar[dict[str, str]] = {"exposure": "exposure", "catalog": "catalog"}
    columns: ClassVar[tuple[Column, ...]] = DEBLEND_COLUMNS

    def output_schema(self, schema: Schema) -> Schema:
        """Return the columns of the result for a catalogue of given columns."""
        return schema + self.columns

    def run(self, *, exposure: Exposure, catalog: Catalog) -> Result:
        """Deblend a catalogue.

        Parameters
        ----------
        exposure : Exposure
            Background subtracted, with a PSF. Not changed.
        catalog : Catalog
            With footprints and peaks. Not changed.

        Returns
        -------
        result : Result
            ``catalog``: the parents in their order, then the children; ``exposure``: with the plane NOT_DEBLENDED
            on skipped parents; ``n_parents`` deblended, ``n_children``.

        Raises
        ------
        InputError
            When the catalogue has no footprints.
        AlgorithmError
            When the exposure has no PSF.
        """
        if catalog.footprints is None:
            raise InputError("a catalogue without footprints cannot be deblended: run the detection first")
        with self.timer("deblend"):
            found = self.deblend(exposure, catalog.footprints)
        columns = tuple(column.in_pixel_unit(exposure.unit) for column in self.columns)
        result = append_children(catalog, found, columns, self.child_columns(found))
        skipped = found.skipped
        marked = self.mark_skipped(exposure, catalog.footprints, skipped)
        self.metadata.update(
            n_parents=int((result["n_child"] > 0).sum()), n_children=len(found), n_skipped=int(skipped.sum())
        )
        self.log.info("%d children of %d parents", len(found), self.metadata["n_parents"])
        self.debug_hook("deblend", exposure=marked, catalog=result)
        return Result(
            exposure=marked, catalog=result, n_parents=self.metadata["n_parents"], n_children=len(found)
        )

    def deblend(self, exposure: Exposure, footprints: FootprintSet) -> Deblended:
        """Return the children of all footprints."""
        if exposure.psf is None:
            raise AlgorithmError("the exposure has no PSF", numbers={"n_psf": 0})
        planes = exposure.mask.planes
        return deblend_symmetric(
            exposure.image, exposure.variance, exposure.mask.array, footprints, exposure.psf, origin=exposure.origin,
            rules=self.config.rules(), noise_bits=planes.bits_present(*self.config.noise_planes),
            no_data_bits=planes.bits_present("NO_DATA"),
        )  # fmt: skip

    def child_columns(self, found: Deblended) -> dict[str, NDArray[Any]]:
        """Return the columns of the children by name."""
        return {_SYMMETRIC_NAMES[name]: values for name, values in found.values.items()}

    def mark_skipped(
        self, exposure: Exposure, footprints: FootprintSet, skipped: NDArray[np.bool_]
    ) -> Exposure:
        """Return the exposure with the skipped parents marked; the same one when there is nothing to mark."""
        plane = self.config.not_deblended_plane
        if not plane or not skipped.any():
            return exposure
        mask = exposure.mask.copy()
        mask.add_plane(plane)
        mark_footprints(mask.array, footprints.take(skipped), mask.bits(plane), mask.origin)
        return with_pixels(exposure, exposure.image, mask)


def append_children(
    catalog: Catalog, found: Deblended, columns: tuple[Column, ...], values: dict[str, NDArray[Any]]
) -> Catalog:
    """Return a catalogue with the columns of the deblender and the children at its end.

    Parameters
    ----------
    catalog : Catalog
        The parents.
    found : Deblended
        Children of the catalogue's footprints.
    columns : tuple of Column
        Columns that the deblender adds.
    values : dict of str to array
        Values of the children's own columns.
    """
    if catalog.footprints is None:
        raise InputError("a catalogue without footprints has no children")
    n_parents, n_children = len(catalog), len(found)
    n_peaks = catalog.footprints.n_peaks
    parent_values: dict[str, NDArray[Any]] = {
        "n_child": np.bincount(found.parent, minlength=n_parents),
        "deblend_n_peaks": n_peaks,
        "deblend_skipped": found.skipped,
        **{f"deblend_{name}": flags for name, flags in found.reasons.items()},
    }
    blank = {c: c.blank(n_parents) for c in columns}
    parents = catalog.with_columns({c: parent_values.get(c.name, blank[c]) for c in columns})
    peaks = found.footprints.peaks
    last = int(catalog["id"].max()) if n_parents else 0
    child_values: dict[str, NDArray[Any]] = {
        "id": last + 1 + np.arange(n_children),
        "parent": catalog["id"][found.parent],
        "x": peaks["x"],
        "y": peaks["y"],
        "n_peaks": np.ones(n_children, np.int32),
        "peak_value": peaks["value"],
        "peak_significance": peaks["significance"],
        "deblend_n_peaks": np.ones(n_children, np.int32),
        "deblend_parent_n_peaks": n_peaks[found.parent],
        "deblend_parent_too_big": found.reasons["parent_too_big"][found.parent],
        "deblend_peak_x": peaks["x"],
        "deblend_peak_y": peaks["y"],
        **values,
    }
    known = {name: v for name, v in child_values.items() if name in parents.schema}
    if "is_negative" in catalog:
        known["is_negative"] = catalog["is_negative"][found.parent]
    children = Catalog(parents.schema, known, n=n_children, footprints=found.footprints)
    joined = Catalog.concatenate([parents, children])
    joined.slots, joined.aliases, joined.meta = dict(catalog.slots), dict(catalog.aliases), dict(catalog.meta)
    return joined
