"""References to data sets: everything needed to find a file, nothing of its content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
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
        columns = dict(zip(fields, zip(*rows, strict=True), strict=False))
        if not columns:
            return []
        own = [_pairs(name, columns[name]) for name in kind.dimensions]
        others = [
            _pairs(name, columns[name])
            for name in DIMENSIONS
            if name not in kind.dimensions and columns[name].count(None) < len(rows)
        ]
        identities = zip(*own, strict=True) if own else repeat(())
        implied = _known_only(list(zip(*others, strict=True)) if others else [()] * len(rows))
        return list(
            map(
                cls,
                columns["id"],
                repeat(kind.name),
                repeat(kind.storage),
                columns["run_name"],
                map(DataId.trusted, identities),
                *(columns[name] for name in ("path", "checksum", "size", "link")),
                implied,
                *(columns[name] for name in ("quantum_id", "corners")),
            )
        )


def _pairs(name: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return zip(repeat(name), values, strict=False)


def _known_only(implied: list[tuple[tuple[str, Any], ...]]) -> list[tuple[tuple[str, Value], ...]]:
    """Leave out what some data sets do not have."""
    if all(value is not None for pairs in implied for _, value in pairs):
        return implied
    return [tuple([pair for pair in pairs if pair[1] is not None]) for pairs in implied]


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
