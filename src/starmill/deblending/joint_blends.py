"""Joint-model deblending of all blends of an image, in one or several bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.footprint import FootprintSet
from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import Psf
from starmill.deblending.children import Deblended, ParentChildren, collect, runs_of, usable_parents
from starmill.deblending.joint_model import JointFit, JointModelRules, fit_joint_model
from starmill.errors import InputError
from starmill.numerics.tiles import map_tiles

__all__ = ["BandImage", "deblend_joint"]

CHILD_VALUES = {"model_flux": "f8", "chi2": "f8", "n_iterations": "i4", "not_converged": "bool", "peak": "i4"}
FAINTEST = 0.02  # model light below this part of the noise of a pixel makes no footprint


@dataclass(frozen=True)
class BandImage:
    """The sky in one band; all bands lie on the same pixels.

    Attributes
    ----------
    image, variance : (ny, nx) float32 arrays
        Background subtracted.
    mask : (ny, nx) int32 array
    psf : Psf
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    psf: Psf


def deblend_joint(
    bands: Sequence[BandImage],
    footprints: FootprintSet,
    *,
    origin: tuple[int, int] = (0, 0),
    rules: JointModelRules | None = None,
    bad_bits: int = 0,
    max_area: int = 10_000,
    max_peaks: int = 100,
    max_work: int = 500_000,
    threads: int | None = None,
) -> list[Deblended]:
    """Split the footprints that have several peaks, with one model for all bands.

    Parameters
    ----------
    bands : sequence of BandImage
    footprints : FootprintSet
        Parent frame, inside the images.
    origin : (x0, y0)
        Parent-frame position of the first pixel.
    rules : JointModelRules, optional
    bad_bits : int
        Pixels with one of these bits have no weight; they are shared among the children all the same.
    max_area, max_peaks, max_work : int
        Limits of a parent: pixels, peaks (the brightest are kept), pixels times peaks.
    threads : int, optional

    Returns
    -------
    deblended : list of Deblended
        One per band; children have the same footprints in all bands and add up to the image of the band on the
        pixels they cover.
    """
    if not bands:
        raise InputError("a joint model needs at least one band")
    shape = bands[0].image.shape
    if any(b.image.shape != shape or b.variance.shape != shape or b.mask.shape != shape for b in bands):
        raise InputError(f"the bands have different shapes: {[b.image.shape for b in bands]}")
    rules = rules or JointModelRules()
    box = Box.from_shape(shape, origin)
    chosen, reasons = usable_parents(footprints, max_area=max_area)
    several = footprints.n_peaks > 1
    jobs = []
    for parent in chosen:
        n = min(int(footprints.n_peaks[parent]), max_peaks)
        reasons["too_many_peaks"][parent] = footprints.n_peaks[parent] > max_peaks
        if n * footprints[parent].box.area > max_work:
            reasons["parent_too_big"][parent] = True
        else:
            jobs.append(int(parent))

    def run(parent: int) -> list[ParentChildren] | None:
        return _deblend_parent(bands, footprints[parent], box, rules, bad_bits, max_peaks)

    answers = map_tiles(run, jobs, threads=threads)
    done = [parent for parent, answer in zip(jobs, answers, strict=True) if answer is not None]
    for parent, answer in zip(jobs, answers, strict=True):
        reasons["failed"][parent] |= answer is None
    good = [answer for answer in answers if answer is not None]
    return [
        collect(len(footprints), done, [answer[b] for answer in good], reasons, several, CHILD_VALUES)
        for b in range(len(bands))
    ]


