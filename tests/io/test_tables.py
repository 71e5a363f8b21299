"""Catalogues survive every file format."""

import numpy as np
import pytest

from starmill.datamodel.catalog import MINIMAL_COLUMNS, Catalog, Column, Schema
from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.errors import InputError
from starmill.io.tables import TABLE_SUFFIXES, read_catalog, write_catalog


def make_catalog(n=7):
    rng = np.random.default_rng(3)
    schema = Schema([
        *MINIMAL_COLUMNS,
        Column("psf_flux", "f8", "electron", "flux of the PSF model"),
        Column("psf_flux_flag", "bool", "", "something is wrong with psf_flux"),
        Column("psf_flux_flag_edge", "bool", "", "the stamp was cut by the edge"),
        Column("aperture_flux", "f4", "electron", "fluxes in three apertures", (3,)),
        Column("band", "U4", "", "filter"),
    ])  # fmt: skip
    columns = {
        "id": np.arange(n) + 2**40,
        "x": rng.random(n),
        "y": np.where(np.arange(n) == 2, np.nan, rng.random(n)),
        "psf_flux": rng.normal(size=n),
        "psf_flux_flag": rng.random(n) < 0.5,
        "aperture_flux": rng.normal(size=(n, 3)),
        "band": np.array(["g", "r", "", "i", "VR", "z", "y"])[:n],
    }
    spans = np.array([[y, 3 * y, 3 * y + 2] for y in range(n)], np.int32)
    peaks = np.zeros(n, PEAK_DTYPE)
    peaks["x"] = np.arange(n)
    peaks["value"] = rng.random(n)
    footprints = FootprintSet(
        spans, np.arange(n + 1), peaks, np.arange(n + 1),
        image=rng.random(3 * n), mask=np.arange(3 * n), variance=rng.random(3 * n),
    )  # fmt: skip
    return Catalog(
        schema, columns, n=n, footprints=footprints, slots={"psf_flux": "psf_flux"},
        aliases={"base_PsfFlux_instFlux": "psf_flux"}, meta={"exposure_id": 12, "note": "a b"},
    )  # fmt: skip


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
@pytest.mark.parametrize("n", [7, 0])
def test_round_trip(tmp_path, suffix, n):
    catalog = make_catalog(n)
    path = tmp_path / f"catalog{suffix}"
    write_catalog(catalog, path)
    back = read_catalog(path)
    assert list(back.schema.values()) == list(catalog.schema.values())
    for name in catalog.names:
        np.testing.assert_array_equal(back[name], catalog[name], err_msg=name)
    assert (back.slots, back.aliases, back.meta) == (catalog.slots, catalog.aliases, catalog.meta)
    for part in ("spans", "span_offsets", "peaks", "peak_offsets", "image", "mask", "variance"):
        np.testing.assert_array_equal(getattr(back.footprints, part), getattr(catalog.footprints, part))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.filterwarnings("ignore:'electron' did not parse")  # not a unit of the FITS standard
def test_fits_packs_flags_and_plain_astropy_reads_it(tmp_path):
    from astropy.table import Table

    catalog = make_catalog()
    write_catalog(catalog, tmp_path / "c.fits")
    table = Table.read(tmp_path / "c.fits", hdu=1)
    assert "psf_flux_flag" not in table.colnames
    np.testing.assert_array_equal(np.asarray(table["flags"])[:, 0], catalog["psf_flux_flag"])
    assert str(table["psf_flux"].unit) == "electron"


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_damaged_file_is_an_input_error(tmp_path, suffix):
    path = tmp_path / f"catalog{suffix}"
    write_catalog(make_catalog(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(InputError, match="catalog"):
        read_catalog(path)


def test_unknown_suffix_and_missing_file(tmp_path):
    with pytest.raises(InputError, match="unknown table format"):
        write_catalog(make_catalog(), tmp_path / "c.xyz")
    with pytest.raises(InputError, match="does not exist"):
        read_catalog(tmp_path / "none.fits")
    assert not list(tmp_path.iterdir())
