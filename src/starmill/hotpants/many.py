"""Several science images with one command line of HOTPANTS."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from starmill.errors import ConfigError, InputError, StarmillError

__all__ = ["expanded", "is_made", "run_many"]


def expanded(words):
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


def run_many(lines, run: Callable[[list[str]], int], *, resume=False):
    """Run many command lines; one that fails does not stop the others.

    Parameters
    ----------
    lines : list of (image, words)
    run : callable
        Runs one command line.
    resume : bool
        Leave out images whose difference was made by the same command line after its inputs.

    Returns
    -------
    code : int
        0; 1 when some failed; the code of the first failure when all did.
    """
    codes = []
    for image, words in lines:
        if resume and is_made(words):
            sys.stderr.write(f"{image}: kept from before\n")
            continue
        try:
            run(words)
        except StarmillError as error:
            codes.append(error.exit_code)
            sys.stderr.write(f"{image}: FAILED: {error}\n")
    if not codes:
        return 0
    return codes[0] if len(codes) == len(lines) else 1


def is_made(words):
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
