"""Ingest of raw frames: modes, idempotence, refusals, and the metadata that searches use."""

from __future__ import annotations

import bz2
import json

import numpy as np
import pytest
from astropy.io import fits

from starmill.errors import InputError
from starmill.repository import Repository
from starmill.repository.header_cards import read_headers
from starmill.repository.ingest import ingest
from tests.repository.conftest import text_translator


def test_frames_enter_once_and_are_found_by_their_metadata(repository, toy_frames):
    report = ingest(repository, toy_frames, text_translator)
    assert (report.ingested, report.unchanged, report.refused) == (12, 0, [])
    assert ingest(repository, toy_frames, text_translator).unchanged == 12

    def found(where=None, **more):
        return [ref.data_id["exposure"] - 100 for ref in repository.query("raw", where, **more)]

    assert found("night = 2026-01-02 and band in (g)") == [4, 6]
    assert found("object like 'M*3' and airmass > 1.9") == [10, 11]
    assert found("not (band = g or exposure in (101..107))") == [9, 11]
    assert found(band="g", night=20260103) == [8, 10]
    assert found(at=(30.2, 0.2)) == [3]
    assert found(at=(0.0, 0.0), radius=9.6) == [0, 1]
    assert found(ra_range=(355.0, 21.0), dec_range=(-1.0, 1.0)) == [0, 1, 2]
    assert found("band = r", at=(30.0, 0.0), radius=15.0) == [3]
    assert found(at=(30.0, 40.0), radius=1.0) == []


def test_an_implied_value_completes_a_data_id(repository, toy_frames):
    ingest(repository, toy_frames, text_translator)
    ref = repository.data_ref("raw", visit=103, detector=0)
    assert ref.data_id["exposure"] == 103
    product = repository.put({"v": 1}, "defects", instrument="toycam", detector=0)
    assert product.data_id.dimensions == ("instrument", "detector")
    kept = repository.put([], "background", visit=103, detector=0)
    assert kept.known["night"] == 20260101
    assert "/20260101/" in kept.path
    with pytest.raises(InputError, match="has night=20260101"):
        repository.put([], "background", exposure=103, detector=0, night=20260105)


@pytest.mark.parametrize("mode", ["copy", "move", "hardlink", "symlink", "direct"])
def test_every_mode_gives_the_file_back(tmp_path, small_repository, toy_frames, mode):
    content = toy_frames[0].read_bytes()
    assert ingest(small_repository, toy_frames[:1], text_translator, mode=mode).ingested == 1
    ref = small_repository.query("raw")[0]
    with small_repository.local_file(ref) as path:
        assert path.read_bytes() == content
    assert toy_frames[0].exists() == (mode != "move")
    if mode != "direct":
        assert (tmp_path / "repo" / ref.path).is_symlink() == (mode == "symlink")
    with pytest.raises(InputError, match="none of copy"):
        ingest(small_repository, toy_frames[1:2], text_translator, mode="teleport")


def test_the_same_data_id_with_other_content_is_refused(small_repository, toy_frames, toy_records):
    ingest(small_repository, toy_frames[:3], text_translator)
    twin = toy_frames[0].with_name("twin.fits")
    twin.write_text(json.dumps(toy_records[0]) + "   ")
    same = toy_frames[0].with_name("same.fits")
    same.write_bytes(toy_frames[1].read_bytes())
    report = ingest(small_repository, [twin, same, toy_frames[5]], text_translator)
    assert report.ingested == 1
    assert report.unchanged == 1
    assert [path for path, _ in report.refused] == [str(twin)]
    assert "other content" in report.refused[0][1]
    assert len(small_repository.query("raw")) == 4


def test_two_names_for_one_data_id_in_one_ingest(small_repository, toy_frames, toy_records):
    twin = toy_frames[0].with_name("twin.fits")
    twin.write_text(json.dumps(toy_records[0]) + "   ")
    report = ingest(small_repository, [toy_frames[0], twin], text_translator)
    assert report.ingested == 1
    assert "is also the data ID of" in report.refused[0][1]


def test_contradictory_metadata_are_refused(small_repository, toy_frames, toy_records):
    ingest(small_repository, toy_frames[:1], text_translator)
    other = toy_frames[0].with_name("detector1.fits")
    other.write_text(json.dumps({**toy_records[0], "detector": 1, "filter": "i_toy", "band": "i"}))
    report = ingest(small_repository, [other, toy_frames[1]], text_translator)
    assert report.ingested == 1
    assert "filter = 'g_toy', but this frame says 'i_toy'" in report.refused[0][1]
    assert not small_repository.query("raw", detector=1)


