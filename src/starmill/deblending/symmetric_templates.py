"""Deblending with symmetric templates.

Every peak of a blend gets a template: the fitted point-spread function when the peak is a point source,
else the minimum of the image and its mirror image about the peak, smoothed and forced to decline outwards.
The pixels of the parent are shared in proportion to the templates (Lupton et al., SDSS photometric
pipeline; Bosch et al. 2018, PASJ 70, S5, section 4.8 describes the descendant of it).

Notes
-----
Variances are shared like the pixels, so that those of the children add up to that of the parent;
``keep_parent_variance`` gives every child the whole variance instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.laplacian import selection_network
from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import Psf
from starmill.deblending.children import Deblended, collect, usable_parents
from starmill.errors import AlgorithmError, InputError
from starmill.kernels import symmetric_deblending as kernel
from starmill.kernels.spans import count_masked
from starmill.numerics.tiles import map_tiles

__all__ = ["CHILD_VALUES", "SymmetricRules", "deblend_symmetric", "image_noise"]

EDGE_RULES = {"clip": 0, "ramp": 1, "noclip": 2}
STRAY_RULES = {"trim": 0, "r_to_peak": 1, "r_to_footprint": 2, "nearest_footprint": 3}
STRAY_TO_PSF = {"necessary": 0, "always": 1, "never": 2}
CHUNK_PEAKS = 500  # whose PSF images are held at a time
BIG_WORK = 5  # parents with small templates may have this multiple of the usual work
CHILD_VALUES = {
    "as_psf": "bool",
    "psf_flux": "f8",
    "psf_x": "f8",
    "psf_y": "f8",
    "psf_chi2": "f8",
    "ramped_template": "bool",
    "has_stray_flux": "bool",
    "peak": "i4",
}
"""Columns of the children: flags, fitted PSF flux, position and reduced chi squared, number of the peak."""


@dataclass(frozen=True)
class SymmetricRules:
    """The choices of the symmetric-template deblender.

    Attributes
    ----------
    edge_handling : {'ramp', 'clip', 'noclip'}
        What happens to a template that is bright where the footprint ends.
    stray_rule : {'trim', 'r_to_peak', 'r_to_footprint', 'nearest_footprint'}
        Who gets the pixels that no template covers.
    stray_to_psf : {'necessary', 'always', 'never'}
        Whether point sources take part in that.
    clip_stray_fraction : float
        Smaller parts of stray flux are dropped.
    psf_chi2 : (float, float, float)
        Largest reduced chi squared of a point source: plain, with shift, at the shifted place.
    psf_sweeps : int
        Rounds of these fits; from the second on, neighbours stand where they were found, not on their peak pixel.
    median_smooth : bool
        Smooth templates with a 5 x 5 median.
    remove_degenerate : bool
        Drop the fainter of two peaks whose templates are alike.
    max_overlap : float
        Cosine between two templates above which they are alike.
    keep_parent_variance : bool
        Children get the variance of the whole pixel.
    max_area, max_width, max_peaks, max_work : int
        Limits of a parent: pixels, side of its box, peaks (the brightest are kept), pixels of all templates.
    big_parent_radius : int, pixel
        Parents beyond ``max_area`` are deblended with templates of at most this half size, so that their cost grows
        with the number of peaks only; 0 skips them.
    max_big_peaks : int
        Largest number of peaks of such a parent.
    min_axis_ratio, max_masked : float
        Further limits of a parent.
    """

    edge_handling: Literal["ramp", "clip", "noclip"] = "ramp"
    stray_rule: Literal["trim", "r_to_peak", "r_to_footprint", "nearest_footprint"] = "trim"
    stray_to_psf: Literal["necessary", "always", "never"] = "necessary"
    clip_stray_fraction: float = 0.001
    psf_chi2: tuple[float, float, float] = (1.5, 1.5, 1.5)
    psf_sweeps: int = 2
    median_smooth: bool = True
    remove_degenerate: bool = False
    max_overlap: float = 0.5
    keep_parent_variance: bool = False
    max_area: int = 10_000
    max_width: int = 0
    max_peaks: int = 500
    max_work: int = 20_000_000
    big_parent_radius: int = 0
    max_big_peaks: int = 10_000
    min_axis_ratio: float = 0.0
    max_masked: float = 0.25


def image_noise(
    variance: NDArray[Any], mask: NDArray[np.int32] | None = None, bad_bits: int = 0, stride: int = 4
) -> float:
    """Return the square root of the median variance of good pixels (a regular sample of them).

    Parameters
    ----------
    variance : (ny, nx) array
    mask : (ny, nx) int32 array, optional
    bad_bits : int
    stride : int
        Every ``stride``-th pixel of every ``stride``-th row is used; all of them in small images.

    Returns
    -------
    sigma : float

    Raises
    ------
    AlgorithmError
        When no pixel has a positive variance.
    """
    step = stride if variance.size > 1_000_000 else 1
    sample = variance[::step, ::step]
    good = np.isfinite(sample) & (sample > 0)
    if mask is not None and bad_bits:
        unmasked = good & ((mask[::step, ::step] & np.int32(bad_bits)) == 0)
        good = unmasked if unmasked.any() else good
    if not good.any():
        raise AlgorithmError("no pixel has a positive variance", numbers={"pixels": int(variance.size)})
    return float(np.sqrt(np.median(sample[good])))


def deblend_symmetric(
    image: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[np.int32],
    footprints: FootprintSet,
    psf: Psf,
    *,
    origin: tuple[int, int] = (0, 0),
    rules: SymmetricRules | None = None,
    noise_bits: int = 0,
    no_data_bits: int = 0,
    threads: int | None = None,
) -> Deblended:
    """Split the footprints that have several peaks.

    Parameters
    ----------
    image, variance : (ny, nx) arrays
        Background subtracted; variance in the square of the unit. NaN pixels belong to nobody.
    mask : (ny, nx) int32 array
    footprints : FootprintSet
        Parent frame.
    psf : Psf
    origin : (x0, y0)
        Parent-frame position of the first pixel.
    rules : SymmetricRules, optional
    noise_bits : int
        Pixels with one of these bits do not count for the noise of the image.
    no_data_bits : int
        Planes that say there is no information.
    threads : int, optional

    Returns
    -------
    deblended : Deblended
        A footprint with one peak has no children. The children of a parent add up to its pixels on the
        pixels they cover.
    """
    rules = rules or SymmetricRules()
    image, variance = np.ascontiguousarray(image, np.float32), np.ascontiguousarray(variance, np.float32)
    mask = np.ascontiguousarray(mask, np.int32)
    box = Box.from_shape(image.shape, origin)
    chosen, reasons = usable_parents(
        footprints,
        max_area=0 if rules.big_parent_radius else rules.max_area,
        max_width=rules.max_width,
        min_axis_ratio=rules.min_axis_ratio,
        masked_fraction=_masked_fraction(footprints, mask, box, no_data_bits),
        max_masked=rules.max_masked,
    )
    several = footprints.n_peaks > 1
    if not len(chosen):
        return collect(len(footprints), [], [], reasons, several, CHILD_VALUES)
    peaks, counts = _peaks_of(footprints, chosen, rules, reasons)
    sigma, fwhm = image_noise(variance, mask, noise_bits), max(psf.fwhm_at(), 1.0)

    def run(part: slice) -> _Chunk:
        return _deblend_chunk((image, variance, mask), box, footprints, psf, rules, chosen[part],
                              peaks[counts[part.start] : counts[part.stop]], counts[part.start : part.stop + 1],
                              sigma, fwhm)  # fmt: skip

    chunks = map_tiles(run, _slices(counts), threads=threads)
    status = np.concatenate([c.status for c in chunks])
    reasons["parent_too_big"][chosen[status == kernel.TOO_BIG]] = True
    reasons["failed"][chosen[status == kernel.FAILED]] = True
    return _join(chunks, reasons, several, origin)


def _peaks_of(
    footprints: FootprintSet,
    chosen: NDArray[np.int64],
    rules: SymmetricRules,
    reasons: dict[str, NDArray[np.bool_]],
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Distinct peaks of the chosen parents, the brightest when there are too many, and where each parent's start."""
    areas, kept, counts = footprints.areas, [], [0]
    for parent in chosen:
        peaks = _distinct_peaks(
            footprints.peaks[footprints.peak_offsets[parent] : footprints.peak_offsets[parent + 1]]
        )
        big = _is_big(int(areas[parent]), rules)
        reasons["parent_too_big"][parent] = big
        most = rules.max_big_peaks if big else rules.max_peaks
        if most and len(peaks) > most:
            reasons["too_many_peaks"][parent] = True
            peaks = peaks[:most]
        kept.append(peaks)
        counts.append(len(peaks))
    return np.concatenate(kept), np.cumsum(counts)


