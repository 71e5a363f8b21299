"""Pictures of exposures: pixels, mask planes in colour, catalogue ellipses."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from starmill.datamodel.catalog import Catalog
from starmill.datamodel.ellipse import ellipse_axes
from starmill.datamodel.exposure import Exposure
from starmill.io.atomic import atomic_write_bytes

__all__ = [
    "MASK_COLORS",
    "binned",
    "display_range",
    "draw_catalog",
    "png_bytes",
    "save_figure",
    "show_exposure",
]

MASK_COLORS: dict[str, str] = {
    "SAT": "#2ca02c",
    "CR": "#e377c2",
    "INTRP": "#9467bd",
    "BAD": "#d62728",
    "NO_DATA": "#ff7f0e",
    "DETECTED": "#1f77b4",
    "DETECTED_NEGATIVE": "#17becf",
    "SUSPECT": "#bcbd22",
    "EDGE": "#8c564b",
}
"""Colours of the mask planes; others are drawn in yellow."""


def display_range(image: NDArray[Any], good: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Return the values to draw black and white: from 2 sigma below the sky to 10 above, robustly.

    Parameters
    ----------
    image : (ny, nx) array
    good : (ny, nx) bool array, optional
        Pixels to look at; the finite ones when not given.
    """
    step = _step(image)
    sample = image[::step, ::step]
    use = np.isfinite(sample) if good is None else good[::step, ::step] & np.isfinite(sample)
    if not use.any():
        return 0.0, 1.0
    low, middle, high = np.percentile(sample[use], [16, 50, 84])
    sigma = max((high - low) / 2, 1e-6 * max(abs(middle), 1e-30))
    return float(middle - 2 * sigma), float(middle + 10 * sigma)


def _step(image: NDArray[Any]) -> int:
    """Return the step at which about 250,000 pixels of an image are seen."""
    return max(1, int(np.sqrt(image.size / 250_000)))


def binned(image: NDArray[Any], largest: int) -> tuple[NDArray[Any], int]:
    """Return an image averaged in square blocks so that no side is longer than ``largest``, and the block."""
    block = max(1, int(np.ceil(max(image.shape) / largest)))
    if block == 1:
        return image, 1
    return _blocks(image, block, np.add) / np.float32(block * block), block


