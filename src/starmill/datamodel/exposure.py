"""An exposure: pixels with mask and variance, and all that is known about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.display import html_figure, show
from starmill.datamodel.field import Field
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask
from starmill.datamodel.masked_image import MaskedImage
from starmill.datamodel.psf import Psf
from starmill.errors import InputError

__all__ = ["Exposure", "ObservationInfo"]


@dataclass(frozen=True, eq=False)
class ObservationInfo:
    """When, where and with what an exposure was taken.

    Attributes
    ----------
    instrument, detector, filter, band, object, kind : str
        ``kind`` is bias, dark, flat or science; empty when unknown.
    exposure_id : int
        Unique among the exposures of an instrument; 0 when unknown.
    exposure_time, dark_time : float, second
        NaN when unknown.
    mjd : float
        Modified Julian Date (UTC) at mid exposure; NaN when unknown.
    date : str
        Start of the exposure, ISO 8601, UTC; empty when unknown.
    night : str
        Evening date of the observing night, YYYY-MM-DD; empty when unknown.
    ra, dec : float, degree
        Where the telescope pointed (ICRS); NaN when unknown.
    airmass : float
    gain : float, electron/ADU
        As it was before the image was converted to electrons; NaN when unknown.
    read_noise : float, electron
    saturation : float, in the unit of the image
    pixel_scale : float, arcsec
    extra : dict
        Anything else, plain values.
    """

    instrument: str = ""
    detector: str = ""
    filter: str = ""
    band: str = ""
    object: str = ""
    kind: str = ""
    exposure_id: int = 0
    exposure_time: float = float("nan")
    dark_time: float = float("nan")
    mjd: float = float("nan")
    date: str = ""
    night: str = ""
    ra: float = float("nan")
    dec: float = float("nan")
    airmass: float = float("nan")
    gain: float = float("nan")
    read_noise: float = float("nan")
    saturation: float = float("nan")
    pixel_scale: float = float("nan")
    extra: dict[str, Any] = field(default_factory=dict)

    def __eq__(self, other: Any) -> bool:  # noqa: PYI032  a field is called object
        """Two records are equal when all values are; an unknown number equals an unknown number."""
        if not isinstance(other, ObservationInfo):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return all(a == b or (a != a and b != b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]  # the extra values are a dictionary

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; unknown ones (NaN, empty) are left out."""
        known = {}
        for name, value in asdict(self).items():
            unknown = value in ("", 0, {}) if name != "exposure_time" else False
            if not unknown and not (isinstance(value, float) and np.isnan(value)):
                known[name] = value
        return known

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ObservationInfo:
        """Make the record from a dictionary; names that are not fields go to ``extra``."""
        names = {f.name for f in fields(cls)}
        extra = dict(data.get("extra", {}))
        extra |= {name: value for name, value in data.items() if name not in names}
        return cls(
            **{name: value for name, value in data.items() if name in names and name != "extra"}, extra=extra
        )

    def with_values(self, **values: Any) -> ObservationInfo:
        """Return a copy with other values."""
        return replace(self, **values)


