"""The command ``hotpants``: the flags of the program, the engine of the package."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.differencing.background import DifferentialBackground
from starmill.execution.blas_threads import one_blas_thread
from starmill.hotpants.again import with_record
from starmill.hotpants.kernel_table import kernel_from_solution
from starmill.hotpants.many import expanded, is_made, own_options, run_many
from starmill.hotpants.options import HELP_FLAGS, HotpantsError, parse_flags, usage
from starmill.hotpants.products import refuse_overwriting, write_run
from starmill.hotpants.regions import RegionRun, plan_regions
from starmill.hotpants.session import Hotpants

if TYPE_CHECKING:
    from starmill.hotpants.classic_session import ClassicHotpants
    from starmill.hotpants.many import ListOptions
    from starmill.hotpants.options import HotpantsConfig
    from starmill.hotpants.regions import Region


__all__ = ["run_hotpants", "work"]


def run_hotpants(arguments: list[str], progress: type | None = None) -> int:
    """Run difference imaging as a HOTPANTS command line says.

    Parameters
    ----------
    arguments : sequence of str
    progress : callable, optional
        Called with a title and the number of images of a list; gives an object with ``running()``, a context, and
        ``advance(sentence)``. Without it the sentences go to standard error.

    Returns
    -------
    code : int
        0. Errors are raised: a run without stamps, without usable pixels or with a singular fit is never a success.
        With a list of images 1 when some failed, the code of the first failure when all did.
    """
    words = list(arguments)
    if not words or HELP_FLAGS.intersection(words):
        sys.stdout.write(usage())
        return 0
    words, options = own_options(words)
    lines = expanded(words)
    if lines is not None:
        return _run_list(lines, options, progress)
    outcome = work({"words": words, "resume": options.resume})
    if options.json:
        sys.stdout.write(json.dumps([{"image": _value_of(words, "-inim"), **outcome}], indent=1) + "\n")
    for sentence in outcome["regions"] if outcome["state"] == "done" else ["kept from before"]:
        sys.stderr.write(f"{sentence}\n")
    return 0


def work(values: dict[str, Any]) -> dict[str, Any]:
    """Run one command line, in a worker or here.

    Parameters
    ----------
    values : mapping
        ``words`` and ``resume``; ``recorded`` gives the cards that name files, when a command is repeated elsewhere.

    Returns
    -------
    outcome : dict
        ``state`` ('done' or 'kept') and ``regions``, a sentence for each.
    """
    words = list(values["words"])
    if values["resume"] and is_made(words):
        return {"state": "kept", "regions": []}
    with one_blas_thread():
        return {"state": "done", "regions": _run(words, values.get("recorded"))}


def _run_list(
    lines: list[tuple[str, list[str]]], options: ListOptions, progress: Callable[..., Any] | None
) -> int:
    """Run the command lines of a list and say what became of each."""
    from starmill.execution.loose import (
        exit_code_of_all,
    )  # half a second of imports that one image does not need

    watch = None if progress is None else progress("differences", len(lines))

    def tell(outcome: dict[str, Any]) -> None:
        sentence = f"{outcome['image']}: " + {
            "done": "; ".join(outcome["regions"]) or "done", "kept": "kept from before",
        }.get(outcome["state"], f"FAILED: {outcome.get('error')}")  # fmt: skip
        if watch is None:
            sys.stderr.write(f"{sentence}\n")
        else:
            watch.advance(sentence)

    with nullcontext() if watch is None else watch.running():
        outcomes = run_many(lines, options, tell)
    if options.json:
        sys.stdout.write(json.dumps(outcomes, indent=1) + "\n")
    return exit_code_of_all(outcomes)


def _value_of(words: list[str], flag: str) -> str:
    place = next((i for i, word in enumerate(words) if word.lower() == flag), len(words)) + 1
    return words[place] if place < len(words) else ""


def _run(words: list[str], recorded: dict[str, str] | None = None) -> list[str]:
    """Run one command line; return what it tells."""
    config, extra = parse_flags(words)
    refuse_overwriting(config, extra)
    inputs = _read_inputs(extra, config.classic)
    extra["shape"] = inputs["larger"]
    extra["command"] = shlex.join(["hotpants", *words])
    extra["recorded"] = recorded or {}
    extra["record"] = None if recorded else with_record(words)
    tables = _tables(extra["ki"]) if "ki" in extra else None
    if tables is not None:
        known = dict(tables[1])
        if "-n" in map(str.lower, words):
            known["normalize"] = config.normalize
        config = replace(config, ngauss=len(known["deg_fixe"]), **known)
    regions = plan_regions(config, inputs["shape"], section=extra.get("gd"), boxes=_boxes(extra, inputs))
    if tables is not None and len(tables[0]) < len(regions):
        raise HotpantsError(f"the kernel table has {len(tables[0])} regions, the image {len(regions)}")
    wanted = config.convolved_image_file or extra.get("cim") or extra.get("allm")
    config = replace(config, keep_convolved=bool(wanted), overwrite_inputs=len(regions) == 1)
    runs = []
    for number, region in enumerate(regions):
        forced = runs[0].session.conv_direction if runs and extra.get("sconv") else config.force_convolve
        session = _session(replace(config, force_convolve=forced), inputs, region)
        if len(regions) == 1:
            inputs = {"header": inputs["header"]}  # what the session does not need is freed
        if tables is not None:
            _reuse_kernel(session, tables, number)
        else:
            session.find_stamps()
            session.fit_and_select_direction()
            session.iterative_fit_and_clip()
        session.convolve_and_difference()
        runs.append(RegionRun(region, session))
    write_run(runs, config, inputs["header"], extra)
    return list(_sentences(runs, config.verbose)) if config.verbose else []


def _read_inputs(extra: dict[str, Any], classic: bool) -> dict[str, Any]:
    """Return the planes of the command line; those of the classic method are cut to the common part of both images."""
    from starmill.io.fits import read_image
    from starmill.io.hotpants_files import read_stamp_list

    image, header = read_image(extra["inim"])
    template, _ = read_image(extra["tmplim"])
    shapes = image.shape, template.shape
    if shapes[0] != shapes[1] and not classic:
        raise HotpantsError(
            f"image and template have different shapes: {shapes[0]} and {shapes[1]} (-classic takes the common part, as "
            "the C program does; starmill difference aligns by WCS)"
        )
    shape = tuple(min(sides) for sides in zip(*shapes, strict=True))
    common = np.s_[: shape[0], : shape[1]]

    def plane(name: str, of: tuple[int, int]) -> NDArray[np.integer] | None:
        if name not in extra:
            return None
        data, _ = read_image(extra[name])
        if data.shape != of:
            raise HotpantsError(f"{extra[name]} is {data.shape}, its image {of}")
        return data[common]

    catalog = None
    for name in ("ssf", "cmp"):
        if name in extra:
            catalog = read_stamp_list(extra[name], skip_first_line=name == "cmp")
    return {
        "shape": shape, "larger": tuple(max(sides) for sides in zip(*shapes, strict=True)),
        "header": header, "image": image[common], "template": template[common], "catalog": catalog,
        "tmi": plane("tmi", template.shape), "imi": plane("imi", image.shape),
        "tni": plane("tni", template.shape), "ini": plane("ini", image.shape),
    }  # fmt: skip


def _session(config: HotpantsConfig, inputs: dict[str, Any], region: Region) -> ClassicHotpants | Hotpants:
    """Return the session of one region."""

    def cut(name: str) -> NDArray[Any] | None:
        return None if inputs[name] is None else inputs[name][region.read]

    catalog = inputs["catalog"]
    if catalog is not None:
        catalog = catalog - region.origin
        rows, columns = region.read
        size = np.array([columns.stop - columns.start, rows.stop - rows.start])
        catalog = catalog[((catalog >= 1) & (catalog <= size)).all(axis=1)]
    session = Hotpants(
        cut("template"), cut("image"), cut("tmi"), cut("imi"), cut("tni"), cut("ini"), catalog, config, inputs["header"]
    )  # fmt: skip
    session.grid_shape = inputs["shape"]
    return session


def _boxes(extra: dict[str, Any], inputs: dict[str, Any]) -> list[tuple[int, int, int, int]] | None:
    """Return the regions of -rf or -rkw, inclusive, or None."""
    from starmill.io.hotpants_files import read_region_file

    if "rf" in extra:
        return read_region_file(extra["rf"])
    if "rkw" not in extra:
        return None
    name, count = extra["rkw"]
    if not str(count).isdigit() or int(count) < 1:
        raise HotpantsError(f"-rkw: the number of regions must be a positive integer, not {count!r}")
    boxes = []
    for i in range(int(count)):
        text = str(inputs["header"].get(f"{name}{i}", "") if inputs["header"] is not None else "")
        words = text.strip("[] ").replace(":", ",").split(",")
        if len(words) != 4 or not all(w.strip().isdigit() for w in words):
            raise HotpantsError(f"-rkw: header keyword {name}{i} is {text!r}, not xmin:xmax,ymin:ymax")
        first = 1 if "[" in text else 0  # sections in brackets count from 1, as IRAF does
        boxes.append(tuple(int(w) - first for w in words))
    return boxes


def _tables(path: str) -> tuple[list[NDArray[np.floating]], dict[str, Any], Mapping[str, Any]]:
    from starmill.io.hotpants_files import read_kernel_tables

    return read_kernel_tables(path)


def _reuse_kernel(
    session: ClassicHotpants | Hotpants,
    tables: tuple[list[NDArray[np.floating]], dict[str, Any], Mapping[str, Any]],
    number: int,
) -> None:
    """Put the kernel of a table in place of a fit."""
    solutions, _, header = tables
    direction = str(header.get(f"CONVOL{number:02d}", "")).upper()[:1]
    forced = session.config.force_convolve
    direction = {"T": "t", "I": "i"}.get(direction, forced if forced in ("t", "i") else "t")
    merits = [float(header.get(f"{name}{number:02d}", 0.0)) for name in ("SSSIG", "SSSCAT", "FSIG", "FSCAT")]
    if session.config.classic:
        session.with_kernel(solutions[number], direction, merits)
        return
    kernel, background = kernel_from_solution(solutions[number], session.config, session.box)
    session.conv_direction, session.kernel_solution = direction, solutions[number]
    session.fit = _KnownKernel(kernel, DifferentialBackground(background, session.config.bgo, 0, 0.0), merits)


class _KnownKernel:
    """Stands for a fit when the kernel was read from a file."""

    def __init__(
        self, kernel: SpatialKernel, background: DifferentialBackground, merits: list[float]
    ) -> None:
        self.kernel, self.background = kernel, background
        self.mean, self.scatter, self.final = *merits[:2], tuple(merits[2:])
        self.chi2 = np.ones(1)
        self.used = np.ones(1, bool)


def _sentences(runs: list[RegionRun], verbosity: int) -> Iterator[Any]:
    for run in runs:
        session = run.session
        stats = session.get_final_outputs()["stats"]
        details = session.get_substamp_details()
        yield (
            f"{run.region.section} convolved {'template' if session.conv_direction == 't' else 'image'}, "
            f"kernel sum {session.kernel_sum:.5f}, {len(details['final_fit_locations'])} substamps, "
            f"mean {stats['diff_mean']:.4g}, scatter {stats['diff_std']:.4g}, "
            f"expected noise {stats['noise_mean']:.4g}, chi2 {stats['x2norm']:.4g}"
        )
        if verbosity > 1:
            x0, y0 = run.region.origin
            for s in details["template_substamps"] + details["image_substamps"]:
                reason = f" ({s.reason})" if s.reason else ""
                yield f"  {s.x + x0 + 1:.0f} {s.y + y0 + 1:.0f} {s.status.value}{reason}"
