"""What a repository holds, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from starmill.repository import schema

if TYPE_CHECKING:
    from starmill.repository.repository import Repository


def count_datasets(repository: Repository) -> dict[str, dict[str, int]]:
    """Return the number of data sets by collection (run, calibration or tagged) and dataset type."""
    counts: dict[str, dict[str, int]] = {}
    dataset, kind, collection = schema.dataset.c, schema.dataset_type.c, schema.collection.c
    total = sa.func.count().label("total")
    runs = (
        sa.select(collection.name, kind.name.label("kind"), total)
        .select_from(schema.dataset)
        .join(schema.collection, collection.id == dataset.run_id)
        .join(schema.dataset_type, kind.id == dataset.type_id)
        .group_by(collection.name, kind.name)
    )
    statements = [runs]
    statements += [
        sa.select(collection.name, kind.name.label("kind"), total)
        .select_from(table)
        .join(schema.dataset, dataset.id == table.c.dataset_id)
        .join(schema.collection, collection.id == table.c.collection_id)
        .join(schema.dataset_type, kind.id == dataset.type_id)
        .group_by(collection.name, kind.name)
        for table in (schema.validity, schema.tag)
    ]
    for statement in statements:
        for row in repository.registry.fetch(statement.order_by(collection.name, kind.name)):
            counts.setdefault(row.name, {})[row.kind] = row.total
    return counts
