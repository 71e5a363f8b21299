"""Write the reference pages that are made from the code: configuration, columns, mask planes, commands."""

import importlib
import pkgutil
from pathlib import Path

import starmill.tasks
from starmill.datamodel.mask import DEFAULT_PLANES, EXTRA_PLANES
from starmill.tasks.base import Task


def write_all(folder: Path) -> None:
    """Write every generated page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "configuration.md": configuration_page(),
        "columns.md": columns_page(),
        "mask_planes.md": mask_page(),
        "commands.md": commands_page(),
        "api.md": api_page(),
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def table(head, rows) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def all_tasks():
    """Return every task class of the package by name."""
    for module in pkgutil.iter_modules(starmill.tasks.__path__):
        importlib.import_module(f"starmill.tasks.{module.name}")
    found, waiting = {}, list(Task.__subclasses__())
    while waiting:
        task = waiting.pop()
        if task.__module__.startswith("starmill."):
            found[task.__name__] = task
        waiting += task.__subclasses__()
    return dict(sorted(found.items()))


def configuration_page() -> str:
    """Return the page of all configuration fields, task by task."""
    parts = ["# Configuration\n\nEvery field of every task, with its default, bounds and unit.\n"]
    for name, task in all_tasks().items():
        rows = [
            (r["name"], f"`{r['default']}`", r["bounds"], r["unit"], r["description"])
            for r in task.Config.describe()
        ]
        summary = (task.__doc__ or "").strip().split("\n")[0]
        parts.append(f"## {name}\n\n{summary}\n")
        if rows:
            parts.append(table(("field", "default", "bounds", "unit", "meaning"), rows))
    return "\n".join(parts)


def columns_page() -> str:
    """Return the page of all catalogue columns of the characterisation."""
    from starmill.tasks.characterize import CharacterizeImageTask

    schema = CharacterizeImageTask().empty_catalog().schema
    rows = [(f"`{c.name}`", "flag" if c.is_flag else c.dtype, c.unit, c.description) for c in schema.values()]
    return "# Catalogue columns\n\n" + table(("column", "type", "unit", "meaning"), rows)


def mask_page() -> str:
    """Return the page of the mask planes."""
    rows = [(name, bit, text) for bit, (name, text) in enumerate(DEFAULT_PLANES.items())]
    rows += [(name, "as added", text) for name, text in EXTRA_PLANES.items()]
    return "# Mask planes\n\n" + table(("plane", "bit", "a set bit means"), rows)


def commands_page() -> str:
    """Return the page of the command line, from the help of every verb."""
    import click

    from starmill.cli.main import VERBS, cli

    parts = ["# Commands\n"]
    context = click.Context(cli, info_name="starmill")
    for verb in VERBS:
        command = cli.get_command(context, verb)
        text = command.get_help(click.Context(command, info_name=verb, parent=context))
        parts.append(f"## starmill {verb}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def api_page() -> str:
    """Return the page of the public functions and classes."""
    import starmill as package

    parts = ["# Python interface\n\nThe names that `import starmill` offers.\n"]
    for name, module in sorted(package._PUBLIC.items()):
        kind = "autoclass" if name[0].isupper() else "autofunction"
        options = "\n:members:" if kind == "autoclass" else ""
        parts.append(
            f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: {module}.{name}{options.replace(chr(10), chr(10) + '   ')}\n```\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    write_all(Path(__file__).parent / "reference" / "generated")
