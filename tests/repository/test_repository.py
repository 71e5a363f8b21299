"""Put, get, find, collections: the daily use of a repository, on both databases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from starmill.errors import InputError, RepositoryError
from starmill.repository import DatasetConflictError, DatasetType, Repository
from tests.repository.conftest import NUMBER


def test_put_and_get_give_the_same_values_in_a_new_session(tmp_path, repository):
    value = {"a": 1, "b": [1.5, float("nan"), float("-inf")], "c": "text"}
    ref = repository.put(value, "number", instrument="cam", exposure=3)
    assert ref.path == "runs/test/number/number_cam_exp00000003.json"
    with Repository(tmp_path / "repo") as other:
        read = other.get("number", exposure=3)
    assert read["a"] == 1
    assert read["c"] == "text"
    assert math.isnan(read["b"][1])
    assert read["b"][2] == -math.inf


def test_the_same_content_twice_changes_nothing_and_other_content_is_refused(repository):
    first = repository.put({"v": 1}, "number", instrument="cam", exposure=3)
    assert repository.put({"v": 1}, "number", instrument="cam", exposure=3) == first
    with pytest.raises(DatasetConflictError, match="immutable"):
        repository.put({"v": 2}, "number", instrument="cam", exposure=3)
    assert repository.get("number", exposure=3) == {"v": 1}
    repository.put({"v": 2}, "number", instrument="cam", exposure=3, replace=True)
    assert repository.get("number", exposure=3) == {"v": 2}


def test_exists_and_find_say_what_is_there(repository):
    repository.put({"v": 1}, "number", instrument="cam", exposure=3)
    repository.put({"v": 1}, "number", instrument="cam", exposure=4)
    assert repository.exists("number", exposure=3)
    assert not repository.exists("number", exposure=5)
    with pytest.raises(RepositoryError, match="2 data sets 'number' have instrument=cam"):
        repository.find("number", instrument="cam")
    with pytest.raises(RepositoryError, match="exposure=5 in the collections test"):
        repository.get("number", exposure=5)
    with pytest.raises(InputError, match="did you mean 'number'"):
        repository.get("numbr", exposure=3)


def test_a_data_ref_reads_and_writes_other_products_of_its_data_id(repository):
    double = DatasetType("double", ("instrument", "exposure"), "json")
    repository.register_dataset_types([double])
    repository.put({"v": 4}, "number", instrument="cam", exposure=3)
    ref = repository.data_ref("number", exposure=3)
    ref.put({"v": 2 * ref.get()["v"]}, "double")
    assert repository.get("double", exposure=3) == {"v": 8}
    assert ref.exists("double")


def test_cutouts_read_only_their_pixels(repository):
    from starmill.datamodel.geometry import Box

    kind = DatasetType("picture", ("map",), "array")
    picture = np.arange(600.0).reshape(20, 30)
    repository.put(picture, kind, map="cloud")
    np.testing.assert_array_equal(repository.get("picture", map="cloud"), picture)
    np.testing.assert_array_equal(
        repository.get("picture", map="cloud", box=Box(3, 5, 4, 2)), picture[5:7, 3:7]
    )


def test_the_first_collection_of_a_chain_wins(repository):
    repository.put({"v": "old"}, "number", instrument="cam", exposure=1, run="first")
    repository.put({"v": "old"}, "number", instrument="cam", exposure=2, run="first")
    repository.put({"v": "new"}, "number", instrument="cam", exposure=2, run="second")
    repository.chain("both", ["second", "first"])
    repository.chain("outer", ["both"])
    found = repository.query("number", collections="outer")
    assert [(ref.data_id["exposure"], ref.run) for ref in found] == [(1, "first"), (2, "second")]
    assert repository.get("number", exposure=2, collections="outer") == {"v": "new"}
    repository.chain("both", ["first", "second"])
    assert repository.get("number", exposure=2, collections="outer") == {"v": "old"}


def test_chains_may_not_hold_themselves(repository):
    repository.make_collection("run")
    repository.chain("a", ["run"])
    repository.chain("b", ["a"])
    with pytest.raises(InputError, match="would hold itself"):
        repository.chain("a", ["b"])
    with pytest.raises(InputError, match="twice"):
        repository.chain("c", ["run", "run"])
    with pytest.raises(RepositoryError, match="did you mean 'run'"):
        repository.chain("c", ["rum"])
    with pytest.raises(DatasetConflictError, match="is a chain, not a run"):
        repository.put({"v": 1}, "number", instrument="cam", exposure=9, run="a")


def test_tagged_sets_hold_any_choice(repository):
    refs = [repository.put({"v": n}, "number", instrument="cam", exposure=n) for n in range(4)]
    repository.tag("good", refs[:3])
    repository.untag("good", refs[:1])
    found = repository.query("number", collections="good")
    assert [ref.data_id["exposure"] for ref in found] == [1, 2]


def test_calibrations_are_found_by_detector_filter_and_time(repository):
    flat = DatasetType("toy_flat", ("instrument", "detector", "night", "filter"), "json")

    def put(detector, night, name):
        where = {"instrument": "cam", "detector": detector, "night": night, "filter": name}
        return repository.put({"made": f"{detector} {night} {name}"}, flat, where, run="masters")

    repository.certify("calib", [put(0, 20260101, "g")], 61040.0, 61050.0)
    repository.certify("calib", [put(0, 20260103, "g")], 61043.0, 61045.0)
    repository.certify("calib", [put(0, 20260101, "r")], 61040.0)
    repository.certify("calib", [put(1, 20260101, "g")])
    table = repository.calibrations("toy_flat", "calib")

    def best(mjd, **known):
        ref = table.best({"instrument": "cam", **known}, mjd)
        return None if ref is None else (ref.data_id["detector"], ref.data_id["night"], ref.data_id["filter"])

    assert best(61041.0, detector=0, filter="g") == (0, 20260101, "g")
    assert best(61044.0, detector=0, filter="g") == (0, 20260103, "g")  # the narrower range
    assert best(61045.0, detector=0, filter="g") == (0, 20260101, "g")  # the end is not included
    assert best(61050.0, detector=0, filter="g") is None
    assert best(99999.0, detector=0, filter="r") == (0, 20260101, "r")
    assert best(None, detector=1, filter="g") == (1, 20260101, "g")
    assert best(None, detector=0, filter="g") is None
    assert "valid at MJD 1.0" in table.reason({"instrument": "cam", "detector": 0, "filter": "g"}, 1.0)
    assert "no toy_flat certified" in table.reason({"instrument": "cam", "detector": 7, "filter": "g"}, 1.0)


def test_empty_validity_is_refused(repository):
    ref = repository.put({"v": 1}, "number", instrument="cam", exposure=3)
    with pytest.raises(InputError, match="empty"):
        repository.certify("calib", [ref], 5.0, 5.0)
    with pytest.raises(InputError, match="empty"):
        repository.certify("calib", [ref], float("nan"), 5.0)
    with pytest.raises(InputError, match="nothing"):
        repository.certify("calib", [])


def test_a_dataset_type_cannot_change(repository):
    with pytest.raises(DatasetConflictError, match="exists with"):
        repository.register_dataset_types([DatasetType("number", ("instrument",), "json")])
    assert repository.dataset_type("number").dimensions == NUMBER.dimensions


def test_a_reader_changes_nothing(tmp_path, small_repository):
    small_repository.put({"v": 1}, "number", instrument="cam", exposure=3)
    with Repository(tmp_path / "repo", output="other", writable=False) as reader:
        assert reader.get("number", exposure=3) == {"v": 1}
        with pytest.raises(RepositoryError, match="reading only"):
            reader.put({"v": 1}, "number", instrument="cam", exposure=4)


def test_what_cannot_be_stored_leaves_no_trace(tmp_path, small_repository):
    with pytest.raises(InputError, match="JSON"):
        small_repository.put({"v": object()}, "number", instrument="cam", exposure=3)
    with pytest.raises(InputError, match="needs exposure"):
        small_repository.put({"v": 1}, "number", instrument="cam")
    assert not (tmp_path / "repo" / "runs").exists()
    assert not small_repository.query("number")


def test_making_a_repository_twice_is_refused(tmp_path, small_repository):
    with pytest.raises(RepositoryError, match="repository already"):
        Repository.create(tmp_path / "repo")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    with pytest.raises(RepositoryError, match="not empty"):
        Repository.create(tmp_path / "full")
    with pytest.raises(RepositoryError, match="no repository"):
        Repository(tmp_path / "nowhere")


def test_objects_of_the_data_model_travel_through_files(small_repository):
    from starmill.datamodel.exposure import Exposure
    from starmill.datamodel.geometry import Box

    rng = np.random.default_rng(3)
    exposure = Exposure(rng.normal(size=(40, 50)).astype(np.float32), origin=(10, 20))
    where = {"instrument": "cam", "exposure": 1, "detector": 0}
    small_repository.put(exposure, "characterized", where)
    read = small_repository.get("characterized", where)
    np.testing.assert_array_equal(read.image, exposure.image)
    part = small_repository.get("characterized", where, box=Box(15, 25, 8, 6))
    np.testing.assert_array_equal(part.image, exposure.image[5:11, 5:13])
    assert small_repository.get("characterized.wcs", where) is None
    assert small_repository.get("characterized", where, component="box") == exposure.box
    with pytest.raises(InputError, match="no component"):
        small_repository.get("characterized.colour", where)
