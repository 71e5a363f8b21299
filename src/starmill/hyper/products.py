"""FITS cutouts, background maps and figures of a photometered map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.cube import SkyMap
from starmill.hyper.options import HyperOptions
from starmill.io.cubes import write_map
from starmill.measurement.neighbours import draw_sources

__all__ = ["Cutout", "cutouts", "write_products"]


class Cutout:
    """One source or group: the pieces of the map around it.

    Attributes
    ----------
    name : str
        ``ID_1`` or, for a group, ``ID_1_2_3``.
    ids : list of int
    corner : (x, y)
        First pixel in the map.
    data, masked, model, residual, background : (ny, nx) float32 arrays, jansky per pixel
        Map minus background; the same with everything but the sources blank; models; what is left.
    """

    def __init__(
        self, name: str, ids: list[int], corner: tuple[int, int], planes: dict[str, NDArray[Any]]
    ) -> None:
        self.name, self.ids, self.corner = name, ids, corner
        self.data, self.masked, self.model = planes["data"], planes["masked"], planes["model"]
        self.residual, self.background = planes["residual"], planes["background"]


def cutouts(sky_map: SkyMap, result: Any, factor: float, *, single: bool) -> Iterator[Cutout]:
    """Yield the cutout of every group, or of every source of the groups with several members.

    Parameters
    ----------
    sky_map : SkyMap
    result : Result
        Of a compact-source task.
    factor : float
        Flux unit per pixel of one map unit.
    single : bool
        One cutout for each member of a group, the other members subtracted.
    """
    groups, sources, image = result.groups, result.sources, np.asarray(sky_map.image, np.float64)
    half = int(np.ceil(2.5 * 2.3548 * np.sqrt(np.prod(sky_map.beam_in_pixels()[:2]))))
    flat = (image - result.background) * factor
    scaled = sources.copy()
    scaled[:, 0] *= factor
    rest = flat - draw_sources(image.shape, scaled)
    for g in range(len(groups)):
        members = groups[g]
        if single and members.size == 1:
            continue
        for chosen in members[:, None] if single else [members]:
            x, y = sources[chosen, 1], sources[chosen, 2]
            x0, x1 = max(0, int(x.min()) - half), min(image.shape[1], int(x.max()) + half + 2)
            y0, y1 = max(0, int(y.min()) - half), min(image.shape[0], int(y.max()) + half + 2)
            box = slice(y0, y1), slice(x0, x1)
            local = scaled[chosen].copy()
            local[:, 1] -= x0
            local[:, 2] -= y0
            model = draw_sources((y1 - y0, x1 - x0), local)
            near = draw_sources((y1 - y0, x1 - x0), _unit_peaks(local)) > 0.01
            data = rest[box] + model
            planes = {
                "data": data, "masked": np.where(near, data, np.nan), "model": model, "residual": rest[box],
                "background": np.asarray(result.background[box], np.float64) * factor,
            }  # fmt: skip
            ids = [int(i) + 1 for i in chosen]
            yield Cutout(
                "ID_" + "_".join(map(str, ids)),
                ids,
                (x0, y0),
                {k: v.astype(np.float32) for k, v in planes.items()},
            )


def _unit_peaks(sources: NDArray[np.float64]) -> NDArray[np.float64]:
    out = sources.copy()
    out[:, 0] = 1.0
    return out


def write_products(sky_map: SkyMap, result: Any, options: HyperOptions, factor: float) -> list[Path]:
    """Write what the sections ``fits_output`` and ``visualization`` ask for; returns the files.

    Parameters
    ----------
    sky_map : SkyMap
    result : Result
    options : HyperOptions
    factor : float
        Flux unit per pixel of one map unit.
    """
    written: list[Path] = []
    unit = f"{options.flux_unit[0]}/pixel"
    stem = f"HYPER_MAP_{sky_map.name}_"
    for kind, single, pieces in (
        ("fitting", False, (("cutout", "data"), ("cutout_masked_full", "masked"), ("model", "model"),
                            ("residual", "residual"))),
        ("deblended", True, (("single_source_cutout", "data"), ("single_source_cutout_masked_full", "masked"),
                             ("single_source_model", "model"), ("single_source_residual", "residual"))),
        ("bg_separate", False, (("bg_masked3D", "background"),)),
    ):  # fmt: skip
        if not options[f"fits_output.fits_{kind}"]:
            continue
        folder = options.output_path(f"fits_output.fits_output_dir_{kind}")
        for cut in cutouts(sky_map, result, factor, single=single):
            for ending, plane in pieces:
                path = folder / f"{stem}{cut.name}_{ending}.fits"
                write_map(path, sky_map, getattr(cut, plane), unit, corner=cut.corner)
                written.append(path)
        written += _whole_maps(sky_map, result, folder, unit, factor, kind)
    return written + _figures(sky_map, result, options, factor)


def _whole_maps(
    sky_map: SkyMap, result: Any, folder: Path, unit: str, factor: float, kind: str
) -> list[Path]:
    """Write background, model, residual and rms of the whole map."""
    image = np.asarray(sky_map.image, np.float64)
    planes = {"background": result.background} if kind == "bg_separate" else {}
    if kind == "fitting":
        planes = {
            "model": result.model,
            "residual": image - result.background - result.model,
            "rms": result.rms,
        }
    paths = []
    for name, plane in planes.items():
        path = folder / f"HYPER_MAP_{sky_map.name}_{name}.fits"
        write_map(path, sky_map, np.asarray(plane) * factor, unit)
        paths.append(path)
    return paths


def _figures(sky_map: SkyMap, result: Any, options: HyperOptions, factor: float) -> list[Path]:
    wanted = [
        kind for kind in ("fitting", "deblended", "bg_separate") if options[f"visualization.visualize_{kind}"]
    ]
    paths: list[Path] = []
    unit = f"{options.flux_unit[0]}/pixel"
    if wanted:
        from starmill.diagnostics.map_figures import draw_cutouts

        for kind in wanted:
            folder = options.output_path(f"visualization.output_dir_{kind}")
            chosen = list(cutouts(sky_map, result, factor, single=kind == "deblended"))
            paths += draw_cutouts(
                chosen, folder, f"HYPER_MAP_{sky_map.name}_", unit, background=kind == "bg_separate"
            )
    if options["visualization.report"]:
        from starmill.diagnostics.map_report import write_report

        path = options.root / f"{options['files.file_table_base']}_{sky_map.name}.html"
        write_report(path, sky_map, result, list(cutouts(sky_map, result, factor, single=False)), unit)
        paths.append(path)
    return paths
