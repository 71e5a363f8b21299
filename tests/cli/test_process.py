"""``starmill process``: products, exit codes, bad input, resuming."""

import json
import signal

import numpy as np
import pytest
from astropy.io import fits

from starmill.cli.main import cli
from starmill.cli.runtime import exit_code_of
from starmill.datamodel.field import ConstantField
from starmill.datamodel.psf_models import MoffatPsf
from starmill.execution.frames import frame_name
from starmill.io.exposure_file import read_exposure, read_exposure_component
from starmill.io.tables import read_catalog

SIZE, FWHM, GAIN, READ_NOISE, SKY = 256, 3.5, 2.0, 5.0, 200.0


def run(*words):
    """Run the command line and return its exit code."""
    words = [str(word) for word in words]
    return exit_code_of(lambda: cli.main(args=words, prog_name="starmill", standalone_mode=False), words)


def star_field(seed=1, n=60, size=SIZE):
    """Return an image in ADU with Moffat stars on a flat sky, and the true positions and electrons."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(20, size - 15, 30), np.arange(20, size - 15, 30)), -1).reshape(
        -1, 2
    )
    places = (grid + rng.uniform(-3, 3, grid.shape))[:n]
    flux = 10 ** rng.uniform(3.6, 5.3, len(places))
    y, x = np.mgrid[:size, :size]
    alpha = FWHM / 2 / np.sqrt(2 ** (1 / 3) - 1)
    image = np.full((size, size), SKY)
    for (px, py), f in zip(places, flux, strict=True):
        image += f * 2 / (np.pi * alpha**2) * (1 + ((x - px) ** 2 + (y - py) ** 2) / alpha**2) ** -3
    electrons = rng.poisson(image) + rng.normal(0, READ_NOISE, image.shape)
    return (electrons / GAIN).astype(np.float32), places, flux


def write(path, image, **cards):
    header = fits.Header({"GAIN": GAIN, "RDNOISE": READ_NOISE, **cards})
    fits.writeto(path, image, header, overwrite=True)
    return path


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    image, places, flux = star_field()
    return write(tmp_path_factory.mktemp("frames") / "field.fits", image), places, flux


def test_products_of_a_detrended_frame(frame, tmp_path, capsys):
    path, places, flux = frame
    assert run("process", path, "--no-isr", "-o", tmp_path, "--json") == 0
    outcome = json.loads(capsys.readouterr().out)[0]
    assert outcome["state"] == "done"
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {f"field{s}" for s in (".exposure.fits", ".catalog.fits", ".reg", ".png", ".html")}
    exposure, catalog = (
        read_exposure(tmp_path / "field.exposure.fits"),
        read_catalog(tmp_path / "field.catalog.fits"),
    )
    constant = [ConstantField(exposure.box, value) for value in (FWHM, 0, 0, 3)]
    true_psf = MoffatPsf(*constant, size=exposure.psf.size)
    assert abs(exposure.psf.fwhm_at() / true_psf.fwhm_at() - 1) < 0.02
    distance = np.hypot(catalog["x"][None] - places[:, :1], catalog["y"][None] - places[:, 1:])
    nearest = distance.argmin(1)
    assert (distance.min(1) < 0.5).all()
    pull = (catalog["psf_flux"][nearest] - flux) / catalog["psf_flux_err"][nearest]
    assert abs(np.median(pull)) < 4 * 1.25 / np.sqrt(len(pull))  # 4 sigma of a median
    html = (tmp_path / "field.html").read_text()
    assert 'src="http' not in html


def test_resume_keeps_what_was_made(frame, tmp_path, capsys):
    path = frame[0]
    words = ["process", path, "--no-isr", "-o", tmp_path, "--no-pictures", "--json", "-q"]
    assert run(*words) == 0
    before = (tmp_path / "field.exposure.fits").read_bytes()
    capsys.readouterr()
    assert run(*words, "--resume") == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "kept"
    assert run(*words, "--resume", "--set", "characterize.detect_deep.threshold=6") == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "done"
    assert run(*words) == 0
    assert (tmp_path / "field.exposure.fits").read_bytes() == before
    inputs = read_exposure_component(tmp_path / "field.exposure.fits", "provenance")["inputs"]
    assert [item["file"] for item in inputs] == ["field.fits"]


def test_several_processes_give_the_same_bytes_and_one_bad_frame_does_not_stop_the_others(frame, tmp_path):
    good = frame[0]
    other = write(tmp_path / "other.fits", star_field(2)[0])
    bad = tmp_path / "bad.fits"
    bad.write_bytes(good.read_bytes()[:9000])
    options = ["--no-isr", "--no-pictures", "-q"]
    assert run("process", good, bad, other, *options, "-o", tmp_path / "two", "-j", 2) == 1
    assert run("process", good, other, *options, "-o", tmp_path / "one") == 0
    for name in ("field.exposure.fits", "field.catalog.fits", "other.exposure.fits", "other.catalog.fits"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not [p for p in (tmp_path / "two").iterdir() if "bad" in p.name]


def bad_image(kind):
    image = star_field()[0]
    if kind == "all NaN":
        image[:] = np.nan
    elif kind == "constant":
        image[:] = 100
    elif kind == "one row":
        image = image[:1]
    elif kind == "one column":
        image = image[:, :1]
    elif kind == "empty sky":
        image = (np.random.default_rng(3).normal(SKY, 15, image.shape) / GAIN).astype(np.float32)
    return image


@pytest.mark.parametrize("kind", ["all NaN", "constant", "one row", "one column", "empty sky"])
def test_a_bad_image_is_a_typed_error_and_leaves_no_file(kind, tmp_path, capsys):
    path = write(tmp_path / "image.fits", bad_image(kind))
    code = run("process", path, "--no-isr", "-o", tmp_path / "out")
    assert code == 3, kind
    assert "image: FAILED" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_stars_falls_back_to_a_gaussian_only_when_allowed(tmp_path, capsys):
    path = write(tmp_path / "image.fits", bad_image("empty sky"))
    words = ["process", path, "--no-isr", "-o", tmp_path / "out", "--no-pictures"]
    assert run(*words, "--set", "characterize.measure_psf.allow_gaussian=true") == 0
    assert "PSF" in capsys.readouterr().err
    assert read_exposure(tmp_path / "out" / "image.exposure.fits").psf is not None


@pytest.mark.parametrize("kind", ["all masked", "zero variance", "negative variance", "shape"])
def test_bad_planes(kind, tmp_path):
    image = star_field()[0]
    mask = np.full(image.shape, kind == "all masked", np.int32)
    variance = np.full(
        image.shape, {"zero variance": 0.0, "negative variance": -1.0}.get(kind, 100.0), np.float32
    )
    if kind == "shape":
        variance = variance[:-1]
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, name="IMAGE"), fits.ImageHDU(mask, name="MASK")]
    hdus.append(fits.ImageHDU(variance, name="VARIANCE"))
    fits.HDUList(hdus).writeto(tmp_path / "image.fits")
    code = run("process", tmp_path / "image.fits", "--no-isr", "-o", tmp_path / "out", "-q")
    assert code == 3
    assert not (tmp_path / "out").exists()


def test_few_nan_and_infinite_pixels_do_not_spread(frame, tmp_path):
    path, places, _ = frame
    image = fits.getdata(path).astype(np.float32)
    rng = np.random.default_rng(4)
    where = rng.integers(0, SIZE, (2, 300))
    image[where[0], where[1]] = np.nan
    image[5, 5], image[6, 6] = np.inf, -np.inf
    write(tmp_path / "holes.fits", image)
    assert (
        run("process", tmp_path / "holes.fits", "--no-isr", "-o", tmp_path / "out", "--no-pictures", "-q")
        == 0
    )
    exposure = read_exposure(tmp_path / "out" / "holes.exposure.fits")
    assert np.isfinite(exposure.image).all()
    assert exposure.mask.any("NO_DATA").sum() == len(set(zip(*where, strict=True)) | {(5, 5), (6, 6)})
    catalog = read_catalog(tmp_path / "out" / "holes.catalog.fits")
    distance = np.hypot(catalog["x"][None] - places[:, :1], catalog["y"][None] - places[:, 1:])
    assert (distance.min(1) < 1).all()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--no-isr", "--set", "characterize.detct.threshold=3"], 2, "did you mean 'detect'"),
        (["--no-isr", "--set", "characterize.detect.threshold=-3"], 2, "threshold"),
        (["--camera", "simcan"], 3, "did you mean simcam"),
        ([], 2, "tell the camera"),
        (["--no-isr", "--hdu", "SCIENCE"], 3, "no such extension"),
        (["--no-isr", "-c", "none.yaml"], 3, "does not exist"),
    ],
)
def test_wrong_usage(frame, tmp_path, capsys, words, code, message):
    assert run("process", frame[0], "-o", tmp_path / "out", *words) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_an_input_error(frame, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("process", frame[0], "--no-isr", "-o", tmp_path / "file", "--no-pictures") == 3
    assert "folder cannot be made" in capsys.readouterr().err


def test_two_frames_of_one_name_are_refused(frame, tmp_path):
    (tmp_path / "a").mkdir()
    copy = tmp_path / "a" / "field.fits"
    copy.write_bytes(frame[0].read_bytes())
    assert run("process", frame[0], copy, "--no-isr", "-o", tmp_path / "out", "-q") == 3


def test_the_configuration_can_be_printed_and_read_back(tmp_path, capsys):
    assert (
        run("process", "--camera", "simcam", "--set", "characterize.detect.threshold=7", "--config-dump") == 0
    )
    text = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(text)
    assert run("process", "--no-isr", "-c", tmp_path / "c.yaml", "--config-dump") == 0
    assert capsys.readouterr().out == text


def test_show_summarises_and_draws(frame, tmp_path, capsys):
    assert run("show", frame[0], "-o", tmp_path / "a.png") == 0
    assert "256 x 256" in capsys.readouterr().out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupt_is_never_taken_for_a_bad_frame(frame, tmp_path, monkeypatch, capsys):
    """Compiled code turns Ctrl-C into another error; the run must stop all the same."""

    def interrupted(message):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr("starmill.execution.quantum_work._work", interrupted)
    assert run("process", frame[0], "--no-isr", "-o", tmp_path) == 130
    assert "interrupted" in capsys.readouterr().err


def test_frame_names():
    assert [frame_name(p) for p in ("a/b.fits", "b.fits.fz", "c.d.fit.bz2", "e")] == ["b", "b", "c.d", "e"]
