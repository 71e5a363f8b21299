"""Files written directly are standard FITS, and plain files are read as the general library reads them."""

import numpy as np
import pytest
from astropy.io import fits

from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.errors import InputError
from starmill.io.fits_blocks import (
    PlainFile,
    card,
    image_extension,
    open_blocks,
    primary_extension,
    write_blocks,
)
from starmill.io.tables import read_catalog, write_catalog


def write(path, cards=(), arrays=()):
    with path.open("wb") as stream:
        extensions = [image_extension(array, f"A{i}") for i, array in enumerate(arrays)]
        write_blocks(stream, [primary_extension(cards), *extensions])
    return path


VALUES = [
    ("LOGIC", True, "a comment"), ("OFF", False, ""), ("WHOLE", -(2**40), "x" * 80), ("REAL", 0.1, ""),
    ("TINY", -1.2345678901234567e-300, "all digits"), ("BIG", 1e22, ""), ("ZERO", -0.0, ""), ("TEXT", "M 13", "name"),
    ("QUOTE", "it's 'here'", ""), ("EMPTY", "", ""), ("LONG", "word 'and' " * 30 + ".", "long text"),
    ("HIERARCH MP_DETECTED_NEGATIVE", 6, "a plane"), ("ODD", "caf\u00e9\n", ""),
]  # fmt: skip


def test_cards_are_read_back_by_both_readers(tmp_path):
    path = write(tmp_path / "a.fits", VALUES)
    expected = {name.removeprefix("HIERARCH "): value for name, value, _ in VALUES} | {"ODD": "caf??"}
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert {name: hdus[0].header[name] for name in expected} == expected
        assert hdus[0].header.comments["TEXT"] == "name"
    with open_blocks(path) as plain:
        assert isinstance(plain, PlainFile)
        assert {name: plain[0].header[name] for name in expected} == expected
    with pytest.raises(InputError, match="cannot hold nan"):
        card("BAD", float("nan"))
    with pytest.raises(InputError, match="too long"):
        card("MUCHTOOLONG", 1)


@pytest.mark.parametrize("code", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_arrays_of_every_type(tmp_path, code):
    rng = np.random.default_rng(2)
    arrays = [
        rng.integers(0, 100, shape).astype(code) for shape in [(5,), (3, 4), (2, 3, 40), (0, 3), (1500, 1200)]
    ]
    path = write(tmp_path / "a.fits", arrays=arrays)
    with fits.open(path) as hdus, open_blocks(path) as plain:
        hdus.verify("exception")
        assert path.stat().st_size % 2880 == 0
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(plain[f"A{i}"].data, array)
            if array.size:
                np.testing.assert_array_equal(hdus[f"A{i}"].data, array)
    with pytest.raises(InputError, match="complex"):
        image_extension(np.zeros(3, complex), "A")


def test_unsigned_pixels_are_plain_and_scaled_ones_are_not(tmp_path):
    counts = np.array([[0, 1, 40000], [65535, 32768, 7]], np.uint16)
    fits.PrimaryHDU(counts).writeto(tmp_path / "u.fits")
    with open_blocks(tmp_path / "u.fits", foreign=True) as hdus:
        assert isinstance(hdus, PlainFile)
        np.testing.assert_array_equal(hdus[0].data, counts)
    hdu = fits.PrimaryHDU(counts.astype(np.float32))
    hdu.scale("int16", bscale=2.0, bzero=10.0)
    hdu.writeto(tmp_path / "s.fits")
    with open_blocks(tmp_path / "s.fits") as hdus:
        assert not isinstance(hdus, PlainFile)


@pytest.mark.parametrize("damage", ["cut", "longer", "card", "gone", "empty"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = write(tmp_path / "a.fits", arrays=[np.zeros((40, 40))])
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        changed = {
            "cut": content[:-2000],
            "longer": content + b"x" * 100,
            "card": content.replace(b"NAXIS1  =", b"NAXIS1  ?"),
            "empty": b"",
        }
        path.write_bytes(changed[damage])
    with pytest.raises(InputError, match=r"a\.fits"), open_blocks(path) as hdus:
        np.asarray(hdus["A0"].data).sum()


def test_unusual_cards_of_foreign_files_go_to_the_general_reader(tmp_path):
    header = fits.Header([("OBJECT", "x"), ("NOVALUE", None), ("EXPTIME", 3.0)])
    fits.PrimaryHDU(np.zeros((3, 3), np.int16), header).writeto(tmp_path / "a.fits")
    with open_blocks(tmp_path / "a.fits", foreign=True) as hdus:
        assert not isinstance(hdus, PlainFile)
        assert hdus[0].header["EXPTIME"] == 3.0


def test_tables_are_what_other_programs_expect(tmp_path):
    schema = Schema(
        [
            Column("id", "i8", "", "identifier"), Column("x", "f8", "pixel", "long words " * 20),
            Column("shape", "f4", "", "array", (2, 3)), Column("name", "U7", "", ""),
            *(Column(f"flag_{i}", "?", "", "a flag") for i in range(11)),
        ]
    )  # fmt: skip
    rng = np.random.default_rng(4)
    columns = {
        "id": np.arange(9), "x": rng.normal(size=9), "shape": rng.normal(size=(9, 2, 3)).astype("f4"),
        "name": np.array([f"star {i}"[: i % 8] for i in range(9)]),
        **{f"flag_{i}": rng.random(9) > 0.5 for i in range(11)},
    }  # fmt: skip
    catalog = Catalog(schema, columns)
    write_catalog(catalog, tmp_path / "c.fits")
    with fits.open(tmp_path / "c.fits") as hdus:
        hdus.verify("exception")
        table = hdus["CATALOG"]
        np.testing.assert_array_equal(table.data["x"], catalog["x"])
        np.testing.assert_array_equal(table.data["flags"][:, 10], catalog["flag_10"])
        assert (table.columns["x"].unit, table.header["TFLAG11"]) == ("pixel", "flag_10")
        assert table.header["TCOMM2"] == ("long words " * 20).rstrip()
    back = read_catalog(tmp_path / "c.fits")
    for name in schema:
        np.testing.assert_array_equal(back[name], catalog[name])
        assert back[name].dtype == catalog[name].dtype
