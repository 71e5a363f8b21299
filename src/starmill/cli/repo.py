"""``starmill repo``: make and use a data repository."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from starmill.cli.runtime import print_json

__all__ = ["command"]

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_HELP)
def command() -> None:
    """Make and use a data repository.

    \b
    Example:
      starmill repo init DATA
      starmill repo ingest DATA night/*.fits --camera lowell42
      starmill repo query DATA raw "image_type = science" --at 124.6,25.3
    """  # noqa: D301  click needs the backspace


def _json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)


def _repository_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("repository", type=click.Path())(function)


def _open(root: str, collections: Sequence[str] = (), *, writable: bool = False) -> Any:
    from starmill.repository import Repository

    names = [name for text in collections for name in text.split(",")]
    return Repository(root, inputs=names or None, writable=writable)


def _selection(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose data sets."""
    options = [
        click.option("-i", "--input", "collections", multiple=True, help="Collections to search, in order."),
        click.option("--at", default="", metavar="RA,DEC", help="Position on the sky, degree."),
        click.option("--radius", default=0.0, show_default=True, help="Around the position, degree."),
        click.option("--box", default="", metavar="RA1,RA2,DEC1,DEC2", help="Box on the sky, degree."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _numbers(text: str, count: int, name: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise click.BadParameter(f"{text!r} is not {count} numbers with commas between", param_hint=name)
    return values


def _place(at: str, radius: float, box: str) -> dict[str, Any]:
    if at:
        return {"at": _numbers(at, 2, "--at"), "radius": radius}
    if box:
        values = _numbers(box, 4, "--box")
        return {"ra_range": values[:2], "dec_range": values[2:]}
    return {}


@command.command(context_settings=_HELP)
@click.argument("folder", type=click.Path())
@click.option("--registry", default="", metavar="URL", help="Database instead of SQLite in the folder.")
@click.option("--layout", default="", metavar="TEMPLATE", help="How files are named.")
def init(folder: str, registry: str, layout: str) -> None:
    """Make an empty repository in FOLDER (or at the URL of an object store)."""
    from starmill.repository import Repository

    more = {"layout": layout} if layout else {}
    with Repository.create(folder, registry=registry or None, **more) as repository:
        click.echo(f"repository {folder} with registry {repository.registry.display_url}", err=True)


@command.command(context_settings=_HELP)
@_repository_argument
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--camera", required=True, help="Camera of the frames.")
@click.option(
    "--mode",
    default="copy",
    show_default=True,
    type=click.Choice(["copy", "move", "hardlink", "symlink", "direct"]),
    help="What happens to the files; 'direct' leaves them in place.",
)
@click.option("--run", default="", help="Collection that takes them; raw/CAMERA by default.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first file that is refused.")
@_json_option
def ingest(
    repository: str, paths: tuple[str, ...], camera: str, mode: str, run: str, fail_fast: bool, as_json: bool
) -> int:
    """Bring raw frames (files or folders) into a repository."""
    from starmill.repository.ingest import ingest as take

    with _open(repository, writable=True) as opened:
        report = take(opened, paths, camera, mode=mode, run=run or None, keep_going=not fail_fast)
    if as_json:
        print_json(vars(report))
    for path, reason in report.refused:
        click.echo(f"refused: {path}: {reason}", err=True)
    click.echo(
        f"{report.ingested} ingested, {report.unchanged} unchanged, {len(report.refused)} refused", err=True
    )
    if report.refused:
        return 1 if report.ingested or report.unchanged else 3
    if not report.ingested and not report.unchanged:
        click.echo(f"no FITS files in {', '.join(paths)}", err=True)
        return 4
    return 0


@command.command("ingest-maps", context_settings=_HELP)
@_repository_argument
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--run", default="maps", show_default=True, help="Collection that takes them.")
def ingest_maps(repository: str, paths: tuple[str, ...], run: str) -> None:
    """Bring maps and the channels of cubes (FITS) into a repository."""
    from starmill.repository.ingest_maps import ingest_maps as take

    with _open(repository, writable=True) as opened:
        click.echo(f"{take(opened, paths, run=run)} maps", err=True)


@command.command(context_settings=_HELP)
@_repository_argument
@click.argument("dataset_type")
@click.argument("where", default="")
@_selection
@click.option("--limit", type=click.IntRange(1), help="Largest number of lines.")
@_json_option
def query(
    repository: str,
    dataset_type: str,
    where: str,
    collections: tuple[str, ...],
    at: str,
    radius: float,
    box: str,
    limit: int | None,
    as_json: bool,
) -> int:
    """List data sets of a type that fulfil a data query WHERE and lie at a place on the sky."""
    with _open(repository, collections) as opened:
        refs = opened.query(dataset_type, where or None, limit=limit, **_place(at, radius, box))
    if as_json:
        print_json([ref.to_dict() for ref in refs])
    else:
        for ref in refs:
            values = " ".join(f"{name}={value}" for name, value in ref.known.items())
            sys.stdout.write(f"{ref.run}\t{values}\t{ref.path}\n")
    if not refs:
        click.echo(f"no {dataset_type} fulfils that", err=True)
    return 0 if refs else 4


@command.command(context_settings=_HELP)
@_repository_argument
@_json_option
def ls(repository: str, as_json: bool) -> None:
    """List collections with the number of data sets of each type."""
    from starmill.repository.contents import count_datasets

    with _open(repository) as opened:
        known, counts = opened.collections(), count_datasets(opened)
    if as_json:
        print_json(
            {
                n: {"kind": c.kind, "members": c.members, "datasets": counts.get(n, {})}
                for n, c in known.items()
            }
        )
        return
    for name, info in known.items():
        content = ", ".join(f"{count} {kind}" for kind, count in counts.get(name, {}).items())
        sys.stdout.write(f"{info.kind:12}{name:30}{', '.join(info.members) or content}\n")


@command.command(context_settings=_HELP)
@_repository_argument
@click.argument("dataset_type", metavar="TYPE")
@click.argument("file", type=click.Path())
@click.argument("data_id", metavar="DATA_ID")
@click.option("-o", "--output", "run", required=True, help="Run that takes it.")
@click.option("--replace", is_flag=True, help="Replace what has this data ID in the run.")
def put(repository: str, dataset_type: str, file: str, data_id: str, run: str, replace: bool) -> None:
    """Keep the content of FILE as a data set of TYPE with a data ID.

    \b
    Example:
      starmill repo put DATA sky_template deep_r.fits band=r,tract=1,patch=7 -o templates
    """  # noqa: D301  click needs the backspace
    from starmill.errors import InputError
    from starmill.repository.data_id import DataId
    from starmill.repository.formatters import read_dataset

    if not Path(file).is_file():
        raise InputError("the file does not exist", path=file)
    with _open(repository, writable=True) as opened:
        storage = opened.dataset_type(dataset_type).storage
        value = read_dataset(storage, Path(file))
        ref = opened.put(value, dataset_type, DataId.parse(data_id), run=run, replace=replace)
    click.echo(f"{dataset_type} ({ref.data_id.key}) in run '{run}'", err=True)


@command.command(context_settings=_HELP)
@_repository_argument
@click.argument("name")
@click.argument("members", nargs=-1, required=True)
def chain(repository: str, name: str, members: tuple[str, ...]) -> None:
    """Make the chain NAME of collections, first searched first."""
    with _open(repository, writable=True) as opened:
        opened.chain(name, members)


@command.command(context_settings=_HELP)
@_repository_argument
@click.argument("collection")
@click.argument("dataset_types", nargs=-1, required=True)
@click.option("-i", "--input", "collections", multiple=True, required=True, help="Where the masters are.")
@click.option("-d", "--where", default="", help="Data query that chooses masters.")
@click.option("--begin", type=float, help="Valid from, MJD.")
@click.option("--end", type=float, help="Valid until (not included), MJD.")
def certify(
    repository: str,
    collection: str,
    dataset_types: tuple[str, ...],
    collections: tuple[str, ...],
    where: str,
    begin: float | None,
    end: float | None,
) -> int:
    """Declare master frames valid between two times, in the calibration collection COLLECTION."""
    with _open(repository, collections, writable=True) as opened:
        found = {name: opened.query(name, where or None) for name in dataset_types}
        refs = [ref for part in found.values() for ref in part]
        if refs:
            opened.certify(collection, refs, begin, end)
    counts = ", ".join(f"{len(part)} {name}" for name, part in found.items())
    click.echo(f"{counts} certified in {collection}", err=True)
    return 0 if refs else 4


@command.command(context_settings=_HELP)
@_repository_argument
@click.argument("collection")
@click.argument("dataset_type")
@click.argument("where", default="")
@_selection
@click.option("--remove", is_flag=True, help="Take out instead of put in.")
def tag(
    repository: str,
    collection: str,
    dataset_type: str,
    where: str,
    remove: bool,
    collections: tuple[str, ...],
    at: str,
    radius: float,
    box: str,
) -> int:
    """Put data sets into the tagged collection COLLECTION."""
    with _open(repository, collections, writable=True) as opened:
        refs = opened.query(dataset_type, where or None, **_place(at, radius, box))
        if refs:
            (opened.untag if remove else opened.tag)(collection, refs)
    click.echo(f"{len(refs)} data sets {'taken out of' if remove else 'put into'} {collection}", err=True)
    return 0 if refs else 4


@command.command(context_settings=_HELP)
@_repository_argument
@click.argument("collection", default="")
@click.option("-t", "--type", "dataset_type", default="", help="Only data sets of this type.")
@click.option("-d", "--where", default="", help="Only data sets that fulfil a data query.")
@click.option("--force", is_flag=True, help="Also what other collections hold.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(repository: str, collection: str, dataset_type: str, where: str, force: bool, yes: bool) -> int:
    """Remove a COLLECTION, or some of its data sets, with their files."""
    from starmill.repository.prune import prune_collection, prune_datasets

    if not collection:
        raise click.UsageError("name the collection to prune")
    with _open(repository, [collection], writable=True) as opened:
        if not dataset_type:
            known = opened.collections().get(collection)
            files = " and all its files" if known is not None and known.kind == "run" else ", but no files"
            _confirm(f"remove the collection {collection}{files}?", yes=yes)
            count = prune_collection(opened, collection, force=force)
        else:
            refs = opened.query(dataset_type, where or None)
            _confirm(f"remove {len(refs)} data sets with their files?", yes=yes)
            count = prune_datasets(opened, refs, force=force)
    click.echo(f"{count} data sets removed", err=True)
    return 0


def _confirm(question: str, *, yes: bool) -> None:
    """Ask, unless the user has said yes; where nobody can answer, say how to."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Give --yes: there is no terminal to ask")
    click.confirm(question, abort=True, err=True)


@command.command(context_settings=_HELP)
@_repository_argument
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@click.option("--quick", is_flag=True, help="Compare sizes only; read no file.")
@_json_option
def verify(repository: str, repair: bool, quick: bool, as_json: bool) -> int:
    """Compare registry and files: missing, damaged and orphaned ones."""
    from starmill.repository.verify import verify as check

    with _open(repository, writable=True) as opened:
        report = check(opened, checksums=not quick, repair=repair)
    if as_json:
        print_json(report.to_dict())
    for what in ("missing", "damaged", "orphaned"):
        for path in getattr(report, what):
            click.echo(f"{what}: {path}", err=True)
    for line in report.repaired:
        click.echo(line, err=True)
    verdict = (
        "clean" if report.is_clean else "mended" if repair else "not clean; --repair mends what can be mended"
    )
    click.echo(f"{report.checked} data sets checked: {verdict}", err=True)
    return 0 if report.is_clean or repair else 1


@command.command(context_settings=_HELP)
@_repository_argument
def rebuild(repository: str) -> None:
    """Make a lost or damaged registry anew from journal and files."""
    from starmill.repository.verify import rebuild as make_anew

    report = make_anew(repository)
    click.echo(f"{report.checked} data sets registered again", err=True)
    for line in report.repaired:
        click.echo(line, err=True)
    for path in report.orphaned:
        click.echo(f"not described by the journal: {path}", err=True)


@command.command(context_settings=_HELP)
@_repository_argument
def upgrade(repository: str) -> None:
    """Bring the registry to the schema of this version of starmill."""
    from starmill.repository.configuration import load_config
    from starmill.repository.migrations import upgrade_registry
    from starmill.repository.store import open_store

    store = open_store(repository)
    before, after = upgrade_registry(load_config(store).registry_url(store.root))
    click.echo(f"schema {before} to {after}", err=True)


@command.command(context_settings=_HELP)
@_repository_argument
@click.argument("target", type=click.Path())
@click.argument("dataset_types", nargs=-1, required=True)
@click.option("-i", "--input", "collections", multiple=True, help="Collections to search.")
@click.option("-d", "--where", default="", help="Data query.")
def export(
    repository: str, target: str, dataset_types: tuple[str, ...], collections: tuple[str, ...], where: str
) -> None:
    """Write data sets with everything known of them to TARGET (a folder, .tar or .tar.gz)."""
    from starmill.repository.transfer import export_datasets

    with _open(repository, collections) as opened:
        refs = [ref for name in dataset_types for ref in opened.query(name, where or None)]
        export_datasets(opened, refs, target)
    click.echo(f"{len(refs)} data sets in {target}", err=True)


@command.command("import", context_settings=_HELP)
@_repository_argument
@click.argument("source", type=click.Path())
@click.option("--run", default="", help="Put everything into this run.")
def import_(repository: str, source: str, run: str) -> None:
    """Take an export of another repository in."""
    from starmill.repository.transfer import import_datasets

    with _open(repository, writable=True) as opened:
        click.echo(f"{import_datasets(opened, source, run=run or None)} data sets", err=True)


@command.command(context_settings=_HELP)
@click.argument("file", type=click.Path())
@click.option(
    "--inputs",
    multiple=True,
    type=click.Path(),
    help="Folder with the inputs of a loose product; repeatable.",
)
@_json_option
def provenance(file: str, inputs: tuple[str, ...], as_json: bool) -> None:
    """Show how a product FILE was made, down to the raw frames.

    Of a product outside of a repository the inputs are found by name and checksum: in the folders given and below
    them, and near the product.
    """
    from starmill.execution.provenance import dataset_at, format_tree, provenance_tree
    from starmill.repository.configuration import find_root

    root = find_root(Path(file).absolute().parent)
    if root is None:
        tree = _loose_tree(Path(file), [Path(folder) for folder in inputs])
    else:
        with _open(str(root)) as opened:
            tree = provenance_tree(opened, dataset_at(opened, file))
    if as_json:
        print_json(tree)
    else:
        sys.stdout.write("\n".join(format_tree(tree)) + "\n")


def _loose_tree(file: Path, folders: list[Path]) -> dict[str, Any]:
    from starmill.errors import InputError
    from starmill.execution.loose_provenance import loose_tree, read_loose
    from starmill.hotpants.again import made_from
    from starmill.hyper.again import read_record

    if not file.is_file():
        raise InputError("the file does not exist", path=file)
    tree = loose_tree(file, [made_from, read_record, read_loose], folders)
    if "made_by" not in tree:
        raise InputError("neither lies in a repository nor says how it was made", path=file)
    return tree
