"""Two real nights from the raw frames to catalogues: a moving asteroid, repeated stars, a globular cluster."""

import csv

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial import cKDTree
from scipy.special import erf

from starmill.io.raw import load_camera, read_raw
from starmill.tasks.characterize import CharacterizeImageConfig, CharacterizeImageTask
from starmill.tasks.isr import IsrConfig, IsrTask
from tests.tasks.test_isr_real_frames import build

pytestmark = pytest.mark.slow
REFERENCE = "0144"
BAD_FLAGS = (
    "psf_flux_flag", "centroid_flag", "pixel_flag_edge", "pixel_flag_saturated_center", "pixel_flag_bad",
    "pixel_flag_cr_center", "pixel_flag_interpolated_center", "pixel_flag_suspect", "deblend_parent_too_big",
)  # fmt: skip


@pytest.fixture(scope="module")
def night(shared_data):
    """Catalogue, PSF record and asteroid of each frame."""
    folder = shared_data("raw_lowell42")
    bias = build("bias", "lowell42", sorted(folder.glob("bias/*.fits*")))
    flat = build("flat", "lowell42", sorted(folder.glob("flat_VR/*.fits*")), bias=bias.master)
    isr = IsrTask(IsrConfig().override(load_camera("lowell42").config["isr"]))
    task = CharacterizeImageTask(CharacterizeImageConfig())
    lines = [
        line for line in (folder / "TRUTH_5945.csv").read_text().splitlines() if not line.startswith("#")
    ]
    found = {}
    for row in csv.DictReader(lines):
        raw = read_raw(next(folder.glob(f"sci_VR/*{row['frame']}*")), "lowell42")
        exposure = isr.run(raw=raw, bias=bias.master, flat=flat.master).exposure
        result = task.run(exposure=exposure)
        found[row["frame"]] = (result.catalog, {**task.full_metadata(), "stars": result.psf_stars}, row)
    return found


def test_the_asteroid_is_found_in_every_frame(night):
    for frame, (catalog, _, row) in night.items():
        distance = np.hypot(catalog["x"] - (float(row["xraw"]) - 17), catalog["y"] - float(row["yraw"]))
        assert np.nanmin(distance) < 0.5, frame


def test_every_frame_has_a_psf_of_many_stars_and_some_cosmic_rays(night):
    for frame, (_, records, _) in night.items():
        psf = records["characterize:measure_psf"]
        assert psf["n_used"] > 50, frame
        assert 1.3 < psf["median_fwhm"] < 3.5, frame
        assert 100 < records["characterize:repair"]["cosmic_ray_count"] < 1000, frame


def fitted_fwhm(image, x, y):
    """Return the FWHM of the round Gaussian, integrated over the pixels, that fits an image best."""
    edges = np.arange(image.shape[0] + 1) - 0.5

    def profile(centre, sigma):
        return np.diff(0.5 * erf((edges - centre) / (np.sqrt(2) * sigma)))

    def difference(p):
        return (p[0] * np.outer(profile(p[2], p[3]), profile(p[1], p[3])) - image).ravel() / image.max()

    return 2.3548 * least_squares(difference, [image.sum(), x, y, 1.0]).x[3]


def test_the_psf_is_as_wide_as_its_stars(night):
    """The same independent estimator on the stars and on the model at their places."""
    for frame, (_, records, _) in night.items():
        stars = records["stars"]
        bright = np.flatnonzero(stars.used)[np.argsort(-stars.flux[stars.used])[:40]]
        half = stars.images.shape[1] // 2
        cut = slice(half - 4, half + 5)
        x, y = stars.x - stars.x0 - half + 4, stars.y - stars.y0 - half + 4
        widths = [
            np.median([fitted_fwhm(stack[s, cut, cut].astype(float), x[s], y[s]) for s in bright])
            for stack in (stars.images, stars.models)
        ]
        assert abs(widths[1] / widths[0] - 1) < 0.05, frame


def good(catalog):
    chosen = (catalog["psf_flux"] > 100 * catalog["psf_flux_err"]) & (catalog["n_child"] == 0)
    for name in BAD_FLAGS:
        chosen &= ~catalog[name]
    return catalog[chosen]


