"""Stamps around the brightest clean objects of every grid cell, found as HOTPANTS finds them."""

from __future__ import annotations

import numpy as np

from starmill.kernels.block_convolution import score_box, search_cell

__all__ = ["cell_grid", "clipped_moments", "find_cell_stamps", "sky_level"]

_SPOILED = 0xBF  # every input bit but 0x40, which only says that a bad pixel is near


def cell_grid(shape, regions, cells, *, kernel_half_width, half_width):
    """Return the side of a grid cell and the numbers of cells in one region.

    Parameters
    ----------
    shape : (ny, nx)
        Of the whole image.
    regions, cells : (int, int)
        Regions of the image and cells of a region, along x and y.
    kernel_half_width, half_width : int
        Of the kernel and of a stamp, pixels.

    Returns
    -------
    side : int
        Odd.
    n_x, n_y : int
        Fewer than asked for when a stamp would not fit into a cell.
    """
    sides = [shape[1] // regions[0], shape[0] // regions[1]]
    kernel = 2 * kernel_half_width + 1
    side = min(length // n for length, n in zip(sides, cells, strict=True)) - kernel
    side -= 1 - side % 2
    if side >= 2 * half_width + 1:
        return side, cells[0], cells[1]
    side = 2 * half_width + 1 + kernel
    side -= 1 - side % 2
    return side, max(sides[0] // side, 1), max(sides[1] // side, 1)


def clipped_moments(values, clip):
    """Return mean and standard deviation after up to ten clips.

    Parameters
    ----------
    values : (n,) array
    clip : float
        In standard deviations.
    """
    values = np.asarray(values, np.float64)
    mean, scatter = values.mean(), values.std(ddof=min(1, len(values) - 1))
    for _ in range(10):  # clips of the original program
        kept = values[np.abs(values - mean) <= clip * scatter]
        if len(kept) == len(values) or len(kept) < 2:
            break
        values, mean, scatter = kept, kept.mean(), kept.std(ddof=1)
    return float(mean), float(scatter)


def _quantile(ordered, share):
    """Return a quantile of sorted, possibly digitised values: equal values are spread over their step."""
    steps = np.diff(ordered)
    step = steps[steps > 0].min() if (steps > 0).any() else 0.0
    at = min(int(share * len(ordered)), len(ordered) - 1)
    first, after = (
        np.searchsorted(ordered, ordered[at], "left"),
        np.searchsorted(ordered, ordered[at], "right"),
    )
    return ordered[at] + step * ((share * len(ordered) - first) / (after - first) - 0.5)


def sky_level(values, clip=3.0):
    """Return the mode of the sky and its width.

    Parameters
    ----------
    values : (n,) array
        Usable pixels.
    clip : float
        Of the values from which the width comes, in standard deviations.

    Returns
    -------
    mode : float
        Middle of the narrowest interval that holds a tenth of the pixels.
    width : float
        Interquartile range over 1.35, the standard deviation for a Gaussian.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    for _ in range(3):  # so many clips give the widths of the original program in crowded cells
        mean, scatter = ordered.mean(), ordered.std()
        lower, upper = np.searchsorted(ordered, [mean - clip * scatter, mean + clip * scatter])
        if upper - lower in (0, len(ordered)):
            break
        ordered = ordered[lower:upper]
    tenth = max(len(ordered) // 10, 1)
    spans = ordered[tenth:] - ordered[:-tenth] if len(ordered) > tenth else np.zeros(1)
    narrowest = int(np.median(np.nonzero(spans <= spans.min())[0]))
    mode = (ordered[narrowest] + ordered[min(narrowest + tenth, len(ordered) - 1)]) / 2
    width = _quantile(ordered, 0.75) - _quantile(ordered, 0.25)
    return float(mode), float(width) / 1.35  # the interquartile range of a Gaussian is 1.349 sigma


def find_cell_stamps(
    image, mask, grid, own, *, limit, threshold, half_width, kernel_half_width, per_cell, clip=3.0, listed=None, fill=True
):  # fmt: skip
    """Return the stamps of every grid cell, best first.

    Parameters
    ----------
    image : (ny, nx) array
    mask : (ny, nx) int32 array
        Bits of the command; boxes of accepted stamps are marked with ``own``.
    grid : (side, n_x, n_y)
        From `cell_grid`.
    own : int
        Bits of this search: pixels that have one are not used.
    limit : float
        A pixel at or above it spoils a stamp.
    threshold : float
        Of the peak, in widths of the sky.
    half_width, kernel_half_width : int
        Of a stamp and of the kernel, pixels.
    per_cell : int
        Most stamps of one cell.
    clip : float
        Of the statistics of the sky.
    listed : (n, 2) array, optional
        Positions x, y that are tried first.
    fill : bool
        Search for further stamps after the listed ones.

    Returns
    -------
    cells : list of (cell, list of (x, y))
        Cells that hold a stamp; ``cell`` is ``(x0, y0, x1, y1)``, last pixels exclusive.
    """
    side, n_x, n_y = grid
    ny, nx = image.shape
    refuse = _SPOILED | own
    out = []
    for row in range(n_y):
        for column in range(n_x):
            x0, y0 = column * nx // n_x, row * ny // n_y
            cell = np.array([x0, y0, min(x0 + side, nx), min(y0 + side, ny)], np.int64)
            part = np.s_[y0 : cell[3], x0 : cell[2]]
            usable = image[part][mask[part] & 0xFF == 0]
            if len(usable) < 20:  # no sky to speak of
                continue
            sky, width = sky_level(usable, clip)
            stamps = []
            if listed is not None:
                stamps = _listed_stamps(image, mask, cell, own, listed, limit, sky + threshold * width,
                                        half_width, kernel_half_width)[:per_cell]  # fmt: skip
            if fill and len(stamps) < per_cell:
                found = np.zeros((2 * per_cell, 3))
                n = search_cell(
                    image, mask, cell, refuse, own, sky, width, limit, threshold, half_width, 2 * per_cell, found
                )  # fmt: skip
                best = found[:n][np.argsort(-found[:n, 2], kind="stable")]
                stamps += [(int(x), int(y)) for x, y, _ in best[: per_cell - len(stamps)]]
            if stamps:
                out.append((tuple(int(v) for v in cell), stamps))
    return out


def _listed_stamps(image, mask, cell, own, listed, limit, floor, half_width, kernel_half_width):
    """Return the listed positions of a cell whose boxes are clean, and mark them."""
    stamps, scratch = [], np.zeros(3)
    margin = kernel_half_width + 1
    for x, y in np.rint(np.asarray(listed)).astype(np.int64):
        inside = cell[0] + margin < x < cell[2] - 1 - margin and cell[1] + margin < y < cell[3] - 1 - margin
        refuse = _SPOILED | own
        if inside and score_box(image, mask, cell, refuse, x, y, half_width, limit, floor, scratch):
            stamps.append((int(x), int(y)))
            box = np.s_[
                max(y - half_width, cell[1]) : min(y + half_width + 1, cell[3]),
                max(x - half_width, cell[0]) : min(x + half_width + 1, cell[2]),
            ]
            mask[box] |= own
    return stamps
