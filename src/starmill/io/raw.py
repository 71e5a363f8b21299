"""Cameras by name, and raw frames as they come off the detector."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.camera import Camera, Detector
from starmill.datamodel.raw_frame import RawFrame
from starmill.errors import InputError, nearest_name
from starmill.io.config import load_yaml, read_yaml_text
from starmill.io.fits_blocks import open_blocks
from starmill.io.translators import Translator, find_translator

__all__ = ["camera_folders", "camera_names", "load_camera", "read_raw"]


def camera_folders() -> list[Path]:
    """Return the user's folders with camera files, first come first.

    ``$STARMILL_CAMERAS`` (several folders as in PATH), then ``starmill.cameras`` in the user's configuration
    folder (``$XDG_CONFIG_HOME``, by default ``~/.config``).
    """
    given = [Path(part) for part in os.environ.get("STARMILL_CAMERAS", "").split(os.pathsep) if part]
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [*given, home / "starmill.cameras"]


def camera_names() -> list[str]:
    """Return the names of all cameras that can be loaded by name."""
    packaged = resources.files("starmill.io") / "cameras"
    names = {item.name[:-5] for item in packaged.iterdir() if item.name.endswith(".yaml")}
    for folder in camera_folders():
        if folder.is_dir():
            names |= {path.stem for path in folder.glob("*.yaml")}
    return sorted(names)


def load_camera(camera: str | Path | Camera) -> Camera:
    """Return a camera.

    Parameters
    ----------
    camera : str, path or Camera
        Name of a camera (the user's folders come before the packaged ones) or a path to a camera file.

    Raises
    ------
    InputError
        When there is none of this name, with the nearest one, or its file is wrong.
    """
    if isinstance(camera, Camera):
        return camera
    text = str(camera)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return _camera(load_yaml(text), text)
    for folder in camera_folders():
        if (folder / f"{text}.yaml").is_file():
            return _camera(load_yaml(folder / f"{text}.yaml"), str(folder / f"{text}.yaml"))
    names = camera_names()
    if text not in names:
        near = nearest_name(text, names)
        hint = f"; did you mean {near}?" if near else ""
        raise InputError(f"there is no camera {text!r}{hint} (known: {', '.join(names)})")
    content = (resources.files("starmill.io") / "cameras" / f"{text}.yaml").read_text(encoding="utf-8")
    return _camera(read_yaml_text(content), f"{text}.yaml")


def read_raw(
    path: str | Path, camera: str | Path | Camera = "generic", *, detector: str | None = None
) -> RawFrame:
    """Read a raw frame.

    Parameters
    ----------
    path : path
        FITS, also compressed.
    camera : str, path or Camera
    detector : str, optional
        Needed when the camera has several.

    Returns
    -------
    raw : RawFrame
        Pixels in adu with detector, observation and WCS.

    Raises
    ------
    InputError
        With file, extension and cause: unreadable file, missing extension, wrong shape, missing or impossible
        sections, gain or noise.
    """
    camera = load_camera(camera)
    translator = find_translator(camera)
    with open_blocks(path, foreign=True) as hdus:
        primary = _cards(hdus[0].header)
        template = camera.detector(detector) if camera.detectors else Detector("0", ())
        extensions = _image_extensions(hdus, template)
        header = primary | _cards(hdus[extensions[0]].header)
        arrays = [_pixels(hdus[extension].data, extension) for extension in extensions]
        found = _detector(translator, template, hdus, extensions, arrays, primary)
        array = arrays[0] if len(arrays) == 1 else np.concatenate([_padded(a, arrays) for a in arrays])
        _check_shape(array, found, extensions[0])
        info = translator.observation(header if len(arrays) == 1 else primary, found)
        wcs = translator.wcs(header if len(arrays) == 1 else primary, found)
    return RawFrame(array, found, info, wcs, header, camera, str(path))


def _camera(values: Any, path: str) -> Camera:
    if not isinstance(values, Mapping):
        raise InputError("a camera file holds names and values", path=path)
    try:
        return Camera.from_dict(values)
    except InputError as error:
        raise InputError(error.message, path=path) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"a value of the camera file has the wrong type: {error}", path=path) from error


def _cards(header: Any) -> dict[str, Any]:
    """Return the cards of a header without the long comments; later cards of the same name win."""
    return {key: value for key, value in header.items() if key not in ("", "COMMENT", "HISTORY")}


def _image_extensions(hdus: Any, template: Detector) -> list[int]:
    wanted = [amplifier.extension for amplifier in template.amplifiers if amplifier.extension is not None]
    if not wanted and template.extension is not None:
        wanted = [template.extension]
    if wanted:
        return [_find(hdus, name) for name in wanted]
    images = [k for k, hdu in enumerate(hdus) if hdu.is_image and len(hdu.shape) == 2 and 0 not in hdu.shape]
    if not images:
        raise InputError("the file holds no image with two axes")
    sections = [k for k in images if "DETSEC" in hdus[k].header]
    return sections if len(sections) > 1 else images[:1]


def _find(hdus: Any, name: int | str) -> int:
    try:
        number = int(hdus.index_of(name))
        hdu = hdus[number]
    except (KeyError, IndexError) as error:
        names = ", ".join(f"{k}:{hdu.name or '-'}" for k, hdu in enumerate(hdus))
        raise InputError(f"there is no such extension (the file has {names})", hdu=name) from error
    if not hdu.is_image or len(hdu.shape) != 2 or 0 in hdu.shape:
        raise InputError("the extension holds no image with two axes", hdu=name)
    return number


def _pixels(data: Any, extension: int | str) -> NDArray[Any]:
    """Return pixels as native uint16 where that is exact, else as float32."""
    if data is None:
        raise InputError("the extension holds no data", hdu=extension)
    array = np.asarray(data)
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return np.ascontiguousarray(array, np.uint16)
    if array.dtype.kind == "i" and array.dtype.itemsize <= 4 and array.min() >= 0 and array.max() <= 65535:
        return np.ascontiguousarray(array, np.uint16)
    if array.dtype.kind not in "iuf":
        raise InputError(f"raw pixels must be real numbers, these are {array.dtype}", hdu=extension)
    return np.ascontiguousarray(array, np.float32)


def _padded(array: NDArray[Any], arrays: list[NDArray[Any]]) -> NDArray[Any]:
    width = max(item.shape[1] for item in arrays)
    return array if array.shape[1] == width else np.pad(array, ((0, 0), (0, width - array.shape[1])))


def _detector(
    translator: Translator, template: Detector, hdus: Any, extensions: list[int], arrays: list[NDArray[Any]],
    primary: Mapping[str, Any],
) -> Detector:  # fmt: skip
    if translator.camera.geometry == "fixed":
        return template
    headers: list[Mapping[str, Any]] = [_cards(hdus[extension].header) for extension in extensions]
    shapes = [(int(array.shape[0]), int(array.shape[1])) for array in arrays]
    return translator.detector_from_headers(headers, list(extensions), shapes, template, primary)


def _check_shape(array: NDArray[Any], detector: Detector, extension: int | str) -> None:
    need = detector.raw_shape
    if array.shape[0] < need[0] or array.shape[1] < need[1]:
        raise InputError(
            f"the image has {array.shape[1]} x {array.shape[0]} pixels, detector {detector.name} needs "
            f"{need[1]} x {need[0]} at least",
            hdu=extension,
        )
