"""One source list on several maps: forced photometry with each map's own beam, and upper limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.catalog import MINIMAL_COLUMNS, Catalog, Column, Schema
from starmill.datamodel.cube import Beam, SkyMap
from starmill.errors import InputError
from starmill.tasks.base import Result, Task
from starmill.tasks.compact_sources import CompactSourcesTask
from starmill.tasks.compact_sources_config import CompactSourcesConfig
from starmill.tasks.config import Config, field

__all__ = ["ForcedMapsConfig", "ForcedMapsTask", "observed_shapes"]


class ForcedMapsConfig(Config):
    """Forced photometry of one source list on several maps."""

    limit: float = field(
        3.0, "fluxes below this many standard errors also get an upper limit", unit="sigma", gt=0
    )
    photometry: CompactSourcesConfig = field(CompactSourcesConfig, "how each map is measured")


def _ellipse(major: NDArray[Any], minor: NDArray[Any], angle: NDArray[Any]) -> NDArray[np.float64]:
    """Matrices (n, 2, 2) of squared widths in (east, north)."""
    t = np.radians(angle)
    along = np.stack([np.sin(t), np.cos(t)], -1)
    across = np.stack([np.cos(t), -np.sin(t)], -1)
    return (
        major[:, None, None] ** 2 * along[:, :, None] * along[:, None, :]
        + minor[:, None, None] ** 2 * across[:, :, None] * across[:, None, :]
    )


def observed_shapes(
    shapes: NDArray[np.float64] | None, reference: Beam | None, beam: Beam, n: int
) -> NDArray[np.float64]:
    """Return the sizes that sources have on a map with another beam.

    Parameters
    ----------
    shapes : (n, 3) array or None
        FWHM major, minor (arcsec) and position angle (degree) as observed with the reference beam; None for points.
    reference : Beam or None
        Beam that the shapes were observed with; None when the shapes are intrinsic.
    beam : Beam
        Of the new map.
    n : int
        Number of sources.

    Returns
    -------
    observed : (n, 3) array
        Beam and intrinsic size added in quadrature; negative intrinsic sizes count as zero.
    """
    target = np.broadcast_to(np.array([beam.major, beam.minor, beam.position_angle]), (n, 3))
    if shapes is None:
        return target.copy()
    squared = _ellipse(shapes[:, 0], shapes[:, 1], shapes[:, 2])
    if reference is not None:
        one = np.ones(n)
        squared = squared - _ellipse(
            reference.major * one, reference.minor * one, reference.position_angle * one
        )
    values, vectors = np.linalg.eigh(squared)
    squared = (vectors * np.maximum(values, 0.0)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    values, vectors = np.linalg.eigh(squared + _ellipse(target[:, 0], target[:, 1], target[:, 2]))
    angle = np.degrees(np.arctan2(vectors[:, 0, 1], vectors[:, 1, 1])) % 180.0
    return np.column_stack([np.sqrt(values[:, 1]), np.sqrt(values[:, 0]), angle])


class ForcedMapsTask(Task):
    """Measure the sources of one list on several maps at fixed positions and shapes."""

    Config = ForcedMapsConfig
    default_name = "forced_maps"
    reads: ClassVar[dict[str, str]] = {"sky_maps": "sky_maps"}
    writes: ClassVar[dict[str, str]] = {"catalog": "forced_compact_sources"}

    def run(
        self, *, sky_maps: Sequence[SkyMap], ra: NDArray[Any], dec: NDArray[Any],
        shapes: NDArray[Any] | None = None, reference: Beam | None = None,
    ) -> Result:  # fmt: skip
        """Measure.

        Parameters
        ----------
        sky_maps : sequence of SkyMap
            Each with its own beam, grid and unit; names must differ.
        ra, dec : (n,) arrays, degree (ICRS)
        shapes : (n, 3) array, optional
            FWHM major, minor (arcsec), position angle (degree) of the sources; points when not given.
        reference : Beam, optional
            Beam that ``shapes`` were observed with.

        Returns
        -------
        result : Result
            ``catalog``: ``flux_<map>``, ``flux_err_<map>``, ``upper_limit_<map>`` (Jy), ``flag_<map>`` (off the map or
            without data) for every map, one row per source of the list.
        """
        names = [sky_map.name for sky_map in sky_maps]
        if len(set(names)) != len(names):
            raise InputError(f"the maps need different names: {', '.join(names)}")
        n = len(ra)
        columns: dict[str, Any] = {"id": np.arange(1, n + 1), "ra": ra, "dec": dec}
        extra: list[Column] = [
            Column("ra", "f8", "deg", "right ascension"),
            Column("dec", "f8", "deg", "declination"),
        ]
        for sky_map in sky_maps:
            with self.timer(sky_map.name):
                measured = self._one_map(
                    sky_map, np.asarray(ra, float), np.asarray(dec, float), shapes, reference
                )
            for name, unit, meaning in (
                ("flux", "Jy", "flux"), ("flux_err", "Jy", "standard error of the flux"),
                ("upper_limit", "Jy", f"flux (not below 0) plus {self.config.limit:g} standard errors where not detected"),
            ):  # fmt: skip
                extra.append(Column(f"{name}_{sky_map.name}", "f8", unit, f"{meaning} on {sky_map.name}"))
                columns[f"{name}_{sky_map.name}"] = measured[name]
            extra.append(Column(f"flag_{sky_map.name}", "bool", "", f"no data on {sky_map.name}"))
            columns[f"flag_{sky_map.name}"] = measured["flag"]
        return Result(catalog=Catalog(Schema([*MINIMAL_COLUMNS, *extra]), columns, n=n))

    def _one_map(
        self,
        sky_map: SkyMap,
        ra: NDArray[Any],
        dec: NDArray[Any],
        shapes: NDArray[Any] | None,
        reference: Beam | None,
    ) -> dict[str, NDArray[Any]]:
        from astropy.coordinates import SkyCoord

        n = ra.size
        x, y = (np.asarray(v, float) for v in sky_map.wcs.world_to_pixel(SkyCoord(ra, dec, unit="deg")))
        ny, nx = sky_map.image.shape
        inside = np.isfinite(x) & np.isfinite(y) & (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
        place = np.flatnonzero(inside)
        with_data = sky_map.valid[np.rint(y[place]).astype(int), np.rint(x[place]).astype(int)]
        place = place[with_data]
        out = {name: np.full(n, np.nan) for name in ("flux", "flux_err", "upper_limit")}
        out["flag"] = np.ones(n, bool)
        if place.size == 0:
            return out
        target = observed_shapes(shapes, reference, sky_map.beam, n)[place]
        task = CompactSourcesTask(self.config.photometry, parent=self)
        catalog = task.run(sky_map=sky_map, positions=np.column_stack([x, y])[place], shapes=target).catalog
        out["flux"][place], out["flux_err"][place] = catalog["gaussian_flux"], catalog["gaussian_flux_err"]
        out["flag"][place] = catalog["fit_flag"]
        faint = out["flux"] < self.config.limit * out["flux_err"]
        limit = np.maximum(out["flux"], 0.0) + self.config.limit * out["flux_err"]
        out["upper_limit"] = np.where(faint, limit, np.nan)
        return out
