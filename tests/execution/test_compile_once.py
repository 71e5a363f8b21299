"""Several processes that need the same kernel for the first time compile it once."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.execution.conftest import ROOT

PROGRAM = """
import numpy as np
from starmill.kernels.matched_moments import matched_moments
matched_moments(np.ones((1, 5, 5)), np.arange(5.0) - 2, 3, np.empty((1, 3)))
print(sum(matched_moments.stats.cache_misses.values()), sum(matched_moments.stats.cache_hits.values()))
"""


def test_one_process_compiles_and_the_others_wait_for_it(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NUMBA_CACHE_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(answers) == [["0", "1"], ["0", "1"], ["1", "0"]]
    assert len(list(tmp_path.rglob("compile.lock"))) == 1


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    from starmill.kernels._jit import _only_process

    (tmp_path / "file").write_text("")
    with _only_process(str(tmp_path / "file" / "below"), "kernel"):
        pass
    with _only_process(str(tmp_path / "new"), "kernel"), _only_process(str(tmp_path / "new"), "kernel"):
        assert (tmp_path / "new" / "compile.lock").exists()