def registered(stars, reference):
    """Return offsets from a first-order transformation of the reference, and rows of the matches."""
    place = np.stack([stars["x"], stars["y"]], axis=1)
    base = np.stack([reference["x"], reference["y"]], axis=1)
    difference = (place[None] - base[:, None]).reshape(-1, 2)
    counts, ex, ey = np.histogram2d(*difference.T, bins=np.arange(-60, 60.5, 1))
    i, j = np.unravel_index(counts.argmax(), counts.shape)
    matrix = np.array([[ex[i] + 0.5, ey[j] + 0.5], [1, 0], [0, 1]])
    terms = np.column_stack([np.ones(len(base)), base])
    tree = cKDTree(place)
    for reach in (1.5, 1.0, 1.0, 1.0):
        distance, row = tree.query(terms @ matrix)
        near = distance < reach
        matrix = np.linalg.lstsq(terms[near], place[row[near]], rcond=None)[0]
    return place[row] - terms @ matrix, row, near


@pytest.fixture(scope="module")
def repeated(night):
    """Residuals (n_frames, n_stars) of position and log flux of the stars seen in all frames; which are single points."""
    reference = good(night[REFERENCE][0])
    offsets, fluxes, seen, alone = [], [], np.ones(len(reference), bool), reference["parent"] == 0
    for catalog, _, _ in night.values():
        stars = good(catalog)
        offset, row, near = registered(stars, reference)
        offsets.append(offset)
        fluxes.append(np.log(stars["psf_flux"][row]))
        seen &= near
        alone &= (stars["parent"][row] == 0) & (np.abs(stars["concentration"][row]) < 0.02)
    offsets, fluxes = np.array(offsets)[:, seen], np.array(fluxes)[:, seen]
    offsets = offsets - offsets.mean(axis=0)
    terms = np.column_stack(
        [np.ones(seen.sum()), (reference["x"][seen] - 680) / 700, (reference["y"][seen] - 680) / 700]
    )
    mean = fluxes.mean(axis=0)
    for _ in range(3):
        flat = []
        for values in fluxes:
            difference = values - mean
            near = np.abs(difference - np.median(difference)) < 0.1
            flat.append(values - terms @ np.linalg.lstsq(terms[near], difference[near], rcond=None)[0])
        mean = np.median(flat, axis=0)
    return offsets, np.array(flat) - mean, alone[seen]


def test_positions_repeat(repeated):
    offsets, _, _ = repeated
    assert offsets.shape[1] > 50
    assert offsets[..., 0].std() < 0.05
    assert offsets[..., 1].std() < 0.05


def test_psf_fluxes_repeat(repeated):
    """The stars are undersampled (FWHM 1.6 pixels in the first frames); blends change with the seeing."""
    _, flux, alone = repeated
    assert 1.4826 * np.median(np.abs(flux)) < 0.009
    assert np.median(flux.std(axis=0)) < 0.01
    assert alone.sum() > 15
    assert 1.4826 * np.median(np.abs(flux[:, alone])) < 0.0085
    assert (
        flux[:, alone].std() < 0.0102
    )  # a galaxy and two blends, told by their concentration, are not counted


def test_bright_stars_are_called_stars(night):
    for catalog, _, _ in night.values():
        assert np.median(good(catalog)["star_probability"]) > 0.5


def test_crowding_does_not_break_the_psf(shared_data):
    folder = shared_data("raw_arcsat_m13")
    bias = build("bias", "arcsat", sorted(folder.glob("bias/*.fits*")))
    dark = build("dark", "arcsat", sorted(folder.glob("dark/*.fits*")), bias=bias.master)
    masters = {"bias": bias.master, "dark": dark.master}
    isr = IsrTask(IsrConfig().override(load_camera("arcsat").config["isr"]))
    task = CharacterizeImageTask()
    for band in "gr":
        flats = [p for p in sorted(folder.glob("flat/*.fits*")) if f"_{band}_" in p.name]
        flat = build("flat", "arcsat", flats, **masters)
        for path in sorted(folder.glob(f"science/*_{band}_*.fits*")):
            raw = read_raw(path, "arcsat")
            exposure = isr.run(raw=raw, **masters, flat=flat.master).exposure
            result = task.run(exposure=exposure)
            psf = task.full_metadata()["characterize:measure_psf"]
            assert psf["n_used"] >= 15, path.name
            assert 3.0 < psf["median_fwhm"] < 4.6, path.name  # moments of bright stars: 3.5 to 4.1
            assert len(result.catalog) > 400
            stars = result.psf_stars
            assert np.std(stars.size_excess[stars.used]) < 0.03
