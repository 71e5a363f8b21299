"""One of many writers that put and get at the same time; run as a program by the tests."""

from __future__ import annotations

import sys

from starmill.repository import Repository


def main(root: str, writer: int, count: int) -> None:
    """Put `count` products of this writer, and compete with the others for the same ones."""
    with Repository(root, output="hammered") as repository:
        for number in range(count):
            repository.put({"by": writer}, "number", instrument=f"cam{writer}", exposure=number)
            repository.put({"same": number}, "number", instrument="shared", exposure=number)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