def _slices(counts: NDArray[np.int64]) -> list[slice]:
    """Cut the parents into runs with about CHUNK_PEAKS peaks, so that the PSF images of a run only are held."""
    out, start = [], 0
    for stop in range(1, len(counts)):
        if stop == len(counts) - 1 or counts[stop + 1] - counts[start] > CHUNK_PEAKS:
            out.append(slice(start, stop))
            start = stop
    return out


def _is_big(area: int, rules: SymmetricRules) -> bool:
    """Tell whether a parent is deblended with small templates."""
    return bool(rules.big_parent_radius and rules.max_area and area > rules.max_area)


@dataclass(frozen=True)
class _Chunk:
    """Children of a run of parents; ``status`` has one entry for each parent, ``parent`` names the footprint."""

    status: NDArray[np.int64]
    parent: NDArray[np.int64]
    peaks: NDArray[np.void]
    values: dict[str, NDArray[Any]]
    n_spans: NDArray[np.int64]
    n_pixels: NDArray[np.int64]
    spans: NDArray[np.int32]
    pixels: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


def _deblend_chunk(
    planes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]],
    box: Box,
    footprints: FootprintSet,
    psf: Psf,
    rules: SymmetricRules,
    parents: NDArray[np.int64],
    peaks: NDArray[np.void],
    counts: NDArray[np.int64],
    sigma: float,
    fwhm: float,
) -> _Chunk:
    """Deblend some parents."""
    own = footprints.take(parents)
    spans = np.ascontiguousarray(own.spans - np.array([box.y0, box.x0, box.x0], np.int32))
    margin = int(1.5 * fwhm + 0.5) // 2
    n = len(peaks)
    psfs = np.ascontiguousarray(psf.kernels_at(peaks["x"].astype(np.float64), peaks["y"].astype(np.float64)))
    big = np.array([_is_big(int(area), rules) for area in own.areas])
    most = np.where(big, BIG_WORK, 1) * rules.max_work if rules.max_work else np.full(len(parents), 2**62)
    status, number = np.zeros(len(parents), np.int64), np.zeros(n, np.int64)
    n_spans, n_pixels = np.zeros(n, np.int64), np.zeros(n, np.int64)
    is_psf, ramped, stray = (np.zeros(n, bool) for _ in range(3))
    fluxes, centres, chi2 = np.zeros(n), np.zeros((n, 2)), np.zeros(n)
    found = kernel.deblend_parents(
        *planes, spans, own.span_offsets, peaks["y"].astype(np.int64) - box.y0, peaks["x"].astype(np.int64) - box.x0,
        counts - counts[0], psfs, _ramp_psfs(psfs, margin).copy(), fwhm, sigma, margin, np.array(rules.psf_chi2),
        rules.psf_sweeps, EDGE_RULES[rules.edge_handling],
        selection_network(25) if rules.median_smooth else np.zeros((0, 2), np.int64), STRAY_RULES[rules.stray_rule],
        STRAY_TO_PSF[rules.stray_to_psf], rules.clip_stray_fraction,
        rules.max_overlap if rules.remove_degenerate else 0.0, rules.keep_parent_variance,
        np.where(big, rules.big_parent_radius, 0), most, status, number, is_psf, fluxes, centres, chi2, ramped, stray,
        n_spans, n_pixels,
    )  # fmt: skip
    used = n_spans > 0
    peaks = peaks[np.repeat(counts[:-1] - counts[0], np.diff(counts)) + number]
    values = {
        "as_psf": is_psf,
        "psf_flux": fluxes,
        "psf_x": peaks["x"] + centres[:, 0],
        "psf_y": peaks["y"] + centres[:, 1],
        "psf_chi2": chi2,
        "ramped_template": ramped,
        "has_stray_flux": stray,
        "peak": number.astype(np.int32),
    }
    values = {name: column[used] for name, column in values.items()}
    owner = np.repeat(parents, np.diff(counts))[used]
    return _Chunk(status, owner, peaks[used], values, n_spans[used], n_pixels[used], found[0], found[1:])


