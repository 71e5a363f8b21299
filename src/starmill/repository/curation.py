"""Making and filling collections: the part of a repository that curates instead of writing products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from starmill.errors import InputError
from starmill.repository.calibrations import check_range
from starmill.repository.collections import (
    CALIBRATION,
    CHAIN,
    RUN,
    TAGGED,
    CollectionInfo,
    check_no_cycle,
    collection_row,
    find_collection,
)
from starmill.repository.dataset_ref import StoredDataset
from starmill.repository.layout import validate_collection_name


class Curation(ABC):
    """The methods of `Repository` that make and fill collections."""

    @abstractmethod
    def commit(self, payload: dict[str, Any]) -> None:
        """Make one change."""

    @abstractmethod
    def collections(self) -> dict[str, CollectionInfo]:
        """Return all collections by name."""

    def make_collection(self, name: str, kind: str = RUN, description: str = "") -> None:
        """Make a collection; an existing one of the same kind is left as it is."""
        self.commit({"collections": [collection_row(validate_collection_name(name), kind, description)]})

    def chain(self, name: str, members: Sequence[str]) -> None:
        """Make a chain or set its members, first searched first."""
        known = self.collections()
        for member in members:
            find_collection(known, member)
        if len(set(members)) != len(members):
            raise InputError(f"chain '{name}' names a collection twice")
        check_no_cycle(known, name, members)
        rows = [collection_row(validate_collection_name(name), CHAIN)]
        self.commit({"collections": rows, "chains": [{"name": name, "members": list(members)}]})

    def tag(self, name: str, refs: Iterable[StoredDataset]) -> None:
        """Put data sets into a tagged collection, which is made when it does not exist."""
        rows = [{"collection": name, "dataset": ref.id} for ref in refs]
        self.commit({"collections": [collection_row(validate_collection_name(name), TAGGED)], "tags": rows})

    def untag(self, name: str, refs: Iterable[StoredDataset]) -> None:
        """Take data sets out of a tagged collection."""
        find_collection(self.collections(), name)
        self.commit({"untag": [{"collection": name, "dataset": ref.id} for ref in refs]})

    def certify(
        self,
        name: str,
        refs: Iterable[StoredDataset],
        begin_mjd: float | None = None,
        end_mjd: float | None = None,
    ) -> None:
        """Declare data sets valid for exposures taken between two times.

        Parameters
        ----------
        name : str
            Calibration collection; made when it does not exist.
        refs : iterable of StoredDataset
            Master frames.
        begin_mjd, end_mjd : float, optional
            MJD (UTC), the end not included; unlimited by default.
        """
        begin, end = check_range(begin_mjd, end_mjd)
        rows = [{"collection": name, "dataset": ref.id, "begin_mjd": begin, "end_mjd": end} for ref in refs]
        if not rows:
            raise InputError(f"nothing to certify in '{name}'")
        collection = collection_row(validate_collection_name(name), CALIBRATION)
        self.commit({"collections": [collection], "validity": rows})
