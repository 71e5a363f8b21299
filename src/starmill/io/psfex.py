"""Read and write PSF models in the format of PSFEx (``.psf``).

The file holds images of the PSF, one for each term ``x^i y^j`` of a polynomial in scaled positions
``(x - POLZERO1) / POLSCAL1`` (pixels counted from 1), sampled every ``PSF_SAMP`` pixels. Files that keep the
numbers of the header as columns of the table, one row per detector, are read too.

References
----------
Bertin 2011, ASP Conf. Ser. 442, 435.
"""

from __future__ import annotations

from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starmill.datamodel.field import PolynomialField
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import PixelBasisPsf
from starmill.errors import InputError
from starmill.io.atomic import atomic_path
from starmill.io.fits import open_fits

__all__ = ["read_psfex", "write_psfex"]


def read_psfex(
    path: str | Path, *, box: Box | None = None, row: int = 0, size: int | None = None
) -> PixelBasisPsf:
    """Read a PSF model written by PSFEx.

    Parameters
    ----------
    path : path
    box : Box, optional
        The image it belongs to; the range of the positions of its stars when not given.
    row : int
        Row of the table, for files with one detector in each row.
    size : int, optional
        Odd side of the star images in detector pixels; all that the file has when not given.

    Returns
    -------
    psf : PixelBasisPsf

    Raises
    ------
    InputError
        The file is not a PSFEx model, or the model depends on more than the position.
    """
    with open_fits(path) as hdus:
        table = next((hdu for hdu in hdus[1:] if "PSF_MASK" in _upper_names(hdu)), None)
        if table is None:
            raise InputError(
                "the file has no table with a column PSF_MASK, it is not a PSFEx model", path=path
            )
        if not 0 <= row < len(table.data):
            raise InputError(f"row {row} of a table with {len(table.data)} rows", path=path)
        record = {name.upper(): table.data[name][row] for name in table.columns.names}
        record = {**{card.keyword: card.value for card in table.header.cards}, **record}
    images = np.asarray(record["PSF_MASK"], dtype=np.float64)
    images = images[None] if images.ndim == 2 else images
    degree = _degree(record, len(images), path)
    zero = [float(record.get(f"POLZERO{i}", 0.0)) for i in (1, 2)]
    scale = [float(record.get(f"POLSCAL{i}", 1.0)) for i in (1, 2)]
    if box is None:
        box = Box(*(int(np.floor(z - 1.0 - s / 2.0)) for z, s in zip(zero, scale, strict=True)),
                  *(max(int(np.ceil(s)), 1) for s in scale))  # fmt: skip
    fields = [PolynomialField(box, _rescaled(i, j, box, zero, scale)) for i, j in _terms(degree)]
    return PixelBasisPsf(
        _odd(images), fields, size=size, samples_per_pixel=1.0 / float(record.get("PSF_SAMP", 1.0)),
        average_position=(zero[0] - 1.0, zero[1] - 1.0),
    )  # fmt: skip


def write_psfex(
    path: str | Path, psf: PixelBasisPsf, *, degree: int = 2, header: dict[str, Any] | None = None
) -> None:
    """Write a PSF model in the format of PSFEx.

    Parameters
    ----------
    path : path
    psf : PixelBasisPsf
        Its fields are polynomials of total order up to ``degree`` over its box (any field is fitted by one).
    degree : int
    header : dict, optional
        More cards: ``ACCEPTED``, ``LOADED``, ``CHI2``, ...
    """
    box = psf.box
    zero, scale = (box.center[0] + 1.0, box.center[1] + 1.0), (float(box.width), float(box.height))
    nodes = np.linspace(-0.5, 0.5, 2 * degree + 3)
    u, v = (a.ravel() for a in np.meshgrid(nodes, nodes))
    terms = np.stack([u**i * v**j for i, j in _terms(degree)], axis=1)
    values = psf.coefficients_at(box.center[0] + u * scale[0], box.center[1] + v * scale[1])
    coefficients = np.linalg.lstsq(terms, values, rcond=None)[0]
    images = np.tensordot(coefficients, psf.basis, axes=1)
    n, side = len(images), images.shape[-1]
    column = fits.Column(
        "PSF_MASK", f"{images.size}E", dim=f"({side},{side},{n})", array=images[None].astype("f4")
    )
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    cards: dict[str, Any] = {
        "LOADED": 0, "ACCEPTED": 0, "CHI2": 0.0,
        "POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": zero[0], "POLSCAL1": scale[0],
        "POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": zero[1], "POLSCAL2": scale[1], "POLNGRP": 1, "POLDEG1": degree,
        "PSF_FWHM": psf.fwhm_at(), "PSF_SAMP": 1.0 / psf.samples_per_pixel,
        "PSFNAXIS": 3, "PSFAXIS1": side, "PSFAXIS2": side, "PSFAXIS3": n,
    }  # fmt: skip
    table.header.update({**cards, **(header or {})})
    with atomic_path(path) as temporary:
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(temporary, overwrite=True)


def _upper_names(hdu: Any) -> list[str]:
    columns = getattr(hdu, "columns", None)
    return [] if columns is None else [str(name).upper() for name in columns.names]


def _degree(record: dict[str, Any], n_images: int, path: str | Path) -> int:
    """Return the degree of the polynomial and check that it belongs to the number of images."""
    axes = int(record.get("POLNAXIS", 2))
    if int(record.get("POLNGRP", 1)) > 1 or axes > 2:
        raise InputError(f"the PSF depends on {axes} variables; only the position is supported", path=path)
    for i in range(1, axes + 1):
        name = str(record.get(f"POLNAME{i}", "X_IMAGE")).strip()
        if not name.startswith(("X", "Y")):
            raise InputError(f"the PSF depends on {name}; only the position is supported", path=path)
    degree = int(record.get("POLDEG1", 0))
    expected = (degree + 1) * (degree + 2) // 2
    if n_images != expected:
        raise InputError(
            f"{n_images} images do not go with a polynomial of degree {degree} ({expected})", path=path
        )
    return degree


def _terms(degree: int) -> list[tuple[int, int]]:
    """Return the powers of x and y of the images in the order of the file: 1, x, x², y, x y, y² for degree 2."""
    return [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]


def _rescaled(i: int, j: int, box: Box, zero: list[float], scale: list[float]) -> NDArray[np.float64]:
    """Return coefficients in positions scaled to [-1, 1] over a box of one term in the positions of the file."""
    sides = (box.width, box.height)
    powers = []
    for power, center, z, s, side in zip((i, j), box.center, zero, scale, sides, strict=True):
        slope, offset = side / (2.0 * s), (center + 1.0 - z) / s
        powers.append(np.array([comb(power, k) * slope**k * offset ** (power - k) for k in range(power + 1)]))
    return np.outer(powers[1], powers[0])


def _odd(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pad images of even size so that their centre, sample ``n // 2``, is the central one."""
    if images.shape[-1] % 2:
        return images
    return np.pad(images, ((0, 0), (0, 1), (0, 1)))
