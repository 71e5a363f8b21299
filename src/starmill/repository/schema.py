"""Tables of the registry.

One data set is one row of ``dataset``; every dimension has its own column, filled also with the values that
follow from the exposure (night, filter, band, visit), so that most queries touch one table only.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from starmill.repository.data_id import DIMENSIONS

#: Identifier of the newest migration; a registry with an unknown one was made by a newer starmill.
SCHEMA_VERSION = "0002"
#: All versions in order, oldest first.
KNOWN_VERSIONS = ("0001", "0002")

metadata = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite auto-increments INTEGER keys only


def _dimension_columns() -> list[Column[object]]:
    return [Column(name, BigInteger if kind is int else String(128)) for name, kind in DIMENSIONS.items()]


dataset_type = Table(
    "dataset_type",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("dimensions", Text, nullable=False),
    Column("storage", String(128), nullable=False),
    Column("description", Text, nullable=False, default=""),
)

collection = Table(
    "collection",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(256), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("description", Text, nullable=False, default=""),
)

chain_member = Table(
    "chain_member",
    metadata,
    Column("chain_id", _Id, ForeignKey("collection.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("member_id", _Id, ForeignKey("collection.id"), nullable=False),
)

document = Table(
    "document",
    metadata,
    Column("checksum", String(64), primary_key=True),
    Column("body", Text, nullable=False),
)

quantum = Table(
    "quantum",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("run_id", _Id, ForeignKey("collection.id"), nullable=False),
    Column("label", String(128), nullable=False),
    Column("task", String(256), nullable=False),
    Column("data_key", Text, nullable=False),
    Column("content_key", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("config", String(64), nullable=True),
    Column("versions", String(64), nullable=True),
    Column("inputs", Text, nullable=False, default="[]"),
    Column("outputs", Text, nullable=False, default="[]"),
    Column("shape", Text, nullable=False, default="{}"),
    Column("attempts", Integer, nullable=False, default=1),
    Column("finished", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("cpu_seconds", Double, nullable=False),
    Column("max_rss", BigInteger, nullable=False),
    Column("error", Text, nullable=True),
    UniqueConstraint("run_id", "label", "data_key", name="quantum_once_per_run"),
)

dataset = Table(
    "dataset",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("type_id", _Id, ForeignKey("dataset_type.id"), nullable=False),
    Column("run_id", _Id, ForeignKey("collection.id"), nullable=False),
    Column("data_key", Text, nullable=False),
    *_dimension_columns(),
    Column("path", Text, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("checksum", String(64), nullable=False),
    Column("link", String(16), nullable=False, default="file"),
    Column("quantum_id", String(64), nullable=True),
    Column("corners", Text, nullable=True),  # on the sky, of what belongs to no exposure
    UniqueConstraint("type_id", "run_id", "data_key", name="dataset_once_per_run"),
    Index("dataset_by_exposure", "type_id", "exposure", "detector"),
    Index("dataset_by_night", "type_id", "night", "band"),
    Index("dataset_by_filter", "type_id", "filter", "night"),
    Index("dataset_by_patch", "type_id", "tract", "patch"),
    Index("dataset_by_run", "run_id", "type_id"),
    Index("dataset_by_map", "type_id", "map", "channel"),
    Index("dataset_by_checksum", "checksum"),
)

exposure = Table(
    "exposure",
    metadata,
    Column("instrument", String(128), primary_key=True),
    Column("exposure", BigInteger, primary_key=True),
    Column("visit", BigInteger),
    Column("night", BigInteger),
    Column("filter", String(128)),
    Column("band", String(128)),
    Column("object", String(128)),
    Column("image_type", String(32)),
    Column("mjd", Double),
    Column("exposure_time", Double),
    Column("airmass", Double),
    Column("ra", Double),
    Column("dec", Double),
    Column("extra", Text, nullable=False, default="{}"),
    Index("exposure_by_night", "night", "band"),
    Index("exposure_by_object", "object"),
    Index("exposure_by_type", "image_type", "night"),
    Index("exposure_by_mjd", "mjd"),
)

sky_region = Table(
    "sky_region",
    metadata,
    Column("instrument", String(128), primary_key=True),
    Column("exposure", BigInteger, primary_key=True),
    Column("detector", BigInteger, primary_key=True),
    Column("ra", Double, nullable=False),
    Column("dec", Double, nullable=False),
    Column("radius", Double, nullable=False),
    Column("corners", Text, nullable=False, default="[]"),
)

sky_tile = Table(
    "sky_tile",
    metadata,
    Column("tile", Integer, primary_key=True),
    Column("instrument", String(128), primary_key=True),
    Column("exposure", BigInteger, primary_key=True),
    Column("detector", BigInteger, primary_key=True),
    Index("sky_tile_by_exposure", "instrument", "exposure", "detector"),
)

validity = Table(
    "validity",
    metadata,
    Column("collection_id", _Id, ForeignKey("collection.id"), primary_key=True),
    Column("dataset_id", String(32), ForeignKey("dataset.id", ondelete="CASCADE"), primary_key=True),
    Column("begin_mjd", Double, primary_key=True),
    Column("end_mjd", Double, nullable=False),
    Index("validity_by_dataset", "dataset_id"),
)

tag = Table(
    "tag",
    metadata,
    Column("collection_id", _Id, ForeignKey("collection.id"), primary_key=True),
    Column("dataset_id", String(32), ForeignKey("dataset.id", ondelete="CASCADE"), primary_key=True),
    Index("tag_by_dataset", "dataset_id"),
)

session = Table(
    "session",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("run_id", _Id, ForeignKey("collection.id"), nullable=False),
    Column("pipeline", String(64), nullable=True),
    Column("state", String(16), nullable=False),
    Column("started", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("counts", Text, nullable=False, default="{}"),
)
