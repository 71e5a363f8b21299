"""The method of the C program: against its own result, and properties that need no other program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from tests.differencing.conftest import add_gaussians

from starmill.hotpants import Hotpants, HotpantsConfig, HotpantsError
from starmill.hotpants.command import run_hotpants
from starmill.hotpants.kernel_table import kernel_from_solution, program_basis
from starmill.hotpants.options import ConfigError

LIMITS = [
    "-tu",
    "50000",
    "-iu",
    "50000",
    "-tuk",
    "50000",
    "-iuk",
    "50000",
    "-tl",
    "5",
    "-il",
    "5",
    "-tg",
    "8",
    "-ig",
    "1.5",
    "-tr",
    "16",
    "-ir",
    "3",
]


def c_program():
    """Return the path of the C program; skip when it is not there."""
    path = os.environ.get("STARMILL_HOTPANTS") or next(
        (p for p in (shutil.which("hotpants.c"), shutil.which("hotpants-c")) if p), None
    )
    if path is None or not Path(path).exists():
        pytest.skip("the C program is not installed (name it in STARMILL_HOTPANTS)")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classic")
    rng = np.random.default_rng(11)
    x, y = rng.uniform(0, 512, (2, 150))
    # far from the threshold: the C program measures its sky on random pixels
    flux = rng.uniform(2, 20, 150) * 1e4
    for name, sky, sigma, ratio, gain in (("t", 200, 1.3, 1.0, 8.0), ("s", 300, 1.8, 0.8, 1.5)):
        image = np.full((512, 512), float(sky))
        add_gaussians(image, x, y, ratio * flux, sigma)
        image += rng.normal(size=image.shape) * np.sqrt(image / gain + 4)
        image = image.astype(">f4")
        fits.writeto(folder / f"{name}.fits", image)
        mask = np.zeros(image.shape, np.int16)
        mask[100:103, 200:204] = 0x80
        mask[300, 310 if name == "t" else 330] = 0x80
        fits.writeto(folder / f"{name}m.fits", mask)
    return folder


def words(folder, out, *more):
    return [
        "-inim", f"{folder}/s.fits", "-tmplim", f"{folder}/t.fits", "-tmi", f"{folder}/tm.fits", "-imi", f"{folder}/sm.fits",
        "-outim", f"{folder}/{out}.fits", "-oni", f"{folder}/{out}n.fits", "-omi", f"{folder}/{out}m.fits",
        "-oki", f"{folder}/{out}k.fits", "-v", "0", *LIMITS, *more,
    ]  # fmt: skip


def excess(folder, ours, theirs):
    """Return the difference of two difference images in units of the noise, in usable pixels, and the masks."""
    a, b = (fits.getdata(folder / f"{name}.fits").astype(float) for name in (ours, theirs))
    masks = [fits.getdata(folder / f"{name}m.fits") for name in (ours, theirs)]
    good = (masks[0] | masks[1]) & 0x8000 == 0
    noise = fits.getdata(folder / f"{theirs}n.fits")
    return np.abs(a - b)[good] / noise[good], masks


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("-c", "i", "-n", "i"),
        ("-nrx", "2", "-nry", "2", "-nss", "2", "-rss", "10", "-r", "6", "-ko", "1", "-sconv"),
        ("-kcs", "9", "-ng", "2", "4", "0.9", "2", "2.1", "-bgo", "2", "-convvar", "-gd", "20", "480", "10", "500"),
        ("-ssig", "2.5", "-okn", "-rss", "12", "-r", "8", "-ko", "1"),
    ],
)  # fmt: skip
def test_equal_to_the_c_program(files, more):
    program = c_program()
    subprocess.run([program, *words(files, "c", *more)], check=True, capture_output=True)
    assert run_hotpants([*words(files, "p", *more), "-classic"]) == 0
    z, masks = excess(files, "p", "c")
    assert np.sqrt(np.mean(z**2)) < 1e-3  # of the noise
    assert np.mean(masks[0] != masks[1]) < 1e-4
    solutions = [fits.getdata(files / f"{name}k.fits", 1) for name in "pc"]
    assert solutions[0].columns.names == solutions[1].columns.names
    for column in solutions[0].columns.names:
        assert len(solutions[0][column]) == len(solutions[1][column])
        assert solutions[0][column][1] == pytest.approx(solutions[1][column][1], abs=1e-5)
    ours, theirs = (fits.getheader(files / f"{name}.fits") for name in "pc")
    if "-nrx" in more:
        return  # the program counts what it reads around a region as well
    for name in ("SSSIG", "SSSCAT", "X2NRM", "NX2NRM", "DMEAN", "DSIGE", "DSIG", "DMEANO", "DSIGEO", "DSIGO"):
        wanted = float(theirs[f"{name}00"])
        assert float(ours[f"{name}00"]) == pytest.approx(wanted, rel=1e-3, abs=2e-4), name


@pytest.mark.parametrize("normalize", ["t", "u"])
def test_planes_of_the_c_program(files, normalize):
    program = c_program()
    made = {}
    for name, run in (("c", None), ("p", run_hotpants)):
        more = ["-c", "t", "-n", normalize, "-oci", f"{files}/{name}o.fits", "-ond", f"{files}/{name}s.fits"]
        line = [*words(files, name), *more]
        if run is None:
            subprocess.run([program, *line], check=True, capture_output=True)
        else:
            run([*line, "-classic"])
        made[name] = [fits.getdata(files / f"{name}{plane}.fits").astype(float) for plane in "osm"]
    good = (made["c"][2].astype(int) | made["p"][2].astype(int)) & 0x8000 == 0
    for ours, theirs in zip(made["p"][:2], made["c"][:2], strict=True):
        np.testing.assert_allclose(ours[good], theirs[good], atol=1e-2)
    inner = np.s_[12:-12, 12:-12]
    np.testing.assert_array_equal(
        made["p"][1][inner] == np.float32(1e-30), made["c"][1][inner] == np.float32(1e-30)
    )


@pytest.mark.parametrize("method", [(), ("-classic",)])
def test_c_program_reads_our_kernel_table(files, method):
    program = c_program()
    run_hotpants([*words(files, "w"), *method])
    table = ("-ki", f"{files}/wk.fits")
    reading = [w for w in words(files, "cr") if "crk.fits" not in w and w != "-oki"]
    subprocess.run([program, *reading, *table], check=True, capture_output=True)
    ours = [w for w in words(files, "pr") if "prk.fits" not in w and w != "-oki"]
    run_hotpants([*ours, *table, "-classic"])
    z, _ = excess(files, "pr", "cr")
    assert z.max() < 1e-3


def test_we_read_the_kernel_table_of_the_c_program(files):
    program = c_program()
    subprocess.run([program, *words(files, "c")], check=True, capture_output=True)
    ours = [w for w in words(files, "pr") if "prk.fits" not in w and w != "-oki"]
    run_hotpants([*ours, "-ki", f"{files}/ck.fits", "-classic"])
    z, _ = excess(files, "pr", "c")
    assert z.max() < 1e-3
    run_hotpants(
        [*ours, "-ki", f"{files}/ck.fits"]
    )  # smooth kernel: blocks and edges of the C program differ
    z, _ = excess(files, "pr", "c")
    assert np.percentile(z, 99) < 0.1


def test_table_is_read_back_to_the_same_difference(files):
    for method in ((), ("-classic",)):
        run_hotpants([*words(files, "a", "-nrx", "2"), *method])
        reading = [w for w in words(files, "b", "-nrx", "2") if "bk.fits" not in w and w != "-oki"]
        run_hotpants([*reading, "-ki", f"{files}/ak.fits", *method])
        z, masks = excess(files, "a", "b")
        assert z.max() < 2e-3
        np.testing.assert_array_equal(*masks)


def test_both_methods_agree_where_the_c_program_is_sound(files):
    run_hotpants([*words(files, "a"), "-classic"])
    run_hotpants(words(files, "b"))
    z, _ = excess(files, "a", "b")
    assert np.percentile(z, 90) < 0.3  # the fits differ by less than a third of the noise of a pixel
    headers = [fits.getheader(files / f"{name}.fits") for name in "ab"]
    assert headers[0]["KSUM00"] == pytest.approx(headers[1]["KSUM00"], abs=0.01)
    assert headers[0]["CONVOL00"] == headers[1]["CONVOL00"] == "TEMPLATE"


def test_regions_are_fitted_apart_and_cover_the_image(files):
    for method in ((), ("-classic",)):
        run_hotpants([*words(files, "r", "-nrx", "2", "-nry", "2"), *method])
        header = fits.getheader(files / "r.fits")
        assert header["NREGION"] == 4
        sums = [header[f"KSUM{i:02d}"] for i in range(4)]
        assert len(set(sums)) == 4
        assert header["REGION03"] == "[256:512,256:512]"
        unusable = fits.getdata(files / "rm.fits") & 0x8000 > 0
        assert unusable[10:-10, 10:-10].mean() < 0.01  # no border between regions
        assert fits.getdata(files / "rk.fits", 1).columns.names == [f"Region{i}" for i in range(4)]


def test_regions_of_a_file(files, tmp_path):
    (tmp_path / "regions").write_text("20:250,30:300\n")
    run_hotpants(words(files, "r", "-rf", f"{tmp_path}/regions"))
    usable = fits.getdata(files / "rm.fits") & 0x8000 == 0
    assert usable[31:299, 21:249].mean() > 0.95
    usable[30:301, 20:251] = False
    assert not usable.any()
    (tmp_path / "regions").write_text("600:700,30:300\n")
    with pytest.raises(HotpantsError, match="holds no pixel"):
        run_hotpants(words(files, "r", "-rf", f"{tmp_path}/regions"))


def test_steps_of_the_classic_session(files):
    images = [fits.getdata(files / f"{name}.fits").astype("f4") for name in "ts"]
    limits = {"tuthresh": 5e4, "iuthresh": 5e4, "tuktresh": 5e4, "iuktresh": 5e4, "tgain": 8, "igain": 1.5}
    session = Hotpants(*images, config=HotpantsConfig(classic=True, **limits))
    with pytest.raises(HotpantsError, match="find_stamps"):
        session.fit_and_select_direction()
    template_stamps, image_stamps = session.find_stamps()
    assert len(template_stamps) > 20
    assert len(image_stamps) > 10
    assert session.fit_and_select_direction() == "t"
    solution, used = session.iterative_fit_and_clip()
    assert len(solution) == 293
    assert len(used) <= len(template_stamps)
    session.convolve_and_difference()
    kernel = session.visualize_kernel((200, 300), 1.0)
    assert kernel.sum() == pytest.approx(session.kernel_sum, rel=1e-9)
    np.testing.assert_allclose(kernel, session.kernel_image(200, 300), atol=1e-12)


def test_table_and_kernel_are_the_same_thing():
    config = HotpantsConfig(ko=2, bgo=1)
    basis = program_basis(config)
    rng = np.random.default_rng(2)
    solution = rng.normal(size=298)
    from starmill.datamodel.geometry import Box

    kernel, background = kernel_from_solution(solution, config, Box(0, 0, 200, 100), basis)
    x, y = 30.0, 77.0
    u, v = (x - 100) / 100, (y - 50) / 50  # positions as the C program scales them
    terms = np.array([u**i * v**j for i in range(3) for j in range(3 - i)])
    expected = solution[1] * basis.images[0] + np.tensordot(
        solution[2 : 2 + 288].reshape(48, 6) @ terms, basis.images[1:], 1
    )
    np.testing.assert_allclose(kernel.kernel_at(x, y), expected, rtol=1e-9, atol=1e-9)
    assert background(x, y) == pytest.approx(solution[290] + solution[291] * v + solution[292] * u)


def test_flags_that_need_the_classic_method(files):
    with pytest.raises(ConfigError, match="classic"):
        run_hotpants(words(files, "x", "-kcs", "5"))
    with pytest.raises(ConfigError, match="exclude"):
        run_hotpants(words(files, "x", "-ssf", "a", "-cmp", "b"))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_many_images_and_resume(files, tmp_path, capsys, processes):
    for name in ("one", "three"):
        shutil.copy(files / "s.fits", tmp_path / f"{name}.fits")
    (tmp_path / "two.fits").write_text("no FITS")
    (tmp_path / "list").write_text(
        "\n".join([f"{tmp_path}/{n}.fits" for n in ("one", "two", "three")] + ["# word"])
    )
    line = [
        "-inim", f"@{tmp_path}/list", "-tmplim", f"{files}/t.fits", "-outim", f"{tmp_path}/{{name}}.d.fits", *LIMITS,
    ]  # fmt: skip
    assert run_hotpants([*line, "-j", processes]) == 1
    told = capsys.readouterr().err
    assert "two.fits: FAILED" in told
    assert "one.fits: " in told
    assert "kernel sum" in told
    single = [w.replace("{name}", "single") for w in line]
    single[1] = f"{tmp_path}/one.fits"
    assert run_hotpants(single) == 0
    made = [fits.getdata(tmp_path / f"{name}.d.fits").tobytes() for name in ("one", "three", "single")]
    assert made[0] == made[1] == made[2]
    (tmp_path / "three.d.fits").unlink()
    capsys.readouterr()
    assert run_hotpants([*line, "-resume", "-json", "-j", processes]) == 1
    outcomes = json.loads(capsys.readouterr().out)
    assert [outcome["state"] for outcome in outcomes] == ["kept", "failed", "done"]
    assert outcomes[1]["exit_code"] == 3
    assert "Traceback" in outcomes[1]["traceback"]
    with pytest.raises(ConfigError, match="-j"):
        run_hotpants([*line, "-j", "many"])
    with pytest.raises(ConfigError, match="name"):
        run_hotpants([w.replace("{name}", "x") for w in line])
