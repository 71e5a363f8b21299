"""Searches of the registry: by expression, by values, by place on the sky, through chains."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from starmill.errors import InputError
from starmill.repository import schema
from starmill.repository.collections import CALIBRATION, RUN, TAGGED, CollectionInfo
from starmill.repository.data_id import DIMENSIONS, Value
from starmill.repository.dataset_ref import StoredDataset
from starmill.repository.dataset_types import DatasetType
from starmill.repository.expression import EXPOSURE_COLUMNS, Expression, parse_expression
from starmill.repository.registry import Registry
from starmill.repository.sky_regions import SkyRegion, search_tiles

_COLUMNS = [column for column in schema.dataset.columns if column.name != "data_key"]


@dataclass(frozen=True)
class SkySearch:
    """A cone (position and radius) or a box on the sky, degree.

    Attributes
    ----------
    at : (ra, dec) or None
        Centre of a cone.
    radius : float
        Of the cone; 0 finds what holds the position itself.
    ra_range, dec_range : (low, high) or None
        Box; right ascension runs eastward from low to high and may cross 0.
    """

    at: tuple[float, float] | None = None
    radius: float = 0.0
    ra_range: tuple[float, float] | None = None
    dec_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if (self.at is None) == (self.ra_range is None or self.dec_range is None):
            raise InputError("a search on the sky needs either a position or a box")
        if not 0.0 <= self.radius <= 180.0:
            raise InputError(f"search radius {self.radius} degree is outside 0 to 180")
        if self.dec_range is not None and not -90 <= self.dec_range[0] <= self.dec_range[1] <= 90:
            raise InputError(f"declination range {self.dec_range} is not ascending within -90 to 90")

    def tiles(self) -> list[int] | None:
        """Tiles to look at; None for all."""
        if self.at is not None:
            return search_tiles(*self.at, self.radius)
        return search_tiles(*self._bounding_circle())

    def _bounding_circle(self) -> tuple[float, float, float]:
        assert self.ra_range is not None  # noqa: S101
        assert self.dec_range is not None  # noqa: S101
        width = (self.ra_range[1] - self.ra_range[0]) % 360.0 or 360.0
        if width > 30.0:
            return 0.0, 0.0, 180.0
        ra, dec = (self.ra_range[0] + width / 2) % 360.0, sum(self.dec_range) / 2
        corners = [(side, end) for side in self.ra_range for end in self.dec_range]
        circle = SkyRegion(ra, dec, 0.0)
        from starmill.repository.sky_regions import separation, unit_vector

        centre = unit_vector(circle.ra, circle.dec)
        reach = max(separation(centre, unit_vector(*corner)) for corner in corners)
        middles = [(ra, end) for end in self.dec_range]
        reach = max(reach, *(separation(centre, unit_vector(*middle)) for middle in middles))
        return ra, dec, reach

    def matches(self, region: SkyRegion) -> bool:
        """Exact test of one region."""
        if self.at is not None:
            return region.overlaps_cone(*self.at, self.radius)
        assert self.ra_range is not None  # noqa: S101
        assert self.dec_range is not None  # noqa: S101
        return region.overlaps_box(self.ra_range, self.dec_range)


def search(
    registry: Registry,
    dataset_type: DatasetType,
    collections: Sequence[CollectionInfo],
    *,
    where: str | Expression | None = None,
    values: Mapping[str, Value] | None = None,
    sky: SkySearch | None = None,
    limit: int | None = None,
) -> list[StoredDataset]:
    """Return the data sets of one type that fulfil all conditions, each data ID once.

    Parameters
    ----------
    registry : Registry
        Where to search.
    dataset_type : DatasetType
        Kind of product.
    collections : sequence of CollectionInfo
        Flattened search path; of the same data ID the one in the first collection wins. Calibration
        collections give everything certified in them.
    where : str or Expression, optional
        Data query.
    values : mapping, optional
        Dimension values that must match.
    sky : SkySearch, optional
        Place on the sky.
    limit : int, optional
        Largest number of rows the database returns.

    Returns
    -------
    found : list of StoredDataset
        Ordered by data ID.
    """
    expression = parse_expression(where) if isinstance(where, str) else where
    runs = [info for info in collections if info.kind == RUN]
    found: list[tuple[int, StoredDataset]] = []
    rank = {info.name: position for position, info in enumerate(collections)}
    if runs:
        column: Any = schema.dataset.c.run_id
        if expression is not None or values or sky is not None:
            column = column + 0  # keeps SQLite from taking the index of runs, which restricts least
        condition = column.in_([info.number for info in runs])
        rows = _rows(registry, dataset_type, condition, expression, values, sky, limit)
        found += [(rank[ref.run], ref) for ref in rows]
    for info in collections:
        if info.kind in {CALIBRATION, TAGGED}:
            table = schema.validity if info.kind == CALIBRATION else schema.tag
            chosen = sa.select(table.c.dataset_id).where(table.c.collection_id == info.number)
            condition = schema.dataset.c.id.in_(chosen)
            rows = _rows(registry, dataset_type, condition, expression, values, sky, limit)
            found += [(rank[info.name], ref) for ref in rows]
    is_one_run = len(collections) == len(runs) == 1  # in which each data ID stands once
    refs = [ref for _, ref in found] if is_one_run else _first_of_each(found)
    refs.sort(key=lambda ref: ref.data_id.sort_key)
    return refs


def _first_of_each(found: list[tuple[int, StoredDataset]]) -> list[StoredDataset]:
    """Return of each data ID the data set of lowest rank."""
    best: dict[Any, tuple[int, StoredDataset]] = {}
    for position, ref in found:
        key = ref.data_id.sort_key
        if key not in best or position < best[key][0]:
            best[key] = (position, ref)
    return [ref for _, ref in best.values()]


def _rows(
    registry: Registry,
    dataset_type: DatasetType,
    condition: Any,
    expression: Expression | None,
    values: Mapping[str, Value] | None,
    sky: SkySearch | None,
    limit: int | None,
) -> list[StoredDataset]:
    table = schema.dataset
    type_id = (
        sa.select(schema.dataset_type.c.id)
        .where(schema.dataset_type.c.name == dataset_type.name)
        .scalar_subquery()
    )
    columns: list[Any] = [*_COLUMNS, schema.collection.c.name.label("run_name")]
    source: Any = table.join(schema.collection, table.c.run_id == schema.collection.c.id)
    conditions = [table.c.type_id == type_id, condition]
    conditions += [table.c[name] == value for name, value in (values or {}).items()]
    if expression is not None:
        if expression.names() & set(EXPOSURE_COLUMNS):
            source = source.outerjoin(schema.exposure, _same_exposure(schema.exposure))
        conditions.append(expression.clause(_query_columns()))
    if sky is not None:
        if _has_own_place(dataset_type):
            conditions.append(table.c.corners.is_not(None))
        else:
            source, more, extra = _join_sky(source, dataset_type, sky)
            conditions += more
            columns += extra
    statement = sa.select(*columns).select_from(source).where(*conditions)
    if sky is not None:
        statement = statement.distinct()
    if limit is not None:
        statement = statement.limit(limit)
    with _no_collection():
        rows = registry.fetch(statement)
        if sky is not None:
            rows = [row for row in rows if sky.matches(_region(row))]
        return StoredDataset.from_rows(rows, [column.name for column in columns], dataset_type)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking through all objects while thousands of small ones are made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _query_columns() -> dict[str, Any]:
    columns: dict[str, Any] = {name: schema.dataset.c[name] for name in DIMENSIONS}
    return columns | {name: schema.exposure.c[name] for name in EXPOSURE_COLUMNS}


def _same_exposure(table: sa.Table) -> Any:
    return sa.and_(
        table.c.instrument == schema.dataset.c.instrument, table.c.exposure == schema.dataset.c.exposure
    )


def _join_sky(source: Any, dataset_type: DatasetType, sky: SkySearch) -> tuple[Any, list[Any], list[Any]]:
    region, tile = schema.sky_region, schema.sky_tile
    same = _same_exposure(region)
    if "detector" in dataset_type.dimensions:
        same = sa.and_(same, region.c.detector == schema.dataset.c.detector)
    source = source.join(region, same)
    conditions = []
    tiles = sky.tiles()
    if tiles is not None:
        source = source.join(
            tile,
            sa.and_(
                tile.c.instrument == region.c.instrument,
                tile.c.exposure == region.c.exposure,
                tile.c.detector == region.c.detector,
            ),
        )
        conditions.append(tile.c.tile.in_(tiles))
    extra = [
        region.c.ra.label("region_ra"), region.c.dec.label("region_dec"),
        region.c.radius.label("region_radius"), region.c.corners.label("region_corners"),
    ]  # fmt: skip
    return source, conditions, extra


def _has_own_place(dataset_type: DatasetType) -> bool:
    """Tell whether data sets of this type keep their own corners: no exposure says where they lie."""
    return "exposure" not in dataset_type.dimensions


def _region(row: Any) -> SkyRegion:
    if "region_ra" not in row._fields:
        return SkyRegion.from_corners(json.loads(row.corners))
    corners = tuple((float(ra), float(dec)) for ra, dec in json.loads(row.region_corners))
    return SkyRegion(row.region_ra, row.region_dec, row.region_radius, corners)


def exposure_rows(
    registry: Registry, keys: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the exposure records of many (instrument, exposure) pairs.

    Parameters
    ----------
    registry : Registry
        Where to search.
    keys : iterable of (str, int)
        Instrument and exposure number; unknown pairs are left out of the result.

    Returns
    -------
    records : dict
        Column values by (instrument, exposure).
    """
    by_instrument: dict[str, set[int]] = {}
    for instrument, number in keys:
        by_instrument.setdefault(instrument, set()).add(number)
    table = schema.exposure
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for instrument, numbers in by_instrument.items():
        ordered = sorted(numbers)
        for start in range(0, len(ordered), 5000):
            part = ordered[start : start + 5000]
            rows = registry.fetch(
                sa.select(table).where(table.c.instrument == instrument, table.c.exposure.in_(part))
            )
            records.update({(row.instrument, row.exposure): dict(row._mapping) for row in rows})
    return records


