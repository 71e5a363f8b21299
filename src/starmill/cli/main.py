"""The command ``starmill``: verbs are imported only when they are called."""

from __future__ import annotations

import importlib
import sys
from typing import Any, NoReturn

import click

from starmill import __version__
from starmill.errors import nearest_name

__all__ = ["VERBS", "cli", "main"]

VERBS: dict[str, tuple[str, str]] = {
    "build-calibs": ("build_calibs:command", "Combine raw frames to a master bias, dark or flat."),
    "demo": ("demo:command", "Simulate a small night and run the whole main job on it."),
    "difference": ("difference:command", "Subtract a PSF-matched template from a science image."),
    "hotpants": ("hotpants:command", "Difference imaging with the options of the HOTPANTS program."),
    "hyper": ("hyper:command", "Compact-source photometry of maps and cubes."),
    "process": ("process:command", "Raw or detrended frames to characterised exposures and catalogues."),
    "repo": ("repo:command", "Make and use a data repository."),
    "rerun": ("rerun:command", "Repeat a product from its provenance."),
    "run": ("run:command", "Run a pipeline over the data of a repository."),
    "show": ("show:command", "Summary and quick-look picture of an exposure."),
    "simulate": ("simulate:command", "Simulate observations with known truth."),
    "status": ("status:command", "Show the progress of the runs of a repository."),
}
"""Verb to ``file:name`` of its command below ``starmill.cli``, and one line of help."""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            near = nearest_name(cmd_name, VERBS)
            hint = f" Did you mean {near!r}?" if near else ""
            raise click.UsageError(f"There is no verb {cmd_name!r}.{hint}", ctx)
        module, name = VERBS[cmd_name][0].split(":")
        return getattr(importlib.import_module(f"starmill.cli.{module}"), name)  # type: ignore[no-any-return]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in sorted(VERBS.items())])


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="starmill")
def cli() -> None:
    """Astronomical images from the detector to science.

    Exit codes: 0 all good, 1 some data failed, 2 wrong usage or configuration, 3 bad input, 4 nothing to do,
    5 a quality gate failed, 70 an internal error, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that the outcome deserves."""
    from starmill.cli.runtime import exit_code_of

    sys.exit(exit_code_of(lambda: _call(arguments), arguments))


def _call(arguments: list[str] | None) -> Any:
    return cli.main(args=arguments, prog_name="starmill", standalone_mode=False)
