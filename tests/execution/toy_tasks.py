"""Small tasks on plain numbers, for tests of pipelines and executors."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from starmill.errors import AlgorithmError, NoDataError
from starmill.tasks.base import Config, Result, Task, field


class AddNumberConfig(Config):
    """How a number is changed."""

    amount: int = field(1, "what is added")
    delay: float = field(0.0, "how long it takes", unit="second", ge=0)


class AddNumberTask(Task):
    """Add to a number; some numbers make trouble on purpose."""

    Config = AddNumberConfig
    reads = {"number": "number"}
    writes = {"total": "total"}

    def run(self, *, number):
        """Add."""
        time.sleep(self.config.delay)
        trouble = number.get("trouble")
        if trouble == "fail":
            raise AlgorithmError("this number cannot be added", numbers={"v": number["v"]})
        if trouble == "nothing":
            raise NoDataError("nothing to add")
        if trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "hang":
            time.sleep(600)
        if trouble == "eat":
            number["food"] = [bytearray(50_000_000) for _ in range(200)]
        if trouble and trouble.startswith("die once "):
            path = Path(trouble.removeprefix("die once "))
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return Result(total={"v": number["v"] + self.config.amount, "pid": None})


class SumNumbersTask(Task):
    """Add all numbers of an instrument."""

    reads = {"totals": "total"}
    writes = {"sum": "sum"}

    def run(self, *, totals):
        """Sum."""
        return Result(sum={"v": sum(total["v"] for total in totals), "n": len(totals)})


PIPELINE = {
    "pipeline": "toys",
    "description": "Adds one to every number, and sums.",
    "datasets": {
        "total": {"dimensions": ["instrument", "exposure"], "storage": "json"},
        "sum": {"dimensions": ["instrument"], "storage": "json"},
    },
    "tasks": {
        "sum": {
            "task": "SumNumbersTask",
            "for": ["instrument"],
            "reads": {"totals": {"dataset": "total", "many": True}},
        },
        "add": {"task": "AddNumberTask", "for": ["instrument", "exposure"]},
    },
    "subsets": {"first": ["add"]},
}
