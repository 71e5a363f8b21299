"""A point-spread function that depends on the colour of the source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import ConstantField, Field, field_from_dict
from starmill.datamodel.psf import PixelBasisPsf
from starmill.errors import InputError

__all__ = ["ColourPsf"]

Float = NDArray[np.float64]


class ColourPsf(PixelBasisPsf):
    """A pixel-basis PSF with one more image, times the colour less a reference colour.

    Used as it is, it is the PSF of a source of the reference colour; :meth:`at_colour` gives that of another one.

    Parameters
    ----------
    basis : (k, m, m) array
    fields : sequence of k Field
        As :class:`~starmill.datamodel.psf.PixelBasisPsf`.
    colour_image : (m, m) array
        Change of the PSF with the colour, sum 0, per magnitude.
    reference_colour : float, magnitude
    colour : float or (n,) array, magnitude, optional
        Of the sources; the reference when not given.
    options
        Keywords of :class:`~starmill.datamodel.psf.PixelBasisPsf`.
    """

    kind = "colour"

    def __init__(
        self,
        basis: NDArray[Any],
        fields: Sequence[Field],
        colour_image: NDArray[Any],
        reference_colour: float,
        *,
        colour: Any = None,
        **options: Any,
    ) -> None:
        self.reference_colour = float(reference_colour)
        offset = np.zeros(()) if colour is None else np.asarray(colour, np.float64) - self.reference_colour
        self._offset: Float = np.where(np.isfinite(offset), offset, 0.0)
        images = np.concatenate([np.asarray(basis), np.asarray(colour_image)[None]])
        super().__init__(images, [*fields, ConstantField(fields[0].box, 0.0)], **options)

    @property
    def colour_image(self) -> Float:
        """Change of the PSF per magnitude of colour, (m, m)."""
        return np.asarray(self.basis[-1])

    def coefficients_at(self, x: Any, y: Any) -> Float:
        """Return the coefficients of the images at positions: (n, k + 1), the last one the colour offset."""
        coefficients = super().coefficients_at(x, y)
        if self._offset.ndim and len(self._offset) != len(coefficients):
            raise InputError(f"{len(self._offset)} colours for {len(coefficients)} positions")
        coefficients[:, -1] = self._offset
        return coefficients

    def at_colour(self, colour: Any) -> ColourPsf:
        """Return the PSF of sources of a colour.

        Parameters
        ----------
        colour : float or (n,) array, magnitude
            An array holds one colour for each of the positions that are asked for afterwards; NaN stands for the
            reference colour.
        """
        return ColourPsf(
            self.basis[:-1], self.fields[:-1], self.basis[-1], self.reference_colour, colour=colour, size=self.size,
            samples_per_pixel=self.samples_per_pixel, average_position=self.average_position, kaiser=self.kaiser,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "kind": self.kind,
            "reference_colour": self.reference_colour,
            "colour_offset": self._offset if self._offset.ndim else float(self._offset),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ColourPsf:
        x, y = data["average_position"]
        fields = [field_from_dict(item) for item in data["fields"]]
        reference = float(data["reference_colour"])
        return cls(
            data["basis"][:-1], fields[:-1], data["basis"][-1], reference,
            colour=reference + np.asarray(data["colour_offset"], np.float64), size=data["size"],
            samples_per_pixel=data["samples_per_pixel"], average_position=(x, y), kaiser=data["kaiser"],
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"ColourPsf(reference colour {self.reference_colour:.3f}, {super().__repr__()})"
