"""The first tables: dataset types, collections, data sets, quanta, exposures, regions, validity, tags, sessions.

Frozen: later changes of the schema are later migrations.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger()
ROW = sa.BigInteger().with_variant(sa.Integer, "sqlite")
NAME = sa.String(128)


def upgrade() -> None:
    """Make all tables of schema 0001."""
    _make_collections()
    _make_datasets()
    _make_exposures()
    _make_members()


def _make_collections() -> None:
    op.create_table(
        "dataset_type",
        sa.Column("id", ROW, primary_key=True, autoincrement=True),
        sa.Column("name", NAME, nullable=False, unique=True),
        sa.Column("dimensions", sa.Text, nullable=False),
        sa.Column("storage", NAME, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
    )
    op.create_table(
        "collection",
        sa.Column("id", ROW, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(256), nullable=False, unique=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
    )
    op.create_table(
        "chain_member",
        sa.Column("chain_id", ROW, sa.ForeignKey("collection.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("member_id", ROW, sa.ForeignKey("collection.id"), nullable=False),
    )
    op.create_table(
        "document",
        sa.Column("checksum", sa.String(64), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "session",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("run_id", ROW, sa.ForeignKey("collection.id"), nullable=False),
        sa.Column("pipeline", sa.String(64)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
    )


def _make_datasets() -> None:
    op.create_table(
        "quantum",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("run_id", ROW, sa.ForeignKey("collection.id"), nullable=False),
        sa.Column("label", NAME, nullable=False),
        sa.Column("task", sa.String(256), nullable=False),
        sa.Column("data_key", sa.Text, nullable=False),
        sa.Column("content_key", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("config", sa.String(64)),
        sa.Column("versions", sa.String(64)),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("outputs", sa.Text, nullable=False),
        sa.Column("shape", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("finished", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("cpu_seconds", sa.Double, nullable=False),
        sa.Column("max_rss", BIG, nullable=False),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("run_id", "label", "data_key", name="quantum_once_per_run"),
    )
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("type_id", ROW, sa.ForeignKey("dataset_type.id"), nullable=False),
        sa.Column("run_id", ROW, sa.ForeignKey("collection.id"), nullable=False),
        sa.Column("data_key", sa.Text, nullable=False),
        sa.Column("instrument", NAME),
        sa.Column("night", BIG),
        sa.Column("exposure", BIG),
        sa.Column("visit", BIG),
        sa.Column("detector", BIG),
        sa.Column("filter", NAME),
        sa.Column("band", NAME),
        sa.Column("tract", BIG),
        sa.Column("patch", BIG),
        sa.Column("map", NAME),
        sa.Column("channel", BIG),
        sa.Column("path", sa.Text, nullable=False, unique=True),
        sa.Column("size", BIG, nullable=False),
        sa.Column("checksum", sa.String(64), nullable=False),
        sa.Column("link", sa.String(16), nullable=False),
        sa.Column("quantum_id", sa.String(64)),
        sa.UniqueConstraint("type_id", "run_id", "data_key", name="dataset_once_per_run"),
    )
    op.create_index("dataset_by_exposure", "dataset", ["type_id", "exposure", "detector"])
    op.create_index("dataset_by_night", "dataset", ["type_id", "night", "band"])
    op.create_index("dataset_by_filter", "dataset", ["type_id", "filter", "night"])
    op.create_index("dataset_by_patch", "dataset", ["type_id", "tract", "patch"])
    op.create_index("dataset_by_run", "dataset", ["run_id", "type_id"])
    op.create_index("dataset_by_map", "dataset", ["type_id", "map", "channel"])
    op.create_index("dataset_by_checksum", "dataset", ["checksum"])


def _make_exposures() -> None:
    op.create_table(
        "exposure",
        sa.Column("instrument", NAME, primary_key=True),
        sa.Column("exposure", BIG, primary_key=True),
        sa.Column("visit", BIG),
        sa.Column("night", BIG),
        sa.Column("filter", NAME),
        sa.Column("band", NAME),
        sa.Column("object", NAME),
        sa.Column("image_type", sa.String(32)),
        *(sa.Column(name, sa.Double) for name in ("mjd", "exposure_time", "airmass", "ra", "dec")),
        sa.Column("extra", sa.Text, nullable=False),
    )
    op.create_index("exposure_by_night", "exposure", ["night", "band"])
    op.create_index("exposure_by_object", "exposure", ["object"])
    op.create_index("exposure_by_type", "exposure", ["image_type", "night"])
    op.create_index("exposure_by_mjd", "exposure", ["mjd"])
    op.create_table(
        "sky_region",
        sa.Column("instrument", NAME, primary_key=True),
        sa.Column("exposure", BIG, primary_key=True),
        sa.Column("detector", BIG, primary_key=True),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("ra", "dec", "radius")),
        sa.Column("corners", sa.Text, nullable=False),
    )
    op.create_table(
        "sky_tile",
        sa.Column("tile", sa.Integer, primary_key=True),
        sa.Column("instrument", NAME, primary_key=True),
        sa.Column("exposure", BIG, primary_key=True),
        sa.Column("detector", BIG, primary_key=True),
    )
    op.create_index("sky_tile_by_exposure", "sky_tile", ["instrument", "exposure", "detector"])


def _make_members() -> None:
    dataset = sa.ForeignKey("dataset.id", ondelete="CASCADE")
    op.create_table(
        "validity",
        sa.Column("collection_id", ROW, sa.ForeignKey("collection.id"), primary_key=True),
        sa.Column("dataset_id", sa.String(32), dataset, primary_key=True),
        sa.Column("begin_mjd", sa.Double, primary_key=True),
        sa.Column("end_mjd", sa.Double, nullable=False),
    )
    op.create_index("validity_by_dataset", "validity", ["dataset_id"])
    op.create_table(
        "tag",
        sa.Column("collection_id", ROW, sa.ForeignKey("collection.id"), primary_key=True),
        sa.Column(
            "dataset_id", sa.String(32), sa.ForeignKey("dataset.id", ondelete="CASCADE"), primary_key=True
        ),
    )
    op.create_index("tag_by_dataset", "tag", ["dataset_id"])


def downgrade() -> None:
    """Remove all tables."""
    for name in (
        "tag", "validity", "sky_tile", "sky_region", "exposure", "dataset", "quantum", "session", "document",
        "chain_member", "collection", "dataset_type",
    ):  # fmt: skip
        op.drop_table(name)
