"""Catalogues: columns, slots, parents, records."""

import numpy as np
import pytest

from starmill.datamodel.catalog import MINIMAL_COLUMNS, Catalog, Column, Schema, source_ids
from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.errors import InputError

FLUX = Column("psf_flux", "f8", "electron", "flux of the PSF model")
WIDE = Column("aperture_flux", "f8", "electron", "flux in an aperture")
FLAG = Column("psf_flux_flag", "bool", "", "failed")


def make_catalog():
    return Catalog(
        Schema([*MINIMAL_COLUMNS, FLUX, WIDE, FLAG]),
        {"id": source_ids(4, 7), "x": [3.0, 1, 2, 0], "y": [1.0, 2, 3, 4], "psf_flux": [5.0, 6, np.nan, 8],
         "aperture_flux": [50.0, 60, 70, 80], "parent": [0, 7 * 2**32 + 1, 7 * 2**32 + 1, 0]},
        slots={"psf_flux": "psf_flux"}, aliases={"base_PsfFlux_instFlux": "psf_flux"},
    )  # fmt: skip


def test_columns_slots_and_other_names():
    catalog = make_catalog()
    assert catalog["slot_psf_flux"] is catalog["psf_flux"]
    assert catalog["base_PsfFlux_instFlux"] is catalog["psf_flux"]
    assert catalog["slot_psf_flux_flag"] is catalog["psf_flux_flag"]
    moved = catalog.with_slots(psf_flux="aperture_flux")
    assert moved["slot_psf_flux"] is moved["aperture_flux"]
    assert set(catalog.extract("psf_flux*")) == {"psf_flux", "psf_flux_flag"}
    assert list(catalog.extract("base_*")) == ["base_PsfFlux_instFlux"]
    assert set(catalog.extract("slot_*")) == {"slot_psf_flux", "slot_psf_flux_flag"}
    theirs = catalog.with_columns({}, aliases={"slot_PsfFlux_instFlux": "slot_psf_flux"})
    assert theirs["slot_PsfFlux_instFlux"] is theirs["psf_flux"]
    moved = theirs.with_slots(psf_flux="aperture_flux")  # their name follows the slot
    assert moved["slot_PsfFlux_instFlux"] is moved["aperture_flux"]
    assert list(catalog.schema.extract("*_flag")) == ["psf_flux_flag"]


def test_a_missing_column_explains_itself():
    catalog = make_catalog()
    with pytest.raises(InputError, match=r"did you mean 'psf_flux'\?\)\. A column exists after the task"):
        catalog["psf_fluxx"]
    fuller = catalog.with_columns({Column("snr", "f4", "", "signal to noise"): np.arange(4)})
    assert "snr" in fuller
    assert "snr" not in catalog
    assert fuller["x"] is catalog["x"]


def test_rows_records_children():
    catalog = make_catalog()
    assert catalog[catalog["x"] > 1]["x"].tolist() == [3, 2]
    children = catalog.children_of(catalog["id"][0])
    assert children["id"].tolist() == [7 * 2**32 + 2, 7 * 2**32 + 3]
    record = catalog.find(7 * 2**32 + 3)
    assert record["x"] == 2
    assert record.extract("psf*")["psf_flux_flag"] == np.False_
    record["x"] = 9
    assert catalog["x"][2] == 9
    assert [r["id"] for r in catalog] == catalog["id"].tolist()
    with pytest.raises(InputError, match="no source"):
        catalog.find(1)
    with pytest.raises(IndexError):
        catalog[4]


def test_sorting_puts_unknown_last_and_copies_are_contiguous():
    catalog = make_catalog()
    assert catalog.sorted("psf_flux")["id"].tolist() == catalog["id"][[0, 1, 3, 2]].tolist()
    assert catalog.sorted("psf_flux", descending=True)["id"].tolist() == catalog["id"][[3, 1, 0, 2]].tolist()
    catalog["psf_flux_flag"][:] = [False, True, False, True]
    flagged = catalog.sorted("psf_flux_flag", descending=True)
    assert flagged["id"].tolist() == catalog["id"][[1, 3, 0, 2]].tolist()
    copy = catalog[::2].copy()
    assert copy["x"].flags.c_contiguous
    copy["x"][0] = -1
    assert catalog["x"][0] == 3


def test_concatenate_fills_what_is_missing():
    catalog = make_catalog()
    other = Catalog(columns={"id": [1], "x": [0.0], "y": [0.0]})
    both = Catalog.concatenate([catalog, other])
    assert len(both) == 5
    assert np.isnan(both["psf_flux"][4])
    assert not both["psf_flux_flag"][4]


def test_footprints_follow_their_rows():
    spans = np.array([[0, 0, 1], [1, 0, 2], [5, 5, 5], [7, 1, 4], [9, 0, 0]])
    peaks = np.zeros(4, PEAK_DTYPE)
    footprints = FootprintSet(spans, [0, 2, 3, 4, 5], peaks, [0, 1, 2, 3, 4])
    catalog = make_catalog().with_footprints(footprints)
    chosen = catalog[[3, 0]]
    assert [f.area for f in chosen.footprints] == [1, 5]
    assert catalog[1].footprint.box.origin == (5, 5)
    with pytest.raises(InputError, match="4 footprints were given for 2"):
        make_catalog()[:2].with_footprints(footprints)


def test_schema_prints_as_a_table_and_refuses_contradictions():
    text = str(make_catalog().schema)
    assert "psf_flux_flag" in text
    assert "flux of the PSF model" in text
    with pytest.raises(InputError, match="two different columns"):
        Schema([FLUX, Column("psf_flux", "f4")])
    with pytest.raises(InputError, match="schema does not have"):
        Catalog(Schema(), {"psf_flux": [1.0]})
    with pytest.raises(InputError, match="different lengths"):
        Catalog(columns={"x": [1.0], "y": [1.0, 2]})


def test_ids_are_unique_over_exposures():
    ids = np.concatenate([source_ids(5, e) for e in (0, 1, 2**31 - 1)])
    assert len(np.unique(ids)) == 15
    assert (ids > 0).all()
    with pytest.raises(InputError):
        source_ids(1, 2**31)


def test_astropy_and_pandas():
    pytest.importorskip("pandas")
    catalog = make_catalog()
    table = catalog.to_astropy()
    assert table["psf_flux"].description == "flux of the PSF model"
    back = Catalog.from_astropy(table)
    np.testing.assert_array_equal(back["psf_flux"], catalog["psf_flux"])
    assert back.schema["psf_flux"].unit == "electron"
    assert list(catalog.to_pandas()["x"]) == catalog["x"].tolist()
