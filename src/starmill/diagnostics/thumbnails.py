"""Small pictures of data objects for notebooks."""

from __future__ import annotations

import base64

import numpy as np
from matplotlib.figure import Figure

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.psf import Psf
from starmill.diagnostics.figures import binned, display_range, png_bytes

__all__ = ["exposure_html", "figure_html", "png_html", "psf_html"]


def figure_html(figure: Figure, dpi: int = 80) -> str:
    """Return a figure as an HTML image that carries its own data."""
    return png_html(png_bytes(figure, dpi))


def png_html(png: bytes) -> str:
    """Return a PNG file as an HTML image that carries its own data."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def exposure_html(exposure: Exposure) -> str:
    """Return a thumbnail of an exposure."""
    pixels, _ = binned(exposure.image, 300)
    low, high = display_range(pixels)
    figure = Figure(figsize=(3, 3 * exposure.shape[0] / exposure.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(pixels, origin="lower", cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
    axes.set_axis_off()
    return figure_html(figure)


def psf_html(psf: Psf) -> str:
    """Return the kernel at the average position on a logarithmic scale."""
    kernel = psf.kernel_at()
    figure = Figure(figsize=(2, 2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.log10(np.maximum(kernel / kernel.max(), 1e-4)), origin="lower", cmap="magma")
    axes.set_axis_off()
    return figure_html(figure)
