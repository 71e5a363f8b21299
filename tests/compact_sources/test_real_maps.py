"""Real maps: what is known about them must come out."""

import warnings

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree

from starmill.datamodel.cube import Beam
from starmill.hyper.options import options_from
from starmill.hyper.session import run_maps
from starmill.io.cubes import open_cube, read_sky_map
from starmill.measurement.neighbours import draw_sources
from starmill.tasks.compact_sources import CompactSourcesTask
from starmill.tasks.compact_sources_config import CompactSourcesConfig
from starmill.tasks.forced_maps import ForcedMapsTask


def measure(sky_map, **changes):
    config = CompactSourcesConfig().override(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return CompactSourcesTask(config).run(sky_map=sky_map).catalog


@pytest.mark.parametrize(("k", "matched", "rows"), [(1, 494, 500), (2, 489, 498)])
def test_published_benchmark_maps(shared_data, k, matched, rows):
    """The published rule: nearest row within 0.02 arcsec; fluxes against the table and against what is drawn.

    The maps are drawn with a cross term sin(2 PA) / 2 in the exponent, so that the integral is larger than the
    tabulated one by 1 / sqrt(1 - sin(2 PA)^2 / 4).
    """
    folder = shared_data("maps_hyper")
    catalog = measure(read_sky_map(folder / f"map_500_Gaussians_{k}.fits.gz"))
    truth = Table.read(folder / f"table_500_Gaussians_{k}.txt", format="ipac")
    distance, j = cKDTree(np.column_stack([catalog["x"], catalog["y"]])).query(
        np.column_stack([truth["X"], truth["Y"]])
    )
    ok = np.flatnonzero(distance < 0.02 / 0.013)
    _, first = np.unique(j[ok], return_index=True)
    i = np.sort(ok[first])
    assert len(i) >= matched
    assert len(catalog) - len(i) <= 2
    assert len(catalog) <= rows + 4
    assert np.median(distance[i]) * 0.013 < 0.0013
    peak = catalog["peak_flux"][j[i]] / 12.408 / truth["Flux_Peak"][i] - 1
    assert abs(np.median(peak)) < 0.01
    assert np.percentile(abs(peak), 68) < 0.046
    table = np.asarray(truth["Flux_Integrated"][i])
    drawn = table / np.sqrt(1 - 0.25 * np.sin(2 * np.radians(truth["PA"][i])) ** 2)
    for name, true, typical, tail in (
        ("aperture_flux", table, 0.12, 0.30),
        ("total_flux", drawn, 0.09, 0.20),
    ):
        flux = catalog[name][j[i]]
        assert abs(np.median(flux / true - 1)) < 0.02
        assert np.percentile(abs(flux / true - 1), 68) < typical
        assert np.percentile(abs(flux / true - 1), 95) < tail
        pull = np.percentile((flux - true) / catalog[f"{name}_err"][j[i]], [16, 84])
        assert 0.9 < (pull[1] - pull[0]) / 2 < 1.1


def test_published_benchmark_maps_hold_what_the_documentation_says(shared_data):
    """With the cross term the truth table leaves nothing but noise at its sources; without it, it does not."""
    folder = shared_data("maps_hyper")
    sky_map = read_sky_map(folder / "map_500_Gaussians_1.fits.gz")
    truth = Table.read(folder / "table_500_Gaussians_1.txt", format="ipac")
    x, y, peak, width, angle = (
        np.asarray(truth[name], float) for name in ("X", "Y", "Flux_Peak", "FWHM", "PA")
    )
    variance = (width / 2.3548200450309493) ** 2

    def residual_at_sources(cross):
        s = cross * np.sin(2 * np.radians(angle))  # inverse covariance (1, -s; -s, 1) / variance
        major, minor = variance / (1 - abs(s)), variance / (1 + abs(s))
        sources = np.column_stack(
            [peak, x, y, np.sqrt(major), np.sqrt(minor), np.where(s > 0, np.pi / 4, -np.pi / 4)]
        )
        model = draw_sources(sky_map.image.shape, sources)
        rest = sky_map.image - model
        rest = rest - gaussian_filter(rest, 6)
        near = model > 0.2 * np.median(peak)
        return rest[near].std(), rest[model < 0.02 * np.median(peak)].std()

    at_sources, elsewhere = residual_at_sources(0.5)
    assert at_sources < 1.05 * elsewhere
    assert residual_at_sources(0.0)[0] > 1.8 * elsewhere


def test_parkes_field_against_aegean(shared_data):
    folder = shared_data("aegean_parkes")
    sky_map = read_sky_map(folder / "1904-66_SIN.fits.gz")
    catalog = measure(sky_map)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Table.read(folder / "1904_comp.fits.gz")
    here = SkyCoord(catalog["ra"], catalog["dec"], unit="deg")
    index, distance, _ = SkyCoord(theirs["ra"], theirs["dec"], unit="deg").match_to_catalog_sky(here)
    near = distance.deg < 0.12  # half a beam
    # of 51; the others are streaks of single scans along the ragged border, outside of the data, or blends split otherwise
    assert near.sum() >= 40
    ratio = catalog["peak_flux"][index[near]] / np.asarray(theirs["peak_flux"])[near]
    assert 0.95 < np.median(ratio) < 1.05


def test_alma_images_against_pybdsf(shared_data):
    folder = shared_data("maps_alma")
    theirs = Table.read(folder / "PyBDSM_Catalog.fits")
    for path in sorted(folder.glob("*.image.fits.gz")):
        sky_map = read_sky_map(path)
        catalog = measure(sky_map)
        assert len(catalog) <= 4
        for row in theirs:
            if row["Peak_flux"] < 8 * row["Isl_rms"]:
                continue
            x, y = sky_map.wcs.wcs_world2pix(row["RA"], row["DEC"], 0)
            if not (0 <= x < sky_map.image.shape[1] and 0 <= y < sky_map.image.shape[0]):
                continue
            k = int(np.argmin(np.hypot(catalog["x"] - x, catalog["y"] - y)))
            assert np.hypot(catalog["x"][k] - x, catalog["y"][k] - y) < 0.5
            assert catalog["peak_flux"][k] == pytest.approx(row["Peak_flux"], rel=0.06)
            assert abs(catalog["gaussian_flux"][k] - row["Total_flux"]) < 3 * np.hypot(
                row["E_Total_flux"], catalog["gaussian_flux_err"][k]
            )


def test_galactic_centre_finds_sgr_a(shared_data):
    sky_map = read_sky_map(shared_data("maps_bolocam") / "gc_bolocam_gps.fits.gz")
    catalog = measure(sky_map)
    k = int(np.argmin(np.hypot(catalog["glon"] - 359.9456, catalog["glat"] + 0.0452)))
    assert np.hypot(catalog["glon"][k] - 359.9456, catalog["glat"][k] + 0.0452) < 33 / 3600 / 2
    assert catalog["peak_flux"].max() == catalog["peak_flux"][k]
    edge = distance_transform_edt(sky_map.valid)
    at_edge = edge[np.rint(catalog["y"]).astype(int), np.rint(catalog["x"]).astype(int)] < 15
    assert at_edge.sum() < 0.25 * len(
        catalog
    )  # a fifth of the pixels; the noise there is up to five times higher


def test_radio_field_with_extended_emission(shared_data):
    catalog = measure(read_sky_map(shared_data("maps_atca") / "ScorpioExtendedSourceField.fits.gz"))
    shell = (
        np.hypot(catalog["x"] - 119, catalog["y"] - 238) < 25
    )  # a bright ring, cut into about a dozen pieces
    assert 25 <= (catalog["significance"] > 8)[~shell].sum() <= 40  # 30 above 8 sigma of a 32-pixel mesh
    assert 5e-5 < np.median(catalog["local_rms"]) < 1.3e-4


def test_two_bands_with_variance_and_forced_photometry(shared_data):
    folder = shared_data("maps_scuba2")
    short = read_sky_map(folder / "uant_450.fits.gz", beam=Beam(9.6, 9.6))
    long = read_sky_map(folder / "uant_850_NonCOsub.fits.gz", beam=Beam(14.1, 14.1))
    assert short.rms is not None
    found = measure(long, detection__threshold=5.0)
    star = int(np.argmax(found["significance"]))
    assert found["significance"][star] == pytest.approx(18, abs=4)
    away = np.hypot(found["x"] - found["x"][star], found["y"] - found["y"][star])
    assert len(found) <= 4  # the star and patches of its shell
    assert away.max() < 25  # the noisy edge, 100 pixels away, gives nothing
    found = found[[star]]
    both = ForcedMapsTask().run(sky_maps=[short, long], ra=found["ra"], dec=found["dec"]).catalog
    assert both["flux_uant_450"][0] > 5 * both["flux_err_uant_450"][0]
    assert both["flux_uant_850_NonCOsub"][0] > 10 * both["flux_err_uant_850_NonCOsub"][0]


def test_cube_without_unit_and_beam(shared_data):
    path = shared_data("cube_l1448") / "l1448_13co.fits.gz"
    cube = open_cube(path, beam=Beam(46.0, 46.0), unit="K", frequency=110.2e9)
    assert len(cube) == 53
    assert len(measure(cube[0])) <= 4  # a line-free channel


def test_hyper_test_maps_and_cube_with_their_configuration(shared_data, tmp_path):
    folder = shared_data("maps_hyper") / "test"
    settings = {
        "paths": {"output": {"dir_root": str(tmp_path)}}, "units": {"convert_mJy": True},
        "detection": {"sigma_thres": 5.0}, "photometry": {"fwhm_radius_ratio": 0.5}, "control": {"n_cores": 1},
    }  # fmt: skip
    run = run_maps(options_from(settings), [folder / f"test_2d_map_{k}.fits.gz" for k in (1, 2)])
    assert run.exit_code == 0
    assert [len(outcome.table) for outcome in run.outcomes] == [
        50,
        50,
    ]  # the published program: the same 50 and 50
    settings["control"]["datacube"] = True
    run = run_maps(options_from(settings), [folder / "test_datacube.fits.gz"])
    assert [bool(outcome.error) for outcome in run.outcomes] == [False] * 4
    assert all(len(outcome.table) <= 2 for outcome in run.outcomes)  # the published program finds none here


def test_compat_mode_gives_the_stored_sources(shared_data, tmp_path):
    """Against the table that the published program made of this map, with an earlier version and a cauchy loss."""
    folder = shared_data("maps_hyper")
    stored = Table.read(folder / "stored_hyperpy" / "hyper_output_map_500_Gaussians_1.txt", format="ipac")
    sky_map = read_sky_map(folder / "map_500_Gaussians_1.fits.gz")
    from dataclasses import replace

    box = sky_map.image[:200, :200]
    part = replace(sky_map, image=box)
    from starmill.tasks.published_config import PublishedConfig
    from starmill.tasks.published_photometry import PublishedPhotometryTask

    config = PublishedConfig(
        threshold=4.0, rms=2.741e-6, separate_background=True, weights="snr", vary_position=False, score="nmse",
        roundness=(-4, 4), sharpness=(-2, 2),
    )  # fmt: skip
    catalog = PublishedPhotometryTask(config).run(sky_map=part).catalog
    x, y = sky_map.wcs.wcs_world2pix(stored["RA"], stored["DEC"], 0)
    inside = (x > 25) & (x < 175) & (y > 25) & (y < 175)
    distance, j = cKDTree(np.column_stack([catalog["x"], catalog["y"]])).query(
        np.column_stack([x, y])[inside]
    )
    same = (
        distance < 2.9
    )  # their positions are rounded to 5 decimals of a degree: up to 1.4 pixels along each axis
    assert same.mean() > 0.9
    ratio = catalog["aperture_flux"][j[same]] * 1e3 / np.asarray(stored["FLUX"])[inside][same]
    assert 0.85 < np.median(ratio) < 1.15
