"""Regions of an image that are fitted apart, and their products put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from starmill.differencing.cell_stamps import cell_grid
from starmill.hotpants.options import HotpantsError

if TYPE_CHECKING:
    from starmill.hotpants.options import HotpantsConfig


__all__ = ["Region", "RegionRun", "assembled", "plan_regions"]

UNUSABLE = 0x8000


@dataclass(frozen=True)
class Region:
    """Pixels that one fit is responsible for, and those it reads.

    Attributes
    ----------
    x0, x1, y0, y1 : int
        Good pixels, 0-based, last ones exclusive.
    margin : int
        Further pixels that are read on each side, where the image has them.
    shape : (int, int)
        ny, nx of the whole image.
    """

    x0: int
    x1: int
    y0: int
    y1: int
    margin: int
    shape: tuple[int, int]

    @property
    def read(self) -> tuple[slice, slice]:
        """Slices of the pixels that are read."""
        ny, nx = self.shape
        m = self.margin
        return (
            slice(max(self.y0 - m, 0), min(self.y1 + m, ny)),
            slice(max(self.x0 - m, 0), min(self.x1 + m, nx)),
        )

    @property
    def origin(self) -> tuple[int, int]:
        """x, y of the first pixel that is read."""
        rows, columns = self.read
        return columns.start, rows.start

    @property
    def good(self) -> tuple[slice, slice]:
        """Slices of the good pixels in the image."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Slices of the good pixels in what is read."""
        x, y = self.origin
        return slice(self.y0 - y, self.y1 - y), slice(self.x0 - x, self.x1 - x)

    @property
    def section(self) -> str:
        """The good pixels as IRAF writes them."""
        return f"[{self.x0 + 1}:{self.x1},{self.y0 + 1}:{self.y1}]"


@dataclass(frozen=True)
class RegionRun:
    """A region and the session that worked on it."""

    region: Region
    session: Any


def plan_regions(
    config: HotpantsConfig,
    shape: tuple[int, int],
    *,
    section: list[int] | None = None,
    boxes: list[tuple[int, int, int, int]] | None = None,
) -> list[Region]:
    """Return the regions of a run.

    Parameters
    ----------
    config : HotpantsConfig
        ``nregx`` by ``nregy`` regions when no boxes are given; neighbours share one border line as in the C program.
    shape : (ny, nx)
        Of the common part of the images.
    section : (xmin, xmax, ymin, ymax), optional
        Part of the image that is worked on, last pixels exclusive.
    boxes : list of (xmin, xmax, ymin, ymax), optional
        Regions in place of the grid, last pixels inclusive.

    Returns
    -------
    regions : list of Region
    """
    ny, nx = shape
    side, _, _ = cell_grid(
        shape, (config.nregx, config.nregy), (config.nstampx, config.nstampy), kernel_half_width=config.rkernel,
        half_width=config.rss,
    )  # fmt: skip
    if boxes:
        margin = config.rkernel if len(boxes) == 1 else side // 2
        return [_clipped(x0, x1 + 1, y0, y1 + 1, margin, shape) for x0, x1, y0, y1 in boxes]
    x0, x1, y0, y1 = section or (0, nx, 0, ny)
    whole = _clipped(x0, x1, y0, y1, 0, shape)
    count = config.nregx * config.nregy
    if count == 1:
        return [whole]
    wide, high = whole.x1 - whole.x0 - 1, whole.y1 - whole.y0 - 1
    return [
        Region(
            whole.x0 + i * wide // config.nregx, whole.x0 + (i + 1) * wide // config.nregx + 1,
            whole.y0 + j * high // config.nregy, whole.y0 + (j + 1) * high // config.nregy + 1, side // 2, shape,
        )
        for j in range(config.nregy) for i in range(config.nregx)
    ]  # fmt: skip


def _clipped(x0: int, x1: int, y0: int, y1: int, margin: int, shape: tuple[int, int]) -> Region:
    ny, nx = shape
    region = Region(max(x0, 0), min(x1, nx), max(y0, 0), min(y1, ny), margin, shape)
    if region.x1 <= region.x0 or region.y1 <= region.y0:
        raise HotpantsError(f"the region {x0}:{x1},{y0}:{y1} holds no pixel of the image of {nx} x {ny}")
    return region


def assembled(runs: list[RegionRun], config: HotpantsConfig, *, fill: bool = True) -> dict[str, Any]:
    """Return the planes of the whole image from those of its regions.

    Parameters
    ----------
    runs : list of RegionRun
        Later ones win where they share pixels.
    config : HotpantsConfig
    fill : bool
        Put fill values in unusable pixels.

    Returns
    -------
    planes : dict
        ``diff_image``, ``convolved_image``, ``noise_image`` (float32) and ``output_mask``; pixels outside every region
        are unusable.
    """
    if len(runs) == 1 and runs[0].session.box.shape == runs[0].region.shape:
        products = runs[0].session.get_final_outputs()
        return products if fill else products | runs[0].session.unfilled()
    shape = runs[0].region.shape
    planes = {
        "diff_image": np.full(shape, config.fillval, np.float32), "convolved_image": np.zeros(shape, np.float32),
        "noise_image": np.full(shape, config.fillval_noise, np.float32), "output_mask": np.full(shape, UNUSABLE, np.uint16),
    }  # fmt: skip
    if not config.keep_convolved:
        planes["convolved_image"] = None
    for run in runs:
        products = run.session.get_final_outputs()
        products = products if fill else products | run.session.unfilled()
        for name, plane in planes.items():
            if plane is None:
                continue
            plane[run.region.good] = products[name][run.region.inner]
    return planes
