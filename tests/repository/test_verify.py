"""Repairs: what is lost leaves the registry, what is damaged or strange is set aside, nothing is deleted."""

from __future__ import annotations

import pytest

from starmill.repository import verify as verify_module
from starmill.repository.ingest import ingest
from starmill.repository.verify import verify
from tests.repository.conftest import text_translator


def put(repository, exposure):
    ref = repository.put({"v": exposure}, "number", instrument="cam", exposure=exposure)
    return ref.path, repository.store.absolute(ref.path)


def test_repair_keeps_every_file(tmp_path, small_repository):
    (lost, lost_file), (damaged, damaged_file), (_, whole_file) = (
        put(small_repository, n) for n in (1, 2, 3)
    )
    lost_file.unlink()
    damaged_file.write_text("changed by hand")
    stranger = tmp_path / "repo" / "runs" / "mine" / "notes.txt"
    stranger.parent.mkdir()
    stranger.write_text("mine")
    report = verify(small_repository, repair=True)
    assert (report.missing, report.damaged, report.orphaned) == ([lost], [damaged], ["runs/mine/notes.txt"])
    aside = tmp_path / "repo" / ".starmill" / "set_aside" / "1"
    assert (aside / damaged).read_text() == "changed by hand"
    assert (aside / "runs/mine/notes.txt").read_text() == "mine"
    assert f"set aside: {damaged}, now .starmill/set_aside/1/{damaged}" in report.repaired
    assert not stranger.parent.exists()
    assert whole_file.is_file()
    again = verify(small_repository)
    assert again.is_clean
    assert again.checked == 1
    put(small_repository, 2)  # made again, and damaged again: the first file stays
    damaged_file.write_text("once more")
    verify(small_repository, repair=True)
    assert (aside / damaged).read_text() == "changed by hand"
    assert (aside.parent / "2" / damaged).read_text() == "once more"


def test_a_file_that_the_journal_describes_is_registered_again(small_repository):
    path, file = put(small_repository, 1)
    (row,) = verify_module._registered(small_repository)
    small_repository.commit({"remove": [row.id]})
    assert verify(small_repository).orphaned == [path]
    assert verify(small_repository, repair=True).repaired == [f"registered again: {path}"]
    assert file.is_file()
    assert verify(small_repository).is_clean


@pytest.mark.parametrize("mode", ["symlink", "direct"])
def test_repair_leaves_changed_originals_where_they_are(small_repository, toy_frames, mode):
    ingest(small_repository, toy_frames[:2], text_translator, mode=mode)
    toy_frames[0].write_text(toy_frames[0].read_text() + " ")
    report = verify(small_repository, repair=True)
    assert len(report.damaged) == 1
    assert all(frame.is_file() for frame in toy_frames)
    again = verify(small_repository)
    assert again.is_clean
    assert again.checked == 1
