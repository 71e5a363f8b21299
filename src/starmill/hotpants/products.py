"""The files of a HOTPANTS run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from starmill.hotpants.inputs import UNUSABLE
from starmill.hotpants.kernel_table import solution_vector
from starmill.hotpants.options import ConfigError, HotpantsError
from starmill.hotpants.regions import Region, RegionRun, assembled
from starmill.hotpants.substamp import SubstampStatus
from starmill.kernels.pixel_limits import difference_sums
from starmill.numerics.tiles import row_bands

__all__ = ["refuse_overwriting", "write_products", "write_run"]

_COLORS = {
    SubstampStatus.USED_IN_FINAL_FIT: "green",
    SubstampStatus.REJECTED_ITERATIVE_FIT: "yellow",
    SubstampStatus.PASSED_FOM_CHECK: "yellow",
    SubstampStatus.FOUND: "yellow",
    SubstampStatus.REJECTED_FOM_CHECK: "red",
}


def _paths(config):
    return [
        config.output_file, config.noise_image_file, config.mask_image_file, config.sigma_image_file,
        config.convolved_image_file, config.kernel_file,
    ]  # fmt: skip


def refuse_overwriting(config, extra):
    """Raise an error when ``-nc`` is set and a file of the run exists."""
    if extra.get("nc"):
        present = [p for p in _paths(config) if p and Path(p).exists()]
        if present:
            raise HotpantsError(f"-nc: {', '.join(present)} would be overwritten")
    if config.use_pca and (extra.get("hki") or config.kernel_file or "ki" in extra):
        raise ConfigError("a kernel table (-hki, -oki, -ki) needs a basis of Gaussians, not -pca")


def write_products(session):
    """Write every file that the configuration of one session names."""
    ny, nx = session.box.shape
    region = Region(0, nx, 0, ny, 0, (ny, nx))
    write_run([RegionRun(region, session)], session.config, session.output_header, {})


def write_run(runs, config, header, extra):
    """Write every file of a run.

    Parameters
    ----------
    runs : list of RegionRun
        After ``convolve_and_difference``.
    config : HotpantsConfig
    header : header or None
        Copied to the files.
    extra : dict
        Layers and scaling of the command: ``cim nim ndm allm hki sht obs obz nsht nbs nbz mous command record recorded``.
    """
    if not any(_paths(config)) and not config.stamp_region_file:
        return
    planes = assembled(runs, config, fill=extra.get("mous", 1.0) >= 0)
    noise = planes["noise_image"]
    sigma = None
    if config.sigma_image_file or extra.get("ndm") or extra.get("allm"):
        sigma = np.where(noise > 0, planes["diff_image"] / np.where(noise > 0, noise, 1), 0).astype(
            np.float32
        )
    cards = _header_cards(runs, config, extra)
    table = None
    if extra.get("hki") or config.kernel_file:
        table = [_solution(run.session) for run in runs], kernel_cards(config)
    _write_main(planes, sigma, cards, table, (config, header, extra))
    _write_planes(planes, sigma, cards, table, (config, header, extra))
    if config.stamp_region_file:
        _write_stamp_regions(runs, Path(config.stamp_region_file))


def _header_cards(runs, config, extra):
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
        "KERINFO": bool(extra.get("hki") or config.kernel_file),
    }  # fmt: skip


def _region_cards(run, config):
    session, inner = run.session, run.region.inner
    planes = session.results
    mask = planes["output_mask"][inner]
    difference, noise = planes["diff_image"][inner], planes["noise_image"][inner]
    merits, used = session.fit.chi2, session.fit.used
    kept = merits[used & np.isfinite(merits)]
    mean, scatter = (kept.mean(), kept.std()) if len(kept) else (0.0, 0.0)
    mean, scatter = getattr(session.fit, "mean", mean), getattr(session.fit, "scatter", scatter)
    final = session.final_merit()
    sums = np.zeros(6)
    difference_sums(difference, noise, mask, np.uint16(0xFFFF), np.float32(config.stat_sig), sums)
    n, noise_sum, chi2, n_near, total, squares = sums
    middle = total / max(n_near, 1)
    cards = {
        "REGION": run.region.section, "CONVOL": "TEMPLATE" if session.conv_direction == "t" else "IMAGE",
        "KSUM": round(session.kernel_sum, 7), "SSSIG": round(float(mean), 5), "SSSCAT": round(float(scatter), 5),
        "FSIG": round(final[0], 5), "FSCAT": round(final[1], 5),
        "X2NRM": round(chi2 / max(n, 1), 5), "NX2NRM": int(n), "DMEAN": round(middle, 6),
        "DSIGE": round(float(np.sqrt(max(squares / max(n_near, 1) - middle**2, 0))), 6),
        "DSIG": round(noise_sum / max(n, 1), 6),
    }  # fmt: skip
    values, sigma = _touched_pixels(difference, noise, mask)
    near = np.abs(values) < config.stat_sig * np.maximum(sigma, 1e-30)
    any_near = near.any()
    cards |= {
        "DMEANO": round(float(values[near].mean()), 6) if any_near else 0.0,
        "DSIGEO": round(float(values[near].std()), 6) if any_near else 0.0,
        "DSIGO": round(float(sigma.mean()), 6) if len(sigma) else 0.0,
    }
    if config.rescale_ok:
        cards["NSCALO"] = round(float(getattr(session, "touched_scale", 1.0)), 5)
    return cards


def _touched_pixels(difference, noise, mask):
    """Return difference and noise of the flagged but usable pixels, collected in bands of rows."""
    found = []
    for first, last in row_bands(len(mask)):
        rows = slice(first, last)
        where = (mask[rows] != 0) & (mask[rows] < UNUSABLE)
        found.append((difference[rows][where].astype(np.float64), noise[rows][where].astype(np.float64)))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def kernel_cards(config):
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


def _solution(session):
    """Return the solution of a session with its background, as the table holds it."""
    config = session.config
    if config.classic or not hasattr(session.fit, "model"):  # in the order of the table already
        terms, levels = ((n + 1) * (n + 2) // 2 for n in (config.ko, config.bgo))
        length = len(session._basis) * terms + levels + 1
        return np.pad(session.kernel_solution, (0, max(0, length - len(session.kernel_solution))))
    background = session.background.field if session.background is not None else None
    return solution_vector(session.fit.kernel, session._basis, session.config, background)


def _write_main(planes, sigma, cards, table, context):
    from starmill.io.hotpants_files import write_layers

    config, header, extra = context
    if not config.output_file:
        return
    layers = [_scaled(planes["diff_image"], cards, extra, "sht", "obs", "obz")]
    if extra.get("cim") or extra.get("allm"):
        layers.append((planes["convolved_image"], {"EXTNAME": "CONVOLVED"}))
    if extra.get("ndm") or extra.get("allm"):
        layers.append((sigma, {"EXTNAME": "SIGMA"}))
    if extra.get("nim") or extra.get("allm"):
        layers.append(_scaled(planes["noise_image"], {"EXTNAME": "NOISE"}, extra, "nsht", "nbs", "nbz"))
    write_layers(config.output_file, layers, header, table if extra.get("hki") else None)


def _write_planes(planes, sigma, cards, table, context):
    from starmill.io.hotpants_files import write_kernel_table, write_layers

    config, header, extra = context
    files = (
        (config.noise_image_file, _scaled(planes["noise_image"], cards, extra, "nsht", "nbs", "nbz")),
        (config.mask_image_file, _unsigned(planes["output_mask"], cards)),
        (config.sigma_image_file, (sigma, cards)),
        (config.convolved_image_file, (planes["convolved_image"], cards)),
    )
    for path, layer in files:
        if path:
            write_layers(path, [layer], header)
    if config.kernel_file:
        solutions, table_cards = table
        write_kernel_table(
            config.kernel_file, solutions, table_cards | {"PHOTNORM": cards["PHOTNORM"]}, cards
        )


def _unsigned(mask, cards):
    """Return the layer of a mask of 16 bits as FITS stores it: signed integers above an offset."""
    stored = (mask.astype(np.uint16, copy=False) ^ np.uint16(UNUSABLE)).view(np.int16)
    return stored, {**cards, "BSCALE": 1, "BZERO": 32768}


def _scaled(image, cards, extra, flag, scale, zero):
    """Return the layer, as 16-bit integers when the flag is set; values out of range are clipped."""
    if not extra.get(flag):
        return image, dict(cards)
    bscale, bzero = float(extra.get(scale, 1.0)), float(extra.get(zero, 0.0))
    if bscale == 0 or not np.isfinite([bscale, bzero]).all():
        raise ConfigError(
            f"a scale of 16-bit integers must be finite and not 0, not {bscale:g} and {bzero:g}"
        )
    stored = np.clip(np.rint((image - bzero) / bscale), -32768, 32767).astype(np.int16)
    return stored, {**cards, "BSCALE": bscale, "BZERO": bzero}


def _write_stamp_regions(runs, path):
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
            elif color == "red" or substamp.reason:
                groups[Path(f"{path}.skipped")].append(box + "red")
    for file, boxes in groups.items():
        write_regions(file, boxes)
