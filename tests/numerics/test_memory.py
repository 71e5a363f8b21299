"""Freed memory goes back to the system."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from starmill.numerics.memory import release_free_memory


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell resident memory")
def test_freed_planes_are_given_back():
    for _ in range(2):  # after the first one the C library keeps blocks of this size
        planes = [np.ones(1 << 22) for _ in range(4)]
        last = np.ones(1000)  # above them on the heap
        del planes
    before = resident()
    release_free_memory()
    assert resident() <= before
    assert last.sum() == 1000
