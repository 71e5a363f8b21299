"""Kernels that are compiled on the side of a first run."""

import subprocess
import sys

from starmill.cli import first_run


def test_a_cache_without_kernels_is_told_from_a_full_one(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not first_run.kernels_are_compiled()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "circular_apertures.circular_apertures-1.py311.nbi").touch()
    assert first_run.kernels_are_compiled()


def test_nothing_is_started_when_all_is_compiled(monkeypatch):
    monkeypatch.setattr(first_run, "kernels_are_compiled", lambda: True)
    monkeypatch.setattr(first_run.subprocess, "Popen", None)  # calling it would raise
    with first_run.compile_beside():
        pass


def test_the_process_beside_is_stopped_with_the_block(monkeypatch):
    started, real = [], subprocess.Popen

    def start(words, **options):
        started.append(real([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        assert words[-1] == "starmill.cli.first_run"
        return started[-1]

    monkeypatch.setattr(first_run, "kernels_are_compiled", lambda: False)
    monkeypatch.setattr(first_run.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(first_run.subprocess, "Popen", start)
    with first_run.compile_beside():
        assert started[0].poll() is None
    assert started[0].returncode != 0


def test_the_small_image_is_characterised():
    first_run.main()
