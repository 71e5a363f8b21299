"""The file of an exposure: extensions IMAGE, MASK, VARIANCE, and META with everything else.

The three images carry the WCS, so that DS9 and plain astropy show them at the right place; the names, bits and
meanings of the mask planes stand in the header of MASK (``MP_<plane> = bit``). META is a document (see
:mod:`starmill.io.structures`) with origin, PSF, aperture corrections, photometric scale and observation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from starmill.datamodel.exposure import Exposure, ObservationInfo
from starmill.datamodel.field import Field, field_from_dict
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask, MaskPlanes
from starmill.datamodel.psf import psf_from_dict
from starmill.errors import InputError
from starmill.io.atomic import atomic_path
from starmill.io.fits import find_image_hdu, info_from_header, merged_header, wcs_from_header, wcs_header
from starmill.io.fits_blocks import (
    Card,
    PlainFile,
    image_extension,
    open_blocks,
    primary_extension,
    write_blocks,
)
from starmill.io.structures import structure_from_hdus, structure_to_arrays

__all__ = ["read_exposure", "read_exposure_component", "write_exposure"]

FORMAT_VERSION = 1
_JWST_SATURATED, _JWST_JUMP = 2, 4  # bits of the data quality of JWST


def write_exposure(
    exposure: Exposure,
    path: str | Path,
    *,
    compress: bool = False,
    provenance: Any = None,
    durable: bool = True,
) -> None:
    """Write an exposure without loss; the file appears complete or not at all.

    Parameters
    ----------
    exposure : Exposure
    path : path
        Ending in ``.fits``.
    compress : bool
        Tile-compress the three images without loss (GZIP_2 for the real ones, RICE_1 for the mask).
    provenance : dict, optional
        Plain values kept in META under ``provenance``.
    durable : bool
        False leaves it to the caller to synchronise the file with the disk.
    """
    cards = [] if exposure.wcs is None else _wcs_cards(exposure)
    for axis in (0, 1):
        cards.append(
            (f"LTV{axis + 1}", 0.0 - exposure.origin[axis], "array index + 1 = parent index + 1 + LTV")
        )
    unit = [("BUNIT", exposure.unit, "")] if exposure.unit else []
    squared = [("BUNIT", f"{exposure.unit}**2", "")]
    planes = [
        ("IMAGE", exposure.image, cards + unit),
        ("MASK", exposure.mask.array, cards + _plane_cards(exposure.mask.planes)),
        ("VARIANCE", exposure.variance, cards + squared),
    ]
    rest = structure_to_arrays(_metadata(exposure, provenance), "META")
    primary = [
        *_primary_cards(exposure), ("SMNEXT", len(planes) + len(rest), "number of extensions")
    ]  # fmt: skip
    with atomic_path(path, durable=durable) as temporary:
        if compress:
            _write_compressed(temporary, primary, planes, rest)
            return
        extensions = [image_extension(array, name, more) for name, array, more in planes]
        extensions += [image_extension(array, name) for name, array in rest]
        with temporary.open("wb") as stream:
            write_blocks(stream, [primary_extension(primary), *extensions])


def _write_compressed(path: Path, primary: list[Card], planes: list[Any], rest: list[Any]) -> None:
    hdus = fits.HDUList([fits.PrimaryHDU(header=fits.Header(primary))])
    for name, array, cards in planes:
        array = np.ascontiguousarray(array)
        real = array.dtype.kind == "f"
        how: dict[str, Any] = (
            {"compression_type": "GZIP_2", "quantize_level": 0.0} if real else {"compression_type": "RICE_1"}
        )
        hdus.append(fits.CompImageHDU(array, fits.Header(cards), name=name, **how))
    hdus.extend(fits.ImageHDU(array, name=name) for name, array in rest)
    hdus.writeto(path, checksum=False)
    _forget_times(path)


def _forget_times(path: Path) -> None:
    """Set the time in the header of every gzip tile to zero: the same exposure gives the same bytes."""
    places = []
    with fits.open(path, disable_image_compression=True, memmap=False) as hdus:
        for hdu in hdus[1:]:
            if str(hdu.header.get("ZCMPTYPE", "")).startswith("GZIP"):
                heap = hdu.fileinfo()["datLoc"] + hdu.header["NAXIS1"] * hdu.header["NAXIS2"]
                raw = hdu.data.view(np.ndarray).view(hdu.data.dtype)["COMPRESSED_DATA"]
                places += [heap + int(offset) + 4 for _, offset in raw]
    with path.open("r+b") as stream:
        for place in places:
            stream.seek(place)
            stream.write(bytes(4))


def _wcs_cards(exposure: Exposure) -> list[Card]:
    header = wcs_header(exposure.wcs, exposure.origin)
    return [(card.keyword, card.value, card.comment) for card in header.cards if card.keyword]


def _primary_cards(exposure: Exposure) -> list[Card]:
    info = exposure.info
    cards: dict[str, tuple[Any, str]] = {
        "INSTRUME": (info.instrument, "instrument"),
        "DETECTOR": (info.detector, "detector"),
        "FILTER": (info.filter, "filter"),
        "OBJECT": (info.object, "object"),
        "EXPTIME": (info.exposure_time, "[s] exposure time"),
        "DATE-OBS": (info.date, "start of the exposure, UTC"),
        "MJD-MID": (info.mjd, "mid exposure, UTC"),
        "AIRMASS": (info.airmass, "airmass"),
        "VERDICT": (info.extra.get("difference", {}).get("verdict", ""), "of a difference"),
    }
    found: list[Card] = [("SMFORMAT", FORMAT_VERSION, "version of the layout of a starmill exposure")]
    for name, (value, comment) in cards.items():
        if value in ("", None) or (isinstance(value, float) and not np.isfinite(value)):
            continue
        text = str(value)[:60].encode("ascii", "replace").decode() if isinstance(value, str) else value
        found.append((name, text, comment))
    return found


def _plane_cards(planes: MaskPlanes) -> list[Card]:
    return [
        (f"HIERARCH MP_{name}", bit, planes.description(name)[: max(0, 42 - len(name))])
        for name, bit in planes.items()
    ]


def _metadata(exposure: Exposure, provenance: Any) -> dict[str, Any]:
    scale = exposure.photo_scale
    return {
        "format": FORMAT_VERSION,
        "origin": list(exposure.origin),
        "unit": exposure.unit,
        "planes": exposure.mask.planes.descriptions,
        "psf": None if exposure.psf is None else exposure.psf.to_dict(),
        "photo_scale": scale.to_dict() if isinstance(scale, Field) else scale,
        "aperture_corrections": {
            name: [value.to_dict(), error.to_dict()]
            for name, (value, error) in exposure.aperture_corrections.items()
        },
        "info": exposure.info.to_dict(),
        "detector": None if exposure.detector is None else exposure.detector.to_dict(),
        "provenance": provenance,
    }


def read_exposure(path: str | Path, hdu: int | str | None = None, *, box: Box | None = None) -> Exposure:
    """Read an exposure, or make one from any two-dimensional FITS image.

    Parameters
    ----------
    path : path
        A file of :func:`write_exposure`, or any image: extensions MASK and VARIANCE, or the ERR (standard deviation)
        and DQ beside a SCI, are used when present; the observation comes from the usual cards.
    hdu : int or str, optional
        Extension of the image in a foreign file.
    box : Box, optional
        Only these pixels (parent frame); the rest of an uncompressed file is not read.

    Returns
    -------
    exposure : Exposure
        Pixels that are NaN or infinite are zero and flagged NO_DATA. In a foreign file without planes in its
        header, a mask or DQ that is not zero becomes BAD; DQ of JWST: SATURATED becomes SAT, and ramps whose jumps
        were corrected (JUMP_DET) are good.

    Raises
    ------
    InputError
        With file, extension and reason.
    """
    with open_blocks(path) as hdus:
        _check_complete(hdus)
        number = find_image_hdu(hdus, hdu)
        header = _merged_header(hdus, number)
        meta = structure_from_hdus(hdus, "META") if "META" in hdus else {}
        origin = tuple(meta.get("origin", _origin(header)))
        section = None if box is None else box.shifted(-origin[0], -origin[1])
        image = _plane(hdus, number, section, np.float32)
        where = origin if box is None else box.origin
        error, quality = (_companion(hdus, number, name) for name in ("ERR", "DQ"))
        mask = _read_mask(hdus, section, image.shape, where)
        if "MASK" not in hdus and quality is not None:
            mask = _read_quality(hdus, quality, section, where, str(header.get("TELESCOP", "")))
        variance = _plane(hdus, "VARIANCE", section, np.float32) if "VARIANCE" in hdus else None
        if variance is None and error is not None:
            variance = _plane(hdus, error, section, np.float32) ** 2
        for name, plane in (("MASK or DQ", mask.array), ("VARIANCE or ERR", variance)):
            if plane is not None and plane.shape != image.shape:
                raise InputError(f"shape {plane.shape} differs from the image's {image.shape}", hdu=name)
        unknown = ~np.isfinite(image)
        if variance is not None:
            unknown |= ~np.isfinite(variance)
        if unknown.any():
            image[unknown] = 0
            if variance is not None:
                variance[unknown] = 0
            mask.set("NO_DATA", unknown)
        info = ObservationInfo.from_dict(meta["info"]) if "info" in meta else info_from_header(header)
        return Exposure(
            image,
            mask,
            variance,
            origin=where,
            unit=meta.get("unit") or str(header.get("BUNIT", "")).strip() or "ADU",
            wcs=wcs_from_header(header, origin),
            info=info,
            **_rich_parts(meta),
        )


def read_exposure_component(path: str | Path, name: str) -> Any:
    """Read one part of an exposure's file without its pixels.

    Parameters
    ----------
    path : path
    name : {'psf', 'wcs', 'info', 'aperture_corrections', 'photo_scale', 'detector', 'provenance', 'box'}

    Raises
    ------
    InputError
        For another name or a file that is not an exposure.
    """
    with open_blocks(path) as hdus:
        if "META" not in hdus:
            raise InputError("the file is not a starmill exposure: it has no META extension")
        meta = structure_from_hdus(hdus, "META")
        if name in ("wcs", "box"):
            header = _merged_header(hdus, hdus.index_of("IMAGE"))
            origin = tuple(meta["origin"])
            return (
                wcs_from_header(header, origin)
                if name == "wcs"
                else Box(origin[0], origin[1], header["NAXIS1"], header["NAXIS2"])
            )
        if name == "info":
            return ObservationInfo.from_dict(meta["info"])
        if name == "provenance":
            return meta.get("provenance")
        parts = _rich_parts(meta)
        if name not in parts:
            raise InputError(
                f"an exposure has no component {name!r} (known: {', '.join(parts)}, wcs, info, box)"
            )
        return parts[name]


def _rich_parts(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of an exposure that stand in META as objects."""
    scale, detector = meta.get("photo_scale"), meta.get("detector")
    parts: dict[str, Any] = {
        "psf": psf_from_dict(meta["psf"]) if meta.get("psf") else None,
        "photo_scale": field_from_dict(scale) if isinstance(scale, dict) else scale,
        "aperture_corrections": {
            name: (field_from_dict(value), field_from_dict(error))
            for name, (value, error) in meta.get("aperture_corrections", {}).items()
        },
        "detector": None,
    }
    if detector is not None:
        from starmill.datamodel.camera import Detector

        parts["detector"] = Detector.from_dict(detector)
    return parts


