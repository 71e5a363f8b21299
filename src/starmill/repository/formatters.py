"""How each storage format is written and read: one formatter per storage name of the dataset types.

Formatters call the readers and writers of `starmill.io`; those are imported when first used, because a query
of the registry needs none of them. A formatter that can read a component (``wcs``, ``psf``) or a cutout
without the rest of the file says so in `components` and `cutouts`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starmill.errors import InputError


@dataclass(frozen=True)
class Formatter:
    """One storage format.

    Attributes
    ----------
    extension : str
        Of the file name, with the dot.
    write : callable
        ``write(value, path, provenance)``; the provenance (plain values or None) is kept in files that can. The
        file is not synchronised with the disk: who publishes it does that.
    read : callable
        ``read(path, component, box)``; both None for the whole.
    components : tuple of str
        What can be read alone.
    cutouts : bool
        Whether a `Box` can be read alone.
    others : tuple of str
        Further extensions that choose a variant of the format, for loose files.
    """

    extension: str
    write: Callable[[Any, Path, Any], None]
    read: Callable[[Path, str | None, Any], Any]
    components: tuple[str, ...] = field(default=())
    cutouts: bool = False
    others: tuple[str, ...] = field(default=())

    @property
    def extensions(self) -> tuple[str, ...]:
        """All extensions that a file of this format may have."""
        return (self.extension, *self.others)


def formatter(storage: str) -> Formatter:
    """Return the formatter of a storage name or raise `InputError`."""
    if storage not in _FORMATTERS:
        raise InputError(f"unknown storage {storage!r}; known: {', '.join(sorted(_FORMATTERS))}")
    return _FORMATTERS[storage]


def register_formatter(storage: str, new: Formatter) -> None:
    """Make a further storage format known in this process."""
    _FORMATTERS[storage] = new


def read_dataset(
    storage: str,
    path: Path,
    component: str | None = None,
    box: Any = None,
    *,
    data_id: Any = None,
    hdu: int | str | None = None,
) -> Any:
    """Read a file, a component of it, or a cutout.

    Parameters
    ----------
    storage : str
        Storage name.
    path : Path
        The file.
    data_id : mapping, optional
        Raw frames are read with the camera and detector it names.
    component : str, optional
        Name of a part.
    box : Box, optional
        Cutout, pixels of the parent frame.
    hdu : int or str, optional
        Extension of an image that another program wrote.

    Returns
    -------
    value : object
        What the formatter makes of it.
    """
    if storage == "raw" and data_id is not None:
        return _read_raw_frame(path, data_id, component)
    if storage == "exposure" and hdu is not None:
        from starmill.io.exposure_file import read_exposure

        return read_exposure(path, hdu, box=box)
    chosen = formatter(storage)
    if component is not None and component not in chosen.components:
        known = ", ".join(chosen.components) or "none"
        raise InputError(f"storage '{storage}' has no component {component!r} (known: {known})")
    if box is not None and not chosen.cutouts:
        raise InputError(f"storage '{storage}' cannot be read by cutouts")
    return chosen.read(path, component, box)


def _write_json(value: Any, path: Path, _provenance: Any = None) -> None:
    plain = value.to_dict() if hasattr(value, "to_dict") else value
    try:
        text = json.dumps(_plain(plain), sort_keys=True, indent=1, allow_nan=False, default=_to_plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"a {type(value).__name__} cannot be stored as JSON: {error}") from error
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Write numbers that JSON does not have as the words that `_read_json` turns back."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return {"not_finite": repr(value)}
    return value


def _to_plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    raise TypeError(f"{type(value).__name__} is no plain value")


def _read_json(path: Path, _component: str | None, _box: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=_finite_again)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a JSON document: {error}", path=path) from error


def _finite_again(values: dict[str, Any]) -> Any:
    if set(values) == {"not_finite"} and values["not_finite"] in {"nan", "inf", "-inf"}:
        return float(values["not_finite"])
    return values


def _write_text(value: Any, path: Path, _provenance: Any = None) -> None:
    if not isinstance(value, str):
        raise InputError(f"storage 'text' takes a string, not a {type(value).__name__}")
    path.write_text(value, encoding="utf-8")


def _read_text(path: Path, _component: str | None, _box: Any) -> str:
    return path.read_text(encoding="utf-8")


def _write_array(value: Any, path: Path, _provenance: Any = None) -> None:
    import numpy as np

    array = np.asarray(value)
    if array.dtype.hasobject:
        raise InputError(f"an array of {array.dtype} cannot be stored")
    with path.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _read_array(path: Path, _component: str | None, box: Any) -> Any:
    import numpy as np

    try:
        if box is None:
            return np.load(path, allow_pickle=False)
        mapped = np.load(path, allow_pickle=False, mmap_mode="r")
        return np.array(mapped[box.slices()])
    except (ValueError, EOFError) as error:
        raise InputError(f"not an array file: {error}", path=path) from error


def _write_exposure(value: Any, path: Path, provenance: Any = None, *, compress: bool = False) -> None:
    from starmill.io.exposure_file import write_exposure

    write_exposure(value, path, provenance=provenance, compress=compress, durable=False)


def _read_exposure(path: Path, component: str | None, box: Any) -> Any:
    from starmill.io.exposure_file import read_exposure, read_exposure_component

    if component is None:
        return read_exposure(path, box=box)
    if component in {"image", "mask", "variance"}:
        return getattr(read_exposure(path, box=box), component)
    return read_exposure_component(path, component)


def _write_master(value: Any, path: Path, provenance: Any = None) -> None:
    from starmill.io.calibration import write_master

    write_master(value, path, provenance=provenance, durable=False)


def _read_master(path: Path, component: str | None, _box: Any) -> Any:
    from starmill.io.calibration import read_master

    master = read_master(path)
    return master if component is None else getattr(master, component)


def _refuse_raw(_value: Any, _path: Path, _provenance: Any = None) -> None:
    raise InputError("raw frames are ingested, not put")


def _camera(name: str) -> Any:
    """Return a camera; it is read again when its file has changed."""
    from starmill.io.raw import camera_folders

    own = [folder / f"{name}.yaml" for folder in camera_folders()]
    if name.endswith((".yaml", ".yml")):
        own = [Path(name)]
    changed = [path.stat().st_mtime_ns for path in own if path.is_file()]
    return _load_camera(name, tuple(changed))


@functools.lru_cache(maxsize=16)
def _load_camera(name: str, changed: tuple[int, ...]) -> Any:  # noqa: ARG001  tells when to read again
    from starmill.io.raw import load_camera

    return load_camera(name)


def _read_raw_frame(path: Path, data_id: Any, component: str | None) -> Any:
    from starmill.io.raw import read_raw

    camera = _camera(str(data_id["instrument"]))
    detectors = camera.detectors
    several = len(detectors) > 1 and data_id.get("detector") is not None
    name = detectors[int(data_id["detector"])].name if several else None
    frame = read_raw(path, camera, detector=name)
    if component is None:
        return frame
    if component not in {"array", "detector", "info", "wcs", "header", "camera"}:
        raise InputError(f"a raw frame has no component {component!r}")
    return getattr(frame, component)


def _read_raw(path: Path, _component: str | None, _box: Any) -> Any:
    raise InputError("a raw frame is read with the camera of its data ID", path=path)


def _write_catalog(value: Any, path: Path, provenance: Any = None) -> None:
    from starmill.io.tables import write_catalog

    if provenance is not None:
        value = value.with_footprints(value.footprints)
        value.meta = {**value.meta, "provenance": provenance}
    write_catalog(value, path, durable=False)


def _read_catalog(path: Path, component: str | None, _box: Any) -> Any:
    from starmill.io.tables import read_catalog

    catalog = read_catalog(path)
    return catalog if component is None else getattr(catalog, component)


def _write_fields(value: Any, path: Path, _provenance: Any = None) -> None:
    _write_json([item.to_dict() for item in value], path)


def _read_fields(path: Path, component: str | None, box: Any) -> Any:
    from starmill.datamodel.field import field_from_dict

    return [field_from_dict(item) for item in _read_json(path, component, box)]


def _read_kernel(path: Path, component: str | None, box: Any) -> Any:
    from starmill.datamodel.spatial_kernel import SpatialKernel

    return SpatialKernel.from_dict(_read_json(path, component, box))


def _write_map(value: Any, path: Path, _provenance: Any = None) -> None:
    from starmill.io.cubes import write_map

    if value.rms is not None:
        raise InputError("a map with a noise map is ingested as a file, not put")
    write_map(path, value, value.image, value.unit)


def _read_map(path: Path, _component: str | None, _box: Any) -> Any:
    from starmill.io.cubes import read_sky_map

    return read_sky_map(path)


_EXPOSURE_PARTS = (
    "image", "mask", "variance", "wcs", "psf", "info", "box", "photo_scale", "aperture_corrections", "detector",
)  # fmt: skip

_FORMATTERS: dict[str, Formatter] = {
    "json": Formatter(".json", _write_json, _read_json),
    "text": Formatter(".txt", _write_text, _read_text),
    "array": Formatter(".npy", _write_array, _read_array, cutouts=True),
    "exposure": Formatter(".fits", _write_exposure, _read_exposure, _EXPOSURE_PARTS, cutouts=True),
    "compressed_exposure": Formatter(
        ".fits",
        functools.partial(_write_exposure, compress=True),
        _read_exposure,
        _EXPOSURE_PARTS,
        cutouts=True,
    ),
    "master_frame": Formatter(
        ".fits", _write_master, _read_master, ("image", "variance", "mask", "properties")
    ),
    "fields": Formatter(".json", _write_fields, _read_fields),
    "spatial_kernel": Formatter(".json", _write_json, _read_kernel),
    "sky_map": Formatter(".fits", _write_map, _read_map),
    "raw": Formatter(".fits", _refuse_raw, _read_raw),
    "catalog": Formatter(
        ".fits", _write_catalog, _read_catalog, ("schema", "meta"), others=(".ecsv", ".parquet", ".votable")
    ),
}
