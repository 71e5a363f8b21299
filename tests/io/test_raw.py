"""Cameras, headers of every kind, and broken files."""

import numpy as np
import pytest
from astropy.io import fits

from starmill.datamodel.calibration import MasterFrame
from starmill.datamodel.mask import Mask
from starmill.datamodel.masked_image import MaskedImage
from starmill.errors import InputError
from starmill.io.calibration import read_master, write_master
from starmill.io.raw import camera_names, load_camera, read_raw
from starmill.io.scratch import ScratchFolder
from starmill.io.translators import Translator, clean_wcs_header, mjd_of

HEADER = {
    "TRIMSEC": "[5:24,1:30]", "BIASSEC": "[1:4,1:30]", "GAIN": 1.9, "RDNOISE": "5.0", "EXPTIME": 150.0,
    "DATE-OBS": "2013-07-13", "UT": "00:57:33", "IMAGETYP": "object", "FILTERS": 48, "SECZ": 1.176, "OBJECT": "rf0420",
}  # fmt: skip


def write(path, header=HEADER, array=None, **changes):
    array = np.full((30, 24), 300, np.uint16) if array is None else array
    hdu = fits.PrimaryHDU(array)
    for key, value in (dict(header) | {k.replace("_", "-"): v for k, v in changes.items()}).items():
        if value is not None:
            hdu.header[key] = value
    hdu.writeto(path, overwrite=True)
    return path


def test_generic_reads_sections_noise_and_date(tmp_path):
    raw = read_raw(write(tmp_path / "a.fits"))
    amplifier = raw.detector.amplifiers[0]
    assert raw.array.dtype == np.uint16
    assert (amplifier.gain, amplifier.read_noise, amplifier.saturation) == (1.9, 5.0, 65534)
    assert raw.detector.box.shape == (30, 20)
    assert amplifier.raw_overscan_box.width == 4
    assert raw.info.date == "2013-07-13T00:57:33"
    assert raw.info.mjd == pytest.approx(56486 + (57 * 60 + 33 + 75) / 86400, abs=1e-9)
    assert raw.info.kind == "science"
    assert raw.info.airmass == 1.176
    assert raw.wcs is None


def test_header_wins_over_general_and_loses_to_particular_values(tmp_path):
    camera = tmp_path / "mine.yaml"
    text = 'name: mine\ngeometry: header\namplifiers:\n  "*": {saturation: 50000, suspect_level: 40000}\n'
    camera.write_text(text + "  A: {gain: 2.5}\n")
    amplifier = read_raw(write(tmp_path / "a.fits", SATURATE=60000), camera).detector.amplifiers[0]
    assert (amplifier.saturation, amplifier.suspect_level, amplifier.gain) == (60000, 40000, 2.5)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Bias Frame", "bias"), ("zero", "bias"), ("Dark Frame", "dark"), ("FLAT", "flat"), ("SKYFLAT", "flat"),
        ("Flat Field", "flat"), ("dome flat", "flat"), ("Light Frame", "science"), ("OBJECT", "science"), ("arc", ""),
    ],
)  # fmt: skip
def test_kinds_of_frames(word, kind):
    assert Translator(load_camera("generic")).kind({"IMAGETYP": word}) == kind


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_other_pixel_types(tmp_path, dtype):
    raw = read_raw(write(tmp_path / "a.fits", array=np.full((30, 24), 300, dtype)))
    assert raw.array.dtype in (np.uint16, np.float32)
    assert (raw.array == 300).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"GAIN": 0.0}, r"a\.fits\[0\].*gain must be positive"),
        ({"GAIN": None}, "no gain: the header has neither GAIN nor EGAIN"),
        ({"RDNOISE": None}, "no read noise"),
        ({"TRIMSEC": None}, "neither TRIMSEC nor DATASEC"),
        ({"TRIMSEC": "[5:99,1:30]"}, "leaves the image of 24 x 30"),
        ({"TRIMSEC": "all"}, "not a section"),
        ({"BIASSEC": "[1:4,1:20]"}, "different rows"),
    ],
)
def test_headers_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_raw(write(tmp_path / "a.fits", **changes))


def test_broken_files(tmp_path):
    path = write(tmp_path / "a.fits", array=np.zeros((3000, 240), np.uint16) + np.uint16(7))
    content = path.read_bytes()
    (tmp_path / "cut.fits").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.fits").write_bytes(b"")
    (tmp_path / "text.fits").write_text("hello")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "nothing.fits")
    write(tmp_path / "cube.fits", array=np.zeros((2, 30, 24), np.uint16))
    for name in ("cut", "empty", "text", "nothing", "cube", "missing"):
        with pytest.raises(InputError, match=f"{name}.fits"):
            read_raw(tmp_path / f"{name}.fits")
    with pytest.raises(InputError, match=r"small\.fits\[0\].*24 x 30 pixels, detector ccd needs 1024 x 1024"):
        read_raw(write(tmp_path / "small.fits"), "arcsat")


def test_missing_extension_names_those_there(tmp_path):
    camera = tmp_path / "cam.yaml"
    camera.write_text(
        "name: cam\ndetectors: [{name: a, extension: CHIP7, amplifiers: [{name: A, data: '[1:24,1:30]'}]}]\n"
    )
    with pytest.raises(
        InputError, match=r"a\.fits\[CHIP7\]: there is no such extension \(the file has 0:PRIMARY\)"
    ):
        read_raw(write(tmp_path / "a.fits"), camera)


