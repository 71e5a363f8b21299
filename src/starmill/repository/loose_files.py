"""Loose files: the same tasks on files named by hand, without a repository.

A `LooseFiles` object says which file each input of a task is, and where each output goes; any task that can be
driven by a repository can be driven by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starmill.errors import InputError, nearest_name
from starmill.io.atomic import atomic_path
from starmill.io.checksums import remembered_checksum
from starmill.repository.formatters import formatter, read_dataset

Entry = tuple[str, str | Path] | tuple[str, str | Path, Mapping[str, Any]]


@dataclass(frozen=True)
class LooseFile:
    """One input.

    Attributes
    ----------
    storage : str
        Name of the format.
    path : Path
        The file.
    details : dict
        What its reader must know besides: ``data_id`` of a raw frame, ``hdu`` of an image.
    """

    storage: str
    path: Path
    details: dict[str, Any]

    def read(self) -> Any:
        """Return the content."""
        if not self.path.is_file():
            raise InputError("the file does not exist", path=self.path)
        return read_dataset(self.storage, self.path, **self.details)

    @property
    def checksum(self) -> str:
        """SHA-256 of the file."""
        return remembered_checksum(self.path)


class LooseFiles:
    """Inputs and outputs of one run of a task, as files.

    Parameters
    ----------
    inputs : mapping of str to (storage, path), (storage, path, details) or to a list of them
        By argument name of the task; storage names are those of the dataset types (``exposure``, ``catalog``,
        ``master_frame``, ``json``, ...). Details: ``data_id`` of a raw frame, ``hdu`` of an image.
    outputs : mapping of str to (storage, path)
        By result name.
    data_id : mapping, optional
        ``instrument`` and ``detector`` of raw frames.
    matching : mapping of str to str, optional
        Inputs of which several candidates are given, to the input whose filter the right one has.
    """

    def __init__(
        self,
        inputs: Mapping[str, Entry | Sequence[Entry]],
        outputs: Mapping[str, tuple[str, str | Path]],
        *,
        data_id: Mapping[str, Any] | None = None,
        matching: Mapping[str, str] | None = None,
    ) -> None:
        common = {"data_id": dict(data_id)} if data_id else {}
        self.many = [name for name, entry in inputs.items() if not isinstance(entry, tuple)]
        self.inputs = {
            name: [_loose_file(one, common) for one in ([entry] if isinstance(entry, tuple) else entry)]
            for name, entry in inputs.items()
        }
        self.matching = dict(matching or {})
        self.used: dict[str, list[LooseFile]] = {}
        self.outputs = {name: (storage, Path(path)) for name, (storage, path) in outputs.items()}
        for name, (storage, path) in self.outputs.items():
            extensions = formatter(storage).extensions
            if not path.name.endswith(extensions):
                raise InputError(
                    f"output '{name}' is stored as {storage} and must end in {' or '.join(extensions)}",
                    path=path,
                )

    def get(self, name: str, read: Callable[[LooseFile], Any] = LooseFile.read) -> Any:
        """Read one input: a value, or a list where several files are given.

        Parameters
        ----------
        name : str
            Argument name.
        read : callable
            Reads one file.
        """
        if name not in self.inputs:
            near = nearest_name(name, self.inputs)
            raise InputError(f"there is no input {name!r}" + (f"; did you mean '{near}'?" if near else ""))
        files = self.inputs[name]
        values = [read(file) for file in files]
        self.used[name] = files
        return values if name in self.many else values[0]

    def get_all(self, read: Callable[[LooseFile], Any] = LooseFile.read) -> dict[str, Any]:
        """Read all inputs, as the keyword arguments of a task; `used` tells the files afterwards."""
        values = {name: self.get(name, read) for name in self.inputs if name not in self.matching}
        for name, other in self.matching.items():
            candidates = [(file, read(file)) for file in self.inputs[name]]
            file, values[name] = _of_filter(candidates, values[other].info.filter, name)
            self.used[name] = [file]
        return values

    def put(self, name: str, value: Any, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write one output; the file appears complete or not at all."""
        if name not in self.outputs:
            near = nearest_name(name, self.outputs)
            raise InputError(f"there is no output {name!r}" + (f"; did you mean '{near}'?" if near else ""))
        storage, path = self.outputs[name]
        with atomic_path(path) as temporary:
            formatter(storage).write(value, temporary, None if provenance is None else dict(provenance))
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "inputs": {
                name: [[file.storage, str(file.path), file.details] for file in files]
                for name, files in self.inputs.items()
            },
            "many": self.many,
            "matching": self.matching,
            "outputs": {name: [storage, str(path)] for name, (storage, path) in self.outputs.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LooseFiles:
        """Make it again from plain values."""
        matching = values["matching"]
        inputs: dict[str, Any] = {}
        for name, files in values["inputs"].items():
            entries = [(storage, path, details) for storage, path, details in files]
            inputs[name] = entries if name in values["many"] or name in matching else entries[0]
        outputs = {name: (storage, path) for name, (storage, path) in values["outputs"].items()}
        return cls(inputs, outputs, matching=matching)


def _loose_file(entry: Entry, common: dict[str, Any]) -> LooseFile:
    storage, path, *more = entry
    return LooseFile(str(storage), Path(str(path)), dict(more[0]) if more else common)


def _of_filter(candidates: list[tuple[LooseFile, Any]], wanted: str, keyword: str) -> tuple[LooseFile, Any]:
    """Return the candidate of a filter; the one that does not say its filter when there is none."""
    matching = [pair for pair in candidates if pair[1].filter == wanted]
    if not matching:
        matching = [pair for pair in candidates if not pair[1].filter or not wanted]
    if not matching:
        known = ", ".join(repr(value.filter) for _, value in candidates)
        raise InputError(f"no {keyword} is of the frame's filter {wanted!r} (given: {known})")
    return matching[0]
