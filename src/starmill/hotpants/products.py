"""The files of a HOTPANTS run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from starmill import __version__
from starmill.hotpants.inputs import UNUSABLE
from starmill.hotpants.kernel_table import solution_vector
from starmill.hotpants.options import ConfigError, HotpantsError
from starmill.hotpants.regions import Region, RegionRun, assembled
from starmill.hotpants.statistics import final_merit, program_statistics, region_statistics
from starmill.hotpants.substamp import NOT_NEEDED, SubstampStatus

if TYPE_CHECKING:
    from starmill.hotpants.classic_session import ClassicHotpants
    from starmill.hotpants.options import HotpantsConfig
    from starmill.hotpants.session import Hotpants


__all__ = ["refuse_overwriting", "write_products", "write_run"]

_COLORS = {
    SubstampStatus.USED_IN_FINAL_FIT: "green",
    SubstampStatus.REJECTED_ITERATIVE_FIT: "yellow",
    SubstampStatus.PASSED_FOM_CHECK: "yellow",
    SubstampStatus.FOUND: "yellow",
    SubstampStatus.REJECTED_FOM_CHECK: "red",
}

_OBJECTS = {
    "CONVOLVED": "Convolved Image", "SIGMA": "Noise-scaled (sigma) Difference Image", "NOISE": "Noise Image",
    "MASK": "Output Mask Image",
}  # fmt: skip


def _paths(config: HotpantsConfig) -> list[str | None]:
    return [
        config.output_file, config.noise_image_file, config.mask_image_file, config.sigma_image_file,
        config.convolved_image_file, config.kernel_file,
    ]  # fmt: skip


def refuse_overwriting(config: HotpantsConfig, extra: dict[str, Any]) -> None:
    """Raise an error when ``-nc`` is set and a file of the run exists."""
    if extra.get("nc"):
        present = [p for p in _paths(config) if p and Path(p).exists()]
        if present:
            raise HotpantsError(f"-nc: {', '.join(present)} would be overwritten")
    if config.use_pca and (extra.get("hki") or config.kernel_file or "ki" in extra):
        raise ConfigError("a kernel table (-hki, -oki, -ki) needs a basis of Gaussians, not -pca")


def write_products(session: ClassicHotpants | Hotpants) -> None:
    """Write every file that the configuration of one session names."""
    ny, nx = session.box.shape
    region = Region(0, nx, 0, ny, 0, (ny, nx))
    write_run([RegionRun(region, session)], session.config, session.output_header, {})


def write_run(
    runs: list[RegionRun], config: HotpantsConfig, header: Mapping[str, Any] | None, extra: dict[str, Any]
) -> None:
    """Write every file of a run.

    Parameters
    ----------
    runs : list of RegionRun
        After ``convolve_and_difference``.
    config : HotpantsConfig
    header : header or None
        Copied to the files.
    extra : dict
        Layers and scaling of the command: ``cim nim ndm allm hki sht obs obz nsht nbs nbz mous command record recorded``;
        ``shape`` of the larger input.
    """
    if not any(_paths(config)) and not config.stamp_region_file:
        return
    planes = _padded(assembled(runs, config, fill=extra.get("mous", 1.0) >= 0), config, extra.get("shape"))
    noise = planes["noise_image"]
    sigma = None
    if config.sigma_image_file or extra.get("ndm") or extra.get("allm"):
        known = (noise > 0) & (planes["output_mask"] < UNUSABLE)
        sigma = np.where(known, planes["diff_image"] / np.where(known, noise, 1), config.fillval)
        sigma = sigma.astype(np.float32)
    planes["output_mask"] = _with_clipped(planes, sigma, extra)
    cards = _header_cards(runs, config, extra)
    table = None
    if extra.get("hki") or config.kernel_file:
        table = [_solution(run.session) for run in runs], kernel_cards(config)
    _write_main(planes, sigma, cards, table, (config, header, extra))
    _write_planes(planes, sigma, cards, table, (config, header, extra))
    if config.stamp_region_file:
        _write_stamp_regions(runs, Path(config.stamp_region_file))


def _padded(planes: dict[str, Any], config: HotpantsConfig, shape: tuple[int, int] | None) -> dict[str, Any]:
    """Return the planes with unusable pixels up to the size of the larger input."""
    if shape is None or planes["diff_image"].shape == shape:
        return planes
    ny, nx = planes["diff_image"].shape
    outside = {"noise_image": config.fillval_noise, "output_mask": UNUSABLE, "convolved_image": 0}
    out = dict(planes)
    for name in ("diff_image", "convolved_image", "noise_image", "output_mask"):
        if planes[name] is not None:
            out[name] = np.full(shape, outside.get(name, config.fillval), planes[name].dtype)
            out[name][:ny, :nx] = planes[name]
    return out


def _with_clipped(
    planes: dict[str, Any], sigma: NDArray[np.floating] | None, extra: dict[str, Any]
) -> NDArray[np.integer]:
    """Return the mask in which pixels that do not fit into the 16-bit integers to write are unusable too."""
    mask, written = planes["output_mask"], []
    if extra.get("sht"):
        low, high = _integer_limits(extra, "obs", "obz")
        written = [(image, low, high) for image in (planes["diff_image"], planes["convolved_image"], sigma)]
    if extra.get("nsht"):
        written.append((planes["noise_image"], *_integer_limits(extra, "nbs", "nbz")))
    for image, low, high in written:
        if image is not None:
            outside = ((image < low) | (image > high)) & (mask < UNUSABLE)
            mask = np.where(outside, mask | np.uint16(UNUSABLE), mask)
    return mask


def _integer_limits(extra: dict[str, Any], scale: str, zero: str) -> tuple[float, float]:
    """Return the lowest and the highest value that 16-bit integers of a scale hold."""
    bscale, bzero = _scale_of(extra, scale, zero)
    ends = np.array([-32768, 32767]) * bscale + bzero
    return ends.min(), ends.max()


def _scale_of(extra: dict[str, Any], scale: str, zero: str) -> tuple[float, float]:
    bscale, bzero = float(extra.get(scale, 1.0)), float(extra.get(zero, 0.0))
    if bscale == 0 or not np.isfinite([bscale, bzero]).all():
        raise ConfigError(
            f"a scale of 16-bit integers must be finite and not 0, not {bscale:g} and {bzero:g}"
        )
    return bscale, bzero


def _header_cards(
    runs: list[RegionRun], config: HotpantsConfig, extra: dict[str, Any]
) -> dict[str, float | str]:
    """Return the header cards of the difference: for each region direction, kernel sum, statistics."""
    cards = {}
    for number, run in enumerate(runs):
        cards |= {f"{name}{number:02d}": value for name, value in _region_cards(run, config).items()}
    names = {
        "DIFFCMD": extra.get("command"), "TARGET": extra.get("inim"), "TEMPLATE": extra.get("tmplim"),
        "DIFFIM": config.output_file, "DIFFINFO": extra.get("record"),
    } | extra.get("recorded", {})  # fmt: skip
    cards |= {name: str(value) for name, value in names.items() if value}
    return cards | {
        "PHOTNORM": config.normalize, "NREGION": len(runs), "MASKVAL": config.fillval, "SOFTNAME": "starmill",
        "SOFTVERS": __version__, "KERINFO": bool(extra.get("hki")),
    } | ({"KERFILE": str(config.kernel_file)} if config.kernel_file else {})  # fmt: skip


def _region_cards(run: RegionRun, config: HotpantsConfig) -> dict[str, float | str]:
    session, inner = run.session, run.region.inner
    planes = session.results
    mask = planes["output_mask"][inner]
    difference, noise = planes["diff_image"][inner], planes["noise_image"][inner]
    merits, used = session.fit.chi2, session.fit.used
    kept = merits[used & np.isfinite(merits)]
    mean, scatter = (kept.mean(), kept.std()) if len(kept) else (0.0, 0.0)
    mean, scatter = getattr(session.fit, "mean", mean), getattr(session.fit, "scatter", scatter)
    final = getattr(session.fit, "final", None) or final_merit(session)
    cards = {
        "REGION": run.region.section, "CONVOL": "TEMPLATE" if session.conv_direction == "t" else "IMAGE",
        "KSUM": round(session.kernel_sum, 7), "SSSIG": round(float(mean), 5), "SSSCAT": round(float(scatter), 5),
        "FSIG": round(final[0], 5), "FSCAT": round(final[1], 5),
    }  # fmt: skip
    statistics = program_statistics if config.classic else region_statistics
    cards |= statistics(difference, noise, mask, config.stat_sig)
    if session.touched_scale is None and min(cards["DSIGO"], cards["DSIGE"], cards["DSIG"]) > 0:
        ratio = cards["DSIGEO"] / cards["DSIGO"] / (cards["DSIGE"] / cards["DSIG"])
    else:
        ratio = session.touched_scale or 1.0
        cards["DSIGO"] = round(cards["DSIGO"] / max(ratio, 1.0), 6)  # before it was scaled
    return cards | {"NSCALO": round(ratio, 5)}


def kernel_cards(config: HotpantsConfig) -> dict[str, float]:
    """Return the cards of the kernel table."""
    cards = {
        "NGAUSS": config.ngauss,
        "FWKERN": 2 * config.rkernel + 1,
        "CKORDER": config.ko,
        "BGORDER": config.bgo,
    }
    for i, (sigma, degree) in enumerate(zip(config.sigma_gauss, config.deg_fixe, strict=True), 1):
        cards |= {f"DGAUSS{i}": degree, f"SGAUSS{i}": sigma}
    return cards


def _solution(session: ClassicHotpants | Hotpants) -> NDArray[np.floating]:
    """Return the solution of a session with its background, as the table holds it."""
    config = session.config
    if config.classic or not hasattr(session.fit, "model"):  # in the order of the table already
        terms, levels = ((n + 1) * (n + 2) // 2 for n in (config.ko, config.bgo))
        length = len(session._basis) * terms + levels + 1
        return np.pad(session.kernel_solution, (0, max(0, length - len(session.kernel_solution))))
    background = session.background.field if session.background is not None else None
    return solution_vector(session.fit.kernel, session._basis, session.config, background)


def _write_main(
    planes: dict[str, Any],
    sigma: NDArray[np.floating] | None,
    cards: dict[str, float | str],
    table: tuple[list[NDArray[np.floating]], dict[str, float]] | None,
    context: tuple[HotpantsConfig, Mapping[str, Any] | None, dict[str, Any]],
) -> None:
    from starmill.io.hotpants_files import write_layers

    config, header, extra = context
    if not config.output_file:
        return
    layers = [_scaled(planes["diff_image"], cards, extra, "sht", "obs", "obz")]
    if extra.get("cim") or extra.get("allm"):
        layers.append(_scaled(planes["convolved_image"], _titled("CONVOLVED"), extra, "sht", "obs", "obz"))
    if extra.get("ndm") or extra.get("allm"):
        layers.append(_scaled(sigma, _titled("SIGMA"), extra, "sht", "obs", "obz"))
    if extra.get("nim") or extra.get("allm"):
        head = _titled("NOISE") | _noise_cards(cards, config)
        layers.append(_scaled(planes["noise_image"], head, extra, "nsht", "nbs", "nbz"))
    write_layers(config.output_file, layers, header, table if extra.get("hki") else None)


def _titled(name: str, cards: dict[str, float | str] | None = None) -> dict[str, Any]:
    """Return the cards of a plane that is not the difference, with the object that the C program names."""
    return {"EXTNAME": name, **(cards or {}), "OBJECT": _OBJECTS[name]}


def _noise_cards(cards: dict[str, float | str], config: HotpantsConfig) -> dict[str, float]:
    """Return the cards that only a noise image has; gain and read noise of the science image are not its own."""
    scales = {name: value for name, value in cards.items() if name.startswith("NSCALO")}
    return {"GAIN": 1.0, "RDNOISE": 0.0, "MASKVAL": config.fillval_noise, **scales}


def _write_planes(
    planes: dict[str, Any],
    sigma: NDArray[np.floating] | None,
    cards: dict[str, float | str],
    table: tuple[list[NDArray[np.floating]], dict[str, float]] | None,
    context: tuple[HotpantsConfig, Mapping[str, Any] | None, dict[str, Any]],
) -> None:
    from starmill.io.hotpants_files import write_kernel_table, write_layers

    config, header, extra = context
    integers = (extra, "sht", "obs", "obz")
    if config.noise_image_file:
        head = _titled("NOISE", cards) | _noise_cards(cards, config)
        layer = _scaled(planes["noise_image"], head, extra, "nsht", "nbs", "nbz")
        write_layers(config.noise_image_file, [layer], header)
    if config.mask_image_file:
        write_layers(
            config.mask_image_file, [_unsigned(planes["output_mask"], _titled("MASK", cards))], header
        )
    for path, image, name in (
        (config.sigma_image_file, sigma, "SIGMA"), (config.convolved_image_file, planes["convolved_image"], "CONVOLVED")
    ):  # fmt: skip
        if path:
            write_layers(path, [_scaled(image, _titled(name, cards), *integers)], header)
    if config.kernel_file:
        solutions, table_cards = table
        write_kernel_table(
            config.kernel_file,
            solutions,
            table_cards | {"PHOTNORM": cards["PHOTNORM"]},
            cards | {"KERINFO": True},
        )


def _unsigned(
    mask: NDArray[np.integer], cards: dict[str, float | str]
) -> tuple[NDArray[np.integer], dict[str, float | str]]:
    """Return the layer of a mask of 16 bits as FITS stores it: signed integers above an offset."""
    stored = (mask.astype(np.uint16, copy=False) ^ np.uint16(UNUSABLE)).view(np.int16)
    return stored, {**cards, "BSCALE": 1, "BZERO": 32768}


def _scaled(
    image: NDArray[np.floating],
    cards: dict[str, Any],
    extra: dict[str, Any],
    flag: str,
    scale: str,
    zero: str,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return the layer, as 16-bit integers when the flag is set; values out of range are clipped."""
    if not extra.get(flag):
        return image, dict(cards)
    bscale, bzero = _scale_of(extra, scale, zero)
    stored = np.clip(np.rint((image - bzero) / bscale), -32768, 32767).astype(np.int16)
    return stored, {**cards, "BSCALE": bscale, "BZERO": bzero}


def _write_stamp_regions(runs: list[RegionRun], path: Path) -> None:
    """Write FILE (used), FILE.all and FILE.skipped with boxes of the substamps, 1-based."""
    from starmill.io.regions import write_regions

    groups = {path: [], Path(f"{path}.all"): [], Path(f"{path}.skipped"): []}
    for run in runs:
        session, origin = run.session, run.region.origin
        size = 2 * session.config.rss + 1
        for substamp in session.substamps_of(session.conv_direction):
            color = _COLORS[substamp.status]
            box = f"box({substamp.x + origin[0] + 1:.1f},{substamp.y + origin[1] + 1:.1f},{size},{size}) # color="
            groups[Path(f"{path}.all")].append(box + "yellow")
            if color == "green":
                groups[path].append(box + color)
            elif color == "red" or substamp.reason not in ("", NOT_NEEDED):
                groups[Path(f"{path}.skipped")].append(box + "red")
    for file, boxes in groups.items():
        write_regions(file, boxes)
