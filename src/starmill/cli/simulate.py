"""``starmill simulate``: observations with known truth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from starmill.cli.runtime import Progress, print_json

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Simulate observations with known truth."""


@command.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(file_okay=False))
@click.option(
    "--seed", default=1, show_default=True, type=click.IntRange(0), help="The same seed, the same pixels."
)
@click.option("--size", default=1024, show_default=True, type=int, help="Side of the chip, pixels; even.")
@click.option("--bands", default="g,r", show_default=True, help="Of g, r, i, z, with commas between.")
@click.option(
    "--epochs", default=3, show_default=True, type=click.IntRange(0), help="Science exposures per band."
)
@click.option("--bias", "n_bias", default=5, show_default=True, type=click.IntRange(0), help="Bias frames.")
@click.option("--dark", "n_dark", default=3, show_default=True, type=click.IntRange(0), help="Dark frames.")
@click.option(
    "--flat", "n_flat", default=3, show_default=True, type=click.IntRange(0), help="Flats per band."
)
@click.option(
    "--exposure-time", default=60.0, show_default=True, type=float, help="Of science frames, seconds."
)
@click.option("--density", default=20.0, show_default=True, type=float, help="Sources per square arcminute.")
@click.option(
    "--transients", "n_transients", default=6, show_default=True, type=click.IntRange(0), help="Number."
)
@click.option(
    "--camera", default="simcam", show_default=True, help="Camera that gives crosstalk and linearity."
)
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds a night already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with the files.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
def night(
    folder: str, camera: str, bands: str, overwrite: bool, as_json: bool, quiet: bool, **numbers: Any
) -> int:
    """Simulate a night of raw frames in FOLDER: raw/, truth/, reference.fits, night.yaml.

    \b
    Example:
      starmill simulate night night --seed 7 --size 1024
    """  # noqa: D301  click needs the backspace
    from starmill.errors import InputError
    from starmill.io.raw import load_camera
    from starmill.io.simulated_night import write_night
    from starmill.simulation.night import Night, NightSettings

    wanted = tuple(band.strip() for band in bands.split(",") if band.strip())
    settings = NightSettings(bands=wanted, **numbers)
    if (Path(folder) / "night.yaml").exists() and not overwrite:
        raise InputError("a simulated night is here already; another folder, or --overwrite", path=folder)
    simulated = Night(settings, load_camera(camera))
    total = settings.n_bias + settings.n_dark + len(wanted) * (settings.n_flat + settings.epochs)
    progress = Progress("frames", total, quiet=quiet)
    with progress.running():
        files = write_night(simulated, folder, report=lambda frame: progress.advance(frame.name))
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "files": {kind: [str(path) for path in paths] for kind, paths in files.items()},
            }
        )
    elif not quiet:
        sys.stderr.write(f"{total} raw frames of {len(simulated.sources)} sources in {folder}\n")
    return 0
