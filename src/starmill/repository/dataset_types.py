"""Dataset types: what kinds of products a repository knows, which dimensions they have, how they are stored."""

from __future__ import annotations

import json
from dataclasses import dataclass

from starmill.errors import InputError
from starmill.repository.data_id import DataId, sort_dimensions, validate_name


@dataclass(frozen=True)
class DatasetType:
    """A kind of product.

    Attributes
    ----------
    name : str
        Lower-case word, as ``characterized``.
    dimensions : tuple of str
        Which dimensions a data ID of this type has, in standard order.
    storage : str
        Name of the formatter that reads and writes it (`starmill.repository.formatters`).
    description : str
        One line for people.
    """

    name: str
    dimensions: tuple[str, ...]
    storage: str
    description: str = ""

    def __post_init__(self) -> None:
        validate_name(self.name, what="dataset type", pattern=r"[a-z][a-z0-9_]*")
        validate_name(self.storage, what="storage", pattern=r"[a-z][a-z0-9_]*")
        object.__setattr__(self, "dimensions", sort_dimensions(self.dimensions))
        if not self.dimensions:
            raise InputError(f"dataset type {self.name!r} needs at least one dimension")

    def data_id(self, values: DataId) -> DataId:
        """Return the part of `values` that identifies a data set of this type; all dimensions must be there."""
        missing = [name for name in self.dimensions if name not in values]
        if missing:
            raise InputError(f"a data ID of '{self.name}' needs {', '.join(missing)}; got ({values.key})")
        return values.subset(self.dimensions)

    @property
    def dimensions_json(self) -> str:
        """The dimensions as JSON text, as the registry keeps them."""
        return json.dumps(list(self.dimensions))


_EXPOSURE = ("instrument", "exposure", "detector")
_NIGHT = ("instrument", "night", "detector")  # masters are named by the night of their frames

#: Dataset types of the standard pipelines; a repository registers them when it is made.
STANDARD_TYPES: dict[str, DatasetType] = {
    kind.name: kind
    for kind in (
        DatasetType("raw", _EXPOSURE, "raw", "frame as it left the camera"),
        DatasetType("bias", _NIGHT, "master_frame", "master bias"),
        DatasetType("dark", _NIGHT, "master_frame", "master dark current"),
        DatasetType("flat", (*_NIGHT, "filter"), "master_frame", "master flat field"),
        DatasetType("defects", ("instrument", "detector"), "json", "boxes of bad pixels"),
        DatasetType("post_isr", _EXPOSURE, "exposure", "exposure in electron, instrument signature removed"),
        DatasetType("characterized", _EXPOSURE, "exposure", "exposure with PSF, background removed"),
        DatasetType("background", _EXPOSURE, "fields", "backgrounds that were subtracted"),
        DatasetType("catalog", _EXPOSURE, "catalog", "sources measured on one exposure"),
        DatasetType(
            "sky_template", ("band", "tract", "patch"), "exposure", "image that others are compared with"
        ),
        DatasetType("difference", _EXPOSURE, "exposure", "science minus matched template"),
        DatasetType("difference_score", _EXPOSURE, "exposure", "significance of the difference"),
        DatasetType("difference_catalog", _EXPOSURE, "catalog", "sources of the difference"),
        DatasetType("matching_kernel", _EXPOSURE, "spatial_kernel", "kernel that matched the two images"),
        DatasetType("sky_map", ("map", "channel"), "sky_map", "one map, or one channel of a cube"),
        DatasetType("compact_sources", ("map", "channel"), "catalog", "Gaussian sources of a map"),
    )
}
