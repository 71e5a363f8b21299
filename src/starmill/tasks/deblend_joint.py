"""Deblending of a catalogue with one model for several bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.exposure import Exposure
from starmill.deblending.joint_blends import BandImage, deblend_joint
from starmill.deblending.joint_model import JointModelRules
from starmill.errors import AlgorithmError, InputError
from starmill.tasks.base import Config, Result, Task, field
from starmill.tasks.deblend import CHILD_COLUMNS, PARENT_COLUMNS, append_children

__all__ = ["JOINT_COLUMNS", "JointDeblendConfig", "JointDeblendTask"]

JOINT_COLUMNS: tuple[Column, ...] = (
    *PARENT_COLUMNS,
    *CHILD_COLUMNS,
    Column("deblend_model_flux", "f8", "electron", "flux of the joint model in this band, image unit"),
    Column("deblend_chi2", "f8", "", "reduced chi squared of the model of the whole blend, all bands"),
    Column("deblend_n_iterations", "i4", "", "steps that the fit took"),
    Column("deblend_not_converged", "bool", "", "the fit stopped at its largest number of steps"),
)


class JointDeblendConfig(Config):
    """The joint model and its limits."""

    model_sigma: float = field(
        0.8, "Sigma of the PSF of the model's own frame, narrower than all.", gt=0, unit="pixel"
    )
    max_iterations: int = field(200, "Most steps of a fit.", ge=5)
    min_iterations: int = field(20, "Fewest steps of a fit.", ge=0)
    tolerance: float = field(1e-3, "Relative change of chi squared at which a fit ends.", gt=0)
    noise_threshold: float = field(0.5, "Fainter pixels of a morphology are set to zero.", ge=0, unit="sigma")
    monotonic: bool = field(True, "Morphologies decline outwards.")
    two_component_snr: float = field(
        50.0, "Brighter sources have two components, with several bands; 0 for never.", ge=0
    )
    max_area: int = field(10_000, "Parents with more pixels are skipped.", ge=1, unit="pixel")
    max_peaks: int = field(100, "Only the brightest peaks of a parent are deblended.", ge=2)
    max_work: int = field(500_000, "Parents with more pixels times peaks are skipped.", ge=1)
    bad_planes: list[str] = field(
        lambda: ["BAD", "SAT", "CR", "NO_DATA"], "Pixels of these planes have no weight, interpolated or not."
    )


class JointDeblendTask(Task):
    """Split blends with one spectrum and one morphology per source, seen through the PSF of every band.

    The pixels of each band are then shared in proportion to the models, so that no light is lost.
    """

    Config = JointDeblendConfig
    reads: ClassVar[dict[str, str]] = {"exposures": "exposure", "catalog": "catalog"}
    writes: ClassVar[dict[str, str]] = {"catalogs": "catalog"}

    def output_schema(self, schema: Schema) -> Schema:
        """Return the columns of the results for a catalogue of given columns."""
        return schema + JOINT_COLUMNS

    def run(self, *, exposures: Mapping[str, Exposure], catalog: Catalog) -> Result:
        """Deblend a catalogue in all bands.

        Parameters
        ----------
        exposures : mapping of str to Exposure
            One per band, on the same box, background subtracted, with a PSF. One band will do.
        catalog : Catalog
            With footprints and peaks, valid for all bands.

        Returns
        -------
        result : Result
            ``catalogs``, by band: the parents in their order, then the children, with the same ids in all bands;
            ``n_parents``, ``n_children``.

        Raises
        ------
        InputError
            When the bands do not lie on the same pixels or the catalogue has no footprints.
        AlgorithmError
            When an exposure has no PSF.
        """
        wrong = {
            band: type(given).__name__ for band, given in exposures.items() if not isinstance(given, Exposure)
        }
        if wrong:
            raise InputError(f"JointDeblendTask needs an Exposure for every band, it was given {wrong}")
        if catalog.footprints is None:
            raise InputError("a catalogue without footprints cannot be deblended: run the detection first")
        boxes = {band: exposure.box for band, exposure in exposures.items()}
        if len(set(boxes.values())) != 1:
            raise InputError(f"the bands must lie on the same box, they have {boxes}")
        bands = []
        for name, exposure in exposures.items():
            if exposure.psf is None:
                raise AlgorithmError(f"the exposure of band {name!r} has no PSF", numbers={"n_psf": 0})
            bits = exposure.mask.planes.bits_present(*self.config.bad_planes)
            bad = ((exposure.mask.array & np.int32(bits)) != 0).astype(np.int32)
            bands.append(BandImage(exposure.image, exposure.variance, bad, exposure.psf))
        with self.timer("deblend"):
            found = deblend_joint(
                bands, catalog.footprints, origin=next(iter(boxes.values())).origin, rules=self.rules(), bad_bits=1,
                max_area=self.config.max_area, max_peaks=self.config.max_peaks, max_work=self.config.max_work,
            )  # fmt: skip
        catalogs = {}
        for name, children in zip(exposures, found, strict=True):
            values: dict[str, Any] = {f"deblend_{key}": value for key, value in children.values.items()}
            columns = tuple(column.in_pixel_unit(exposures[name].unit) for column in JOINT_COLUMNS)
            catalogs[name] = append_children(catalog, children, columns, values)
        n_children = len(found[0])
        n_parents = len(np.unique(found[0].parent))
        self.metadata.update(
            n_parents=n_parents, n_children=n_children, n_skipped=int(found[0].skipped.sum())
        )
        self.log.info("%d children of %d parents in %d bands", n_children, n_parents, len(bands))
        return Result(catalogs=catalogs, n_parents=n_parents, n_children=n_children)

    def rules(self) -> JointModelRules:
        """Return the choices as the algorithm takes them."""
        config = self.config
        return JointModelRules(
            model_sigma=config.model_sigma,
            max_iterations=config.max_iterations,
            min_iterations=config.min_iterations,
            tolerance=config.tolerance,
            noise_threshold=config.noise_threshold,
            monotonic=config.monotonic,
            two_component_snr=config.two_component_snr,
        )
