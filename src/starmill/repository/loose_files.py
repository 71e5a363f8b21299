"""Loose files: the same tasks on files named by hand, without a repository.

A `LooseFiles` object says which file each input of a task is, and where each output goes; any task that can be
driven by a repository can be driven by it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starmill.errors import InputError, nearest_name
from starmill.repository.formatters import formatter, read_dataset
from starmill.repository.store import sync_files, sync_folder


class LooseFiles:
    """Inputs and outputs of one run of a task, as files.

    Parameters
    ----------
    inputs : mapping of str to (storage, path) or to a list of them
        By argument name of the task; storage names are those of the dataset types (``exposure``, ``catalog``,
        ``master_frame``, ``json``, ...). Raw frames need their camera: use `data_id`.
    outputs : mapping of str to (storage, path)
        By result name.
    data_id : mapping, optional
        ``instrument`` and ``detector`` of raw frames.
    """

    def __init__(
        self,
        inputs: Mapping[str, tuple[str, str | Path] | Sequence[tuple[str, str | Path]]],
        outputs: Mapping[str, tuple[str, str | Path]],
        *,
        data_id: Mapping[str, Any] | None = None,
    ) -> None:
        self.inputs = dict(inputs)
        self.outputs = {name: (storage, Path(path)) for name, (storage, path) in outputs.items()}
        self.data_id = dict(data_id or {})
        for name, (storage, path) in self.outputs.items():
            extension = formatter(storage).extension
            if not path.name.endswith(extension):
                raise InputError(
                    f"output '{name}' is stored as {storage} and must end in {extension}", path=path
                )

    def get(self, name: str) -> Any:
        """Read one input: a value, or a list where several files are given."""
        if name not in self.inputs:
            near = nearest_name(name, self.inputs)
            raise InputError(f"there is no input {name!r}" + (f"; did you mean '{near}'?" if near else ""))
        entry = self.inputs[name]
        if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
            return self._read(str(entry[0]), Path(str(entry[1])))
        return [self._read(str(storage), Path(str(path))) for storage, path in entry]

    def _read(self, storage: str, path: Path) -> Any:
        if not path.is_file():
            raise InputError("the file does not exist", path=path)
        return read_dataset(storage, path, data_id=self.data_id or None)

    def get_all(self) -> dict[str, Any]:
        """Read all inputs, as the keyword arguments of a task."""
        return {name: self.get(name) for name in self.inputs}

    def put(self, name: str, value: Any, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write one output; the file appears complete or not at all."""
        if name not in self.outputs:
            near = nearest_name(name, self.outputs)
            raise InputError(f"there is no output {name!r}" + (f"; did you mean '{near}'?" if near else ""))
        storage, path = self.outputs[name]
        chosen = formatter(storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{uuid.uuid4().hex[:12]}.part-{path.name}")
        try:
            chosen.write(value, staged, None if provenance is None else dict(provenance))
            sync_files([staged])
            staged.replace(path)
            sync_folder(path.parent)
        finally:
            staged.unlink(missing_ok=True)
        return path
