"""Collections: named sets of data sets.

``run``
    What one execution (or ingest) wrote; a data set belongs to exactly one run and never changes there.
``chain``
    An ordered list of collections; the first one that has a data set wins.
``calibration``
    Data sets with ranges of validity.
``tagged``
    Any choice of data sets, at most one per type and data ID.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from starmill.errors import InputError, RepositoryError, nearest_name
from starmill.repository import schema
from starmill.repository.registry import Registry

RUN, CHAIN, CALIBRATION, TAGGED = "run", "chain", "calibration", "tagged"
KINDS = (RUN, CHAIN, CALIBRATION, TAGGED)


@dataclass(frozen=True)
class CollectionInfo:
    """One collection.

    Attributes
    ----------
    number : int
        Row number in the registry.
    name, kind, description : str
        Kind is one of run, chain, calibration, tagged.
    members : tuple of str
        Of a chain, first searched first.
    """

    number: int
    name: str
    kind: str
    description: str = ""
    members: tuple[str, ...] = ()


def list_collections(registry: Registry) -> dict[str, CollectionInfo]:
    """Return all collections by name."""
    table = schema.collection
    rows = registry.fetch(sa.select(table).order_by(table.c.name))
    names = {row.id: row.name for row in rows}
    members: dict[int, list[str]] = {}
    links = registry.fetch(
        sa.select(schema.chain_member).order_by(
            schema.chain_member.c.chain_id, schema.chain_member.c.position
        )
    )
    for link in links:
        members.setdefault(link.chain_id, []).append(names[link.member_id])
    return {
        row.name: CollectionInfo(row.id, row.name, row.kind, row.description, tuple(members.get(row.id, ())))
        for row in rows
    }


def find_collection(known: dict[str, CollectionInfo], name: str) -> CollectionInfo:
    """Return a collection by name or raise `RepositoryError` with the nearest name."""
    if name not in known:
        near = nearest_name(name, known)
        hint = f"; did you mean '{near}'?" if near else ""
        raise RepositoryError(f"collection '{name}' does not exist{hint}")
    return known[name]


def flatten(known: dict[str, CollectionInfo], names: Iterable[str]) -> list[CollectionInfo]:
    """Return the collections that a search passes through, chains replaced by their members.

    Parameters
    ----------
    known : dict
        All collections.
    names : iterable of str
        Where to search, in order.

    Returns
    -------
    found : list of CollectionInfo
        Runs, calibration and tagged collections, each once.
    """
    found: dict[str, CollectionInfo] = {}
    stack = list(reversed([find_collection(known, name) for name in names]))
    opened: set[str] = set()
    while stack:
        info = stack.pop()
        if info.kind != CHAIN:
            found.setdefault(info.name, info)
        elif info.name not in opened:
            opened.add(info.name)
            stack.extend(find_collection(known, member) for member in reversed(info.members))
    return list(found.values())


def check_no_cycle(known: dict[str, CollectionInfo], chain: str, members: Iterable[str]) -> None:
    """Raise `InputError` when a chain would hold itself."""
    stack = list(members)
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name == chain:
            raise InputError(f"chain '{chain}' would hold itself")
        if name in seen:
            continue
        seen.add(name)
        stack.extend(find_collection(known, name).members)


def collection_row(name: str, kind: str, description: str = "") -> dict[str, Any]:
    """Payload row of a collection."""
    if kind not in KINDS:
        raise InputError(f"collection kind {kind!r} is none of {', '.join(KINDS)}")
    return {"name": name, "kind": kind, "description": description}
