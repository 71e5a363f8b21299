"""``starmill rerun``: make a product again from its provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from starmill.cli.runtime import print_json

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Folder that keeps the new files.")
@click.option(
    "--inputs",
    multiple=True,
    type=click.Path(),
    help="Folder with the inputs of a loose product; repeatable.",
)
@click.option(
    "--import", "modules", multiple=True, metavar="MODULE", help="Python module with further tasks."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    file: str, output: str | None, inputs: tuple[str, ...], modules: tuple[str, ...], as_json: bool
) -> int:
    """Make the product FILE again, and tell whether every byte is the same.

    A product in a repository is made from what is registered there; the repository is not changed. Of a loose
    product the inputs are found by name and checksum: in the folders given and below them, and near the product.
    Exit code 0: identical; 1: different.
    """
    from starmill.execution.rerun import is_identical
    from starmill.pipelines.task_names import import_task_modules

    import_task_modules(modules)
    report = _rerun(Path(file), Path(output) if output else None, [Path(folder) for folder in inputs])
    if as_json:
        print_json(report.to_dict())
    for name, same in report.identical.items():
        click.echo(f"{name} ({report.data_key}): {'identical' if same else 'DIFFERENT'}", err=True)
    for name, (then, now) in report.other_versions.items():
        click.echo(f"{name} was {then}, is {now}", err=True)
    return 0 if is_identical(report) else 1


def _rerun(file: Path, keep: Path | None, inputs: list[Path]) -> Any:
    from starmill.errors import InputError
    from starmill.execution.rerun import rerun_dataset, rerun_file
    from starmill.repository.configuration import find_root

    if not file.is_file():
        raise InputError("the file does not exist", path=file)
    root = find_root(file.absolute().parent)
    if root is None and file.suffix == ".fits":
        from starmill.io.hotpants_files import read_record

        if read_record(file)["record"]:
            from starmill.hotpants.again import rerun_product

            return rerun_product(file, inputs, keep=keep)
    if root is None:
        from starmill.hyper.again import read_record as read_hyper_record
        from starmill.hyper.again import rerun_product as rerun_hyper

        if read_hyper_record(file) is not None:
            return rerun_hyper(file, inputs, keep=keep)
        return rerun_file(file, inputs, keep=keep)
    from starmill.execution.provenance import dataset_at
    from starmill.repository import Repository

    with Repository(root) as repository:
        return rerun_dataset(repository, dataset_at(repository, str(file)), keep=keep)
