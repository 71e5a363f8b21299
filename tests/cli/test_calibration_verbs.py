"""The verbs simulate and build-calibs, as a user calls them."""

import json

import pytest

from starmill.cli.main import main
from starmill.io.calibration import read_master


def run(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("verbs") / "night"
    assert (
        run("simulate", "night", path, "--size", 128, "--epochs", 1, "--bands", "r", "--bias", 3, "-q") == 0
    )
    return path


def test_build_all_masters(folder, capsys):
    raw = folder / "raw"
    assert (
        run(
            "build-calibs", "bias", *raw.glob("bias*"), "--camera", "simcam", "-o", folder / "bias.fits", "-q"
        )
        == 0
    )
    given = ["--camera", "simcam", "--bias", folder / "bias.fits"]
    assert run("build-calibs", "dark", *raw.glob("dark*"), *given, "-o", folder / "dark.fits", "-q") == 0
    capsys.readouterr()
    given += ["--dark", folder / "dark.fits", "-o", folder / "flat.fits", "--json", "-q"]
    assert run("build-calibs", "flat", *raw.glob("flat*"), *given, "--set", "n_sigma=4") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["filter"] == "r"
    assert set(report["gain"]) <= set("ABCD")
    assert read_master(folder / "flat.fits", "flat").n_frames == 3


def test_a_night_is_not_overwritten(folder, capsys):
    assert run("simulate", "night", folder, "--size", 128) == 3
    assert "is here already" in capsys.readouterr().err


def test_errors_leave_no_output(folder, tmp_path, capsys):
    raw, output = folder / "raw", tmp_path / "x.fits"
    cut = tmp_path / "cut.fits"
    cut.write_bytes(next(iter(raw.glob("bias*"))).read_bytes()[:20000])
    assert run("build-calibs", "bias", cut, "--camera", "simcam", "-o", output) == 3
    assert "cut.fits" in capsys.readouterr().err
    assert run("build-calibs", "flat", *raw.glob("bias*"), "--camera", "simcm", "-o", output) == 3
    assert "did you mean simcam" in capsys.readouterr().err
    assert run("build-calibs", "dark", *raw.glob("dark*"), "--camera", "simcam", "-o", output) == 3
    assert "no master bias" in capsys.readouterr().err
    assert run("build-calibs", "bias", *raw.glob("bias*"), "--camera", "simcam") == 2
    assert run("build-calibs", "bias", "--camera", "simcam", "-o", output) == 2
    assert run("build-calibs", "bias", cut, "--camera", "simcam", "-o", output, "--set", "n_sgma=3") == 2
    assert "n_sigma" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cut.fits"]


def test_the_configuration_can_be_seen(capsys):
    assert run("build-calibs", "flat", "--camera", "lowell42", "--config-dump") == 0
    text = capsys.readouterr().out
    assert "kind: flat" in text
    assert "method: mean_per_row" in text
