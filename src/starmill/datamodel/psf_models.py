"""Analytic point-spread functions whose parameters vary over the field."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import Field, field_from_dict
from starmill.datamodel.psf import Psf
from starmill.errors import InputError

__all__ = ["MoffatPsf"]

Float = NDArray[np.float64]


class MoffatPsf(Psf):
    """A Moffat profile with elliptical isophotes.

    ``I(r) = (1 + r² / a²)^-beta`` with ``r²`` measured in the metric of the second-moment matrix
    (Moffat 1969, A&A 3, 455). Values are sampled at the pixel centres and normalised to sum 1 on the stamp.

    Parameters
    ----------
    fwhm : Field, pixels
        Geometric mean of the full widths at half maximum along the two axes.
    e1, e2 : Field
        Ellipticity ``(a² - b²) / (a² + b²)`` times the cosine and sine of twice the angle
        counter-clockwise from +x.
    beta : Field
        Exponent, larger than 1; infinity makes the profile Gaussian.
    size : int
        Odd side of the stamps.
    """

    kind = "moffat"

    def __init__(
        self,
        fwhm: Field,
        e1: Field,
        e2: Field,
        beta: Field,
        size: int,
        average_position: tuple[float, float] | None = None,
    ) -> None:
        if size < 3 or size % 2 == 0:
            raise InputError(
                f"the size of a PSF stamp must be an odd number of at least 3 pixels, not {size}"
            )
        self.fwhm, self.e1, self.e2, self.beta = fwhm, e1, e2, beta
        self.size = int(size)
        center = fwhm.box.center if average_position is None else average_position
        self.average_position = (float(center[0]), float(center[1]))

    def _images(self, x: Float, y: Float, dx: Float, dy: Float) -> Float:
        fwhm, e1, e2, beta = (
            field(x, y)[:, None, None] for field in (self.fwhm, self.e1, self.e2, self.beta)
        )
        r = np.arange(self.size) - self.size // 2
        u = r[None, None, :] - dx[:, None, None]
        v = r[None, :, None] - dy[:, None, None]
        # Metric of unit determinant, so that the geometric mean of the axes keeps the FWHM.
        norm = np.sqrt(1 - e1**2 - e2**2)
        r2 = ((1 - e1) * u**2 - 2 * e2 * u * v + (1 + e1) * v**2) / norm
        half2 = (fwhm / 2) ** 2
        finite = np.where(np.isinf(beta), 1.0, beta)
        moffat = (1 + r2 * (2 ** (1 / finite) - 1) / half2) ** -finite
        images = np.where(np.isinf(beta), 2 ** -(r2 / half2), moffat) if np.isinf(beta).any() else moffat
        return np.asarray(images / images.sum((1, 2), keepdims=True))

    def kernels_at(self, x: Any, y: Any) -> Float:
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        zero = np.zeros(len(x))
        return self._images(x, y, zero, zero)

    def images_at(self, x: Any, y: Any) -> tuple[Float, NDArray[np.int64], NDArray[np.int64]]:
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
        half = self.size // 2
        return self._images(x, y, x - ix, y - iy), ix - half, iy - half

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "size": self.size,
            "average_position": list(self.average_position),
            **{name: getattr(self, name).to_dict() for name in ("fwhm", "e1", "e2", "beta")},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MoffatPsf:
        x, y = data["average_position"]
        fwhm, e1, e2, beta = (field_from_dict(data[name]) for name in ("fwhm", "e1", "e2", "beta"))
        return cls(fwhm, e1, e2, beta, data["size"], (x, y))

    def __repr__(self) -> str:
        x, y = self.average_position
        return f"MoffatPsf(FWHM {float(self.fwhm(x, y)):.3f} px, beta {float(self.beta(x, y)):.2f}, {self.size} px)"
