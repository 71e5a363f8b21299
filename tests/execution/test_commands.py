"""The command line: a repository from simulated raw frames to catalogues, and every verb of the repository."""

from __future__ import annotations

import json

import pytest

from starmill.cli.main import main


@pytest.fixture
def call(capsys):
    """Run a command line; gives exit code and output."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Simulate a few small frames."""
    from starmill.io.raw import load_camera
    from starmill.io.simulated_night import write_night
    from starmill.simulation.night import Night, NightSettings

    folder = tmp_path_factory.mktemp("night")
    settings = NightSettings(
        size=160, bands=("r",), epochs=2, n_bias=3, n_dark=3, n_flat=3, density=120.0, n_transients=0
    )
    write_night(Night(settings, load_camera("simcam")), folder)
    return folder / "raw"


def test_from_raw_frames_to_post_isr_in_five_commands(tmp_path, night, call):
    data = tmp_path / "DATA"
    assert call("repo", "init", data)[0] == 0
    assert call("repo", "ingest", data, night, "--camera", "simcam", "--mode", "hardlink")[0] == 0
    code, out, _ = call("run", "calibs", "-r", data, "-i", "raw/simcam", "-o", "masters", "--dry-run")
    assert code == 0
    assert "bias: 1 quanta (found 3 frames)" in out
    assert "bias: about" in out
    assert "typical of the task, which has not run here yet" in out
    assert call("run", "calibs", "-r", data, "-i", "raw/simcam", "-o", "masters", "-q")[0] == 0
    assert call("repo", "certify", data, "calib", "bias", "dark", "flat", "-i", "masters")[0] == 0
    command = (
        "run",
        "process",
        "-r",
        data,
        "-i",
        "raw/simcam,calib",
        "-o",
        "processed",
        "--only",
        "detrend",
        "--json",
    )
    code, out, _ = call(*command)
    assert code == 0
    assert json.loads(out)["counts"]["isr"]["done"] == 2
    code, out, _ = call(*command)
    assert json.loads(out)["counts"]["isr"] == {"total": 2, "cached": 2}

    code, out, _ = call("repo", "query", data, "post_isr", "band = r", "--json")
    refs = json.loads(out)
    assert len(refs) == 2
    product = data / refs[0]["path"]
    assert call("rerun", product)[0] == 0
    code, out, _ = call("repo", "provenance", product)
    assert "by IsrTask" in out
    assert "by BuildCalibrationTask" in out
    code, out, _ = call("status", data)
    assert "processed  finished" in out
    code, out, _ = call("repo", "ls", data)
    assert "2 post_isr" in out
    assert call("repo", "verify", data)[0] == 0


def test_what_cannot_be_done_is_explained(tmp_path, night, call):
    data = tmp_path / "DATA"
    call("repo", "init", data)
    call("repo", "ingest", data, night, "--camera", "simcam")
    code, _, err = call("run", "process", "-r", data, "-i", "raw/simcam")
    assert code == 4
    assert "no calibration collection among the inputs, so no bias" in err
    assert call("run", "proces", "-r", data)[0] == 2
    assert call("run", "process", "-r", data, "--set", "isr.biass=false")[0] == 2
    assert call("run", "process", "-r", tmp_path / "nowhere")[0] == 3
    assert call("repo", "ingest", data, night, "--camera", "no-such-camera")[0] == 3
    code, _, err = call("repo", "query", data, "raw", "nigth = 3")
    assert code == 3
    assert "did you mean 'night'" in err
    assert call("repo", "query", data, "raw", "night = 19990101")[0] == 4
    code, out, _ = call("run", "process", "-r", data, "--config-dump", "--set", "isr.bias=false")
    assert code == 0
    assert "bias: false" in out


def test_collections_travel_and_go(tmp_path, night, call):
    data, other = tmp_path / "DATA", tmp_path / "OTHER"
    call("repo", "init", data)
    call("repo", "ingest", data, night, "--camera", "simcam")
    assert call("repo", "chain", data, "everything", "raw/simcam")[0] == 0
    assert call("repo", "tag", data, "best", "raw", "image_type = science", "-i", "everything")[0] == 0
    assert call("repo", "export", data, tmp_path / "best.tar", "raw", "-i", "best")[0] == 0
    call("repo", "init", other)
    assert call("repo", "import", other, tmp_path / "best.tar", "--run", "taken")[0] == 0
    _, out, _ = call("repo", "ls", other, "--json")
    assert json.loads(out)["taken"]["datasets"] == {"raw": 2}
    assert (
        call("repo", "prune", data, "raw/simcam", "--yes")[0] != 0
    )  # a chain and a tagged collection hold it
    code, _, err = call("repo", "prune", data, "raw/simcam")
    assert code == 2
    assert "--yes" in err
    code, out, _ = call("run", "calibs", "-r", data, "-o", "none", "-d", "exposure = 7", "--dry-run")
    assert code == 4
    assert "hold no frames for the query 'exposure = 7'" in out
    assert call("repo", "prune", data, "raw/simcam", "--yes", "--force")[0] == 0
    assert call("repo", "verify", data, "--json")[0] == 0
    (other / "registry.sqlite3").unlink()
    assert call("repo", "rebuild", other)[0] == 0
    assert call("repo", "verify", other)[0] == 0


def test_choices_of_nothing_say_so(tmp_path, night, call):
    data = tmp_path / "DATA"
    call("repo", "init", data)
    code, _, err = call("repo", "ingest", data, tmp_path, "--camera", "simcam")
    assert code == 4
    assert "no FITS files in" in err
    call("repo", "ingest", data, night, "--camera", "simcam")
    code, _, err = call("repo", "certify", data, "calib", "bias", "flat", "-i", "raw/simcam")
    assert code == 4
    assert "0 bias, 0 flat certified in calib" in err
    code, _, err = call("repo", "tag", data, "good", "raw", "band = z")
    assert code == 4
    assert "0 data sets put into good" in err
    assert "calib" not in call("repo", "ls", data)[1]


def test_pictures_of_pipelines(tmp_path, night, call):
    data = tmp_path / "DATA"
    call("repo", "init", data)
    for name in ("plan.svg", "plan.mmd"):
        call("run", "calibs", "-r", data, "--dry-run", "--picture", tmp_path / name)
        assert "flat" in (tmp_path / name).read_text()
    code, _, err = call("run", "calibs", "-r", data, "--dry-run", "--picture", tmp_path / "plan.png")
    assert code == 2
    assert "neither in .svg nor in .mmd" in err
    assert not (tmp_path / "plan.png").exists()


def test_configuration_of_tasks_that_are_left_out_is_no_mistake(call, tmp_path):
    assert call("repo", "init", tmp_path / "DATA")[0] == 0
    words = ("run", "process", "-r", tmp_path / "DATA", "--only", "isr", "--config-dump")
    status, text, _ = call(*words, "--set", "characterize.detect.threshold=8")
    assert status == 0
    assert "task: IsrTask" in text
    assert "CharacterizeImageTask" not in text
    assert call(*words, "--set", "characterize.detect.thresold=8")[0] == 2


@pytest.mark.parametrize("verb", [["run"], ["repo"], ["repo", "put"]])
def test_help_keeps_the_lines_of_examples(call, verb):
    status, text, _ = call(*verb, "--help")
    assert status == 0
    assert "\\b" not in text
    assert f"\n    starmill {verb[0]} " in text
