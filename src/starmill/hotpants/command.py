"""The command ``hotpants``: the flags of the program, the engine of the package."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.hotpants.kernel_table import kernel_from_solution
from starmill.hotpants.options import HELP_FLAGS, HotpantsError, parse_flags, usage
from starmill.hotpants.products import write_products
from starmill.hotpants.session import Hotpants

__all__ = ["run_hotpants"]


def run_hotpants(arguments):
    """Run difference imaging as a HOTPANTS command line says.

    Parameters
    ----------
    arguments : sequence of str

    Returns
    -------
    code : int
        0. Errors are raised: a run without stamps, without usable pixels or with a singular fit is never a success.
    """
    words = list(arguments)
    if not words or HELP_FLAGS.intersection(words):
        sys.stdout.write(usage())
        return 0
    config, extra = parse_flags(words)
    session = _session(config, extra)
    if "ki" in extra:
        _reuse_kernel(session, extra["ki"])
    else:
        session.find_stamps()
        session.fit_and_select_direction()
        session.iterative_fit_and_clip()
    session.convolve_and_difference()
    write_products(session, extra)
    if session.config.verbose:
        _report(session)
    return 0


def _session(config, extra):
    """Read the inputs, cut them to the common part and the sub-section, and build the session."""
    from starmill.io.fits import read_image
    from starmill.io.hotpants_files import read_stamp_list

    image, header = read_image(extra["inim"])
    template, _ = read_image(extra["tmplim"])
    ny, nx = (min(a, b) for a, b in zip(image.shape, template.shape, strict=True))
    x0, x1, y0, y1 = _section(extra, header, nx, ny)
    cut = np.s_[y0:y1, x0:x1]
    extra["origin"] = (x0, y0)

    def plane(name, shape):
        if name not in extra:
            return None
        data, _ = read_image(extra[name])
        if data.shape != shape:
            raise HotpantsError(f"{extra[name]} is {data.shape}, its image {shape}")
        return data[cut]

    catalog = None
    for name in ("ssf", "cmp"):
        if name in extra:
            catalog = read_stamp_list(extra[name], skip_first_line=name == "cmp") - (x0, y0)
    return Hotpants(
        template[cut], image[cut], plane("tmi", template.shape), plane("imi", image.shape), plane("tni", template.shape),
        plane("ini", image.shape), catalog, config, _shifted(header, x0, y0),
    )  # fmt: skip


def _section(extra, header, nx, ny):
    """Return xmin, xmax, ymin, ymax (exclusive) of -gd or of the hull of -rf and -rkw, within the common part."""
    from starmill.io.hotpants_files import read_region_file

    boxes = []
    if "gd" in extra:
        boxes = [tuple(extra["gd"])]
    elif "rf" in extra:
        boxes = read_region_file(extra["rf"])
    elif "rkw" in extra:
        name, count = extra["rkw"]
        values = [str(header.get(f"{name}{i}", header.get(name, ""))) for i in range(int(count))]
        boxes = [
            tuple(int(v) for v in text.strip("[] ").replace(":", ",").split(",")) for text in values if text
        ]
    if not boxes:
        return 0, nx, 0, ny
    x0, y0 = max(min(b[0] for b in boxes), 0), max(min(b[2] for b in boxes), 0)
    x1, y1 = min(max(b[1] for b in boxes) + 1, nx), min(max(b[3] for b in boxes) + 1, ny)
    if x1 <= x0 or y1 <= y0:
        raise HotpantsError(f"the sub-section {x0}:{x1},{y0}:{y1} holds no pixel of the image of {nx} x {ny}")
    return x0, x1, y0, y1


def _shifted(header, x0, y0):
    """Return the header with the reference pixel moved by a cut."""
    if header is None or (x0, y0) == (0, 0):
        return header
    header = header.copy()
    for name, shift in (("CRPIX1", x0), ("CRPIX2", y0)):
        if name in header:
            header[name] = header[name] - shift
    return header


def _reuse_kernel(session, path):
    """Put the kernel of a table in place of a fit."""
    from starmill.io.hotpants_files import read_kernel_table

    solution, settings, header = read_kernel_table(path)
    session.config = replace(session.config, ngauss=len(settings["deg_fixe"]), **settings)
    kernel, _ = kernel_from_solution(solution, session.config, session.box)
    direction = str(header.get("CONVOL00", "")).upper()[:1]
    forced = session.config.force_convolve
    session.conv_direction = {"T": "t", "I": "i"}.get(direction, forced if forced in "ti" else "t")
    session.kernel_solution, session.fit = solution, _KnownKernel(kernel)


class _KnownKernel:
    """Stands for a fit when the kernel was read from a file."""

    def __init__(self, kernel: SpatialKernel) -> None:
        self.kernel = kernel
        self.chi2 = np.ones(1)
        self.used = np.ones(1, bool)


def _report(session):
    products = session.get_final_outputs()
    stats = products["stats"]
    used = len(session.get_substamp_details()["final_fit_locations"])
    sys.stderr.write(
        f"convolved {'template' if session.conv_direction == 't' else 'image'}, kernel sum {session.kernel_sum:.5f}, "
        f"{used} substamps, mean {stats['diff_mean']:.4g}, scatter {stats['diff_std']:.4g}, "
        f"expected noise {stats['noise_mean']:.4g}, chi2 {stats['x2norm']:.4g}\n"
    )
