"""``starmill build-calibs``: raw frames to a master bias, dark or flat."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import click

from starmill.cli.runtime import Progress, Settings, common_options, print_json, resolve_config

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", type=click.Choice(["bias", "dark", "flat"]))
@click.argument("files", nargs=-1, type=click.Path())
@click.option("--camera", required=True, help="Name of a camera, or a YAML file.")
@click.option("--detector", default=None, help="Needed when the camera has several.")
@click.option("--bias", "bias_path", default="", type=click.Path(), help="Master bias, for darks and flats.")
@click.option("--dark", "dark_path", default="", type=click.Path(), help="Master dark, for flats.")
@click.option("-o", "--output", default="", type=click.Path(), help="Master frame to write.")
@click.option("--compress", is_flag=True, help="Compress the master frame without loss.")
@common_options
def command(settings: Settings, kind: str, files: tuple[str, ...], **options: Any) -> int:
    """Combine raw FILES to a master frame with variance and mask; report noise and gain.

    \b
    Example:
      starmill build-calibs bias raw/bias*.fits --camera simcam -o bias.fits
      starmill build-calibs flat raw/flat_r*.fits --camera simcam --bias bias.fits --dark dark.fits -o flat_r.fits
    """  # noqa: D301  click needs the backspace
    from starmill.io.config import dump_yaml
    from starmill.io.raw import load_camera
    from starmill.tasks.build_calibration import BuildCalibrationConfig

    camera = load_camera(options["camera"])
    defaults: dict[str, Any] = {
        "isr": dict(camera.config.get("isr", {})),
        **camera.config.get("build_calibration", {}),
    }
    config = resolve_config(BuildCalibrationConfig, settings, camera=defaults).override({"kind": kind})
    if settings.config_dump:
        click.echo(dump_yaml(config.to_dict()), nl=False)
        return 0
    if not files:
        raise click.UsageError("no raw frames are given")
    if not options["output"]:
        raise click.UsageError("name the master frame to write with -o")
    result = _build(settings, files, camera, config, options)
    _report(settings, kind, result, options["output"])
    return 0


def _build(
    settings: Settings, files: tuple[str, ...], camera: Any, config: Any, options: dict[str, Any]
) -> Any:
    from starmill.io.calibration import read_master, write_master
    from starmill.io.raw import read_raw
    from starmill.io.scratch import ScratchFolder
    from starmill.tasks.build_calibration import BuildCalibrationTask

    masters = {
        name: read_master(options[f"{name}_path"], name, whole=False)
        for name in ("bias", "dark")
        if options[f"{name}_path"]
    }
    progress = Progress("raw frames", len(files), quiet=settings.quiet)

    def read(path: str) -> Any:
        raw = read_raw(path, camera, detector=options["detector"])
        progress.advance(Path(path).name)
        return raw

    task = BuildCalibrationTask(config)
    with progress.running(), ScratchFolder() as store:
        result = task.run(frames=[functools.partial(read, path) for path in files], store=store, **masters)
    provenance = {
        "frames": [str(path) for path in files],
        "camera": camera.name,
        "config": config.to_dict(),
        "masters": {name: options[f"{name}_path"] for name in masters},
    }
    write_master(result.master, options["output"], compress=options["compress"], provenance=provenance)
    return result


def _report(settings: Settings, kind: str, result: Any, output: str) -> None:
    values = {
        "master": output,
        "kind": kind,
        "frames": result.master.n_frames,
        "filter": result.master.filter,
        "levels": [float(level) for level in result.levels],
        "read_noise": result.read_noise,
        "gain": result.gain,
        "defects": len(result.defects),
    }
    if settings.as_json:
        print_json(values)
    elif not settings.quiet:
        measured = [f"read noise {name} {value:.2f} e-" for name, value in result.read_noise.items()]
        measured += [f"gain {name} {value:.3f} e-/adu" for name, value in result.gain.items()]
        notes = "; ".join([*measured, f"{len(result.defects)} defects"])
        sys.stderr.write(f"master {kind} of {result.master.n_frames} frames in {output}: {notes}\n")
