"""``starmill rerun``: make a product again from its provenance."""

from __future__ import annotations

from pathlib import Path

import click

from starmill.cli.runtime import print_json

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Folder that keeps the new files.")
@click.option(
    "--import", "modules", multiple=True, metavar="MODULE", help="Python module with further tasks."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(file: str, output: str | None, modules: tuple[str, ...], as_json: bool) -> int:
    """Make the product FILE of a repository again, and tell whether every byte is the same.

    The repository is not changed. Exit code 0: identical; 1: different.
    """
    from starmill.errors import RepositoryError
    from starmill.execution.provenance import dataset_at
    from starmill.execution.rerun import is_identical, rerun_dataset
    from starmill.pipelines.task_names import import_task_modules
    from starmill.repository import Repository
    from starmill.repository.configuration import find_root

    root = find_root(Path(file).absolute().parent)
    if root is None:
        raise RepositoryError(f"{file} does not lie in a repository")
    import_task_modules(modules)
    with Repository(root) as repository:
        report = rerun_dataset(
            repository, dataset_at(repository, file), keep=Path(output) if output else None
        )
    if as_json:
        print_json(report.to_dict())
    for name, same in report.identical.items():
        click.echo(f"{name} ({report.data_key}): {'identical' if same else 'DIFFERENT'}", err=True)
    for name, (then, now) in report.other_versions.items():
        click.echo(f"{name} was {then}, is {now}", err=True)
    return 0 if is_identical(report) else 1
