"""The files of a HOTPANTS run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from starmill.hotpants.kernel_table import solution_vector
from starmill.hotpants.options import HotpantsError
from starmill.hotpants.substamp import SubstampStatus

__all__ = ["header_cards", "write_products"]

_COLORS = {
    SubstampStatus.USED_IN_FINAL_FIT: "green",
    SubstampStatus.REJECTED_ITERATIVE_FIT: "yellow",
    SubstampStatus.PASSED_FOM_CHECK: "yellow",
    SubstampStatus.FOUND: "yellow",
    SubstampStatus.REJECTED_FOM_CHECK: "red",
}


def write_products(session, extra=None):
    """Write every file that the configuration names.

    Parameters
    ----------
    session : Hotpants
        After ``convolve_and_difference``.
    extra : dict, optional
        Layers and scaling of the command: ``cim nim ndm allm hki sht obs obz nsht nbs nbz nc mous origin``.
    """
    config, extra = session.config, extra or {}
    paths = [
        config.output_file, config.noise_image_file, config.mask_image_file, config.sigma_image_file,
        config.convolved_image_file, config.kernel_file,
    ]  # fmt: skip
    if extra.get("nc"):
        present = [p for p in paths if p and Path(p).exists()]
        if present:
            raise HotpantsError(f"-nc: {', '.join(present)} would be overwritten")
    if not any(paths) and not config.stamp_region_file:
        return
    products = session.get_final_outputs()
    if extra.get("mous", 1.0) < 0:
        products |= session.unfilled()
    noise = products["noise_image"]
    sigma = np.where(noise > 0, products["diff_image"] / np.where(noise > 0, noise, 1), 0).astype(np.float32)
    cards = header_cards(session, products)
    _write_main(session, products, sigma, cards, extra)
    _write_planes(session, products, sigma, cards, extra)
    if config.stamp_region_file:
        _write_stamp_regions(session, Path(config.stamp_region_file), extra.get("origin", (0, 0)))


def header_cards(session, products):
    """Return the header cards of the difference: direction, kernel sum, statistics."""
    stats, fit, config = products["stats"], products["fit_stats"], session.config
    ny, nx = products["diff_image"].shape
    good = products["output_mask"] == 0
    ratio = products["diff_image"][good] / np.maximum(products["noise_image"][good], 1e-30)
    return {
        "REGION00": f"[1:{nx},1:{ny}]", "CONVOL00": "TEMPLATE" if session.conv_direction == "t" else "IMAGE",
        "KSUM00": round(session.kernel_sum, 7), "SSSIG00": round(fit["meansig"], 5), "SSSCAT00": round(fit["scatter"], 5),
        "FSIG00": round(fit["meansig"], 5), "FSCAT00": round(fit["scatter"], 5), "X2NRM00": round(stats["x2norm"], 5),
        "NX2NRM00": stats["nx2norm"], "DMEAN00": round(stats["diff_mean"], 6), "DSIGE00": round(stats["diff_std"], 6),
        "DSIG00": round(float(ratio.std()) if good.any() else 0.0, 6),
        "PHOTNORM": {"t": "TEMPLATE", "i": "IMAGE", "u": "NONE"}[config.normalize], "NREGION": 1, "MASKVAL": config.fillval,
        "SOFTNAME": "starmill",
    }  # fmt: skip


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


def _table(session):
    config = session.config
    return solution_vector(
        session.fit.kernel, session._basis, config, session.background.field
    ), kernel_cards(config)


def _write_main(session, products, sigma, cards, extra):
    from starmill.io.hotpants_files import write_layers

    config = session.config
    if not config.output_file:
        return
    layers = [_scaled(products["diff_image"], cards, extra, "sht", "obs", "obz")]
    if extra.get("cim") or extra.get("allm"):
        layers.append((products["convolved_image"], {"EXTNAME": "CONVOLVED"}))
    if extra.get("ndm") or extra.get("allm"):
        layers.append((sigma, {"EXTNAME": "SIGMA"}))
    if extra.get("nim") or extra.get("allm"):
        layers.append(_scaled(products["noise_image"], {"EXTNAME": "NOISE"}, extra, "nsht", "nbs", "nbz"))
    table = _table(session) if extra.get("hki") else None
    write_layers(config.output_file, layers, session.output_header, table)


def _write_planes(session, products, sigma, cards, extra):
    from starmill.io.hotpants_files import write_kernel_table, write_layers

    config, header = session.config, session.output_header
    planes = (
        (config.noise_image_file, _scaled(products["noise_image"], cards, extra, "nsht", "nbs", "nbz")),
        (config.mask_image_file, (products["output_mask"].astype(np.uint16), cards)),
        (config.sigma_image_file, (sigma, cards)),
        (config.convolved_image_file, (products["convolved_image"], cards)),
    )
    for path, layer in planes:
        if path:
            write_layers(path, [layer], header)
    if config.kernel_file:
        solution, table_cards = _table(session)
        write_kernel_table(config.kernel_file, solution, table_cards | {"PHOTNORM": cards["PHOTNORM"]})


def _scaled(image, cards, extra, flag, scale, zero):
    """Return the layer, as 16-bit integers when the flag is set; values out of range are clipped."""
    if not extra.get(flag):
        return image, dict(cards)
    bscale, bzero = float(extra.get(scale, 1.0)), float(extra.get(zero, 0.0))
    stored = np.clip(np.rint((image - bzero) / bscale), -32768, 32767).astype(np.int16)
    return stored, {**cards, "BSCALE": bscale, "BZERO": bzero}


def _write_stamp_regions(session, path, origin):
    """Write FILE (used), FILE.all and FILE.skipped with boxes of the substamps, 1-based."""
    from starmill.io.regions import write_regions

    size = 2 * session.config.rss + 1
    groups = {path: [], Path(f"{path}.all"): [], Path(f"{path}.skipped"): []}
    for substamp in session._substamps_of(session.conv_direction):
        color = _COLORS[substamp.status]
        box = f"box({substamp.x + origin[0] + 1:.1f},{substamp.y + origin[1] + 1:.1f},{size},{size}) # color="
        groups[Path(f"{path}.all")].append(box + "yellow")
        if color == "green":
            groups[path].append(box + color)
        elif color == "red" or substamp.reason:
            groups[Path(f"{path}.skipped")].append(box + "red")
    for file, boxes in groups.items():
        write_regions(file, boxes)
