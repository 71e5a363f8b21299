"""Science frames in loose files against one template: which files, pictures and reports beside the products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starmill.errors import InputError
from starmill.execution.frames import frame_name
from starmill.execution.loose import loose_message, outcome_of, run_messages
from starmill.execution.quantum_work import DONE
from starmill.repository.loose_files import LooseFiles

__all__ = ["recalled_notes", "subtract_frames", "write_companions"]


def subtract_frames(
    template: str,
    frames: Sequence[str],
    stems: Sequence[str],
    config: Any,
    *,
    hdu: str = "",
    processes: int = 1,
    pictures: bool = True,
    resume: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Subtract one template from many science frames; one that fails does not stop the others.

    Parameters
    ----------
    template : str
        Read and prepared once by every process.
    frames : sequence of str
        Science frames.
    stems : sequence of str
        Path of the products of each frame, without suffix.
    config : DifferenceFrameConfig
    hdu : str
        Extension of all images; empty for the first that fits.
    processes : int
    pictures, resume : bool
        Write PNG and report; keep products that were made before from the same files, configuration and version.
    report : callable
        Told of every frame when it is finished.

    Returns
    -------
    summaries : list of dict
        In the order of the frames, plain values: ``frame``, ``state`` ('done', 'kept' or 'failed'), ``facts``,
        ``good``; of failed ones ``error``, ``error_type``, ``exit_code``, ``traceback``.
    """
    twice = sorted({stem for stem in stems if list(stems).count(stem) > 1})
    if twice:
        raise InputError(f"two frames would have the same products: {', '.join(twice)}")
    details: dict[str, Any] = {"hdu": int(hdu) if hdu.isdigit() else hdu} if hdu else {}
    messages = []
    for number, (frame, stem) in enumerate(zip(frames, stems, strict=True)):
        files = LooseFiles(
            {"template": ("exposure", template, details), "science": ("exposure", frame, details)},
            {
                "score": ("exposure", f"{stem}.score.fits"), "catalog": ("catalog", f"{stem}.catalog.fits"),
                "difference": ("exposure", f"{stem}.fits"),
            },
        )  # fmt: skip
        settings = {"resume": resume, "shared": ["template"], "companions": "difference"}
        more = {**settings, "settings": {"pictures": pictures}}
        messages.append(loose_message(number, "DifferenceFrameTask", config.to_dict(), files, **more))
    names = [frame_name(frame) for frame in frames]
    answers = run_messages(messages, processes, lambda answer: report(_summary(names[answer["id"]], answer)))
    return [_summary(name, answer) for name, answer in zip(names, answers, strict=True)]


def _summary(name: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome of a frame as plain values."""
    empty: dict[str, Any] = {"frame": name, "facts": {}, "good": True}
    if answer["status"] == DONE:
        empty["cpu_seconds"] = answer["cpu_seconds"]
    return empty | outcome_of(answer)


def write_companions(
    result: Any,
    files: LooseFiles,
    metadata: Mapping[str, Any],  # noqa: ARG001  what all companions are given
    *,
    pictures: bool = True,
) -> dict[str, Any]:
    """Write kernel, regions, picture and report of a difference.

    Parameters
    ----------
    result : Result
        Of a DifferenceFrameTask.
    files : LooseFiles
        They stand beside the difference.
    metadata : mapping
    pictures : bool
        Write PNG and report.

    Returns
    -------
    notes : dict
        ``facts`` (numbers of the difference) and ``good`` (the quality verdict).
    """
    stem = str(files.outputs["difference"][1]).removesuffix(".fits")
    facts = difference_facts(result)
    _write_kernel(result, stem)
    _write_regions(result, stem)
    if pictures:
        _draw(result, stem, facts)
    return {"facts": facts, "good": bool(result.quality.good)}


def recalled_notes(files: LooseFiles) -> dict[str, Any] | None:
    """Return the notes of a difference that was made before, from its file.

    Parameters
    ----------
    files : LooseFiles

    Returns
    -------
    notes : dict or None
        As of `write_companions`; the facts are those that the file holds. None when it holds none: the difference must be
        made again to know its verdict.
    """
    from starmill.io.exposure_file import read_exposure_component

    info = read_exposure_component(files.outputs["difference"][1], "info")
    facts = dict(info.extra.get("difference", {}))
    if "good" not in facts:
        return None
    good = bool(facts.pop("good"))
    return {"facts": {"state": "kept", **facts}, "good": good}


def difference_facts(result: Any) -> dict[str, Any]:
    """Return the numbers of a difference that a user looks at first."""
    fit, quality, catalog = result.fit, result.quality, result.catalog
    return {
        "verdict": quality.verdict, "convolved": result.direction, "kernel_sum": round(result.kernel_sum, 6),
        "kernel_sum_error": round(result.kernel_sum_error, 6), "stamps_used": int(fit.used.sum()), "stamps": len(fit.status),
        "decorrelated": bool(result.decorrelated), "star_residual": round(float(quality.star_residual), 4),
        "sky_width": round(float(quality.sky_width), 4), "score_width": round(float(quality.score_width), 4),
        "flatness": round(float(quality.flatness), 4), "usable_fraction": round(float(quality.usable_fraction), 4),
        "sources": len(catalog), "negative_sources": int(catalog["is_negative"].sum()),
        "dipoles": int(catalog["dipole_flag"].sum()) // 2,
    }  # fmt: skip


def _write_kernel(result: Any, stem: str) -> None:
    import numpy as np

    from starmill.io.fits import write_image

    box = result.difference.box
    x, y = np.linspace(box.x0, box.x1 - 1, 5), np.linspace(box.y0, box.y1 - 1, 5)
    kernels = result.kernel.kernels_at(x[None, :], y[:, None])
    write_image(f"{stem}.kernel.fits", np.concatenate([np.concatenate(list(row), axis=1) for row in kernels]))


def _write_regions(result: Any, stem: str) -> None:
    import numpy as np

    from starmill.io.regions import point_region, write_regions

    catalog = result.catalog
    x0, y0 = result.difference.origin
    colors = np.where(catalog["is_negative"], "cyan", "yellow")
    lines = [
        point_region(a - x0, b - y0, symbol="circle", color=c)
        for a, b, c in zip(catalog["x"], catalog["y"], colors, strict=True)
    ]
    write_regions(f"{stem}.reg", lines)


def _draw(result: Any, stem: str, facts: dict[str, Any]) -> None:
    import numpy as np

    from starmill.diagnostics import difference_figures as draw
    from starmill.diagnostics.figures import save_figure

    difference = result.difference
    bad = difference.mask.any("NO_DATA")
    template, science = result.template.image, result.science.image
    images = [np.where(bad, np.nan, image) for image in (template, science, difference.image)]
    overview = draw.show_difference(*images, catalog=result.catalog)
    save_figure(overview, f"{stem}.png")
    matched = np.where(bad, np.nan, result.matched_template)
    draw.write_blink_pictures(stem, matched, *images[1:])
    good = ~bad & (difference.variance > 0)
    pulls = difference.image[good] / np.sqrt(difference.variance[good])
    figures = {
        "Template, science, difference": overview,
        "Kernel": draw.kernel_figure(result.kernel),
        "Background": draw.background_figure(result.background.field, difference.box),
        "Stamps": draw.stamps_figure(
            template, science, result.matched_template, result.stamps, result.fit.status
        ),
        "Difference over error": draw.residual_histogram(pulls[:: max(1, len(pulls) // 1_000_000)]),
    }
    draw.write_difference_report(f"{Path(stem)}.html", "Difference image", facts, figures)
