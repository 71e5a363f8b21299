"""Files appear whole or not at all; configuration files are safe."""

import errno
import os

import numpy as np
import pytest

from starmill.datamodel.catalog import Catalog, Column
from starmill.datamodel.ellipse import ellipse_axes
from starmill.errors import ConfigError, InputError
from starmill.io.atomic import atomic_path, atomic_write_text
from starmill.io.config import dump_yaml, load_yaml, merge, parse_assignments, read_yaml_text
from starmill.io.regions import catalog_regions, write_regions


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    atomic_write_text(path, "old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    with pytest.raises(InputError, match="must not be overwritten"):
        atomic_write_text(path, "new", overwrite=False)


def test_a_full_disk_is_an_input_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"file\.txt: the file cannot be written: No space left"):
        atomic_write_text(tmp_path / "file.txt", "text")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="folder cannot be made"):
        atomic_write_text(tmp_path / "a" / "b.txt", "text")


NINE = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"{k}: &{k} [{','.join(['*' + chr(ord(k) - 1)] * 9)}]" for k in "bcdefghi"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NINE, "more than"),
        ("[" * 100, "nested deeper"),
        ("!!python/object/apply:os.system ['true']", "not a YAML file"),
        ("a: 1\na: 2", "given twice"),
        ("a: [1", "not a YAML file"),
        ("? [1, 2]\n: 3", "a key of a configuration"),
        ("x" * 2_000_000, "too large"),
    ],
)
def test_hostile_yaml_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        read_yaml_text(text)


def test_configuration_files(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("detect: {threshold: 5}\n")
    assert load_yaml(path) == {"detect": {"threshold": 5}}
    assert load_yaml_text_round_trip({"a": [1, {"b": None}], "c": "é"})
    path.write_text("- 1\n")
    with pytest.raises(InputError, match=r"c\.yaml: .*names and values"):
        load_yaml(path)
    with pytest.raises(InputError, match="does not exist"):
        load_yaml(tmp_path / "none.yaml")
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert parse_assignments(["a.b=3", "c=[1, x]", "d=true"]) == {"a.b": 3, "c": [1, "x"], "d": True}
    with pytest.raises(ConfigError, match=r"step\.param=value"):
        parse_assignments(["a"])


def load_yaml_text_round_trip(values):
    return read_yaml_text(dump_yaml(values)) == values


def test_regions_count_from_one_and_colour_flags(tmp_path):
    catalog = Catalog(columns={"id": [1, 2], "parent": [0, 1], "x": [9.0, 4.0], "y": [19.0, 5.0]})
    moments = {Column(f"shape_{n}"): [v, np.nan] for n, v in (("xx", 9.0), ("yy", 4.0), ("xy", 0.0))}
    catalog = catalog.with_columns({**moments, Column("psf_flux_flag", "bool"): [True, False]})
    lines = catalog_regions(catalog, scale=1)
    assert lines[0].startswith("ellipse(10.000,20.000,3.000,2.000,0.00) # color=red")
    assert lines[1].startswith("point(5.000,6.000) # point=x color=cyan")
    write_regions(tmp_path / "r.reg", lines)
    assert (tmp_path / "r.reg").read_text().splitlines()[2] == "image"


def test_axes_of_moments_do_not_depend_on_the_angle():
    for theta in np.linspace(-1.5, 1.5, 7):
        c, s = np.cos(theta), np.sin(theta)
        a2, b2 = 9.0, 4.0
        moments = np.array([[a2 * c * c + b2 * s * s, a2 * s * s + b2 * c * c, (a2 - b2) * s * c]])
        np.testing.assert_allclose(np.ravel(ellipse_axes(moments)), [3, 2, theta], atol=1e-12)
