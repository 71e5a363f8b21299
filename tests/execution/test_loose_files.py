"""Tasks on loose files, and maps that enter a repository."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits

from starmill.cli.main import cli
from starmill.cli.runtime import exit_code_of
from starmill.errors import InputError
from starmill.execution.frames import FrameJob, process_frames
from starmill.execution.loose import run_on_files
from starmill.execution.pool import _Worker
from starmill.repository import Repository
from starmill.repository.ingest_maps import ingest_maps, map_name
from starmill.repository.loose_files import LooseFiles
from starmill.repository.verify import verify
from tests.cli.test_process import star_field, write
from tests.execution.toy_tasks import AddNumberTask, SumNumbersTask


def test_tasks_run_on_files(tmp_path):
    for number in range(3):
        (tmp_path / f"in{number}.json").write_text(json.dumps({"v": number}))
    one = LooseFiles(
        {"number": ("json", tmp_path / "in2.json")}, {"total": ("json", tmp_path / "out" / "total.json")}
    )
    written = run_on_files(AddNumberTask(), one)
    assert json.loads(written["total"].read_text())["v"] == 3
    many = LooseFiles(
        {"totals": [("json", tmp_path / f"in{number}.json") for number in range(3)]},
        {"sum": ("json", tmp_path / "sum.json")},
    )
    run_on_files(SumNumbersTask(), many)
    assert json.loads((tmp_path / "sum.json").read_text()) == {"n": 3, "v": 3}
    assert not list(tmp_path.glob(".*part*"))


def test_mistakes_are_named(tmp_path):
    files = LooseFiles(
        {"number": ("json", tmp_path / "absent.json")}, {"total": ("json", tmp_path / "out.json")}
    )
    with pytest.raises(InputError, match="does not exist"):
        files.get("number")
    with pytest.raises(InputError, match="did you mean 'number'"):
        files.get("numbr")
    with pytest.raises(InputError, match="did you mean 'total'"):
        files.put("totl", {})
    with pytest.raises(InputError, match=r"must end in \.json"):
        LooseFiles({}, {"total": ("json", tmp_path / "out.fits")})


def _frame(path, seed):
    return write(path, star_field(seed)[0])


def _command(*words):
    return exit_code_of(lambda: cli.main([str(w) for w in words], "starmill", standalone_mode=False), words)


@pytest.mark.parametrize("options", [[], ["--table", "ecsv", "--compress"]])
def test_loose_products_are_made_again_byte_by_byte(tmp_path, capsys, options):
    night, out, moved = tmp_path / "night", tmp_path / "out", tmp_path / "elsewhere" / "deep" / "er"
    night.mkdir()
    frame = _frame(night / "a.fits", 1)
    words = ["process", frame, "--no-isr", "--no-pictures", "-q", "-o", out]
    assert _command(*words, *options, "--set", "characterize.detect_deep.threshold=6") == 0
    table = "a.catalog.ecsv" if options else "a.catalog.fits"
    for name in ("a.exposure.fits", table):
        assert _command("rerun", out / name, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["identical"] == {"a.exposure.fits": True, table: True, "a.reg": True}
    moved.mkdir(parents=True)
    frame.rename(moved / "a.fits")
    assert _command("rerun", out / "a.exposure.fits", "-o", tmp_path / "again") == 3
    assert "a.fits (exposure) was not found" in capsys.readouterr().err
    assert (
        _command("rerun", out / "a.exposure.fits", "--inputs", tmp_path / "elsewhere", "-o", tmp_path / "new")
        == 0
    )
    assert (tmp_path / "new" / table).read_bytes() == (out / table).read_bytes()
    frame = _frame(frame, 2)  # the same name, other content
    assert _command("rerun", out / "a.exposure.fits") == 3
    assert _command("rerun", moved / "a.fits") == 3
    assert "says how it was made" in capsys.readouterr().err
    assert _command("rerun", out / "none.fits") == 3


def test_loose_products_tell_how_they_were_made(tmp_path, capsys):
    frame, out = _frame(tmp_path / "a.fits", 1), tmp_path / "out"
    assert _command("process", frame, "--no-isr", "--no-pictures", "-q", "-o", out) == 0
    for name in ("a.exposure.fits", "a.catalog.fits", "a.reg"):
        assert _command("repo", "provenance", out / name) == 0
        told = capsys.readouterr().out
        assert told.startswith(f"{name}  sha256 ")
        assert "by ProcessFrameTask (config " in told
        assert "    exposure: a.fits  sha256 " in told
    (out / "a.fits").write_bytes(frame.read_bytes())  # an input beside its products was not made by them
    assert _command("repo", "provenance", out / "a.fits") == 3
    assert "neither lies in a repository nor says" in capsys.readouterr().err
    frame.unlink()
    (out / "a.fits").unlink()
    assert _command("repo", "provenance", out / "a.reg") == 0
    assert "not found here" in capsys.readouterr().out
    assert _command("repo", "provenance", out / "none.fits") == 3


def test_a_frame_that_kills_its_worker_fails_and_the_others_are_done(tmp_path, monkeypatch):
    frames = [_frame(tmp_path / f"{name}.fits", seed) for seed, name in enumerate("abc")]
    monkeypatch.setenv("STARMILL_CAMERAS", str(tmp_path))
    jobs = [FrameJob(str(path), str(tmp_path / "out"), pictures=False) for path in frames]
    reported = []
    killed = []

    def report(summary):
        reported.append(summary["frame"])

    def start(self, settings):
        original(self, settings)
        if len(killed) < 1:  # the first worker dies before it can answer: its frame is tried again
            killed.append(self.process.pid)
            self.process.kill()

    original = _Worker.__init__
    monkeypatch.setattr(_Worker, "__init__", start)
    summaries = process_frames(jobs, processes=2, report=report)
    assert [summary["state"] for summary in summaries] == ["done"] * 3
    assert sorted(reported) == ["a", "b", "c"]
    assert killed


def _header():
    cards = {
        "BUNIT": "Jy/beam", "BMAJ": 4 / 3600, "BMIN": 3 / 3600, "BPA": 10.0, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN",
        "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 8.5, "CRPIX2": 8.5, "CDELT1": -1 / 3600, "CDELT2": 1 / 3600,
    }  # fmt: skip
    return fits.Header(cards)


def test_maps_and_channels_of_cubes_enter_a_repository(tmp_path):
    rng = np.random.default_rng(2)
    flat, cube = rng.normal(size=(16, 16)).astype("f4"), rng.normal(size=(3, 16, 16)).astype("f4")
    fits.PrimaryHDU(flat, _header()).writeto(tmp_path / "my map.fits")
    fits.PrimaryHDU(cube, _header()).writeto(tmp_path / "cube_1.fits")
    with Repository.create(tmp_path / "repo") as repository:
        for _ in range(2):  # the second time nothing changes
            assert ingest_maps(repository, [tmp_path / "my map.fits", tmp_path / "cube_1.fits"]) == 4
        assert [ref.data_id["channel"] for ref in repository.query("sky_map", "map like 'cube*'")] == [
            0,
            1,
            2,
        ]
        read = repository.get("sky_map", map="cube-1", channel=2)
        np.testing.assert_array_equal(read.image, cube[2])
        np.testing.assert_array_equal(repository.get("sky_map", map="my-map").image, flat)
        assert read.unit == "Jy/beam"
        assert verify(repository).is_clean


def test_names_of_maps_come_from_file_names(tmp_path):
    assert map_name(tmp_path / "a b_c.fits.gz") == "a-b-c"
    with pytest.raises(InputError, match="no letter"):
        map_name(tmp_path / "___.fits")
