"""Removing data sets and collections: rows first, then files, so that a file is never registered but missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from starmill.errors import InputError, RepositoryError
from starmill.repository import schema
from starmill.repository.collections import RUN, find_collection
from starmill.repository.transaction import chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starmill.repository.dataset_ref import StoredDataset
    from starmill.repository.repository import Repository


def prune_datasets(repository: Repository, refs: Sequence[StoredDataset], *, force: bool = False) -> int:
    """Remove data sets with their files (a file ingested in place stays).

    Parameters
    ----------
    repository : Repository
        Open for writing.
    refs : sequence of StoredDataset
        What to remove.
    force : bool
        Also remove what a calibration or tagged collection holds.

    Returns
    -------
    n : int
        How many were removed.
    """
    identifiers = [ref.id for ref in refs]
    if not force:
        held = _held(repository, identifiers)
        if held:
            names = ", ".join(sorted({name for _, name in held}))
            raise RepositoryError(
                f"{len(held)} of the data sets are held by the collections {names}; use force (--force)"
            )
    for part in chunks(list(refs)):
        files = [ref.path for ref in part if ref.link != "direct"]
        repository.commit({"remove": [ref.id for ref in part]}, deletes=files)
    return len(identifiers)


def _held(repository: Repository, identifiers: list[str]) -> list[tuple[str, str]]:
    held: list[tuple[str, str]] = []
    for part in chunks(identifiers):
        for table in (schema.validity, schema.tag):
            rows = repository.registry.fetch(
                sa.select(table.c.dataset_id, schema.collection.c.name)
                .join(schema.collection, schema.collection.c.id == table.c.collection_id)
                .where(table.c.dataset_id.in_(part))
            )
            held += [(row.dataset_id, row.name) for row in rows]
    return held


def prune_collection(repository: Repository, name: str, *, force: bool = False) -> int:
    """Remove a collection; of a run also all its data sets.

    Parameters
    ----------
    repository : Repository
        Open for writing.
    name : str
        Collection.
    force : bool
        Also when a chain, calibration or tagged collection refers to it.

    Returns
    -------
    n : int
        Number of data sets removed.
    """
    from starmill.repository.query import search

    known = repository.collections()
    info = find_collection(known, name)
    users = [other.name for other in known.values() if name in other.members]
    if users and not force:
        raise InputError(
            f"collection '{name}' is a member of {', '.join(users)}; take it out first, or use force (--force)"
        )
    count = 0
    if info.kind == RUN:
        for kind in list(repository.dataset_types().values()):
            refs = search(repository.registry, kind, [info])
            count += prune_datasets(repository, refs, force=force) if refs else 0
    repository.commit({"remove_collections": [name]})
    return count