class Exposure:
    r"""Image, mask and variance on one box, with PSF, WCS and what is known of the observation.

    Parameters
    ----------
    image : (ny, nx) array or MaskedImage
        In ``unit``; kept as float32.
    mask : Mask or (ny, nx) int array, optional
    variance : (ny, nx) array, unit², optional
        Zero means unknown.
    origin : (x0, y0)
        Parent-frame index of the first pixel.
    unit : str
    psf : Psf, optional
    wcs : astropy.wcs.WCS, optional
        From 0-based parent-frame pixel positions to the sky.
    photo_scale : float or Field, optional, nJy per ``unit``
    aperture_corrections : dict of str to (Field, Field), optional
        Factor and its error by which a flux of this name is multiplied.
    info : ObservationInfo, optional
    detector : Detector, optional

    Notes
    -----
    ``exposure[box]`` shares the pixels. An exposure has no arithmetic, because what would become of PSF and WCS
    is not defined; use :attr:`masked_image`.
    """

    def __init__(
        self,
        image: NDArray[Any] | MaskedImage,
        mask: Mask | NDArray[Any] | None = None,
        variance: NDArray[Any] | None = None,
        *,
        origin: tuple[int, int] = (0, 0),
        unit: str = "electron",
        psf: Psf | None = None,
        wcs: Any = None,
        photo_scale: float | Field | None = None,
        aperture_corrections: dict[str, tuple[Field, Field]] | None = None,
        info: ObservationInfo | None = None,
        detector: Any = None,
    ) -> None:
        if isinstance(image, MaskedImage):
            if mask is not None or variance is not None:
                raise InputError("a masked image brings its own mask and variance")
            self.masked_image = image
        else:
            self.masked_image = MaskedImage(image, mask, variance, origin=origin, unit=unit)
        self.psf = psf
        self.wcs = wcs
        self.photo_scale = photo_scale
        self.aperture_corrections = dict(aperture_corrections or {})
        self.info = info or ObservationInfo()
        self.detector = detector

    @property
    def image(self) -> NDArray[np.float32]:
        """Pixel values, ``[y, x]``; assign to change them."""
        return self.masked_image.image

    @image.setter
    def image(self, value: NDArray[Any]) -> None:
        self.masked_image.image[...] = value

    @property
    def mask(self) -> Mask:
        """Mask planes."""
        return self.masked_image.mask

    @property
    def variance(self) -> NDArray[np.float32]:
        """Variance of the pixels, unit², ``[y, x]``; assign to change it."""
        return self.masked_image.variance

    @variance.setter
    def variance(self, value: NDArray[Any]) -> None:
        self.masked_image.variance[...] = value

    @property
    def unit(self) -> str:
        """Unit of the image."""
        return self.masked_image.unit

    @property
    def origin(self) -> tuple[int, int]:
        """Parent-frame index ``(x0, y0)`` of the first pixel."""
        return self.masked_image.origin

    @property
    def box(self) -> Box:
        """The pixels, parent frame."""
        return self.masked_image.box

    @property
    def shape(self) -> tuple[int, int]:
        """``(ny, nx)``."""
        return self.masked_image.shape

    def _like(self, masked_image: MaskedImage) -> Exposure:
        return Exposure(
            masked_image,
            psf=self.psf,
            wcs=self.wcs,
            photo_scale=self.photo_scale,
            aperture_corrections=self.aperture_corrections,
            info=self.info,
            detector=self.detector,
        )

    def __getitem__(self, box: Box) -> Exposure:
        """Return a view of a box (parent frame) that shares the pixels."""
        return self._like(self.masked_image[box])

    def copy(self) -> Exposure:
        """Return an exposure with pixels of its own."""
        return self._like(self.masked_image.copy())

    def sky_position(self, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return right ascension and declination (degree, ICRS frame of the WCS) of parent-frame positions.

        Raises
        ------
        InputError
            When the exposure has no WCS.
        """
        if self.wcs is None:
            raise InputError("the exposure has no WCS, so pixels have no place on the sky")
        ra, dec = self.wcs.all_pix2world(np.asarray(x, np.float64), np.asarray(y, np.float64), 0)
        return np.asarray(ra), np.asarray(dec)

    def show(self, **options: Any) -> Any:
        """Draw the exposure with its mask planes and, when given, a catalogue.

        Parameters
        ----------
        **options
            ``mask`` (names of the planes to draw in colour), ``catalog`` (ellipses), ``title``; see
            :func:`starmill.diagnostics.figures.show_exposure`.

        Returns
        -------
        figure : matplotlib.figure.Figure
        """
        return show(self, **options)

    def to_ccddata(self) -> Any:
        """Return an :class:`astropy.nddata.CCDData` with standard deviation, boolean mask and WCS.

        The mask is True where BAD, SAT, CR, NO_DATA or UNMASKEDNAN is set; all planes travel in
        ``meta['starmill_mask']`` and the origin in ``meta['starmill_origin']``.
        """
        from astropy.nddata import CCDData, StdDevUncertainty

        bits = self.mask.planes.bits_present("BAD", "SAT", "CR", "NO_DATA", "UNMASKEDNAN")
        meta = {
            "starmill_mask": self.mask.array.copy(),
            "starmill_planes": self.mask.planes.descriptions,
            "starmill_origin": self.origin,
            "starmill_info": self.info.to_dict(),
        }
        return CCDData(
            self.image.copy(),
            uncertainty=StdDevUncertainty(np.sqrt(np.maximum(self.variance, 0))),
            mask=(self.mask.array & bits) != 0,
            unit=self.unit.replace("ADU", "adu"),
            wcs=_shifted_wcs(self.wcs, self.origin),
            meta=meta,
        )

    @classmethod
    def from_ccddata(cls, ccd: Any) -> Exposure:
        """Make an exposure from an :class:`astropy.nddata.CCDData`.

        A boolean mask becomes the BAD plane; planes, origin and observation written by :meth:`to_ccddata`
        come back as they were. An uncertainty of any kind becomes the variance.
        """
        from astropy.nddata import VarianceUncertainty

        from starmill.datamodel.mask import MaskPlanes

        meta = dict(ccd.meta)
        origin = tuple(meta.get("starmill_origin", (0, 0)))
        image = np.array(ccd.data, np.float32)
        if "starmill_mask" in meta:
            mask = Mask(np.array(meta["starmill_mask"]), MaskPlanes(meta["starmill_planes"]), origin)
        else:
            mask = Mask.zeros(image.shape, origin=origin)
            if ccd.mask is not None:
                mask.set("BAD", np.asarray(ccd.mask, bool))
        unknown = ~np.isfinite(image)
        if unknown.any():
            image[unknown] = 0
            mask.set("NO_DATA", unknown)
        variance = None
        if ccd.uncertainty is not None:
            variance = np.array(ccd.uncertainty.represent_as(VarianceUncertainty).array, np.float32)
        info = ObservationInfo.from_dict(meta["starmill_info"]) if "starmill_info" in meta else None
        wcs = _shifted_wcs(ccd.wcs, (-origin[0], -origin[1]))
        return cls(image, mask, variance, origin=origin, unit=str(ccd.unit), wcs=wcs, info=info)

    def __repr__(self) -> str:
        known = [name for name in ("psf", "wcs", "photo_scale") if getattr(self, name) is not None]
        return (
            f"Exposure({self.shape[1]} x {self.shape[0]} at {self.origin}, {self.unit},"
            f" {self.info.object or self.info.kind or 'no name'}; {', '.join(known) or 'no psf, no wcs'})"
        )

    def _repr_html_(self) -> str:
        used = {name: value for name, value in self.mask.fractions().items() if value > 0}
        rows = {
            "size": f"{self.shape[1]} × {self.shape[0]}, origin {self.origin}",
            "unit": self.unit,
            "object": self.info.object,
            "filter": self.info.filter,
            "exposure time": f"{self.info.exposure_time:g} s",
            "PSF": "none" if self.psf is None else f"FWHM {self.psf.fwhm_at():.2f} px",
            "WCS": "none" if self.wcs is None else "yes",
            "mask": ", ".join(f"{name} {100 * value:.2g} %" for name, value in used.items()) or "empty",
        }
        table = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"{html_figure('exposure', self)}<table>{table}</table>"


def _shifted_wcs(wcs: Any, shift: tuple[int, int]) -> Any:
    """Return a copy of a WCS for pixel positions that are smaller by ``shift``."""
    if wcs is None:
        return None
    moved = wcs.deepcopy()
    moved.wcs.crpix = [moved.wcs.crpix[0] - shift[0], moved.wcs.crpix[1] - shift[1]]
    if moved.sip is not None:
        from astropy.wcs import Sip

        sip = moved.sip
        moved.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, [sip.crpix[0] - shift[0], sip.crpix[1] - shift[1]])
    return moved
