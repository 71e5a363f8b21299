"""Hostile and broken input: refused with a typed error that names the cause, and nothing changed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starmill.errors import ConfigError, InputError, RepositoryError, StarmillError
from starmill.repository import DataId, DatasetType, Repository
from starmill.repository.data_id import DIMENSIONS, validate_name
from starmill.repository.expression import NAMES, parse_expression
from starmill.repository.layout import check_relative, dataset_path, file_name, validate_template
from starmill.repository.transfer import export_datasets, import_datasets
from starmill.repository.verify import verify

HOSTILE = ["../x", "..", ".", "a/b", "a\\b", "a\0b", "a\nb", "a\rb", "x" * 300, "", " a", "a ", "-rf", "~root", ".hidden",
           "a:b", "a*b", "a?b", 'a"b', "a<b", "a|b", "\u202eabc", "a\u2028b", "\ud800"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_are_refused_everywhere(text, small_repository):
    with pytest.raises(InputError):
        DataId(instrument=text)
    with pytest.raises(InputError):
        small_repository.put({"v": 1}, "number", instrument=text, exposure=1)
    with pytest.raises(InputError):
        small_repository.put(
            {"v": 1}, "number", instrument="cam", exposure=1, run=text + "/" if text == "a/b" else text
        )
    with pytest.raises(InputError):
        DatasetType(text, ("instrument",), "json")
    assert not small_repository.query("number")


@pytest.mark.parametrize("value", [-1, 2**62, 2**70, 1.5, "1.5", "0x10", True, None, [1], "1 or 1=1", "٣"])
def test_wrong_integers_are_refused(value):
    with pytest.raises(InputError):
        DataId(exposure=value)


def test_unknown_dimensions_are_named():
    with pytest.raises(InputError, match="did you mean 'exposure'"):
        DataId(exposur=3)
    with pytest.raises(InputError, match="twice"):
        DataId.parse("exposure=3,exposure=4")
    assert DataId.parse("detector=3 exposure=12") == {"exposure": 12, "detector": 3}


TEMPLATES = [
    "../{run}/{name}", "/{run}/{name}", "{run}/../{name}", "{run}//{name}", "{run}", "{name}", "{run}/{name}x",
    "{run}/{name.__class__}", "{run}/{name!r}", "{run}/{name:>99}", "{run}/{evil}/{name}", "{run}/{",
    "{run}/\0{name}", "{run}/{0}/{name}", "{run}/$HOME/{name}", "{run}/{name}{name}",
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_that_leave_the_root_or_run_code_are_refused(template, tmp_path):
    with pytest.raises(InputError):
        validate_template(template)
    with pytest.raises(InputError):
        Repository.create(tmp_path / "repo", layout=template)
    assert not (tmp_path / "repo").exists()


_VALUES = st.text(min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_VALUES, _VALUES), min_size=2, max_size=2, unique=True))
def test_different_data_ids_have_different_paths_inside_the_root(pairs):
    paths = set()
    for band, name in pairs:
        try:
            data_id = DataId(band=band, map=name)
        except InputError:
            continue
        path = dataset_path("{run}/{band}/{name}", "run", "kind", data_id, data_id, ".fits")
        assert check_relative(path) == path
        assert path.startswith("runs/run/")
        assert path.isascii()
        paths.add((path, data_id))
    assert len({path for path, _ in paths}) == len(paths)


def test_file_names_keep_numbers_in_order():
    names = [file_name("raw", DataId(instrument="cam", exposure=n), ".fits") for n in (9, 10, 100)]
    assert names == sorted(names)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_query_or_an_input_error(text):
    try:
        expression = parse_expression(text)
    except InputError:
        return
    if expression is not None:
        assert expression.names() <= set(NAMES)
        expression.matches({})


WORDS = [
    "night",
    "band",
    "=",
    "in",
    "(",
    ")",
    ",",
    "and",
    "or",
    "not",
    "g",
    "3",
    "..",
    "'x'",
    "is",
    "null",
    "like",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=14))
def test_any_words_are_a_query_or_an_input_error(words):
    try:
        message = ""
        parse_expression(" ".join(words))
    except InputError as error:
        message = str(error)
    assert not message or "data query" in message


def test_deep_and_long_queries_are_refused():
    with pytest.raises(InputError, match="levels"):
        parse_expression("(" * 200 + "night = 1" + ")" * 200)
    with pytest.raises(InputError, match="levels"):
        parse_expression("not " * 200 + "night = 1")
    with pytest.raises(InputError, match="characters"):
        parse_expression("night = 1 or " * 5000)


def test_sql_in_values_is_only_a_value(small_repository):
    small_repository.put({"v": 1}, "number", instrument="cam", exposure=1)
    for text in ("'; DROP TABLE dataset; --", "x' OR '1'='1", "%", "_"):
        quoted = f'"{text}"' if "'" in text else f"'{text}'"
        assert small_repository.query("number", f"instrument = {quoted}") == []
        assert small_repository.query("number", f"instrument like {quoted}") == []
    assert len(small_repository.query("number")) == 1
    with pytest.raises(InputError):
        small_repository.query("number", "1 = 1; DROP TABLE dataset")
    with pytest.raises(InputError):
        small_repository.query("number'; DROP TABLE dataset; --")


def test_python_and_sql_agree_on_what_a_query_means(small_repository):
    for number in range(6):
        small_repository.put({"v": 1}, "number", instrument=f"cam_{number % 2}", exposure=number)
    # "not band = g" is left out: of an absent value SQL says neither yes nor no
    texts = [
        "exposure in (1..3, 5)", "not exposure < 4", "instrument like 'cam_?'", "instrument like 'cam%'",
        "band is null", "band = g", "band != g", "instrument = cam_1 and exposure >= 3 or exposure = 0",
    ]  # fmt: skip
    everything = small_repository.query("number")
    for text in texts:
        expression = parse_expression(text)
        expected = [ref.data_id for ref in everything if expression.matches(ref.known)]
        assert [ref.data_id for ref in small_repository.query("number", text)] == expected, text


def test_links_out_of_the_root_are_refused(tmp_path, small_repository):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "repo" / "runs").mkdir()
    (tmp_path / "repo" / "runs" / "test").symlink_to(outside)
    with pytest.raises(RepositoryError, match="symbolic link"):
        small_repository.put({"v": 1}, "number", instrument="cam", exposure=1)
    assert not list(outside.iterdir())
    assert not small_repository.query("number")
    (tmp_path / "repo" / "runs" / "test").unlink()
    ref = small_repository.put({"v": 1}, "number", instrument="cam", exposure=1)
    path = tmp_path / "repo" / ref.path
    (outside / "secret.json").write_text('{"v": "secret"}')
    path.unlink()
    path.symlink_to(outside / "secret.json")
    with pytest.raises(RepositoryError, match="symbolic link"):
        small_repository.get("number", exposure=1)
    assert not verify(small_repository).is_clean


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcde", "bcdef", strict=True)
)
CONFIGS = [
    ("starmill_repository: 1\nregistri: sqlite\n", "did you mean 'registry'"),
    ("starmill_repository: 99\n", "newer starmill"),
    ("registry: sqlite\n", "'starmill_repository' is missing"),
    ("starmill_repository: 1\nregistry: mysql://x\n", r"sqlite or postgresql"),
    ("starmill_repository: 1\nlayout: '../{run}/{name}'\n", "leave the root"),
    ("!!python/object/apply:os.system [true]\n", "not a YAML"),
    (BOMB, "more than"),
    ("- 1\n", "no mapping"),
]


@pytest.mark.parametrize(("text", "message"), CONFIGS)
def test_bad_repository_files_are_refused(tmp_path, small_repository, text, message):
    (tmp_path / "repo" / "repository.yaml").write_text(text)
    with pytest.raises((InputError, RepositoryError, ConfigError), match=message):
        Repository(tmp_path / "repo")


def test_a_damaged_registry_is_named_with_the_way_out(tmp_path, small_repository):
    small_repository.close()
    for path in (tmp_path / "repo").glob("registry.sqlite3*"):
        path.write_bytes(os.urandom(20_000))
    with pytest.raises(RepositoryError, match="starmill repo rebuild"):
        Repository(tmp_path / "repo")


def test_passwords_do_not_enter_the_repository_file(tmp_path):
    from starmill.repository.configuration import clean_registry_url

    assert "secret" not in clean_registry_url("postgresql+psycopg://me:secret@host/base")
    with pytest.raises(InputError, match="dialect"):
        clean_registry_url("no url at all")


def _archive(path, members):
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content.decode()
                archive.addfile(info)


def _manifest(**row):
    good = {"type": "number", "run": "r", "data": {"instrument": "cam", "exposure": 1}, "implied": {}, "size": 2,
            "file": "number/a.json", "checksum": "0" * 64}  # fmt: skip
    kind = {
        "name": "number",
        "dimensions": '["instrument", "exposure"]',
        "storage": "json",
        "description": "",
    }
    return json.dumps(
        {"starmill_export": 1, "payload": {"types": [kind], "datasets": [{**good, **row}]}}
    ).encode()


REG, SYM = tarfile.REGTYPE, tarfile.SYMTYPE
ARCHIVES = [
    ([("export/export.json", REG, _manifest(file="../../etc/passwd"))], "leaves the repository"),
    ([("export/export.json", REG, _manifest(run="../up"))], "may not"),
    ([("export/export.json", REG, _manifest(data={"instrument": "../x", "exposure": 1}))], "character"),
    (
        [("export/export.json", REG, _manifest()), ("export/files/number/a.json", REG, b"{}")],
        "another checksum",
    ),
    ([("export/export.json", REG, _manifest())], "No such file"),
    ([("export/export.json", SYM, b"/etc/passwd")], "no plain file"),
    ([("../outside", REG, b"x")], "no valid archive"),
    ([("/outside", REG, b"x"), ("export/export.json", REG, b"{}")], "no valid export"),
    ([("export/export.json", REG, b"[" * 100_000)], "no valid export"),
    ([("export/nothing", REG, b"x")], "missing"),
]


@pytest.mark.parametrize(("members", "message"), ARCHIVES)
def test_hostile_archives_are_refused(tmp_path, small_repository, members, message):
    _archive(tmp_path / "evil.tar", members)
    with pytest.raises(StarmillError, match=message):
        import_datasets(small_repository, tmp_path / "evil.tar")
    assert not small_repository.query("number")
    assert verify(small_repository).is_clean
    assert not (tmp_path.parent / "outside").exists()


def test_an_export_of_one_repository_enters_another(tmp_path, small_repository):
    small_repository.put({"v": 1}, "number", instrument="cam", exposure=1)
    small_repository.put({"v": 2}, "number", instrument="cam", exposure=2)
    for name in ("out.tar", "out.tar.gz", "folder"):
        assert export_datasets(small_repository, small_repository.query("number"), tmp_path / name) == 2
        with Repository.create(tmp_path / f"other-{name}") as other:
            assert import_datasets(other, tmp_path / name, run="taken") == 2
            assert import_datasets(other, tmp_path / name, run="taken") == 2
            assert other.get("number", exposure=2) == {"v": 2}
            assert verify(other).is_clean
        with pytest.raises(InputError, match="exists already"):
            export_datasets(small_repository, [], tmp_path / name)


def test_no_file_of_the_package_loads_pickles():
    import starmill

    folder = Path(starmill.__file__).parent
    for path in [
        *folder.glob("repository/**/*.py"),
        *folder.glob("execution/*.py"),
        *folder.glob("pipelines/*.py"),
    ]:
        text = path.read_text()
        assert "import pickle" not in text
        assert "eval(" not in text.replace("literal_eval(", "")
        assert "allow_pickle=True" not in text


@contextlib.contextmanager
def _as_nobody():
    """Give up the rights of root for a moment, where the tests have them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_is_readable_and_refuses_changes():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "repo"
        Path(folder).chmod(0o755)
        with Repository.create(root, output="test") as repository:
            repository.put(
                {"v": 1},
                DatasetType("number", ("instrument", "exposure"), "json"),
                instrument="cam",
                exposure=1,
            )
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        try:
            with _as_nobody():
                with Repository(root, writable=False) as reader:
                    assert reader.get("number", exposure=1) == {"v": 1}
                    assert len(reader.query("number", "exposure < 5")) == 1
                with pytest.raises(RepositoryError), Repository(root, output="x") as writer:
                    writer.put({"v": 1}, "number", instrument="cam", exposure=2)
        finally:
            for path in folders:
                path.chmod(0o755)


def test_every_dimension_has_a_type():
    assert set(DIMENSIONS.values()) == {int, str}
    with pytest.raises(InputError):
        validate_name("x" * 65, what="name")
