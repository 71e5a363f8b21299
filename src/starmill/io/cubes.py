"""Maps and cubes of the sky in FITS files: unit, beam, noise and spectral axis; cubes channel by channel."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starmill.datamodel.cube import Beam, SkyMap
from starmill.errors import InputError
from starmill.io.atomic import atomic_path
from starmill.io.fits import (
    find_image_hdu,
    header_number,
    merged_header,
    open_fits,
    read_image,
    wcs_from_header,
    wcs_header,
)

__all__ = [
    "FitsCube",
    "beam_from_header",
    "cube_writer",
    "map_header",
    "open_cube",
    "read_sky_map",
    "stem_of",
    "write_map",
]

NOISE_EXTENSIONS = {
    "VARIANCE": "variance",
    "VAR": "variance",
    "ERROR": "rms",
    "ERR": "rms",
    "RMS": "rms",
    "NOISE": "rms",
}
SPECTRAL_TYPES = ("FREQ", "VELO", "VRAD", "VOPT", "WAVE", "AWAV", "ZOPT", "BETA", "FELO", "ENER")


def stem_of(path: str | Path) -> str:
    """Return the file name without ``.fits``, ``.fit``, ``.fts`` and compression endings."""
    return re.sub(r"(\.(fits|fit|fts))?(\.(gz|bz2|fz))?$", "", Path(path).name, flags=re.IGNORECASE)


def beam_from_header(header: Any, *, path: str | Path | None = None) -> Beam | None:
    """Return the beam of the cards BMAJ, BMIN, BPA (degrees) or of an AIPS HISTORY card; None without.

    Raises
    ------
    InputError
        When the cards are there but make no beam.
    """
    major = header_number(header, "BMAJ")
    if math.isfinite(major):
        minor, angle = header_number(header, "BMIN", default=major), header_number(header, "BPA", default=0.0)
        if not (major > 0 and minor > 0):
            raise InputError(f"the beam of the header is not positive: BMAJ={major}, BMIN={minor}", path=path)
        if minor > major:
            major, minor, angle = minor, major, angle + 90.0
        return Beam(major * 3600.0, minor * 3600.0, angle)
    pattern = re.compile(r"BMAJ=\s*([-+.\dE]+)\s+BMIN=\s*([-+.\dE]+)(?:\s+BPA=\s*([-+.\dE]+))?")
    found = [match for line in header.get("HISTORY", []) if (match := pattern.search(str(line)))]
    if found:
        last = found[-1]
        return Beam(float(last[1]) * 3600.0, float(last[2]) * 3600.0, float(last[3] or 0.0))
    return None


def read_sky_map(
    path: str | Path, *, hdu: int | str | None = None, beam: Beam | None = None, unit: str | None = None,
    frequency: float | None = None, noise: str | Path | None = None, weight: str | Path | None = None,
) -> SkyMap:  # fmt: skip
    """Read a map.

    Parameters
    ----------
    path : path
    hdu : int or str, optional
        Extension; the first two-dimensional image when not given.
    beam : Beam, optional
        Instead of the one of the header.
    unit : str, optional
        Instead of BUNIT.
    frequency : float, Hz, optional
        Instead of the one of the header.
    noise, weight : path, optional
        Map of the rms (same unit), or of inverse variances. Without them a VARIANCE or ERROR extension of the file
        itself is used when there is one.

    Raises
    ------
    InputError
        When unit, beam or celestial coordinates are missing or make no sense.
    """
    path = Path(path)
    with open_fits(path) as hdus:
        try:
            number = find_image_hdu(hdus, hdu)
        except InputError as error:
            sizes = [
                tuple(n for n in item.shape if n > 1) for item in hdus if getattr(item, "is_image", False)
            ]
            if hdu is None and any(len(size) == 3 for size in sizes):
                raise InputError(
                    "the file holds a cube, not a map; measure it as one (--cube, or control.datacube: true)"
                ) from error
            raise
        header = merged_header(hdus, number)
        for line in hdus[number].header.get("HISTORY", []):
            header["HISTORY"] = str(line)
        image = _plane(hdus[number])
        rms = _noise_extension(hdus, number, image.shape)
    if noise is not None or weight is not None:
        rms = _noise_file(noise, weight, image.shape)
    return _sky_map(path, header, image, rms, beam=beam, unit=unit, frequency=frequency, name=stem_of(path))


def _plane(item: Any) -> NDArray[Any]:
    data = item.data
    if data is None:
        raise InputError("the extension holds no data")
    data = np.asarray(data)
    data = data.reshape([n for n in data.shape if n > 1][-2:] if data.ndim > 2 else data.shape)
    return np.ascontiguousarray(
        data, np.float32 if data.dtype.itemsize <= 4 and data.dtype.kind == "f" else np.float64
    )


def _noise_extension(hdus: Any, number: int, shape: tuple[int, ...]) -> NDArray[Any] | None:
    for i, item in enumerate(hdus):
        kind = NOISE_EXTENSIONS.get(str(item.name).upper())
        if kind is None or i == number or not getattr(item, "is_image", False) or item.data is None:
            continue
        plane = _plane(item)
        if plane.shape == shape:
            return _rms_of(plane, kind)
    return None


def _noise_file(noise: str | Path | None, weight: str | Path | None, shape: tuple[int, ...]) -> NDArray[Any]:
    path, kind = (noise, "rms") if noise is not None else (weight, "weight")
    plane, _ = read_image(path)  # type: ignore[arg-type]
    if plane.shape != shape:
        raise InputError(f"the {kind} map has shape {plane.shape}, the map {shape}", path=path)
    return _rms_of(plane, kind)


def _rms_of(plane: NDArray[Any], kind: str) -> NDArray[np.float64]:
    plane = np.asarray(plane, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        rms = {"variance": np.sqrt(plane), "weight": 1.0 / np.sqrt(plane)}.get(kind, plane)
    return np.where(np.isfinite(rms) & (rms > 0), rms, np.nan)


_SCALE_CARDS = {"CDELT": ("1", "2"), "CD": ("1_1", "1_2", "2_1", "2_2"), "PC": ("1_1", "1_2", "2_1", "2_2")}


def _sky_map(
    path: Path, header: Any, image: NDArray[Any], rms: NDArray[Any] | None, *, beam: Beam | None, unit: str | None,
    frequency: float | None, name: str,
) -> SkyMap:  # fmt: skip
    wcs = wcs_from_header(header)
    if (
        wcs is None
        or not np.all(np.isfinite(wcs.pixel_scale_matrix))
        or not np.linalg.det(wcs.pixel_scale_matrix)
    ):
        raise InputError(
            "the header has no usable celestial coordinates (CTYPE, CRVAL, CDELT or CD cards)", path=path
        )
    if not any(f"{card}{end}" in header for card, ends in _SCALE_CARDS.items() for end in ends):
        raise InputError("the header has no pixel size (CDELT or CD cards)", path=path)
    beam = beam or beam_from_header(header, path=path)
    if beam is None:
        raise InputError(
            "the header has no beam (BMAJ, BMIN); give one or a survey with a known beam", path=path
        )
    unit = unit or str(header.get("BUNIT", "")).strip()
    if not unit:
        raise InputError("the header has no unit (BUNIT); give one", path=path)
    infinite = np.isinf(image)
    if infinite.any():
        image = np.where(infinite, np.nan, image)
    return SkyMap(
        image, wcs, beam, unit, rms, name, frequency if frequency is not None else frequency_from_header(header),
        {"path": str(path), "object": str(header.get("OBJECT", "")).strip(), "header": header},
    )  # fmt: skip


def frequency_from_header(header: Any, channel: int = 0) -> float | None:
    """Return the frequency of a map or channel in hertz, from a FREQ axis or the rest frequency; None without."""
    for axis in range(3, int(header.get("NAXIS", 0)) + 3):
        if str(header.get(f"CTYPE{axis}", "")).upper().startswith("FREQ"):
            reference, step = (
                header_number(header, f"CRPIX{axis}", default=1.0),
                header_number(header, f"CDELT{axis}", default=0.0),
            )
            value = header_number(header, f"CRVAL{axis}") + (channel + 1 - reference) * step
            scale = {"": 1.0, "HZ": 1.0, "KHZ": 1e3, "MHZ": 1e6, "GHZ": 1e9}
            value *= scale.get(str(header.get(f"CUNIT{axis}", "")).strip().upper(), math.nan)
            if math.isfinite(value) and value > 0:
                return value
    rest = header_number(header, "RESTFRQ", "RESTFREQ", "FREQ")
    return rest if math.isfinite(rest) and rest > 0 else None


class FitsCube:
    """A cube in a FITS file, read one channel at a time, so that it may be larger than the memory.

    Parameters
    ----------
    path : path
        Three axes, or four with one of length 1.
    hdu : int or str, optional
    beam : Beam, optional
        For all channels, instead of BMAJ/BMIN or of the table of beams (extension BEAMS).
    unit : str, optional
        Instead of BUNIT.
    frequency : float, Hz, optional

    Attributes
    ----------
    header : Header
    shape : (channels, ny, nx)
    spectral : (channels,) float64 array
        Value of the spectral axis at every channel, in ``spectral_unit``.
    spectral_unit, spectral_type : str
    """

    def __init__(
        self, path: str | Path, *, hdu: int | str | None = None, beam: Beam | None = None, unit: str | None = None,
        frequency: float | None = None,
    ) -> None:  # fmt: skip
        self.path, self.name = Path(path), stem_of(path)
        self._hdu, self._beam, self._unit, self._frequency = hdu, beam, unit, frequency
        with open_fits(path) as hdus:
            self._number = find_image_hdu(hdus, hdu, naxis=3)
            self.header = merged_header(hdus, self._number)
            axes = [n for n in hdus[self._number].shape if n > 1]
            if len(axes) != 3:
                full = hdus[self._number].shape
                raise InputError(
                    f"a cube has three axes longer than one, this array has the shape {full}", path=path
                )
            self.shape = tuple(axes)
            self._full_shape = hdus[self._number].shape
            self._beams = _beam_table(hdus, axes[0])
        axis = self._spectral_axis()
        self.spectral_type = str(self.header.get(f"CTYPE{axis}", "")).strip()
        self.spectral_unit = str(self.header.get(f"CUNIT{axis}", "")).strip()
        step = header_number(self.header, f"CDELT{axis}", f"CD{axis}_{axis}", default=1.0)
        start = header_number(self.header, f"CRVAL{axis}", default=0.0)
        reference = header_number(self.header, f"CRPIX{axis}", default=1.0)
        self.spectral = start + (np.arange(self.shape[0]) + 1 - reference) * step

    def _spectral_axis(self) -> int:
        count = len(self._full_shape)
        for axis in range(3, count + 1):
            if str(self.header.get(f"CTYPE{axis}", "")).upper().startswith(SPECTRAL_TYPES):
                return axis
        return next(axis for axis in range(3, count + 1) if self._full_shape[count - axis] > 1)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, channel: int) -> SkyMap:
        if not 0 <= channel < len(self):
            raise IndexError(channel)
        with open_fits(self.path) as hdus:
            count = [n > 1 for n in self._full_shape]
            leading = iter([channel])
            index = (*(next(leading, 0) if long else 0 for long in count[:-2]), slice(None), slice(None))
            item = hdus[self._number]
            data = item.section[index] if not self._compressed() else np.asarray(item.data)[index]
        kind = np.float32 if data.dtype.itemsize <= 4 and data.dtype.kind == "f" else np.float64
        beam = self._beam or (self._beams[channel] if self._beams else None)
        frequency = self._frequency or frequency_from_header(self.header, channel)
        return _sky_map(
            self.path, self.header, np.ascontiguousarray(data, kind), None, beam=beam, unit=self._unit,
            frequency=frequency, name=f"{self.name}_slice_{channel + 1:03d}",
        )  # fmt: skip

    def _compressed(self) -> bool:
        return self.path.suffix.lower() in {".gz", ".bz2"}

    def __iter__(self) -> Iterator[SkyMap]:
        return (self[channel] for channel in range(len(self)))


def open_cube(path: str | Path, **options: Any) -> FitsCube:
    """Open a cube; see :class:`FitsCube`."""
    return FitsCube(path, **options)


def _beam_table(hdus: Any, channels: int) -> list[Beam]:
    """Beams of the channels from a table extension BEAMS (columns BMAJ, BMIN, BPA); empty without."""
    for item in hdus:
        if str(item.name).upper() != "BEAMS" or getattr(item, "columns", None) is None:
            continue
        names = {name.upper(): name for name in item.columns.names}
        if not {"BMAJ", "BMIN"} <= set(names):
            continue
        scale = 1.0 if str(item.columns[names["BMAJ"]].unit or "arcsec").startswith("arcsec") else 3600.0
        rows = sorted(item.data, key=lambda row: int(row[names["CHAN"]]) if "CHAN" in names else 0)
        beams = [
            Beam(
                row[names["BMAJ"]] * scale,
                row[names["BMIN"]] * scale,
                float(row[names["BPA"]]) if "BPA" in names else 0.0,
            )
            for row in rows
        ]
        if len(beams) != channels:
            raise InputError(f"the table of beams has {len(beams)} rows, the cube {channels} channels")
        return beams
    return []


def map_header(sky_map: SkyMap, unit: str, **cards: Any) -> fits.Header:
    """Return the header of an image on the grid of a map: coordinates, beam, unit and further cards."""
    header = wcs_header(sky_map.wcs)
    header["BUNIT"] = unit
    header["BMAJ"], header["BMIN"] = sky_map.beam.major / 3600.0, sky_map.beam.minor / 3600.0
    header["BPA"] = sky_map.beam.position_angle
    if sky_map.meta.get("object"):
        header["OBJECT"] = sky_map.meta["object"]
    for name, value in cards.items():
        header[name.upper()] = value
    return header


def write_map(
    path: str | Path,
    sky_map: SkyMap,
    image: NDArray[Any],
    unit: str,
    *,
    corner: tuple[int, int] = (0, 0),
    **cards: Any,
) -> None:
    """Write an image on the grid of a map, or on a part of it that begins at pixel ``corner`` (x, y)."""
    header = map_header(sky_map, unit, **cards)
    header["CRPIX1"] -= corner[0]
    header["CRPIX2"] -= corner[1]
    with atomic_path(path) as temporary:
        fits.PrimaryHDU(np.asarray(image, np.float32), header).writeto(
            temporary, output_verify="silentfix+ignore"
        )


@contextlib.contextmanager
def cube_writer(
    path: str | Path, cube: FitsCube, unit: str, *, box: tuple[int, int, int, int] | None = None, **cards: Any
) -> Iterator[Any]:
    """Write a cube channel by channel; the file appears when the last channel is written.

    Parameters
    ----------
    path : path
    cube : FitsCube
        Gives header and shape.
    unit : str
    box : (x0, y0, width, height), optional
        Part of the plane.
    **cards
        Further header cards.

    Yields
    ------
    write : callable
        ``write(image)`` appends the next channel, (ny, nx).
    """
    x0, y0, width, height = box or (0, 0, cube.shape[2], cube.shape[1])
    header = cube.header.copy()
    header["SIMPLE"], header["BITPIX"], header["BUNIT"] = True, -32, unit
    for name in ("BSCALE", "BZERO", "BLANK", "EXTEND", "XTENSION", "PCOUNT", "GCOUNT"):
        header.remove(name, ignore_missing=True)
    header["NAXIS1"], header["NAXIS2"] = width, height
    for axis, corner in ((1, x0), (2, y0)):
        if f"CRPIX{axis}" in header:
            header[f"CRPIX{axis}"] -= corner
    for name, value in cards.items():
        header[name.upper()] = value
    written = [0]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header.tostring(padding=True).encode("ascii"))

        def write(image: NDArray[Any]) -> None:
            if image.shape != (height, width):
                raise InputError(
                    f"a channel of this cube has the shape {(height, width)}, not {image.shape}", path=path
                )
            file.write(np.asarray(image, ">f4").tobytes())
            written[0] += 1

        yield write
        if written[0] != len(cube):
            raise InputError(f"{written[0]} of {len(cube)} channels were written", path=path)
        file.write(b"\0" * (-(written[0] * width * height * 4) % 2880))
