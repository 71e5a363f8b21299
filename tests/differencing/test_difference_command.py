"""The verb ``difference``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from click import UsageError
from click.testing import CliRunner

from starmill.cli.difference import command
from starmill.errors import InputError
from starmill.execution.rerun import rerun_file
from starmill.io.exposure_file import read_exposure, write_exposure
from starmill.io.tables import read_catalog
from starmill.tasks.difference_frame import DifferenceFrameConfig, DifferenceFrameTask

QUICK = ["--set", "difference.kernel_order=0", "--set", "difference.sum_order=0"]


def run(*words):
    result = CliRunner().invoke(command, [*map(str, words)], catch_exceptions=False, standalone_mode=False)
    return result.return_value, result.output


def test_all_products_are_written(tmp_path, pair):
    write_exposure(pair.template, tmp_path / "t.fits")
    write_exposure(pair.science, tmp_path / "s.fits")
    code, text = run(tmp_path / "t.fits", tmp_path / "s.fits", "-o", tmp_path / "d.fits", "--json", *QUICK)
    assert code == 0
    facts = json.loads(text)
    assert facts["verdict"] == "good"
    assert facts["kernel_sum"] == pytest.approx(pair.ratio, abs=0.01)
    for suffix in ("fits", "score.fits", "kernel.fits", "catalog.fits", "reg", "png", "html", "template.png"):
        assert (tmp_path / f"d.{suffix}").stat().st_size > 100
    difference = read_exposure(tmp_path / "d.fits")
    assert difference.psf is not None
    catalog = read_catalog(tmp_path / "d.catalog.fits")
    assert len(catalog) == facts["sources"] >= 6
    assert "<img" in (tmp_path / "d.html").read_text()
    for name in ("d.fits", "d.kernel.fits"):
        report = rerun_file(tmp_path / name)
        made = ("d.catalog.fits", "d.fits", "d.kernel.fits", "d.reg", "d.score.fits")
        assert report.identical == dict.fromkeys(made, True)


def test_a_failed_verdict_is_said_loudly(tmp_path, pair):
    write_exposure(pair.template, tmp_path / "t.fits")
    waves = pair.science.copy()
    y, x = np.indices(waves.shape)
    waves.image[...] += 8 * np.sqrt(np.median(waves.variance)) * np.sin(x / 6) * np.sin(y / 6)
    write_exposure(waves, tmp_path / "s.fits")
    files = (tmp_path / "t.fits", tmp_path / "s.fits", "-o", tmp_path / "d.fits", "--no-report", "-q", *QUICK)
    code, text = run(*files)
    assert code == 0
    assert text.startswith("warning: s: failed: ")
    assert "--strict" in text
    assert run(*files, "--strict")[0] == 5


def test_plain_images_with_a_gain(tmp_path, pair):
    for name, exposure in (("t", pair.template), ("s", pair.science)):
        fits.writeto(tmp_path / f"{name}.fits", exposure.image)
    files = (tmp_path / "t.fits", tmp_path / "s.fits", "-o", tmp_path / "d.fits")
    code, text = run(*files, "--gain", 3, "--align", "stars", "--no-report", *QUICK)
    assert code == 0
    assert "kernel_sum" in text
    assert not (tmp_path / "d.png").exists()


def test_alignment_needs_a_wcs(tmp_path, pair):
    write_exposure(pair.science, tmp_path / "s.fits")
    code, text = run(tmp_path / "s.fits", tmp_path / "s.fits", "-o", tmp_path / "d.fits", "--align", "wcs")
    assert code == 3
    assert "need a WCS" in text


def test_configuration_is_shown(tmp_path):
    code, text = run("a", "b", "-o", tmp_path / "d.fits", "--config-dump", "--set", "difference.clip=3")
    assert code == 0
    assert json.loads(text)["difference"]["clip"] == 3
    assert not np.any([p.suffix == ".fits" for p in tmp_path.iterdir()])


def test_several_images_are_those_of_one_by_one(tmp_path, pair):
    write_exposure(pair.template, tmp_path / "t.fits")
    write_exposure(pair.science, tmp_path / "a.fits")
    second = pair.science.copy()
    second.image[::2, ::2] += 1
    write_exposure(second, tmp_path / "b.fits")
    (tmp_path / "c.fits").write_text("no FITS")
    frames = [tmp_path / f"{name}.fits" for name in "abc"]
    out = tmp_path / "out"
    code, text = run(tmp_path / "t.fits", *frames, "-o", out, "--no-report", *QUICK)
    assert code == 1  # one of three failed
    assert "c: FAILED" in text
    for name in "ab":
        alone = tmp_path / f"alone_{name}.fits"
        assert run(tmp_path / "t.fits", tmp_path / f"{name}.fits", "-o", alone, "--no-report", *QUICK)[0] == 0
        many, one = (read_exposure(path) for path in (out / f"{name}.difference.fits", alone))
        np.testing.assert_array_equal(many.image, one.image)
        np.testing.assert_array_equal(many.variance, one.variance)
    code, text = run(tmp_path / "t.fits", *frames[:2], "-o", out, "--no-report", "--resume", *QUICK)
    assert code == 0
    assert text.count("kept from before") == 2


def test_a_folder_is_needed_for_several_images(tmp_path):
    with pytest.raises(UsageError, match="folder"):
        run("t.fits", "a.fits", "b.fits", "-o", tmp_path / "d.fits")


def test_the_verdict_of_what_is_kept_is_that_of_its_file(tmp_path, pair):
    write_exposure(pair.template, tmp_path / "t.fits")
    waves = pair.science.copy()
    y, x = np.indices(waves.shape)
    waves.image[...] += 8 * np.sqrt(np.median(waves.variance)) * np.sin(x / 6) * np.sin(y / 6)
    write_exposure(waves, tmp_path / "s.fits")
    out = tmp_path / "d.fits"
    words = (
        tmp_path / "t.fits",
        tmp_path / "s.fits",
        "-o",
        out,
        "--no-report",
        "--resume",
        "--strict",
        *QUICK,
    )
    assert run(*words)[0] == 5
    made = out.stat().st_mtime_ns
    code, text = run(*words)
    assert code == 5
    assert "warning: s: failed: " in text
    assert out.stat().st_mtime_ns == made
    assert fits.getheader(out)["VERDICT"].startswith("failed: ")


def test_planes_without_use_are_named(tmp_path, pair):
    write_exposure(pair.template, tmp_path / "t.fits")
    words = (tmp_path / "t.fits", tmp_path / "s.fits", "-o", tmp_path / "d.fits", "--no-report", *QUICK)
    negative, masked = pair.science.copy(), pair.science.copy()
    negative.variance[...] *= -1
    write_exposure(negative, tmp_path / "s.fits")
    with pytest.raises(
        InputError, match=r"variance of the science image is nowhere above 0: 100% .* negative"
    ):
        DifferenceFrameTask().run(template=pair.template, science=read_exposure(tmp_path / "s.fits"))
    assert "error: the variance of the science image" in run(*words)[1]
    masked.mask.set("BAD", True)
    write_exposure(masked, tmp_path / "s.fits")
    code, text = run(*words)
    assert code == 3
    assert "pixels of the science image are masked or hold no data: NO_DATA 0%, BAD 100%" in text


def test_scattered_nan_of_the_image_that_is_convolved(pair):
    template = pair.template.copy()
    lost = np.random.default_rng(9).random(template.shape) < 0.01
    template.image[lost] = np.nan
    config = DifferenceFrameConfig().override(
        {"difference.direction": "template", "difference.kernel_order": 0}
    )
    result = DifferenceFrameTask(config).run(template=template, science=pair.science)
    assert result.kernel_sum == pytest.approx(pair.ratio, rel=0.02)
    assert result.difference.mask.any("NO_DATA")[lost].all()
