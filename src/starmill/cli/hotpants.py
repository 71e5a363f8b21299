"""``starmill hotpants``: difference imaging with the options of the HOTPANTS program."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

__all__ = ["command", "main"]


@click.command(
    "hotpants",
    context_settings={
        "ignore_unknown_options": True,
        "help_option_names": ["--help"],
        "allow_interspersed_args": False,
    },
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Difference imaging with the options of the HOTPANTS program.

    Give -inim SCIENCE -tmplim TEMPLATE -outim DIFFERENCE and any other option; -help lists them.
    """
    return _run(list(arguments))


def _run(words: list[str]) -> int:
    """Run the command; the table of flags is shown without importing the engine."""
    from starmill.hotpants.options import HELP_FLAGS, usage

    if not words or HELP_FLAGS.intersection(words):
        sys.stdout.write(usage())
        return 0
    from starmill.cli.runtime import Progress
    from starmill.hotpants.command import run_hotpants

    return int(run_hotpants(words, Progress))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the program ``hotpants`` and exit with the code that the outcome deserves."""
    from starmill.cli.runtime import exit_code_of

    words = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(exit_code_of(lambda: _run(words), words))
