"""Whole runs: outputs, failures, formats, cubes, fixed sources, the command line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from tests.compact_sources.scene import PIXEL, matched, scene

from starmill.cli.main import cli
from starmill.cli.runtime import exit_code_of
from starmill.errors import InputError, StarmillWarning
from starmill.hyper import run_hyper, start_hyper
from starmill.hyper.again import rerun_product
from starmill.hyper.options import options_from
from starmill.hyper.session import run_maps
from starmill.hyper.tables import COLUMNS, frame_name
from starmill.io.cubes import cube_writer, open_cube, read_sky_map, stem_of

BEAM = 3.4 * PIXEL / 3600


def header(wcs, **cards):
    out = wcs.to_header()
    out.update({"BMAJ": BEAM, "BMIN": BEAM, "BPA": 0.0, "BUNIT": "Jy/beam"})
    for name, value in cards.items():
        if value is None:
            out.remove(name, ignore_missing=True)
        else:
            out[name] = value
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps")
    for name, seed in (("one", 3), ("two", 4)):
        sky_map, sources = scene(seed=seed, n=12, shape=(100, 110))
        fits.writeto(path / f"{name}.fits", sky_map.image.astype("f4"), header(sky_map.wcs))
        np.save(path / f"{name}.npy", sources)
    (path / "maps_list.txt").write_text("one.fits\ntwo.fits\n")
    (path / "config.yaml").write_text(
        "paths: {input: {dir_maps: .}, output: {dir_root: out}}\n"
        "control: {parallel_maps: true, n_cores: 2}\nunits: {convert_mJy: true}\ndetection: {sigma_thres: 5}\n"
    )
    return path


@pytest.fixture(scope="module")
def done(folder):
    table = run_hyper(folder / "config.yaml")
    return folder, table


def test_the_outputs_are_the_documented_ones(done):
    folder, table = done
    names = {str(p.relative_to(folder / "out")) for p in (folder / "out").rglob("*") if p.is_file()}
    assert names == {
        "provenance.json",
        "params/params_one.txt", "params/params_one.csv", "params/params_two.txt", "params/params_two.csv",
        "params/params_ALL.txt", "params/params_ALL.csv", "logs/hyper_py.log", "logs/Hyper_log_one.log",
        "logs/Hyper_log_two.log", "regions/region_files_one_centroids.reg", "regions/region_files_one_ellipses.reg",
        "regions/region_files_two_centroids.reg", "regions/region_files_two_ellipses.reg",
    }  # fmt: skip
    assert list(table.colnames) == list(COLUMNS)
    assert "sources" in (folder / "out/logs/hyper_py.log").read_text()


def test_tables_hold_positions_and_fluxes_to_full_precision(done):
    folder, table = done
    ipac = Table.read(folder / "out/params/params_one.txt", format="ipac")
    ecsv = Table.read(folder / "out/params/params_one.csv", format="ascii.ecsv")
    plain = Table.read(folder / "out/params/params_ALL.csv", format="ascii.csv")
    np.testing.assert_allclose(ipac["RA"], ecsv["RA"], atol=1e-8)
    np.testing.assert_allclose(ipac["FLUX"], ecsv["FLUX"], rtol=1e-6)
    assert len(plain) == len(table)
    assert str(ipac["FLUX"].unit) == "mJy"
    sources = np.load(folder / "one.npy")
    rows = table[table["MAP_ID"] == "one"]
    i, j = matched({"x": rows["X"], "y": rows["Y"]}, sources) if len(rows) else ([], [])
    assert len(i) == 12
    ratio = np.asarray(rows["FLUX_PEAK"])[j] / 1e3 / sources[i, 0]
    assert 0.9 < np.median(ratio) < 1.1


def test_regions_are_in_the_frame_of_the_map(done):
    folder, table = done
    text = (folder / "out/regions/region_files_one_ellipses.reg").read_text().splitlines()
    assert text[0] == "# Region file format: DS9 version 4.1"
    assert text[2] in {"icrs", "fk5"}
    ellipse = [line for line in text if line.startswith("ellipse")]
    assert len(ellipse) == (table["MAP_ID"] == "one").sum()
    angle = float(ellipse[0].split(",")[-1].rstrip(")"))
    assert angle == pytest.approx(float(table["PA"][0]) + 90, abs=0.01)


def test_results_say_how_they_were_made_and_are_made_again(done, tmp_path, capsys):
    folder, _ = done
    assert command("repo", "provenance", str(folder / "out/params/params_ALL.csv"), "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["made_by"]["task"] == "hyper"
    assert [item["file"] for item in tree["inputs"]] == ["one.fits", "two.fits"]
    assert command("rerun", str(folder / "out/regions/region_files_one_ellipses.reg"), "--json") == 0
    identical = json.loads(capsys.readouterr().out)["identical"]
    assert all(identical.values())
    assert len(identical) == 10
    report = rerun_product(folder / "out/params/params_one.txt", keep=tmp_path / "kept")
    assert report.identical == identical
    name = "params/params_one.csv"
    assert (tmp_path / "kept" / name).read_bytes() == (folder / "out" / name).read_bytes()
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    for sky_map in folder.glob("*.fits"):
        sky_map.rename(folder / f"{sky_map.name}.away")
    assert rerun_product(moved / "out/params/params_one.txt", [moved]).identical == identical
    for sky_map in folder.glob("*.away"):
        sky_map.rename(sky_map.with_suffix(""))
    with pytest.raises(InputError, match="was not written by the run"):
        rerun_product(folder / "out/logs/hyper_py.log")
    with pytest.raises(InputError, match="beside it says how it was made"):
        rerun_product(tmp_path / "kept/params/params_one.csv")


def test_a_map_that_has_changed_is_not_taken_for_the_input(folder, tmp_path):
    sky_map = tmp_path / "maps" / "one.fits"
    sky_map.parent.mkdir()
    sky_map.write_bytes((folder / "one.fits").read_bytes())
    run_maps(options_from({}, {"dir_root": str(tmp_path / "out"), "sigma_thres": 6}), [sky_map])
    with fits.open(sky_map, mode="update") as hdus:
        hdus[0].data[3, 3] += 1
    with pytest.raises(InputError, match=r"one\.fits \(map\) was not found.*of this name but other content"):
        rerun_product(tmp_path / "out/params/params_one.csv")
    (tmp_path / "out/provenance.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        rerun_product(tmp_path / "out/params/params_one.csv")


def test_start_hyper_is_a_synonym():
    assert start_hyper is run_hyper


def test_one_bad_map_does_not_stop_the_others(folder, tmp_path):
    sky_map, _ = scene(n=1, shape=(60, 60))
    image = sky_map.image.astype("f4")
    bad = {
        "no_unit": header(sky_map.wcs, BUNIT=None), "odd_unit": header(sky_map.wcs, BUNIT="counts"),
        "no_beam": header(sky_map.wcs, BMAJ=None), "negative_beam": header(sky_map.wcs, BMAJ=-0.1),
        "no_pixel_size": header(sky_map.wcs, **dict.fromkeys(("CDELT1", "CDELT2", "PC1_1", "PC2_2"))),
        "word_for_beam": header(sky_map.wcs, BMAJ="unknown"), "zero_beam": header(sky_map.wcs, BMAJ=0.0),
        "zero_pixel": header(sky_map.wcs, CDELT1=0.0), "word_for_pixel": header(sky_map.wcs, CDELT2="two"),
        "no_wcs": fits.Header({"BUNIT": "Jy/beam", "BMAJ": BEAM, "BMIN": BEAM}),
    }  # fmt: skip
    paths = []
    for name, cards in bad.items():
        fits.writeto(tmp_path / f"{name}.fits", image, cards)
        paths.append(tmp_path / f"{name}.fits")
    fits.writeto(tmp_path / "all_nan.fits", np.full((40, 40), np.nan, "f4"), header(sky_map.wcs))
    fits.writeto(tmp_path / "real_4d.fits", np.zeros((2, 3, 40, 40), "f4"), header(sky_map.wcs))
    (tmp_path / "text.fits").write_text("not a FITS file")
    paths += [tmp_path / f"{name}.fits" for name in ("all_nan", "real_4d", "text", "absent")]
    run = run_maps(options_from({}, {"dir_root": str(tmp_path / "out")}), [*paths, folder / "one.fits"])
    assert run.exit_code == 1
    assert len(run.failed) == len(paths)
    assert all(outcome.error and "internal" not in outcome.error for outcome in run.failed)
    assert set(run.table["MAP_ID"]) == {"one"}
    with pytest.raises(InputError, match="no map could be photometered"):
        run_hyper(maps=paths[:2], dir_root=str(tmp_path / "out2"))
    with pytest.warns(StarmillWarning, match="odd_unit"):
        run_hyper(maps=[paths[1], folder / "one.fits"], dir_root=str(tmp_path / "out3"))


def test_an_interrupted_run_is_resumed(folder, tmp_path):
    """What the same file and settings have given is kept; anything else is made again."""

    def run(*names, **values):
        settings = {"dir_root": str(tmp_path), "resume": True, **values}
        return run_maps(options_from({}, settings), [folder / f"{name}.fits" for name in names])

    first = run("one")
    table = tmp_path / "params" / "params_one.csv"
    made = table.stat().st_mtime_ns
    both = run("one", "two")
    assert both.exit_code == 0
    assert table.stat().st_mtime_ns == made
    assert len(both.outcomes[0].table) == len(first.table)
    np.testing.assert_array_equal(both.table["FLUX"][: len(first.table)], first.table["FLUX"])
    assert set(both.table["MAP_ID"]) == {"one", "two"}
    run("one", sigma_thres=6)
    assert table.stat().st_mtime_ns > made
    table.write_text(table.read_text()[:3000])
    assert len(run("one", sigma_thres=6).table) == len(first.table)


def test_a_degenerate_fourth_axis_is_accepted(folder, tmp_path):
    with fits.open(folder / "one.fits") as hdus:
        fits.writeto(tmp_path / "axes.fits", hdus[0].data[None, None], hdus[0].header)
    assert read_sky_map(tmp_path / "axes.fits").image.shape == (100, 110)


def test_an_empty_table_has_all_columns_in_every_format(folder, tmp_path):
    table = run_hyper(
        maps=[folder / "one.fits"], sigma_thres=1e4, dir_root=str(tmp_path),
        table_formats=["ipac", "ecsv", "fits", "votable", "csv"],
    )  # fmt: skip
    assert len(table) == 0
    assert list(table.colnames) == list(COLUMNS)
    assert len(Table.read(tmp_path / "params/params_one.fits")) == 0


def test_fits_products(folder, tmp_path):
    run_hyper(
        maps=[folder / "one.fits"],
        dir_root=str(tmp_path),
        fits_fitting=True,
        fits_bg_separate=True,
        sigma_thres=8,
    )
    cut = fits.getdata(tmp_path / "fits/fitting/HYPER_MAP_one_ID_1_cutout.fits")
    model = fits.getdata(tmp_path / "fits/fitting/HYPER_MAP_one_ID_1_model.fits")
    residual = fits.getdata(tmp_path / "fits/fitting/HYPER_MAP_one_ID_1_residual.fits")
    np.testing.assert_allclose(cut - model, residual, atol=1e-5 * np.abs(cut).max())
    assert fits.getheader(tmp_path / "fits/bg_separate/HYPER_MAP_one_background.fits")["BUNIT"] == "Jy/pixel"


def test_a_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        run_hyper(maps=[folder / "one.fits"], dir_root=str(tmp_path / "file" / "out"))


def test_detection_only_and_fixed_sources(folder, tmp_path):
    found = run_hyper(maps=[folder / "one.fits"], dir_root=str(tmp_path), detection_only=True, sigma_thres=6)
    assert len(found) >= 10
    assert np.isfinite(found["RA"]).all()
    published = run_hyper(
        maps=[folder / "one.fits"], dir_root=str(tmp_path), detection_only=True, sigma_thres=6, mode="compat"
    )
    assert len(published) >= 6
    assert np.isnan(published["FLUX"]).all()
    given = Table({"ID": [1, 2], "RA": found["RA"][:2], "DEC": found["DEC"][:2], "FWHM_1": [8.0, 8.0],
                   "FWHM_2": [7.0, 7.0], "PA": [10.0, 20.0]})  # fmt: skip
    given.write(tmp_path / "source_table.txt", format="ascii.ipac")
    table = run_hyper(maps=[folder / "one.fits"], dir_root=str(tmp_path), use_fixed_source_table=True)
    np.testing.assert_allclose(table["RA"], found["RA"][:2], atol=1e-8)
    np.testing.assert_allclose(table["FWHM_1"], 8.0, rtol=1e-4)
    fixed = run_hyper(
        maps=[folder / "one.fits"], dir_root=str(tmp_path), fixed_peaks=True, xcen_fix=list(found["RA"][:3]),
        ycen_fix=list(found["DEC"][:3]), fixed_radius=True, fwhm_1=[9.0], fwhm_2=[9.0],
    )  # fmt: skip
    assert len(fixed) == 3
    assert (fixed["FLUX_ERR"] > 0).all()


def test_galactic_maps_have_galactic_regions(tmp_path):
    sky_map, _ = scene(n=5, shape=(80, 80))
    cards = header(sky_map.wcs, CTYPE1="GLON-CAR", CTYPE2="GLAT-CAR", CRVAL1=10.0, CRVAL2=0.0, RADESYS=None, LATPOLE=None,
                   LONPOLE=None)  # fmt: skip
    fits.writeto(tmp_path / "gal.fits", sky_map.image, cards)
    loaded = read_sky_map(tmp_path / "gal.fits")
    assert frame_name(loaded) == "galactic"
    table = run_hyper(maps=[tmp_path / "gal.fits"], dir_root=str(tmp_path / "out"))
    lines = (tmp_path / "out/regions/region_files_gal_centroids.reg").read_text().splitlines()
    lon, lat = (float(v) for v in lines[3].split("(")[1].split(")")[0].split(","))
    assert lon == pytest.approx(float(table["GLON"][0]), abs=1e-7)
    assert lat == pytest.approx(float(table["GLAT"][0]), abs=1e-7)


@pytest.fixture(scope="module")
def cube_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("cube") / "cube.fits"
    planes = []
    sky_map, _ = scene(seed=6, n=8, shape=(90, 95), snr=(20, 30))
    for channel in range(3):
        noise = scene(seed=20 + channel, n=0, shape=(90, 95))[0].image
        bright = scene(seed=6, n=8, shape=(90, 95), snr=(20, 30))[0].image
        planes.append((bright + 0.3 * (noise - noise.mean())).astype("f4"))
    data = np.array(planes)
    data[:, :5] = np.nan
    data[2] = np.nan
    cards = header(sky_map.wcs, CTYPE3="VRAD", CRVAL3=1.0, CDELT3=0.5, CRPIX3=1.0, CUNIT3="km/s")
    fits.writeto(path, data, cards)
    return path


def test_cubes_channel_by_channel(cube_path, tmp_path):
    run = run_maps(
        options_from({}, {"dir_root": str(tmp_path), "datacube": True, "sigma_thres": 6}), [cube_path]
    )
    assert [bool(o.error) for o in run.outcomes] == [False, False, True]
    assert run.exit_code == 1
    assert set(run.table["CHANNEL"]) == {1, 2}
    np.testing.assert_allclose(np.unique(run.table["SPECTRAL"]), [1.0, 1.5])
    first, second = (set(run.table["SOURCE"][run.table["CHANNEL"] == c]) for c in (1, 2))
    assert len(first & second) >= 7
    with fits.open(cube_path) as hdus:
        background = fits.getdata(tmp_path / "maps/cube_background_cube_fullsize.fits")
        flat = fits.getdata(tmp_path / "maps/cube_background_subtracted.fits")
        np.testing.assert_allclose((background + flat)[:2], hdus[0].data[:2], atol=1e-4)
    assert fits.getdata(tmp_path / "maps/cube_background_cube_cut.fits").shape == (3, 85, 95)
    assert fits.getheader(tmp_path / "maps/cube_background_cube_cut.fits")["START_CH"] == 1
    assert fits.getheader(tmp_path / "maps/cube_slice_002.fits")["CHAN_N"] == 2
    assert (tmp_path / "params/params_cube_ALL.csv").exists()


@pytest.fixture(scope="module")
def blended_cube(tmp_path_factory):
    """A pair that the first channel shows well and the second only as one source."""
    path = tmp_path_factory.mktemp("pair") / "pair.fits"
    from starmill.measurement.neighbours import draw_sources

    sky_map, _ = scene(seed=6, n=5, shape=(90, 95), snr=(20, 30))
    planes = []
    for channel, peaks in enumerate([(40.0, 36.0), (14.0, 9.0)]):
        noise = scene(seed=31 + channel, n=0, shape=(90, 95))[0].image
        pair = np.array([[peaks[0], 45.2, 44.7, 1.6, 1.5, 0.3], [peaks[1], 47.6, 46.6, 1.6, 1.5, 2.0]])
        planes.append(draw_sources(noise.shape, pair, out=noise.astype("f4")))
    cards = header(sky_map.wcs, CTYPE3="VRAD", CRVAL3=1.0, CDELT3=0.5, CRPIX3=1.0, CUNIT3="km/s")
    fits.writeto(path, np.array(planes, "f4"), cards)
    return path


def test_channels_tell_each_other_what_a_blend_holds(blended_cube, tmp_path):
    counts = {}
    for share in (False, True):
        keys = {"dir_root": str(tmp_path / str(share)), "datacube": True, "share_channels": share}
        table = run_hyper(maps=[blended_cube], **keys)
        near = np.hypot(table["X"] - 46.4, table["Y"] - 45.6) < 4
        counts[share] = [int((near & (table["CHANNEL"] == c)).sum()) for c in (1, 2)]
    assert counts[False] == [2, 1]
    assert counts[True] == [2, 2]
    text = (tmp_path / "True/params/params_pair_slice_002.txt").read_text()
    assert "Second look" in text
    assert "Second look" not in (tmp_path / "True/params/params_pair_slice_001.txt").read_text()


def test_a_cube_goes_on_where_it_was_killed(cube_path, tmp_path, monkeypatch):
    """Channels that are done are not photometered again, and every file comes out as in one go."""
    from starmill.hyper import cube_session

    keys = {"datacube": True, "sigma_thres": 6}
    run_maps(options_from({}, {"dir_root": str(tmp_path / "whole"), **keys}), [cube_path])
    part = options_from({}, {"dir_root": str(tmp_path / "part"), **keys, "resume": True})
    measured, photometer = [], cube_session.photometer

    def dies_at_the_second(sky_map, *rest):
        measured.append(sky_map.name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return photometer(sky_map, *rest)

    monkeypatch.setattr(cube_session, "photometer", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_maps(part, [cube_path])
    assert not (tmp_path / "part/maps/cube_background_cube_fullsize.fits").exists()
    for _ in range(2):  # going on, and once more when everything is done
        run_maps(part, [cube_path])
        assert measured == ["cube_slice_001", "cube_slice_002", "cube_slice_002"]
        whole = {p.relative_to(tmp_path / "whole"): p for p in (tmp_path / "whole").rglob("*") if p.is_file()}
        again = {p.relative_to(tmp_path / "part"): p for p in (tmp_path / "part").rglob("*") if p.is_file()}
        assert set(whole) == set(again)
        for name, path in whole.items():
            if path.suffix != ".log":
                assert path.read_bytes() == again[name].read_bytes(), name


def test_cube_files(cube_path, tmp_path):
    cube = open_cube(cube_path)
    assert len(cube) == 3
    assert cube.spectral_type == "VRAD"
    fits.writeto(tmp_path / "four.fits", np.zeros((2, 2, 9, 9)))
    with pytest.raises(InputError, match="3 axes"):
        open_cube(tmp_path / "four.fits")
    with pytest.raises(InputError, match="1 of 3"), cube_writer(tmp_path / "x.fits", cube, "Jy") as write:
        write(np.zeros((90, 95)))
    assert not (tmp_path / "x.fits").exists()
    table = fits.BinTableHDU.from_columns([
        fits.Column("BMAJ", "E", "arcsec", array=[7.0, 8.0, 9.0]), fits.Column("BMIN", "E", "arcsec", array=[6.0, 7.0, 8.0]),
        fits.Column("BPA", "E", "deg", array=[0.0, 10.0, 20.0]), fits.Column("CHAN", "J", array=[0, 1, 2]),
    ], name="BEAMS")  # fmt: skip
    with fits.open(cube_path) as hdus:
        head = hdus[0].header.copy()
        for name in ("BMAJ", "BMIN", "BPA"):
            del head[name]
        fits.HDUList([fits.PrimaryHDU(hdus[0].data, head), table]).writeto(tmp_path / "beams.fits")
    beams = [sky_map.beam for sky_map in open_cube(tmp_path / "beams.fits")]
    assert [b.major for b in beams] == [7.0, 8.0, 9.0]


def test_a_cube_larger_than_memory_is_read_channel_by_channel(cube_path, tmp_path):
    """60 GB of empty channels, of which the file system stores nothing, and a last one with a map."""
    plane = fits.getdata(cube_path)[0].astype(">f4")
    cards = fits.getheader(cube_path)
    cards["NAXIS3"] = channels = 60 * 2**30 // plane.nbytes
    head = cards.tostring(padding=True).encode()
    with (tmp_path / "large.fits").open("wb") as file:
        file.write(head)
        file.seek(len(head) + (channels - 1) * plane.nbytes)
        file.write(plane.tobytes())
        end = len(head) + channels * plane.nbytes
        file.truncate(end + -end % 2880)
    cube = open_cube(tmp_path / "large.fits")
    assert len(cube) == channels
    assert not cube[channels // 2].image.any()
    np.testing.assert_array_equal(cube[channels - 1].image, plane.astype("f4"))


@pytest.mark.parametrize(
    ("name", "stem"), [("a.fits", "a"), ("a.b.fits.gz", "a.b"), ("map.FITS", "map"), ("x", "x")]
)
def test_stems(name, stem):
    assert stem_of(name) == stem


def command(*words):
    return exit_code_of(
        lambda: cli.main(args=list(words), prog_name="starmill", standalone_mode=False), list(words)
    )


def test_command_line(folder, tmp_path, capsys):
    assert command("hyper", str(folder / "one.fits"), "-o", str(tmp_path), "--threshold", "6", "--json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["maps"][0]["sources"] >= 10
    assert (
        command("hyper", str(folder / "one.fits"), str(tmp_path / "no.fits"), "-o", str(tmp_path), "-q") == 1
    )
    assert command("hyper", "no.yaml") == 3
    assert command("hyper", str(folder / "one.fits"), "--set", "detection.sigma_tres=4") == 2
    assert command("hyper", "--write-config", str(tmp_path / "c.yaml")) == 0
    assert command("hyper", "--write-config", str(tmp_path / "c.yaml")) != 0
    assert (
        command("hyper", str(folder / "one.fits"), "--config-dump", "--set", "accurate.fit.radius=1.7") == 0
    )
    assert '"radius": 1.7' in capsys.readouterr().out


def test_report_and_figures(tmp_path):
    """One page that needs nothing else, and pictures in two and three dimensions of every source."""
    sky_map, _ = scene(seed=4, n=2, shape=(60, 64), snr=(25, 40))
    fits.writeto(tmp_path / "few.fits", sky_map.image.astype("f4"), header(sky_map.wcs))
    table = run_hyper(
        maps=[tmp_path / "few.fits"],
        dir_root=str(tmp_path),
        report=True,
        visualize_fitting=True,
        sigma_thres=12,
    )
    assert 1 <= len(table) <= 2
    text = (tmp_path / "params_few.html").read_text()
    assert "http" not in text
    assert text.count("data:image/png") >= 3
    pictures = list((tmp_path / "plots/fitting").glob("*.png"))
    assert pictures
    assert len(pictures) % 2 == 0


def test_module_and_program_names(folder, tmp_path):
    import subprocess
    import sys
    import tomllib
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert {scripts[name] for name in ("hyper", "hyper_py", "hyper-py")} == {"starmill.cli.hyper:main"}
    words = [
        sys.executable,
        "-m",
        "starmill.hyper",
        str(folder / "config.yaml"),
        "-q",
        "-o",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        words,
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root / "src"), "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out/params/params_ALL.txt").exists()


def test_maps_in_processes_give_the_same_tables(folder, tmp_path):
    """Two processes, one bad map among three: the tables of a serial run, byte by byte."""
    (tmp_path / "bad.fits").write_text("no FITS")
    maps = [folder / "one.fits", tmp_path / "bad.fits", folder / "two.fits"]
    told = []
    for name, processes in (("serial", 1), ("two", 2)):
        options = options_from({}, {
            "paths.output.dir_root": str(tmp_path / name), "control.n_cores": processes,
            "control.parallel_maps": processes > 1, "detection.sigma_thres": 5,
        })  # fmt: skip
        run = run_maps(options, maps, advance=told.append)
        assert run.exit_code == 1
        assert [outcome.name for outcome in run.failed] == ["bad"]
    assert len(told) == 6
    tables = [sorted((tmp_path / name / "params").iterdir()) for name in ("serial", "two")]
    assert len(tables[0]) == len(tables[1]) == 6
    for one, other in zip(*tables, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    again = run_maps(
        replace(options, values=options.values | {"control.resume": True}), maps, advance=told.append
    )
    assert sum("kept" in sentence for sentence in told) == 2
    assert len(again.table) == len(run.table)


def test_forced_photometry_takes_the_sizes_of_its_own_tables_as_observed(folder, tmp_path):
    """The list of one map, measured again on the same map, gives its fluxes back."""
    from starmill.hyper.extra_sessions import forced_run

    found = run_hyper(maps=[folder / "one.fits"], dir_root=str(tmp_path), sigma_thres=6)
    options = options_from({}, {"dir_root": str(tmp_path)})
    for name in ("params_one.csv", "params_one.txt"):
        (path,) = forced_run(options, [folder / "one.fits"], tmp_path / "params" / name)
        forced = Table.read(path, format="ascii.ecsv")
        ratio = np.asarray(forced["flux_one"] / found["FLUX_GAUSS"])
        assert abs(np.median(ratio) - 1) < 0.02
        assert (abs(ratio - 1) < 0.25).all()  # sizes widened by the beam once more give 1.8
    found["MAP_ID"] = ["one", *["two"] * (len(found) - 1)]
    found.write(tmp_path / "both.csv", format="ascii.ecsv")
    with pytest.raises(InputError, match="2 map"):
        forced_run(options, [folder / "one.fits"], tmp_path / "both.csv")
