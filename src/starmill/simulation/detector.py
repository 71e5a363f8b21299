"""What a detector does to light: the forward model that instrument signature removal inverts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.calibration import Crosstalk, Linearity
from starmill.datamodel.camera import Amplifier, Detector
from starmill.datamodel.geometry import Box
from starmill.errors import InputError

__all__ = [
    "DetectorModel",
    "bleed",
    "cosmic_rays",
    "distort_linearity",
    "make_detector",
    "quadrant_detector",
    "read_out",
]

Image = NDArray[np.float32]

OVERSCAN = 32
GAINS = (1.50, 1.42, 1.58, 1.47)  # electron/adu
READ_NOISES = (5.0, 4.6, 5.4, 4.9)  # electron
BIAS_LEVELS = (1000.0, 1120.0, 950.0, 1060.0)  # adu
FULL_WELL = 85000.0  # electron


@dataclass(frozen=True)
class DetectorModel:
    """A detector with everything that it does to an exposure.

    Attributes
    ----------
    detector : Detector
        Amplifiers with their raw sections, gains, noise, linearity; crosstalk.
    bias_level : (n,) array, adu
        Of each amplifier.
    bias_structure : (ny, nx) float32 array, electron
        Fixed pattern that the overscan does not see.
    dark_rate : (ny, nx) float32 array, electron/s
        With hot pixels.
    response : (ny, nx) float32 array
        Relative sensitivity of the pixels, without vignetting.
    vignetting : (ny, nx) float32 array
        Illumination relative to the centre.
    full_well : float, electron
    bad_columns : tuple of int
        Columns that see almost no light.
    """

    detector: Detector
    bias_level: NDArray[np.float64]
    bias_structure: Image
    dark_rate: Image
    response: Image
    vignetting: Image
    full_well: float
    bad_columns: tuple[int, ...]

    @property
    def box(self) -> Box:
        """The imaging pixels."""
        return self.detector.box

    def flat(self, band_number: int = 0) -> Image:
        """Return the relative throughput of each pixel in a band, with median 1 in the central quarter.

        That is how master flats are scaled, so that reduced fluxes and true fluxes are on one scale. Dust rings differ
        from band to band.
        """
        ny, nx = self.box.shape
        x0, y0 = nx * (0.3 + 0.13 * band_number), ny * (0.6 - 0.17 * band_number)
        y, x = np.ogrid[:ny, :nx]
        radius = np.hypot(x - x0, y - y0) / (0.02 * nx)
        dust = 1 - 0.08 * np.exp(-0.5 * ((radius - 1) / 0.3) ** 2)
        flat = self.response * self.vignetting * dust
        middle = flat[ny // 4 : ny - ny // 4, nx // 4 : nx - nx // 4]
        return np.asarray(flat / np.median(middle), np.float32)


def quadrant_detector(
    shape: tuple[int, int],
    name: str = "sim",
    *,
    crosstalk: Crosstalk | None = None,
    linearity: Mapping[str, Linearity] | None = None,
) -> Detector:
    """Return a detector of four amplifiers A to D that are read towards the corners of the chip.

    Each amplifier is an image of its own in readout order, ``OVERSCAN`` columns wider than its imaging
    part; in the raw frame they are stacked upwards.

    Parameters
    ----------
    shape : (int, int)
        ``(ny, nx)`` of the assembled image; even, at least 64.
    name : str
    crosstalk : Crosstalk, optional
    linearity : mapping of str to Linearity, optional
        By amplifier.
    """
    ny, nx = shape
    if ny % 2 or nx % 2 or min(ny, nx) < 64:
        raise InputError(f"the simulated chip needs even sides of at least 64 pixels, not {nx} x {ny}")
    height, width = ny // 2, nx // 2
    amplifiers = []
    for k, letter in enumerate("ABCD"):
        right, upper = bool(k % 2), k >= 2
        linear = (linearity or {}).get(letter, Linearity())
        full = Amplifier(
            name=letter,
            raw_box=Box(0, k * height, width + OVERSCAN, height),
            raw_data_box=Box(0, k * height, width, height),
            raw_overscan_box=Box(width, k * height, OVERSCAN, height),
            box=Box(width if right else 0, height if upper else 0, width, height),
            flip_x=right,
            flip_y=upper,
            gain=GAINS[k],
            read_noise=READ_NOISES[k],
            linearity=linear,
        )
        top = distort_linearity(np.array([0.985 * FULL_WELL / GAINS[k]]), linear)[0] + BIAS_LEVELS[k]
        amplifiers.append(replace(full, saturation=float(round(top)), extension=letter))
    return Detector(name, tuple(amplifiers), crosstalk)


def make_detector(rng: np.random.Generator, detector: Detector) -> DetectorModel:
    """Draw the defects and patterns of a detector.

    Parameters
    ----------
    rng : numpy Generator
    detector : Detector

    Returns
    -------
    model : DetectorModel
    """
    ny, nx = detector.box.shape
    u = np.linspace(-1, 1, nx, dtype=np.float32)[None, :]
    v = np.linspace(-1, 1, ny, dtype=np.float32)[:, None]
    columns = rng.normal(0, 1.5, nx).astype(np.float32)
    structure = 3 * np.exp(-4 * (1 + v)) + 2 * u * v + columns[None, :]
    dark = np.full((ny, nx), 0.02, np.float32) * (1 + 0.3 * u)
    n_hot = max(4, int(2e-4 * nx * ny))
    dark[rng.integers(0, ny, n_hot), rng.integers(0, nx, n_hot)] += (
        rng.exponential(20, n_hot).astype(np.float32) + 2
    )
    response = 1 + 0.01 * rng.standard_normal((ny, nx), np.float32)
    bad = np.sort(rng.choice(np.arange(8, nx - 8), 3, replace=False))
    for x in bad:
        response[rng.integers(0, ny // 2) :, x] *= np.float32(0.05)
    vignetting = (1 - 0.12 * (u**2 + v**2) ** 2 / 4 - 0.06 * (u**2 + v**2) / 2).astype(np.float32)
    return DetectorModel(
        detector,
        np.array(BIAS_LEVELS[: len(detector.amplifiers)]),
        structure.astype(np.float32),
        dark,
        response,
        vignetting,
        FULL_WELL,
        tuple(int(x) for x in bad),
    )


def cosmic_rays(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Image:
    """Draw tracks of charged particles.

    Parameters
    ----------
    rng : numpy Generator
    shape : (int, int)
    count : int
        Number of tracks; half of them are short.

    Returns
    -------
    charge : (ny, nx) float32 array, electron
    """
    ny, nx = shape
    charge = np.zeros(shape, np.float32)
    for _ in range(count):
        length = rng.exponential(2.0 if rng.random() < 0.5 else 12.0)
        angle = rng.uniform(0, 2 * np.pi)
        steps = np.arange(0, length + 0.25, 0.25)  # quarter pixels: no gaps in the track
        x = np.floor(rng.uniform(0, nx) + steps * np.cos(angle)).astype(int)
        y = np.floor(rng.uniform(0, ny) + steps * np.sin(angle)).astype(int)
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
        # a minimum ionising particle frees 80 electrons per micrometre; 15 micrometre pixels
        energy = 300.0 * rng.gamma(3.0, 1.0, steps.size).astype(np.float32)
        np.add.at(charge, (y[inside], x[inside]), energy[inside])
    return charge


def bleed(charge: Image, full_well: float, detector: Detector) -> NDArray[np.bool_]:
    """Let pixels that hold more than the full well spill along their column, in place.

    The excess of a pixel flows half upwards, half downwards, into the next pixels that have room; what
    reaches the end of the amplifier's column is lost.

    Parameters
    ----------
    charge : (ny, nx) float32 array, electron
        Changed.
    full_well : float, electron
    detector : Detector

    Returns
    -------
    saturated : (ny, nx) bool array
    """
    for amplifier in detector.amplifiers:
        part = charge[amplifier.box.slices()]
        for x in np.flatnonzero((part > full_well).any(axis=0)):
            part[:, x] = _bleed_column(part[:, x].astype(np.float64), full_well)
    return charge >= full_well * (1 - 1e-6)


def _bleed_column(column: NDArray[np.float64], full_well: float) -> NDArray[np.float64]:
    over = np.maximum(column - full_well, 0)
    column = np.minimum(column, full_well)
    for step in (1, -1):
        carried = 0.0
        order = range(len(column)) if step == 1 else range(len(column) - 1, -1, -1)
        for y in order:
            room = full_well - column[y]
            if carried > 0 and room > 0:
                moved = min(room, carried)
                column[y] += moved
                carried -= moved
            carried += 0.5 * over[y]
    return column


def distort_linearity(signal: Any, linearity: Linearity) -> Any:
    """Return what an amplifier measures, adu: the inverse of the correction, by Newton's method.

    Parameters
    ----------
    signal : array, adu
        True signal above the bias.
    linearity : Linearity
        Polynomial or squared: true = x + sum_k c_k x^(k+2).
    """
    signal = np.asarray(signal)
    if linearity.kind == "none":
        return signal
    if linearity.kind not in ("polynomial", "squared"):
        raise InputError(f"only polynomial non-linearity can be simulated, not {linearity.kind!r}")
    if len(linearity.coefficients) == 1:
        c = linearity.coefficients[0]
        return 2 * signal / (1 + np.sqrt(1 + 4 * c * signal))
    series = np.array([0.0, 1.0, *linearity.coefficients])
    slope = np.polynomial.polynomial.polyder(series)
    x = np.array(signal, np.float64)
    for _ in range(8):
        value = np.polynomial.polynomial.polyval(x, series) - signal
        x -= value / np.polynomial.polynomial.polyval(x, slope)
    return x


def read_out(
    rng: np.random.Generator,
    model: DetectorModel,
    light: Image | None,
    dark_time: float,
    charge: Image | None = None,
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Expose and read a frame.

    Parameters
    ----------
    rng : numpy Generator
    model : DetectorModel
    light : (ny, nx) float32 array, electron, or None
        Expected photo-electrons of the exposure, vignetting and response included.
    dark_time : float, second
        Zero for a bias.
    charge : (ny, nx) float32 array, electron, optional
        Added without noise: cosmic rays.

    Returns
    -------
    raw : (rows, columns) uint16 array, adu
        All amplifiers at their raw boxes.
    saturated : (ny, nx) bool array
        Pixels that reached the full well.
    """
    expected = np.zeros(model.box.shape, np.float32) if light is None else light
    if dark_time > 0:
        expected = expected + np.float32(dark_time) * model.dark_rate
    electrons = _poisson(rng, expected) if light is not None or dark_time > 0 else expected.copy()
    if charge is not None:
        electrons += charge
    saturated = bleed(electrons, model.full_well, model.detector)
    signals = _measured_signals(model, electrons)
    raw = np.zeros(model.detector.raw_shape, np.uint16)
    for k, amplifier in enumerate(model.detector.amplifiers):
        rows, columns = amplifier.raw_box.height, amplifier.raw_box.width
        noise = rng.standard_normal((rows, columns), np.float32) * np.float32(amplifier.read_noise)
        drift = np.cumsum(rng.normal(0, 0.3, rows)) * np.exp(
            -np.arange(rows) / 60.0
        )  # warm-up of the first rows
        adu = noise / np.float32(amplifier.gain)
        adu += (model.bias_level[k] + drift)[:, None].astype(np.float32)
        data = amplifier.raw_data_box.shifted(-amplifier.raw_box.x0, -amplifier.raw_box.y0)
        adu[data.slices()] += signals[k] / np.float32(amplifier.gain)
        raw[amplifier.raw_box.slices()] = np.clip(np.rint(adu), 0, 65535).astype(np.uint16)
    return raw, saturated


