"""Characterise one exposure: background, cosmic rays, PSF, sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from scipy.spatial import cKDTree

from starmill.datamodel.catalog import Catalog, Schema
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import ChebyshevField, Field
from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError, NoDataError
from starmill.measurement.aperture_correction import ApertureCorrection
from starmill.tasks.aperture_correction import ApertureCorrectionConfig
from starmill.tasks.base import Config, Result, Task, field, subtask
from starmill.tasks.config import SubtaskConfig
from starmill.tasks.deblend import SourceDeblendConfig
from starmill.tasks.detect import SourceDetectionConfig
from starmill.tasks.install_psf import InstallGaussianPsfConfig
from starmill.tasks.measure import SingleFrameMeasurementConfig
from starmill.tasks.measure_psf import PSF_COLUMNS, MeasurePsfConfig
from starmill.tasks.repair import RepairConfig
from starmill.tasks.shared_pixels import with_pixels
from starmill.tasks.subtract_background import SubtractBackgroundConfig

__all__ = ["CharacterizeImageConfig", "CharacterizeImageTask", "characterize"]

_PSF_PLUGINS = ("peak", "centroid", "shape", "pixel", "psf_flux")


class CharacterizeImageConfig(Config):
    """The steps of the characterisation and how often they are run."""

    measure_psf_model: bool = field(True, "Measure the PSF; without it the PSF of the exposure is kept.")
    psf_iterations: int = field(2, "Rounds of repair, detection, measurement and PSF.", ge=1)
    use_simple_psf: bool = field(True, "Start every round from a Gaussian of the present width.")
    deep: bool = field(
        True,
        "After the PSF detect again, to the limit of `detect_deep`; else the catalogue holds the bright sources.",
    )
    deblend_bright: bool = field(
        False,
        "Deblend the bright sources, for stars in crowded fields; done anyway when all of them are blends.",
    )
    deblend_deep: bool = field(True, "Deblend the sources of the final catalogue.")
    correct_apertures: bool = field(
        False, "Bring the fluxes of the final catalogue to the scale of the calibration aperture."
    )
    install_psf: SubtaskConfig = subtask(InstallGaussianPsfConfig, "First guess of the PSF.")
    background: SubtaskConfig = subtask(SubtractBackgroundConfig, "Background of the whole image.")
    repair: SubtaskConfig = subtask(RepairConfig, "Cosmic rays and defects.")
    detect: SubtaskConfig = subtask(
        SourceDetectionConfig,
        "Bright sources for the PSF.",
        threshold=5.0,
        include_multiplier=10.0,
        use_local_background=False,
    )
    deblend: SubtaskConfig = subtask(SourceDeblendConfig, "Splits blends into children.")
    measure: SubtaskConfig = subtask(
        SingleFrameMeasurementConfig, "What the PSF needs of the bright sources.", plugins=list(_PSF_PLUGINS)
    )
    measure_psf: SubtaskConfig = subtask(MeasurePsfConfig, "PSF model.")
    detect_deep: SubtaskConfig = subtask(
        SourceDetectionConfig,
        "Sources of the final catalogue.",
        threshold=5.0,
        min_peak_drop=1.0,
        sharpen_peaks=True,
    )
    measure_deep: SubtaskConfig = subtask(SingleFrameMeasurementConfig, "Measurement of the final catalogue.")
    aperture_correction: SubtaskConfig = subtask(
        ApertureCorrectionConfig, "Corrections of the fluxes of the final catalogue.", allow_failure=["*"]
    )


class CharacterizeImageTask(Task):
    """Measure what an exposure is like: its background, PSF and sources.

    The PSF is needed to find cosmic rays and stars, and stars to measure the PSF: from a Gaussian guess the task
    goes round ``psf_iterations`` times, then repairs and measures with the PSF it has found.
    """

    Config = CharacterizeImageConfig
    default_name = "characterize"
    typical_cost: ClassVar[tuple[float, float] | None] = (0.55, 60)
    reads: ClassVar[dict[str, str]] = {"exposure": "post_isr"}
    writes: ClassVar[dict[str, str]] = {
        "characterized": "characterized", "catalog": "catalog", "background": "background", "psf_stars": "psf_stars",
    }  # fmt: skip

    def __init__(self, config: Any = None, **keywords: Any) -> None:
        super().__init__(config, **keywords)
        for name in (
            "install_psf", "background", "repair", "detect", "deblend", "measure", "measure_psf", "detect_deep",
            "measure_deep", "aperture_correction",
        ):  # fmt: skip
            self.make_subtask(name)

    @property
    def schema(self) -> Schema:
        """The columns of the catalogue, known before anything runs."""
        deep = self.config.deep
        before = self.subtasks["detect_deep" if deep else "detect"].schema
        if self.config.deblend_deep if deep else self.config.deblend_bright:
            before = self.subtasks["deblend"].output_schema(before)
        schema = self.subtasks["measure_deep"].output_schema(Schema([*before.values(), *PSF_COLUMNS]))
        return self._corrected_schema(schema) if self.config.correct_apertures else schema

    def run_in_place(self, name: str, **inputs: Any) -> Result:
        """Run a step that may change the exposure it is given, unless a debug hook keeps the exposures it was shown."""
        part = self.subtasks[name]
        return part.run(**inputs, **part.in_place(self._debug is None))

    def detect_in_place(self, name: str, before: Result, exposure: Exposure, exposure_id: int) -> Result:
        """Detect; what a detection with a wider PSF could not search is EDGE no longer."""
        if self._debug is not None:
            exposure = with_pixels(exposure, exposure.image, exposure.mask.copy())
        exposure.mask.clear("EDGE")
        exposure.mask.array.reshape(-1)[before.edge] |= exposure.mask.planes.bits_present("EDGE")
        found = self.run_in_place(
            name, exposure=exposure, background=before.background, exposure_id=exposure_id
        )
        found.edge = before.edge
        return found

    def all_blended(self, catalog: Catalog) -> bool:
        """Tell whether every source has several peaks, so that there is no star for a PSF; says so in the log."""
        n_peaks = np.zeros(0, np.int64) if catalog.footprints is None else catalog.footprints.n_peaks
        blended = len(n_peaks) > 0 and bool((n_peaks > 1).all())
        if blended:
            self.log.warning(
                "every bright source is a blend (%d sources, %d peaks): they are deblended",
                len(n_peaks),
                n_peaks.sum(),
            )
        return blended

    def empty_catalog(self) -> Catalog:
        """Return a catalogue without sources that has the columns of the result."""
        return Catalog(self.schema)

    def run(
        self,
        *,
        exposure: Exposure,
        background: list[Field] | None = None,
        exposure_id: int | None = None,
        in_place: bool = False,
    ) -> Result:
        """Characterise an exposure.

        Parameters
        ----------
        exposure : Exposure
            Without instrument signature, in electrons, with variance. Not changed unless ``in_place``.
        background : list of Field, optional
            Backgrounds that were subtracted before; the result's list starts with them.
        exposure_id : int, optional
            Upper bits of the source ids and seed of what is random; of ``exposure.info`` when not given.
        in_place : bool
            Use the pixels of the exposure itself, which needs less memory.

        Returns
        -------
        result : Result
            ``exposure`` and ``characterized``, the repaired, background-subtracted exposure with its PSF; ``catalog``;
            ``background``, list of the fields whose sum was subtracted; ``psf_stars``; ``psf_catalog``, the bright
            sources of the last round; ``is_psf_fallback`` and ``message``, set when there is no PSF model.

        Raises
        ------
        AlgorithmError
            The image has no usable pixel or variance, the PSF has no finite size, no stars for the PSF.
        """
        check_pixels(exposure)
        exposure_id = exposure.info.exposure_id if exposure_id is None else exposure_id
        backgrounds = list(background or [])
        work = exposure
        if self.config.measure_psf_model or exposure.psf is None:
            work = self.subtasks["install_psf"].run(exposure=work).exposure
        subtract = self.subtasks["background"]
        found = subtract.run(exposure=work, **subtract.in_place(in_place))
        work, backgrounds = found.exposure, backgrounds + list(found.background)
        if not in_place and share_pixels(work, exposure):  # from here on the steps change what they are given
            work = work.copy()
        rounds = self.config.psf_iterations if self.config.measure_psf_model else 1
        edge = np.flatnonzero(work.mask.any("EDGE"))
        bright = Result(exposure=work, background=backgrounds, edge=edge)
        for iteration in range(rounds):
            bright = self.detect_measure_and_estimate_psf(bright, iteration, exposure_id)
        check_sigma(bright.exposure)
        work = self.run_in_place("repair", exposure=bright.exposure).exposure
        self.debug_hook("repair", exposure=work)
        if self.config.deep:
            final = self.find_and_measure_deep(work, bright, exposure_id)
        else:
            final = self.subtasks["measure_deep"].run(
                exposure=work, catalog=bright.catalog, exposure_id=exposure_id
            )
            final.exposure, final.background = work, bright.background
        if self.config.correct_apertures:
            final = self.correct_apertures(final)
        self.debug_hook("measure", exposure=final.exposure, catalog=final.catalog)
        self.metadata.update(n_sources=len(final.catalog), n_bright=len(bright.catalog))
        return Result(
            exposure=final.exposure, characterized=final.exposure, catalog=final.catalog,
            background=final.background, psf_stars=bright.psf_stars, psf_catalog=bright.catalog,
            is_psf_fallback=bright.is_fallback, message=bright.message,
        )  # fmt: skip

    def detect_measure_and_estimate_psf(self, before: Result, iteration: int, exposure_id: int) -> Result:
        """Run one round: mark cosmic rays, detect, refine the background, measure, measure the PSF.

        Parameters
        ----------
        before : Result
            ``exposure`` with a PSF, whose pixels are changed, the ``background`` list, and ``edge``, the flat indices
            of pixels that came with the plane EDGE.
        iteration : int
        exposure_id : int

        Returns
        -------
        result : Result
            ``exposure`` with the new PSF, ``background``, ``edge``, ``catalog``, ``psf_stars``, ``is_fallback``,
            ``message``.
        """
        work = before.exposure
        if self.config.measure_psf_model and self.config.use_simple_psf and iteration > 0:
            work = self.subtasks["install_psf"].run(exposure=work).exposure
        work = self.run_in_place("repair", exposure=work, keep_cosmic_rays=True).exposure
        self.debug_hook("repair_iter", exposure=work, iteration=iteration)
        found = self.detect_in_place("detect", before, work, exposure_id)
        work = found.exposure
        self.debug_hook("background_iter", exposure=work, background=found.background, iteration=iteration)
        sources = found.catalog
        if self.config.deblend_bright or (self.config.deep and self.all_blended(sources)):
            sources = self.subtasks["deblend"].run(exposure=work, catalog=sources).catalog
        catalog = (
            self.subtasks["measure"].run(exposure=work, catalog=sources, exposure_id=exposure_id).catalog
        )
        if self.config.measure_psf_model:
            # a Gaussian of its width takes the place of the model before the next round
            width_only = self.config.use_simple_psf and iteration < self.config.psf_iterations - 1
            result = self.subtasks["measure_psf"].run(
                exposure=work, catalog=catalog, exposure_id=exposure_id, analytic_only=width_only
            )
            self.debug_hook("psf", exposure=result.exposure, catalog=result.catalog, psf=result.psf)
        else:
            columns = {column: column.blank(len(catalog)) for column in PSF_COLUMNS}
            result = Result(
                exposure=work,
                catalog=catalog.with_columns(columns),
                psf_stars=None,
                is_fallback=False,
                message="",
            )
        result.background, result.edge = found.background, found.edge
        self.debug_hook("measure_iter", exposure=result.exposure, catalog=result.catalog, iteration=iteration)
        return result

    def find_and_measure_deep(self, exposure: Exposure, bright: Result, exposure_id: int) -> Result:
        """Detect and measure all sources with the final PSF, on the exposure itself; flags of PSF stars are carried over.

        Returns
        -------
        result : Result
            ``exposure``, ``background``, ``catalog``.
        """
        found = self.detect_in_place("detect_deep", bright, exposure, exposure_id)
        work, sources = found.exposure, found.catalog
        if self.config.deblend_deep:
            parts = self.subtasks["deblend"].run(exposure=work, catalog=sources)
            work, sources = parts.exposure, parts.catalog
        catalog = carry_flags(bright.catalog, sources)
        measured = self.subtasks["measure_deep"].run(exposure=work, catalog=catalog, exposure_id=exposure_id)
        return Result(exposure=work, background=found.background, catalog=measured.catalog)

    def correct_apertures(self, before: Result) -> Result:
        """Correct the fluxes; those whose correction failed keep their values and are flagged."""
        result = self.subtasks["aperture_correction"].run(exposure=before.exposure, catalog=before.catalog)
        catalog = result.catalog
        missing = [c for c in self._corrected_schema(before.catalog.schema).values() if c.name not in catalog]
        blank = {c: np.ones(len(catalog), bool) if c.name.endswith("_flag_correction") else c.blank(len(catalog))
                 for c in missing}  # fmt: skip
        return Result(
            exposure=result.exposure, background=before.background, catalog=catalog.with_columns(blank)
        )

    def _corrected_schema(self, schema: Schema) -> Schema:
        """Return a schema with the columns of the aperture corrections."""
        task, empty, box = self.subtasks["aperture_correction"], Catalog(schema), Box(0, 0, 1, 1)
        one, none = ChebyshevField(box, [[1.0]]), ChebyshevField(box, [[0.0]])
        unit = ApertureCorrection(one, none, np.zeros(0, dtype=bool), 0.0)
        names = task.flux_names(empty)
        fields = dict.fromkeys(names, (unit.field, unit.error))
        corrected: Catalog = task.apply(empty, fields, stars=dict.fromkeys(names, unit))
        return corrected.schema


def share_pixels(one: Exposure, other: Exposure) -> bool:
    """Whether image, mask or variance of two exposures lie in the same memory."""
    planes = ((one.image, other.image), (one.mask.array, other.mask.array), (one.variance, other.variance))
    return any(np.may_share_memory(a, b) for a, b in planes)


def carry_flags(source: Catalog, target: Catalog, radius: float = 2.0) -> Catalog:
    """Return a catalogue with the flags of the PSF stars of another one, matched by position.

    Parameters
    ----------
    source, target : Catalog
    radius : float, pixel
        Largest distance of a match; parents of blends do not match.
    """
    flagged = np.flatnonzero(source["psf_candidate"])
    values = {column: np.zeros(len(target), dtype=bool) for column in PSF_COLUMNS}
    whole = target["n_child"] == 0 if "n_child" in target else np.ones(len(target), dtype=bool)
    rows = np.flatnonzero(np.isfinite(target["x"]) & np.isfinite(target["y"]) & whole)
    if len(flagged) and len(rows):
        tree = cKDTree(np.stack([target["x"][rows], target["y"][rows]], axis=1))
        stars = np.stack([source["x"][flagged], source["y"][flagged]], axis=1)
        distance, nearest = tree.query(stars, distance_upper_bound=radius)
        near = np.isfinite(distance)
        for column in PSF_COLUMNS:
            values[column][rows[nearest[near]]] = source[column.name][flagged[near]]
    return target.with_columns(values)


def check_pixels(exposure: Exposure) -> None:
    """Raise when an exposure cannot be characterised because of its pixels.

    Raises
    ------
    NoDataError
        No pixel at all.
    AlgorithmError
        Every pixel is masked or not finite, the image is constant, or no variance is positive.
    """
    image, variance = exposure.image, exposure.variance
    if image.size == 0:
        raise NoDataError("the image has no pixels")
    masked = exposure.mask.planes.bits_present("BAD", "NO_DATA")
    lowest, highest, usable, positive = np.inf, -np.inf, 0, 0
    for row in range(0, image.shape[0], 256):
        part = slice(row, row + 256)
        good = np.isfinite(image[part]) & ((exposure.mask.array[part] & masked) == 0)
        values = image[part][good]
        usable += values.size
        if values.size:
            lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
            positive += int((variance[part][good] > 0).sum())
    numbers = {"pixels": image.size, "usable_pixels": usable, "positive_variances": positive}
    if usable == 0:
        raise AlgorithmError(
            f"none of the {image.size} pixels can be used: all are masked or not finite", numbers=numbers
        )
    if positive == 0:
        raise AlgorithmError(f"none of the {usable} usable pixels has a positive variance", numbers=numbers)
    if lowest == highest:
        raise AlgorithmError(
            f"all {usable} usable pixels have the same value {lowest:g}", numbers={**numbers, "value": lowest}
        )


def check_sigma(exposure: Exposure) -> None:
    """Raise when the PSF of an exposure has no finite size."""
    sigma = float("nan") if exposure.psf is None else exposure.psf.sigma_at()
    if not np.isfinite(sigma):
        raise AlgorithmError("PSF sigma is NaN", numbers={"sigma": sigma})


def characterize(
    exposure: Exposure, config: CharacterizeImageConfig | Mapping[str, Any] | None = None
) -> Result:
    """Characterise an exposure: subtract the background, repair cosmic rays, measure the PSF and all sources.

    Parameters
    ----------
    exposure : Exposure
        In electrons, with variance. Not changed.
    config : CharacterizeImageConfig or mapping, optional
        A mapping overrides defaults by dotted names: ``{"measure_psf.determiner": "pca"}``.

    Returns
    -------
    result : Result
        See :meth:`CharacterizeImageTask.run`.
    """
    if config is None or isinstance(config, Mapping):
        config = CharacterizeImageConfig().override(config or {})
    return CharacterizeImageTask(config).run(exposure=exposure)