def _merged_header(hdus: Any, number: int) -> Any:
    if isinstance(hdus, PlainFile):
        return hdus[0].header.merged_with(hdus[number].header)
    return merged_header(hdus, number)


def _check_complete(hdus: Any) -> None:
    """Refuse a file of this package that has lost its last extensions."""
    expected = hdus[0].header.get("SMNEXT")
    if expected is not None and len(hdus) - 1 < int(expected):
        raise InputError(f"the file is truncated: {len(hdus) - 1} of {expected} extensions are there")


def _origin(header: Any) -> tuple[int, int]:
    if "SMFORMAT" not in header:
        return 0, 0  # other programs use the same cards for other frames
    return round(-float(header.get("LTV1", 0))), round(-float(header.get("LTV2", 0)))


def _plane(hdus: Any, hdu: int | str, section: Box | None, dtype: Any) -> Any:
    item = hdus[hdu]
    if section is not None:
        full = Box.from_shape(item.shape[-2:])
        if not full.contains_box(section):
            raise InputError(f"the box lies outside the image: {section} in {full}", hdu=hdu)
        data = item.section[(0,) * (len(item.shape) - 2) + section.slices()]
    else:
        data = item.data
    if data is None:
        raise InputError("the extension holds no data", hdu=hdu)
    array = np.asarray(data)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise InputError(f"the extension has {array.ndim} axes, an image has two", hdu=hdu)
    return np.array(array, dtype, order="C")


