"""Answers the questions of pipeline planning from a repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from starmill.errors import InputError
from starmill.pipelines.definition import Pipeline
from starmill.repository.calibrations import CalibrationTable
from starmill.repository.dataset_ref import StoredDataset
from starmill.repository.dataset_types import DatasetType
from starmill.repository.expression import parse_expression
from starmill.repository.query import exposure_rows, region_rows
from starmill.repository.repository import Repository
from starmill.repository.sky_regions import SkyRegion


class RepositorySource:
    """A repository as pipeline planning sees it.

    Parameters
    ----------
    repository : Repository
        Its search path is where inputs are looked up.
    pipeline : Pipeline
        Its own dataset types are known besides those of the repository.
    """

    def __init__(self, repository: Repository, pipeline: Pipeline) -> None:
        self.repository = repository
        self.own = pipeline_dataset_types(pipeline)

    def dataset_type(self, name: str) -> DatasetType:
        """Return a dataset type of the pipeline or of the repository."""
        known = self.repository.dataset_types()
        if name in self.own and known.get(name, self.own[name]) != self.own[name]:
            mine, theirs = self.own[name], known[name]
            if (mine.dimensions, mine.storage) != (theirs.dimensions, theirs.storage):
                raise InputError(
                    f"the pipeline's dataset type '{name}' has {mine.dimensions} {mine.storage},"
                    f" the repository's {theirs.dimensions} {theirs.storage}"
                )
        return self.own[name] if name in self.own else self.repository.dataset_type(name)

    def find_all(self, dataset_type: str, conditions: Sequence[str]) -> list[StoredDataset]:
        """Return all data sets on the search path that fulfil all conditions."""
        if dataset_type not in self.repository.dataset_types():
            return []  # of the pipeline's own types nothing exists yet
        return self.repository.query(dataset_type, " and ".join(f"({text})" for text in conditions))

    def exposures(self, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
        """Return exposure records."""
        return exposure_rows(self.repository.registry, keys)

    def regions(self, items: Sequence[tuple[Mapping[str, Any], Any]]) -> list[SkyRegion | None]:
        """Return the places on the sky of data sets, given as dimension values and reference; None where unknown."""
        keys = {
            (known["instrument"], known["exposure"])
            for known, _ in items
            if "instrument" in known and "exposure" in known
        }
        found = region_rows(self.repository.registry, keys)
        places: list[SkyRegion | None] = []
        for known, reference in items:
            corners = getattr(reference, "corners", None)
            if corners:
                places.append(SkyRegion.from_corners(json.loads(corners)))
            else:
                key = (known.get("instrument"), known.get("exposure"), known.get("detector"))
                places.append(found.get(key))
        return places

    def calibrations(self, dataset_type: str) -> CalibrationTable:
        """Return everything certified of one type."""
        return self.repository.calibrations(dataset_type)

    def matcher(self, condition: str) -> Callable[[Mapping[str, Any]], bool]:
        """Return a test of a data query."""
        expression = parse_expression(condition)
        return expression.matches if expression is not None else lambda _: True


def pipeline_dataset_types(pipeline: Pipeline) -> dict[str, DatasetType]:
    """Return the dataset types that a pipeline brings."""
    return {
        name: DatasetType(name, dimensions, storage, description)
        for name, (dimensions, storage, description) in pipeline.datasets.items()
    }
