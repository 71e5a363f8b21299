"""``starmill run``: run a pipeline over the data of a repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from starmill.cli.runtime import Settings, common_options, print_json

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pipeline")
@click.option("-r", "--repository", required=True, type=click.Path(), help="Repository.")
@click.option("-i", "--input", "inputs", multiple=True, help="Collections to read, in order; repeatable.")
@click.option("-o", "--output", default="", help="Run to write; the name of the pipeline by default.")
@click.option("-d", "--where", default="", help='Data query, as "night = 2019-03-26 and band in (g, r)".')
@click.option("--only", multiple=True, help="Only these tasks or subsets; repeatable.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be done, with expected cost.")
@click.option("--picture", type=click.Path(), help="Write the pipeline as .svg or .mmd (Mermaid).")
@click.option("--fail-fast", is_flag=True, help="Stop after the first failure.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed before.")
@click.option("--replace", is_flag=True, help="Make again what was made with other inputs or configuration.")
@click.option("--force", is_flag=True, help="Make everything again.")
@click.option("--timeout", type=float, help="Longest time of one quantum, second.")
@click.option("--mem-limit", default="", metavar="SIZE", help="Memory of all workers together, as 4G.")
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads of each worker."
)
@click.option(
    "--dask", default="", metavar="TARGET", help="tcp://... of a scheduler, a YAML file, or 'local'."
)
@click.option(
    "--import", "modules", multiple=True, metavar="MODULE", help="Python module with further tasks."
)
@click.option("--jsonl", is_flag=True, help="Events as lines of JSON on standard output.")
@common_options
def command(settings: Settings, pipeline: str, **options: Any) -> int:
    """Run PIPELINE (a standard one or a YAML file) over the data of a repository.

    What was completed before is not done again: the same command goes on after an interruption.

    \b
    Example:
      starmill run calibs  -r DATA -i raw/lowell42 -o masters -j 2
      starmill run process -r DATA -i raw/lowell42,calib -d "night = 2019-03-25" -j 2
    """  # noqa: D301  click needs the backspace
    from starmill.execution.interrupts import terminated_like_interrupted
    from starmill.execution.session import PipelineRequest, plan, run_plan
    from starmill.io.config import dump_yaml
    from starmill.pipelines import load_pipeline
    from starmill.pipelines.task_names import import_task_modules

    _check_picture(options["picture"])
    import_task_modules(options["modules"])
    definition = _configured(load_pipeline(pipeline), settings, options["only"])
    if settings.config_dump:
        click.echo(dump_yaml(_dump(definition)), nl=False)
        return 0
    request = PipelineRequest(
        repository=options["repository"],
        pipeline=definition,
        inputs=tuple(name for text in options["inputs"] for name in text.split(",")),
        output=options["output"] or definition.name,
        where=options["where"],
        workers=settings.jobs,
        dask=options["dask"],
        timeout=options["timeout"],
        memory=parse_size(options["mem_limit"]),
        threads=options["threads"],
        modules=options["modules"],
        fail_fast=options["fail_fast"],
        retry_failed=options["retry_failed"],
        replace=options["replace"],
        force=options["force"],
    )
    with plan(request) as prepared:
        if options["picture"]:
            _draw(Path(options["picture"]), prepared)
        if options["dry_run"]:
            return _show_plan(prepared, settings)
        if not len(prepared.graph):
            click.echo("nothing to do:\n" + prepared.graph.explain(), err=True)
            return 4
        with terminated_like_interrupted():
            summary = run_plan(prepared, sinks=_sinks(settings, jsonl=options["jsonl"]))
    if settings.as_json:
        print_json(summary.to_dict())
    if not settings.quiet:
        click.echo(summary.table(), err=True)
    return summary.exit_code


def _configured(definition: Any, settings: Settings, only: tuple[str, ...]) -> Any:
    from starmill.io.config import load_yaml, parse_assignments

    for path in settings.config_files:
        definition = definition.override(load_yaml(path))
    definition = definition.override(parse_assignments(settings.assignments))
    return definition.select(only) if only else definition


def _dump(definition: Any) -> dict[str, Any]:
    """Return the resolved configuration of every task."""
    values = definition.to_dict()
    for node in definition.nodes:
        values["tasks"][node.label]["config"] = node.task_config().to_dict()
    return values


def _sinks(settings: Settings, *, jsonl: bool) -> list[Any]:
    from starmill.execution.events import EventWriter
    from starmill.execution.progress import ProgressTable

    sinks: list[Any] = [ProgressTable(quiet=settings.quiet or jsonl)]
    if jsonl:
        sinks.append(EventWriter(sys.stdout))
    return sinks


def _check_picture(path: str | None) -> None:
    if path and Path(path).suffix not in (".svg", ".mmd"):
        raise click.BadParameter(
            f"{path!r} ends neither in .svg nor in .mmd (Mermaid)", param_hint="--picture"
        )


def _draw(path: Path, prepared: Any) -> None:
    from starmill.io.atomic import atomic_write_text
    from starmill.pipelines.picture import mermaid, svg

    draw = svg if path.suffix == ".svg" else mermaid
    atomic_write_text(path, draw(prepared.graph.pipeline, prepared.graph.counts()))


def _show_plan(prepared: Any, settings: Settings) -> int:
    from starmill.execution.estimate import estimate_cost

    costs = estimate_cost(prepared.repository, prepared.graph)
    if settings.as_json:
        print_json({"tasks": costs, "explanation": prepared.graph.explain()})
        return 0 if len(prepared.graph) else 4
    click.echo(prepared.graph.explain())
    for label, cost in costs.items():
        if cost["cpu_seconds"] is not None:
            basis = (
                ""
                if cost["basis"] == "earlier runs"
                else " (typical of the task, which has not run here yet)"
            )
            click.echo(
                f"{label}: about {cost['cpu_seconds']} CPU s, up to {cost['max_rss'] / 1e6:.0f} MB{basis}"
            )
        elif cost["quanta"]:
            click.echo(f"{label}: cost unknown, this task has not run here yet")
    return 0 if len(prepared.graph) else 4


def parse_size(text: str) -> int | None:
    """Return the number of bytes of ``4G``, ``500M`` or ``1000000``; None for an empty text."""
    if not text:
        return None
    units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1].upper() in units else (text, 1.0)
    try:
        size = int(float(number) * unit)
    except (ValueError, OverflowError):
        size = 0
    if size < 1_000_000:
        raise click.BadParameter(f"{text!r} is not a size like 4G", param_hint="--mem-limit")
    return size
