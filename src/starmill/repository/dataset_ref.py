"""References to data sets: everything needed to find a file, nothing of its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from starmill.repository.data_id import DIMENSIONS, DataId, Value

if TYPE_CHECKING:
    from starmill.repository.dataset_types import DatasetType
    from starmill.repository.repository import Repository


@dataclass(frozen=True)
class StoredDataset:
    """One registered data set.

    Attributes
    ----------
    id : str
        32 hexadecimal digits.
    dataset_type, storage, run : str
        Names.
    data_id : DataId
        The identifying dimensions.
    path : str
        Relative to the root; absolute for a file ingested in place.
    checksum : str
        SHA-256 of the file.
    size : int
        Byte.
    link : str
        ``file``, ``symlink`` (a link out of the root made by ingest) or ``direct`` (left in place).
    implied : dict
        Further dimension values that follow from the exposure.
    quantum : str or None
        What made it.
    corners : str or None
        JSON list of its corners on the sky (RA, Dec; degree), where no exposure tells its place.
    """

    id: str
    dataset_type: str
    storage: str
    run: str
    data_id: DataId
    path: str
    checksum: str
    size: int
    link: str = "file"
    implied: tuple[tuple[str, Value], ...] = ()
    quantum: str | None = None
    corners: str | None = None

    @property
    def known(self) -> dict[str, Value]:
        """All dimension values: identifying and implied."""
        return {**dict(self.implied), **self.data_id.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {
            "dataset_type": self.dataset_type,
            "run": self.run,
            "data_id": self.data_id.to_dict(),
            "implied": {name: value for name, value in self.implied if name not in self.data_id},
            "path": self.path,
            "size": self.size,
            "checksum": self.checksum,
            "id": self.id,
        }

    @classmethod
    def from_rows(cls, rows: Sequence[Any], fields: Sequence[str], kind: DatasetType) -> list[StoredDataset]:
        """Make references from rows.

        Parameters
        ----------
        rows : sequence of row
            Values in the order of `fields`.
        fields : sequence of str
            All columns of the dataset table but the key, and ``run_name``.
        kind : DatasetType
            Of all rows.

        Returns
        -------
        refs : list of StoredDataset
            In the same order.
        """
        at = {name: place for place, name in enumerate(fields)}
        own = [(name, at[name]) for name in kind.dimensions]
        others = [(name, at[name]) for name in DIMENSIONS if name not in kind.dimensions]
        plain = itemgetter(
            *[
                at[name]
                for name in ("id", "run_name", "path", "checksum", "size", "link", "quantum_id", "corners")
            ]
        )
        trusted = DataId.trusted
        type_name, storage = kind.name, kind.storage
        refs = []
        for row in rows:
            identifier, run, path, checksum, size, link, quantum, corners = plain(row)
            data_id = trusted(tuple([(name, row[place]) for name, place in own]))
            implied = tuple([(name, row[place]) for name, place in others if row[place] is not None])
            refs.append(
                cls(
                    identifier, type_name, storage, run, data_id, path, checksum, size, link, implied, quantum, corners
                )
            )  # fmt: skip
        return refs


class DataRef:
    """A repository, a data ID, and by default a dataset type: what a script passes from step to step.

    Parameters
    ----------
    repository : Repository
        Where to look.
    dataset_type : str
        Name used when `get`, `put` and `exists` are called without one.
    data_id : DataId
        Complete for the dataset type; it may hold more dimensions.
    """

    def __init__(self, repository: Repository, dataset_type: str, data_id: DataId) -> None:
        self.repository = repository
        self.dataset_type = dataset_type
        self.data_id = data_id

    def get(self, dataset_type: str | None = None, *, component: str | None = None, box: Any = None) -> Any:
        """Read the data set of this data ID."""
        return self.repository.get(
            dataset_type or self.dataset_type, self.data_id, component=component, box=box
        )

    def put(self, value: Any, dataset_type: str | None = None) -> StoredDataset:
        """Write a data set of this data ID."""
        return self.repository.put(value, dataset_type or self.dataset_type, self.data_id)

    def exists(self, dataset_type: str | None = None) -> bool:
        """Tell whether the data set is registered and its file is there."""
        return self.repository.exists(dataset_type or self.dataset_type, self.data_id)

    def __repr__(self) -> str:
        return f"DataRef({self.dataset_type}, {self.data_id.key})"
