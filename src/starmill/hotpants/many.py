"""Several science images with one command line of HOTPANTS, several at a time."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from starmill.errors import ConfigError, InputError

__all__ = ["ListOptions", "expanded", "is_made", "own_options", "run_many"]


@dataclass(frozen=True)
class ListOptions:
    """How the images of a list are worked on; none of it changes what is made.

    Attributes
    ----------
    processes : int
        Images at a time.
    resume : bool
        Leave out images whose difference was made by the same command line after its inputs.
    json : bool
        Print what became of every image as one JSON document.
    """

    processes: int = 1
    resume: bool = False
    json: bool = False


def own_options(words: list[str]) -> tuple[list[str], ListOptions]:
    """Take the options of this program, not of the subtraction, out of a command line.

    Parameters
    ----------
    words : list of str

    Returns
    -------
    words : list of str
        The rest.
    options : ListOptions
    """
    rest, found = [], {}
    words = list(words)
    while words:
        word = words.pop(0)
        if word.lower() in ("-resume", "-json"):
            found[word.lower()[1:]] = True
        elif word.lower() == "-j":
            count = words.pop(0) if words else ""
            if not count.isdigit() or int(count) < 1:
                raise ConfigError(f"-j needs a number of processes, not {count!r}")
            found["processes"] = int(count)
        else:
            rest.append(word)
    return rest, ListOptions(**found)


def expanded(words: list[str]) -> list[tuple[str, list[str]]] | None:
    """Return one command line for each image of a list.

    Parameters
    ----------
    words : list of str
        ``-inim @LIST`` names a text file with one image a line; ``{name}`` in other words stands for the name of an
        image without folder and suffix.

    Returns
    -------
    lines : list of (image, words), or None
        None when ``-inim`` names one image.
    """
    place = next((i for i, word in enumerate(words) if word.lower() == "-inim"), len(words)) + 1
    if place >= len(words) or not words[place].startswith("@"):
        return None
    path = Path(words[place][1:])
    try:
        images = [line.strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise InputError(str(error), path=path) from error
    images = [image for image in images if image and not image.startswith("#")]
    if not images:
        raise InputError("the list names no image", path=path)
    if not any("{name}" in word for word in words):
        raise ConfigError("with a list of images the output names must hold {name}")
    lines = []
    for image in images:
        name = Path(image).name.split(".fit")[0]
        line = [word.replace("{name}", name) for word in words]
        line[place] = image
        lines.append((image, line))
    return lines


def run_many(
    lines: list[tuple[str, list[str]]],
    options: ListOptions,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Run many command lines through the executors; one that fails does not stop the others.

    Parameters
    ----------
    lines : list of (image, words)
    options : ListOptions
    report : callable
        Told of every image when it is finished.

    Returns
    -------
    outcomes : list of dict
        In the order of the lines: ``image``, ``state`` ('done', 'kept' or 'failed'), ``regions`` (a sentence for
        each); of failed ones ``error``, ``error_type``, ``exit_code``, ``traceback``.
    """
    from starmill.execution.loose import outcome_of, program_message, run_messages  # half a second of imports

    messages = [
        program_message(number, "starmill.hotpants.command", {"words": words, "resume": options.resume})
        for number, (_, words) in enumerate(lines)
    ]

    def outcome(answer: dict[str, Any]) -> dict[str, Any]:
        return {"image": lines[answer["id"]][0], "regions": [], **outcome_of(answer)}

    answers = run_messages(messages, options.processes, lambda answer: report(outcome(answer)))
    return [outcome(answer) for answer in answers]


def is_made(words: list[str]) -> bool:
    """Tell whether the difference of a command line is there and newer than the images it names."""
    from starmill.io.hotpants_files import read_command

    given = {flag.lower(): value for flag, value in pairwise(words)}
    output = Path(given.get("-outim", ""))
    if not output.is_file():
        return False
    inputs = [
        Path(given[flag])
        for flag in ("-inim", "-tmplim", "-tmi", "-imi", "-tni", "-ini", "-ki")
        if flag in given
    ]
    if any(not path.is_file() or path.stat().st_mtime_ns > output.stat().st_mtime_ns for path in inputs):
        return False
    return read_command(output) == shlex.join(["hotpants", *words])
