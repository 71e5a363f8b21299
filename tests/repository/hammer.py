"""Many processes that put and get at the same time; run as a program by the tests.

The writers are forks of one process that has imported everything: sixteen starts would take longer than the work.
"""

from __future__ import annotations

import os
import sys
import traceback

from starmill.repository import Repository


def write(root: str, writer: int, count: int) -> None:
    """Put `count` products of this writer, and compete with the others for the same ones."""
    with Repository(root, output="hammered") as repository:
        for number in range(count):
            repository.put({"by": writer}, "number", instrument=f"cam{writer}", exposure=number)
            repository.put({"same": number}, "number", instrument="shared", exposure=number)


def main(root: str, writers: int, count: int) -> int:
    """Fork the writers and return how many of them failed."""
    children = []
    for writer in range(writers):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                write(root, writer, count)
                code = 0
            except Exception:  # noqa: BLE001  the parent counts the failures
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
