"""Aperture corrections: measured on stars, applied to every flux of every source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starmill.datamodel.catalog import Catalog, Column
from starmill.datamodel.exposure import Exposure
from starmill.datamodel.field import Field
from starmill.errors import AlgorithmError
from starmill.measurement.aperture_correction import ApertureCorrection, fit_aperture_correction
from starmill.tasks.base import Config, Result, Task, field

__all__ = ["ApertureCorrectionConfig", "ApertureCorrectionTask"]

CORRECTED_FLUXES = (
    "psf_flux",
    "weighted_psf_flux",
    "joint_psf_flux",
    "gaussian_flux",
    "kron_flux",
    "elliptical_flux",
    "petrosian_flux",
    "cmodel_flux",
    "sersic_flux",
    "aperture_flux_*",
    "compensated_gaussian_flux_*",
    "compensated_tophat_flux_*",
)


class ApertureCorrectionConfig(Config):
    """How fluxes are brought to one scale."""

    reference: str = field("slot_calib_flux", "Flux that all others are brought to, for stars.")
    fluxes: list[str] = field(
        lambda: list(CORRECTED_FLUXES), "Fluxes to correct: column prefixes, * stands for anything."
    )
    star_flag: str = field("psf_used", "Stars are the sources with this flag, when the catalogue has it.")
    min_snr: float = field(200.0, "Without that flag: smallest signal to noise of the reference flux.", gt=0)
    bad_flags: list[str] = field(
        lambda: [
            "pixel_flag_edge_center", "pixel_flag_saturated_center", "pixel_flag_interpolated_center", "slot_centroid_flag",
        ],
        "Sources with one of these flags are not used.",
    )  # fmt: skip
    isolation_radius: float = field(
        18.0, "Stars with other sources inside this radius are not used unless those are faint; 0 keeps all.",
        unit="pixel", ge=0,
    )  # fmt: skip
    max_neighbour_flux: float = field(
        0.03, "Largest flux of all sources inside that radius, as a part of the star's.", ge=0
    )
    min_stars: int = field(20, "With fewer isolated stars, crowded ones are used as well.", ge=1)
    order: int = field(
        2,
        "Largest order of the Chebyshev polynomials over the image; lower where the stars tell no more.",
        ge=0,
    )
    n_sigma: float = field(3.0, "Stars beyond this many standard deviations are left out.", gt=0)
    n_iterations: int = field(8, "Rounds of fitting and leaving out.", ge=1)
    min_degrees_of_freedom: int = field(1, "Stars less terms; the order is lowered to reach it.", ge=1)
    allow_failure: list[str] = field(
        list, "Fluxes (or *) that may stay uncorrected when the stars are too few."
    )


class ApertureCorrectionTask(Task):
    """Measure the correction of every flux on stars and apply it to all sources.

    For each flux the ratio of the reference flux to it is fitted over the image, by a constant or a polynomial as the
    stars ask for (:func:`~starmill.measurement.aperture_correction.fit_aperture_correction`); flux and error are then
    multiplied by the field. The fields stand in the result and in the exposure. A flux that was corrected
    already is brought back first, so that the task may run again.
    """

    Config = ApertureCorrectionConfig
    reads: ClassVar[dict[str, str]] = {"exposure": "exposure", "catalog": "catalog"}
    writes: ClassVar[dict[str, str]] = {
        "exposure": "exposure",
        "catalog": "catalog",
        "corrections": "aperture_corrections",
    }

    def run(self, *, exposure: Exposure, catalog: Catalog) -> Result:
        """Measure and apply.

        Parameters
        ----------
        exposure : Exposure
            Gives the box. Not changed.
        catalog : Catalog
            Measured sources. Not changed.

        Returns
        -------
        result : Result
            ``catalog`` with corrected fluxes and columns ``<flux>_correction``, ``_correction_err`` and
            ``_flag_correction``; ``exposure`` with the fields, sharing the pixels; ``corrections``, a dict
            of name to :class:`~starmill.measurement.aperture_correction.ApertureCorrection`.

        Raises
        ------
        AlgorithmError
            When the stars are too few and the flux is not in ``allow_failure``.
        """
        measured = self.measure(exposure, catalog)
        fields = {name: (c.field, c.error) for name, c in measured.items()}
        corrected = self.apply(catalog, fields, stars=measured)
        self.metadata["n_corrected"] = len(measured)
        with_fields = Exposure(
            exposure.masked_image, psf=exposure.psf, wcs=exposure.wcs, photo_scale=exposure.photo_scale,
            aperture_corrections={**exposure.aperture_corrections, **fields}, info=exposure.info,
            detector=exposure.detector,
        )  # fmt: skip
        return Result(catalog=corrected, exposure=with_fields, corrections=measured)

    def flux_names(self, catalog: Catalog) -> list[str]:
        """Return the prefixes of the fluxes that this catalogue has and the configuration asks for."""
        names = []
        for pattern in self.config.fluxes:
            for name in catalog.schema.extract(pattern):
                column = catalog.schema[name]
                plain = column.dtype.startswith("f") and f"{name}_err" in catalog.schema
                if plain and name not in names:
                    names.append(name)
        return names

    def measure(self, exposure: Exposure, catalog: Catalog) -> dict[str, ApertureCorrection]:
        """Return the corrections of all fluxes."""
        reference = catalog[self.config.reference]
        star = self.isolated(catalog, self.select(catalog, reference), reference)
        x, y = catalog["x"][star], catalog["y"][star]
        reference_err = catalog[f"{self.config.reference}_err"][star]
        found: dict[str, ApertureCorrection] = {}
        for name in self.flux_names(catalog):
            flux, flux_err = (self.uncorrected(catalog, name, part)[star] for part in ("", "_err"))
            flux = np.where(catalog_flag(catalog, name)[star], np.nan, flux)
            try:
                one = fit_aperture_correction(
                    x, y, flux, np.asarray(reference[star], np.float64), box=exposure.box, flux_err=flux_err,
                    reference_err=reference_err, order=self.config.order, n_sigma=self.config.n_sigma,
                    n_iterations=self.config.n_iterations,
                    min_degrees_of_freedom=self.config.min_degrees_of_freedom,
                )  # fmt: skip
            except AlgorithmError as failure:
                if name not in self.config.allow_failure and "*" not in self.config.allow_failure:
                    raise AlgorithmError(f"{name}: {failure.message}", numbers=failure.numbers) from failure
                self.log.warning("no aperture correction of %s: %s", name, failure)
                continue
            used = np.zeros(len(catalog), bool)
            used[np.flatnonzero(star)[one.used]] = True
            found[name] = replace(one, used=used)
        return found

    def select(self, catalog: Catalog, reference: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which sources are stars to measure the corrections on."""
        config = self.config
        if config.star_flag in catalog and catalog[config.star_flag].any():
            star = np.array(catalog[config.star_flag])
        else:
            error_name = f"{config.reference}_err"
            with np.errstate(all="ignore"):
                star = reference / catalog[error_name] > config.min_snr
            if "slot_shape_xx" in catalog and "slot_psf_shape_xx" in catalog:
                size = catalog["slot_shape_xx"] + catalog["slot_shape_yy"]
                psf = catalog["slot_psf_shape_xx"] + catalog["slot_psf_shape_yy"]
                with np.errstate(all="ignore"):
                    star &= np.abs(size / psf - 1) < 0.1  # not a galaxy
        for name in config.bad_flags:
            if name in catalog:
                star &= ~catalog[name]
        if "n_child" in catalog:
            star &= catalog["n_child"] == 0
        return np.asarray(star & (reference > 0))

    def isolated(
        self, catalog: Catalog, star: NDArray[np.bool_], reference: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return those of the stars that have no bright neighbour; all of them when that leaves too few."""
        radius = self.config.isolation_radius
        x, y = np.asarray(catalog["x"], np.float64), np.asarray(catalog["y"], np.float64)
        flux = catalog["slot_psf_flux"] if "slot_psf_flux" in catalog else reference  # noqa: SIM401  no get
        whole = catalog["n_child"] == 0 if "n_child" in catalog else np.ones(len(catalog), bool)
        others = np.flatnonzero(whole & np.isfinite(x + y + flux) & (flux > 0))
        rows = np.flatnonzero(star & np.isfinite(x + y))
        if not radius or not len(rows) or not len(others):
            return star
        tree = cKDTree(np.stack([x[others], y[others]], axis=1))
        near = tree.query_ball_point(np.stack([x[rows], y[rows]], axis=1), radius)
        around = np.array([flux[others[found]].sum() for found in near]) - np.where(
            whole[rows] & (flux[rows] > 0), flux[rows], 0.0
        )
        alone = np.zeros(len(catalog), bool)
        alone[rows[around <= self.config.max_neighbour_flux * flux[rows]]] = True
        self.metadata.update(n_stars=int(star.sum()), n_isolated=int(alone.sum()))
        return alone if alone.sum() >= min(self.config.min_stars, int(star.sum())) else star

    def uncorrected(self, catalog: Catalog, name: str, part: str = "") -> NDArray[np.float64]:
        """Return a flux, or its error (``part="_err"``), as it was measured."""
        flux = np.asarray(catalog[f"{name}{part}"], np.float64)
        return flux / catalog[f"{name}_correction"] if f"{name}_correction" in catalog else flux

    def apply(
        self,
        catalog: Catalog,
        fields: Mapping[str, tuple[Field, Field]],
        *,
        stars: dict[str, ApertureCorrection] | None = None,
    ) -> Catalog:
        """Return the catalogue with corrected fluxes.

        Parameters
        ----------
        catalog : Catalog
        fields : dict of str to (Field, Field)
            Factor and error by flux name, such as ``exposure.aperture_corrections``.
        stars : dict of str to ApertureCorrection, optional
            Adds the columns that tell which stars were used.
        """
        x, y = np.asarray(catalog["x"], np.float64), np.asarray(catalog["y"], np.float64)
        columns: dict[Column, NDArray[Any]] = {}
        for name, (factor_field, error_field) in fields.items():
            if name not in catalog.schema or f"{name}_err" not in catalog.schema:
                continue
            factor, factor_err = factor_field(x, y), error_field(x, y)
            bad = ~(np.isfinite(factor) & (factor > 0))
            factor = np.where(bad, 1.0, factor)
            done = f"{name}_correction" in catalog
            before = catalog[f"{name}_correction"] if done else 1.0
            flux, error = catalog.schema[name], catalog.schema[f"{name}_err"]
            columns[flux] = catalog[name] / before * factor
            columns[error] = catalog[error.name] / before * factor
            what = f"factor that {name} was multiplied by"
            columns[Column(f"{name}_correction", "f8", "", what)] = factor
            columns[Column(f"{name}_correction_err", "f8", "", f"error of {name}_correction")] = factor_err
            columns[Column(f"{name}_flag_correction", "bool", "", f"{name} could not be corrected")] = bad
            if stars is not None:
                what = f"used to measure the correction of {name}"
                columns[Column(f"{name}_correction_used", "bool", "", what)] = stars[name].used
        return catalog.with_columns(columns)


def catalog_flag(catalog: Catalog, name: str) -> NDArray[np.bool_]:
    """Return the general flag of a flux; False where there is none."""
    if f"{name}_flag" in catalog.schema:
        return np.asarray(catalog[f"{name}_flag"])
    return np.zeros(len(catalog), bool)
