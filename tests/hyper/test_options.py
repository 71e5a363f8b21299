"""Configuration files of hyper-py: every key, wrong values, hostile files, paths."""

import pytest

from starmill.errors import ConfigError, InputError
from starmill.hyper.compat import published_config
from starmill.hyper.options import KEYS, accurate_config, find_configuration, options_from, template_text
from starmill.hyper.surveys import load_surveys, survey_of


def write(folder, text, name="config.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_template_is_complete_and_valid(tmp_path):
    options = options_from(write(tmp_path, template_text()))
    assert options["detection.sigma_thres"] == 5.0
    assert options["fit_options.xtol"] == 1e-8
    assert accurate_config(options).detection.threshold == 5.0


def test_unchanged_published_file(tmp_path):
    """Keys and spellings of the published template, with its numbers written as words."""
    text = """
paths: {input: {dir_maps: Maps}, output: {dir_root: out, dir_table_out: params, dir_region_out: regions, dir_log_out: logs}}
files: {file_map_name: 'maps_list.txt', file_table_base: "params", file_region_base: "region_files", file_log_name: "h.log"}
control: {parallel_maps: true, n_cores: 2, detection_only: false, datacube: false, dir_datacube_slices: maps}
units: {convert_mJy: true}
survey: {survey_code: 15}
detection: {sigma_thres: 4.0, use_manual_rms: false, rms_value: 1.e-6, kernel_size_pix: 0, roundlim: [-4.0, 4.0],
  sharplim: [-2.0, 2.0], use_fixed_source_table: false, fixed_peaks: false, xcen_fix: [0.0], ycen_fix: [-0.0]}
photometry: {aper_inf: 1.0, aper_sup: 2.0, fwhm_radius_ratio: 1.0, fixed_radius: false, fwhm_1: [0.0], fwhm_2: [0.0]}
fit_options: {fit_method: "least_squares", loss: linear, f_scale: 0.1, xtol: 1e-8, ftol: 1e-8, gtol: 1e-8, weights: "snr",
  min_method: "nmse", lambda_l2: 1e-4, vary: false, bg_fitters: ['least_squares'], huber_epsilons: [1.1, 1.35]}
background: {fit_gauss_and_bg_separately: true, pol_orders_separate: [0, 1, 2], fix_min_box: 3, fix_max_box: 5}
"""
    options = options_from(write(tmp_path, text))
    assert options["fit_options.lambda_l2"] == 1e-4
    config = published_config(options, None)
    assert (config.weights, config.score, config.separate_orders) == ("snr", "nmse", (0, 1, 2))
    assert options.root == tmp_path / "out"


def test_unknown_keys_are_named_with_the_nearest(tmp_path, caplog):
    options_from(write(tmp_path, "detection: {sigma_tres: 4}\nextra: 1\n"))
    assert "sigma_thres" in caplog.text
    assert "extra" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("detection: {sigma_thres: high}", "sigma_thres must be a number"),
        ("detection: 5", "is a section"),
        ("detection: {roundlim: [1]}", "two numbers"),
        ("control: {n_cores: 1.5}", "whole number"),
        ("control: {parallel_maps: maybe}", "true or false"),
        ("control: {mode: acurate}", "did you mean accurate"),
        ("fit_options: {bg_fitters: [least_squares, ridge]}", "bg_fitters must be one of"),
        ("files: {table_formats: [fit]}", "did you mean fits"),
        ("photometry: {aper_sup: 0.5}", "smaller than"),
        ("detection: {sigma_thres: -1}", "must be positive"),
        ("a: [1, 2", "not a YAML file"),
        ("a: 1\na: 2\n", "given twice"),
        ("- 1\n- 2\n", "names and values"),
        ("a: !!python/object/apply:os.system ['true']", "not a YAML file"),
        ("a: " + "[" * 60 + "]" * 60, "deeper"),
        ("a: " + "b" * 1_000_001, "too large|limit"),
        ("a: [" + "1, " * 100_001 + "1]", "more than"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        options_from(write(tmp_path, text))


def test_an_empty_section_means_its_defaults(tmp_path):
    options = options_from(write(tmp_path, "visualization:\ndetection: {sigma_thres: 7}\n"))
    assert options["detection.sigma_thres"] == 7


def test_overrides_by_short_and_long_names(tmp_path):
    options = options_from({}, {"sigma_thres": 6, "control__n_cores": 3, "photometry": {"aper_inf": 0.9}})
    assert (options["detection.sigma_thres"], options["control.n_cores"], options["photometry.aper_inf"]) == (
        6,
        3,
        0.9,
    )
    with pytest.raises(ConfigError, match="did you mean"):
        options_from({}, {"sigma_tres": 6})


def test_missing_configuration_is_an_error_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    with pytest.raises(ConfigError, match="write-config"):
        find_configuration()
    with pytest.raises(InputError, match="does not exist"):
        options_from("nothing.yaml")
    assert not list(tmp_path.iterdir())
    (tmp_path / "xdg" / "hyper-py").mkdir(parents=True)
    wanted = write(tmp_path / "xdg" / "hyper-py", "units: {convert_mJy: true}", "hyper_config.yaml")
    assert find_configuration() == wanted
    assert (
        find_configuration() == write(tmp_path, "", "hyper_config.yaml")
        or find_configuration().parent == tmp_path
    )


def test_maps_from_a_list_a_name_and_several_names(tmp_path):
    (tmp_path / "Maps").mkdir()
    for name in ("a.fits", "b.fits"):
        (tmp_path / "Maps" / name).touch()
    (tmp_path / "Maps" / "maps_list.txt").write_text("a.fits\n# comment\n\nb.fits  # second\n")
    options = options_from(write(tmp_path, "paths: {input: {dir_maps: Maps}}"))
    assert [p.name for p in options.maps()] == ["a.fits", "b.fits"]
    for named, count in (("a.fits", 1), (["a.fits", "b.fits"], 2)):
        options = options_from(
            write(tmp_path, f"paths: {{input: {{dir_maps: Maps}}}}\nfiles: {{file_map_name: {named}}}")
        )
        assert len(options.maps()) == count
        assert all(p.exists() for p in options.maps())
    with pytest.raises(InputError, match="list of maps"):
        options_from(write(tmp_path, "files: {file_map_name: no.txt}")).maps()


def test_surveys_can_be_added(tmp_path):
    table = write(tmp_path, "21: {name: mine, beam: 9.0, wavelength: 1100}\n", "surveys.yaml")
    surveys = load_surveys(table)
    assert survey_of(21, surveys).beam.major == 9.0
    assert survey_of(15, surveys) is None
    assert survey_of(4, surveys).beam.solid_angle * (206264.806**2) == pytest.approx(423, rel=1e-3)
    with pytest.raises(ConfigError, match="not known"):
        survey_of(99, surveys)
    with pytest.raises(ConfigError, match="beam"):
        load_surveys(write(tmp_path, "22: {name: broken}\n", "bad.yaml"))


def test_every_key_has_a_default_of_its_kind():
    options = options_from({})
    assert set(options.values) == set(KEYS)