def _deblend_parent(
    bands: Sequence[BandImage],
    footprint: Any,
    box: Box,
    rules: JointModelRules,
    bad_bits: int,
    max_peaks: int,
) -> list[ParentChildren] | None:
    """Children of one parent in every band; None when there is nothing to fit."""
    frame = footprint.box.intersection(box)
    inside = footprint.mask_image(frame)
    where = frame.slices((box.x0, box.y0))
    images = np.stack([b.image[where] for b in bands]).astype(np.float64)
    variances = np.stack([b.variance[where] for b in bands])
    masks = np.stack([b.mask[where] for b in bands])
    usable = inside & np.isfinite(images) & (variances > 0) & ((masks & np.int32(bad_bits)) == 0)
    peaks = _inner_peaks(footprint.peaks, frame, inside)[:max_peaks]
    if len(peaks) < 2 or not usable.any():
        return None
    weights = np.divide(1.0, variances, out=np.zeros(variances.shape), where=usable)
    x, y = float(peaks["x"].mean()), float(peaks["y"].mean())
    psfs = _equal_sizes([np.asarray(b.psf.kernel_at(x, y)) for b in bands])
    places = np.stack([peaks["x"] - frame.x0, peaks["y"] - frame.y0], axis=1)
    fit = fit_joint_model(images, weights, psfs, places, rules)
    covered = inside & np.isfinite(images).all(0)
    noise = np.sqrt(np.maximum(variances, 0))
    light = np.where((fit.models > FAINTEST * noise) & covered, fit.models, 0).astype(np.float64)
    total = light.sum(0)
    share = np.divide(light, total, out=np.zeros(light.shape), where=total > 0)
    own = (share > 0).any(1)
    return [
        _band_children(b, images[b], variances[b], masks[b], share[:, b], own, fit, peaks, frame)
        for b in range(len(bands))
    ]


def _inner_peaks(peaks: NDArray[Any], frame: Box, inside: NDArray[np.bool_]) -> NDArray[Any]:
    """Peaks on pixels of the footprint, without repetitions, brightest first."""
    keep = frame.contains(peaks["x"], peaks["y"])
    peaks = peaks[keep]
    peaks = peaks[inside[peaks["y"] - frame.y0, peaks["x"] - frame.x0]]
    _, first = np.unique(np.stack([peaks["y"], peaks["x"]]), axis=1, return_index=True)
    return peaks[np.sort(first)]


def _equal_sizes(kernels: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Put PSF images of several sizes into frames of the largest one."""
    size = max(k.shape[0] for k in kernels)
    out = np.zeros((len(kernels), size, size))
    for plane, kernel in zip(out, kernels, strict=True):
        margin = (size - kernel.shape[0]) // 2
        plane[margin : size - margin, margin : size - margin] = kernel / kernel.sum()
    return out


def _band_children(
    band: int,
    image: NDArray[np.float64],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    share: NDArray[np.float64],
    own: NDArray[np.bool_],
    fit: JointFit,
    peaks: NDArray[Any],
    frame: Box,
) -> ParentChildren:
    """Cut the children out of one band; the largest share takes what rounding leaves."""
    part = (share * np.nan_to_num(image)).astype(np.float32)
    largest = share.argmax(0)
    rest = image - (part.sum(0, dtype=np.float64) - np.take_along_axis(part, largest[None], 0)[0])
    covered = share.sum(0) > 0
    np.put_along_axis(part, largest[None], np.where(covered, rest, 0).astype(np.float32)[None], 0)
    runs = [runs_of(o) for o in own]
    alive = np.array([len(r) > 0 for r in runs])
    pixels = [np.nonzero(o) for o in own]
    n = int(alive.sum())
    return ParentChildren(
        np.concatenate(runs).astype(np.int32) + np.array([frame.y0, frame.x0, frame.x0], np.int32),
        np.array([len(r) for r in runs])[alive],
        np.array([len(p[0]) for p in pixels])[alive],
        np.concatenate([part[k][p] for k, p in enumerate(pixels)]),
        np.concatenate([(variance * share[k]).astype(np.float32)[p] for k, p in enumerate(pixels)]),
        np.concatenate([mask[p] for p in pixels]),
        peaks[alive],
        {
            "model_flux": fit.spectra[alive, band],
            "chi2": np.full(n, fit.chi2),
            "n_iterations": np.full(n, fit.n_iterations, np.int32),
            "not_converged": np.full(n, not fit.converged),
            "peak": np.flatnonzero(alive).astype(np.int32),
        },
    )
