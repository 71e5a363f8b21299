"""Nested plain values with arrays, kept in extensions of a FITS file.

The values become one JSON document in an extension of bytes; every array in them becomes an image extension that
the document points to. Nothing is executed on reading.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.errors import InputError

__all__ = ["structure_from_hdus", "structure_to_arrays"]


def structure_to_arrays(values: Any, name: str) -> list[tuple[str, NDArray[Any]]]:
    """Return what the extensions that hold nested values are called and contain.

    Parameters
    ----------
    values : nested dict, list, str, number, None, numpy array
    name : str
        EXTNAME of the document; the arrays are called ``<name>_1``, ``<name>_2``, ...
    """
    arrays: list[NDArray[Any]] = []

    def plain(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            arrays.append(item)
            return {"__array__": len(arrays)}
        if isinstance(item, np.generic):
            return item.item()
        if isinstance(item, dict):
            return {str(key): plain(value) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return [plain(value) for value in item]
        return item

    document = np.frombuffer(json.dumps(plain(values)).encode(), np.uint8)
    return [(name, document), *((f"{name}_{i}", array) for i, array in enumerate(arrays, start=1))]


def structure_from_hdus(hdus: Any, name: str) -> Any:
    """Return the nested values that :func:`structure_to_arrays` described, from the extensions of an open file.

    Raises
    ------
    InputError
        When the document is damaged or an array is missing.
    """
    try:
        document = json.loads(bytes(np.asarray(hdus[name].data)).decode())
    except (ValueError, TypeError) as error:
        raise InputError(f"the document in this extension is damaged: {error}", hdu=name) from error

    return _rich(document, hdus, name)


def _rich(item: Any, hdus: Any, name: str) -> Any:
    """Put arrays back; not a closure, whose cycle would keep the file open until the next collection."""
    if isinstance(item, dict):
        if set(item) == {"__array__"}:
            extension = f"{name}_{int(item['__array__'])}"
            if extension not in hdus:
                raise InputError("an array of the document is missing", hdu=extension)
            data = np.asarray(hdus[extension].data)
            return data.astype(data.dtype.newbyteorder("="))
        return {key: _rich(value, hdus, name) for key, value in item.items()}
    if isinstance(item, list):
        return [_rich(value, hdus, name) for value in item]
    return item
