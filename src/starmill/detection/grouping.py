"""Groups of sources that must be fitted together: friends of friends, with a cap on their size."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.numerics.close_pairs import close_pairs

__all__ = ["SourceGroups", "group_sources", "link_channels"]


@dataclass(frozen=True, slots=True)
class SourceGroups:
    """Sources by group.

    Attributes
    ----------
    offsets : (n_groups + 1,) int64 array
    members : (n,) int64 array
        Group g holds the sources ``members[offsets[g]:offsets[g + 1]]``, in ascending order.
    label : (n,) int64 array
        Group of every source. Groups are numbered by their first source.
    chain_size : (n,) int64 array
        Number of sources in the whole friends-of-friends chain, before a long chain was cut.
    """

    offsets: NDArray[np.int64]
    members: NDArray[np.int64]
    label: NDArray[np.int64]
    chain_size: NDArray[np.int64]

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, group: int) -> NDArray[np.int64]:
        return self.members[self.offsets[group] : self.offsets[group + 1]]

    @property
    def size(self) -> NDArray[np.int64]:
        """Number of sources fitted together with every source, itself included."""
        return np.diff(self.offsets)[self.label]


def group_sources(x: NDArray[Any], y: NDArray[Any], link: float, max_members: int = 10) -> SourceGroups:
    """Join sources closer than ``link`` into groups, and cut groups that grow too large.

    Parameters
    ----------
    x, y : (n,) arrays, pixel
    link : float, pixel
    max_members : int
        A longer chain is cut in halves across its longest direction until every part is small enough. The parts
        are fitted one by one with their neighbours subtracted, so that the cost stays proportional to n.

    Returns
    -------
    groups : SourceGroups
    """
    n = x.size
    if n == 0:
        empty = np.zeros(0, np.int64)
        return SourceGroups(np.zeros(1, np.int64), empty, empty, empty)
    xy = np.column_stack([x, y]).astype(np.float64)
    chain = _chains(xy, link)
    sizes = np.bincount(chain)
    label = chain.copy()
    following = sizes.size
    order = np.argsort(chain, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for group in np.flatnonzero(sizes > max_members):
        parts = _halve(order[starts[group] : starts[group + 1]], xy, max_members)
        for part in parts[1:]:
            label[part] = following
            following += 1
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    label = rank[inverse]
    members = np.argsort(label, kind="stable").astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(label))]).astype(np.int64)
    return SourceGroups(offsets, members, label.astype(np.int64), sizes[chain].astype(np.int64))


def _chains(xy: NDArray[np.float64], link: float) -> NDArray[np.int64]:
    """Label of the friends-of-friends chain of every source; sparse, so dense clumps do not cost n**2 memory."""
    cells = np.floor(xy / (link / np.sqrt(2.0))).astype(np.int64)  # any two sources of a cell are friends
    _, representative, cell = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    cell = cell.ravel()
    crowded = np.bincount(cell).max() > 50
    if not crowded:
        first, second = close_pairs(xy[:, 0], xy[:, 1], xy[:, 0], xy[:, 1], link)
    else:
        first, second = _crowded_pairs(xy, cells, cell, link).T
    n = xy.shape[0]
    return _components(
        n, np.concatenate([first, representative[cell]]), np.concatenate([second, np.arange(n)])
    )


def _components(n: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Label of the connected component of each of ``n`` nodes, numbered by their first node.

    Every round hooks the root of a component to the smallest neighbouring root, so the number of components that
    still grow is at least halved.
    """
    root = np.arange(n)
    while True:
        a, b = root[first], root[second]
        apart = a != b
        if not apart.any():
            return np.unique(root, return_inverse=True)[1].ravel().astype(np.int64)
        np.minimum.at(root, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while (root != root[root]).any():
            root = root[root]


def _crowded_pairs(
    xy: NDArray[np.float64], cells: NDArray[np.int64], cell: NDArray[np.int64], link: float
) -> NDArray[np.int64]:
    """One close pair for every two neighbouring cells that have one, which is enough to join them."""
    from scipy.spatial import cKDTree  # takes a third of a second to import, and few maps need it

    order = np.argsort(cell, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(cell))])
    trees = [cKDTree(xy[order[a:b]]) for a, b in itertools.pairwise(starts)]
    place = {tuple(key): i for i, key in enumerate(np.unique(cells, axis=0))}
    pairs = []
    for key, i in place.items():
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                j = place.get((key[0] + dx, key[1] + dy), -1)
                if j > i:
                    distance, index = trees[j].query(trees[i].data, distance_upper_bound=link)
                    nearest = int(np.argmin(distance))
                    if np.isfinite(distance[nearest]):
                        pairs.append((order[starts[i] + nearest], order[starts[j] + index[nearest]]))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _halve(members: NDArray[np.int64], xy: NDArray[np.float64], limit: int) -> list[NDArray[np.int64]]:
    """Cut a set of positions at the median of its longer side until every part is small enough."""
    parts, waiting = [], [members]
    while waiting:
        part = waiting.pop()
        if part.size <= limit:
            parts.append(part)
            continue
        axis = int(np.argmax(np.ptp(xy[part], axis=0)))
        order = part[np.argsort(xy[part, axis], kind="stable")]
        waiting += [order[part.size // 2 :], order[: part.size // 2]]
    return parts


def link_channels(
    x: NDArray[Any], y: NDArray[Any], channel: NDArray[Any], distance: float, max_gap: int = 1
) -> NDArray[np.int64]:
    """Join detections of neighbouring channels that lie at the same place.

    Parameters
    ----------
    x, y : (n,) arrays, pixel
    channel : (n,) int array
    distance : float, pixel
        Largest separation between two channels.
    max_gap : int
        Channels in a row in which a source may be missing.

    Returns
    -------
    label : (n,) int64 array
        Number of the linked source, counted from 1 in the order of first appearance.
    """
    n = x.size
    if n == 0:
        return np.zeros(0, np.int64)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    rows = {int(c): np.flatnonzero(channel == c) for c in np.unique(channel)}
    first, second = [np.arange(n)], [np.arange(n)]
    for c, here in rows.items():
        waiting = np.ones(here.size, bool)
        for step in range(1, max_gap + 2):
            there = rows.get(c + step)
            if there is None or not waiting.any():
                continue
            one, other = close_pairs(x[here], y[here], x[there], y[there], distance)
            separation = np.hypot(x[here][one] - x[there][other], y[here][one] - y[there][other])
            order = np.lexsort((separation, one))
            one, nearest = np.unique(one[order], return_index=True)
            other = other[order][nearest]
            joined = waiting[one]
            first.append(here[one[joined]])
            second.append(there[other[joined]])
            waiting[one] = False
    return _components(n, np.concatenate(first), np.concatenate(second)) + 1
