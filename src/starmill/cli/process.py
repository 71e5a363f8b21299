"""``starmill process``: frames to characterised exposures and catalogues."""

from __future__ import annotations

from typing import Any

import click

from starmill.cli.runtime import Progress, Settings, common_options, print_json, resolve_config

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, type=click.Path())
@click.option("--camera", default="", help="Camera of raw frames: a name or a YAML file.")
@click.option("--bias", default="", type=click.Path(), help="Master bias.")
@click.option("--dark", default="", type=click.Path(), help="Master dark.")
@click.option("--flat", "flats", multiple=True, type=click.Path(), help="Master flat; one for each filter.")
@click.option("--no-isr", is_flag=True, help="The frames are detrended already.")
@click.option("--hdu", default="", help="Extension of a detrended image.")
@click.option("--gain", type=float, help="electron/ADU of a detrended image.")
@click.option("--read-noise", type=float, help="electron, of a detrended image.")
@click.option(
    "-o", "--output", default=".", show_default=True, type=click.Path(), help="Folder of the products."
)
@click.option(
    "--table",
    "table_format",
    default="fits",
    show_default=True,
    type=click.Choice(["fits", "ecsv", "parquet", "votable"]),
    help="Format of the catalogues.",
)
@click.option("--compress", is_flag=True, help="Compress the exposures without loss.")
@click.option("--no-pictures", is_flag=True, help="Write no PNG and no report.")
@click.option(
    "--resume", is_flag=True, help="Keep what was made before from the same input and configuration."
)
@common_options
def command(settings: Settings, files: tuple[str, ...], **options: Any) -> int:
    """Take raw FRAMES (or detrended ones with --no-isr) to characterised exposures and catalogues.

    For every frame the folder gets NAME.exposure.fits (image, mask, variance, PSF, WCS), NAME.catalog.fits,
    NAME.reg (DS9), NAME.png and NAME.html (a report).

    \b
    Example:
      starmill process night/raw/sci*.fits --camera simcam --bias bias.fits --dark dark.fits --flat flat_r.fits -o out
    """  # noqa: D301  click needs the backspace
    from starmill.io.config import dump_yaml

    config = _configuration(settings, options)
    if settings.config_dump:
        click.echo(dump_yaml(config.to_dict()), nl=False)
        return 0
    if not files:
        raise click.UsageError("no frames are given")
    if not options["no_isr"] and not options["camera"]:
        raise click.UsageError(
            "tell the camera of raw frames with --camera, or use --no-isr for detrended ones"
        )
    return _process(settings, files, config, options)


def _configuration(settings: Settings, options: dict[str, Any]) -> Any:
    from starmill.io.raw import load_camera
    from starmill.tasks.process import ProcessFrameConfig

    camera: dict[str, Any] = {}
    if options["camera"] and not options["no_isr"]:
        known = ProcessFrameConfig.model_fields
        camera = {
            name: values for name, values in load_camera(options["camera"]).config.items() if name in known
        }
    config = resolve_config(ProcessFrameConfig, settings, camera=camera)
    given = {"prepare.gain": options["gain"], "prepare.read_noise": options["read_noise"]}
    return config.override({name: value for name, value in given.items() if value is not None})


def _process(settings: Settings, files: tuple[str, ...], config: Any, options: dict[str, Any]) -> int:
    from starmill.execution.frames import FrameJob, process_frames
    from starmill.execution.loose import exit_code_of_all

    jobs = [
        FrameJob(
            path=path,
            folder=options["output"],
            camera="" if options["no_isr"] else options["camera"],
            config=config.to_dict(),
            bias=options["bias"],
            dark=options["dark"],
            flats=options["flats"],
            hdu=options["hdu"],
            table_format="." + options["table_format"],
            pictures=not options["no_pictures"],
            compress=options["compress"],
            resume=options["resume"],
        )
        for path in files
    ]
    progress = Progress("frames", len(jobs), quiet=settings.quiet)
    with progress.running():
        outcomes = process_frames(jobs, processes=settings.jobs, report=lambda s: progress.advance(_line(s)))
    if settings.as_json:
        print_json(outcomes)
    failed = [outcome for outcome in outcomes if outcome["state"] == "failed"]
    if settings.verbosity > 1:
        click.echo("\n".join(outcome["traceback"] for outcome in failed if "traceback" in outcome), err=True)
    if not settings.quiet:
        click.echo(
            f"{len(outcomes) - len(failed)} of {len(outcomes)} frames processed into {options['output']}",
            err=True,
        )
    return exit_code_of_all(outcomes)


def _line(outcome: dict[str, Any]) -> str:
    if outcome["state"] == "failed":
        return f"{outcome['frame']}: FAILED: {outcome['error']}"
    if outcome["state"] == "kept":
        return f"{outcome['frame']}: kept from before"
    m = outcome["metrics"]
    notes = "".join(f"; {note}" for note in outcome["notes"])
    return (
        f"{outcome['frame']}: {m['n_sources']} sources, FWHM {m['fwhm_pixel']:.2f} px, sky noise"
        f" {m['sky_noise']:.1f} e-, {outcome['cpu_seconds']:.1f} CPU s{notes}"
    )