def _join(
    chunks: list[_Chunk],
    reasons: dict[str, NDArray[np.bool_]],
    several: NDArray[np.bool_],
    origin: tuple[int, int],
) -> Deblended:
    """Join the children of all runs of parents."""
    parent, peaks, n_spans, n_pixels, spans = (
        np.concatenate([getattr(c, name) for c in chunks])
        for name in ("parent", "peaks", "n_spans", "n_pixels", "spans")
    )
    image, variance, mask = (np.concatenate([c.pixels[k] for c in chunks]) for k in range(3))
    has_children = np.zeros(len(several), bool)
    has_children[parent] = True
    footprints = FootprintSet(
        spans + np.array([origin[1], origin[0], origin[0]], np.int32), np.concatenate([[0], np.cumsum(n_spans)]),
        peaks.astype(PEAK_DTYPE, copy=False), np.arange(len(peaks) + 1), image=image, mask=mask, variance=variance,
        pixel_offsets=np.concatenate([[0], np.cumsum(n_pixels)]),
    )  # fmt: skip
    values = {name: np.concatenate([c.values[name] for c in chunks]) for name in CHILD_VALUES}
    return Deblended(footprints, parent, values, reasons, several & ~has_children)


def _masked_fraction(
    footprints: FootprintSet, mask: NDArray[np.int32], box: Box, bits: int
) -> NDArray[np.float64]:
    """Part of every footprint that has no data; footprints must lie inside the image."""
    local = footprints.spans - np.array([box.y0, box.x0, box.x0], np.int32)
    inside = (local[:, 0] >= 0) & (local[:, 0] < box.height) & (local[:, 1] >= 0) & (local[:, 2] < box.width)
    if not inside.all():
        raise InputError(
            f"{np.count_nonzero(~inside)} of {len(local)} spans of footprints reach outside the image"
        )
    if not bits:
        return np.zeros(len(footprints))
    count = count_masked(np.ascontiguousarray(local), footprints.span_offsets, mask, np.int32(bits))
    return count / np.maximum(footprints.areas, 1)


def _distinct_peaks(peaks: NDArray[np.void]) -> NDArray[np.void]:
    """Drop repeated peaks, keeping the order."""
    keys = peaks["y"].astype(np.int64) << 32 | peaks["x"].astype(np.int64) & 0xFFFFFFFF
    if len(set(keys.tolist())) == len(keys):
        return peaks
    _, first = np.unique(keys, return_index=True)
    return peaks[np.sort(first)]


def _ramp_psfs(psfs: NDArray[np.float64], margin: int) -> NDArray[np.float64]:
    """Central part of the PSF images that makes edge ramps."""
    half = psfs.shape[1] // 2
    if half <= margin:
        return psfs
    cut = slice(half - margin, half + margin + 1)
    return np.ascontiguousarray(psfs[:, cut, cut])
