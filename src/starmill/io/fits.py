"""Opening FITS files, and what their headers say.

Every failure becomes an :class:`~starmill.errors.InputError` that names the file and the extension.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from starmill.datamodel.exposure import ObservationInfo
from starmill.datamodel.geometry import Box
from starmill.errors import InputError

__all__ = [
    "find_image_hdu",
    "header_number",
    "info_from_header",
    "merged_header",
    "open_fits",
    "read_image",
    "wcs_from_header",
    "wcs_header",
    "write_image",
]

_log = logging.getLogger(__name__)
READ_ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zlib.error, fits.VerifyError)


@contextlib.contextmanager
def open_fits(path: str | Path) -> Iterator[fits.HDUList]:
    """Open a FITS file (plain, .gz, .bz2, .fz) for reading.

    Raises
    ------
    InputError
        When the file is missing, empty, truncated or not FITS, or when reading inside the block fails.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("the file does not exist" if not path.exists() else "this is not a file", path=path)
    if path.stat().st_size == 0:
        raise InputError("the file is empty", path=path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        warnings.filterwarnings("ignore", category=fits.verify.VerifyWarning)
        # a file larger than memory is mapped for reading only, which is all that is wanted
        warnings.filterwarnings("ignore", message="Could not memory map array", category=AstropyUserWarning)
        warnings.filterwarnings(
            "ignore", message=".*(non-ASCII|header keyword is invalid|Card is too long).*"
        )
        try:
            with fits.open(_decompressed(path), lazy_load_hdus=False) as hdus:
                _check_no_trailing_bytes(path, hdus)
                yield hdus
        except InputError as error:
            if error.path is None:
                raise type(error)(error.message, path=path, hdu=error.hdu) from error
            raise
        except (*READ_ERRORS, AstropyUserWarning) as error:
            reason = str(error).split("\n")[0]
            raise InputError(f"the file cannot be read as FITS: {reason}", path=path) from error


def _check_no_trailing_bytes(path: Path, hdus: fits.HDUList) -> None:
    """Refuse a file that ends in a piece of a header: the reader stops before it without a word."""
    with path.open("rb") as file:
        if file.read(6) != b"SIMPLE":
            return  # compressed as a whole: positions in the file mean nothing
        place = hdus[-1].fileinfo()
        end = place["datLoc"] + place["datSpan"]
        file.seek(end)
        rest = file.read(2880)
    if rest.strip(b"\0 "):
        raise InputError(
            f"{path.stat().st_size - end} bytes follow the last extension: the file is truncated or damaged"
        )


def _decompressed(path: Path) -> Path | io.BytesIO:
    """Return a path as it is, or the content of a .bz2 or .gz file: seeking in those would unpack them twice."""
    if path.suffix == ".bz2":
        return io.BytesIO(bz2.decompress(path.read_bytes()))
    if path.suffix == ".gz":
        return io.BytesIO(gzip.decompress(path.read_bytes()))
    return path


def find_image_hdu(hdus: fits.HDUList, hdu: int | str | None = None, *, naxis: int | None = 2) -> int:
    """Return the number of the extension that holds an image.

    Parameters
    ----------
    hdus : HDUList
    hdu : int or str, optional
        Wanted extension; without it IMAGE, SCI, or the first one with ``naxis`` axes.
    naxis : int or None
        Wanted number of axes longer than 1; None for any.

    Raises
    ------
    InputError
        When there is no such extension or it holds no image.
    """
    if hdu is not None:
        try:
            number = hdus.index_of(hdu)
            hdus[number]
        except (KeyError, IndexError) as error:
            names = ", ".join(f"{i}:{item.name or '-'}" for i, item in enumerate(hdus))
            raise InputError(f"there is no such extension (the file has {names})", hdu=hdu) from error
        if not _is_image(hdus[number], naxis):
            raise InputError(f"the extension holds no image with {naxis} axes", hdu=hdu)
        return int(number)
    for name in ("IMAGE", "SCI"):
        if name in hdus and _is_image(hdus[name], naxis):
            return int(hdus.index_of(name))
    for number, item in enumerate(hdus):
        if _is_image(item, naxis):
            return number
    raise InputError(f"the file holds no image with {naxis} axes")


def _is_image(item: Any, naxis: int | None) -> bool:
    if not getattr(item, "is_image", False):
        return False
    axes = [item.header.get(f"NAXIS{i + 1}", 0) for i in range(item.header.get("NAXIS", 0))]
    if not axes or 0 in axes:
        return False
    return naxis is None or sum(n > 1 for n in axes) == naxis or (len(axes) == naxis)


def merged_header(hdus: fits.HDUList, number: int) -> fits.Header:
    """Return the cards of an extension on top of those of the primary one; unreadable cards are left out."""
    header = fits.Header()
    for item in (hdus[0], hdus[number]):
        for card in item.header.cards:
            try:
                if card.keyword not in ("", "COMMENT", "HISTORY", "CONTINUE"):
                    header[card.keyword] = (card.value, card.comment)
            except (fits.VerifyError, ValueError) as error:
                _log.debug("card %r is left out: %s", card.image[:20], error)
    return header


def read_image(
    path: str | Path, hdu: int | str | None = None, *, box: Box | None = None
) -> tuple[NDArray[Any], fits.Header]:
    """Read a two-dimensional image and its header.

    Parameters
    ----------
    path : path
    hdu : int or str, optional
        Extension; IMAGE, SCI or the first two-dimensional one when not given.
    box : Box, optional
        Read these array pixels only; the rest of a plain file is not touched.

    Returns
    -------
    image : (ny, nx) array
        In the machine's byte order; unsigned and scaled integers as FITS says; axes of length 1 removed.
    header : Header
    """
    with open_fits(path) as hdus:
        number = find_image_hdu(hdus, hdu)
        item = hdus[number]
        if box is None:
            data = item.data
        else:
            full = Box.from_shape(item.shape[-2:])
            if not full.contains_box(box):
                raise InputError(f"{box} is not inside the image's {full}", hdu=number)
            data = item.section[(0,) * (len(item.shape) - 2) + box.slices()]
        if data is None:
            raise InputError("the extension holds no data", hdu=number)
        image = np.asarray(data)
        while image.ndim > 2 and image.shape[0] == 1:
            image = image[0]
        return np.ascontiguousarray(image, image.dtype.newbyteorder("=")), item.header.copy()


def write_image(path: str | Path, image: NDArray[Any], header: fits.Header | None = None) -> None:
    """Write one plain image; the file appears complete or not at all."""
    from starmill.io.atomic import atomic_path

    with atomic_path(path) as temporary:
        fits.PrimaryHDU(np.asarray(image), header).writeto(temporary, output_verify="silentfix+ignore")


def header_number(header: Any, *names: str, default: float = float("nan")) -> float:
    """Return the first of these cards that holds a finite number, also when it is a quoted string."""
    for name in names:
        value = header.get(name)
        if isinstance(value, bool) or value is None:
            continue
        try:
            number = float(str(value).strip().rstrip("dD")) if isinstance(value, str) else float(value)
        except (TypeError, ValueError):
            continue
        if np.isfinite(number):
            return number
    return default


def info_from_header(header: Any) -> ObservationInfo:
    """Return what the usual cards of a header tell about an observation; what is missing stays unknown."""

    def text(*names: str) -> str:
        return next((str(header[n]).strip() for n in names if n in header and str(header[n]).strip()), "")

    exposure = header_number(header, "EXPTIME", "EXPOSURE", "XPOSURE", "TEXPTIME")
    name = text("FILTER", "FILTER1", "FILTNAME", "FILTERID", "INSFILTE")
    return ObservationInfo(
        instrument=text("INSTRUME", "CAMERA", "TELESCOP"),
        detector=text("DETECTOR", "CCDNAME", "DETSER"),
        filter=name,
        band=name.split(".")[0][:1].lower() if re.fullmatch(r"[ugrizyUGRIZY]('|\b.*)?", name) else name,
        object=text("OBJECT"),
        kind=text("IMAGETYP", "OBSTYPE").lower(),
        exposure_time=exposure,
        dark_time=header_number(header, "DARKTIME", default=exposure),
        mjd=_mjd(header, exposure),
        date=_date(header),
        airmass=header_number(header, "AIRMASS", "SECZ"),
        gain=header_number(header, "GAIN", "EGAIN", "CCDGAIN"),
        read_noise=header_number(header, "RDNOISE", "READNOIS", "RON"),
        saturation=header_number(header, "SATURATE", "SATLEVEL"),
    )


def _date(header: Any) -> str:
    date = str(header.get("DATE-OBS", "")).strip()
    if date and "T" not in date:
        for name in ("UTCSTART", "UT", "TIME-OBS", "UTC"):
            clock = str(header.get(name, "")).strip()
            if re.fullmatch(r"\d\d?:\d\d:\d\d(\.\d*)?", clock):
                return f"{date}T{clock}"
    return date


def _mjd(header: Any, exposure: float) -> float:
    """Return the modified Julian date of mid exposure; NaN when the header does not tell the start."""
    middle = 0.5 * exposure / 86400 if np.isfinite(exposure) else 0.0
    start = header_number(header, "MJD-OBS", "MJD_OBS", "MJD")
    if np.isfinite(start):
        return start + middle
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d?):(\d\d):(\d\d(?:\.\d*)?))?", _date(header))
    if not match:
        return float("nan")
    day = np.datetime64(f"{match[1]}-{match[2]}-{match[3]}") - np.datetime64("1858-11-17")
    seconds = sum(float(match[i] or 0) * unit for i, unit in ((4, 3600), (5, 60), (6, 1)))
    return float(day / np.timedelta64(1, "D")) + seconds / 86400 + middle