def region_rows(registry: Registry, keys: Iterable[tuple[str, int]]) -> dict[tuple[Any, ...], SkyRegion]:
    """Return the regions of exposures by (instrument, exposure, detector); unknown ones are left out."""
    by_instrument: dict[str, set[int]] = {}
    for instrument, number in keys:
        by_instrument.setdefault(instrument, set()).add(number)
    table = schema.sky_region
    regions: dict[tuple[Any, ...], SkyRegion] = {}
    for instrument, numbers in by_instrument.items():
        ordered = sorted(numbers)
        for start in range(0, len(ordered), 5000):
            part = ordered[start : start + 5000]
            rows = registry.fetch(
                sa.select(table).where(table.c.instrument == instrument, table.c.exposure.in_(part))
            )
            for row in rows:
                corners = tuple((float(ra), float(dec)) for ra, dec in json.loads(row.corners))
                region = SkyRegion(row.ra, row.dec, row.radius, corners)
                regions[row.instrument, row.exposure, row.detector] = region
    return regions


def search_exposures(
    registry: Registry, where: str | None = None, sky: SkySearch | None = None
) -> list[dict[str, Any]]:
    """Return exposure records that fulfil an expression and lie at a place on the sky, in order of time."""
    expression = parse_expression(where) if where else None
    columns: dict[str, Any] = {
        column.name: column
        for column in schema.exposure.columns
        if column.name in {*DIMENSIONS, *EXPOSURE_COLUMNS}
    }
    conditions = []
    if expression is not None:
        foreign = expression.names() - set(columns)
        if foreign:
            raise InputError(f"exposures have no {', '.join(sorted(foreign))}")
        conditions.append(expression.clause(columns))
    table = schema.exposure
    statement = (
        sa.select(table).where(*conditions).order_by(table.c.mjd, table.c.instrument, table.c.exposure)
    )
    records = [dict(row._mapping) for row in registry.fetch(statement)]
    if sky is None:
        return records
    region = schema.sky_region
    query = sa.select(region)
    tiles = sky.tiles()
    if tiles is not None:
        tile = schema.sky_tile
        same = [tile.c[name] == region.c[name] for name in ("instrument", "exposure", "detector")]
        query = query.join(tile, sa.and_(*same)).where(tile.c.tile.in_(tiles)).distinct()
    seen = {
        (row.instrument, row.exposure)
        for row in registry.fetch(query)
        if sky.matches(SkyRegion(row.ra, row.dec, row.radius, tuple(map(tuple, json.loads(row.corners)))))
    }
    return [record for record in records if (record["instrument"], record["exposure"]) in seen]
