"""What a report says about the quality of a PSF model: residuals of its stars and their correlation over the field."""

from __future__ import annotations

import numpy as np

from starmill.psf_modelling.psf_stars import PsfStars
from starmill.psf_modelling.residual_statistics import (
    ResidualStatistics,
    RhoStatistics,
    measure_star_shapes,
    residual_statistics,
    rho_statistics,
)

__all__ = ["psf_residual_section"]

_SEPARATIONS = 5  # bins of the correlation
_NEAREST = 50.0  # pixel


def psf_residual_section(stars: PsfStars, extent: float) -> str:
    """Return the residuals of the stars of a PSF model as HTML.

    Parameters
    ----------
    stars : PsfStars
        The reserved ones are counted when there are any, else those of the model.
    extent : float
        Largest separation of two stars, pixels.

    Returns
    -------
    section : str
        Tables of the mean residuals and of the rho statistics.
    """
    shapes = measure_star_shapes(stars)
    which, kind = (stars.reserved, "reserved") if stars.reserved.any() else (stars.used, "used in the model")
    statistics = residual_statistics(stars, shapes, which)
    edges = np.geomspace(_NEAREST, max(extent, 2 * _NEAREST), _SEPARATIONS + 1)
    rho = rho_statistics(stars.x, stars.y, shapes, which, edges=edges)
    return _residual_table(statistics, kind) + _rho_table(rho)


def _residual_table(statistics: ResidualStatistics, kind: str) -> str:
    rows = "".join(
        f"<tr><th>{name}</th><td>{value:+.5f} ± {error:.5f}</td></tr>"
        for name, value, error in (
            ("size of stars / model − 1", statistics.size, statistics.size_err),
            ("ellipticity e1, stars − model", statistics.e1, statistics.e1_err),
            ("ellipticity e2, stars − model", statistics.e2, statistics.e2_err),
        )
    )
    return f"<p>Mean residuals of {statistics.n_stars} stars ({kind}):</p><table>{rows}</table>"


def _rho_table(rho: RhoStatistics) -> str:
    head = "".join(f"<th>ρ{k}</th>" for k in range(1, 6))
    rows = "".join(
        f"<tr><td>{separation:.0f}</td><td>{count}</td>"
        + "".join(f"<td>{v:+.1e}</td>" for v in values)
        + "</tr>"
        for separation, count, values in zip(rho.separation, rho.n_pairs, rho.rho.T, strict=True)
        if count
    )
    if not rows:
        return "<p>Too few stars for their correlation over the field.</p>"
    return (
        "<p>Correlation of the residuals (Rowe 2010; Jarvis et al. 2016):</p>"
        f"<table><tr><th>separation (pixel)</th><th>pairs</th>{head}</tr>{rows}</table>"
    )