def _measured_signals(model: DetectorModel, electrons: Image) -> list[Image]:
    """Return each amplifier's pixels in raw order, electron: structure, non-linearity, crosstalk."""
    signals: list[Image] = []
    for amplifier in model.detector.amplifiers:
        section = amplifier.box.slices()
        true = (electrons[section] + model.bias_structure[section]) / np.float32(amplifier.gain)
        measured = np.float32(amplifier.gain) * np.asarray(
            distort_linearity(true, amplifier.linearity), np.float32
        )
        signals.append(measured[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1])
    crosstalk = model.detector.crosstalk
    if crosstalk is None:
        return signals
    mixed = []
    for i, own in enumerate(signals):
        total = own.copy()
        for j, other in enumerate(signals):
            if crosstalk.linear[i][j] != 0:
                total += np.float32(crosstalk.linear[i][j]) * other
        mixed.append(total)
    return mixed


def _poisson(rng: np.random.Generator, expected: Image) -> Image:
    """Draw Poisson numbers; above 200 a rounded Gaussian is as good and ten times faster."""
    noisy = expected + np.sqrt(np.maximum(expected, 0)) * rng.standard_normal(expected.shape, np.float32)
    np.rint(noisy, out=noisy)
    faint = expected < 200
    if faint.any():
        noisy[faint] = rng.poisson(np.maximum(expected[faint], 0)).astype(np.float32)
    return noisy