def _companion(hdus: Any, number: int, name: str) -> int | None:
    """Return the number of the extension that goes with a SCI extension, of the same version."""

    def label(i: int) -> tuple[str, int]:
        return hdus[i].name, int(hdus[i].header.get("EXTVER", 1))

    kind, version = label(number)
    if kind != "SCI":
        return None
    return next((i for i in range(len(hdus)) if label(i) == (name, version)), None)


def _read_quality(hdus: Any, number: int, section: Box | None, origin: Any, telescope: str) -> Mask:
    """Return the mask of a DQ extension."""
    flags = _plane(hdus, number, section, np.uint32)
    mask = Mask.zeros(flags.shape, origin=origin)
    if telescope.strip() == "JWST":
        mask.set("SAT", (flags & _JWST_SATURATED) != 0)
        flags &= ~np.uint32(_JWST_SATURATED | _JWST_JUMP)
    mask.set("BAD", flags != 0)
    return mask


def _read_mask(hdus: Any, section: Box | None, shape: tuple[int, int], origin: tuple[int, int]) -> Mask:
    if "MASK" not in hdus:
        return Mask.zeros(shape, origin=origin)
    array = _plane(hdus, "MASK", section, np.int32)
    header = hdus["MASK"].header
    named = {name[3:]: int(header[name]) for name in header if name.startswith("MP_")}
    if not named:
        mask = Mask.zeros(array.shape, origin=origin)
        mask.set("BAD", array != 0)
        return mask
    meanings = structure_from_hdus(hdus, "META").get("planes", {}) if "META" in hdus else {}
    target = MaskPlanes(meanings) if list(meanings) == sorted(named, key=named.__getitem__) else MaskPlanes()
    if all(target.get(name) == bit for name, bit in named.items() if name in target) and set(named) == set(
        target
    ):
        return Mask(array, target, origin)
    moved = np.zeros_like(array)
    for name, bit in named.items():
        moved |= (array >> bit & 1) << target.add(name)
    return Mask(moved, target, origin)