def _blocks(image: NDArray[Any], block: int, combine: np.ufunc) -> NDArray[Any]:
    """Return square blocks of pixels reduced to one, rows first: whole rows are combined at memory speed."""
    ny, nx = (n // block for n in image.shape)
    rows = combine.reduce(image[: ny * block, : nx * block].reshape(ny, block, nx * block), axis=1)
    return combine.reduce(rows.reshape(ny, nx, block), axis=2)  # type: ignore[no-any-return]


def show_exposure(
    exposure: Exposure,
    *,
    mask: Sequence[str] | bool = (),
    catalog: Catalog | None = None,
    title: str = "",
    alpha: float = 0.5,
    size: float = 8.0,
    largest: int = 1200,
    axes: Any = None,
) -> Figure:
    """Draw an exposure.

    Parameters
    ----------
    exposure : Exposure
    mask : sequence of str, or bool
        Planes to draw in colour over the pixels; True for the usual ones.
    catalog : Catalog, optional
        Ellipses: green for sources, cyan for deblended children, red for flagged ones.
    title : str
    alpha : float
        Opacity of the planes, 0 to 1.
    size : float, inch
        Width of the figure.
    largest : int
        Longer sides are averaged down to this number of pixels.
    axes : matplotlib.axes.Axes, optional
        Draw here instead of in a new figure.

    Returns
    -------
    figure : Figure
    """
    if axes is None:
        figure = Figure(figsize=(size, size * exposure.shape[0] / exposure.shape[1] + 0.4))
        axes = figure.add_axes((0.09, 0.07, 0.89, 0.88))
    planes = ("SAT", "CR", "INTRP", "BAD", "NO_DATA", "DETECTED") if mask is True else (mask or ())
    extent = exposure.box.extent
    axes.imshow(
        _painted(exposure, planes, alpha, largest), origin="lower", extent=extent, interpolation="nearest"
    )
    if catalog is not None:
        draw_catalog(axes, catalog)
    axes.set(xlabel="x (pixel)", ylabel="y (pixel)", xlim=extent[:2], ylim=extent[2:])
    if title:
        axes.set_title(title, fontsize=10)
    return axes.figure  # type: ignore[no-any-return]


def _painted(exposure: Exposure, planes: Sequence[str], alpha: float, largest: int) -> NDArray[np.uint8]:
    """Return the pixels as grey with the mask planes in their colours, (ny, nx, 3)."""
    pixels, block = binned(exposure.image, largest)
    step = _step(exposure.image)
    sampled = exposure.mask.array[::step, ::step]
    good = sampled & exposure.mask.planes.bits_present("NO_DATA", "SAT", "BAD") == 0
    low, high = display_range(exposure.image[::step, ::step], good)
    flags = _blocks(exposure.mask.array, block, np.bitwise_or)
    grey = 255 - 255 * np.clip((pixels - low) / (high - low), 0, 1)
    painted = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    for name in planes:
        if name not in exposure.mask.planes:
            continue
        where = flags & exposure.mask.bits(name) != 0
        color = 255 * np.array(to_rgba(MASK_COLORS.get(name, "#ffdd00"))[:3])
        painted[where] = ((1 - alpha) * painted[where] + alpha * color).astype(np.uint8)
    return painted


def draw_catalog(axes: Any, catalog: Catalog, *, scale: float = 3.0) -> None:
    """Draw an ellipse of ``scale`` times the moments around every source; a circle where there are none."""
    x, y = np.asarray(catalog["x"]), np.asarray(catalog["y"])
    names = [f"slot_shape_{part}" for part in ("xx", "yy", "xy")]
    a = b = theta = np.full(len(catalog), np.nan)
    if all(name in catalog for name in names):
        a, b, theta = ellipse_axes(np.stack([np.asarray(catalog[name], float) for name in names], axis=1))
    plain = ~(np.isfinite(a * b) & (b > 0))
    a, b, theta = (np.where(plain, value, column) for value, column in ((2.0, a), (2.0, b), (0.0, theta)))
    colors = np.where(catalog["parent"] != 0, "#00bcd4", "#00a000").astype(object)
    if "slot_psf_flux_flag" in catalog:
        colors[catalog["slot_psf_flux_flag"]] = "#e00000"
    keep = np.isfinite(x) & np.isfinite(y)
    axes.add_collection(
        EllipseCollection(
            2 * scale * a[keep],
            2 * scale * b[keep],
            np.degrees(theta[keep]),
            units="xy",
            offsets=np.stack([x, y], 1)[keep],
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=list(colors[keep]),
            linewidths=0.7,
        )
    )


def draw_whiskers(axes: Any, x: Any, y: Any, e1: Any, e2: Any, extent: Any) -> None:
    """Draw ellipticities as lines along the major axes; a line of 5 % of the field's width is 0.1."""
    length = 0.5 * (extent[1] - extent[0]) * np.hypot(e1, e2)
    angle = 0.5 * np.arctan2(e2, e1)
    dx, dy = length / 2 * np.cos(angle), length / 2 * np.sin(angle)
    segments = np.stack([np.stack([x - dx, y - dy], 1), np.stack([x + dx, y + dy], 1)], 1)
    axes.add_collection(LineCollection(segments, colors="#204a87", linewidths=1))


def png_bytes(figure: Figure, dpi: int = 100) -> bytes:
    """Return a figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path, dpi: int = 100) -> None:
    """Write a figure as PNG; the file appears complete or not at all."""
    atomic_write_bytes(path, png_bytes(figure, dpi))


def table_text(values: Mapping[str, Any]) -> str:
    """Return names and values as aligned lines."""
    width = max((len(name) for name in values), default=0)
    return "\n".join(f"{name:{width}}  {value}" for name, value in values.items())
