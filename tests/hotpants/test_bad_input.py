"""Inputs that cannot give a difference: a typed error with numbers and an exit code that is not 0, never a file."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from tests.differencing.conftest import make_pair

from starmill.cli.hotpants import main as hotpants
from starmill.cli.main import main as starmill
from starmill.hotpants import Hotpants, HotpantsConfig, HotpantsError

LIMITS = ["-tl", "-1e9", "-il", "-1e9", "-tg", "8", "-ig", "1.5", "-v", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(3)
    pair = make_pair(256, n_stars=120)
    t, s = pair.template.image, pair.science.image
    images = {
        "t": t, "s": s, "small": s[:200, :180], "tiny": s[:20, :20], "tinyt": t[:20, :20],
        "const": np.full_like(s, 300), "zero": np.zeros_like(s), "noise": rng.normal(300, 15, s.shape),
        "tnoise": rng.normal(200, 5, s.shape), "cube": np.zeros((3, 20, 20)),
        "sub": s - np.median(s), "tsub": t - np.median(t),
        "half": np.where(rng.random(s.shape) < 0.5, np.nan, s), "nan": np.full_like(s, np.nan),
        "some": np.where(rng.random(s.shape) < 1e-4, np.nan, s),
    }  # fmt: skip
    for value, name in ((np.nan, "one"), (np.inf, "inf")):
        images[name] = s.copy()
        images[name][100, 100] = value
    for name, image in images.items():
        fits.writeto(path / f"{name}.fits", np.asarray(image, "f4"))
    fits.writeto(path / "allm.fits", np.ones(s.shape, "i2"))
    fits.writeto(path / "bit5.fits", (rng.random(s.shape) < 0.002).astype("i2") * 32)
    fits.writeto(path / "noisesmall.fits", np.ones((10, 10), "f4"))
    fits.writeto(path / "noiseneg.fits", -np.ones(s.shape, "f4"))
    for name, image, ra in (("wt", t, 10.0), ("ws", s, 50.0)):
        wcs = WCS(naxis=2)
        wcs.wcs.crpix, wcs.wcs.cdelt, wcs.wcs.crval = [128, 128], [-1e-4, 1e-4], [ra, 10]
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        fits.writeto(path / f"{name}.fits", image, wcs.to_header())
    (path / "text.fits").write_text("no FITS")
    return path


def run(program, words, out, capsys):
    with pytest.raises(SystemExit) as stop:
        program([str(word) for word in words])
    return stop.value.code, capsys.readouterr().err, out.exists()


REFUSED = {
    "tiny": ("tinyt", "tiny", []),
    "constant": ("t", "const", []),
    "both constant": ("const", "const", []),
    "no star": ("tnoise", "noise", []),
    "zero template": ("zero", "s", ["-tl", "-1"]),
    "half not a number": ("t", "half", []),
    "nothing but NaN": ("t", "nan", []),
    "all masked": ("t", "s", ["-imi", "allm.fits"]),
    "noise of another size": ("t", "s", ["-ini", "noisesmall.fits"]),
    "negative noise": ("t", "s", ["-ini", "noiseneg.fits"]),
    "sky subtracted, limit 0": (
        "tsub",
        "sub",
        ["-tl", "0", "-il", "0", "-nsx", "2", "-nsy", "2", "-ft", "1e6"],
    ),
    "cube": ("t", "cube", []),
    "no such file": ("t", "nope", []),
    "text": ("t", "text", []),
    "kernel larger than the image": ("t", "s", ["-r", "200"]),
    "negative order": ("t", "s", ["-ko", "-1"]),
    "no Gaussian": ("t", "s", ["-ng", "0"]),
    "no cells": ("t", "s", ["-nsx", "0"]),
    "no gain": ("t", "s", ["-ig", "0"]),
    "no number": ("t", "s", ["-r", "x"]),
}


@pytest.mark.parametrize("method", ["default", "classic"])
@pytest.mark.parametrize("case", REFUSED)
def test_hotpants_refuses(folder, tmp_path, capsys, case, method):
    template, science, more = REFUSED[case]
    more = [str(folder / word) if word.endswith(".fits") else word for word in more]
    out = tmp_path / "d.fits"
    words = [
        "-tmplim",
        folder / f"{template}.fits",
        "-inim",
        folder / f"{science}.fits",
        "-outim",
        out,
        *LIMITS,
        *more,
    ]
    code, text, made = run(hotpants, words + ["-classic"] * (method == "classic"), out, capsys)
    assert code in (2, 3), text
    assert not made
    assert "Traceback" not in text
    if case not in ("no such file", "text", "no number"):
        assert re.search(r"\d", text), "the error tells no number"


WORKS = {
    "one NaN": ("t", "one", []),
    "one infinity": ("t", "inf", []),
    "some NaN": ("t", "some", []),
    "any bit": ("t", "s", ["-imi", "bit5.fits"]),
    "sky subtracted": ("tsub", "sub", []),
    "another size": ("t", "small", []),
}


@pytest.mark.parametrize("method", ["default", "classic"])
@pytest.mark.parametrize("case", WORKS)
def test_hotpants_manages(folder, tmp_path, case, method):
    if case == "another size" and method == "default":
        pytest.skip("refused without -classic")
    template, science, more = WORKS[case]
    more = [str(folder / word) if word.endswith(".fits") else word for word in more]
    out, mask = tmp_path / "d.fits", tmp_path / "m.fits"
    words = [
        "-tmplim",
        folder / f"{template}.fits",
        "-inim",
        folder / f"{science}.fits",
        "-outim",
        out,
        "-omi",
        mask,
        *LIMITS,
    ]
    with pytest.raises(SystemExit) as stop:
        hotpants([str(w) for w in [*words, *more]] + ["-classic"] * (method == "classic"))
    assert stop.value.code == 0
    image, flags = fits.getdata(out), fits.getdata(mask)
    usable = flags & 0x8000 == 0
    assert image.shape == (256, 256)  # the larger of both, as the C program
    assert np.isfinite(image[usable]).all()
    if case in ("one NaN", "one infinity"):
        inner = usable[12:-12, 12:-12]
        assert 0 < (~inner).sum() <= 21 * 21  # what the kernel reaches
        assert not usable[100, 100]


def test_images_of_different_size_are_refused(folder, tmp_path, capsys):
    words = [
        "-tmplim",
        folder / "t.fits",
        "-inim",
        folder / "small.fits",
        "-outim",
        tmp_path / "d.fits",
        *LIMITS,
    ]
    code, text, made = run(hotpants, words, tmp_path / "d.fits", capsys)
    assert code == 3
    assert not made
    assert "(200, 180)" in text
    assert "(256, 256)" in text


DIFFERENCE = {
    "another size": ("t", "small"),
    "tiny": ("tinyt", "tiny"),
    "constant": ("t", "const"),
    "no star": ("tnoise", "noise"),
    "zero template": ("zero", "s"),
    "nothing but NaN": ("t", "nan"),
    "no overlap on the sky": ("wt", "ws"),
    "cube": ("t", "cube"),
    "no such file": ("t", "nope"),
    "text": ("t", "text"),
}


@pytest.mark.parametrize("case", DIFFERENCE)
def test_difference_refuses(folder, tmp_path, capsys, case):
    template, science = DIFFERENCE[case]
    out = tmp_path / "d.fits"
    words = [
        "difference",
        folder / f"{template}.fits",
        folder / f"{science}.fits",
        "-o",
        out,
        "--gain",
        2,
        "--no-report",
    ]
    code, text, made = run(starmill, words, out, capsys)
    assert code in (2, 3), text
    assert not made
    assert "Traceback" not in text


def test_python_errors_are_of_one_type(folder):
    t, s = (fits.getdata(folder / f"{name}.fits") for name in "ts")
    config = HotpantsConfig()
    for arguments in (
        (t, s[:100]), (t, s, np.zeros((5, 5))), (t, s, None, None, np.ones((5, 5))), (t, np.full_like(s, np.nan)),
        (t[None], s), (t, s, None, None, None, None, np.zeros((3, 3))),
    ):  # fmt: skip
        with pytest.raises(HotpantsError, match=r"\d"):
            Hotpants(*arguments, config=config)