def wcs_from_header(header: Any, origin: tuple[int, int] = (0, 0)) -> Any:
    """Return the celestial WCS of a header, in the parent frame, or None when it has none.

    Parameters
    ----------
    header : Header or mapping
        Cards with their values.
    origin : (x0, y0)
        Parent-frame index of the first pixel of the array that the header describes.
    """
    from astropy.wcs import WCS, FITSFixedWarning

    if "CTYPE1" not in header and "CD1_1" not in header:
        return None
    simple = _simple_wcs(header)
    if simple is not None:
        return _moved(simple, origin)
    if not isinstance(header, fits.Header):
        header = header.to_fits() if hasattr(header, "to_fits") else fits.Header(list(header.items()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        warnings.filterwarnings("ignore", category=AstropyUserWarning)
        try:
            wcs = WCS(header, naxis=2)
        except (ValueError, KeyError, TypeError, AttributeError, MemoryError):
            return None
        except Exception as error:
            if type(error).__module__.startswith("astropy.wcs"):
                return None
            raise
        if not wcs.has_celestial:
            return None
        return _moved(wcs, origin)


_PROJECTIONS = {"TAN", "SIN", "ARC", "STG", "ZEA", "CAR", "AIT", "MOL", "SFL"}
_NOT_SIMPLE = re.compile(
    r"(PV|PS)\d+_\d+|[AB]P?_(ORDER|DMAX)|(CPDIS|CQDIS|D2IMDIS)\d|(DP|DQ)\d|D2IM.*|CROTA\d|CTYPE[3-9]|VELREF"
)


def _simple_wcs(header: Any) -> Any:
    """Return the WCS of a header with two celestial axes and no distortion; None for any other.

    Setting the parameters costs a twentieth of what the interpretation of a whole header costs.
    """
    from astropy.wcs import WCS

    types = [str(header.get(f"CTYPE{i}", "")).strip() for i in (1, 2)]
    names = {(kind[:4], kind[4:5]) for kind in types}
    if names != {("RA--", "-"), ("DEC-", "-")} or types[0][5:] != types[1][5:]:
        return None
    if types[0][5:] not in _PROJECTIONS or header.get("NAXIS", 2) != 2 or header.get("WCSAXES", 2) != 2:
        return None
    if any(_NOT_SIMPLE.fullmatch(key) for key in header):
        return None
    units = {str(header.get(f"CUNIT{i}", "deg")).strip() for i in (1, 2)}
    matrix = {kind: any(f"{kind}{i}_{j}" in header for i in (1, 2) for j in (1, 2)) for kind in ("CD", "PC")}
    steps = any(f"CDELT{i}" in header for i in (1, 2))
    if units != {"deg"} or (matrix["CD"] and (matrix["PC"] or steps)) or not (matrix["CD"] or steps):
        return None
    kind, unity = ("CD", 0.0) if matrix["CD"] else ("PC", 1.0)
    defaults = {"CRPIX": (0.0, 0.0), "CRVAL": (0.0, 0.0), "CDELT": (1.0, 1.0)}
    values = {
        name: [header.get(f"{name}{i}", d) for i, d in enumerate(ds, 1)] for name, ds in defaults.items()
    }
    linear = [[header.get(f"{kind}{i}_{j}", unity if i == j else 0.0) for j in (1, 2)] for i in (1, 2)]
    poles = [header.get(name, np.nan) for name in ("LONPOLE", "LATPOLE", "EQUINOX")]
    numbers = [*values["CRPIX"], *values["CRVAL"], *values["CDELT"], *linear[0], *linear[1], *poles]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        return None
    wcs = WCS(naxis=2)
    parameters = wcs.wcs
    parameters.ctype, parameters.cunit = types, ["deg", "deg"]
    parameters.crpix, parameters.crval = values["CRPIX"], values["CRVAL"]
    if kind == "CD":
        parameters.cd = linear
    else:
        parameters.pc, parameters.cdelt = linear, values["CDELT"]
    parameters.radesys = str(header.get("RADESYS", header.get("RADECSYS", ""))).strip()
    for name, number in zip(("lonpole", "latpole", "equinox"), poles, strict=True):
        if np.isfinite(number):
            setattr(parameters, name, number)
    try:
        parameters.set()
    except Exception as error:
        if type(error).__module__.startswith("astropy.wcs"):
            return None
        raise
    if "NAXIS1" in header and "NAXIS2" in header:
        wcs.pixel_shape = (int(header["NAXIS1"]), int(header["NAXIS2"]))
    return wcs


def _moved(wcs: Any, origin: tuple[int, int]) -> Any:
    from starmill.datamodel.exposure import _shifted_wcs

    return wcs if origin == (0, 0) else _shifted_wcs(wcs, (-origin[0], -origin[1]))


def wcs_header(wcs: Any, origin: tuple[int, int] = (0, 0)) -> fits.Header:
    """Return the cards of a parent-frame WCS for an array whose first pixel is ``origin``.

    The numbers of the linear part are written with all their digits.
    """
    from starmill.datamodel.exposure import _shifted_wcs

    local = wcs if origin == (0, 0) else _shifted_wcs(wcs, origin)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=AstropyUserWarning)
        header = local.to_header(relax=True)
    matrix, step = local.wcs.get_pc(), local.wcs.get_cdelt()
    if local.wcs.has_cd():
        matrix, step = local.wcs.cd, np.ones(2)
    for i in range(2):
        header[f"CRPIX{i + 1}"] = (float(local.wcs.crpix[i]), "reference pixel")
        header[f"CRVAL{i + 1}"] = (float(local.wcs.crval[i]), "sky there")
        header[f"CDELT{i + 1}"] = (float(step[i]), "increment")
        for j in range(2):
            header[f"PC{i + 1}_{j + 1}"] = (float(matrix[i, j]), "matrix")
    return header
