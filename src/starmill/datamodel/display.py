"""A hook through which pictures reach the data objects.

Data objects cannot draw: the package that draws stands above them. It registers its functions here when
the package is imported, by name, and they are called only when somebody asks for a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starmill.errors import InputError

__all__ = ["html_figure", "register_renderer", "show"]

_RENDERERS: dict[str, Callable[..., Any]] = {}


def register_renderer(name: str, function: Callable[..., Any]) -> None:
    """Tell which function shows a kind of object.

    Parameters
    ----------
    name : str
        ``show``: draws an exposure and returns a figure; ``exposure_html`` and ``psf_html``: return
        an HTML fragment with a small picture.
    function : callable
    """
    _RENDERERS[name] = function


def html_figure(kind: str, item: Any) -> str:
    """Return an HTML picture of an object, or nothing when no renderer is registered."""
    renderer = _RENDERERS.get(f"{kind}_html")
    return "" if renderer is None else str(renderer(item))


def show(item: Any, **options: Any) -> Any:
    """Draw an object with the registered renderer.

    Raises
    ------
    InputError
        When nothing that draws was registered.
    """
    if "show" not in _RENDERERS:
        raise InputError("no renderer is registered: import starmill before drawing")
    return _RENDERERS["show"](item, **options)
