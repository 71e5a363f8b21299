"""A worker of the local pool: lives long, so that kernels stay warm; talks JSON messages over its pipes.

Started as ``python -m starmill.execution.worker``. The first message tells which task modules to import, how
much memory may be used, and how many threads; each further one is a quantum. The end of the input ends it.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import IO, Any

from starmill.execution.messages import encode, read_message


def set_memory_limit(limit: int) -> None:
    """Let allocations beyond `limit` byte fail with MemoryError instead of filling the machine."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def set_threads(count: int) -> None:
    """Use so many threads inside one quantum."""
    from starmill.numerics.tiles import set_threads as set_tile_threads

    set_tile_threads(count)


def resident_memory() -> int:
    """Memory of this process now, byte."""
    with open("/proc/self/statm", "rb") as stream:  # noqa: PTH123  a file of the kernel
        return int(stream.read().split()[1]) * resource.getpagesize()


def serve(source: IO[bytes], answers: IO[bytes]) -> None:
    """Work on messages until the input ends."""
    hello = read_message(source)
    if hello is None:
        return
    _prepare(hello)
    from starmill.execution.quantum_work import run_quantum

    answers.write(encode({"ready": os.getpid()}))
    answers.flush()
    while (message := read_message(source)) is not None:
        answer = run_quantum(message)
        answer["memory"] = resident_memory()
        answers.write(encode(answer))
        answers.flush()


def _prepare(hello: dict[str, Any]) -> None:
    from starmill.pipelines.task_names import import_task_modules

    if hello.get("memory"):
        set_memory_limit(int(hello["memory"]))
    sys.path.extend(path for path in hello.get("paths", []) if path not in sys.path)
    import_task_modules(hello.get("modules", []))
    set_threads(int(hello.get("threads", 1)))


def main() -> None:
    """Serve on standard input and output; whatever a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, answers)
    except (BrokenPipeError, KeyboardInterrupt):  # the runner has gone
        os._exit(0)


if __name__ == "__main__":
    main()
