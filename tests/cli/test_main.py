"""The command line: verbs, help, exit codes."""

import errno
import subprocess
import sys

import click
import pytest

from starmill.cli.main import VERBS, cli
from starmill.cli.runtime import Settings, exit_code_of, resolve_config
from starmill.errors import AlgorithmError, ConfigError, InputError, NoDataError, RepositoryError
from starmill.tasks.base import Config, field


def test_every_verb_explains_itself():
    context = click.Context(cli)
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command.get_help(click.Context(command, info_name=verb))


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom starmill.cli.main import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'numba', 'astropy', 'scipy', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "process" in done.stdout


def raising(error):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad"), 3),
        (ConfigError("bad"), 2),
        (AlgorithmError("bad", numbers={"n": 1}), 3),
        (NoDataError("none"), 4),
        (RepositoryError("locked"), 3),
        (ZeroDivisionError("oh"), 70),
        (KeyboardInterrupt(), 130),
        (click.UsageError("what"), 2),
        (click.Abort(), 130),
    ],
)
def test_errors_become_exit_codes(error, code, capsys):
    assert exit_code_of(raising(error), []) == code
    assert capsys.readouterr().err


def test_outcome_codes_pass_through():
    assert exit_code_of(lambda: None, []) == 0
    assert exit_code_of(lambda: 1, []) == 1


def test_algorithm_errors_show_their_numbers(capsys):
    exit_code_of(raising(AlgorithmError("too few stars", numbers={"stars": 3, "needed": 10})), [])
    assert "too few stars (stars=3, needed=10)" in capsys.readouterr().err


class ToyConfig(Config):
    threshold: float = field(5.0, "detection threshold", unit="sigma", gt=0)
    bin: int = field(128, "bin size", unit="pixel", ge=1)


def make_settings(tmp_path, files=(), assignments=()):
    paths = []
    for i, text in enumerate(files):
        path = tmp_path / f"{i}.yaml"
        path.write_text(text)
        paths.append(path)
    return Settings({
        "config_files": paths, "assignments": assignments, "config_dump": False, "jobs": 1, "as_json": False,
        "quiet": False, "verbose": 0,
    })  # fmt: skip


def test_later_layers_win(tmp_path):
    settings = make_settings(tmp_path, ["threshold: 6\nbin: 10", "threshold: 7"], ["bin=20"])
    config = resolve_config(ToyConfig, settings, camera={"threshold": 5.5})
    assert (config.threshold, config.bin) == (7, 20)
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        resolve_config(ToyConfig, make_settings(tmp_path, [], ["treshold=1"]))


def test_a_full_disk_is_no_internal_error(capsys):
    def write():
        raise OSError(errno.ENOSPC, "No space left on device", "catalog.fits")

    assert exit_code_of(write, []) == 3
    assert (
        "error: catalog.fits: No space left on device; nothing half written is kept"
        in capsys.readouterr().err
    )
