"""``starmill difference``: subtract a PSF-matched template from science images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from starmill.cli.runtime import Progress, Settings, common_options, print_json, resolve_config

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("template", type=click.Path())
@click.argument("science", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(),
              help="Difference image, FITS; a folder for several science images.")  # fmt: skip
@click.option("--align", type=click.Choice(["auto", "wcs", "stars", "none"]),
              help="Resample the template to the science pixels: by WCS (auto: when both have one and they "
              "differ) or by common stars.  [default: auto]")  # fmt: skip
@click.option("--hdu", default="", help="Extension of all images.")
@click.option("--gain", type=float, help="Electrons per unit, for images without a variance plane.")
@click.option("--read-noise", type=float, help="Electrons, with --gain.")
@click.option("--saturation", type=float, help="Pixels at or above this value are saturated.")
@click.option(
    "--minimum",
    type=float,
    help="Pixels at or below this value hold no data.  [default: exact zeros far below the sky]",
)
@click.option(
    "--exclude", multiple=True, metavar='X,Y,R|RA,DEC,R"',
    help="Leave a disc out of the kernel fit, for example a known transient: pixels of the science image counted from 0, or "
    'degrees and arcsec (with "). Repeatable.',
)  # fmt: skip
@click.option("--threshold", type=float, help="Score of a source.  [default: 5]")
@click.option("--no-report", is_flag=True, help="No PNG and HTML.")
@click.option(
    "--resume", is_flag=True, help="Keep what was made before from the same files and configuration."
)
@click.option("--strict", is_flag=True, help="Exit with 5 when the quality verdict is a failure.")
@common_options
def command(settings: Settings, template: str, science: tuple[str, ...], output: str, **options: Any) -> int:
    """Subtract TEMPLATE from every SCIENCE image after matching their PSFs.

    Writes OUT.fits (difference), OUT.score.fits (signal-to-noise), OUT.kernel.fits, OUT.catalog.fits, OUT.reg,
    OUT.png, OUT.html, and OUT.template.png, OUT.science.png, OUT.difference.png to blink. With several science
    images OUT is FOLDER/NAME.difference. The template is read and prepared once.
    """
    from starmill.tasks.difference_frame import DifferenceFrameConfig

    given = {
        "align": options["align"], "gain": options["gain"], "read_noise": options["read_noise"],
        "saturation": options["saturation"], "minimum": options["minimum"], "measure.threshold": options["threshold"],
        "exclude": list(options["exclude"]) or None,
    }  # fmt: skip
    config = resolve_config(DifferenceFrameConfig, settings)
    config = config.override({name: value for name, value in given.items() if value is not None})
    if settings.config_dump:
        print_json(config.to_dict())
        return 0
    return _subtract(settings, template, science, output, config, options)


def _subtract(
    settings: Settings,
    template: str,
    science: tuple[str, ...],
    output: str,
    config: Any,
    options: dict[str, Any],
) -> int:
    from starmill.execution.differences import subtract_frames
    from starmill.execution.loose import exit_code_of_all

    single = len(science) == 1
    progress = Progress("differences", len(science), quiet=settings.quiet or single)
    with progress.running():
        outcomes = subtract_frames(
            template, science, _stems(science, output), config, hdu=options["hdu"], processes=settings.jobs,
            pictures=not options["no_report"], resume=options["resume"], report=lambda s: progress.advance(_line(s)),
        )  # fmt: skip
    if settings.as_json:
        print_json(outcomes[0]["facts"] if single else outcomes)
    failed = [outcome for outcome in outcomes if outcome["state"] == "failed"]
    for outcome in failed:
        if single:
            click.echo(f"error: {outcome['error']}", err=True)
        if settings.verbosity > 1:
            click.echo(outcome["traceback"], err=True)
    if single and not failed and not settings.as_json and not settings.quiet:
        facts = outcomes[0]["facts"]
        width = max(map(len, facts))
        click.echo("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
    doubtful = [outcome for outcome in outcomes if outcome["state"] != "failed" and not outcome["good"]]
    for outcome in doubtful:
        advice = "" if options["strict"] else " (do not trust it; --strict ends with exit code 5)"
        click.echo(f"warning: {outcome['frame']}: {outcome['facts']['verdict']}{advice}", err=True)
    if failed:
        return exit_code_of_all(outcomes)
    return 5 if options["strict"] and doubtful else 0


def _stems(science: tuple[str, ...], output: str) -> list[str]:
    """Return the paths of the products without suffix; a FITS name stands for one, a folder for many."""
    from starmill.execution.frames import frame_name

    is_file = output.endswith((".fits", ".fit", ".fz"))
    if len(science) == 1 and (is_file or not Path(output).is_dir()):
        return [output.removesuffix(".fits")]
    if is_file:
        raise click.UsageError("-o must be a folder when several science images are given")
    Path(output).mkdir(parents=True, exist_ok=True)
    return [str(Path(output) / f"{frame_name(path)}.difference") for path in science]


def _line(outcome: dict[str, Any]) -> str:
    if outcome["state"] == "failed":
        return f"{outcome['frame']}: FAILED: {outcome['error']}"
    if outcome["state"] == "kept":
        return f"{outcome['frame']}: kept from before: {outcome['facts']['verdict']}"
    facts = outcome["facts"]
    return (
        f"{outcome['frame']}: {facts['verdict']}, convolved the {facts['convolved']}, kernel sum"
        f" {facts['kernel_sum']:.4f}, {facts['sources']} sources, {outcome['cpu_seconds']:.1f} CPU s"
    )