def test_broken_frames_are_reported_and_the_rest_enters(small_repository, toy_frames):
    toy_frames[3].write_text("{")
    toy_frames[4].write_text('{"instrument": "../etc", "exposure": 3}')
    toy_frames[5].write_text('{"instrument": "cam", "exposure": 3, "night": -5}')
    report = ingest(small_repository, toy_frames, text_translator)
    assert report.ingested == 9
    assert len(report.refused) == 3
    with pytest.raises(InputError):
        ingest(small_repository, [toy_frames[3]], text_translator, keep_going=False)
    with pytest.raises(InputError, match="does not exist"):
        ingest(small_repository, [toy_frames[0].with_name("nothing.fits")], text_translator)


def _write_raw(path, **cards):
    header = fits.Header()
    header.update({"DATE-OBS": "2026-01-02T03:04:05", "EXPTIME": 10.0, "OBSTYPE": "OBJECT", **cards})
    fits.PrimaryHDU(np.zeros((1370, 1432), np.uint16), header).writeto(path)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        (
            {"INSTRUME": "simcam"},
            "frame of another camera: INSTRUME is 'simcam', those of camera lowell42 have none",
        ),
        ({"TELESCOP": "other"}, "TELESCOP is 'other', those of camera lowell42 have 'hall'"),
        ({"MJD-OBS": 60000.0}, "contradictory times: the date is 2026-01-02T03:04:05, the MJD 60000"),
    ],
)
def test_a_frame_of_another_camera_or_of_two_times_is_refused(tmp_path, small_repository, cards, message):
    path = tmp_path / "a.fits"
    _write_raw(path, **cards)
    with pytest.raises(InputError, match=message):
        ingest(small_repository, [path], "lowell42", keep_going=False)
    assert small_repository.query("raw") == []
    _write_raw(tmp_path / "b.fits", TELESCOP="HALL")
    assert ingest(small_repository, [tmp_path / "b.fits"], "lowell42").ingested == 1


def test_quick_headers_equal_astropy(tmp_path):
    header = fits.Header()
    header["TEXT"] = "it's a 'quote' / no comment"
    header["NUMBER"] = (-1.5e-3, "comment")
    header["EXPO"] = 7
    header["YES"] = True
    header["HIERARCH long name"] = 3
    path = tmp_path / "a.fits"
    extension = fits.ImageHDU(np.zeros((3, 4, 5), np.float64), name="SCI")
    fits.HDUList([fits.PrimaryHDU(header=header), extension]).writeto(path)
    first, second = read_headers(path)
    for name in ("TEXT", "NUMBER", "EXPO", "YES"):
        assert first[name] == header[name]
    assert second["NAXIS3"] == 3
    packed = tmp_path / "a.fits.bz2"
    packed.write_bytes(bz2.compress(path.read_bytes()))
    assert read_headers(packed) == [first, second]


@pytest.mark.parametrize("length", [0, 100, 2879, 2880, 5760, 8640])
def test_a_truncated_file_is_refused(tmp_path, length):
    path = tmp_path / "a.fits"
    _write_raw(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"empty|truncated"):
        read_headers(path)


@pytest.mark.parametrize(
    "card", ["NAXIS   =                   -1", "NAXIS1  = 99999999999999999999", "BITPIX  = 'X'"]
)
def test_a_hostile_header_is_refused(tmp_path, card):
    path = tmp_path / "a.fits"
    _write_raw(path)
    content = path.read_bytes()
    at = content.index(card[:8].encode())
    path.write_bytes(content[:at] + card.ljust(80).encode() + content[at + 80 :])
    with pytest.raises(InputError):
        read_headers(path)


def test_a_real_camera_is_translated(tmp_path, small_repository):
    _write_raw(tmp_path / "one.fits", OBSERNO=17, FILTNAME="VR", OBJECT="M 1")
    _write_raw(tmp_path / "two.fits", OBSERNO=18, FILTNAME="VR", OBJECT="M 1", LONGITUD=-111.5)
    report = ingest(small_repository, [tmp_path / "one.fits", tmp_path / "two.fits"], "lowell42")
    assert report.ingested == 2, report.refused
    ref = small_repository.query("raw")[0]
    assert ref.data_id["instrument"] == "lowell42"
    assert ref.data_id["exposure"] % 100000 in {17, 18}
    assert ref.known["filter"] == "VR"
    with pytest.raises(InputError, match="no camera"):
        ingest(small_repository, [tmp_path / "one.fits"], "lowel42")


def test_real_frames_enter(shared_data, tmp_path):
    folder = shared_data("raw_lowell42")
    with Repository.create(tmp_path / "repo") as repository:
        frames = sorted((folder / "sci_VR").glob("*.bz2"))[:1]
        report = ingest(repository, frames, "lowell42", mode="symlink")
        assert (report.ingested, report.refused) == (1, [])
        refs = repository.query("raw", "image_type = science")
        assert len(refs) == 1
        frame = repository.read(refs[0])
        assert frame.array.shape == (1370, 1432)
        assert repository.query("raw", at=(124.63, 25.33)), "the field of the asteroid"