def test_cameras_by_name_path_and_user_folder(tmp_path, monkeypatch):
    assert {"arcsat", "generic", "lowell42", "simcam"} <= set(camera_names())
    with pytest.raises(InputError, match="'lowel42'; did you mean lowell42"):
        load_camera("lowel42")
    text = "name: mine\ndetectors: [{name: a, amplifiers: [{name: A, data: '[1:24,1:30]', gain: 2}]}]\n"
    folder = tmp_path / "starmill.cameras"
    folder.mkdir()
    (folder / "mine.yaml").write_text(text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_camera("mine").detector("a").amplifier("A").gain == 2
    assert "mine" in camera_names()
    assert load_camera(str(folder / "mine.yaml")) == load_camera("mine")
    assert read_raw(write(tmp_path / "a.fits"), "mine").info.instrument == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nheader: {exptime: EXPTIME}\ngeometry: header\n", "no quantity 'exptime'"),
        ("name: x\ntranslator: nobody\ngeometry: header\n", "no translator 'nobody'"),
        ("name: x\ngeometry: header\nfilter: {}\n", "did you mean filters"),
        ("name: x\ngeometry: header\nconfig: 3\n", "wrong type"),
        ("geometry: header\n", "no name"),
        ("- 1\n", "names and values"),
    ],
)
def test_wrong_camera_files(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_raw(write(tmp_path / "a.fits"), path)


def test_wcs_cards_of_any_kind_are_cleaned():
    header = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": "150.0", "CRVAL2": "2.0", "CRPIX1": "10", "CRPIX2": "20",
        "CD1_1": "-1e-4", "CD1_2": "0", "CD2_1": "0", "CD2_2": "1e-4", "CDELT1": 1.0, "CROTA2": 3.0, "RADECSYS": "FK5",
        "PV1_0": "0", "PV1_1": "1.01", "PV2_0": "0", "PV2_1": "1.01", "EQUINOX": "2000.0", "OBJECT": "x",
    }  # fmt: skip
    clean = clean_wcs_header(header)
    assert clean["CTYPE1"] == "RA---TPV"
    assert clean["CRVAL1"] == 150.0
    assert clean["RADESYS"] == "FK5"
    assert not {"CDELT1", "CROTA2", "OBJECT", "RADECSYS"} & set(clean)
    assert clean_wcs_header({"CTYPE1": "RA---TAN", "PV1_1": "x"})["CTYPE1"] == "RA---TAN"


def test_dates():
    assert mjd_of("1858-11-17T12:00:00") == 0.5
    assert np.isnan(mjd_of("03/05/19"))
    assert np.isnan(mjd_of("2019-13-40T00:00:00"))


def test_master_round_trip(tmp_path):
    rng = np.random.default_rng(1)
    mask = Mask.zeros((20, 30))
    mask.set("BAD", np.s_[3, 4])
    pixels = MaskedImage(
        rng.normal(0, 1, (20, 30)).astype("f4"), mask, rng.random((20, 30)).astype("f4"), unit="electron/s"
    )
    master = MasterFrame("dark", pixels, "cam", "a", "", 7, 100.5, properties={"dark_time": 80.0})
    write_master(master, tmp_path / "dark.fits")
    found = read_master(tmp_path / "dark.fits", "dark")
    np.testing.assert_array_equal(found.image, master.image)
    np.testing.assert_array_equal(found.variance, master.variance)
    np.testing.assert_array_equal(found.mask, master.mask)
    for name in (
        "kind",
        "camera",
        "detector",
        "filter",
        "n_frames",
        "valid_from",
        "valid_to",
        "properties",
        "unit",
    ):
        assert getattr(found, name) == getattr(master, name)
    with pytest.raises(InputError, match="a master flat is needed, the file holds a master dark"):
        read_master(tmp_path / "dark.fits", "flat")
    with pytest.raises(InputError, match="not a master frame"):
        read_master(write(tmp_path / "a.fits"))


def test_scratch_gives_back_rows_and_leaves_nothing(tmp_path):
    image = np.random.default_rng(2).normal(0, 1, (50, 31)).astype(np.float32)
    with ScratchFolder(tmp_path) as store:
        kept = [store.keep(image), store.keep(image > 0)]
        np.testing.assert_array_equal(kept[0].rows(7, 21), image[7:21])
        np.testing.assert_array_equal(kept[1].rows(49, 50), image[49:50] > 0)
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_detectors_in_extensions(tmp_path):
    camera = tmp_path / "two.yaml"
    part = "amplifiers: [{name: A, data: '[1:24,1:30]', gain: 2}]"
    camera.write_text(
        f"name: two\ndetectors:\n  - {{name: a, extension: CHIP1, {part}}}\n  - {{name: b, extension: CHIP2, {part}}}\n"
    )
    hdus = [fits.PrimaryHDU()]
    hdus[0].header["EXPTIME"] = 12.0
    hdus += [fits.ImageHDU(np.full((30, 24), 100 * k, np.uint16), name=f"CHIP{k}") for k in (1, 2)]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    raw = read_raw(tmp_path / "a.fits", camera, detector="b")
    assert (raw.array == 200).all()
    assert raw.info.exposure_time == 12
    assert raw.info.detector == "b"
    with pytest.raises(InputError, match="has no detector"):
        read_raw(tmp_path / "a.fits", camera)


@pytest.mark.parametrize("suffix", [".bz2", ".gz"])
def test_compressed_files_and_their_truncation(tmp_path, suffix):
    import bz2
    import gzip

    plain = write(
        tmp_path / "a.fits", array=np.random.default_rng(1).integers(0, 60000, (30, 24)).astype(np.uint16)
    )
    packed = (bz2 if suffix == ".bz2" else gzip).compress(plain.read_bytes())
    path = tmp_path / f"b.fits{suffix}"
    path.write_bytes(packed)
    np.testing.assert_array_equal(read_raw(path).array, read_raw(plain).array)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="cannot be read as FITS"):
        read_raw(path)
