"""Calibration collections: which master frame is valid for an exposure.

A data set may have several ranges of validity (MJD, UTC; the end is not included). Of all that are valid at the
time of an exposure and agree in the dimensions both have (instrument, detector, filter; not the night, which
only says when a master was taken), the one with the narrowest range is taken, then the one that began last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from starmill.errors import InputError
from starmill.repository import schema
from starmill.repository.collections import CALIBRATION, CollectionInfo
from starmill.repository.dataset_ref import StoredDataset
from starmill.repository.dataset_types import DatasetType
from starmill.repository.registry import Registry

#: Stands for "since ever" and "for ever": databases do not agree on infinities.
BEGIN_OF_TIME, END_OF_TIME = -1e9, 1e9
#: Dimensions that name a master frame without restricting what it may be used for.
_NOT_MATCHED = {"night", "exposure", "visit"}


@dataclass(frozen=True)
class CertifiedDataset:
    """A data set with one of its ranges of validity, MJD."""

    ref: StoredDataset
    begin_mjd: float
    end_mjd: float

    def is_valid(self, mjd: float) -> bool:
        """Tell whether the range holds a time."""
        return self.begin_mjd <= mjd < self.end_mjd


def check_range(begin_mjd: float | None, end_mjd: float | None) -> tuple[float, float]:
    """Return a range with None and infinities replaced by the ends of time."""
    if math.isnan(begin_mjd or 0.0) or math.isnan(end_mjd or 0.0):
        raise InputError(f"validity from MJD {begin_mjd} to {end_mjd} is empty")
    begin = BEGIN_OF_TIME if begin_mjd is None else max(BEGIN_OF_TIME, float(begin_mjd))
    end = END_OF_TIME if end_mjd is None else min(END_OF_TIME, float(end_mjd))
    if begin >= end:
        raise InputError(f"validity from MJD {begin_mjd} to {end_mjd} is empty")
    return begin, end


class CalibrationTable:
    """All certified data sets of one type in some calibration collections, ready for many look-ups.

    Parameters
    ----------
    dataset_type : DatasetType
        Kind of calibration.
    groups : sequence of list of CertifiedDataset
        One list per collection; an earlier collection wins.
    """

    def __init__(self, dataset_type: DatasetType, groups: Sequence[list[CertifiedDataset]]) -> None:
        self.dataset_type = dataset_type
        self.matched = [name for name in dataset_type.dimensions if name not in _NOT_MATCHED]
        self._groups: list[dict[tuple[Any, ...], list[CertifiedDataset]]] = []
        for group in groups:
            by_key: dict[tuple[Any, ...], list[CertifiedDataset]] = {}
            for item in group:
                key = tuple(item.ref.data_id[name] for name in self.matched)
                by_key.setdefault(key, []).append(item)
            for items in by_key.values():
                items.sort(key=lambda item: (item.end_mjd - item.begin_mjd, -item.begin_mjd, item.ref.id))
            self._groups.append(by_key)

    def best(self, known: Mapping[str, Any], mjd: float | None) -> StoredDataset | None:
        """Return the data set to use for an exposure.

        Parameters
        ----------
        known : mapping
            All dimension values of the exposure and detector.
        mjd : float or None
            When it was taken; None finds only what is valid at all times.

        Returns
        -------
        ref : StoredDataset or None
            None when nothing is valid.
        """
        key = tuple(known.get(name) for name in self.matched)
        for by_key in self._groups:
            for item in by_key.get(key, ()):
                if item.is_valid(mjd) if mjd is not None else _always(item):
                    return item.ref
        return None

    def reason(self, known: Mapping[str, Any], mjd: float | None) -> str:
        """Say why `best` found nothing."""
        key = tuple(known.get(name) for name in self.matched)
        shown = ", ".join(f"{name}={value}" for name, value in zip(self.matched, key, strict=True))
        items = [item for by_key in self._groups for item in by_key.get(key, ())]
        name = self.dataset_type.name
        if not self._groups:
            return f"no calibration collection among the inputs, so no {name}"
        if not items:
            return f"no {name} certified for {shown}"
        low, high = min(item.begin_mjd for item in items), max(item.end_mjd for item in items)
        return f"no {name} for {shown} valid at MJD {mjd} (there are {len(items)}, between {low:.3f} and {high:.3f})"


def _always(item: CertifiedDataset) -> bool:
    return item.begin_mjd <= BEGIN_OF_TIME and item.end_mjd >= END_OF_TIME


def load_calibrations(
    registry: Registry, dataset_type: DatasetType, collections: Sequence[CollectionInfo]
) -> CalibrationTable:
    """Read everything certified of one type.

    Parameters
    ----------
    registry : Registry
        Where to read.
    dataset_type : DatasetType
        Kind of calibration.
    collections : sequence of CollectionInfo
        Search path; other kinds than calibration are passed over.

    Returns
    -------
    table : CalibrationTable
        For look-ups.
    """
    groups = []
    for info in collections:
        if info.kind != CALIBRATION:
            continue
        columns: list[Any] = [column for column in schema.dataset.columns if column.name != "data_key"]
        columns.append(schema.collection.c.name.label("run_name"))
        statement = (
            sa.select(*columns, schema.validity.c.begin_mjd, schema.validity.c.end_mjd)
            .join(schema.validity, schema.validity.c.dataset_id == schema.dataset.c.id)
            .join(schema.collection, schema.collection.c.id == schema.dataset.c.run_id)
            .join(schema.dataset_type, schema.dataset_type.c.id == schema.dataset.c.type_id)
            .where(
                schema.validity.c.collection_id == info.number,
                schema.dataset_type.c.name == dataset_type.name,
            )
        )
        rows = registry.fetch(statement)
        refs = StoredDataset.from_rows(rows, [column.name for column in columns], dataset_type)
        pairs = zip(refs, rows, strict=True)
        groups.append([CertifiedDataset(ref, row.begin_mjd, row.end_mjd) for ref, row in pairs])
    return CalibrationTable(dataset_type, groups)
