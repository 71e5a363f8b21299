"""CPU seconds of the help of every verb, and of the imports that scripts begin with.

Run it with the environment of the package: ``python benchmarks/bench_startup.py``. The help of every verb has to stay
below 0.3 CPU seconds.
"""

import argparse
import resource
import statistics
import subprocess
import sys

from starmill.cli.main import VERBS

LIMIT = 0.3  # CPU seconds


def cpu_seconds(command, runs):
    """Return the median of user and system time of a command over several runs, after one warm-up."""
    found = []
    for run in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if run:
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(found)


def main():
    """Print the table; exit with 1 when a verb is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    slow = []
    for words in ([], *([verb] for verb in VERBS)):
        seconds = cpu_seconds([sys.executable, "-m", "starmill", *words, "--help"], runs)
        slow += words if seconds > LIMIT else []
        print(f"starmill {' '.join(words):14} --help   {seconds:.3f}")
    for module in (
        "starmill",
        "starmill.datamodel.exposure",
        "starmill.tasks.characterize",
        "starmill.repository",
    ):
        print(f"import {module:30} {cpu_seconds([sys.executable, '-c', f'import {module}'], runs):.3f}")
    sys.exit(f"above {LIMIT} CPU s: {', '.join(slow)}" if slow else 0)


if __name__ == "__main__":
    main()
