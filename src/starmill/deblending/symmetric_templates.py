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

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.laplacian import selection_network
from starmill.datamodel.footprint import FootprintSet
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import Psf
from starmill.deblending.children import Deblended, ParentChildren, collect, usable_parents
from starmill.errors import AlgorithmError, InputError
from starmill.kernels.apportion import collect_children, count_children, largest_overlap, share_out
from starmill.kernels.point_source_test import fit_point_sources
from starmill.kernels.spans import count_masked, cut_stamp
from starmill.kernels.templates import build_templates
from starmill.numerics.tiles import map_tiles

__all__ = ["CHILD_VALUES", "SymmetricRules", "deblend_symmetric", "image_noise"]

EDGE_RULES = {"clip": 0, "ramp": 1, "noclip": 2}
STRAY_RULES = {"trim": 0, "r_to_peak": 1, "r_to_footprint": 2, "nearest_footprint": 3}
STRAY_TO_PSF = {"necessary": 0, "always": 1, "never": 2}
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
    max_big_peaks: int = 20_000
    min_axis_ratio: float = 0.0
    max_masked: float = 0.25


@dataclass(frozen=True)
class _Frame:
    """The image that the parents lie on."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    box: Box
    sigma: float
    fwhm: float
    rules: SymmetricRules
    failures: dict[int, str] = field(default_factory=dict)


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
    frame = _Frame(
        image, variance, mask, box, image_noise(variance, mask, noise_bits), max(psf.fwhm_at(), 1.0), rules
    )
    jobs, areas = [], footprints.areas
    for parent in chosen:
        peaks = _distinct_peaks(footprints[parent].peaks)
        most = rules.max_big_peaks if _is_big(int(areas[parent]), rules) else rules.max_peaks
        if most and len(peaks) > most:
            reasons["too_many_peaks"][parent] = True
            peaks = peaks[:most]
        jobs.append((int(parent), peaks))
    results = _run_jobs(frame, footprints, psf, jobs, threads)
    done, parts = [], []
    for (parent, _), answer in zip(jobs, results, strict=True):
        if isinstance(answer, str):
            reasons[answer][parent] = True
        else:
            done.append(parent)
            parts.append(answer)
    return collect(len(footprints), done, parts, reasons, several, CHILD_VALUES)


def _is_big(area: int, rules: SymmetricRules) -> bool:
    """Tell whether a parent is deblended with small templates."""
    return bool(rules.big_parent_radius and rules.max_area and area > rules.max_area)


def _run_jobs(
    frame: _Frame, footprints: FootprintSet, psf: Psf, jobs: list[tuple[int, Any]], threads: int | None
) -> list[ParentChildren | str]:
    """Deblend parents in chunks, so that the PSF images of a chunk only are held."""
    chunks = [jobs[i : i + 200] for i in range(0, len(jobs), 200)]

    def run(chunk: list[tuple[int, Any]]) -> list[ParentChildren | str]:
        peaks = np.concatenate([p for _, p in chunk])
        psfs = psf.kernels_at(peaks["x"].astype(np.float64), peaks["y"].astype(np.float64))
        ends = np.cumsum([len(p) for _, p in chunk])
        return [
            _deblend_parent(frame, footprints[parent].spans, peaks, psfs[end - len(peaks) : end])
            for (parent, peaks), end in zip(chunk, ends, strict=True)
        ]

    return [answer for part in map_tiles(run, chunks, threads=threads) for answer in part]


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


def _stamp(frame: _Frame, spans: NDArray[np.int32], margin: int) -> tuple[Box, dict[str, NDArray[Any]]]:
    """Cut a parent out, with a margin of empty pixels."""
    local = spans - np.array([frame.box.y0, frame.box.x0, frame.box.x0], np.int32)
    y0, x0 = int(local[:, 0].min()) - margin, int(local[:, 1].min()) - margin
    shape = (int(local[:, 0].max()) + margin + 1 - y0, int(local[:, 2].max()) + margin + 1 - x0)
    pixels, variance = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    mask, inside = np.zeros(shape, np.int32), np.zeros(shape, bool)
    cut_stamp(frame.image, frame.variance, frame.mask, local, margin, y0, x0, pixels, variance, mask, inside)
    box = Box(x0 + frame.box.x0, y0 + frame.box.y0, shape[1], shape[0])
    return box, {"pixels": pixels, "variance": variance, "mask": mask, "inside": inside}


def _ramp_psfs(psfs: NDArray[np.float64], margin: int) -> NDArray[np.float64]:
    """Central part of the PSF images that makes edge ramps."""
    half = psfs.shape[1] // 2
    if half <= margin:
        return psfs
    cut = slice(half - margin, half + margin + 1)
    return np.ascontiguousarray(psfs[:, cut, cut])


@dataclass(frozen=True)
class _Layout:
    """Where the templates of a parent lie: peaks in the stamp, largest half size, places in the flat array."""

    box: Box
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    limit: int
    offsets: NDArray[np.int64]


def _lay_out(box: Box, y: NDArray[np.int64], x: NDArray[np.int64], limit: int) -> _Layout:
    halves_y = np.minimum(np.minimum(y, box.height - 1 - y), limit)
    halves_x = np.minimum(np.minimum(x, box.width - 1 - x), limit)
    sizes = (2 * halves_y + 1) * (2 * halves_x + 1)
    return _Layout(box, y, x, limit, np.concatenate([[0], np.cumsum(sizes)]))


def _deblend_parent(
    frame: _Frame, spans: NDArray[np.int32], peaks: NDArray[np.void], psfs: NDArray[np.float64]
) -> ParentChildren | str:
    """Children of one parent, or the reason why there are none."""
    rules = frame.rules
    margin = int(1.5 * frame.fwhm + 0.5) // 2
    box, stamp = _stamp(frame, spans, margin)
    inside = stamp["inside"]
    y, x = peaks["y"].astype(np.int64) - box.y0, peaks["x"].astype(np.int64) - box.x0
    held = (y >= 0) & (x >= 0) & (y < box.height) & (x < box.width)
    held[held] = inside[y[held], x[held]]
    if held.sum() < 2:
        return "failed"
    number = np.flatnonzero(held)
    peaks, psfs, y, x = peaks[held], psfs[held], y[held], x[held]
    big = _is_big(int((spans[:, 2] - spans[:, 1] + 1).sum()), rules)
    layout = _lay_out(box, y, x, rules.big_parent_radius if big else max(box.shape))
    if rules.max_work and layout.offsets[-1] > (BIG_WORK if big else 1) * rules.max_work:
        return "parent_too_big"
    n = len(peaks)
    is_psf, images = np.zeros(n, bool), np.zeros_like(psfs)
    fluxes, centres, chi2 = np.zeros(n), np.zeros((n, 2)), np.zeros(n)
    fit_point_sources(
        stamp["pixels"], stamp["variance"], inside, y, x, psfs, frame.fwhm, np.array(rules.psf_chi2), rules.psf_sweeps,
        is_psf, images, fluxes, centres, chi2,
    )  # fmt: skip
    network = selection_network(25) if rules.median_smooth else np.zeros((0, 2), np.int64)
    flat, ramped, stray = np.zeros(layout.offsets[-1], np.float32), np.zeros(n, bool), np.zeros(n, bool)
    build_templates(
        stamp["pixels"], inside, y, x, _ramp_psfs(psfs, margin), is_psf, images, frame.sigma,
        EDGE_RULES[rules.edge_handling], network, layout.limit, layout.offsets, flat, ramped,
    )  # fmt: skip
    if rules.remove_degenerate and not big:
        _empty_degenerate(layout, flat, rules.max_overlap)
    share_out(
        inside, y, x, layout.offsets, flat, is_psf, layout.limit, 0 if big else STRAY_RULES[rules.stray_rule],
        STRAY_TO_PSF[rules.stray_to_psf], rules.clip_stray_fraction, stray,
    )  # fmt: skip
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
    return _cut_children(layout, stamp, flat, peaks, values, rules.keep_parent_variance)


def _empty_degenerate(layout: _Layout, flat: NDArray[np.float32], largest: float) -> None:
    """Empty the template of the fainter peak of every pair of like templates (peaks come brightest first)."""
    y, x, box, offsets = layout.y, layout.x, layout.box, layout.offsets
    for j in range(1, len(y)):
        for i in range(j):
            if largest_overlap(box.height, box.width, y, x, layout.limit, offsets, flat, i, j) > largest:
                flat[offsets[j] : offsets[j + 1]] = 0
                break


def _cut_children(
    layout: _Layout,
    stamp: dict[str, NDArray[Any]],
    flat: NDArray[np.float32],
    peaks: NDArray[np.void],
    values: dict[str, NDArray[Any]],
    keep_variance: bool,
) -> ParentChildren | str:
    """Gather the pixels of the children; those without any pixel are left out."""
    y, x, box = layout.y, layout.x, layout.box
    n_pixels, n_spans = np.zeros(len(y), np.int64), np.zeros(len(y), np.int64)
    count_children(box.height, box.width, y, x, layout.limit, layout.offsets, flat, n_pixels, n_spans)
    spans = np.zeros((n_spans.sum(), 3), np.int32)
    total = int(n_pixels.sum())
    image, variance = np.zeros(total, np.float32), np.zeros(total, np.float32)
    mask = np.zeros(total, np.int32)
    collect_children(
        stamp["pixels"], stamp["variance"], stamp["mask"], keep_variance, y, x, layout.limit, layout.offsets, flat,
        spans, image, variance, mask,
    )  # fmt: skip
    some = n_pixels > 0
    if not some.any():
        return "failed"
    return ParentChildren(
        spans + np.array([box.y0, box.x0, box.x0], np.int32),
        n_spans[some],
        n_pixels[some],
        image,
        variance,
        mask,
        peaks[some],
        {name: v[some] for name, v in values.items()},
    )
