"""The configuration of hyper-py, key by key: what is allowed, what is missing, and what it means for starmill."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from starmill.errors import ConfigError, InputError, nearest_name
from starmill.io.config import load_yaml, merge
from starmill.io.sky_tables import TABLE_FORMATS
from starmill.tasks.compact_sources_config import CompactSourcesConfig

__all__ = [
    "CONFIG_NAME", "HyperOptions", "accurate_config", "find_configuration", "options_from", "template_text",
]  # fmt: skip

CONFIG_NAME = "hyper_config.yaml"
_log = logging.getLogger(__name__)

# kind and default of every key; kinds: s string, f number, i whole number, b true/false, L numbers, S words,
# p two numbers, f? number or null, s? word or null, m names of maps
KEYS: dict[str, tuple[str, Any]] = {
    "paths.input.dir_maps": ("s", "Maps"),
    "paths.output.dir_root": ("s", "output"),
    "paths.output.dir_table_out": ("s", "params"),
    "paths.output.dir_region_out": ("s", "regions"),
    "paths.output.dir_log_out": ("s", "logs"),
    "files.file_map_name": ("m", "maps_list.txt"),
    "files.file_table_base": ("s", "params"),
    "files.file_region_base": ("s", "region_files"),
    "files.file_log_name": ("s", "hyper_py.log"),
    "files.noise_map": ("s?", None),
    "files.weight_map": ("s?", None),
    "files.table_formats": ("S", ["ipac", "ecsv"]),
    "control.mode": ("s", "accurate"),
    "control.parallel_maps": ("b", False),
    "control.n_cores": ("i", os.cpu_count() or 1),
    "control.resume": ("b", False),
    "control.detection_only": ("b", False),
    "control.datacube": ("b", False),
    "control.dir_datacube_slices": ("s", "maps"),
    "units.convert_mJy": ("b", False),
    "units.map_unit": ("s?", None),
    "units.frequency_hz": ("f?", None),
    "survey.survey_code": ("i", 15),
    "survey.table": ("s?", None),
    "survey.beam_arcsec": ("f?", None),
    "detection.sigma_thres": ("f", 4.0),
    "detection.use_manual_rms": ("b", False),
    "detection.rms_value": ("f", 1e-6),
    "detection.kernel_size_pix": ("i", 0),
    "detection.roundlim": ("p", [-1.0, 1.0]),
    "detection.sharplim": ("p", [-1.0, 2.0]),
    "detection.use_fixed_source_table": ("b", False),
    "detection.fixed_source_table_path": ("s", "source_table.txt"),
    "detection.fixed_peaks": ("b", False),
    "detection.xcen_fix": ("L", []),
    "detection.ycen_fix": ("L", []),
    "detection.dist_limit_arcsec": ("f", 0.0),
    "detection.share_channels": ("b", True),
    "detection.snap_radius_pix": ("f", 1.0),
    "detection.shoulder_filter": ("b", False),
    "detection.shoulder_threshold": ("f", 0.5),
    "detection.shoulder_ring_factor": ("f", 1.5),
    "detection.shoulder_n_angles": ("i", 16),
    "detection.shoulder_neighbor_mask": ("f", 1.0),
    "photometry.aper_inf": ("f", 1.0),
    "photometry.aper_sup": ("f", 2.0),
    "photometry.fwhm_radius_ratio": ("f", 1.0),
    "photometry.aperture_correction": ("s", "published"),
    "photometry.fixed_radius": ("b", False),
    "photometry.fwhm_1": ("L", [0.0]),
    "photometry.fwhm_2": ("L", [0.0]),
    "photometry.PA_val": ("L", [0.0]),
    "fit_options.fit_method": ("s", "least_squares"),
    "fit_options.loss": ("s", "linear"),
    "fit_options.f_scale": ("f", 0.1),
    "fit_options.max_nfev": ("i", 50000),
    "fit_options.xtol": ("f", 1e-8),
    "fit_options.ftol": ("f", 1e-8),
    "fit_options.gtol": ("f", 1e-8),
    "fit_options.weights": ("s?", None),
    "fit_options.power_snr": ("f", 1.0),
    "fit_options.spatial_weight_sigma": ("f", 1.5),
    "fit_options.fit_aperture_sigma": ("f?", 1.0),
    "fit_options.calc_covar": ("b", False),
    "fit_options.min_method": ("s", "redchi"),
    "fit_options.verbose": ("b", False),
    "fit_options.use_l2_regularization": ("b", False),
    "fit_options.lambda_l2": ("f", 1e-3),
    "fit_options.vary": ("b", True),
    "fit_options.bg_fitters": ("S", ["least_squares"]),
    "fit_options.huber_epsilons": ("L", [1.1, 1.35, 1.7, 2.0]),
    "background.fit_gauss_and_bg_separately": ("b", False),
    "background.pol_orders_separate": ("L", [0, 1, 2]),
    "background.fix_min_box": ("f", 3),
    "background.fix_max_box": ("f", 5),
    "background.scoring": ("s", "published"),
    "background.fit_gauss_and_bg_together": ("b", False),
    "background.polynomial_orders": ("L", [0]),
    "background.pol_orders_bkg_no_sources": ("L", [0]),
    "fits_output.fits_fitting": ("b", False),
    "fits_output.fits_deblended": ("b", False),
    "fits_output.fits_bg_separate": ("b", False),
    "fits_output.fits_output_dir_fitting": ("s", "fits/fitting"),
    "fits_output.fits_output_dir_deblended": ("s", "fits/deblended"),
    "fits_output.fits_output_dir_bg_separate": ("s", "fits/bg_separate"),
    "visualization.visualize_fitting": ("b", False),
    "visualization.visualize_deblended": ("b", False),
    "visualization.visualize_bg_separate": ("b", False),
    "visualization.output_dir_fitting": ("s", "plots/fitting"),
    "visualization.output_dir_deblended": ("s", "plots/deblended"),
    "visualization.output_dir_bg_separate": ("s", "plots/bg_separate"),
    "visualization.report": ("b", False),
}

CHOICES: dict[str, tuple[Any, ...]] = {
    "control.mode": ("accurate", "compat"),
    "fit_options.loss": ("linear", "soft_l1", "huber", "cauchy", "arctan"),
    "fit_options.min_method": ("nmse", "redchi", "bic"),
    "background.scoring": ("published", "same_pixels"),
    "fit_options.bg_fitters": ("least_squares", "huber", "theilsen"),
    "files.table_formats": tuple(TABLE_FORMATS),
    "photometry.aperture_correction": ("published", "whole", "none"),
    "fit_options.weights": (None, "null", "inverse_rms", "snr", "power_snr", "spatial", "map", "mask"),
}
POSITIVE = (
    "detection.sigma_thres", "photometry.aper_inf", "photometry.aper_sup", "photometry.fwhm_radius_ratio",
    "control.n_cores", "fit_options.max_nfev", "fit_options.f_scale",
)  # fmt: skip
PUBLISHED_LIMITS = {"roundlim": (-4.0, 4.0), "sharplim": (-2.0, 2.0)}
"""DAOFIND limits of the published template: so wide that they select nothing."""


@dataclass(frozen=True)
class HyperOptions:
    """A checked configuration.

    Parameters
    ----------
    values : dict
        Dotted name to value; every key of :data:`KEYS` is there.
    folder : Path
        From where relative paths are meant.
    source : Path or None
        The configuration file.
    """

    values: dict[str, Any]
    folder: Path
    source: Path | None = None

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def input_path(self, name: str | Path) -> Path:
        """Return an input path: from the folder of the configuration, else from the current one."""
        path = Path(name).expanduser()
        if path.is_absolute() or (self.folder / path).exists() or not path.exists():
            return path if path.is_absolute() else self.folder / path
        return path.absolute()

    @property
    def root(self) -> Path:
        """Folder of all results."""
        path = Path(self["paths.output.dir_root"]).expanduser()
        return path if path.is_absolute() else self.folder / path

    def output_path(self, key: str) -> Path:
        """Return a folder below the root."""
        return self.root / self[key]

    @property
    def compat(self) -> bool:
        """True when the published rules are wanted."""
        return bool(self["control.mode"] == "compat")

    @property
    def flux_unit(self) -> tuple[str, float]:
        """Unit of the tables and what to multiply jansky with."""
        return ("mJy", 1e3) if self["units.convert_mJy"] else ("Jy", 1.0)

    def maps(self) -> list[Path]:
        """Return the paths of the input maps.

        Raises
        ------
        ConfigError
            When the list names nothing or cannot be read.
        """
        folder, named = self.input_path(self["paths.input.dir_maps"]), self["files.file_map_name"]
        names = [named] if isinstance(named, str) else list(named)
        paths: list[Path] = []
        for name in names:
            path = Path(name).expanduser()
            path = path if path.is_absolute() or not (folder / path).exists() else folder / path
            path = path if path.exists() else self.input_path(path) if not path.is_absolute() else path
            if path.suffix.lower() not in {".txt", ".lst", ".list"}:
                paths.append(path if path.exists() else folder / name)
                continue
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"the list of maps cannot be read: {error}", path=path) from error
            entries = [line.split("#")[0].strip() for line in lines]
            paths += [_listed(entry, folder, path.parent) for entry in entries if entry]
        if not paths:
            raise ConfigError(f"no map is named (files.file_map_name = {named!r})", path=self.source)
        return paths


def _listed(entry: str, folder: Path, beside: Path) -> Path:
    path = Path(entry).expanduser()
    if path.is_absolute():
        return path
    return beside / path if not (folder / path).exists() and (beside / path).exists() else folder / path


def template_text() -> str:
    """Return the commented configuration file with the defaults."""
    return resources.files("starmill.hyper").joinpath("template.yaml").read_text(encoding="utf-8")


def find_configuration() -> Path:
    """Return the configuration file to use when none is named.

    ``hyper_config.yaml`` in the current folder, else in the ``hyper-py`` folder of the user's configuration folder
    (``XDG_CONFIG_HOME``, ``~/.config``, or ``%APPDATA%/HyperPy``).

    Raises
    ------
    ConfigError
        When there is none. Nothing is written.
    """
    places = [Path.cwd() / CONFIG_NAME]
    home = os.environ.get("XDG_CONFIG_HOME")
    places.append((Path(home) if home else Path.home() / ".config") / "hyper-py" / CONFIG_NAME)
    if os.environ.get("APPDATA"):
        places.append(Path(os.environ["APPDATA"]) / "HyperPy" / CONFIG_NAME)
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(
        f"no configuration was named and there is no {places[0]} nor {places[1]}; "
        f"`starmill hyper --write-config {CONFIG_NAME}` writes one, or name a map"
    )


def options_from(
    source: str | Path | Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> HyperOptions:
    """Read and check a configuration.

    Parameters
    ----------
    source : path, mapping or None
        YAML file, or nested values; None looks for a file, see :func:`find_configuration`.
    overrides : mapping, optional
        ``section.key``, ``section__key`` or, when it is unique, just ``key``; nested sections work too.

    Raises
    ------
    ConfigError, InputError
        For a file that cannot be used, and for values of the wrong kind. Unknown keys are only warned about.
    """
    path: Path | None = None
    if isinstance(source, Mapping):
        given: Mapping[str, Any] = source
    else:
        path = find_configuration() if source is None else Path(source).expanduser()
        given = load_yaml(path)
    if overrides:
        given = merge(given, _nested_overrides(overrides))
    values = {name: default for name, (_, default) in KEYS.items()}
    for name, value in _flatten(given, path).items():
        if name not in KEYS:
            near = nearest_name(name, KEYS)
            _log.warning("unknown key %s is ignored%s", name, f"; did you mean {near}?" if near else "")
            continue
        values[name] = _checked(name, value, path)
    for name in POSITIVE:
        if not values[name] > 0:
            raise ConfigError(f"{name} must be positive, it is {values[name]}", path=path)
    if values["photometry.aper_sup"] < values["photometry.aper_inf"]:
        raise ConfigError(
            f"photometry.aper_sup ({values['photometry.aper_sup']}) is smaller than photometry.aper_inf "
            f"({values['photometry.aper_inf']})", path=path,
        )  # fmt: skip
    folder = Path.cwd() if path is None else path.absolute().parent
    return HyperOptions(values, folder, None if path is None else path.absolute())


def _nested_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping) and any(key.startswith(f"{name}.") for key in KEYS):
            nested = merge(nested, {name: value})
            continue
        dotted = name.replace("__", ".")
        if dotted not in KEYS:
            ends = [key for key in KEYS if key.endswith(f".{dotted}")]
            if len(ends) != 1:
                near = nearest_name(dotted, KEYS) or nearest_name(
                    dotted, [key.split(".")[-1] for key in KEYS]
                )
                hint = f"; did you mean {near}?" if near else ""
                raise ConfigError(f"unknown option {name!r}{hint}")
            dotted = ends[0]
        part: Any = value
        for key in reversed(dotted.split(".")):
            part = {key: part}
        nested = merge(nested, part)
    return nested


def _flatten(values: Mapping[str, Any], path: Path | None, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        is_section = any(known.startswith(f"{name}.") for known in KEYS)
        if isinstance(value, Mapping) and (is_section or name not in KEYS):
            flat |= _flatten(value, path, f"{name}.") if is_section else {name: value}
        elif is_section and value is not None:
            raise ConfigError(f"{name} is a section with keys of its own, not {value!r}", path=path)
        elif not is_section:
            flat[name] = value
    return flat


def _checked(name: str, value: Any, path: Path | None) -> Any:
    """Return the value in the kind that the key has."""
    kind, default = KEYS[name]
    try:
        result = _convert(kind, value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be {_KIND_NAMES[kind]}, not {value!r}", path=path) from error
    if result is None and kind[-1] != "?":
        return default
    for word in result if kind == "S" else [result]:
        if name not in CHOICES or word in CHOICES[name]:
            continue
        near = nearest_name(str(word), [str(c) for c in CHOICES[name]])
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(
            f"{name} must be one of {', '.join(map(str, CHOICES[name]))}, not {word!r}{hint}", path=path
        )
    return None if name == "fit_options.weights" and result == "null" else result


_KIND_NAMES = {
    "s": "a word", "s?": "a word or null", "f": "a number", "f?": "a number or null", "i": "a whole number",
    "b": "true or false", "L": "a list of numbers", "S": "a list of words", "p": "two numbers", "m": "a file name or a list",
}  # fmt: skip


def _convert(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind.startswith("s"):
        if isinstance(value, Mapping | list):
            raise TypeError
        return str(value)
    if kind == "b":
        if isinstance(value, bool):
            return value
        if str(value).strip().lower() in {"true", "false", "0", "1"}:
            return str(value).strip().lower() in {"true", "1"}
        raise ValueError
    if kind.startswith("f"):
        return _number(value)  # YAML reads 1e-8 as a word
    if kind == "i":
        number = _number(value)
        if number != int(number):
            raise ValueError
        return int(number)
    if kind == "m":
        return [str(v) for v in value] if isinstance(value, list) else _convert("s", value)
    items = value if isinstance(value, list) else [value]
    if kind == "S":
        return [str(item) for item in items]
    numbers = [_number(item) for item in items]
    if kind == "p" and len(numbers) != 2:
        raise ValueError
    return numbers


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def accurate_config(options: HyperOptions, changes: Mapping[str, Any] | None = None) -> CompactSourcesConfig:
    """Translate a configuration for the accurate mode.

    Parameters
    ----------
    options : HyperOptions
    changes : mapping, optional
        Dotted names of :class:`CompactSourcesConfig` and their values, applied last.

    Notes
    -----
    Keys that describe how the published program fits (weights, boxes, orders, ``vary``, tolerances) have no
    counterpart here: positions are always fitted, weights are the inverse noise, the background is shared.
    """
    detection: dict[str, Any] = {"threshold": options["detection.sigma_thres"]}
    for name, published in PUBLISHED_LIMITS.items():
        limits = tuple(options[f"detection.{name}"])
        if limits not in (published, tuple(KEYS[f"detection.{name}"][1])):
            detection["roundness" if name == "roundlim" else "sharpness"] = limits
    if options["detection.shoulder_filter"]:
        detection["shoulder_limit"] = options["detection.shoulder_threshold"]
    photometry: dict[str, Any] = {
        "aperture_ratio": options["photometry.fwhm_radius_ratio"],
        "aperture_correction": options["photometry.aperture_correction"],
    }
    if options["photometry.fixed_radius"]:
        first, second = options["photometry.fwhm_1"][0], options["photometry.fwhm_2"][0]
        if not (first > 0 and second > 0):
            raise ConfigError(
                f"fixed apertures need positive photometry.fwhm_1 and fwhm_2, not {first} and {second}"
            )
        photometry |= {"fixed_axes": (first, second), "fixed_position_angle": options["photometry.PA_val"][0]}
    fit = {
        # the published lower limit of one beam is above the size of many unresolved sources in noise
        "min_size": 0.55 * options["photometry.aper_inf"],
        "max_size": 1.5 * options["photometry.aper_sup"],
        "loss": options["fit_options.loss"] if options["fit_options.loss"] != "arctan" else "cauchy",
        "f_scale": options["fit_options.f_scale"] if options["fit_options.loss"] != "linear" else 3.0,
    }
    config = CompactSourcesConfig(detection=detection, fit=fit, photometry=photometry)
    return config.override(changes) if changes else config
