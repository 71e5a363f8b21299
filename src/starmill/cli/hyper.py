"""``starmill hyper``: compact-source photometry of maps and cubes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from starmill.cli.runtime import Progress, Settings, common_options, print_json

__all__ = ["command", "main"]

MAP_ENDINGS = (".fits", ".fit", ".fts", ".gz", ".fz", ".bz2")


@click.command("hyper")
@click.argument("inputs", nargs=-1, type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Folder of the results (default: output).")
@click.option("--threshold", type=float, help="Lowest signal-to-noise ratio of a source.")
@click.option("--beam", type=float, metavar="ARCSEC", help="FWHM of the beam, instead of the header's.")
@click.option("--unit", help="Unit of the maps, instead of BUNIT.")
@click.option("--frequency", type=float, metavar="HZ", help="Frequency, for maps in kelvin.")
@click.option(
    "--resume", is_flag=True, help="Keep what an earlier run made from the same files and settings."
)
@click.option("--cube", is_flag=True, help="The inputs are cubes.")
@click.option("--compat", is_flag=True, help="The published rules of hyper-py.")
@click.option(
    "--format", "formats", multiple=True, help="Table format; repeatable: ipac ecsv csv fits votable parquet."
)
@click.option("--report", is_flag=True, help="Write an HTML report of every map.")
@click.option(
    "--positions", type=click.Path(), help="Forced photometry at the positions (RA, DEC) of this table."
)
@click.option(
    "--completeness",
    type=int,
    metavar="N",
    help="Inject N sources into every map and measure the completeness.",
)
@click.option(
    "--write-config", type=click.Path(), metavar="FILE", help="Write a commented configuration and stop."
)
@common_options
def command(inputs: tuple[str, ...], settings: Settings, write_config: str | None, **options: Any) -> int:
    """Find compact sources in maps or cubes and measure their fluxes.

    INPUTS is one hyper-py configuration (YAML), or maps (FITS). Without inputs the configuration is
    ./hyper_config.yaml or that of the user's configuration folder. Values of keys: --set detection.sigma_thres=4;
    --set accurate.fit.radius=1.5 reaches the configuration of the accurate mode.
    """
    if write_config is not None:
        return _write_config(write_config)
    from starmill.hyper.options import accurate_config, options_from

    maps = [name for name in inputs if name.lower().endswith(MAP_ENDINGS)]
    configs = [*(str(path) for path in settings.config_files), *(name for name in inputs if name not in maps)]
    if len(configs) > 1:
        raise click.UsageError(f"one configuration is enough, these are {len(configs)}: {', '.join(configs)}")
    overrides, changes = _overrides(settings, options)
    checked = options_from(configs[0] if configs else {} if maps else None, overrides)
    if settings.config_dump:
        print_json({"hyper": checked.values, "accurate": accurate_config(checked, changes).to_dict()})
        return 0
    paths = [Path(name) for name in maps] or None
    if options["completeness"] is not None or options["positions"] is not None:
        return _extra_work(checked, paths, options, changes, settings)
    return _photometer(checked, paths, changes, settings)


def _write_config(name: str) -> int:
    from starmill.hyper.options import template_text
    from starmill.io.atomic import atomic_write_text

    atomic_write_text(name, template_text(), overwrite=False)
    click.echo(f"wrote {name}")
    return 0


def _overrides(settings: Settings, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the command line into keys of hyper-py and values of the accurate mode."""
    from starmill.io.config import parse_assignments

    given = parse_assignments(list(settings.assignments))
    changes = {
        name.removeprefix("accurate."): value for name, value in given.items() if name.startswith("accurate.")
    }
    overrides = {name: value for name, value in given.items() if not name.startswith("accurate.")}
    named = {
        "paths.output.dir_root": options["output"] and str(Path(options["output"]).absolute()),
        "detection.sigma_thres": options["threshold"],
        "survey.beam_arcsec": options["beam"], "units.map_unit": options["unit"],
        "units.frequency_hz": options["frequency"], "control.datacube": options["cube"] or None,
        "control.resume": options["resume"] or None,
        "control.mode": "compat" if options["compat"] else None,
        "files.table_formats": list(options["formats"]) or None, "visualization.report": options["report"] or None,
        "control.n_cores": settings.jobs if settings.jobs > 1 else None,
        "control.parallel_maps": True if settings.jobs > 1 else None,
    }  # fmt: skip
    return overrides | {name: value for name, value in named.items() if value is not None}, changes


def _photometer(checked: Any, paths: list[Path] | None, changes: dict[str, Any], settings: Settings) -> int:
    from starmill.hyper.session import run_maps

    total = len(paths) if paths is not None else len(checked.maps())
    progress = Progress("maps", total, quiet=settings.quiet or settings.as_json)
    with progress.running():
        run = run_maps(checked, paths, advance=progress.advance, changes=changes)
    for outcome in run.failed:
        sys.stderr.write(f"starmill: error: {outcome.name}: {outcome.error}\n")
    if settings.as_json:
        maps = [
            {"name": o.name, "sources": None if o.table is None else len(o.table), "error": o.error or None,
             "seconds": round(o.seconds, 3), "files": [str(f) for f in o.files]}
            for o in run.outcomes
        ]  # fmt: skip
        print_json({"maps": maps, "files": [str(f) for f in run.files], "exit_code": run.exit_code})
    elif not settings.quiet and run.files:
        click.echo(f"{len(run.table)} sources in {run.files[0]}")
    return run.exit_code


def _extra_work(
    checked: Any,
    paths: list[Path] | None,
    options: dict[str, Any],
    changes: dict[str, Any],
    settings: Settings,
) -> int:
    from starmill.hyper.extra_sessions import completeness_run, forced_run

    if options["positions"] is not None:
        files = forced_run(checked, paths, Path(options["positions"]), changes)
    else:
        files = completeness_run(checked, paths, options["completeness"], changes)
    if settings.as_json:
        print_json({"files": [str(f) for f in files]})
    else:
        for path in files:
            click.echo(str(path))
    return 0


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the program ``hyper`` and exit with the code that the outcome deserves."""
    from starmill.cli.runtime import exit_code_of

    words = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(exit_code_of(lambda: command.main(args=words, prog_name="hyper", standalone_mode=False), words))


if __name__ == "__main__":
    main()
