"""``starmill demo``: a small simulated night through the whole main job."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", default="demo-night", type=click.Path())
@click.option(
    "--size", default=1024, show_default=True, type=click.IntRange(128), help="Side of the chip, pixels."
)
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same pixels.")
@click.option("-j", "--jobs", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
def command(folder: str, size: int, seed: int, jobs: int) -> int:
    """Simulate a small night in FOLDER and take it from raw frames to catalogues and a report.

    Every step is a command that you could have typed; each is printed before it runs. In the end the catalogues are
    compared with what was simulated.
    """
    from starmill.cli.first_run import compile_beside

    start, cpu = time.perf_counter(), time.process_time()
    with compile_beside():
        for words in _steps(Path(folder), size, seed, jobs):
            code = _run(words)
            if code:
                return code
    summary = _summary(Path(folder))
    click.echo(summary)
    click.echo(f"{time.perf_counter() - start:.0f} s, {time.process_time() - cpu:.0f} CPU s")
    click.echo(f"Report: {Path(folder).absolute() / 'out' / 'index.html'}")
    return 0


def _steps(folder: Path, size: int, seed: int, jobs: int) -> list[list[str]]:
    """Return the commands of the demonstration; frames are named as the simulation names them."""
    raw, master, out = (str(folder / name) for name in ("raw", "master", "out"))
    camera = ["--camera", "simcam"]
    frames = {
        "bias": [f"{raw}/bias_{i:03d}.fits" for i in range(5)],
        "dark": [f"{raw}/dark_{i:03d}.fits" for i in range(3)],
    }
    steps = [
        ["simulate", "night", str(folder), "--size", str(size), "--seed", str(seed), "--overwrite", "--quiet"]
    ]
    made: list[str] = []
    for kind in ("bias", "dark"):
        target = f"{master}/{kind}.fits"
        steps.append(["build-calibs", kind, *frames[kind], *camera, *made, "-o", target])
        made += [f"--{kind}", target]
    flats = []
    for band in ("g", "r"):
        target = f"{master}/flat_{band}.fits"
        names = [f"{raw}/flat_{band}_{i:03d}.fits" for i in range(3)]
        steps.append(["build-calibs", "flat", *names, *camera, *made, "-o", target])
        flats += ["--flat", target]
    science = [f"{raw}/science_{band}_{i:03d}.fits" for band in ("g", "r") for i in range(3)]
    steps.append(["process", *science, *camera, *made, *flats, "-o", out, "-j", str(jobs)])
    return steps


def _run(words: list[str]) -> int:
    from starmill.cli.main import cli

    shown = words if len(words) < 8 else [*words[:4], "...", *words[-4:]]
    click.secho("$ starmill " + shlex.join(shown), bold=True)
    code: Any = cli.main(args=words, prog_name="starmill", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _summary(folder: Path) -> str:
    """Compare the catalogues with the truth, write the index page, and return the table."""
    from starmill.diagnostics.night_report import compare_with_truth, write_night_report

    rows = [
        compare_with_truth(path, folder / "truth" / path.name.replace(".catalog.fits", ".fits"))
        for path in sorted((folder / "out").glob("*.catalog.fits"))
    ]
    write_night_report(folder / "out" / "index.html", rows, title="A simulated night")
    head = f"{'frame':16}{'sources':>8}{'stars found':>13}{'flux bias':>11}{'flux pull':>11}{'position':>11}"
    lines = [
        f"{r['frame']:16}{r['n_sources']:8d}{100 * r['completeness']:11.1f} %{100 * r['flux_bias']:9.2f} %"
        f"{r['flux_pull']:11.2f}{r['position_rms']:8.3f} px"
        for r in rows
    ]
    return "\n".join([head, *lines])
