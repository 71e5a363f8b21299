"""Fixtures that every test folder may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data():
    """Return a function that gives the folder of a real data set, or skips the test."""

    def folder(name):
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"the real data set '{name}' is not beside this checkout")
        return path

    return folder


@pytest.fixture(scope="session")
def shared_bench():
    """Return the folder of the benchmark simulators, or skip the test."""
    path = SHARED / "bench"
    if not path.exists():
        pytest.skip("the benchmark simulators are not beside this checkout")
    return path
