"""The HOTPANTS front door: session, options, command, files."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from tests.differencing.conftest import make_pair

from starmill.cli.hotpants import main
from starmill.cli.main import cli
from starmill.errors import ConfigError, InputError
from starmill.hotpants import Hotpants, HotpantsConfig, HotpantsError, Substamp, SubstampStatus
from starmill.hotpants.again import made_from, rerun_product
from starmill.hotpants.command import run_hotpants
from starmill.hotpants.options import parse_flags

FILES = "-inim a -tmplim b -outim c"
SETTINGS = {
    "rkernel": 7,
    "rss": 9,
    "ko": 1,
    "tgain": 8.0,
    "igain": 1.5,
    "trdnoise": 16.0,
    "irdnoise": 3.0,
    "fitthresh": 10.0,
}


@pytest.fixture(scope="module")
def images():
    pair = make_pair()
    return pair.template.image, pair.science.image, pair


@pytest.fixture(scope="module")
def finished(images):
    session = Hotpants(images[0], images[1], config=HotpantsConfig(**SETTINGS, normalize="i"))
    return session, session.run_pipeline()


def test_steps_and_their_results(images):
    session = Hotpants(images[0], images[1], config=HotpantsConfig(**SETTINGS))
    template_stamps, image_stamps = session.find_stamps()
    assert all(isinstance(s, Substamp) for s in template_stamps + image_stamps)
    assert {s.status for s in template_stamps} == {SubstampStatus.FOUND}
    assert session.fit_and_select_direction() == "t"
    solution, used = session.iterative_fit_and_clip()
    assert solution.ndim == 1
    assert all(s.status is SubstampStatus.USED_IN_FINAL_FIT for s in used)
    assert used[0].basis_vectors.shape == (49, 19, 19)
    noise = np.sqrt(used[0].noise_variance_cutout)
    assert np.std((used[0].image_cutout - used[0].global_model) / noise) < 2
    assert used[0].local_model.shape == (19, 19)
    difference, convolved, noise, mask = session.convolve_and_difference()
    assert difference.shape == convolved.shape == noise.shape == mask.shape
    details = session.get_substamp_details()
    assert len(details["final_fit_locations"]) == len(used)


def test_result_is_calibrated(finished, images):
    session, products = finished
    assert set(products) >= {
        "diff_image",
        "convolved_image",
        "noise_image",
        "output_mask",
        "stats",
        "conv_direction",
        "kernel_solution",
    }
    good = products["output_mask"] == 0
    assert np.std(products["diff_image"][good] / products["noise_image"][good]) == pytest.approx(1, abs=0.15)
    assert session.kernel_sum == pytest.approx(images[2].ratio, abs=0.02)
    unusable = (products["output_mask"] & 0x8000) > 0
    assert unusable.any()
    assert (products["diff_image"][unusable] == np.float32(1e-30)).all()


def test_normalisation_and_sign(images):
    """Science minus template is positive in both directions, on the scale that was asked for."""
    pair = images[2]
    fluxes = {}
    for forced, scale in (("t", "i"), ("t", "t"), ("i", "i"), ("i", "t")):
        config = HotpantsConfig(**SETTINGS, force_convolve=forced, normalize=scale)
        difference = Hotpants(images[0], images[1], config=config).run_pipeline()["diff_image"]
        sums = [
            difference[round(y) - 9 : round(y) + 10, round(x) - 9 : round(x) + 10].sum()
            for x, y in zip(pair.new_x, pair.new_y, strict=True)
        ]
        fluxes[forced, scale] = np.median(sums) / 3000
    assert fluxes["t", "i"] == pytest.approx(1, abs=0.15)
    assert fluxes["t", "t"] == pytest.approx(fluxes["t", "i"] / 0.8, rel=0.03)
    assert fluxes["i", "t"] == pytest.approx(1 / 0.8, abs=0.25)
    assert fluxes["i", "i"] == pytest.approx(1, abs=0.2)


def test_steps_out_of_order_are_errors(images):
    session = Hotpants(images[0], images[1], config=HotpantsConfig(**SETTINGS))
    for step in (
        "fit_and_select_direction",
        "iterative_fit_and_clip",
        "convolve_and_difference",
        "get_final_outputs",
    ):
        with pytest.raises(HotpantsError, match="has not been run"):
            getattr(session, step)()
    with pytest.raises(HotpantsError):
        session.visualize_kernel((10, 10))


def test_steps_can_be_repeated(images):
    session = Hotpants(images[0], images[1], config=HotpantsConfig(**SETTINGS))
    first = session.run_pipeline()["diff_image"]
    np.testing.assert_array_equal(session.run_pipeline()["diff_image"], first)


def test_kernel_picture(finished):
    session, _ = finished
    image = session.visualize_kernel((160, 160))
    assert image.shape == (31, 31)
    assert image.sum() == pytest.approx(session.kernel_sum, rel=1e-6)
    assert not np.allclose(session.visualize_kernel((10, 10)), session.visualize_kernel((300, 300)))
    for wrong in ([10, 10], (1.5, 2), (1, 2, 3)):
        with pytest.raises(TypeError):
            session.visualize_kernel(wrong)
    with pytest.raises(ValueError, match="positive"):
        session.visualize_kernel((10, 10), size_factor=0)


def test_star_catalog_is_one_based(images):
    pair = images[2]
    bright = np.argsort(-pair.flux)[:40]
    catalog = np.stack([pair.x[bright] + 1, pair.y[bright] + 1], axis=1)
    session = Hotpants(images[0], images[1], star_catalog=catalog, config=HotpantsConfig(**SETTINGS))
    stamps, _ = session.find_stamps()
    assert np.hypot(stamps[0].x - pair.x[bright], stamps[0].y - pair.y[bright]).min() < 1


@pytest.mark.parametrize("value", [1, 128])
def test_any_mask_bit_is_bad(images, value):
    mask = np.zeros(images[0].shape, int)
    mask[100:110, 100:110] = value
    products = Hotpants(images[0], images[1], i_mask=mask, config=HotpantsConfig(**SETTINGS)).run_pipeline()
    assert ((products["output_mask"][100:110, 100:110] & 0x8020) == 0x8020).all()


def test_bad_inputs_are_hotpants_errors(images):
    template, science, _ = images
    nan, blank = np.full_like(template, np.nan), np.full_like(template, 7.0)
    cases = [
        lambda: Hotpants(template, science[:100]),
        lambda: Hotpants(template, science, t_mask=np.zeros((3, 3))),
        lambda: Hotpants(template, science, i_error=np.zeros((3, 3))),
        lambda: Hotpants(template, nan),
        lambda: Hotpants(template, science, i_mask=np.ones(science.shape, int)),
        lambda: Hotpants(template, science, config=HotpantsConfig(iuthresh=0.0)),
        lambda: Hotpants(np.zeros(5), np.zeros(5)),
        lambda: Hotpants(template, science, star_catalog=np.zeros((4, 3))),
        lambda: Hotpants(template, science, star_catalog=np.zeros((4, 2))).run_pipeline(),
        lambda: Hotpants(blank, blank).run_pipeline(),
        lambda: Hotpants(template[:48, :48], science[:48, :48]).run_pipeline(),
    ]
    for case in cases:
        with pytest.raises(HotpantsError):
            case()


def test_one_nan_costs_what_the_kernel_reaches(images):
    science, template = images[1].copy(), images[0].copy()
    template[200, 200] = np.nan
    products = Hotpants(
        template, science, config=HotpantsConfig(**SETTINGS, force_convolve="t")
    ).run_pipeline()
    touched = (products["output_mask"] & 0x40) > 0
    touched[:8], touched[-8:], touched[:, :8], touched[:, -8:] = False, False, False, False
    assert 1 < touched.sum() <= 15 * 15
    assert np.isfinite(products["diff_image"]).all()


def test_settings_are_checked():
    for wrong in ({"normalize": "x"}, {"deg_fixe": [1]}, {"rkernel": 0}, {"tgain": 0.0}):
        with pytest.raises(ConfigError):
            HotpantsConfig(**wrong)


def test_flags():
    config, extra = parse_flags(f"{FILES} -TU 1000 -ng 1 4 1.5 -gd 1 2 3 4 -hki".split(" "))
    assert config.tuthresh == 1000
    assert (config.deg_fixe, config.sigma_gauss) == ([4], [1.5])
    assert extra["gd"] == [1, 2, 3, 4]
    assert config.iuthresh == 25000
    for words in (
        "-inim a -tmplim b",
        "-inim a -tmplim b -outim c -bogus",
        "-inim a -tmplim b -outim c -r x",
        "-inim",
    ):
        with pytest.raises(ConfigError):
            parse_flags(words.split())


def write_inputs(folder, images):
    for name, image in zip(("t", "s"), images[:2], strict=True):
        header = fits.Header({"OBJECT": "test", "CRPIX1": 50.0})
        fits.writeto(folder / f"{name}.fits", image, header)
    return [
        "-inim", str(folder / "s.fits"), "-tmplim", str(folder / "t.fits"), "-outim", str(folder / "d.fits"), "-tg", "8",
        "-ig", "1.5", "-r", "7", "-rss", "9", "-ko", "1", "-ft", "10", "-tu", "1e6", "-iu", "1e6", "-v", "0",
    ]  # fmt: skip


def test_command_writes_every_plane(tmp_path, images):
    words = write_inputs(tmp_path, images)
    outputs = {flag: tmp_path / f"{flag}.fits" for flag in ("oni", "omi", "ond", "oci", "oki")}
    for flag, path in outputs.items():
        words += [f"-{flag}", str(path)]
    assert run_hotpants([*words, "-hki", "-allm", "-savexy", str(tmp_path / "xy.reg"), "-c", "t"]) == 0
    with fits.open(tmp_path / "d.fits") as hdus:
        header = hdus[0].header
        assert header["CONVOL00"] == "TEMPLATE"
        assert header["OBJECT"] == "test"
        assert float(header["KSUM00"]) == pytest.approx(0.8, abs=0.02)
        assert len(hdus) == 5
        assert hdus[-1].header["CKORDER"] == 1
        assert len(hdus[-1].data) == 49 * 3 + 3 + 1
        difference = hdus[0].data.copy()
    assert all(path.exists() for path in outputs.values())
    assert fits.getdata(outputs["omi"]).max() >= 0x8000
    assert (tmp_path / "xy.reg").read_text().count("box(") > 3
    again = [w.replace("d.fits", "again.fits") for w in words[: words.index("-oni")]]
    run_hotpants([*again, "-ki", str(tmp_path / "d.fits")])
    np.testing.assert_allclose(fits.getdata(tmp_path / "again.fits"), difference, atol=0.05)  # noise is 15


def test_products_are_made_again(tmp_path, images):
    folder, moved = tmp_path / "here", tmp_path / "there"
    folder.mkdir()
    words = write_inputs(folder, images)
    words += ["-oni", str(folder / "n.fits"), "-savexy", str(folder / "xy.reg"), "-hki", "-c", "t"]
    assert run_hotpants(words) == 0
    assert [item["path"] for item in made_from(folder / "n.fits")["inputs"]] == [words[1], words[3]]
    assert made_from(folder / "s.fits") is None
    folder.rename(moved)
    for name in ("d.fits", "n.fits"):
        report = rerun_product(moved / name, keep=moved / "new")
        assert report.identical == dict.fromkeys(
            ["d.fits", "n.fits", "xy.reg", "xy.reg.all", "xy.reg.skipped"], True
        )
    with fits.open(moved / "s.fits", mode="update") as hdus:
        hdus[0].data[3, 3] += 1
    with pytest.raises(InputError, match=r"s\.fits \(-inim\) was not found.*of this name but other content"):
        rerun_product(moved / "d.fits")


def test_command_with_sub_section_and_integers(tmp_path, images):
    words = write_inputs(tmp_path, images)
    assert run_hotpants([*words, "-gd", "20", "299", "10", "289", "-sht", "-obs", "0.5", "-c", "t"]) == 0
    with fits.open(tmp_path / "d.fits") as hdus:
        assert hdus[0].data.shape == (320, 320)
        assert hdus[0].header["CRPIX1"] == 50.0  # the output has the pixels of the input
        assert (hdus[0].data[:10] < 1e-9).all()
    with fits.open(tmp_path / "d.fits", do_not_scale_image_data=True) as hdus:
        assert hdus[0].header["BITPIX"] == 16
        assert hdus[0].header["BSCALE"] == 0.5
    with pytest.raises(HotpantsError):
        run_hotpants([*words, "-nc"])
    with pytest.raises(HotpantsError):
        run_hotpants([*words, "-gd", "500", "600", "500", "600"])


def test_failures_have_an_exit_code(tmp_path, images, capsys):
    words = write_inputs(tmp_path, images)
    for more, code in ((["-iu", "0"], 3), (["-bogus"], 2), (["-inim", str(tmp_path / "none.fits")], 3)):
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert stop.value.code == code
    assert "error" in capsys.readouterr().err.lower()


def test_help_lists_every_flag():
    result = CliRunner().invoke(cli, ["hotpants", "-help"])
    assert result.exit_code == 0


def test_less_memory_gives_the_same_pixels(finished, images):
    _, products = finished
    template, science = (image.astype(np.float32) for image in images[:2])
    settings = HotpantsConfig(**SETTINGS, normalize="i", keep_convolved=False, overwrite_inputs=True)
    session = Hotpants(template, science, config=settings)
    lean = session.run_pipeline()
    assert lean["convolved_image"] is None
    assert lean["diff_image"] is science  # written over the image that was not convolved
    for name in ("diff_image", "noise_image", "output_mask"):
        np.testing.assert_array_equal(lean[name], products[name])
    with pytest.raises(HotpantsError, match="overwrite_inputs"):
        session.find_stamps()
    with pytest.raises(ConfigError, match="keep_convolved"):
        HotpantsConfig(keep_convolved=False, convolved_image_file="a.fits")


def test_every_bit_of_the_output_mask_is_kept(tmp_path, images):
    template, science = (image.astype(np.float32).copy() for image in images[:2])
    science[40:44, 40:44] = 1e6  # saturated
    science[80:84, 80:84] = np.nan
    science[60, 60] = -1e6
    mask = np.zeros(science.shape, np.int32)
    mask[100:103, 100:103] = 1 << 20  # beyond sixteen bits
    path = tmp_path / "mask.fits"
    settings = HotpantsConfig(**SETTINGS, iuthresh=1e5, ilthresh=-1e5, mask_image_file=str(path))
    bits = Hotpants(template, science, i_mask=mask, config=settings).run_pipeline()["output_mask"]
    assert bits.dtype == np.uint16
    for place, bit in (((42, 42), 0x02), ((82, 82), 0x08), ((60, 60), 0x04), ((101, 101), 0x20)):
        assert bits[place] & (bit | 0x8080) == bit | 0x8080, hex(int(bits[place]))
    assert (bits & 0x40).any()
    np.testing.assert_array_equal(fits.getdata(path), bits)


def test_integers_out_of_range_are_flagged(tmp_path, images):
    words = write_inputs(tmp_path, images)
    mask = tmp_path / "m.fits"
    run_hotpants([*words, "-omi", str(mask), "-sht", "-obs", "0.002", "-c", "t", "-mous", "-1"])
    image, bits = fits.getdata(tmp_path / "d.fits"), fits.getdata(mask)
    at_limit = (image >= 32767 * 0.002 - 1e-4) | (image <= -32768 * 0.002 + 1e-4)
    assert 0 < at_limit.sum() < image.size
    assert (bits[at_limit] & 0x8000).all()


def test_unusable_pixels_keep_their_values_when_asked(tmp_path, images):
    words = write_inputs(tmp_path, images)
    bad = np.zeros(images[0].shape, np.int16)
    bad[60:63, 60:63] = 128
    fits.writeto(tmp_path / "bad.fits", bad)
    for more, filled in (([], True), (["-mous", "-1"], False)):
        run_hotpants([*words, "-imi", str(tmp_path / "bad.fits"), "-fi", "-77", *more])
        assert (fits.getdata(tmp_path / "d.fits")[60:63, 60:63] == -77).all() == filled


def test_variance_that_is_none_is_unusable(images):
    settings = HotpantsConfig(**SETTINGS, conv_var=True)
    session = Hotpants(*images[:2], config=settings)
    session.run_pipeline()
    noise, mask = session.results["noise_image"], session.results["output_mask"]
    assert (noise[mask < 0x8000] > 0).all()


@pytest.mark.parametrize("classic", [False, True])
def test_convolved_image_is_on_the_scale_of_the_difference(images, classic):
    planes = {}
    for normalize in "tu":
        settings = HotpantsConfig(**SETTINGS, force_convolve="t", normalize=normalize, classic=classic)
        session = Hotpants(*images[:2], config=settings)
        products = session.run_pipeline()
        planes[normalize] = products["convolved_image"][30:-30, 30:-30]
    np.testing.assert_allclose(planes["t"] * session.kernel_sum, planes["u"], rtol=1e-4, atol=1e-3)


def test_cards_of_the_inputs_and_of_the_noise(tmp_path, images):
    words = write_inputs(tmp_path, images)
    with fits.open(tmp_path / "s.fits", mode="update") as hdus:
        hdus[0].header["ZPOINT"], hdus[0].header["GAIN"] = 25.5, 1.5
    outputs = [
        "-oni",
        str(tmp_path / "n.fits"),
        "-omi",
        str(tmp_path / "m.fits"),
        "-oki",
        str(tmp_path / "k.fits"),
    ]
    run_hotpants([*words, *outputs, "-okn", "-n", "i", "-c", "i"])
    header, noise = (fits.getheader(tmp_path / f"{name}.fits") for name in "dn")
    assert header["ZPOINT"] == 25.5
    assert header["KERFILE"] == str(tmp_path / "k.fits")
    assert (noise["GAIN"], noise["RDNOISE"], noise["MASKVAL"]) == (1.0, 0.0, 0.0)
    assert noise["NSCALO00"] == header["NSCALO00"] > 0
    assert fits.getheader(tmp_path / "m.fits")["OBJECT"] == "Output Mask Image"
    run_hotpants([*words, "-ki", str(tmp_path / "k.fits")])
    assert fits.getheader(tmp_path / "d.fits")["PHOTNORM"] == "i"  # of the table, as in the C program


def test_inputs_that_are_no_images_are_hotpants_errors(tmp_path, images):
    (tmp_path / "text.fits").write_text("no FITS")
    template, science = images[:2]
    for wrong in (str(tmp_path / "nope.fits"), str(tmp_path / "text.fits"), np.array([["a", "b"]]), None):
        with pytest.raises(HotpantsError):
            Hotpants(wrong, science)
    for catalog in ([[np.nan, 3.0]], [["x", "y"]]):
        with pytest.raises(HotpantsError):
            Hotpants(template, science, star_catalog=catalog)
    same = [np.ones((11, 11)), np.ones((11, 11))]
    for basis in (same, [np.ones((11, 11)), np.ones((9, 9))]):
        with pytest.raises(HotpantsError):
            Hotpants(template, science, config=HotpantsConfig(use_pca=True, pca_images=basis)).find_stamps()


def test_no_kernel_outside_the_image(finished):
    session = finished if isinstance(finished, Hotpants) else finished[0]
    for place in ((-5, 3), (9999, 3)):
        with pytest.raises(HotpantsError, match="outside"):
            session.visualize_kernel(place)
    with pytest.raises(ValueError, match="size_factor"):
        session.visualize_kernel((30, 30), float("inf"))


@pytest.mark.parametrize("classic", [False, True])
def test_substamps_carry_their_models(images, classic):
    session = Hotpants(*images[:2], config=HotpantsConfig(**SETTINGS, classic=classic))
    session.find_stamps()
    direction = session.fit_and_select_direction()
    _, used = session.iterative_fit_and_clip()
    stamp = used[0]
    assert stamp.basis_vectors.shape == (49, *stamp.image_cutout.shape)
    other = stamp.image_cutout if direction == "t" else stamp.template_cutout
    for model in (stamp.local_model, stamp.global_model):
        assert np.mean((other - model) ** 2 / stamp.noise_variance_cutout) < 1.5


@pytest.mark.parametrize("classic", [False, True])
def test_one_stamp_does_not_tell_how_a_kernel_varies(images, classic):
    settings = HotpantsConfig(**(SETTINGS | {"ko": 2}), classic=classic)
    session = Hotpants(*images[:2], config=settings)
    lists = session.find_stamps()
    place = next(s for s in [*lists[0], *lists[1]])
    alone = Hotpants(*images[:2], star_catalog=[[place.x + 1, place.y + 1]], config=settings)
    with pytest.raises(HotpantsError, match=r"too few|no substamps"):
        alone.run_pipeline()
