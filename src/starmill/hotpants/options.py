"""Options of HOTPANTS: the fields of :class:`HotpantsConfig` and the flags of the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from starmill.errors import ConfigError, InputError, nearest_name

__all__ = ["FLAGS", "HELP_FLAGS", "HotpantsConfig", "HotpantsError", "parse_flags", "usage"]


class HotpantsError(InputError):
    """An input or a fit that cannot give a difference image."""


@dataclass
class HotpantsConfig:
    """Settings of a HOTPANTS run; the defaults are those of the C program.

    Thresholds are in ADU, gains in electron/ADU, read noise in electrons, widths in pixels. ``None`` for a
    threshold means no limit. ``force_convolve`` is 't', 'i' or 'b' (best); ``normalize`` is 't', 'i' or 'u' (not
    normalised); ``fom`` is 'v' (variance), 's' (scatter) or 'h' (histogram width). ``classic`` takes the method of
    the C program; ``kernel_step`` is the side of its blocks of constant kernel (the size of the kernel);
    ``auto_fill`` searches for stamps beyond those of a catalogue. Without ``keep_convolved`` the convolved image is not
    kept (None); ``overwrite_inputs`` writes the difference over the pixels of the image that is not convolved, which
    the session cannot do twice: together a third less memory.
    """

    tuthresh: float | None = None
    tuktresh: float | None = None
    tlthresh: float | None = None
    tgain: float = 1.0
    trdnoise: float = 0.0
    tpedestal: float = 0.0
    iuthresh: float | None = None
    iuktresh: float | None = None
    ilthresh: float | None = None
    igain: float = 1.0
    irdnoise: float = 0.0
    ipedestal: float = 0.0
    rkernel: int = 10
    fitthresh: float = 20.0
    scale_fitthresh: float = 0.5
    min_frac_stamps: float = 0.1
    kf_spread_mask1: float = 1.0
    nregx: int = 1
    nregy: int = 1
    nstampx: int = 10
    nstampy: int = 10
    nss: int = 3
    rss: int = 15
    force_convolve: str = "b"
    normalize: str = "t"
    fom: str = "v"
    ko: int = 2
    bgo: int = 1
    stat_sig: float = 3.0
    ks: float = 2.0
    kfm: float = 0.99
    rescale_ok: bool = False
    fillval: float = 1e-30
    fillval_noise: float = 0.0
    conv_var: bool = False
    ngauss: int = 3
    deg_fixe: list = field(default_factory=lambda: [6, 4, 2])
    sigma_gauss: list = field(default_factory=lambda: [0.7, 1.5, 3.0])
    use_pca: bool = False
    pca_images: list = field(default_factory=list)
    auto_fill: bool = False
    kernel_step: int | None = None
    classic: bool = False
    keep_convolved: bool = True
    overwrite_inputs: bool = False
    output_file: str | None = None
    noise_image_file: str | None = None
    mask_image_file: str | None = None
    sigma_image_file: str | None = None
    convolved_image_file: str | None = None
    kernel_file: str | None = None
    stamp_region_file: str | None = None
    verbose: int = 0

    def __post_init__(self) -> None:
        if len(self.deg_fixe) != len(self.sigma_gauss):
            raise ConfigError(f"{len(self.deg_fixe)} degrees but {len(self.sigma_gauss)} widths of Gaussians")
        self.ngauss = len(self.sigma_gauss)
        for name, allowed in (("force_convolve", "tib"), ("normalize", "tiu"), ("fom", "vsh")):
            if getattr(self, name) not in tuple(allowed):
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.convolved_image_file and not self.keep_convolved:
            raise ConfigError("convolved_image_file needs keep_convolved")
        for name in ("tgain", "igain", "fitthresh", "ks", "stat_sig"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)!r}")
        if self.kernel_step is not None and self.kernel_step < 1:
            raise ConfigError(f"kernel_step must be at least 1, not {self.kernel_step!r}")
        for name in ("ko", "bgo"):
            if not 0 <= getattr(self, name) <= 10:
                raise ConfigError(f"{name} must be 0 to 10, not {getattr(self, name)!r}")
        if not 0 < self.kfm <= 1 or not 0 <= self.min_frac_stamps <= 1:
            raise ConfigError(
                f"kfm and min_frac_stamps are shares, not {self.kfm!r} and {self.min_frac_stamps!r}"
            )
        if not self.use_pca and (
            not self.sigma_gauss or min(self.sigma_gauss) <= 0 or min(self.deg_fixe) < 0
        ):
            raise ConfigError(
                f"a basis needs positive widths and degrees >= 0, not {self.sigma_gauss} and {self.deg_fixe}"
            )
        for name in ("rkernel", "rss", "nss", "nstampx", "nstampy", "nregx", "nregy"):
            if int(getattr(self, name)) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)!r}")


# flag: (setting, number of values, type, meaning). Settings that are no field of HotpantsConfig belong to the command.
FLAGS: dict[str, tuple[str, int, Any, str]] = {
    "inim": ("inim", 1, str, "science image; @LIST for many, with {name} in the output names"),
    "tmplim": ("tmplim", 1, str, "template image"),
    "outim": ("output_file", 1, str, "difference image to write"),
    "tu": ("tuthresh", 1, float, "upper valid count of the template (25000)"),
    "tuk": (
        "tuktresh",
        1,
        float,
        "upper count for kernel stars of the template (as -tu; with -classic 25000)",
    ),
    "tl": ("tlthresh", 1, float, "lower valid count of the template (0)"),
    "tg": ("tgain", 1, float, "gain of the template"),
    "tr": ("trdnoise", 1, float, "read noise of the template, electrons"),
    "tp": ("tpedestal", 1, float, "pedestal of the template"),
    "tni": ("tni", 1, str, "noise image of the template"),
    "tmi": ("tmi", 1, str, "mask of the template; any bit that is set is bad"),
    "iu": ("iuthresh", 1, float, "upper valid count of the science image (25000)"),
    "iuk": (
        "iuktresh",
        1,
        float,
        "upper count for kernel stars of the science image (as -iu; with -classic 25000)",
    ),
    "il": ("ilthresh", 1, float, "lower valid count of the science image (0)"),
    "ig": ("igain", 1, float, "gain of the science image"),
    "ir": ("irdnoise", 1, float, "read noise of the science image, electrons"),
    "ip": ("ipedestal", 1, float, "pedestal of the science image"),
    "ini": ("ini", 1, str, "noise image of the science image"),
    "imi": ("imi", 1, str, "mask of the science image; any bit that is set is bad"),
    "ki": ("ki", 1, str, "use the kernel table of this file instead of a fit"),
    "hki": ("hki", 0, bool, "append the kernel table to the difference"),
    "oki": ("kernel_file", 1, str, "write the kernel table"),
    "oci": ("convolved_image_file", 1, str, "write the convolved image"),
    "omi": ("mask_image_file", 1, str, "write the output mask"),
    "oni": ("noise_image_file", 1, str, "write the noise image"),
    "ond": ("sigma_image_file", 1, str, "write the difference over its noise"),
    "ft": ("fitthresh", 1, float, "sigma above sky for a stamp (20)"),
    "sft": ("scale_fitthresh", 1, float, "factor on -ft when too few cells have a stamp (0.5)"),
    "nft": ("min_frac_stamps", 1, float, "fraction of cells that must have a stamp (0.1)"),
    "mins": ("kf_spread_mask1", 1, float, "spread of input masks in kernel half widths (1)"),
    "mous": ("mous", 1, float, "negative: do not fill unusable pixels"),
    "gd": ("gd", 4, int, "sub-section xmin xmax ymin ymax, 0-based, last ones exclusive"),
    "nrx": ("nregx", 1, int, "regions along x"),
    "nry": ("nregy", 1, int, "regions along y"),
    "rf": ("rf", 1, str, "file of regions xmin:xmax,ymin:ymax, 0-based, inclusive"),
    "rkw": ("rkw", 2, str, "header keyword and number of regions"),
    "nsx": ("nstampx", 1, int, "cells along x (10)"),
    "nsy": ("nstampy", 1, int, "cells along y (10)"),
    "ssf": ("ssf", 1, str, "file of stamp centres x y, 1-based"),
    "cmp": ("cmp", 1, str, "as -ssf with one header line"),
    "afssc": ("auto_fill", 1, int, "find further stamps after those listed (1)"),
    "nss": ("nss", 1, int, "substamps per cell (3)"),
    "rss": ("rss", 1, int, "half width of substamps (15)"),
    "savexy": ("stamp_region_file", 1, str, "write DS9 regions of the stamps"),
    "c": ("force_convolve", 1, str, "convolve t(emplate), i(mage) or the b(est)"),
    "n": ("normalize", 1, str, "scale of the difference: t, i or u"),
    "fom": ("fom", 1, str, "figure of merit: v, s or h"),
    "sconv": ("sconv", 0, bool, "all regions in the direction of the first"),
    "ko": ("ko", 1, int, "spatial order of the kernel (2)"),
    "bgo": ("bgo", 1, int, "order of the background (1)"),
    "ssig": ("stat_sig", 1, float, "clipping of statistics (3)"),
    "ks": ("ks", 1, float, "rejection of stamps (2)"),
    "kfm": ("kfm", 1, float, "share of the kernel that must fall on good pixels (0.99)"),
    "okn": ("rescale_ok", 0, bool, "scale the noise of touched pixels"),
    "fi": ("fillval", 1, float, "value of unusable pixels (1e-30)"),
    "fin": ("fillval_noise", 1, float, "noise of unusable pixels (0)"),
    "convvar": ("conv_var", 0, bool, "convolve the variance with the kernel, not its square"),
    "r": ("rkernel", 1, int, "half width of the kernel (10)"),
    "kcs": ("kernel_step", 1, int, "side of blocks of constant kernel; with -classic only (2 r + 1)"),
    "ng": ("ng", -1, float, "number of Gaussians, then degree and width of each"),
    "pca": ("pca", -1, str, "number of basis images, then the files"),
    "allm": ("allm", 0, bool, "all layers in the main file"),
    "cim": ("cim", 0, bool, "convolved image as a layer"),
    "nim": ("nim", 0, bool, "noise image as a layer"),
    "ndm": ("ndm", 0, bool, "difference over noise as a layer"),
    "nc": ("nc", 0, bool, "do not overwrite files"),
    "sht": ("sht", 0, bool, "write the difference as 16-bit integers"),
    "obs": ("obs", 1, float, "BSCALE of -sht (1)"),
    "obz": ("obz", 1, float, "BZERO of -sht (0)"),
    "nsht": ("nsht", 0, bool, "write the noise image as 16-bit integers"),
    "nbs": ("nbs", 1, float, "BSCALE of -nsht (1)"),
    "nbz": ("nbz", 1, float, "BZERO of -nsht (0)"),
    "v": ("verbose", 1, int, "verbosity: 0, 1, or 2 with every substamp (1)"),
    "resume": ("resume", 0, bool, "leave out images that were done by the same command line"),
    "j": ("processes", 1, int, "with -inim @LIST: images at a time (1)"),
    "json": ("json", 0, bool, "say what became of each image as JSON"),
    "classic": ("classic", 0, bool, "the method of the C program: its stamps, fit and blocks"),
}

_LIMITS = {"tuthresh": 25000.0, "iuthresh": 25000.0, "tlthresh": 0.0, "ilthresh": 0.0}


def parse_flags(arguments: Sequence[str]) -> tuple[HotpantsConfig, dict[str, Any]]:
    """Read a HOTPANTS command line.

    Parameters
    ----------
    arguments : sequence of str
        Flags are recognised in any case, as in the C program.

    Returns
    -------
    config : HotpantsConfig
        With the thresholds of the C program where none was given.
    extra : dict
        What belongs to the command: input files, layers, sub-section.

    Raises
    ------
    ConfigError
        For unknown flags (with the nearest known one), missing or unreadable values, missing images.
    """
    words, found = list(arguments), {}
    while words:
        word = words.pop(0)
        flag = word.lstrip("-").lower()
        if not word.startswith("-") or flag not in FLAGS:
            near = nearest_name(flag, FLAGS)
            raise ConfigError(f"unknown option {word!r}" + (f"; did you mean -{near}?" if near else ""))
        name, count, kind, _ = FLAGS[flag]
        if count == 0:
            found[name] = True
        elif count < 0:
            found |= _variable_flag(flag, words)
        else:
            values = [_value(flag, kind, words) for _ in range(count)]
            found[name] = values[0] if count == 1 else values
    for name, flag in (("inim", "-inim"), ("tmplim", "-tmplim"), ("output_file", "-outim")):
        if name not in found:
            raise ConfigError(f"{flag} is required")
    for name, limit in _LIMITS.items():
        found.setdefault(name, limit)
    if found.get("classic"):  # the program does not do what its help says: no default follows -tu and -iu
        for name in ("tuktresh", "iuktresh"):
            found.setdefault(name, 25000.0)
    found.setdefault("auto_fill", 1)
    found.setdefault("verbose", 1)
    found["auto_fill"] = bool(found["auto_fill"])
    if "kernel_step" in found and not found.get("classic"):
        raise ConfigError("-kcs needs -classic: otherwise the kernel changes from pixel to pixel")
    for first, second in (("ssf", "cmp"), ("rf", "rkw"), ("gd", "rf"), ("gd", "rkw")):
        if first in found and second in found:
            raise ConfigError(f"-{first} and -{second} exclude each other")
    known = {f.name for f in fields(HotpantsConfig)}
    config = HotpantsConfig(**{name: value for name, value in found.items() if name in known})
    return config, {name: value for name, value in found.items() if name not in known}


def _value(flag: str, kind: type, words: list[str]) -> float | str:
    if not words:
        raise ConfigError(f"-{flag} needs a value")
    try:
        return kind(words.pop(0))
    except ValueError as error:
        raise ConfigError(f"-{flag}: {error}") from error


def _variable_flag(flag: str, words: list[str]) -> dict[str, Any]:
    """Read -ng (number, degrees and widths) or -pca (number, files)."""
    count = _value(flag, int, words)
    if flag == "pca":
        return {"pca_images": [_value(flag, str, words) for _ in range(count)], "use_pca": True}
    pairs = [(_value(flag, int, words), _value(flag, float, words)) for _ in range(count)]
    return {"ngauss": count, "deg_fixe": [d for d, _ in pairs], "sigma_gauss": [s for _, s in pairs]}


HELP_FLAGS = frozenset({"-h", "-help", "--help"})
"""Words that ask for the table of flags."""


def usage() -> str:
    """Return the table of flags."""
    lines = ["Usage: hotpants -inim SCIENCE -tmplim TEMPLATE -outim DIFFERENCE [options]", ""]
    lines += [f"  -{flag:8s} {text}" for flag, (_, _, _, text) in FLAGS.items()]
    lines += [
        "",
        "-inim @LIST takes the images of a text file, one a line; {name} in the output names stands for each.",
    ]
    return "\n".join(lines) + "\n"
