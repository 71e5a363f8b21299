"""``starmill status``: what the runs of a repository have done and are doing."""

from __future__ import annotations

import sys

import click

from starmill.cli.runtime import print_json

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("repository", type=click.Path())
@click.option("--run", default="", help="Only this run.")
@click.option("--errors", is_flag=True, help="Show failures with tracebacks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(repository: str, run: str, errors: bool, as_json: bool) -> int:
    """Show the progress of the runs of REPOSITORY; may be called while they run."""
    from starmill.execution.status import failures, sessions
    from starmill.repository import Repository

    with Repository(repository, writable=False) as opened:
        found = sessions(opened, run)
        failed = failures(opened, run) if errors else []
    if as_json:
        print_json({"sessions": found, "failures": failed})
        return 0 if found else 4
    for item in found:
        sys.stdout.write(f"{item['run']}  {item['state']}  session {item['id']}  {item['age']:.0f} s ago\n")
        for label, counts in item["counts"].items():
            if not counts.get("total"):
                continue
            content = ", ".join(
                f"{count} {state.replace('_', ' ')}" for state, count in counts.items() if count
            )
            sys.stdout.write(f"  {label}: {content}\n")
    for item in failed:
        sys.stdout.write(
            f"{item['run']} {item['label']} ({item['data_id']}): {item['type']}: {item['message']}\n"
        )
        sys.stdout.write("".join(f"    {line}\n" for line in item["traceback"].splitlines()))
    return 0 if found else 4
