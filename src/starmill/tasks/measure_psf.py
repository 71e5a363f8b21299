"""Measure the PSF of an exposure from its stars."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.colour_psf import ColourPsf
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import FWHM_PER_SIGMA, GaussianPsf, Psf
from starmill.errors import AlgorithmError, InputError
from starmill.psf_modelling.candidates import StarStamps, extract_star_stamps, require_usable
from starmill.psf_modelling.colour_term import fit_colour_term
from starmill.psf_modelling.moffat import fit_moffat_psf
from starmill.psf_modelling.pixel_grid import fit_pixel_grid_psf
from starmill.psf_modelling.principal_components import fit_principal_component_psf
from starmill.psf_modelling.psf_stars import PsfStars, compare_stars_to_psf
from starmill.psf_modelling.star_selection import StarSelection, reserve_stars, select_stars
from starmill.tasks.base import Config, Result, Task, field
from starmill.tasks.install_psf import with_psf

__all__ = ["MeasurePsfConfig", "MeasurePsfTask", "PcaConfig", "PixelGridConfig", "StarSelectionConfig"]

PSF_COLUMNS: tuple[Column, ...] = (
    Column("psf_candidate", "bool", "", "chosen as a star for the PSF model"),
    Column("psf_used", "bool", "", "used in the PSF model"),
    Column("psf_reserved", "bool", "", "star kept out of the PSF model to test it"),
)
_STARS_OF_START = 150  # the analytic start of a pixel model, or a width, needs no more
_BAD_PLANES = ("BAD", "SAT", "INTRP", "CR", "NO_DATA", "SUSPECT")


class StarSelectionConfig(Config):
    """Which sources are stars fit for the PSF."""

    min_snr: float = field(50.0, "Smallest signal to noise of the PSF flux.", gt=0)
    min_width: float = field(0.6, "Smallest sqrt((xx + yy) / 2) of a star.", unit="pixel", gt=0)
    max_width: float = field(10.0, "Largest sqrt((xx + yy) / 2) of a star.", unit="pixel", gt=0)
    max_relative_width: float = field(0.15, "Largest relative distance from the size locus.", gt=0)
    sharp_width: float = field(
        1.0,
        "Moments of narrower stars depend on their place in the pixel: their locus is wider.",
        unit="pixel",
        ge=0,
    )
    max_relative_width_sharp: float = field(
        0.25, "Largest relative distance from the locus of such stars.", gt=0
    )
    n_sigma: float = field(2.5, "Largest distance from the size locus in standard deviations.", gt=0)
    bad_flags: list[str] = field(
        lambda: [
            "pixel_flag_edge_center", "pixel_flag_no_data", "pixel_flag_interpolated_center",
            "pixel_flag_saturated_center", "pixel_flag_cr_center", "pixel_flag_bad_center", "pixel_flag_suspect_center",
            "slot_centroid_flag", "psf_flux_flag",
        ],
        "Sources with one of these flags are not stars for the PSF; flags that the catalogue lacks are ignored.",
    )  # fmt: skip
    doubtful_flags: list[str] = field(
        lambda: ["shape_flag"],
        "The same where stars are wider than ``sharp_width``.",
    )
    min_core_fraction: float = field(
        0.9, "Smallest share of usable pixels, not masked and not a neighbour's, in the core.", ge=0, le=1
    )
    core_radius: float = field(2.5, "Radius of the core in units of the width of the stars.", gt=0)


class PixelGridConfig(Config):
    """Pixel-grid model."""

    samples_per_pixel: int | None = field(
        None, "Grid points per pixel; null for 2 when the FWHM is below three pixels, else 1.", ge=1, le=4
    )
    iterations: int | None = field(
        None,
        "Rounds of scaling, rejection and solution; null for 5 on a grid finer than the pixels, else 3.",
        ge=1,
    )


class PcaConfig(Config):
    """Principal-component model."""

    n_components: int = field(4, "Number of component images.", ge=1)
    cell_size: int = field(256, "Cells from which the brightest stars are taken.", unit="pixel", ge=16)
    stars_per_cell: int = field(3, "Stars of each cell for the components.", ge=1)
    stars_per_cell_fit: int = field(5, "Stars of each cell for the spatial fit.", ge=1)
    gappy_passes: int = field(10, "Largest number of passes that fill missing pixels.", ge=0)
    max_chi2: float = field(2.0, "Largest reduced chi squared of a star.", gt=0)
    iterations: int = field(3, "Rounds of components, spatial fit and rejection.", ge=1)


class MeasurePsfConfig(Config):
    """How the PSF is measured."""

    determiner: Literal["pca", "pixel_grid", "moffat", "gaussian"] = field(
        "pixel_grid",
        "Kind of model: principal components of the stars, a grid of pixels, or an elliptical profile.",
    )
    order: int = field(
        2, "Largest total Chebyshev order of the variation over the field; lowered for few stars.", ge=0
    )
    stamp_size: int | None = field(
        None, "Odd side of the stamps and PSF images; null for 26 times the width of the stars, 25 to 81.",
        unit="pixel", ge=9,
    )  # fmt: skip
    max_candidates: int = field(1000, "The brightest candidates of this number are used.", ge=1)
    min_stars: int = field(1, "Fewer stars are an error.", ge=1)
    reserve_fraction: float = field(
        0.0, "Share of the stars that is kept out of the model to test it.", ge=0, lt=1
    )
    n_sigma: float = field(3.0, "Stars further off the model in size or ellipticity are left out.", gt=0)
    recentre: bool = field(True, "Centre every star with the model.")
    colour_column: str | None = field(
        None,
        "Column of the catalogue with colours; a `pixel_grid` or `pca` model then has a term linear in them.",
        unit="mag",
    )
    allow_gaussian: bool = field(
        False,
        "When there are no stars for a model, keep a Gaussian of the width of the present PSF and say so.",
    )
    select: StarSelectionConfig = field(StarSelectionConfig, "Which sources are stars fit for the PSF.")
    pixel_grid: PixelGridConfig = field(PixelGridConfig, "Pixel-grid model.")
    pca: PcaConfig = field(PcaConfig, "Principal-component model.")


class MeasurePsfTask(Task):
    """Choose stars on the size locus, fit a PSF model to them, reject those that disagree."""

    Config = MeasurePsfConfig
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure", "catalog": "catalog"}
    writes: ClassVar[dict[str, str]] = {
        "exposure": "exposure", "catalog": "catalog", "psf": "psf", "psf_stars": "psf_stars",
    }  # fmt: skip

    @property
    def schema(self) -> Schema:
        """The columns that this task adds."""
        return Schema(PSF_COLUMNS)

    def run(
        self,
        *,
        exposure: Exposure,
        catalog: Catalog,
        exposure_id: int | None = None,
        analytic_only: bool = False,
    ) -> Result:
        """Measure the PSF.

        Parameters
        ----------
        exposure : Exposure
            Background subtracted. Not changed.
        catalog : Catalog
            Measured sources: position, shape, PSF flux, flags. Not changed.
        exposure_id : int, optional
            Seeds the choice of the reserved stars; of ``exposure.info`` when not given.
        analytic_only : bool
            Stop at the analytic profile that every model starts from, of the brightest stars, when only the width of
            the PSF is wanted.

        Returns
        -------
        result : Result
            ``exposure`` with the PSF, sharing the pixels; ``psf``; ``catalog`` with the flags ``psf_candidate``,
            ``psf_used``, ``psf_reserved``; ``psf_stars``, a :class:`PsfStars` or None; ``is_fallback``, True when there
            were no stars and the configuration allowed a Gaussian; ``message``, why.

        Raises
        ------
        AlgorithmError
            No stars, or too few that agree, and no Gaussian is allowed; a PSF without finite size.
        """
        seed = exposure.info.exposure_id if exposure_id is None else exposure_id
        try:
            with self.timer("select"):
                most = min(self.config.max_candidates, _STARS_OF_START) if analytic_only else None
                rows, stamps, width = self.choose_candidates(exposure, catalog, most)
            reserved = reserve_stars(len(rows), self.config.reserve_fraction, seed)
            colour = self.colours(catalog, rows)
            offered = None if colour is None else colour[~reserved]
            with self.timer("fit"):
                psf, used = self.fit(stamps.take(~reserved), exposure, width, analytic_only, offered)
        except AlgorithmError as error:
            if not self.config.allow_gaussian:
                raise
            return self.gaussian_instead(exposure, catalog, error)
        _check_psf(psf)
        in_fit = np.zeros(len(rows), dtype=bool)
        in_fit[np.flatnonzero(~reserved)[used]] = True
        with self.timer("residuals"):
            own = psf.at_colour(colour) if isinstance(psf, ColourPsf) else psf
            stars = compare_stars_to_psf(stamps, own, catalog["id"][rows], in_fit, reserved)
        flags = {name: np.zeros(len(catalog), dtype=bool) for name in ("candidate", "used", "reserved")}
        flags["candidate"][rows], flags["used"][rows], flags["reserved"][rows] = True, in_fit, reserved
        self.record(psf, stars)
        self.debug_hook("psf", exposure=exposure, psf=psf, psf_stars=stars)
        columns = {column: flags[column.name.removeprefix("psf_")] for column in PSF_COLUMNS}
        return Result(
            exposure=with_psf(exposure, psf), psf=psf, catalog=catalog.with_columns(columns), psf_stars=stars,
            is_fallback=False, message="",
        )  # fmt: skip

    def choose_candidates(
        self, exposure: Exposure, catalog: Catalog, most: int | None = None
    ) -> tuple[NDArray[np.int64], StarStamps, float]:
        """Return the catalogue rows of the brightest candidates, their stamps and their typical width in pixels."""
        config = self.config
        most = config.max_candidates if most is None else most
        selection = self.select(catalog)
        self.metadata.update({f"n_{name}": number for name, number in selection.numbers.items()})
        width = float(np.median(selection.width[selection.selected]))
        rows = np.flatnonzero(selection.selected)
        if len(rows) > most:
            flux = np.nan_to_num(_flux(catalog)[0][rows])
            rows = np.sort(rows[np.argsort(-flux, kind="stable")[:most]])
        planes = exposure.mask.planes
        neighbour_x, neighbour_y = _peaks(catalog)
        stamps = extract_star_stamps(
            exposure.image, exposure.variance, exposure.mask.array, catalog["x"][rows], catalog["y"][rows],
            size=config.stamp_size or automatic_stamp_size(width), bad_bits=planes.bits_present(*_BAD_PLANES),
            detected_bits=planes.bits_present("DETECTED"), neighbour_x=neighbour_x, neighbour_y=neighbour_y,
            origin=exposure.origin,
        )  # fmt: skip
        usable = require_usable(
            stamps, config.select.core_radius * width,
            min_fraction=config.select.min_core_fraction, min_stars=config.min_stars,
        )  # fmt: skip
        return rows[usable], stamps.take(usable), width

    def select(self, catalog: Catalog) -> StarSelection:
        """Return the stars of a catalogue by flags, signal to noise and size."""
        options = self.config.select
        bad, doubtful = (
            np.any(
                [np.zeros(len(catalog), bool), *(catalog[name] for name in names if name in catalog)], axis=0
            )
            for names in (options.bad_flags, options.doubtful_flags)
        )
        if "n_child" in catalog:
            bad |= catalog["n_child"] > 0
        flux, flux_err = _flux(catalog)
        xx, yy, xy = (catalog[f"slot_shape_{part}"] for part in ("xx", "yy", "xy"))
        return select_stars(
            flux, flux_err, xx, yy, xy, catalog["x"], catalog["y"], bad, doubtful=doubtful, min_snr=options.min_snr,
            min_width=options.min_width, max_width=options.max_width, max_relative_width=options.max_relative_width,
            sharp_width=options.sharp_width, max_relative_width_sharp=options.max_relative_width_sharp,
            n_sigma=options.n_sigma, min_stars=self.config.min_stars,
        )  # fmt: skip

    def colours(self, catalog: Catalog, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return the colours of the candidates, magnitude; None without a colour term."""
        name = self.config.colour_column
        if name is None:
            return None
        if self.config.determiner not in ("pixel_grid", "pca"):
            raise InputError(f"a {self.config.determiner} PSF has no colour term")
        return np.asarray(catalog[name], np.float64)[rows]

    def fit(
        self,
        stamps: StarStamps,
        exposure: Exposure,
        width: float,
        analytic_only: bool = False,
        colour: NDArray[np.float64] | None = None,
    ) -> tuple[Psf, NDArray[np.bool_]]:
        """Fit the configured model; returns the PSF and which of the stamps it used."""
        config, box = self.config, exposure.box
        profile = "gaussian" if config.determiner == "gaussian" else "moffat"
        analytic_only = analytic_only or config.determiner in ("moffat", "gaussian")
        start = stamps if analytic_only else stamps.take(_brightest(stamps, _STARS_OF_START))
        analytic, _, kept = fit_moffat_psf(
            start, box, width, profile=profile, order=config.order, min_stars=config.min_stars
        )
        if analytic_only:
            return analytic, kept
        common = {
            "order": config.order, "n_sigma": config.n_sigma, "recentre": config.recentre, "min_stars": config.min_stars,
        }  # fmt: skip
        if config.determiner == "pca":
            options = config.pca
            fit = fit_principal_component_psf(
                stamps, box, analytic, n_components=options.n_components, cell_size=options.cell_size,
                stars_per_cell=options.stars_per_cell, stars_per_cell_fit=options.stars_per_cell_fit,
                gappy_passes=options.gappy_passes, max_chi2=options.max_chi2, iterations=options.iterations, **common,
            )  # fmt: skip
        else:
            samples = config.pixel_grid.samples_per_pixel or (2 if FWHM_PER_SIGMA * width < 3.0 else 1)
            fit = fit_pixel_grid_psf(
                stamps,
                box,
                analytic,
                samples_per_pixel=samples,
                iterations=config.pixel_grid.iterations,
                **common,
            )
        if colour is not None:
            return fit_colour_term(stamps, fit, colour, n_sigma=config.n_sigma)
        return fit.psf, fit.used

    def record(self, psf: Psf, stars: PsfStars) -> None:
        """Keep the numbers that describe the model."""
        sigma = psf.sigma_at()
        rows = np.flatnonzero(stars.used)
        some = rows[:: max(len(rows) // 25, 1)]  # enough for a median
        xx, yy, xy = psf.shapes_at(stars.x[some], stars.y[some]).T
        median = float(np.nanmedian((xx * yy - xy**2) ** 0.25)) if len(some) else sigma
        self.metadata.update(
            median_fwhm=FWHM_PER_SIGMA * median,
            n_candidates=len(stars), n_used=int(stars.used.sum()), n_reserved=int(stars.reserved.sum()),
            sigma=sigma, fwhm=FWHM_PER_SIGMA * sigma, is_fallback=False,
        )  # fmt: skip
        self.log.info(
            "PSF of FWHM %.3f pixels from %d of %d stars", self.metadata["fwhm"], stars.used.sum(), len(stars)
        )

    def gaussian_instead(self, exposure: Exposure, catalog: Catalog, error: AlgorithmError) -> Result:
        """Return a Gaussian of the width of the present PSF, and why."""
        if exposure.psf is None:
            raise error
        sigma = exposure.psf.sigma_at()
        if not (np.isfinite(sigma) and sigma > 0):
            raise error
        psf = GaussianPsf(sigma, None, exposure.box.center)
        self.log.warning("no PSF model, a Gaussian of sigma %.3f pixels stands for it: %s", sigma, error)
        self.metadata.update(is_fallback=True, fallback_reason=str(error), sigma=sigma, n_used=0)
        columns = {column: np.zeros(len(catalog), dtype=bool) for column in PSF_COLUMNS}
        return Result(
            exposure=with_psf(exposure, psf), psf=psf, catalog=catalog.with_columns(columns), psf_stars=None,
            is_fallback=True, message=str(error),
        )  # fmt: skip


def _brightest(stamps: StarStamps, number: int) -> NDArray[np.int64]:
    """Return the indices of the stamps with the brightest cores, in their order."""
    half = stamps.size // 2
    core = np.where(stamps.good, stamps.images, 0)[:, half - 1 : half + 2, half - 1 : half + 2].sum(
        axis=(1, 2)
    )
    return np.sort(np.argsort(-core, kind="stable")[:number])


def automatic_stamp_size(width: float) -> int:
    """Return the odd side of stamps for stars of a width (1 sigma) in pixels: 13 sigma to each side, 25 to 81."""
    return int(np.clip(2 * int(np.ceil(13.0 * width)) + 1, 25, 81))


def _flux(catalog: Catalog) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the flux that ranks the stars, and its error."""
    return catalog["slot_psf_flux"], catalog["slot_psf_flux_err"]


def _peaks(catalog: Catalog) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions of all peaks of the footprints, or of the sources when there are no footprints."""
    if catalog.footprints is None or not len(catalog.footprints.peaks):
        return catalog["x"], catalog["y"]
    peaks = catalog.footprints.peaks
    return peaks["x"].astype(np.float64), peaks["y"].astype(np.float64)


def _check_psf(psf: Psf) -> None:
    """Raise when a PSF has no finite size at its average position."""
    sigma = psf.sigma_at()
    if not (np.isfinite(sigma) and sigma > 0):
        raise AlgorithmError(
            f"PSF sigma is {sigma}: the model has no finite size", numbers={"sigma": float(sigma)}
        )
