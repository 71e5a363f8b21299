"""Files of HOTPANTS: difference with layers, kernel table, stamp lists, region lists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from starmill.errors import InputError
from starmill.io.atomic import atomic_path
from starmill.io.fits import open_fits

__all__ = [
    "read_command",
    "read_kernel_tables",
    "read_record",
    "read_region_file",
    "read_stamp_list",
    "write_kernel_table",
    "write_layers",
]

_NAMED = ("DIFFCMD", "TARGET", "TEMPLATE", "DIFFIM", "DIFFINFO")
_TABLE = "Convolution Kernel Information"


def write_layers(
    path: str | Path,
    layers: list[tuple[Any, dict[str, Any]]],
    header: Any = None,
    kernel_table: tuple[Any, dict[str, Any]] | None = None,
) -> None:
    """Write images as primary and further extensions, and the kernel table last.

    Parameters
    ----------
    path : path
    layers : list of (array, cards)
        Integer arrays are written as 16-bit when the cards hold BSCALE, real value = BZERO + BSCALE x stored.
    header : Header, optional
        Copied to the primary extension, without the cards of its layout.
    kernel_table : (solutions, cards), optional
        One solution for each region.
    """
    hdus: list[Any] = []
    for number, (array, cards) in enumerate(layers):
        head = _copied(header) if number == 0 else fits.Header()
        scaled = {name: cards[name] for name in ("BSCALE", "BZERO") if name in cards}
        for name, value in cards.items():
            if name not in scaled:
                head[name] = value
        hdu = (
            fits.PrimaryHDU(np.asarray(array), head)
            if number == 0
            else fits.ImageHDU(np.asarray(array), head)
        )
        for name, value in scaled.items():
            hdu.header[name] = value
        hdus.append(hdu)
    if kernel_table is not None:
        hdus.append(_kernel_hdu(*kernel_table))
    with atomic_path(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, output_verify="silentfix+ignore")


def write_kernel_table(
    path: str | Path, solutions: Any, cards: dict[str, Any], primary: dict[str, Any] | None = None
) -> None:
    """Write a kernel table to a file of its own.

    Parameters
    ----------
    path : path
    solutions : list of (n,) arrays
        One for each region.
    cards : dict
        Of the table.
    primary : dict, optional
        Cards of the primary extension: regions, directions, kernel sums.
    """
    head = fits.Header()
    for name, value in (primary or {}).items():
        head[name] = value
    with atomic_path(path) as temporary:
        fits.HDUList([fits.PrimaryHDU(header=head), _kernel_hdu(solutions, cards)]).writeto(temporary)


def read_kernel_tables(path: str | Path) -> tuple[list[Any], dict[str, Any], Any]:
    """Return the solutions of all regions, the settings of the table, and the primary header.

    Raises
    ------
    InputError
        When the file holds no kernel table.
    """
    with open_fits(path) as hdus:
        for hdu in hdus[1:]:
            if getattr(hdu, "columns", None) is not None and "NGAUSS" in hdu.header:
                header = hdu.header
                try:
                    n = int(header["NGAUSS"])
                    cards = {
                        "sigma_gauss": [float(header[f"SGAUSS{i + 1}"]) for i in range(n)],
                        "deg_fixe": [int(header[f"DGAUSS{i + 1}"]) for i in range(n)],
                        "rkernel": (int(header["FWKERN"]) - 1) // 2,
                        "ko": int(header["CKORDER"]),
                        "bgo": int(header["BGORDER"]),
                    }
                except KeyError as error:
                    raise InputError(f"the kernel table lacks {error.args[0]}", path=path) from error
                normalize = str(header.get("PHOTNORM", hdus[0].header.get("PHOTNORM", "")))[:1]
                if normalize in ("t", "i", "u"):
                    cards["normalize"] = normalize
                columns = [c for c in hdu.columns.names if c.startswith("Region")]
                solutions = [np.array(hdu.data[name], np.float64) for name in columns]
                return solutions, cards, hdus[0].header.copy()
    raise InputError("the file holds no kernel table", path=path)


def read_command(path: str | Path) -> str:
    """Return the command line that made a difference; empty when the file does not tell."""
    with open_fits(path) as hdus:
        return str(hdus[0].header.get("DIFFCMD", ""))


def read_record(path: str | Path) -> dict[str, Any]:
    """Return what a file of a command line says of its making.

    Returns
    -------
    cards : dict
        ``words`` (the command line without its first word), ``record`` (JSON text; empty when the file is no
        product of this package), ``recorded`` (header cards that name files).
    """
    with open_fits(path) as hdus:
        header = hdus[0].header
        named = {name: str(header[name]) for name in _NAMED if name in header}
        return {
            "words": shlex.split(named.get("DIFFCMD", ""))[1:],
            "record": str(header.get("DIFFINFO", "")),
            "recorded": named,
        }


def read_stamp_list(path: str | Path, *, skip_first_line: bool = False) -> Any:
    """Read stamp centres ``x y`` (1-based), one per line, ``(n, 2)``.

    Raises
    ------
    InputError
        With the line that cannot be read.
    """
    try:
        lines = Path(path).read_text().splitlines()[1 if skip_first_line else 0 :]
    except OSError as error:
        raise InputError(str(error), path=path) from error
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append([float(words[0]), float(words[1])])
        except (ValueError, IndexError) as error:
            raise InputError(f"line {number} is not 'x y': {line!r}", path=path) from error
    if not rows:
        raise InputError("the list holds no stamp", path=path)
    return np.array(rows)


def read_region_file(path: str | Path) -> list[tuple[int, int, int, int]]:
    """Read regions ``xmin:xmax,ymin:ymax`` (0-based), one per line."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise InputError(str(error), path=path) from error
    found = re.findall(r"(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)", text)
    if not found:
        raise InputError("no region 'xmin:xmax,ymin:ymax' in the file", path=path)
    return [tuple(int(v) for v in row) for row in found]  # type: ignore[misc]


def _kernel_hdu(solutions: Any, cards: dict[str, Any]) -> Any:
    columns = [
        fits.Column(f"Region{i}", "D", array=np.asarray(solution, np.float64))
        for i, solution in enumerate(solutions)
    ]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header["EXTNAME"] = _TABLE
    for name, value in cards.items():
        hdu.header[name] = value
    return hdu


def _copied(header: Any) -> fits.Header:
    """Return the cards of a header that are not about its own layout."""
    skipped = re.compile(
        r"^(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM|EXTNAME|"
        # of tiles in which an image is compressed
        r"Z(IMAGE|TENSION|BITPIX|NAXIS\d*|TILE\d+|CMPTYPE|NAME\d+|VAL\d+|MASKCMP|SIMPLE|EXTEND|BLOCKED|PCOUNT|GCOUNT|"
        r"HECKSUM|DATASUM|QUANTIZ|DITHER0|BLANK|SCALE|ZERO))$"
    )
    out = fits.Header()
    if header is not None:
        for card in fits.Header(header).cards:
            if (
                card.keyword
                and not skipped.match(card.keyword)
                and card.keyword not in ("COMMENT", "HISTORY")
            ):
                out[card.keyword] = (card.value, card.comment)
    return out
