"""A whole night: calibrations and science exposures of one field, with everything that is true about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.calibration import Linearity
from starmill.datamodel.camera import Camera
from starmill.datamodel.catalog import Catalog, Column, Schema
from starmill.datamodel.geometry import Box
from starmill.errors import InputError
from starmill.simulation.detector import (
    DetectorModel,
    cosmic_rays,
    make_detector,
    quadrant_detector,
    read_out,
)
from starmill.simulation.scene import Seeing, Sky, SourceList, add_sources, draw_sources, flux_of_magnitude

__all__ = ["Night", "NightSettings", "SimulatedFrame"]

PIXEL_SCALE = 0.5  # arcsec
ZERO_POINT = 25.5  # AB magnitude that gives one electron per second: a one-metre telescope
SKY_BRIGHTNESS = {"g": 22.0, "r": 21.0, "i": 20.3, "z": 19.5}  # AB magnitude per arcsec^2, dark moonless site
EXTINCTION = {"g": 0.18, "r": 0.10, "i": 0.06, "z": 0.05}  # magnitude per airmass
_MARGIN = 40  # pixels by which the drawn field is larger than a frame on each side
_BIAS, _DARK, _FLAT, _SCIENCE, _FIELD = range(5)


@dataclass(frozen=True)
class NightSettings:
    """What is simulated.

    Attributes
    ----------
    size : int, pixel
        Side of the chip; even.
    bands : tuple of str
        Of g, r, i, z.
    epochs : int
        Science exposures in each band.
    n_bias, n_dark, n_flat : int
        Calibration frames (flats: in each band).
    exposure_time, dark_time : float, second
    seed : int
        The same seed gives the same pixels.
    density : float, 1/arcmin^2
        Of stars and galaxies.
    n_transients : int
    cosmic_ray_rate : float, 1/(s Mpixel)
    cadence : float, minute
        From one exposure of a band to the next.
    center : (float, float), degree
        Right ascension and declination of the field.
    """

    size: int = 1024
    bands: tuple[str, ...] = ("g", "r")
    epochs: int = 3
    n_bias: int = 5
    n_dark: int = 3
    n_flat: int = 3
    exposure_time: float = 60.0
    dark_time: float = 120.0
    seed: int = 1
    density: float = 20.0
    n_transients: int = 6
    cosmic_ray_rate: float = 1.0
    cadence: float = 20.0
    center: tuple[float, float] = (150.1, 2.2)

    def __post_init__(self) -> None:
        unknown = [band for band in self.bands if band not in SKY_BRIGHTNESS]
        if unknown or not self.bands:
            raise InputError(f"bands are of {', '.join(SKY_BRIGHTNESS)}, not {unknown or 'none'}")
        if min(self.epochs, self.n_bias, self.n_dark, self.n_flat, self.n_transients) < 0:
            raise InputError("numbers of frames and transients cannot be negative")
        if not (self.exposure_time > 0 and self.dark_time > 0 and self.cadence > 0):
            raise InputError("exposure time, dark time and cadence must be positive")
        if self.size % 2 or self.size < 64:
            raise InputError(f"the simulated chip needs an even side of at least 64 pixels, not {self.size}")


@dataclass(frozen=True)
class SimulatedFrame:
    """One raw frame and the truth about it.

    Attributes
    ----------
    name : str
        Name of its file without the suffix.
    kind : str
        bias, dark, flat or science.
    raw : (rows, columns) uint16 array, adu
        All amplifiers at their raw boxes.
    header : dict
        Cards of the primary header.
    wcs : astropy WCS or None
        Of the assembled image.
    truth : Catalog or None
        Science: every source in the frame with position and electrons.
    flags : (ny, nx) uint8 array or None
        Science: bit 0 hit by a cosmic ray, bit 1 saturated.
    """

    name: str
    kind: str
    raw: NDArray[np.uint16]
    header: dict[str, Any]
    wcs: Any = None
    truth: Catalog | None = None
    flags: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Variables:
    """Transients (with brightness by epoch) and a moving object."""

    sources: SourceList
    brightness: NDArray[np.float64]
    mover_start: tuple[float, float]
    mover_rate: tuple[float, float]
    mover_magnitude: float


@dataclass
class Night:
    """A simulated night; frames are made one at a time, always the same for the same settings.

    Parameters
    ----------
    settings : NightSettings
    camera : Camera
        Gives crosstalk and non-linearity (the ``simcam`` description).
    """

    settings: NightSettings
    camera: Camera
    model: DetectorModel = field(init=False)
    sources: SourceList = field(init=False)

    def __post_init__(self) -> None:
        linearity = {
            name: Linearity.from_dict(values["linearity"])
            for name, values in self.camera.amplifiers.items()
            if "linearity" in values
        }
        described = self.camera.detector()
        size = self.settings.size
        detector = quadrant_detector(
            (size, size), described.name, crosstalk=described.crosstalk, linearity=linearity
        )
        rng = self._rng(_FIELD)
        self.model = make_detector(rng, detector)
        self.box = Box(0, 0, size, size)
        self.sources = draw_sources(
            rng, self.wcs(), self.box.grow(_MARGIN), self.settings.bands, density=self.settings.density
        )
        self._variables = self._draw_variables(rng)

    def frames(self) -> Iterator[SimulatedFrame]:
        """Make all frames: biases, darks, flats, science exposures in the order of time."""
        settings = self.settings
        for k in range(settings.n_bias):
            yield self._calibration("bias", k)
        for k in range(settings.n_dark):
            yield self._calibration("dark", k)
        for number, _ in enumerate(settings.bands):
            for k in range(settings.n_flat):
                yield self._calibration("flat", k, number)
        for epoch in range(settings.epochs):
            for number, _ in enumerate(settings.bands):
                yield self.science(number, epoch)

    def science(self, band_number: int, epoch: int) -> SimulatedFrame:
        """Make one science exposure."""
        settings, band = self.settings, self.settings.bands[band_number]
        rng = self._rng(_SCIENCE, band_number, epoch)
        wcs = self.wcs(*rng.uniform(-0.3 * _MARGIN, 0.3 * _MARGIN, 2))
        airmass = 1.0 + 0.08 * epoch + 0.02 * band_number
        clear = 10 ** (-0.4 * EXTINCTION[band] * airmass) * (1 - 0.1 * rng.random())
        seeing = Seeing(
            fwhm=float(rng.uniform(2.5, 3.3)),
            tilt_x=float(rng.normal(0, 0.02)),
            tilt_y=float(rng.normal(0, 0.02)),
        )
        dark_sky = flux_of_magnitude(SKY_BRIGHTNESS[band], ZERO_POINT, 1.0) * PIXEL_SCALE**2
        gradient = (float(rng.normal(0, 0.03)), float(rng.normal(0, 0.03)))
        sky = Sky(float(dark_sky * rng.uniform(0.9, 1.3)), gradient, phase=float(rng.uniform(0, 2 * np.pi)))
        light = sky.image(self.box)
        light *= np.float32(settings.exposure_time)
        truth = self._true_sources(wcs, band, epoch, clear, seeing)
        add_sources(
            light, truth["x"], truth["y"], truth["flux"], truth["fwhm"], truth["e1"], truth["e2"], seeing.beta,
            noise=float(np.sqrt(np.median(light))),
        )  # fmt: skip
        light *= self.model.flat(band_number)
        count = rng.poisson(settings.cosmic_ray_rate * settings.exposure_time * self.box.area * 1e-6)
        tracks = cosmic_rays(rng, self.box.shape, int(count))
        raw, saturated = read_out(rng, self.model, light, settings.exposure_time, tracks)
        flags = (tracks > 0).astype(np.uint8) | (saturated.astype(np.uint8) << 1)
        mjd = self._mjd(band_number, epoch)
        header = self._header("object", 4000 + 100 * band_number + epoch, mjd, settings.exposure_time, band)
        header |= {"OBJECT": "FIELD1", "AIRMASS": round(airmass, 3)}
        header |= {"RA": settings.center[0], "DEC": settings.center[1]}
        name = f"science_{band}_{epoch:03d}"
        meta = {
            "frame": name, "band": band, "epoch": epoch, "fwhm": seeing.fwhm, "beta": seeing.beta,
            "transparency": float(clear), "zero_point": ZERO_POINT, "sky": sky.level * settings.exposure_time,
        }  # fmt: skip
        inside = self.box.grow(10).contains(truth["x"], truth["y"])
        catalog = _truth_catalog({key: values[inside] for key, values in truth.items()}, meta)
        return SimulatedFrame(name, "science", raw, header, wcs, catalog, flags)

    def reference(self) -> Catalog:
        """Return the reference catalogue: every steady source with position and magnitudes."""
        sources, bands = self.sources, self.settings.bands
        columns = [
            Column("id", "i8", "", "unique number of the source"),
            Column("ra", "f8", "deg", "right ascension, ICRS"),
            Column("dec", "f8", "deg", "declination, ICRS"),
            Column("extended", "bool", "", "a galaxy"),
            *[Column(f"{band}_mag", "f8", "mag", f"AB magnitude in {band}") for band in bands],
        ]
        values: dict[str, Any] = {
            "id": np.arange(1, len(sources) + 1), "ra": sources.ra, "dec": sources.dec, "extended": sources.galaxy,
        }  # fmt: skip
        values |= {f"{band}_mag": sources.magnitude[band] for band in bands}
        return Catalog(Schema(columns), values)

    def variables(self) -> Catalog:
        """Return transients and the moving object: position and magnitude at every epoch and band."""
        rows: dict[str, list[Any]] = {
            name: [] for name in ("id", "kind", "epoch", "band", "mjd", "ra", "dec", "mag")
        }
        found, moving = self._variables, len(self._variables.sources)
        for epoch in range(self.settings.epochs):
            for number, band in enumerate(self.settings.bands):
                ra, dec = self._mover_position(self._mjd(number, epoch))
                for k in range(moving + 1):
                    is_mover = k == moving
                    share = 1.0 if is_mover else found.brightness[k, epoch]
                    steady = found.mover_magnitude if is_mover else found.sources.magnitude[band][k]
                    rows["id"].append(100001 + k)
                    rows["kind"].append("mover" if is_mover else "transient")
                    rows["epoch"].append(epoch)
                    rows["band"].append(band)
                    rows["mjd"].append(self._mjd(number, epoch))
                    rows["ra"].append(ra if is_mover else found.sources.ra[k])
                    rows["dec"].append(dec if is_mover else found.sources.dec[k])
                    rows["mag"].append(steady - 2.5 * np.log10(share) if share > 0 else np.inf)
        columns = [
            Column("id", "i8", "", "unique number of the object"),
            Column("kind", "U9", "", "transient or mover"),
            Column("epoch", "i4", "", "number of the exposure in its band"),
            Column("band", "U1", "", "band"),
            Column("mjd", "f8", "d", "start of the exposure, UTC"),
            Column("ra", "f8", "deg", "right ascension, ICRS"),
            Column("dec", "f8", "deg", "declination, ICRS"),
            Column("mag", "f8", "mag", "AB magnitude; infinite when not there"),
        ]
        return Catalog(Schema(columns), {name: np.array(values) for name, values in rows.items()})

    def wcs(self, dx: float = 0.0, dy: float = 0.0) -> Any:
        """Return the WCS of an exposure whose field centre lies dx, dy pixels from the chip's centre."""
        from astropy.wcs import WCS

        size = self.settings.size
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = list(self.settings.center)
        wcs.wcs.crpix = [size / 2 + 0.5 + dx, size / 2 + 0.5 + dy]
        wcs.wcs.cdelt = [-PIXEL_SCALE / 3600, PIXEL_SCALE / 3600]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        return wcs

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *key])

    def _mjd(self, band_number: int, epoch: int) -> float:
        minutes = epoch * self.settings.cadence + band_number * (self.settings.exposure_time + 60.0) / 60.0
        return 60000.125 + minutes / 1440

    def _calibration(self, kind: str, k: int, band_number: int = 0) -> SimulatedFrame:
        settings = self.settings
        band = settings.bands[band_number] if kind == "flat" else ""
        if kind == "bias":
            rng, light, time, first = self._rng(_BIAS, k), None, 0.0, 1000
        elif kind == "dark":
            rng, light, time, first = self._rng(_DARK, k), None, settings.dark_time, 2000
        else:
            rng = self._rng(_FLAT, band_number, k)
            light = self.model.flat(band_number) * np.float32(rng.uniform(32000, 38000))
            time, first = 5.0, 3000 + 100 * band_number
        rays = None
        if kind == "dark":
            count = rng.poisson(settings.cosmic_ray_rate * time * self.box.area * 1e-6)
            rays = cosmic_rays(rng, self.box.shape, int(count))
        raw, _ = read_out(rng, self.model, light, time, rays)
        header = self._header(kind, first + k, 59999.95 + 1e-3 * (first + k) / 10, time, band)
        return SimulatedFrame(f"{kind}{'_' + band if band else ''}_{k:03d}", kind, raw, header)

    def _header(self, kind: str, number: int, mjd: float, time: float, band: str) -> dict[str, Any]:
        day = np.datetime64("1858-11-17T00:00:00.000") + np.timedelta64(round(mjd * 86400000), "ms")
        header: dict[str, Any] = {
            "INSTRUME": self.camera.name, "IMAGETYP": kind, "EXPID": number, "EXPTIME": 0.0 if kind == "dark" else time,
            "DARKTIME": time, "DATE-OBS": str(day), "MJD-OBS": round(mjd, 8), "TIMESYS": "UTC",
        }  # fmt: skip
        if kind == "dark":
            header["EXPTIME"] = time
        if band:
            header["FILTER"] = band
        return header

    def _draw_variables(self, rng: np.random.Generator) -> _Variables:
        settings, n = self.settings, self.settings.n_transients
        x, y = (rng.uniform(0.08 * settings.size, 0.92 * settings.size, n) for _ in range(2))
        sky = self.wcs().pixel_to_world(x, y)
        ra, dec = np.array(sky.ra.deg, float), np.array(sky.dec.deg, float)
        hosts = np.flatnonzero(self.sources.galaxy & (self.sources.magnitude[settings.bands[0]] < 22))
        for k in range(0, min(n, len(hosts)), 2):  # every second one sits in a galaxy
            host = hosts[rng.integers(len(hosts))]
            offset = rng.normal(0, 0.3 * self.sources.size[host] / 3600, 2)
            ra[k], dec[k] = self.sources.ra[host] + offset[0], self.sources.dec[host] + offset[1]
        magnitude = rng.uniform(18.0, 20.5, n)
        none = np.zeros(n)
        sources = SourceList(
            ra, dec, dict.fromkeys(settings.bands, magnitude), none.astype(bool), none, none, none
        )
        peak, width = rng.uniform(1, max(settings.epochs, 2), n), rng.uniform(0.6, 1.5, n)
        epochs = np.arange(settings.epochs)
        brightness = np.exp(-0.5 * ((epochs[None, :] - peak[:, None]) / width[:, None]) ** 2)
        brightness[:, :1] = 0.0  # the first epoch is the template
        start = self.wcs().pixel_to_world(*rng.uniform(0.3 * settings.size, 0.7 * settings.size, 2))
        angle, rate = rng.uniform(0, 2 * np.pi), rng.uniform(20, 40)
        return _Variables(
            sources, brightness, (float(start.ra.deg), float(start.dec.deg)),
            (rate * np.cos(angle), rate * np.sin(angle)), float(rng.uniform(18.0, 19.5)),
        )  # fmt: skip

    def _mover_position(self, mjd: float) -> tuple[float, float]:
        """Return the moving object's place; its rate is in arcsec/h along RA cos(Dec) and Dec."""
        hours = (mjd - self._mjd(0, 0)) * 24
        ra, dec = self._variables.mover_start
        along_ra, along_dec = (rate * hours / 3600 for rate in self._variables.mover_rate)
        return ra + along_ra / np.cos(np.radians(dec)), dec + along_dec

    def _true_sources(
        self, wcs: Any, band: str, epoch: int, clear: float, seeing: Seeing
    ) -> dict[str, NDArray[Any]]:
        """Return id, kind, position, electrons and profile of everything in one exposure."""
        steady, found = self.sources, self._variables
        mover = self._mover_position(self._mjd(self.settings.bands.index(band), epoch))
        n, m = len(steady), len(found.sources)
        ra = np.concatenate([steady.ra, found.sources.ra, [mover[0]]])
        dec = np.concatenate([steady.dec, found.sources.dec, [mover[1]]])
        x, y = wcs.wcs_world2pix(ra, dec, 0)
        magnitude = np.concatenate(
            [steady.magnitude[band], found.sources.magnitude[band], [found.mover_magnitude]]
        )
        share = np.concatenate([np.ones(n), found.brightness[:, epoch], [1.0]])
        flux = flux_of_magnitude(magnitude, ZERO_POINT, self.settings.exposure_time) * share * clear
        size = np.concatenate([steady.size, np.zeros(m + 1)]) / PIXEL_SCALE
        fwhm, e1, e2 = seeing.at(x, y, self.box)
        mix = fwhm**2 / (fwhm**2 + size**2)  # shapes add like second moments
        e1 = e1 * mix + np.concatenate([steady.e1, np.zeros(m + 1)]) * (1 - mix)
        e2 = e2 * mix + np.concatenate([steady.e2, np.zeros(m + 1)]) * (1 - mix)
        return {
            "id": np.concatenate([np.arange(1, n + 1), 100001 + np.arange(m + 1)]),
            "kind": np.concatenate([np.where(steady.galaxy, 1, 0), np.full(m, 2), [3]]),
            "x": x, "y": y, "ra": ra, "dec": dec, "magnitude": magnitude, "flux": flux,
            "fwhm": np.hypot(fwhm, size), "e1": e1, "e2": e2,
        }  # fmt: skip


def _truth_catalog(values: Mapping[str, NDArray[Any]], meta: dict[str, Any]) -> Catalog:
    columns = [
        Column("id", "i8", "", "unique number of the source; above 100000 transients and the mover"),
        Column("kind", "i4", "", "0 star, 1 galaxy, 2 transient, 3 moving object"),
        Column("x", "f8", "pixel", "true position"),
        Column("y", "f8", "pixel", "true position"),
        Column("ra", "f8", "deg", "right ascension, ICRS"),
        Column("dec", "f8", "deg", "declination, ICRS"),
        Column("magnitude", "f8", "mag", "AB magnitude (of a transient: at its peak)"),
        Column("flux", "f8", "electron", "expected electrons where the flat is one"),
        Column("fwhm", "f8", "pixel", "full width at half maximum of the profile"),
        Column("e1", "f8", "", "ellipticity along x"),
        Column("e2", "f8", "", "ellipticity along the diagonal"),
    ]
    return Catalog(Schema(columns), dict(values), meta=meta)
