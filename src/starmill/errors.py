"""Every exception and warning of the package, as one hierarchy.

::

    StarmillError
    ├── InputError (ValueError)          a file, header, array or option that cannot be used
    │   └── ConfigError                  an unknown or invalid configuration value
    ├── AlgorithmError (RuntimeError)    an image on which an algorithm cannot give a right answer
    │   └── TooManyCosmicRaysError       more cosmic-ray pixels than the limit
    ├── NoDataError                      nothing to do: a skip, not a failure
    └── RepositoryError (OSError)        a repository that is missing, damaged, locked or newer
    StarmillWarning (UserWarning)        the result is valid, but somebody should look

A bad *source* is a flag in the catalogue; a bad *image* is one of these exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "AlgorithmError",
    "ConfigError",
    "InputError",
    "NoDataError",
    "RepositoryError",
    "StarmillError",
    "StarmillWarning",
    "TooManyCosmicRaysError",
    "nearest_name",
]


class StarmillError(Exception):
    """The root of all errors that the package raises on purpose."""

    exit_code = 70
    """What the command line returns when this error ends a command."""


class InputError(StarmillError, ValueError):
    """An input that cannot be used: a file, an extension, a header, an array, an option.

    Parameters
    ----------
    message : str
        One sentence: what is wrong, both values where two things disagree, and how to mend it.
    path : str or Path, optional
        The file.
    hdu : int or str, optional
        The extension of the file.
    """

    exit_code = 3

    def __init__(self, message: str, *, path: str | Path | None = None, hdu: int | str | None = None) -> None:
        self.message = message
        self.path = None if path is None else str(path)
        self.hdu = hdu
        super().__init__(message)

    def __str__(self) -> str:
        where = "" if self.path is None else self.path
        if self.hdu is not None:
            where += f"[{self.hdu}]"
        return f"{where}: {self.message}" if where else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {"path": self.path, "hdu": self.hdu})


class ConfigError(InputError):
    """A configuration key that does not exist or a value outside its bounds."""

    exit_code = 2


class AlgorithmError(StarmillError, RuntimeError):
    """An image on which an algorithm cannot give a right answer.

    Parameters
    ----------
    message : str
        What failed.
    numbers : mapping
        The numbers that failed: counts, limits, degrees of freedom. Never empty.
    """

    exit_code = 3

    def __init__(self, message: str, *, numbers: Mapping[str, Any]) -> None:
        self.message = message
        self.numbers = dict(numbers)
        super().__init__(message)

    def __str__(self) -> str:
        values = ", ".join(f"{name}={_short(value)}" for name, value in self.numbers.items())
        return f"{self.message} ({values})" if values else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {"numbers": self.numbers})


class TooManyCosmicRaysError(AlgorithmError):
    """More pixels look like cosmic rays than the limit: wrong PSF, wrong variance, or a ruined frame."""


class NoDataError(StarmillError):
    """There is nothing to do: the caller skips and goes on."""

    exit_code = 4


class RepositoryError(StarmillError, OSError):
    """A repository that is missing, damaged, locked, or written by a newer version."""

    exit_code = 3


class StarmillWarning(UserWarning):
    """The result is valid, but somebody should look."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like a misspelt one.

    Parameters
    ----------
    name : str
        What was written.
    known : iterable of str
        What could have been meant.

    Returns
    -------
    nearest : str or None
        None when nothing is similar.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rebuild(cls: type[StarmillError], message: str, keywords: dict[str, Any]) -> StarmillError:
    return cls(message, **keywords)
